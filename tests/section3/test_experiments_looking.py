"""The experiments that look into networks, each run whole on a tiny budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from section3.experiments import _fields, filters_and_feature_maps, receptive_field
from section3.experiments.filters_and_feature_maps import PATCH, STEP
from section3.models import mnist_cnn
from utils.errors import UserError
from utils.experiments import registry, runner
from utils.experiments.budget import Budget
from utils.experiments.results import Result
from utils.experiments.run import Run, Settings

TINY = ("--mode", "quick", "--data", "embedded", "--samples", "150", "--epochs", "1")
SMALL: dict[str, dict[str, Any]] = {
    "receptive_field": {
        "seeds": 1, "epochs": 1, "samples": 200, "depth": 2, "steps": 30, "distances": [1, 3],
    },
    "filters_and_feature_maps": {
        "seeds": 1, "epochs": 1, "samples": 200, "filters": [4, 4], "looked_at": 12,
    },
}  # fmt: skip


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the architectures, which are the same for every budget."""
    names = ("mnist_cnn", _fields.PLAIN)
    monkeypatch.setattr(
        "section3.experiments.receptive_field.ARCHITECTURES",
        {name: _fields.ARCHITECTURES[name] for name in names},
    )


def tiny(name: str, threads: int | None = None, **changes: Any) -> Run:
    (experiment,) = registry.select([name])
    settings = Settings("quick", 0, "embedded", Path("unused"), threads)
    return Run(experiment, settings, Budget(experiment.settings("quick") | SMALL[name] | changes))


@pytest.mark.usefixtures("few")
def test_receptive_field(run_tiny: Callable[..., Result]) -> None:
    """Stacks of two layers see two pixels far: they learn one pixel away, and not three."""
    more = ("--set", "depth=2", "--set", "distances=1,3", "--set", "steps=60")
    result = run_tiny("receptive_field", *TINY, *more)
    assert {row[0] for row in result.tables["layers"].rows} == {"mnist_cnn", _fields.PLAIN}
    sees = [row[2] for row in result.tables["layers"].rows if row[0] == _fields.PLAIN]
    assert sees == [2 * depth + 1 for depth in range(1, 13)]
    assert all(0 < row[3] <= row[2] for row in result.tables["layers"].rows)
    assert result.metrics["reached_by_all"] == 1
    assert result.metrics["accuracy_beyond"] == pytest.approx(0.5, abs=0.06)
    assert result.arrays["before"].shape == result.arrays["distance 1"].shape == (5, 5)


def test_maps_of_architectures_lie_in_their_boxes() -> None:
    run = tiny("receptive_field")
    for name, make in _fields.ARCHITECTURES.items():
        rows, mass, (top, left, bottom, right) = _fields.untrained(make, run)
        assert bottom - top == right - left == rows[-1][1], name
        assert min(top, left) >= 0 and max(bottom, right) <= _fields.NOISE, name
        assert mass.sum() == pytest.approx(1) == mass[top:bottom, left:right].sum(), name


def test_distances_must_lie_on_both_sides_of_the_edge() -> None:
    for distances in ([1, 2], [3, 4]):
        with pytest.raises(UserError, match="both sides"):
            runner.compute(tiny("receptive_field", distances=distances))


def test_a_field_larger_than_the_digits_is_refused() -> None:
    with pytest.raises(UserError, match="depth must be at most 6, got 7"):
        runner.compute(tiny("receptive_field", depth=7, distances=[3, 8]))


def test_filters_must_be_two_numbers() -> None:
    with pytest.raises(UserError, match=r"two numbers, one for each layer, got \[8\]"):
        runner.compute(tiny("filters_and_feature_maps", filters=[8]))


def test_filters_and_feature_maps(run_tiny: Callable[..., Result]) -> None:
    more = ("--set", "filters=4,6", "--set", "looked_at=20")
    result = run_tiny("filters_and_feature_maps", *TINY, *more)
    assert result.arrays["patches_1"].shape == (4, 8, 4, 4, 1)
    assert result.arrays["patches_2"].shape == (6, 8, 10, 10, 1)
    assert result.arrays["maps_2"].shape == (6, 7, 7, 6)
    assert 0 < result.metrics["change_1"] < 2 and 0 <= result.metrics["dead"] <= 1
    assert result.metrics["same_class_chance"] < 0.6


@pytest.mark.usefixtures("few")
def test_units_that_are_dead_at_first_do_not_count_as_growth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def one_dead(make: Any, run: Run) -> tuple:
        rows, mass, box = _fields.untrained(make, run)
        rows[-1][2] = 0.0
        return rows, mass, box

    monkeypatch.setattr("section3.experiments.receptive_field.untrained", one_dead)
    result = runner.compute(tiny("receptive_field", steps=1))
    assert 0.3 < result.metrics["used_exponent"] < 0.8
    title = receptive_field.draw(result)["training"].axes[2].get_title()
    assert title == "told to report 1 to the right"  # which is not learnt in one step


def test_how_far_all_runs_learn() -> None:
    metrics = {"reached_by_all": 0, "accuracy_beyond": 0.5, "radius": 2}
    assert receptive_field.limit(metrics).startswith("No distance is learnt by all runs; beyond 2")
    words = receptive_field.limit(metrics | {"reached_by_all": 1})
    assert words.startswith("All runs learn a distance of 1 pixel;")


def test_as_many_patches_as_there_are_images() -> None:
    """One image of which all is said, from networks that learn next to nothing."""
    result = runner.compute(tiny("filters_and_feature_maps", looked_at=1))
    assert "Of the images to which a filter answers most, 1 each" in result.answer
    assert "(1 at random: 100%)" in result.answer


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", SMALL)
def test_same_numbers_on_any_number_of_threads(name: str) -> None:
    first, second = (runner.compute(tiny(name, threads)) for threads in (1, 2))
    assert second.metrics == first.metrics and second.answer == first.answer
    assert "(n = 1)" in first.answer and "±" not in first.answer
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[key], array)


# --- measures -------------------------------------------------------------------------------


def test_share_of_maps_on_ink() -> None:
    raw = np.zeros((2, 4, 4, 1))
    raw[:, :2] = 1
    maps = np.ones((2, 4, 4))
    assert filters_and_feature_maps.on_ink(maps, raw) == pytest.approx(0.5)
    maps[1, 2:] = 0
    assert filters_and_feature_maps.on_ink(maps, raw) == pytest.approx(0.75)


def test_agreement_of_two_maps() -> None:
    slopes = np.random.default_rng(0).random((3, 28, 28))
    starts = range(0, 28 - PATCH + 1, STEP)
    sums = np.array([[[s[i : i + PATCH, k : k + PATCH].sum() for k in starts] for i in starts]
                     for s in slopes])  # fmt: skip
    assert filters_and_feature_maps.agreement(slopes, 5 + 2 * sums) == pytest.approx(1)
    assert filters_and_feature_maps.agreement(slopes, -sums) == pytest.approx(-1)


def test_the_maps_of_a_dead_network_agree_by_zero() -> None:
    slopes, dead = np.random.default_rng(0).random((2, 28, 28)), np.zeros((2, 28, 28))
    drops = np.random.default_rng(1).random((2, 8, 8))
    assert filters_and_feature_maps.agreement(dead, drops) == 0
    assert filters_and_feature_maps.agreement(slopes, np.zeros_like(drops)) == 0
    assert filters_and_feature_maps.correlation({"agreement": -0.001}) == "0.00"


def test_how_far_weights_have_moved() -> None:
    before, model = (mnist_cnn((2, 2), 0, rng=np.random.default_rng(0)) for _ in range(2))
    model.parameters()[0].value *= 1.5
    assert filters_and_feature_maps.change(model, before, 0) == pytest.approx(0.5)
    assert filters_and_feature_maps.change(model, before, 3) == 0
