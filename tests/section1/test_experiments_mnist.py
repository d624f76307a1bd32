"""The experiments on images of section 1, each run whole on a tiny budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from section1.experiments import _images, loss_comparison
from section1.experiments._training import in_front, level_with_best, rise_and_fall, standing
from tests.runs import assert_same_result
from utils.errors import UserError
from utils.experiments import registry, runner
from utils.experiments.budget import Budget
from utils.experiments.results import Result
from utils.experiments.run import Run, Settings

TINY = ("--mode", "quick", "--data", "embedded", "--samples", "200", "--set", "seeds=1")


def tiny(name: str, changes: dict[str, Any], threads: int | None = None) -> Run:
    """A run of an experiment, not through main.py: no files, no figures."""
    (experiment,) = registry.select([name])
    settings = Settings("quick", 0, "embedded", Path("unused"), threads)
    small = {"seeds": 1, "epochs": 1, "samples": 200}
    return Run(experiment, settings, Budget(experiment.settings("quick") | small | changes))


def test_initialization(run_tiny: Callable[..., Result]) -> None:
    sizes = ("--set", "depth=4", "--set", "width=64", "--set", "steps=10")
    result = run_tiny("initialization", *TINY, *sizes)
    assert result.metrics["relu_zeros_forward"] == 0
    assert result.metrics["relu_normal_forward"] < 0.01
    assert 0.3 < result.metrics["relu_he_normal_forward"] < 3
    assert abs(result.metrics["relu_zeros_loss"] - np.log(10)) < 0.1


def test_initialization_survives_a_training_that_blows_up() -> None:
    sizes = {"depth": 3, "width": 32, "steps": 40, "batch_size": 32, "lr": 1000.0}
    result = runner.compute(tiny("initialization", sizes))
    assert "relu_he_normal_loss" not in result.metrics
    assert "With ReLU, none gets clearly below guessing" in result.answer


def test_activation_comparison(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("activation_comparison", *TINY, "--epochs", "3", "--lr", "0.05")
    assert {row[2] for row in result.tables["activations"].rows} == {0.05}
    assert result.arrays["confusion"].sum() == 360
    assert result.metrics["relu_test_accuracy"] > 0.3
    assert np.isnan(result.metrics["relu_test_accuracy_std"])  # one seed
    table = result.tables["activations"]
    assert [row[0] for row in table.rows] == ["Sigmoid", "Tanh", "ReLU", "LeakyReLU", "GELU"]


def test_loss_comparison(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("loss_comparison", *TINY, "--epochs", "3", "--lr", "0.05")
    assert result.metrics["cross_entropy_test_accuracy"] > 0.3
    assert result.arrays["bins_mse"][0, :, 0].sum() == 360
    assert "bins_hinge" not in result.arrays


def test_sanity_checks(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("sanity_checks", *TINY, "--epochs", "2", "--set", "steps=60")
    checks = {row[0]: row for row in result.tables["checks"].rows}
    assert checks["loss before training, small weights"][-1]
    assert checks["fall of the loss / (step × |gradient|²)"][-1]
    assert checks["accuracy on these 20 images"][-1]
    assert result.metrics["passed"] == sum(row[-1] for row in checks.values())


def test_fashion_mlp(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("fashion_mlp", *TINY, "--epochs", "1")
    assert "stand-in" in result.info["data"]["fashion_mnist"]["description"]
    assert 0 < result.metrics["test_accuracy"] < 1


def test_a_list_of_learning_rates_that_does_not_fit_is_refused() -> None:
    for name in ("activation_comparison", "loss_comparison"):
        with pytest.raises(UserError, match="one for each of"):
            runner.compute(tiny(name, {"lr": [0.1, 0.2]}))


@pytest.mark.parametrize("name", ["activation_comparison", "loss_comparison"])
def test_same_numbers_on_any_number_of_threads(name: str) -> None:
    """Batches of 300 rows are cut into three."""
    changes = {"samples": 700, "epochs": 2, "batch_size": 300, "lr": [0.05]}
    one, two = (runner.compute(tiny(name, changes, threads)) for threads in (1, 2))
    assert_same_result(one, two)
    assert one.answer == two.answer


@pytest.mark.parametrize("n", [2, 3, 10])
def test_arms_that_are_equal_are_called_level(n: int) -> None:
    """Mostly all eight of them; and one that is far better is ahead."""
    names, counts = list("abcdefgh"), []
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.standard_normal((8, n))
        counts.append(len(level_with_best(scores, names)))
        scores[3] += 20
        assert in_front(scores, names) == "d is ahead"
    assert np.mean(counts) > 7.3 and np.mean(np.array(counts) == 8) > 0.7


@pytest.mark.parametrize("same", [1.0, 0.1])  # the mean of three times 0.1 is not 0.1
def test_one_miss_tells_nothing_where_most_arms_are_always_equal(same: float) -> None:
    scores = np.full((4, 3), same)
    scores[2, 1] -= 1e-3
    assert level_with_best(scores, list("abcd")) == list("abcd")
    scores[3] -= 0.05
    assert level_with_best(scores, list("abcd")) == list("abc")
    assert level_with_best(scores[[0, 1, 3]], list("abd")) == list("ab")


def test_the_rate_falls_over_as_many_steps_as_there_are() -> None:
    """A lone last row joins the batch before it: 129 rows are one batch."""
    run = tiny("fashion_mlp", {"epochs": 3, "batch_size": 128})
    for step in range(3):
        assert rise_and_fall(0.1, run, 129)(step) == rise_and_fall(0.1, run, 128)(step)


def test_the_standing_in_words() -> None:
    scores, names = np.array([[90.0, 90.2], [95.2, 95.4], [95.3, 95.5]]), ["a", "b", "c"]
    assert standing(scores, names) == (
        "B, c are level as far as these seeds can tell; a is last, 5.30 percentage points behind "
        "the best"
    )
    assert standing(scores[:, :1], names).startswith("All are level as far as these seeds can tell")


def test_confusion_counts_and_the_worst_pairs() -> None:
    true, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 1, 1, 2])
    counts = _images.confusion(true, predicted, 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [0, 2, 1]])
    assert _images.most_confused(counts) == [(2, 1, 2), (0, 1, 1)]
    assert _images.most_confused(np.eye(3, dtype=int)) == []


def test_calibration_of_a_known_case() -> None:
    """Of 4 images at confidence 0.95 three are right, of 2 at 0.55 one is."""
    confidence = np.array([0.95] * 4 + [0.55] * 2)
    right = np.array([True, True, True, False, True, False])
    bins = loss_comparison.calibration(confidence, right)
    assert bins[9].tolist() == pytest.approx([4, 0.95, 0.75])
    assert bins[5].tolist() == pytest.approx([2, 0.55, 0.5])
    assert loss_comparison.calibration_error(bins) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    assert loss_comparison.calibration(np.ones(3), np.ones(3, bool))[9, 0] == 3


@pytest.mark.slow
@pytest.mark.realdata
def test_relu_mlp_reaches_97_5_percent_on_real_mnist(
    real_data: Path, run_tiny: Callable[..., Result]
) -> None:
    one = ("--mode", "hybrid", "--data", "real", "--set", "seeds=1", "--epochs", "4")
    result = run_tiny("activation_comparison", *one)
    assert result.info["data"]["mnist"]["provenance"] == "official"
    assert result.metrics["relu_test_accuracy"] >= 0.975
