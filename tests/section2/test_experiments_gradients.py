"""The experiments on gradients, normalisation and dropout of section 2, on tiny budgets."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from section1.layer import Layer
from section1.linear import Linear
from section1.losses import Loss, SoftmaxCrossEntropy
from section2.experiments import (
    _account,
    _checks,
    batchnorm_study,
    dropout_study,
    gradient_checking,
    loss_landscape,
)
from section2.experiments.batchnorm_study import batch_statistics
from section2.gradient_check import TOLERANCE
from section2.models import fully_connected_net
from tests.runs import small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.registry import ROOT
from utils.experiments.results import Result

TINY = ("--mode", "quick", "--data", "embedded", "--samples", "200", "--set", "seeds=1")
SECTIONS = range(1, 5)


# --- gradient_checking -------------------------------------------------------------------


def test_no_layer_or_loss_of_the_course_is_without_a_check() -> None:
    assert not _account.without_check(SECTIONS)
    known = {cls for file in _account.tables(SECTIONS) for cls in (*file.EXAMPLES, *file.ABSTRACT)}
    for section in SECTIONS:
        for path in (ROOT / f"section{section}").rglob("experiments/*.py"):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    everywhere, found = [Layer, Loss], set()
    while everywhere:
        cls = everywhere.pop()
        everywhere += cls.__subclasses__()
        if cls.__module__.startswith("section"):
            found.add(cls)
    assert found <= known, "also classes that experiments define need a check"


def test_every_example_is_of_a_class_that_was_found() -> None:
    found = {cls for section in SECTIONS for cls in _account.classes(section)}
    for file in _account.tables(SECTIONS):
        assert {*file.EXAMPLES, *file.ABSTRACT} <= found
        assert not set(file.EXAMPLES) & set(file.ABSTRACT)
        for cls, examples in file.EXAMPLES.items():
            for example in examples:
                assert type(example.make(np.random.default_rng(0))) is cls


def test_a_class_without_a_check_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_checks.EXAMPLES, Linear)
    assert _account.without_check([1, 2]) == ["section1.linear.Linear"]


def test_gradient_checking(run_tiny: Callable[..., Result]) -> None:
    """The bar of the course: at most 1e-7 for every layer and loss, and no fault accepted."""
    result = run_tiny("gradient_checking", "--mode", "quick", "--set", "directions=2")
    metrics = result.metrics
    assert metrics["passed"] == metrics["checks"] >= 20
    assert metrics["worst_error"] <= TOLERANCE
    assert metrics["faults_refused"] == metrics["faults_planted"] > 200
    assert metrics["kinks"] > 0
    kinks = {row[0]: row[3] for row in result.tables["checks"].rows}
    assert kinks["ReLU"] == 2 and kinks["Sigmoid"] == kinks["Linear"] == 0
    assert all(row[1] > 0 for row in result.tables["faults"].rows), "a fault was never planted"


def test_a_wrong_layer_fails_its_check() -> None:
    class Forgetful(Layer):
        def forward(self, x: np.ndarray) -> np.ndarray:
            self.remember(x)
            return x * x

        def backward(self, dy: np.ndarray) -> np.ndarray:
            return dy * self.recall()  # the 2 is missing

    report = _account.check(_checks.layer(Forgetful), np.random.default_rng(0))
    assert not report.passed and report.worst == pytest.approx(0.5)


def test_orders_of_the_differences() -> None:
    """Halving the step divides the error by 2, 4 and 64."""
    slope = np.cos(0.5)
    for name, factor in (("forward", 2), ("centred", 4), ("extrapolated", 64)):
        method = gradient_checking.METHODS[name][0]
        coarse, fine = (method(lambda t: float(np.sin(0.5 + t)), h) - slope for h in (0.2, 0.1))
        assert coarse / fine == pytest.approx(factor, rel=0.1)


# --- gradient_flow -----------------------------------------------------------------------


def test_gradient_flow(run_tiny: Callable[..., Result]) -> None:
    """The bars of the course, at 20 layers: 6 orders lost, or none of them."""
    result = run_tiny("gradient_flow", *TINY, "--set", "depths=5,20")
    assert result.metrics["sigmoid_orders_lost"] >= 6
    assert result.metrics["relu_he_orders"] <= 1
    assert result.metrics["sigmoid_batchnorm_orders"] <= 1
    assert result.metrics["batchnorm_scale_factor"] < 2
    assert result.metrics["relu_large_plain_factor"] > 1e3, "exploding"
    assert len(result.curves["arriving_sigmoid_xavier_plain_20"].y) == 20


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("dropout_study", {"rates": [0.0, 1.0]}, "rates must be"),
        ("dropout_study", {"wrong": [1.5]}, "wrong must be"),
        ("batchnorm_study", {"batch_sizes": [1, 4]}, "at least 2"),
        ("batchnorm_study", {"samples": 10}, "samples at least 11"),
        ("gradient_flow", {"depths": [1]}, "reach at least 2"),
        ("loss_landscape", {"batch_size": 1}, "at least 2"),
        ("loss_landscape", {"samples": 2}, "samples must be at least 3"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(
    name: str, changes: dict, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        runner.compute(small_run(name, tmp_path, changes))


# --- batchnorm_study ---------------------------------------------------------------------


def test_batchnorm_study(run_tiny: Callable[..., Result]) -> None:
    small = ("--epochs", "2", "--set", "batch_sizes=4,32", "--set", "width=32")
    result = run_tiny("batchnorm_study", *TINY, *small, "--lr", "0.1,1e9", "--batch-size", "16")
    blown = {(row[0], row[1]): row[4] for row in result.tables["rates"].rows}
    assert blown["without batch norm", 1e9] == 1 and blown["without batch norm", 0.1] == 0
    assert result.metrics["plain_best_lr"] == result.metrics["batchnorm_best_lr"] == 0.1
    assert result.metrics["batchnorm_test_accuracy"] > 0.3
    assert len(result.tables["batches"].rows) == 4
    assert "of the validation images, and 2 epochs" in result.answer


def test_a_rate_at_which_all_blew_up_is_no_best_rate(tmp_path: Path) -> None:
    """Where the other rate teaches nothing, guessing would be better; and one batch size."""
    changes = {"samples": 150, "seeds": 1, "epochs": 1, "width": 8, "lr": [1e-9, 1e12]}
    changes |= {"batch_sizes": [16], "batch_size": 16, "common_lr": 1e-9}
    result = runner.compute(small_run("batchnorm_study", tmp_path, changes))
    assert result.metrics["plain_best_lr"] == 1e-9
    assert result.metrics["plain_largest_lr"] == 1e-9 or "no rate" in result.answer
    assert "1 epochs" not in result.answer and "with 16)" not in result.answer


def test_batchnorm_in_words() -> None:
    plain, norm = batchnorm_study.ARMS.values()
    rates = [
        [label, lr, score, 0.0, 0, 2]
        for label, scores in ((plain, (0.3, 0.5, 0.8, 0.1)), (norm, (0.88, 0.9, 0.87, 0.4)))
        for lr, score in zip((1.0, 0.3, 0.03, 3.0), scores)
    ]
    assert batchnorm_study.tolerance(rates) == (
        "Validation accuracy is within 5 points of the best at rates from 0.03 to 1 with batch "
        "norm and at no rate without"
    )
    rates[2][2], rates[5][2] = 0.9, 0.5  # a hole
    assert "at the rates 0.03 and 1 with" in batchnorm_study.tolerance(rates)
    assert batchnorm_study.tolerance(rates).endswith("at the rate 0.03 without")
    assert batchnorm_study.change(0.05) == "loses 5.0 points"
    assert batchnorm_study.change(-0.014) == "gains 1.4 points"
    assert batchnorm_study.change(-1e-9) == "loses nothing"


def test_batch_statistics_leave_the_running_averages_alone() -> None:
    rng = np.random.default_rng(0)
    model = fully_connected_net([4, 8, 3], batchnorm=True, rng=rng)
    before = [array.copy() for array in model.buffers()]
    batch = rng.standard_normal((20, 4)).astype(np.float32), rng.integers(3, size=20)
    assert 0 <= batch_statistics(model, batch, 5) <= 1
    for array, old in zip(model.buffers(), before):
        np.testing.assert_array_equal(array, old)


def test_batch_statistics_judge_every_image_once() -> None:
    rng = np.random.default_rng(0)
    model = fully_connected_net([4, 8, 3], batchnorm=True, rng=rng)
    x = rng.standard_normal((20, 4)).astype(np.float32)
    other = copy.deepcopy(model)
    other.train()
    first, second, last = (other.forward(x[k : k + 7]).argmax(axis=1) for k in (0, 7, 13))
    right = np.concatenate([first, second, last[1:]])
    assert batch_statistics(model, (x, right), 7) == 1
    right[-1] = (right[-1] + 1) % 3
    assert batch_statistics(model, (x, right), 7) == 19 / 20


# --- dropout_study -----------------------------------------------------------------------


def test_dropout_study(run_tiny: Callable[..., Result]) -> None:
    small = ("--epochs", "20", "--set", "images=60", "--set", "rates=0.0,0.5", "--set", "width=32")
    result = run_tiny("dropout_study", *TINY, *small)
    assert len(result.tables["rates"].rows) == 4
    assert result.metrics["least_wrong_0.2_train_accuracy"] > 0.9, "it learns by heart"
    assert result.metrics["least_wrong_0.2_gap"] > 0.1
    for wrong in ("0", "0.2"):
        scores = {row[1]: row[4] for row in result.tables["rates"].rows if f"{row[0]:g}" == wrong}
        assert scores[result.metrics[f"best_wrong_{wrong}_rate"]] == max(scores.values())


def test_what_the_best_rate_does() -> None:
    metrics: dict[str, float] = {}
    for name, rate, test, gap in (("least", 0.0, 0.8, 0.2), ("best", 0.4, 0.85, -0.07)):
        key = f"{name}_wrong_0.125"
        metrics |= {f"{key}_rate": rate, f"{key}_gap": gap}
        metrics |= {f"{key}_test_accuracy": test, f"{key}_test_accuracy_std": 0.0}
    assert dropout_study.effect(metrics, 0.125, 1) == (
        "With 12.5% wrong labels rate 0.4 takes test accuracy from 80.0% to 85.0%; training is "
        "20.0 points above validation before and 7.0 points below after"
    )
    metrics |= {"best_wrong_0.125_rate": 0.0}
    assert "no rate is better than 0 " in dropout_study.effect(metrics, 0.125, 1)


def test_one_image_and_one_rate(tmp_path: Path) -> None:
    changes = {"samples": 30, "seeds": 1, "epochs": 1, "width": 4, "images": 1, "rates": [0.0]}
    result = runner.compute(small_run("dropout_study", tmp_path, changes | {"wrong": [0.0]}))
    assert result.answer.startswith("From 1 image: ") and "against" not in result.answer


def test_rates_and_shares_in_any_order_go_from_the_smallest_to_the_largest(tmp_path: Path) -> None:
    changes = {"samples": 30, "seeds": 1, "epochs": 1, "width": 4, "images": 5}
    lists = {"rates": [0.5, 0.0, 0.5], "wrong": [0.2, 0.0, 0.2]}
    result = runner.compute(small_run("dropout_study", tmp_path, changes | lists))
    found = [row[:2] for row in result.tables["rates"].rows]
    assert found == [[0.0, 0.0], [0.0, 0.5], [0.2, 0.0], [0.2, 0.5]]


def test_wrong_labels_are_wrong_and_as_many_as_asked_for() -> None:
    x, y = np.zeros((50, 2)), np.arange(50) % 10
    _, changed = dropout_study.with_wrong_labels((x, y), 0.2, 10, np.random.default_rng(0))
    assert (changed != y).sum() == 10
    assert changed.min() >= 0 and changed.max() < 10
    np.testing.assert_array_equal(y, np.arange(50) % 10)


# --- loss_landscape ----------------------------------------------------------------------


def test_loss_landscape(run_tiny: Callable[..., Result]) -> None:
    small = ("--epochs", "3", "--set", "points=4", "--set", "images=64", "--set", "depth=2")
    result = run_tiny("loss_landscape", *TINY, *small, "--batch-size", "32")
    assert result.arrays["plain"].shape == (1, 9, 9)
    for name in loss_landscape.VIEWS:
        assert result.metrics[f"{name}_rise"] > 0
        assert result.arrays[name][0, 4, 4] == pytest.approx(result.metrics[f"{name}_loss"])


def test_directions_are_as_long_as_the_weights_of_each_unit() -> None:
    model = fully_connected_net([4, 8, 3], batchnorm=True, rng=np.random.default_rng(0))
    directions = loss_landscape.filter_normalised(model, np.random.default_rng(1))
    for parameter, along in zip(model.parameters(), directions):
        if along.ndim == 2:
            lengths = np.linalg.norm(parameter.value, axis=0)
            np.testing.assert_allclose(np.linalg.norm(along, axis=0), lengths, rtol=1e-5)
        else:
            assert not along.any()


def test_the_plane_does_not_depend_on_a_scale_that_does_not_matter() -> None:
    """ReLU: a layer ten times larger and the next ten times smaller are the same function."""
    rng = np.random.default_rng(0)
    model = fully_connected_net([4, 8, 3], rng=rng, dtype=np.float64)
    batch = rng.standard_normal((20, 4)), rng.integers(3, size=20)
    span = np.linspace(-1, 1, 5)
    planes = []
    for factor in (1, 10):
        first, last = model.layers[0], model.layers[2]
        assert isinstance(first, Linear) and isinstance(last, Linear)
        first.weight.value *= factor
        last.weight.value /= factor
        around = np.random.default_rng(1)
        planes.append(loss_landscape.plane(model, batch, span, around, training=False))
    np.testing.assert_allclose(planes[0], planes[1], rtol=1e-10)
    assert planes[0][2, 2] == SoftmaxCrossEntropy()(model(batch[0]), batch[1])


def test_the_loss_may_also_fall() -> None:
    for rise, words in ((1.2, "+1.20"), (-0.07, "-0.07"), (-1e-9, "+0.00")):
        metrics = {"plain_rise": rise, "plain_rise_std": 0.0}
        assert loss_landscape.rise(metrics, "plain", 1) == words


def test_mean_loss_by_distance() -> None:
    span = np.linspace(-1, 1, 5)
    distance, means = loss_landscape.by_distance(np.hypot(*np.meshgrid(span, span)), span)
    np.testing.assert_allclose(distance, [0, 0.5, 1])
    np.testing.assert_allclose(means, distance, atol=0.15)
