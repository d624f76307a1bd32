"""The GPT in PyTorch: weights go there and back, and the engine trains it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from section4.engine import Setting, cross_entropy
from section4.training import evaluate, fit
from section4.transformers.gpt import POSITIONS, GPTConfig, NumpyGPT
from section4.transformers.torch_gpt import Cache, TorchGPT, to_numpy, to_torch
from tests.section4.no_float64 import NoFloat64

CONFIG = GPTConfig(vocabulary=7, context=6, layers=2, heads=2, width=8)
X = torch.arange(24).reshape(4, 6) % 7


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_go_there_and_back(positions: str, causal: bool, tied: bool, dtype: Any) -> None:
    config = dataclasses.replace(CONFIG, positions=positions, causal=causal, tied=tied)
    model = NumpyGPT(config, rng=np.random.default_rng(0), dtype=dtype)
    for parameter in model.parameters():
        parameter.value += np.random.default_rng(1).standard_normal(parameter.value.shape)
    twin = to_torch(model)
    back = to_numpy(twin)
    count = sum(parameter.value.size for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in twin.parameters()) == count
    for a, b in zip(model.parameters(), back.parameters()):
        assert a.value.dtype == b.value.dtype == dtype
        np.testing.assert_array_equal(a.value, b.value)
        assert not np.shares_memory(a.value, b.value)
    before = model(X.numpy()).copy()
    with torch.no_grad():
        torch.testing.assert_close(twin(X), torch.tensor(before), atol=1e-4, rtol=1e-4)
        for tensor in twin.parameters():
            tensor.zero_()
    np.testing.assert_array_equal(model(X.numpy()), before)
    np.testing.assert_array_equal(back(X.numpy()), before)


def test_weights_come_from_a_device_without_float64() -> None:
    model = TorchGPT(CONFIG)
    expected = to_numpy(model)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.detach().as_subclass(NoFloat64)))
    for a, b in zip(to_numpy(model).parameters(), expected.parameters(), strict=True):
        np.testing.assert_array_equal(a.value, b.value)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_trains_it(positions: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = TorchGPT(dataclasses.replace(CONFIG, positions=positions, dropout=0.1))
    y = (X + 1) % 7  # the next of a row of numbers
    setting = Setting(torch.device("cpu"), dtype)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    history = fit(model, cross_entropy(), optimizer, lambda epoch: [(X, y)] * 50, epochs=1, seed=0,
                  setting=setting, clip=1.0)  # fmt: skip
    assert history.step_loss[0] == pytest.approx(np.log(7), rel=0.1)
    loss, score = evaluate(model, cross_entropy(), lambda epoch: [(X, y)], setting)
    assert loss < 0.5 and score > 0.95


def test_no_token_sees_a_later_one() -> None:
    torch.manual_seed(0)
    model = TorchGPT(dataclasses.replace(CONFIG, padding=0)).eval()
    changed = X.clone()
    changed[:, 4:] = (X[:, 4:] + 1) % 7
    assert torch.equal(model(X)[:, :4], model(changed)[:, :4])
    assert not torch.equal(model(X)[:, 4:], model(changed)[:, 4:])


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("positions", POSITIONS)
def test_read_both_ways_every_token_sees_all_but_padding(
    padding: int | None, positions: str
) -> None:
    torch.manual_seed(0)
    changes = {"padding": padding, "positions": positions, "causal": False}
    model = TorchGPT(dataclasses.replace(CONFIG, **changes)).double()  # type: ignore[arg-type]
    for place in range(6):
        changed = torch.where(torch.arange(6) == place, 3, X[:1])
        differs = (model(X[:1]) != model(changed)).any(-1)[0]
        assert differs.all() == (X[0, place] != 3)
    if padding is not None:
        filled = torch.cat([X[1:2, :4], torch.zeros(1, 2, dtype=torch.long)], dim=1)
        torch.testing.assert_close(model(filled)[:, :4], model(X[1:2, :4]))
    with pytest.raises(ValueError, match="a cache needs a causal model"):
        model(X, Cache())
