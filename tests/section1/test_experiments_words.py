"""What the experiments of section 1 say is true and well put, whatever the numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from section1.experiments import _images, initialization
from section1.experiments._images import hardest_and_easiest
from section1.experiments._training import mean_std, standing
from tests.runs import small_run
from utils.experiments import runner
from utils.experiments.results import Result
from utils.output import plots

MANY = re.compile(r"\b1 (hidden |ReLU |training )?(seed|unit|sample|layer|step|point|epoch)s\b")


def told(name: str, folder: Path, budget: dict[str, Any]) -> tuple[Result, str]:
    """The result of a small run, and all its words: the answer and every title."""
    run = small_run(name, folder, {"seeds": 1, "epochs": 1, **budget})
    result = runner.compute(run)
    with plots.style():
        figures = run.experiment.module().draw(result).values()
    titles = [axes.get_title() for figure in figures for axes in figure.axes]
    described = [used["description"] for used in result.info["data"].values()]
    heads = [figure.get_suptitle() for figure in figures]
    return result, "\n".join([result.answer, *heads, *titles, *described])


def test_a_spread_is_that_of_a_sample() -> None:
    assert mean_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))
    mean, std = mean_std([3.0])
    assert mean == 3.0 and np.isnan(std)  # one run says nothing of how far runs spread


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("xor", {"hidden": [1]}),
        ("decision_boundaries", {"shapes": ["1"], "samples": 1}),
        ("universal_approximation", {"widths": [1], "targets": ["abs"], "targets_2d": ["saddle"]}),
        ("regression", {"samples": [1]}),
        ("initialization", {"samples": 3, "depth": 1, "width": 1, "steps": 1}),
        ("activation_comparison", {"samples": 30, "lr": [1e-3]}),
        ("loss_comparison", {"samples": 30, "lr": [1e-3]}),
        ("fashion_mlp", {"samples": 30}),
        ("sanity_checks", {"samples": 30, "steps": 1}),
    ],
)
def test_a_single_one_is_no_plural_and_has_no_spread(
    name: str, budget: dict[str, Any], tmp_path: Path
) -> None:
    result, words = told(name, tmp_path, budget)
    assert not MANY.search(words), words
    spreads = [value for key, value in result.metrics.items() if key.endswith("_std")]
    assert np.isnan(spreads).all()
    assert "±" not in words and "standard deviation" not in words
    assert "between seeds does not fall" not in words and "of its own" not in words


@pytest.mark.parametrize(
    ("name", "budget", "sizes"),
    [
        ("xor", {"hidden": [4, 2, 4]}, [0, 2, 4]),
        ("decision_boundaries", {"shapes": ["4-4", "2", "0"]}, ["0", "2", "4-4"]),
        ("regression", {"samples": [20, 10, 20]}, [10, 20]),
    ],
)
def test_sizes_in_any_order_go_from_the_smallest_to_the_largest(
    name: str, budget: dict[str, Any], sizes: list, tmp_path: Path
) -> None:
    result, _ = told(name, tmp_path, budget)
    (table,) = result.tables.values()
    column = table.columns.index("hidden") if "hidden" in table.columns else 0
    assert list(dict.fromkeys(row[column] for row in table.rows)) == sizes


def test_all_targets_at_once_and_widths_in_any_order(tmp_path: Path) -> None:
    one = ["sines", "step", "abs", "bump", "chirp"]
    two = ["ripple", "saddle", "checker", "bumps"]
    budget = {"widths": [2, 1], "targets": one, "targets_2d": two, "samples": 16}
    result, words = told("universal_approximation", tmp_path, budget)
    assert result.headline == "fold_1_to_2"
    assert "From 1 to 2 units the error is divided by" in words


def test_few_points_do_not_show_all_classes(tmp_path: Path) -> None:
    result, _ = told("decision_boundaries", tmp_path, {"shapes": ["0"], "samples": 3})
    assert result.arrays["swiss_roll_y"].max() < 3
    assert result.arrays["swiss_roll_0"].shape[-1] == 4


def test_fewer_images_than_twenty_are_counted(tmp_path: Path) -> None:
    _, words = told("sanity_checks", tmp_path, {"samples": 10, "steps": 1})
    assert "9 images are learned" in words and "20 images" not in words


def test_one_learning_rate_for_all_is_not_one_of_its_own(tmp_path: Path) -> None:
    result, _ = told("activation_comparison", tmp_path, {"samples": 30, "lr": [0.05]})
    assert result.answer.startswith("With a learning rate of 0.05 for each, all lie between")


def test_no_minus_before_a_zero(tmp_path: Path) -> None:
    run = small_run("activation_functions", tmp_path, {"seeds": 2, "samples": 1000}, seed=88)
    means = {row[0]: row[4] for row in runner.compute(run).tables["activations"].rows}
    assert means["identity"].startswith("0.000 ±")


def test_ties_are_called_ties() -> None:
    names = ["a", "b", "c"]
    same = np.full((3, 2), 10.0)
    assert standing(same, names) == "All are level as far as these seeds can tell"
    ahead = np.array([[90.0, 90.0], [10.0, 10.0], [10.0, 10.0]])
    assert standing(ahead, names) == (
        "A is ahead; b, c are last, 80.00 percentage points behind the best"
    )


def test_classes_that_are_equally_hard_are_all_named() -> None:
    def words(*shares: float) -> str:
        return hardest_and_easiest([[f"{k}", 9, share] for k, share in enumerate(shares)], ".0%")

    assert words(0.5, 0.2, 0.9) == "hardest is 1 (20% right), easiest 2 (90%)"
    assert words(0, 0, 1, 1) == "hardest are 0, 1 (0% right), easiest 2, 3 (100%)"
    assert words(1, 1) == "all classes are equally hard (100% right)"


@pytest.mark.parametrize(
    ("predicted", "matrix", "mistakes"),
    [
        ([0, 1, 2], "m: 0 of 3 test images wrong", "m: no error on 3 test images"),
        (
            [0, 1, 1],
            "m: 1 of 3 test images wrong; most frequent errors: c taken for b (1)",
            "m: 1 of 1 error, the most confident first",
        ),
    ],
)
def test_errors_none_or_one(predicted: list[int], matrix: str, mistakes: str) -> None:
    images, classes = np.zeros((3, 4, 4, 1)), ("a", "b", "c")
    found = _images.errors_among(np.eye(3)[predicted], np.arange(3), images, classes)
    figures = _images.draw_errors(Result("", "n", {"n": 0}, {}, *found), "m")
    assert figures["confusion"].get_suptitle() == matrix
    assert figures["mistakes"].get_suptitle() == mistakes


def test_factors_and_what_is_learned_in_words() -> None:
    assert [initialization.factor(number) for number in (0, 3e-9, 1)] == ["0.00", "3e-09", "1.00"]
    rows = [[bend, init, 1, 1, 2.25, 1] for bend in ("tanh", "ReLU") for init in ("He", "zeros")]
    assert initialization.learning(rows, 1) == (
        "With tanh, none gets clearly below guessing in 1 step. "
        "With ReLU, none gets clearly below guessing in 1 step."
    )
    rows[0][4] = 2.0
    assert initialization.learning(rows, 2).startswith(
        "With tanh, He is best after 2 steps (loss 2.00); not clearly below guessing: zeros."
    )
