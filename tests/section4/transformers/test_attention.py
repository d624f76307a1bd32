"""Attention and the Transformer block against PyTorch's own, and against leaks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from section1.layer import Layer
from section2.gradient_check import check_layer
from section4.transformers.attention import MultiHeadAttention, softmax_rows
from section4.transformers.block import TransformerBlock
from tests.helpers import assert_layer_contract, assert_matches_torch

F64: Any = np.float64
OPTIONS = [{}, {"causal": False}, {"rotary": True}]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def attention(width: int = 6, heads: int = 3, dtype: Any = F64, **options: Any) -> Any:
    layer = MultiHeadAttention(width, heads, rng=rng(), dtype=dtype, **options)
    for parameter in layer.parameters():  # biases start at 0
        parameter.value += 0.5 * rng(1).standard_normal(parameter.value.shape)
    return layer


def torch_attention(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    w_out: torch.Tensor,
    b_out: torch.Tensor,
    *,
    heads: int,
    causal: bool = True,
    rotary: bool = False,
    hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.multi_head_attention_forward`, or the formula where it cannot turn."""
    n, t, width = x.shape
    if rotary:
        q, k, v = (x @ w + b).view(n, t, 3, heads, -1).permute(2, 0, 3, 1, 4)
        half = torch.arange(width // heads // 2, dtype=x.dtype)
        angles = torch.arange(t)[:, None] / 10_000 ** (half / len(half))
        turn = torch.polar(torch.ones_like(angles), angles)

        def turned(z: torch.Tensor) -> torch.Tensor:
            z = torch.complex(*z.chunk(2, -1)) * turn
            return torch.cat([z.real, z.imag], -1)

        p = turned(q) @ turned(k).mT / (width // heads) ** 0.5
        if causal:
            p = p.masked_fill(torch.ones(t, t).triu(1).bool(), -torch.inf)
        return (p.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width) @ w_out + b_out
    mask = torch.ones(t, t, dtype=torch.bool).triu(1) if causal else None
    y, _ = F.multi_head_attention_forward(
        x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1), width, heads, w.T, b, None, None,
        False, 0.0, w_out.T, b_out, attn_mask=mask, key_padding_mask=hidden, need_weights=False,
    )  # fmt: skip
    return y.transpose(0, 1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("shape", "heads"), [((2, 5, 12), 3), ((1, 1, 4), 2), ((3, 2, 4), 1), ((2, 7, 8), 4)]
)
def test_attention_matches_torch(shape: tuple[int, ...], heads: int, options: dict) -> None:
    layer = attention(shape[-1], heads, **options)
    reference = partial(torch_attention, heads=heads, **options)
    assert_matches_torch(layer, reference, rng(3).standard_normal(shape))


class Masked(Layer):
    """A layer with a mask for its input, which some tokens are not to see."""

    def __init__(self, layer: Any, mask: np.ndarray):
        self.layer, self.mask = layer, mask

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.layer.forward(x, self.mask)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        return self.layer.backward(dy)


MASK = np.array([[True, True, True, False, False], [True, False, True, True, True]])


@pytest.mark.parametrize("causal", [True, False])
def test_attention_with_padding_matches_torch(causal: bool) -> None:
    layer = Masked(attention(causal=causal), MASK)
    reference = partial(torch_attention, heads=3, causal=causal, hidden=torch.tensor(~MASK))
    assert_matches_torch(layer, reference, rng(3).standard_normal((2, 5, 6)))


@pytest.mark.parametrize("options", [*OPTIONS, {"dropout": 0.3}], ids=str)
def test_gradients_match_centred_differences(options: dict) -> None:
    x = rng(3).standard_normal((2, 5, 12))
    block = TransformerBlock(12, 3, rng=rng(), dtype=F64, **options)
    for layer in (attention(12, 3, **options), block, Masked(attention(12, 3, **options), MASK)):
        report = check_layer(layer, x, rng=rng(), sample=30)
        assert report.passed, report


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_attention_and_block_keep_the_contract_of_a_layer(options: dict) -> None:
    x = rng().standard_normal((2, 5, 12))
    assert_layer_contract(lambda dtype: attention(12, 3, dtype, **options), x)
    assert_layer_contract(
        lambda dtype: TransformerBlock(12, 3, rng=rng(), dtype=dtype, **options), x
    )


@pytest.mark.parametrize("kind", [MultiHeadAttention, TransformerBlock])
def test_no_token_sees_a_later_one(kind: Any) -> None:
    layer = kind(6, 3, rng=rng(), dtype=F64)
    x = rng(1).standard_normal((2, 8, 6))
    before = layer(x).copy()
    for t in range(8):
        changed = x.copy()
        changed[:, t] += 100
        after = layer(changed)
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(axis=-1).all(), "each later one sees the change"
        layer(x)
        dy = np.zeros_like(x)
        dy[:, t] = 1
        dx = layer.backward(dy)
        assert not dx[:, t + 1 :].any() and dx[:, : t + 1].all()


@pytest.mark.parametrize("causal", [True, False])
def test_no_token_sees_padding(causal: bool) -> None:
    layer = attention(causal=causal)
    x = rng(3).standard_normal((2, 5, 6))
    before = layer.forward(x, MASK).copy()
    dy = rng(4).standard_normal(x.shape) * MASK[..., None]  # nobody asks what padding says
    assert not layer.backward(dy)[~MASK].any()
    x[~MASK] = 100
    np.testing.assert_array_equal(layer.forward(x, MASK)[MASK], before[MASK])


def test_a_token_that_may_look_nowhere_takes_nothing() -> None:
    layer = attention()
    x = rng(3).standard_normal((1, 3, 6))
    mask = np.array([[False, False, True]])  # padding on the left
    y = layer.forward(x, mask)
    np.testing.assert_allclose(y[0, :2], np.tile(layer.parameters()[-1].value, (2, 1)))
    assert np.isfinite(layer.backward(np.ones_like(x))).all()


def test_softmax_of_rows_takes_large_numbers() -> None:
    s = np.array([[1e4, 0, -np.inf], [-1e4, -1e4, -np.inf], [-np.inf] * 3], np.float32)
    softmax_rows(s)
    np.testing.assert_array_equal(s, np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]], np.float32))


def test_dropout_drops_weights_in_training_alone() -> None:
    layer, x = attention(dropout=0.5), rng().standard_normal((2, 5, 6))
    layer.eval()
    np.testing.assert_array_equal(layer(x), attention()(x))
    layer.train()
    assert (layer(x) != attention()(x)).any()


def test_a_block_adds_to_its_input() -> None:
    """With the last weights of both parts at 0 nothing is added, and gradients pass unchanged."""
    block = TransformerBlock(6, 3, rng=rng(), dtype=F64)
    block.attention.out.weight.value[...] = 0
    block.mlp[2].weight.value[...] = 0  # type: ignore[attr-defined]
    x, dy = rng(1).standard_normal((2, 2, 5, 6))
    np.testing.assert_array_equal(block(x), x)
    np.testing.assert_array_equal(block.backward(dy), dy)


def test_errors() -> None:
    with pytest.raises(ValueError, match="a width of 6 cannot be cut into 4 heads"):
        MultiHeadAttention(6, 4, rng=rng())
    with pytest.raises(ValueError, match="expects 6 features"):
        attention()(np.zeros((2, 5, 4)))
    with pytest.raises(ValueError, match="must be even, got 3"):
        attention(6, 2, rotary=True)(np.zeros((2, 5, 6)))
    with pytest.raises(ValueError, match=r"a mask of shape \(2, 4\).* \(2, 5\)"):
        attention().forward(np.zeros((2, 5, 6)), MASK[:, :4])
