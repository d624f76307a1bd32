"""The experiments that compare networks of section 3, each run whole on a tiny budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from section1.experiments._training import of_runs, signed, spread
from section1.network import Sequential
from section2.experiments.batchnorm_study import ARMS as NORMS
from section3.experiments import batchnorm_cnn, cifar100_mlp_vs_cnn, pooling_comparison
from section3.experiments._cnns import ALONE, T95, Images, count_parameters, tied
from section3.models import mnist_cnn
from tests.runs import small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Result

TINY = ("--mode", "quick", "--data", "embedded", "--epochs", "1", "--set", "filters=4,8")


@pytest.fixture
def images() -> Images:
    """Eight random images of ten classes."""
    rng = np.random.default_rng(0)
    raw = rng.random((8, 12, 12, 3)).astype(np.float32)
    batch = raw, np.arange(8) % 10
    none, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    return Images(batch, batch, batch, raw, tuple("0123456789"), none, one)


# --- whole runs -----------------------------------------------------------------------------


def test_pooling_comparison(run_tiny: Callable[..., Result]) -> None:
    more = ("--samples", "300", "--batch-size", "32", "--set", "images=20")
    result = run_tiny("pooling_comparison", *TINY, *more)
    parameters = {result.metrics[f"{arm}_parameters"] for arm in pooling_comparison.ARMS}
    assert len(parameters) == 1
    for arm in pooling_comparison.ARMS:
        unchanged = result.curves[f"{arm}_unchanged"].y
        assert unchanged[0] == 1 > unchanged[-1]
        assert result.metrics[f"{arm}_test_accuracy"] > 0.2
    assert result.arrays["test_accuracy"].shape == (3, 2)


def test_batchnorm_cnn(run_tiny: Callable[..., Result]) -> None:
    more = ("--samples", "150", "--batch-size", "32", "--lr", "0.1,1e30", "--set", "convolutions=1")
    result = run_tiny("batchnorm_cnn", *TINY, *more)
    blown = {(row[0], row[1]): row[4] for row in result.tables["rates"].rows}
    assert blown[NORMS["plain"], 1e30] == 2 and blown[NORMS["plain"], 0.1] == 0
    assert result.metrics["plain_best_lr"] == 0.1
    shares = result.arrays["batchnorm_through"]  # (looks, C)
    assert shares.shape[1] == 8 and ((shares >= 0) & (shares <= 1)).all()
    assert shares[0].mean() == pytest.approx(0.5, abs=0.1)  # normalised, beta is still 0


def test_a_run_that_blew_up_is_not_averaged_over_nor_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = batchnorm_cnn.train, list[Any]()

    def blow_up(*arguments: Any, **options: Any) -> Any:
        calls.append(options["key"])
        if len(calls) == 1:  # the first seed, without batch norm
            raise FloatingPointError
        return train(*arguments, **options)

    monkeypatch.setattr(batchnorm_cnn, "train", blow_up)
    budget = {"samples": 60, "epochs": 1, "seeds": 3, "filters": [4], "convolutions": 1}
    result = runner.compute(small_run("batchnorm_cnn", tmp_path, budget | {"lr": [0.1]}))
    assert calls == [(0,), (1,), (2,)] * 2
    assert "(of 3 runs each 3 and 2 did not blow up)" in result.answer
    assert len(result.arrays["plain_tests"]) == 2
    assert result.arrays["plain_through"].shape == result.arrays["batchnorm_through"].shape


def test_a_rate_at_which_all_blew_up_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it counts as guessing, and the other rate does worse than that."""
    monkeypatch.setattr(
        batchnorm_cnn,
        "validation_scores",
        lambda runs, _: [0.1 if t is None else 0.05 for t in runs],
    )
    budget = {"samples": 60, "epochs": 1, "seeds": 1, "filters": [4], "convolutions": 1}
    result = runner.compute(small_run("batchnorm_cnn", tmp_path, budget | {"lr": [1e30, 0.1]}))
    assert result.metrics["plain_best_lr"] == 0.1
    assert "1 epoch gives" in result.answer


def test_images_that_cannot_be_halved_are_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    budget = {"samples": 40, "filters": [4, 4, 4]}
    with pytest.raises(UserError, match="28x28 cannot be halved 3 times"):
        runner.compute(small_run("pooling_comparison", tmp_path, budget))


def test_cifar100_mlp_vs_cnn(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("cifar100_mlp_vs_cnn", *TINY, "--samples", "200")
    rows, metrics = result.tables["networks"].rows, result.metrics
    assert len(rows) == 4 and metrics["guesses"] == 5
    assert metrics["mlp_parameters"] == pytest.approx(metrics["cnn_parameters"], rel=0.05)
    assert metrics["cnn_straight_top"] >= metrics["cnn_straight_test"]
    assert "embedded stand-in" in result.info["data"]["cifar100"]["description"]
    straight, permuted = result.arrays["straight"], result.arrays["permuted"]
    np.testing.assert_allclose(straight.sum(axis=(1, 2)), permuted.sum(axis=(1, 2)), rtol=1e-5)
    assert (straight != permuted).any()


# --- parts ----------------------------------------------------------------------------------


def test_networks_that_pool_start_from_the_same_weights(images: Images) -> None:
    first, *others = (
        pooling_comparison.network(arm, [4, 8], images, np.random.default_rng(0)).parameters()
        for arm in pooling_comparison.ARMS
    )
    for other in others:
        for mine, its in zip(first, other, strict=True):
            np.testing.assert_array_equal(mine.value, its.value)


def test_moved_images() -> None:
    image = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4, 1)
    moved = pooling_comparison.moved(image, 1, -2)[0, :, :, 0]
    np.testing.assert_array_equal(moved, [[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0]])
    np.testing.assert_array_equal(pooling_comparison.moved(image, 0, 0), image)


def test_verdicts() -> None:
    ahead, near, behind = [0.90, 0.91, 0.92], [0.90, 0.91, 0.93], [0.70, 0.71, 0.72]
    verdict = pooling_comparison.verdict
    words = "average-pool ties with max-pool and strided convolution within noise"
    assert verdict(np.array([ahead, near, ahead])) == words
    words = "average-pool is ahead of strided convolution, and ties with max-pool within noise"
    assert verdict(np.array([ahead, near, behind])) == words
    words = "average-pool is ahead of max-pool and strided convolution"
    assert verdict(np.array([behind, ahead, behind])) == words
    words = "max-pool ties with average-pool and strided convolution within noise"
    assert verdict(np.array([ahead, ahead, ahead])) == words


def test_the_last_is_no_better_than_the_second_for_being_noisy() -> None:
    """Nothing is said that would put the noisy third arm ahead of the second."""
    spreads = np.array([-2, -1, 0, 1, 2]) / 1000
    runs = np.stack([0.980 + spreads / 5, 0.975 + spreads / 5, 0.970 + 10 * spreads])
    words = "max-pool is ahead of average-pool, and ties with strided convolution within noise"
    assert pooling_comparison.verdict(runs) == words


def test_single_runs_tell_nothing() -> None:
    assert tied([0.5], [0.9]) and tied([0.5], [0.9, 0.91])
    assert pooling_comparison.verdict(np.array([[0.99], [0.5], [0.1]])) == ALONE
    arrays = {
        f"{arm}_{order}_test_accuracy": np.array([accuracy])
        for arm, order, accuracy in (
            ("mlp", "straight", 0.2), ("cnn", "straight", 0.5), ("cnn", "permuted", 0.35)
        )
    }  # fmt: skip
    words = cifar100_mlp_vs_cnn.compared(arrays, "straight")
    assert words == "the CNN is 30.0 points ahead of the MLP"
    assert cifar100_mlp_vs_cnn.effect(arrays, "cnn") == "costs the CNN 15.0 points"
    arrays["mlp_straight_test_accuracy"] = arrays["cnn_permuted_test_accuracy"] = np.array([0.5002])
    words = "CNN and MLP lie within 0.1 points"
    assert cifar100_mlp_vs_cnn.compared(arrays, "straight") == words
    words = "changes the CNN by less than 0.1 points"
    assert cifar100_mlp_vs_cnn.effect(arrays, "cnn") == words
    assert [signed(x) for x in (-0.01, -3, 2.25)] == ["+0.0", "-3.0", "+2.2"]
    assert cifar100_mlp_vs_cnn.alone(1) == f"; {ALONE}" and not cifar100_mlp_vs_cnn.alone(2)
    metrics = {"cnn_test": 0.5, "cnn_test_std": 0.0}
    assert cifar100_mlp_vs_cnn.percent(metrics, "cnn", 1) == "50.0%"
    assert spread(1.25, 2) == " ± 1.25" and of_runs(1) == "n = 1"


def test_verdicts_on_batch_norm() -> None:
    plain, better = np.array([0.50, 0.51, 0.52]), np.array([0.60, 0.61, 0.62])
    ahead = "With batch norm 10.0 points more of the test images are right"
    assert batchnorm_cnn.verdict(plain, better) == f"{ahead}."
    assert "tie" in batchnorm_cnn.verdict(plain, plain[1:])
    assert batchnorm_cnn.verdict(plain[1:2], better) == f"{ahead} ({ALONE})."
    level = "With batch norm and without it test accuracies lie within 0.1 points"
    assert batchnorm_cnn.verdict(plain[1:2], plain[1:2]) == f"{level} ({ALONE})."


def test_two_sets_of_runs_are_told_apart_by_students_t() -> None:
    np.testing.assert_allclose(T95, stdtrit(np.arange(1, len(T95) + 1), 0.975), atol=0.006)
    five, two = np.arange(5.0), np.array([0.0, 1.0])
    for other, margin in ((five, 2.31 * 1), (two, 12.71 * np.sqrt(0.5 + 0.25))):
        at_equal_means = other - other.mean() + five.mean()
        for first, second in ((five, at_equal_means), (at_equal_means, five)):
            assert tied(first, second + 0.99 * margin)
            assert not tied(first, second - 1.01 * margin)


def test_measuring_channels_leaves_the_running_averages_alone(images: Images) -> None:
    model = batchnorm_cnn.network([4, 6], 2, True, images, np.random.default_rng(0))
    before = [array.copy() for array in model.buffers()]
    assert batchnorm_cnn.let_through(model, images.raw).shape == (6,)
    for array, old in zip(model.buffers(), before):
        np.testing.assert_array_equal(array, old)


def test_the_mlp_has_as_many_parameters_as_the_cnn(images: Images) -> None:
    mlp, cnn = (
        count_parameters(
            cifar100_mlp_vs_cnn.network(arm, images, [16, 32], np.random.default_rng())
        )
        for arm in cifar100_mlp_vs_cnn.ARMS
    )
    assert abs(mlp - cnn) <= (12 * 12 * 3 + 11) / 2  # half of what one more unit would cost
    expected = mnist_cnn([16, 32], 0, shape=images.shape, rng=np.random.default_rng())
    assert cnn == count_parameters(expected)


def test_top_guesses(images: Images) -> None:
    class Scores(Sequential):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return np.tile([0.1, 0.9, 0.8, 0.0], (len(x), 1))

    batch = images.raw, np.array([1, 1, 2, 2, 2, 0, 0, 3])
    shares = [cifar100_mlp_vs_cnn.top(Scores(), batch, k, 1) for k in (1, 2, 3, 4)]
    assert shares == [2 / 8, 5 / 8, 7 / 8, 1]


@pytest.mark.parametrize("score", [0.3, np.nan])
def test_equal_scores_are_ranked_as_argmax_does(images: Images, score: float) -> None:
    class Same(Sequential):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return np.full((len(x), 10), score)

    batch = images.raw, np.array([0, 0, 4, 5, 6, 7, 8, 9])
    shares = [cifar100_mlp_vs_cnn.top(Same(), batch, k, 1) for k in (1, 5)]
    assert shares == [2 / 8, 3 / 8]


def test_pixels_change_places_with_all_their_channels(images: Images) -> None:
    order = np.random.default_rng(0).permutation(12 * 12)
    permuted = cifar100_mlp_vs_cnn.permuted(images.raw, order)
    np.testing.assert_array_equal(permuted[3, 0, 5], images.raw[3, order[5] // 12, order[5] % 12])
    back = cifar100_mlp_vs_cnn.permuted(permuted, np.argsort(order))
    np.testing.assert_array_equal(back, images.raw)
