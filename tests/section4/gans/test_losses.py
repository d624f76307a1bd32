"""The four games by hand and against PyTorch's losses; the gradient penalty by `gradcheck`."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from section4.gans import losses
from section4.gans.losses import Game, gradient_penalty

GAMES: dict[str, Callable[[], Game]] = {
    "non-saturating": losses.non_saturating,
    "least squares": losses.least_squares,
    "WGAN-GP": losses.wasserstein,
    "hinge": losses.hinge,
}
REAL = torch.tensor([2.0, -0.5, 0.3], dtype=torch.float64)
FAKE = torch.tensor([-3.0, 0.25, 1.5], dtype=torch.float64)


def numbers(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_non_saturating_is_cross_entropy() -> None:
    game = losses.non_saturating()
    ones, zeros = torch.ones(3).double(), torch.zeros(3).double()
    entropy = F.binary_cross_entropy_with_logits
    expected = entropy(REAL, ones) + entropy(FAKE, zeros)
    torch.testing.assert_close(game.discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(game.generator(FAKE), entropy(FAKE, ones))
    blind = torch.zeros(5)
    assert float(game.discriminator(blind, blind)) == pytest.approx(2 * math.log(2))


def test_the_generator_learns_where_the_discriminator_is_sure() -> None:
    sure = torch.tensor([-30.0], requires_grad=True)
    losses.non_saturating().generator(sure).backward()
    assert sure.grad is not None and float(sure.grad) == pytest.approx(-1)


def test_the_others_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])
    expected = {
        "least squares": ((1 + 1) / 2 / 2 + (4 + 1) / 2 / 2, (9 + 0) / 2 / 2),
        "WGAN-GP": (-0.5 - 1, 0.5),
        "hinge": ((0 + 1) / 2 + (0 + 2) / 2, 0.5),
    }
    for name, (d, g) in expected.items():
        game = GAMES[name]()
        assert float(game.discriminator(real, fake)) == pytest.approx(d), name
        assert float(game.generator(fake)) == pytest.approx(g), name
    assert [name for name in GAMES if GAMES[name]().penalty] == ["WGAN-GP"]
    assert losses.wasserstein(0.1).penalty == 0.1


@pytest.mark.parametrize("name", GAMES)
def test_both_sides_pull_the_scores_apart(name: str) -> None:
    game: Game = GAMES[name]()
    real, fake = (torch.zeros(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    game.discriminator(real, fake).backward()
    assert real.grad is not None and fake.grad is not None
    assert (real.grad < 0).all() and (fake.grad >= 0).all()
    fake.grad = None
    game.generator(fake).backward()
    assert fake.grad is not None and (fake.grad < 0).all()
    for inputs in ((REAL, FAKE), (FAKE, REAL)):
        leaves = [scores.clone().requires_grad_() for scores in inputs]
        assert torch.autograd.gradcheck(game.discriminator, leaves)
        assert torch.autograd.gradcheck(game.generator, leaves[:1])


# --- the gradient penalty -------------------------------------------------------------------


def test_of_a_plane_it_is_that_of_its_slope() -> None:
    w = numbers((4,), 0)
    real, fake, share = numbers((3, 4), 1), numbers((3, 4), 2), torch.tensor([0.0, 0.3, 1.0])
    penalty = gradient_penalty(lambda x: x @ w, real, fake, share.double())
    torch.testing.assert_close(penalty, (w.norm() - 1).square())
    unit = w / w.norm()
    assert float(gradient_penalty(lambda x: x @ unit, real, fake, share.double())) < 1e-30


def test_it_looks_at_points_between_real_and_fake() -> None:
    real, fake = torch.tensor([[3.0], [3.0]]), torch.tensor([[1.0], [1.0]])
    share = torch.tensor([1.0, 0.5])
    penalty = gradient_penalty(lambda x: x.square().sum(1) / 2, real, fake, share)
    assert penalty.item() == pytest.approx(((3 - 1) ** 2 + (2 - 1) ** 2) / 2)  # the slope is x


def test_each_row_has_its_own_slope() -> None:
    """Not the length of the slopes of all rows as one vector."""
    w, x = torch.tensor([0.6, 0.8]), torch.zeros(100, 2)
    assert float(gradient_penalty(lambda x: x @ w, x, x, torch.rand(100))) < 1e-12


@pytest.mark.parametrize("shape", [(3,), (2, 3, 2)], ids=str)
def test_its_own_gradient(shape: tuple[int, ...]) -> None:
    real, fake, share = numbers((4, *shape), 1), numbers((4, *shape), 2), numbers((4,), 3).sigmoid()
    w1 = numbers((real[0].numel(), 5), 4).requires_grad_()
    w2 = numbers((5,), 5).requires_grad_()

    def penalty(w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        return gradient_penalty(lambda x: torch.tanh(x.flatten(1) @ w1) @ w2, real, fake, share)

    assert torch.autograd.gradcheck(penalty, (w1, w2))
    assert torch.autograd.gradgradcheck(penalty, (w1, w2))


def test_it_reaches_the_weights_and_not_the_generator() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    fake = torch.randn(5, 3, requires_grad=True)
    gradient_penalty(network, torch.randn(5, 3), fake, torch.rand(5)).backward()
    assert all(network[k].weight.grad.any() for k in (0, 2))  # type: ignore[union-attr, operator]
    assert fake.grad is None


def test_a_flat_discriminator_gives_no_nan() -> None:
    network = nn.Linear(3, 1)
    nn.init.zeros_(network.weight)
    penalty = gradient_penalty(network, torch.ones(2, 3), torch.zeros(2, 3), torch.rand(2))
    penalty.backward()
    assert float(penalty.detach()) == 1
    assert network.weight.grad is not None and torch.isfinite(network.weight.grad).all()
