"""Every NumPy layer of the Transformer, and whole GPTs, held against PyTorch in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from section1.layer import Layer
from section1.losses import SoftmaxCrossEntropy
from section2.experiments._account import perturbed
from section2.experiments._checks import F64
from section4.transformers import torch_gpt
from section4.transformers.attention import MultiHeadAttention
from section4.transformers.block import TransformerBlock
from section4.transformers.embedding import (
    STD,
    Embedding,
    LearnedPositions,
    SinusoidalPositions,
    Unembedding,
)
from section4.transformers.gpt import GPTConfig, NumpyGPT

# The parameters of PyTorch's modules in the order in which ours have them.
MULTIHEAD = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
OURS = ("qkv.weight", "qkv.bias", "out.weight", "out.bias")
ENCODER = (
    "norm1.weight", "norm1.bias", *(f"self_attn.{name}" for name in MULTIHEAD), "norm2.weight",
    "norm2.bias", "linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias",
)  # fmt: skip
GPTS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "sinusoidal, untied": {"positions": "sinusoidal", "tied": False},
    "rotary": {"positions": "rotary"},
    "padding": {"padding": 0},
}


class Case(NamedTuple):
    """A layer, its input, and PyTorch's function (x, *parameters in our order and shape) -> y."""

    name: str
    twin: str  # what of PyTorch computes the same
    layer: Layer
    x: np.ndarray
    reference: Callable[..., Tensor]


def compare(rng: np.random.Generator) -> Iterator[list[Any]]:
    """A row for every NumPy layer of the Transformer, with random weights, and for whole GPTs."""
    n, t, width, heads, vocabulary = 3, 7, 12, 3, 11
    x, tokens = rng.standard_normal((n, t, width)), rng.integers(vocabulary, size=(n, t))
    tokens[:, 0] = 1  # no text is padding alone
    config = GPTConfig(vocabulary, t, layers=2, heads=heads, width=width)
    for case in cases(config, x, tokens, rng):
        yield [case.name, case.twin, *differences(case, rng)]
    for name, options in GPTS.items():
        model = perturbed(NumpyGPT(replace(config, **options), rng=rng, dtype=F64), rng)
        targets = rng.integers(1, vocabulary, size=(n, t))
        yield [f"loss of a GPT, {name}", "TorchGPT", *differences_of_loss(model, tokens, targets)]


def cases(
    config: GPTConfig, x: np.ndarray, tokens: np.ndarray, rng: np.random.Generator
) -> Iterator[Case]:
    t, width, heads = config.context, config.width, config.heads
    options: dict[str, Any] = {"rng": rng, "dtype": F64}
    later = nn.Transformer.generate_square_subsequent_mask(t, dtype=torch.float64)
    twin = torch_gpt.TorchGPT(config).double()
    angles = twin.angles(0, t, width)
    waves = STD * math.sqrt(2) * torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    angles = twin.angles(0, t, width // heads)
    turns = angles.cos(), angles.sin()

    table = Embedding(config.vocabulary, width, **options)
    yield Case("Embedding", "functional.embedding", table, tokens, F.embedding)
    yield Case("Unembedding", "functional.linear", Unembedding(table.weight), x, F.linear)
    learned = LearnedPositions(t, width, **options)
    yield Case("LearnedPositions", "a sum", learned, x, lambda x, p: x + p)
    sinusoidal = SinusoidalPositions(t, width, dtype=F64)
    yield Case("SinusoidalPositions", "a sum", sinusoidal, x, lambda x: x + waves)

    multihead = nn.MultiheadAttention(width, heads, batch_first=True).double()
    for name, causal in (("causal", True), ("not causal", False)):
        layer = MultiHeadAttention(width, heads, causal=causal, **options)
        mask = later if causal else None
        reference = with_weights(multihead, MULTIHEAD, None, False, mask, times=3)
        yield Case(f"MultiHeadAttention, {name}", "MultiheadAttention", layer, x, reference)
    layer = MultiHeadAttention(width, heads, rotary=True, **options)
    reference = with_weights(torch_gpt.Attention(config).double(), OURS, None, turns, None)
    name = "scaled_dot_product_attention"
    yield Case("MultiHeadAttention, rotary", name, layer, x, reference)
    encoder = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, lambda x: F.gelu(x, approximate="tanh"), batch_first=True,
        norm_first=True,
    ).double()  # fmt: skip
    reference = with_weights(encoder, ENCODER, later)
    block = TransformerBlock(width, heads, **options)
    yield Case("TransformerBlock", "TransformerEncoderLayer", block, x, reference)


def with_weights(
    module: nn.Module, names: Sequence[str], *rest: Any, times: int = 1
) -> Callable[..., Tensor]:
    """The module as a function (x, *weights): matrices are (in, out), as in NumPy.

    It is called with x, `times` times, and then the rest.
    """

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        state = {name: w.T if w.ndim == 2 else w for name, w in zip(names, weights)}
        y = torch.func.functional_call(module, state, (*(x,) * times, *rest))
        return y[0] if isinstance(y, tuple) else y

    return function


def differences(case: Case, rng: np.random.Generator) -> tuple[float, float]:
    """The largest difference of values, and of the gradients dx and dw of sum(y dy)."""
    layer = perturbed(case.layer, rng)
    arrays = [case.x, *(parameter.value for parameter in layer.parameters())]
    tensors = [torch.tensor(array, requires_grad=array.dtype.kind == "f") for array in arrays]
    y, expected = layer(case.x), case.reference(*tensors)
    dy = rng.standard_normal(y.shape)
    layer.zero_grad()
    slopes = [layer.backward(dy), *(parameter.grad for parameter in layer.parameters())]
    ours = [slope for slope in slopes if slope is not None]
    learnt = [tensor for tensor in tensors if tensor.requires_grad]
    theirs = torch.autograd.grad(expected, learnt, torch.tensor(dy))
    apart = max(largest(a, b.numpy()) for a, b in zip(ours, theirs, strict=True))
    return largest(y, expected.detach().numpy()), apart


def differences_of_loss(model: NumpyGPT, x: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """The largest difference of the logits and the loss, and of its gradient in every weight."""
    twin, padding = torch_gpt.to_torch(model), model.config.padding
    loss = SoftmaxCrossEntropy(ignore=padding)
    logits = model(x)
    value = loss(logits, targets)
    model.zero_grad()
    model.backward(loss.backward())
    theirs = twin(torch.from_numpy(x))
    ignored = -100 if padding is None else padding
    expected = F.cross_entropy(
        theirs.flatten(0, 1), torch.from_numpy(targets).flatten(), ignore_index=ignored
    )
    expected.backward()
    for tensor in twin.parameters():  # to be brought into our order and shapes
        assert tensor.grad is not None
        tensor.data = tensor.grad
    pairs = zip(model.parameters(), torch_gpt.to_numpy(twin).parameters())
    apart = max(abs(value - expected.item()), largest(logits, theirs.detach().numpy()))
    return apart, max(largest(ours.grad, gradient.value) for ours, gradient in pairs)


def largest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference."""
    return float(np.abs(a - b).max())
