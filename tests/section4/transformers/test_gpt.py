"""The whole GPT: its gradients against PyTorch, and training with the course's own loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from section1.losses import SoftmaxCrossEntropy
from section1.training import evaluate, fit
from section2.gradient_check import check_model
from section2.optimizers import AdamW, clip_gradient_norm
from section2.schedules import cosine, warm_up
from section4.transformers.block import TransformerBlock
from section4.transformers.generate import generate
from section4.transformers.gpt import POSITIONS, GPTConfig, NumpyGPT
from section4.transformers.tokenizers import CharacterTokenizer
from section4.transformers.torch_gpt import TorchGPT, to_numpy, to_torch
from section4.transformers.windows import random_windows, windows
from tests.helpers import assert_close, assert_layer_contract, assert_matches_torch, gradients

F64: Any = np.float64
SMALL = GPTConfig(vocabulary=7, context=6, layers=2, heads=2, width=8)
KINDS = [
    dataclasses.replace(SMALL, positions=positions, tied=tied)
    for positions in POSITIONS
    for tied in (True, False)
]
PADDED = dataclasses.replace(SMALL, padding=6)
BOTH_WAYS = [dataclasses.replace(config, causal=False) for config in (SMALL, PADDED)]
DROPPED = dataclasses.replace(SMALL, dropout=0.3)


def name(config: GPTConfig) -> str:
    words = [config.positions, "tied" if config.tied else "untied"]
    words += ["padding"] * (config.padding is not None) + ["both ways"] * (not config.causal)
    return "-".join(words)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gpt(config: GPTConfig = SMALL, dtype: Any = F64) -> NumpyGPT:
    """Larger weights than at the start, for logits and gradients that can be told apart."""
    model, random = NumpyGPT(config, rng=rng(), dtype=dtype), rng(1)
    for parameter in model.parameters():
        parameter.value += 0.3 * random.standard_normal(parameter.value.shape)
    return model


def tokens(*shape: int, seed: int = 2) -> np.ndarray:
    return rng(seed).integers(7, size=shape)


# --- gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*KINDS, PADDED, *BOTH_WAYS], ids=name)
@pytest.mark.parametrize("shape", [(3, 6), (2, 4), (1, 1)])
def test_loss_and_all_gradients_match_torch(config: GPTConfig, shape: tuple[int, int]) -> None:
    model = gpt(config)
    twin = to_torch(model)
    x, y = tokens(*shape), tokens(*shape, seed=3)
    x[:, 0] = y[:, 0] = 0  # no text is padding alone
    loss = SoftmaxCrossEntropy(ignore=config.padding)
    value = loss(model(x), y)
    model.backward(loss.backward())
    logits, targets = twin(torch.tensor(x)), torch.tensor(y)
    ignored = -100 if config.padding is None else config.padding
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignored)
    expected.backward()
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert_close(model(x), logits.detach().numpy(), 1e-10, "logits")
    for parameter in twin.parameters():  # so that their gradients are put in our order and shape
        assert parameter.grad is not None
        parameter.data = parameter.grad
    for ours, theirs in zip(model.parameters(), to_numpy(twin).parameters()):
        assert_close(ours.grad, theirs.value, 1e-10, "gradient")


@pytest.mark.parametrize("config", [*KINDS, PADDED, DROPPED, *BOTH_WAYS], ids=name)
def test_gradients_match_centred_differences(config: GPTConfig) -> None:
    loss = SoftmaxCrossEntropy(ignore=config.padding)
    report = check_model(gpt(config), loss, tokens(2, 5), tokens(2, 5, seed=3), rng=rng(), sample=3)
    assert report.passed, report


def test_a_block_matches_that_of_torch() -> None:
    theirs = nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, lambda x: F.gelu(x, approximate="tanh"), batch_first=True, norm_first=True
    ).double()
    names = ("norm1.weight", "norm1.bias", "self_attn.in_proj_weight", "self_attn.in_proj_bias",
             "self_attn.out_proj.weight", "self_attn.out_proj.bias", "norm2.weight", "norm2.bias",
             "linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")  # fmt: skip
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)

    def reference(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        weights = {n: p.T if p.ndim == 2 else p for n, p in zip(names, parameters)}
        return torch.func.functional_call(theirs, weights, (x, mask), {"is_causal": True})

    layer = TransformerBlock(8, 2, rng=rng(), dtype=F64)
    assert_matches_torch(layer, reference, rng(1).standard_normal((2, 5, 8)))


@pytest.mark.parametrize("config", [*KINDS, PADDED, *BOTH_WAYS], ids=name)
def test_a_gpt_keeps_the_contract_of_a_layer(config: GPTConfig) -> None:
    assert_layer_contract(lambda dtype: gpt(config, dtype), tokens(3, 5))


# --- what it is made of -------------------------------------------------------------------


def test_tied_weights_are_one_parameter_also_in_a_replica() -> None:
    for config, count in ((SMALL, 1), (dataclasses.replace(SMALL, tied=False), 2)):
        for model in (gpt(config), gpt(config).replica()):
            tables = [p for p in model.parameters() if p.value.shape == (7, 8)]
            assert len(tables) == count
            assert (model.head.weight is model.tokens.weight) == (count == 1)  # type: ignore[attr-defined]


def test_initial_weights_are_those_of_gpt_2() -> None:
    config = GPTConfig(vocabulary=65, context=64, layers=8, width=64)
    model, twin = NumpyGPT(config, rng=rng()), TorchGPT(config)
    for each in (model, to_numpy(twin)):
        block = each.blocks[3]
        for weights, std in (
            (each.tokens.weight, 0.02),
            (block.attention.qkv.weight, 0.02),
            (block.attention.out.weight, 0.02 / 4),
            (block.mlp[0].weight, 0.02),  # type: ignore[attr-defined]
            (block.mlp[2].weight, 0.02 / 4),  # type: ignore[attr-defined]
        ):
            assert weights.value.std() == pytest.approx(std, rel=0.06)
        assert not any(p.value.any() for p in block.attention.parameters() if p.value.ndim == 1)
        x, y = rng(1).integers(65, size=(2, 4, 64))
        assert SoftmaxCrossEntropy()(each(x), y) == pytest.approx(np.log(65), rel=0.02)
    same = NumpyGPT(config, rng=rng())
    for a, b in zip(model.parameters(), same.parameters()):
        np.testing.assert_array_equal(a.value, b.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"width": 9}, "a width of 9 cannot be cut into 2 heads"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"vocabulary": 0}, "vocabulary must be at least 1, got 0"),
        ({"positions": "none"}, "unknown positions 'none'; known are learned"),
        ({"positions": "rotary", "width": 6}, "rotary positions need pairs of features, got 3"),
        ({"dropout": 1.0}, "below 1, got 1.0"),
        ({"padding": 7}, "padding must be one of the tokens, got 7"),
    ],
)
def test_config_refuses(changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(SMALL, **changes)


def test_texts_that_do_not_fit() -> None:
    for model in (gpt(), lambda x: to_torch(gpt())(torch.tensor(x))):
        with pytest.raises(ValueError, match=r"1 to 6 tokens \(the context\), got 7"):
            model(tokens(1, 7))
        with pytest.raises(ValueError, match="got 0"):
            model(tokens(1, 0))
    with pytest.raises(ValueError, match="numbers from 0 to 6, got values from 0 to 7"):
        gpt()(np.array([[0, 7]]))
    with pytest.raises(ValueError, match=r"tokens \(N, T\), got shape \(3,\)"):
        gpt()(tokens(3))


# --- training -----------------------------------------------------------------------------


def trained(threads: int = 1, micro_batch: int | None = None, **options: Any) -> list[np.ndarray]:
    model = gpt(dataclasses.replace(PADDED, dropout=options.pop("dropout", 0.0)))
    x, y = tokens(20, 6), tokens(20, 6, seed=3)
    loss = SoftmaxCrossEntropy(ignore=6)
    fit(model, loss, AdamW(model.parameters(), 0.01), (x, y), epochs=options.pop("epochs", 2),
        batch_size=8, rng=rng(), threads=threads, micro_batch=micro_batch, **options)  # fmt: skip
    return [parameter.value for parameter in model.parameters()]


def test_threads_change_nothing() -> None:
    for a, b in zip(trained(1, 2, dropout=0.2), trained(3, 2, dropout=0.2)):
        np.testing.assert_array_equal(a, b)


def test_micro_batches_change_nothing_but_rounding() -> None:
    """Also where some of them have fewer targets than others, as some are ignored."""
    whole = trained()
    for micro_batch in (1, 3):
        for a, b in zip(whole, trained(micro_batch=micro_batch)):
            np.testing.assert_allclose(a, b, atol=1e-9)


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    trained(epochs=1, checkpoints=tmp_path)
    resumed = trained(epochs=2, checkpoints=tmp_path, resume=True)
    for a, b in zip(trained(epochs=2), resumed):
        np.testing.assert_array_equal(a, b)


def test_a_few_steps_equal_those_of_torch() -> None:
    model = gpt()
    twin = to_torch(model)
    optimizer = torch.optim.AdamW(twin.parameters(), 0.01)
    x, y = tokens(4, 6), tokens(4, 6, seed=3)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(twin(torch.tensor(x)).flatten(0, 1), torch.tensor(y).flatten()).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        optimizer.step()
    parameters = model.parameters()
    fit(model, SoftmaxCrossEntropy(), AdamW(parameters, 0.01), (x, y), epochs=3, batch_size=4,
        rng=rng(), on_gradients=lambda: clip_gradient_norm(parameters, 0.1))  # fmt: skip
    for ours, theirs in zip(parameters, to_numpy(twin).parameters()):
        np.testing.assert_allclose(ours.value, theirs.value, atol=1e-9)


def test_a_text_is_learnt_by_heart_and_written_by_torch() -> None:
    text = "the quick brown fox jumps over the lazy dog. " * 3
    tokenizer = CharacterTokenizer(text)
    data = tokenizer.encode(text)
    config = GPTConfig(tokenizer.vocabulary, context=16, layers=2, heads=2, width=32)
    model = NumpyGPT(config, rng=rng())
    parameters, loss = model.parameters(), SoftmaxCrossEntropy()
    history = fit(
        model, loss, AdamW(parameters, 0.01),
        random_windows(data, 16, batch_size=16, batches=60),
        epochs=2, batch_size=16, rng=rng(), schedule=warm_up(cosine(0.01, 110), 10),
        on_gradients=lambda: clip_gradient_norm(parameters, 1.0),
    )  # fmt: skip
    assert history.step_loss[0] == pytest.approx(np.log(tokenizer.vocabulary), rel=0.1)
    assert history.step_loss[-1] < 0.4
    assert model.norm.gamma.value.dtype == np.float32
    value, share = evaluate(model, loss, windows(data, 16))
    assert value < 0.4 and share > 0.85
    prompt = torch.tensor(tokenizer.encode("the quick brown"))[None]
    written = generate(to_torch(model), prompt, 29, top_k=1)
    assert tokenizer.decode(written[0].tolist()) == text[:44]


def test_nothing_is_kept_in_evaluation() -> None:
    model = gpt()
    loss = SoftmaxCrossEntropy()
    loss(model(tokens(2, 6)), tokens(2, 6))
    model.backward(loss.backward())
    model.zero_grad()
    evaluate(model, loss, (tokens(5, 6), tokens(5, 6, seed=3)), threads=2)
    assert all(module._memory is None for module in model.modules())
    assert not any(grad.any() for grad in gradients(model))
