"""Spectral normalisation: singular values, and PyTorch's own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from section4.gans.spectral_norm import SpectralNorm, power_iteration, spectrally_normalised


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)))


def guess(columns: int) -> torch.Tensor:
    return matrix(columns, 1, seed=9)[:, 0]


@pytest.mark.parametrize("shape", [(8, 8), (20, 5), (5, 20), (1, 7), (7, 1)], ids=str)
def test_power_iteration_finds_the_largest_singular_value(shape: tuple[int, int]) -> None:
    w = matrix(*shape)
    u, v = power_iteration(w, guess(shape[1]), 60)
    left, values, right = np.linalg.svd(w.numpy())
    assert float(u @ w @ v) == pytest.approx(values[0], rel=1e-3)
    assert abs(float(u @ torch.from_numpy(left[:, 0].copy()))) == pytest.approx(1, abs=1e-3)
    assert abs(float(v @ torch.from_numpy(right[0].copy()))) == pytest.approx(1, abs=1e-3)


def test_a_few_turns_are_enough_where_one_value_stands_out() -> None:
    left, _ = torch.linalg.qr(matrix(30, 6))
    right, _ = torch.linalg.qr(matrix(40, 6, seed=1))
    values = torch.tensor([4.0, 2, 2, 1, 1, 0.1]).double()
    w = left * values @ right.T
    errors = []
    for turns in (1, 3, 5):
        u, v = power_iteration(w, guess(40), turns)
        errors.append(abs(float(u @ w @ v) / 4 - 1))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def stretch(w: Any) -> float:
    """The largest singular value."""
    return torch.linalg.matrix_norm(w.detach(), 2).item()


def layers() -> list[Any]:
    torch.manual_seed(0)
    made = [nn.Linear(6, 4), nn.Conv2d(3, 4, (3, 2)), nn.Embedding(5, 3)]
    return [layer.double() for layer in made]


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_it_is_pytorchs(layer: Any) -> None:
    """From the same u and v: the same weights and gradients, step after step."""
    twin: Any = parametrizations.spectral_norm(copy.deepcopy(layer))
    ours: Any = spectrally_normalised(copy.deepcopy(layer))
    norm = ours.parametrizations.weight[0]
    theirs = twin.parametrizations.weight[0]
    norm.u, norm.v = theirs._u.clone(), theirs._v.clone()
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in (ours, twin)]
    factor = torch.randn(layer.weight.shape, dtype=torch.float64)
    for _ in range(3):
        for network, optimizer in zip((ours, twin), optimizers):
            optimizer.zero_grad()
            (network.weight * factor).sum().backward()
            optimizer.step()
        for mine, its in zip(ours.parameters(), twin.parameters()):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-10, atol=1e-10)
    for network in (ours, twin):
        network.eval()
    torch.testing.assert_close(ours.weight, twin.weight, rtol=1e-12, atol=1e-12)


def test_no_layer_stretches_after_a_few_uses() -> None:
    network: Any = spectrally_normalised(nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)))
    x = torch.randn(2, 9)
    for _ in range(30):
        network(x)
    for layer in (network[0], network[2]):
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(
            1, rel=1e-3
        )
    inputs = torch.randn(2, 500, 9)
    first, second = network(inputs[0]), network(inputs[1])
    moved = (first - second).norm(dim=1) / (inputs[0] - inputs[1]).norm(dim=1)
    assert float(moved.detach().max()) <= 1.001


def test_evaluation_changes_nothing_and_training_follows_the_weights() -> None:
    layer: Any = spectrally_normalised(nn.Linear(5, 5)).eval()
    norm = layer.parametrizations.weight[0]
    before = norm.v.clone()
    layer(torch.ones(1, 5))
    assert torch.equal(norm.v, before)
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.randn(5, 5))
    layer.train()
    layer(torch.ones(1, 5))
    assert not torch.equal(norm.v, before)


def test_two_forward_passes_before_one_backward() -> None:
    network = spectrally_normalised(nn.Linear(4, 1))
    (network(torch.ones(2, 4)) + network(torch.zeros(2, 4))).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_what_was_learned_can_be_saved_and_copied() -> None:
    network = spectrally_normalised(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1))
    )
    network(torch.randn(3, 1, 4, 4))
    other = spectrally_normalised(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1)))
    other.load_state_dict(network.state_dict())
    x = torch.randn(3, 1, 4, 4)
    for twin in (other, copy.deepcopy(network)):
        assert torch.equal(twin.eval()(x), network.eval()(x))


def test_it_works_where_pytorch_has_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch 2.4 on MPS: there even `enabled=False` is refused."""
    for module in (torch.amp, torch.amp.autocast_mode):
        monkeypatch.setattr(module, "is_autocast_available", lambda _: False)
    with pytest.raises(RuntimeError):
        torch.autocast("cpu", enabled=False)
    assert stretch(SpectralNorm(matrix(6, 4))(matrix(6, 4))) == pytest.approx(1, rel=0.05)


def test_the_first_estimate_is_close() -> None:
    w = torch.randn(64, 32)
    norm = SpectralNorm(w).eval()
    assert stretch(norm(w)) == pytest.approx(1, rel=0.05)
