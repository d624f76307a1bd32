"""The adversarial loop: steps by hand, all games, resuming, averages, divergence, processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from section4 import distributed
from section4.engine import PRECISIONS, Setting, gradient_norm
from section4.gans.adversarial import fit, sample
from section4.gans.losses import Game, gradient_penalty
from section4.gans.mixtures import ring
from section4.gans.models import mlp_discriminator, mlp_generator
from section4.gans.numpy_gan import History
from section4.gans.spectral_norm import spectrally_normalised
from section4.images import device_seed
from section4.training import averaged
from tests.section4.gans.test_losses import GAMES

CPU = torch.device("cpu")
ROWS, SEED = 32, 3
RING = ring()


def batches(epoch: int, count: int = 4) -> Iterator[tuple[torch.Tensor, ...]]:
    source = np.random.default_rng([SEED, epoch])
    for _ in range(count):
        yield tuple(torch.from_numpy(part) for part in RING.sample(ROWS, source))


def points(epoch: int) -> Iterator[tuple[torch.Tensor, ...]]:
    for x, _ in batches(epoch):
        yield (x,)


class Run:
    """Two networks and all that their training needs, the same every time."""

    def __init__(
        self, game: Game | None = None, lr: float = 1e-2, classes: int = 0, spectral: bool = False
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.generator = mlp_generator(
                3, (2,), (8,), classes=classes, batchnorm=True, bounded=False
            )
            self.discriminator = mlp_discriminator((2,), (8,), classes=classes)
            if spectral:
                spectrally_normalised(self.discriminator)
        self.game = game or GAMES["non-saturating"]()
        self.optimizers = tuple(
            torch.optim.Adam(network.parameters(), lr, (0.5, 0.9)) for network in self.networks
        )
        self.average = averaged(self.generator, 0.9)

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        return self.generator, self.discriminator

    def fit(self, epochs: int = 2, data: Any = points, **options: Any) -> History:
        given: Any = {"epochs": epochs, "seed": SEED, "average": self.average} | options
        optimizers: Any = self.optimizers
        return fit(self.generator, self.discriminator, self.game, optimizers, data, **given)

    def state(self) -> list[torch.Tensor]:
        parts = (*self.networks, self.average)
        return [tensor.clone() for part in parts for tensor in part.state_dict().values()]


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for mine, its in zip(first, second, strict=True):
        assert torch.equal(mine, its)


def without_time(history: History) -> dict:
    return {name: series for name, series in vars(history).items() if name != "seconds"}


def test_the_learning_rates_follow_the_schedule(tmp_path: Path) -> None:
    """Both, by the number of batches, also where training goes on from a checkpoint."""
    run = Run()
    run.optimizers[0].param_groups[0]["scale"] = 3.0
    asked = list[int]()

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.1 / (1 + step)

    run.fit(1, schedule=schedule, discriminator_steps=2, checkpoints=tmp_path)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in run.optimizers]
    assert rates == pytest.approx([0.3 / 4, 0.1 / 4])
    Run().fit(2, schedule=schedule, discriminator_steps=2, checkpoints=tmp_path, resume=True)
    assert asked == list(range(8))


# --- what a step is -------------------------------------------------------------------------


@pytest.mark.parametrize("name", GAMES)
def test_steps_by_hand(name: str) -> None:
    """Two batches, two discriminator steps to one of the generator, written out."""
    ours, twin = Run(GAMES[name]()), Run(GAMES[name]())
    history = ours.fit(1, lambda epoch: list(points(epoch))[:2], discriminator_steps=2)

    g, d, game = twin.generator, twin.discriminator, twin.game
    d_losses, norms = [], []
    with torch.random.fork_rng():
        torch.manual_seed(device_seed(SEED, 0, 0))
        for (x,) in list(points(0))[:2]:
            with torch.no_grad():
                fake = g(torch.randn(ROWS, 3))
            loss = game.discriminator(d(x), d(fake))
            if game.penalty:
                loss = loss + game.penalty * gradient_penalty(d, x, fake, torch.rand(ROWS))
            twin.optimizers[1].zero_grad()
            loss.backward()
            norms.append(gradient_norm(d.parameters()).item())
            twin.optimizers[1].step()
            d_losses.append(loss.item())
        loss = game.generator(d(g(torch.randn(ROWS, 3))))
        twin.optimizers[0].zero_grad()
        loss.backward()
        twin.optimizers[0].step()
        twin.average.update_parameters(g)
    assert history.discriminator_loss == pytest.approx(d_losses, rel=1e-6)
    assert history.gradient_norm == pytest.approx(norms, rel=1e-6)
    assert history.generator_loss == pytest.approx([loss.item()], rel=1e-6)
    for mine, its in zip(ours.state(), twin.state()):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_generator_waits_for_so_many_steps(steps: int) -> None:
    history = Run().fit(2, discriminator_steps=steps)
    assert len(history.discriminator_loss) == len(history.gradient_norm) == 8
    assert len(history.generator_loss) == 2 * (4 // steps)


def test_the_classes_of_a_batch_are_those_of_its_samples() -> None:
    run, seen = Run(classes=8), []
    run.generator.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    run.fit(1, batches)
    expected = [y for _, y in batches(0)]
    assert len(seen) == 8
    for number, y in enumerate(seen):
        assert torch.equal(y, expected[number // 2])


def test_weights_can_learn_again_afterwards() -> None:
    run = Run(spectral=True)
    run.fit(1)
    assert all(p.requires_grad for network in run.networks for p in network.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(precision: str) -> None:
    """Also where a slope is differentiated; the weights stay float32."""
    run = Run(GAMES["WGAN-GP"](), classes=8, spectral=False)
    history = run.fit(1, batches, setting=Setting(CPU, PRECISIONS[precision]))
    assert np.isfinite(history.discriminator_loss).all()
    assert all(p.dtype == torch.float32 for n in run.networks for p in n.parameters())
    images = sample(
        run.generator, torch.randn(7, 3), torch.arange(7),
        setting=Setting(CPU, PRECISIONS[precision]), batch_size=3,
    )  # fmt: skip
    assert images.shape == (7, 2) and images.dtype == torch.float32


FLOAT16 = Setting(CPU, torch.float16)


@pytest.fixture
def overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are multiplied by what float16 has no room for: the first steps are left out."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(Setting, "scaler", lambda _: scaler("cpu", init_scale=2.0**24))


@pytest.mark.usefixtures("overflows")
def test_a_step_that_overflows_in_float16_is_left_out() -> None:
    run = Run()
    before = [p.detach().clone() for network in run.networks for p in network.parameters()]
    first = run.fit(1, lambda epoch: list(points(epoch))[:1], setting=FLOAT16)
    assert first.gradient_norm == [0.0] and first.discriminator_loss[0] > 0
    assert_same([p for network in run.networks for p in network.parameters()], before)
    norms = run.fit(5, setting=FLOAT16).gradient_norm
    left_out = norms.count(0.0)
    assert norms[:left_out] == [0.0] * left_out and 0 < left_out < 16


def test_an_overflow_of_another_process_is_seen_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def averaged_with_another(parameters: Iterator[nn.Parameter]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.fill_(float("inf"))

    monkeypatch.setattr(distributed, "average_gradients", averaged_with_another)
    run = Run()
    before = [p.detach().clone() for network in run.networks for p in network.parameters()]
    assert run.fit(1, setting=FLOAT16).gradient_norm == [0.0] * 4
    assert_same([p for network in run.networks for p in network.parameters()], before)


# --- a whole training -----------------------------------------------------------------------


def test_the_caller_keeps_its_random_numbers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Run().fit(1)
    assert torch.equal(torch.rand(3), expected)


def test_the_average_is_measured_in_evaluation_mode() -> None:
    run, modes = Run(), []

    def measure(generator: nn.Module) -> dict[str, float]:
        modes.append((generator is run.average.module, generator.training))
        return {"mean": generator(torch.zeros(1, 3)).mean().item()}

    history = run.fit(3, measure=measure)
    assert modes == [(True, False)] * 3
    assert len(history.measured) == len(history.seconds) == 3
    assert history.measured[0] != history.measured[2]
    plain = Run()
    plain.fit(1, average=None, measure=lambda g: {"is it": float(g is plain.generator)})


@pytest.mark.parametrize(
    ("name", "spectral"), [("non-saturating", True), ("WGAN-GP", False)]
)  # fmt: skip
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, name: str, spectral: bool) -> None:
    def make() -> Run:
        return Run(GAMES[name](), classes=8, spectral=spectral)

    options: Any = {
        "data": batches,
        "measure": lambda g: {"first": next(g.parameters())[0, 0].item()},
        "discriminator_steps": 2,
    }
    whole, again = make(), make()
    expected = whole.fit(4, **options)
    make().fit(2, **options, checkpoints=tmp_path)
    history = again.fit(4, **options, checkpoints=tmp_path, resume=True)
    assert without_time(history) == without_time(expected)
    assert_same(again.state(), whole.state())
    assert history.seconds == sorted(history.seconds) and len(history.seconds) == 4


@pytest.mark.usefixtures("overflows")
def test_a_resumed_run_knows_what_float16_has_room_for(tmp_path: Path) -> None:
    whole, again = Run(), Run()
    expected = whole.fit(4, setting=FLOAT16)
    Run().fit(2, setting=FLOAT16, checkpoints=tmp_path)
    history = again.fit(4, setting=FLOAT16, checkpoints=tmp_path, resume=True)
    assert without_time(history) == without_time(expected)
    assert_same(again.state(), whole.state())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda: Run(classes=8), "size mismatch|Unexpected key|Missing key"),
        (lambda: Run(spectral=True), "Missing key"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, change: Callable[[], Run], complaint: str
) -> None:
    Run().fit(1, checkpoints=tmp_path)
    with pytest.raises(ValueError, match=f"checkpoint of another training.*({complaint})"):
        change().fit(2, batches, checkpoints=tmp_path, resume=True)
    with pytest.raises(ValueError, match="only one of the two has average"):
        Run().fit(2, average=None, checkpoints=tmp_path, resume=True)


def test_divergence_is_reported_and_the_last_good_checkpoint_kept(tmp_path: Path) -> None:
    run = Run()
    run.fit(2, checkpoints=tmp_path)
    good = (tmp_path / "last.pt").read_bytes()

    def poisoned(epoch: int) -> Iterator[tuple[torch.Tensor, ...]]:
        for number, (x,) in enumerate(points(epoch)):
            yield (x * (float("nan") if (epoch, number) == (3, 1) else 1),)

    complaint = "diverged: the discriminator loss is no finite number in epoch 4, step 14"
    with pytest.raises(FloatingPointError, match=complaint):
        run.fit(5, poisoned, checkpoints=tmp_path, resume=True)
    kept = (tmp_path / "last.pt").read_bytes()
    assert kept != good  # that of epoch 3
    again = Run()
    assert len(again.fit(4, checkpoints=tmp_path, resume=True).seconds) == 4
    assert all(torch.isfinite(p).all() for p in again.generator.parameters())


def test_a_wasserstein_score_without_bounds_is_divergence() -> None:
    with pytest.raises(FloatingPointError, match=r"diverged: the .* try a smaller learning rate"):
        Run(Game(*vars(GAMES["WGAN-GP"]()).values()), lr=1e4).fit(3)


def test_a_weight_that_is_no_number_is_not_saved(tmp_path: Path) -> None:
    run = Run()
    run.fit(1, checkpoints=tmp_path)
    good = (tmp_path / "last.pt").read_bytes()

    def break_it(generator: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            next(run.generator.parameters()).fill_(float("inf"))
        return {}

    with pytest.raises(FloatingPointError, match=r"a weight of the generator .* after epoch 2"):
        run.fit(2, measure=break_it, checkpoints=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == good


def test_samples_are_those_of_evaluation_mode_in_any_batches() -> None:
    run = Run(classes=8)
    run.fit(1, batches)
    z, y = torch.randn(10, 3), torch.arange(10) % 8
    run.generator.train()
    whole = sample(run.generator, z, y)
    assert run.generator.training and not whole.requires_grad
    torch.testing.assert_close(sample(run.generator, z, y, batch_size=4), whole)
    torch.testing.assert_close(copy.deepcopy(run.generator).eval()(z, y).detach(), whole)


def test_gradients_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 1)
    distributed.average_gradients(layer.parameters())  # one process: nothing to do
    assert layer.weight.grad is None
    layer(torch.ones(1, 2)).sum().backward()
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda grad: grad.add_(3.0))  # the other's
    monkeypatch.setenv("WORLD_SIZE", "2")
    distributed.average_gradients(layer.parameters())
    for parameter in layer.parameters():
        assert parameter.grad is not None and (parameter.grad == 2).all()
