"""The experiments on optimizers and learning rates, each run whole on a tiny budget."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.animation import FuncAnimation
from PIL import Image

from section1.experiments._training import sharing
from section1.mlp import MLP
from section2 import schedules
from section2.experiments import _surfaces as surfaces
from section2.experiments import (
    _tuning,
    lr_schedules,
    lr_sensitivity,
    optimizer_comparison,
    optimizer_trajectories,
)
from section2.experiments._optimizers import (
    ELEMENTWISE,
    NAMES,
    Feed,
    learn,
    listed,
    new_optimizer,
)
from section2.muon import Muon
from tests.helpers import numerical_gradient
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import registry, runner
from utils.experiments.budget import Budget
from utils.experiments.results import Result
from utils.experiments.run import Run, Settings
from utils.output import plots

TINY = ("--mode", "quick", "--data", "embedded", "--samples", "150", "--epochs", "1")
SMALL: dict[str, dict[str, Any]] = {
    "optimizer_trajectories": {"seeds": 2, "steps": 20},
    "optimizer_comparison": {
        "seeds": 1, "epochs": 1, "samples": 300, "batch_size": 200, "hidden": [16, 8],
        "tuning_epochs": 1, "toy_epochs": 1,
    },
    "lr_sensitivity": {"seeds": 1, "epochs": 1, "samples": 300, "batch_size": 200, "width": 16},
    "lr_schedules": {
        "seeds": 1, "epochs": 5, "samples": 500, "batch_size": 200, "width": 16, "peaks": [0.1],
    },
}  # fmt: skip


def compute(name: str, threads: int | None = None, **changes: Any) -> Result:
    """The result of an experiment on a tiny budget: no files, no figures."""
    (experiment,) = registry.select([name])
    settings = Settings("quick", 0, "embedded", Path("unused"), threads)
    budget = Budget(experiment.settings("quick") | SMALL[name] | changes)
    return runner.compute(Run(experiment, settings, budget))


# --- whole runs -----------------------------------------------------------------------------


def test_optimizer_trajectories(
    run_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_trajectories, "FRAMES", 6)
    result = run_tiny("optimizer_trajectories", "--mode", "quick", "--set", "steps=30")
    assert len(result.tables["paths"].rows) == len(surfaces.SURFACES) * len(ELEMENTWISE)
    (animation,) = tmp_path.rglob("*.gif")
    assert animation.stat().st_size < 1_000_000
    with Image.open(animation) as image:
        assert image.n_frames == 6  # type: ignore[attr-defined]


def test_optimizer_comparison(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(
        "optimizer_comparison", *TINY, "--set", "seeds=1", "--set", "toy_epochs=2",
        "--set", "hidden=16,8",
    )  # fmt: skip
    table = result.tables["optimizers"]
    assert [row[1] for row in table.rows] == NAMES * 2
    assert len(result.tables["tuning"].rows) == 2 * sum(map(len, _tuning.RATES.values()))
    assert result.metrics["adam_test_accuracy"] > 0.2
    assert result.arrays["MNIST_to_goal"].shape == (len(NAMES), 1, 2)


def test_lr_sensitivity(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("lr_sensitivity", *TINY, "--set", "width=16", "--batch-size", "32")
    scores = result.arrays["validation_accuracy"]
    assert scores.shape == (len(NAMES), 7, 1)
    assert result.metrics["blown_up"] == np.isnan(scores).sum()
    spreads = [row[3] for row in result.tables["optimizers"].rows]
    assert np.isnan(np.array(spreads, float)).all(), "one seed"


@pytest.mark.parametrize("name", ["lr_sensitivity", "lr_schedules"])
def test_layers_of_a_single_unit(name: str) -> None:
    assert compute(name, threads=1, width=1).tables


def test_lr_schedules(run_tiny: Callable[..., Result]) -> None:
    more = ("--set", "seeds=1", "--set", "peaks=0.1,0.2", "--batch-size", "10")
    result = run_tiny("lr_schedules", *TINY, *more)
    assert {row[0] for row in result.tables["schedules"].rows} == set(lr_schedules.SCHEDULES)


def test_too_few_steps_for_a_schedule_are_refused() -> None:
    with pytest.raises(UserError, match="10 steps"):
        compute("lr_schedules", batch_size=600)


@pytest.mark.parametrize("name", SMALL)
def test_same_numbers_on_any_number_of_threads(name: str) -> None:
    one, two = (compute(name, threads) for threads in (1, 2))
    for result in (one, two):
        result.arrays = {k: v for k, v in result.arrays.items() if not k.endswith("to_goal")}
    assert_same_result(one, two)  # those have times
    assert one.answer == two.answer


# --- surfaces and paths ---------------------------------------------------------------------


@pytest.mark.parametrize("title", surfaces.SURFACES)
def test_slopes_of_the_surfaces(title: str) -> None:
    surface = surfaces.SURFACES[title]
    for start in (surface.start, surface.minimum, (0.3, -0.7)):
        point = np.array(start)
        expected = numerical_gradient(lambda p=point: float(surface.height(*p)), point, 1e-6)  # type: ignore[misc]
        np.testing.assert_allclose(surface.slope(*point), expected, rtol=1e-6, atol=1e-6)
    assert surface.height(*surface.minimum) == pytest.approx(0, abs=1e-30)
    np.testing.assert_allclose(surface.slope(*surface.minimum), 0, atol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_ravine_is_descended(name: str) -> None:
    rule, surface = ELEMENTWISE[name], surfaces.SURFACES["ravine"]
    starts = np.array([surface.start])
    lr = surfaces.best_rate(rule, surface, starts, 300)
    path = surfaces.descend(rule, surface, starts, lr, 300)
    assert path.shape == (301, 1, 2)
    assert surfaces.distances(path, surface)[-1, 0] < 0.02


def test_starts_do_not_touch_each_other() -> None:
    """All starts in one parameter give the paths that each gives alone."""
    surface = surfaces.SURFACES["Rosenbrock"]
    starts = np.array([surface.start, (0.5, 1.5)])
    for rule in ELEMENTWISE.values():
        together = surfaces.descend(rule, surface, starts, 0.001, 20)
        alone = surfaces.descend(rule, surface, starts[1:], 0.001, 20)
        np.testing.assert_array_equal(together[:, 1:], alone)


def test_a_path_that_blows_up_is_infinitely_far_away() -> None:
    surface = surfaces.SURFACES["Rosenbrock"]
    path = surfaces.descend(ELEMENTWISE["SGD"], surface, np.array([surface.start]), 5.0, 50)
    assert surfaces.distances(path, surface)[-1, 0] == np.inf


# --- parts ----------------------------------------------------------------------------------


def test_every_schedule_of_the_course_is_compared() -> None:
    made = {
        name
        for name, function in inspect.getmembers(schedules, inspect.isfunction)
        if inspect.signature(function).return_annotation == "Schedule"
    }
    assert made == set(lr_schedules.SCHEDULES)


@pytest.mark.parametrize("name", lr_schedules.SCHEDULES)
@pytest.mark.parametrize("steps", [10, 11, 500])
def test_schedules_reach_their_peak_and_never_exceed_it(name: str, steps: int) -> None:
    rates = np.array([lr_schedules.schedule(name, 0.3, steps)(step) for step in range(steps)])
    assert rates.max() <= 0.3 * (1 + 1e-12) and rates.max() > 0.27 and rates.min() >= 0


def test_muon_takes_the_hidden_matrices_alone() -> None:
    optimizer = new_optimizer("Muon", MLP([4, 3, 3, 2], rng=np.random.default_rng(0)), 0.1)
    assert isinstance(optimizer, Muon)
    assert optimizer.is_matrix == [False, False, True, False, False, False]


def test_usable_rates_are_those_next_to_the_best() -> None:
    nan = np.nan
    assert lr_sensitivity.usable(np.array([0.90, 0.1, 0.88, 0.905, 0.86, nan])) == (2, 4)
    assert lr_sensitivity.usable(np.array([nan, 0.5, nan])) == (1, 1)
    assert lr_sensitivity.usable(np.array([0.5, 0.5])) == (0, 1)


def test_one_seed_calls_no_schedule_better() -> None:
    scores = np.linspace(0.9, 1, len(lr_schedules.SCHEDULES))[:, None]
    assert lr_schedules.verdict(scores).startswith("0 of 7 schedules are better")
    more = scores + np.array([0, 1e-3, -1e-3])
    assert lr_schedules.verdict(more).startswith("7 of 7 schedules are better")
    one = np.array([0.5, *[0.5] * 6, 0.6])[:, None] + np.array([0, 1e-3, -1e-3])
    assert lr_schedules.verdict(one).startswith("1 of 7 schedules is better")


def test_schedules_in_front() -> None:
    names = list(lr_schedules.SCHEDULES)
    scores = np.full((len(names), 2), 90.0)
    assert lr_schedules.highest(scores) == "All schedules end level"
    scores[:2] = 91
    assert lr_schedules.highest(scores) == "constant and step_decay end highest"
    scores[2] = 92
    assert lr_schedules.highest(scores) == (
        "multi_step ends highest, 1.00 percentage points above a constant rate"
    )
    errors = {name: [9.0, 8.0] for name in names} | {"cosine": [9.5, 7.0], "warm_up": [8.5, 7.0]}
    assert lr_schedules.fewest_errors(errors) == (
        "Fewest errors half-way: warm_up (8.5%), at the end: cosine and warm_up (7.0%)"
    )
    assert lr_schedules.fewest_errors({name: course[1:] for name, course in errors.items()}) == (
        "Fewest errors at the end: cosine and warm_up (7.0%)"
    )


def test_best_rates_in_words() -> None:
    rows = [["SGD", 0.1], ["Adam", 0.001], ["Muon", 0.001]]
    assert lr_sensitivity.best_rates(rows) == (
        "The best rate is lowest for Adam and Muon (0.001) and highest for SGD (0.1)"
    )
    assert lr_sensitivity.best_rates(rows[1:]) == "The best rate of all optimizers is 0.001"


def test_ends_of_the_paths_in_words() -> None:
    assert optimizer_trajectories.ends({"SGD": 1.0, "Adam": 0.0, "Momentum": 0.0}) == (
        "Adam and Momentum end nearest (0 from the minimum) and SGD farthest (1)"
    )
    result = compute("optimizer_trajectories", seeds=1, steps=1)
    assert result.answer.startswith("After 1 step at") and "starts" not in result.answer


def optimizer_rows(passes: list[float], means: list[float]) -> list[list[Any]]:
    """Rows of the table of optimizer_comparison; where passes are NaN the goal was not reached."""
    return [
        ["MNIST", name, 0.1, False, mean, mean, 0.0, some, some, int(some == some), 1]
        for name, some, mean in zip(NAMES, passes, means)
    ]


def test_optimizers_in_words() -> None:
    count = len(NAMES)
    rows = optimizer_rows([1.0] * count, [1.0] * count)
    assert optimizer_comparison.finding("MNIST", rows, np.ones((count, 1))) == (
        f"On MNIST {listed(NAMES)} are first at 95% validation accuracy (1 pass). On the test set "
        "all have 100.00%."
    )
    means = [0.9, 0.8, 0.8, *[0.85] * (count - 3)]
    rows = optimizer_rows([99.9, 2.0, *[np.nan] * (count - 2)], means)
    assert "(2 passes; last: SGD, 100)" in optimizer_comparison.fastest("MNIST", rows)
    found = optimizer_comparison.finding("MNIST", rows, np.array(means)[:, None])
    assert "SGD is best" in found and "Momentum and Nesterov last with 80.00%" in found
    assert optimizer_comparison.quickest(rows) == (
        "To 95% on MNIST: fewest passes Momentum (2), least time Momentum (2 s)"
    )


def test_ties_do_not_depend_on_the_order_of_a_sum() -> None:
    values = {"a": (0.1 + 0.2) + 0.3, "b": 0.1 + (0.2 + 0.3), "c": 1.0}
    assert values["a"] != values["b"] and sharing(values, min) == ["a", "b"]
    assert sharing(values, max) == ["c"]


def test_feed_cuts_the_passes_into_stretches() -> None:
    x, y = np.arange(10)[:, None], np.arange(10)
    feed = Feed((x, y), 4, 2)  # three batches a pass, two a stretch
    rng = np.random.default_rng(0)
    batches = [batch for _ in range(3) for batch in feed(rng)]
    assert [len(rows) for rows, _ in batches] == [4, 4, 2, 4, 4, 2] and len(feed.seconds) == 3
    for one_pass in (batches[:3], batches[3:]):
        assert sorted(np.concatenate([labels for _, labels in one_pass])) == list(range(10))


def test_a_lone_last_row_makes_no_step(tmp_path: Path) -> None:
    """It joins the batch before it: two batches a pass."""
    x, y = np.ones((9, 2), np.float32), np.arange(9) % 2
    learned = learn(
        small_run("lr_sensitivity", tmp_path, {}), [2, 2], "SGD", (x, y), (x, y), key=(0,),
        epochs=3, batch_size=4, schedule=lambda steps: schedules.constant(0.1),
    )  # fmt: skip
    assert learned is not None and learned.x == [1, 2, 3]
    assert len(learned.history.step_loss) == 6


def test_names_in_a_sentence() -> None:
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"


def test_animations_are_written_as_gif(tmp_path: Path) -> None:
    with plots.style():
        figure, axes = plots.grid()
        (line,) = axes[0, 0].plot([0, 1], [0, 1])
        figure.suptitle("A line that turns")

        def show(frame: int) -> list:
            line.set_data([0, 1], [0, frame / 3])
            return []

        path = plots.save(FuncAnimation(figure, show, range(4)), tmp_path / "turn", "two points")
    assert path == tmp_path / "turn.gif"
    assert set(tmp_path.iterdir()) == {path, path.with_suffix(".pdf")}
    with Image.open(path) as image:
        assert image.format == "GIF" and image.n_frames == 4  # type: ignore[attr-defined]
        assert image.info["duration"] < 500
        image.seek(3)
        assert image.info["duration"] == plots.GIF_PAUSE
        top = np.asarray(image.convert("L"))[:40]
    assert top.min() < 100  # the title stands there


@pytest.mark.slow
@pytest.mark.realdata
def test_adam_reaches_97_8_percent_on_real_mnist(
    real_data: Path, run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    del real_data
    monkeypatch.setattr(optimizer_comparison, "NAMES", ["Adam"])
    monkeypatch.setattr(optimizer_comparison, "RATES", {"Adam": _tuning.RATES["Adam"]})
    result = run_tiny("optimizer_comparison", "--mode", "hybrid", "--data", "real")
    assert result.info["data"]["mnist"]["provenance"] == "official"
    assert result.metrics["adam_test_accuracy"] >= 0.978
