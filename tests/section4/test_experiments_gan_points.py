"""The experiments on GANs in the plane, and on the GAN in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from section1.activations import LeakyReLU
from section2.models import fully_connected_net
from section4.engine import PLAIN
from section4.experiments import _gan_against_torch as against_torch
from section4.experiments import numpy_gan
from section4.experiments._kept import Kept
from section4.experiments._numpy_gan import JUDGED, PLANES, SHOWN, real_points, strip
from section4.experiments._points import (
    KEPT,
    VARIANTS,
    find_mixture,
    losses_between,
    play,
    spread,
)
from section4.experiments.mode_collapse import LABELS, late, variants
from section4.gans.mixtures import ring
from section4.gans.numpy_gan import History
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.progress import Progress
from utils.experiments.results import Result
from utils.experiments.run import Run

TINY = ("--mode", "quick", "--device", "cpu", "--precision", "float32", "--data", "embedded")
POINTS: dict[str, Any] = {
    "seeds": 2, "steps": 6, "checks": 3, "hidden": [6], "batch_size": 5, "mean": 0.9,
}  # fmt: skip
DIGITS: dict[str, Any] = {
    "samples": 200, "held_out": 30, "judged": 30, "judge_epochs": 1, "steps": 6,
    "point_steps": 9, "checks": 3, "batch_size": 8,
}  # fmt: skip


def words(budget: dict[str, Any]) -> list[str]:
    """A budget as the command line has it."""
    found = []
    for key, value in budget.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        found += ["--set", f"{key}={text}"]
    return found


# --- what is measured -------------------------------------------------------------------------


def test_spread_is_the_effective_number_of_modes() -> None:
    mixture = ring()
    assert spread(mixture.centres, mixture) == pytest.approx(8)
    assert spread(3 * mixture.centres[:2], mixture) == pytest.approx(2)  # how near does not count
    assert spread(np.repeat(mixture.centres[:1], 5, axis=0), mixture) == pytest.approx(1)
    uneven = mixture.centres[[0, 0, 0, 1]]
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert spread(uneven, mixture) == pytest.approx(np.exp(entropy))


def test_losses_are_averaged_between_measurements() -> None:
    history = History([1.0, 3.0], [0.0, 2.0, 4.0, 6.0], measured=[{}, {}])
    np.testing.assert_array_equal(losses_between(history, "generator"), [1, 3])
    np.testing.assert_array_equal(losses_between(history, "discriminator"), [1, 5])


def test_the_end_of_a_training_is_its_last_fifth() -> None:
    assert late(np.arange(10.0)) == 8.5
    assert late(np.array([1.0, 5.0])) == 5


def test_real_points_are_near_the_middle_of_the_strip() -> None:
    covered, near = strip().quality(real_points("strip", 5000, np.random.default_rng(0)))
    assert covered == len(strip().centres) and near > 0.98
    modes, near = ring().quality(real_points("ring", 1000, np.random.default_rng(0)))
    assert modes == 8 and near > 0.97


def test_an_unknown_mixture_is_refused(tmp_path: Path) -> None:
    run = small_run("gan_2d", tmp_path, POINTS)
    assert len(find_mixture(run, "grid").centres) == 25
    with pytest.raises(UserError, match="there is no mixture 'line': choose from ring, grid"):
        find_mixture(run, "line")


def test_samples_are_kept_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "notes.pt"
    kept = Kept[torch.Tensor](file)
    kept[3], kept[5] = torch.ones(2), torch.zeros(2)
    again = Kept[torch.Tensor](file)
    assert list(again) == [3, 5] and torch.equal(again[3], torch.ones(2))


# --- the plane --------------------------------------------------------------------------------


def test_the_variants_differ_in_one_thing_each() -> None:
    arms = variants(7.0)
    assert list(arms) == list(LABELS)
    steps = {name: arm.discriminator_steps for name, arm in arms.items()}
    assert steps == {"fast_generator": 1, "equal_rates": 1, "more_steps": 5, "wgan_gp": 5}
    rates = {name: arm.generator_lr for name, arm in arms.items()}
    assert rates == {"fast_generator": 7, "equal_rates": 1, "more_steps": 7, "wgan_gp": 7}
    assert [arm.game().penalty > 0 for arm in arms.values()] == [False] * 3 + [True]
    assert [name for name, arm in VARIANTS.items() if arm.spectral] == ["sn_hinge"]


def test_play_takes_the_steps_that_it_is_told(tmp_path: Path) -> None:
    run = small_run("gan_2d", tmp_path, POINTS)
    seed: dict[str, Any] = {"seed": 0, "falling": True}
    with Progress("", 3) as bar:
        one = play(run, VARIANTS["wgan_gp"], ring(), PLAIN, **seed, folder=tmp_path, bar=bar)
        other = play(
            run, VARIANTS["standard"], ring(), PLAIN, **seed, folder=tmp_path / "2", bar=bar
        )
    assert one.steps == [2, 4, 6] and len(one.history.generator_loss) == 6
    assert len(one.history.discriminator_loss) == 30
    assert one.points[2].shape == (2, KEPT, 2)
    assert not torch.equal(one.points[6][0], one.points[6][1])  # the mean is not the generator
    assert len(one.series("raw_good")) == 3
    assert not torch.equal(one.points[6], other.points[6])


def test_gan_2d(run_tiny: Callable[..., Result], tmp_path: Path) -> None:
    result = run_tiny("gan_2d", *TINY, *words(POINTS))
    table, metrics = result.tables["variants"], result.metrics
    assert [row[0] for row in table.rows] == ["standard", "LSGAN", "WGAN-GP", "SN + hinge"]
    assert all(row[-1] == 2 and len(row) == len(table.columns) for row in table.rows)
    assert metrics["all_modes"] == 25
    for name, row in zip(VARIANTS, table.rows):
        assert row[1] == metrics[f"{name}_modes"] and row[3] == metrics[f"{name}_good"]
        points = result.arrays[f"{name}_points"]
        assert points.shape == (3, KEPT, 2)
        curve = result.curves[f"{name}_raw_good"]
        assert curve.n == 2 and list(curve.x) == [2, 4, 6]
        assert curve.y[-1] == pytest.approx(100 * metrics[f"{name}_raw_good"])
    assert metrics["most_modes"] == max(metrics[f"{name}_modes"] for name in VARIANTS)
    assert "After 6 steps of the generator, of 25 modes" in result.answer
    assert (tmp_path / "section4" / "gan_2d" / "training.gif").stat().st_size > 5000


def test_mode_collapse(run_tiny: Callable[..., Result], tmp_path: Path) -> None:
    result = run_tiny("mode_collapse", *TINY, *words(POINTS | {"generator_lr": 3.0}))
    metrics, table = result.metrics, result.tables["variants"]
    assert [row[0] for row in table.rows] == list(LABELS.values())
    assert all(len(row) == len(table.columns) for row in table.rows)
    for name in LABELS:
        assert 1 <= metrics[f"{name}_raw_spread"] <= 8
        assert result.curves[f"{name}_raw_spread"].y[-1] == metrics[f"{name}_raw_spread"]
        loss = result.curves[f"{name}_generator_loss"]
        assert loss.n == 2 and loss.y[-1] == pytest.approx(metrics[f"{name}_generator_loss"])
    assert "learns 3 times as fast" in result.answer and "(n = 2)" not in result.answer[:80]
    assert (tmp_path / "section4" / "mode_collapse" / "training.gif").exists()


@pytest.mark.parametrize("name", ["gan_2d", "mode_collapse"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    name: str, tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    """Stopped in the second training after its first measurement."""
    whole = runner.compute(small_run(name, tmp_path / "whole", POINTS))
    calls = stop_at(4)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small_run(name, tmp_path / "cut", POINTS))
    rest = runner.compute(small_run(name, tmp_path / "cut", POINTS))
    assert len(calls) == 4 + (3 * 8 - 4)  # nothing was done twice
    assert_same_result(rest, whole)


# --- in NumPy ---------------------------------------------------------------------------------


def test_numpy_gan(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("numpy_gan", *TINY, *words(DIGITS))
    metrics, arrays = result.metrics, result.arrays
    assert metrics["gradient_error"] < 1e-10
    assert 0 < metrics["judge_accuracy"] <= 1 and metrics["frechet_distance"] > 0
    rows = result.tables["digits"].rows
    assert [row[0] for row in rows] == list("0123456789")
    shares = [row[1] for row in rows]
    assert sum(shares) == pytest.approx(1) and min(shares) == metrics["rarest_class"]
    assert metrics["classes"] == sum(share >= 0.03 for share in shares)
    assert arrays["digits"].shape == (3, SHOWN, 28, 28, 1)
    for name in PLANES:
        assert arrays[f"{name}_samples"].shape == arrays[f"{name}_real"].shape == (JUDGED, 2)
        near = result.curves[f"{name}_near"]
        assert list(near.x) == [3, 6, 9] and near.y[-1] == metrics[f"{name}_near"]
    assert list(result.curves["digits_frechet_distance"].x) == [2, 4, 6]
    assert metrics["times_of_pytorch"] == pytest.approx(
        metrics["numpy_step_seconds"] / metrics["torch_step_seconds"]
    )


def test_a_numpy_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    """Stopped while it learns digits: after the judge, both planes and one measurement."""

    def small(folder: str) -> Run:
        return small_run("numpy_gan", tmp_path / folder, DIGITS)

    whole = runner.compute(small("whole"))
    calls = stop_at(1 + 6 + 1)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small("cut"))
    rest = runner.compute(small("cut"))
    assert len(calls) == 8 + 2
    assert_same_result(rest, whole)


def test_how_many_digits_are_frequent() -> None:
    assert numpy_gan.frequent({"classes": 1}) == "1 makes up 3% or more of the samples"
    assert numpy_gan.frequent({"classes": 10}) == "10 make up 3% or more of the samples each"


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert against_torch.gradient_error(np.random.default_rng(0)) < 1e-12
    backward = LeakyReLU.backward
    monkeypatch.setattr(LeakyReLU, "backward", lambda layer, dy: 1.001 * backward(layer, dy))
    assert against_torch.gradient_error(np.random.default_rng(0)) > 1e-4


def test_a_layer_without_a_twin_is_refused() -> None:
    network = fully_connected_net([2, 3, 1], "sigmoid", rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match="there is no twin of Sigmoid"):
        against_torch.as_torch(
            network, torch.ones(1, 2), (torch.tensor(p.value) for p in network.parameters())
        )


def test_both_sides_of_the_timing_take_steps() -> None:
    batch = np.tanh(np.random.default_rng(0).standard_normal((8, 12))).astype(np.float32)
    torch.set_num_threads(2)
    seconds = against_torch.step_seconds(batch, ((4,), (4,)), 3, np.random.default_rng(1))
    assert min(seconds) > 0 and torch.get_num_threads() == 2
    torch.set_num_threads(1)
