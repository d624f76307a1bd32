"""The experiments that train the networks of section 3 on digits and photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from section3.experiments import cifar10_cnn, mnist_cnn
from section3.experiments._cnns import channel_statistics, load_images
from section3.experiments._learning import up_and_down
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.progress import Progress
from utils.experiments.results import Result
from utils.experiments.run import Run

TINY = ("--mode", "quick", "--data", "embedded", "--batch-size", "32")
SMALL: dict[str, Any] = {"samples": 150, "batch_size": 50, "epochs": 3, "filters": [4, 8]}


def small(folder: Path, name: str = "mnist_cnn", threads: int | None = 1, **changes: Any) -> Run:
    return small_run(name, folder, SMALL | changes, threads=threads)


def test_mnist_cnn(run_tiny: Callable[..., Result], tmp_path: Path) -> None:
    sizes = ("--samples", "300", "--epochs", "4", "--set", "seeds=2", "--set", "filters=8,16")
    result = run_tiny("mnist_cnn", *TINY, *sizes)
    assert result.metrics["test_accuracy"] > 0.3
    assert result.metrics["test_accuracy_std"] > 0
    assert result.arrays["confusion"].sum() == 360
    assert len(result.curves["validation"].y) == 4 and result.curves["validation"].n == 2
    wrong = 360 - np.trace(result.arrays["confusion"])
    assert f"the first run gets {wrong} wrong" in result.answer
    folder = tmp_path / "section3" / "mnist_cnn" / "checkpoints" / "quick"
    assert {path.name for path in folder.glob("*/*.npz")} == {"last.npz", "best.npz"}
    assert not (folder / "unfinished.json").exists()
    said = {"training: moved images, dropout": {}, "training": {"shift": 0, "dropout": 0}}
    for words, changes in said.items():
        result.info["settings"]["budget"] |= changes
        legend = mnist_cnn.draw(result)["accuracy"].axes[0].get_legend()
        assert legend is not None and legend.get_texts()[0].get_text() == words


def test_cifar10_cnn(run_tiny: Callable[..., Result]) -> None:
    """Figures and answer are about the network that is best on validation data."""
    models = "three_layer_cnn,conv_pool_3"
    sizes = ("--samples", "96", "--epochs", "1,2", "--lr", "0.002", "--set", f"models={models}")
    result = run_tiny("cifar10_cnn", *TINY, *sizes)
    rows = result.tables["models"].rows
    assert ",".join(row[0] for row in rows) == models
    assert [row[1] for row in rows] == [1, 3]  # convolutions
    assert [row[3] for row in rows] == [1, 2]  # epochs
    best = max(rows, key=lambda row: row[5])
    assert result.metrics["test_accuracy"] == best[6]
    assert np.trace(result.arrays["confusion"]) == round(1000 * best[6])
    title = cifar10_cnn.draw(result)["accuracy"].get_suptitle()
    assert {f"after {count}" in title for count in (1, 2)} == {True} and title.endswith("(n = 1)")


def test_every_model_scores_the_classes(tmp_path: Path) -> None:
    data = load_images(small(tmp_path, "cifar10_cnn", samples=20), "cifar10")
    for make in cifar10_cnn.MODELS.values():
        model = make(data, np.random.default_rng(0))
        assert model.forward(data.train[0][:2]).shape == (2, 10)


def test_one_number_of_epochs_is_for_all_models_and_two_are_not_for_three(tmp_path: Path) -> None:
    budget: dict[str, Any] = {"samples": 40, "models": ["three_layer_cnn"] * 3}
    with pytest.raises(UserError, match="one for each of three_layer_cnn"):
        runner.compute(small(tmp_path, "cifar10_cnn", **budget, epochs=[1, 2]))
    with pytest.raises(UserError, match="there is no model vgg"):
        runner.compute(small(tmp_path, "cifar10_cnn", models=["vgg"], epochs=[1]))
    with pytest.raises(UserError, match="models must differ"):
        runner.compute(small(tmp_path, "cifar10_cnn", **budget, epochs=[1]))


def test_the_best_model_and_the_worst_in_words() -> None:
    """Rows are [name, convolutions, parameters, epochs, seconds, validation and test accuracy]."""
    first, second = ["first", 1, 9, 3, 0.1, 0.4, 0.5], ["second", 1, 9, 1, 0.1, 0.5, 0.6]
    words = "second gets 60.0% of the test images right after 1 epoch"
    assert cifar10_cnn.best_and_worst([second]) == words
    assert (
        cifar10_cnn.best_and_worst([second, first])
        == f"{words}, 10.0 points more than first after 3"
    )
    assert cifar10_cnn.best_and_worst([[*first[:6], 0.6], second]) == (
        f"{words}, within 0.1 points of first after 3"
    )


def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    """Stopped after the first epoch of the second seed; with dropout, turns and shifts."""
    changes: dict[str, Any] = {"seeds": 2, "epochs": 2, "turn": 10.0}
    whole = runner.compute(small(tmp_path / "whole", **changes))
    calls = stop_at(3)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small(tmp_path / "cut", **changes))
    rest = runner.compute(small(tmp_path / "cut", **changes))
    assert len(calls) == 4  # one epoch was left
    assert_same_result(rest, whole)
    runner.compute(small(tmp_path / "cut", **changes))
    assert len(calls) == 4  # its result may not have been saved
    anew = small_run("mnist_cnn", tmp_path / "cut", SMALL | changes, resume=False)
    runner.compute(anew)
    assert len(calls) == 8


def test_without_resume_what_was_stopped_starts_anew(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    calls = stop_at(2)
    run = small(tmp_path)
    run.settings = replace(run.settings, resume=False)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(run)
    runner.compute(run)
    assert len(calls) == 2 + 3


def test_checkpoints_of_other_settings_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "advance", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        runner.compute(small(tmp_path, lr=0.02))
    assert_same_result(runner.compute(small(tmp_path)), runner.compute(small(tmp_path / "other")))


def test_same_numbers_on_any_number_of_threads(tmp_path: Path) -> None:
    """Batches of 100 images are cut into four."""
    first, second = (
        runner.compute(small(tmp_path / str(n), threads=n, batch_size=100)) for n in (1, 2)
    )
    assert_same_result(first, second)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [up_and_down(0.1, 50)(step) for step in range(50)]
    assert max(rates) == pytest.approx(0.1) and rates.index(max(rates)) == 10
    assert rates[0] < 0.02 and rates[-1] < 0.001
    assert up_and_down(0.1, 1)(0) >= 0  # even for a single step


@pytest.mark.slow
@pytest.mark.realdata
def test_a_cnn_of_two_convolutions_reaches_98_5_percent_on_real_mnist(
    real_data: Path, run_tiny: Callable[..., Result]
) -> None:
    short = ("--mode", "hybrid", "--data", "real", "--samples", "30000", "--epochs", "3")
    assert run_tiny("mnist_cnn", *short).metrics["test_accuracy"] >= 0.985


def test_statistics_of_more_pixels_than_float32_can_count() -> None:
    images = np.full((5000, 64, 64, 2), 0.9, np.float32)  # 20 million pixels, 2^24 are 17 million
    images[::2, :, :, 1] = 0.5
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, [0.9, 0.7], rtol=1e-6)
    np.testing.assert_allclose(std, [0, 0.2], atol=1e-3)
    assert mean.dtype == std.dtype == np.float32
