"""ResNet-18 on photographs: both recipes, whole and interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from section2.schedules import multi_step
from section4 import checkpoint
from section4.experiments import resnet18_cifar10
from section4.training import load_weights
from section4.vision.resnet import ResNet, resnet18
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Result

SMALL: dict[str, Any] = {"samples": 60, "width": 2, "epochs": 2, "batch_size": 20}
SMALL |= {"window_epochs": 1}


def test_resnet18_cifar10(run_tiny: Callable[..., Result], tmp_path: Path) -> None:
    where = ("--data", "embedded", "--device", "cpu", "--precision", "float32", "--threads", "1")
    sizes = ("--samples", "300", "--epochs", "3", "--set", "width=4", "--set", "recipes=sgd,adam")
    result = run_tiny("resnet18_cifar10", "--mode", "quick", *where, *sizes, "--lr", "0.1,0.003")
    rows = result.tables["recipes"].rows
    assert [row[:2] for row in rows] == [["sgd", 3], ["adam", 3]]
    best = max(rows, key=lambda row: row[4])
    assert result.metrics["test_accuracy"] == best[5]
    assert np.trace(result.arrays["confusion"]) == round(1000 * best[5])
    names = ["test_accuracy", "test_accuracy_twice"]
    assert [result.metrics[name] for name in names] == best[5:7] and best[5] != best[6]
    assert f"{best[5]:.1%} of the test images right, {best[6]:.1%} when it sees" in result.answer
    assert result.metrics["parameters"] == sum(p.numel() for p in resnet18(width=4).parameters())
    assert len(result.curves["adam, loss"].y) == 3 * 9  # 270 images in batches of 32
    assert result.info["engine"].startswith("cpu, float32")
    assert result.info["engine"].endswith(", 1 thread")
    folder = tmp_path / "section4" / "resnet18_cifar10" / "checkpoints" / "quick"
    assert not (folder / "unfinished.json").exists()
    load_weights(folder / "adam" / "best.pt", resnet18(width=4))
    average = checkpoint.load(folder / "sgd" / "last.pt")["average"]
    assert average is not None and int(average["n_averaged"]) == 27


@pytest.mark.usefixtures("one_setting")
def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    """Stopped after the first epoch of the second recipe."""
    changes = SMALL | {"recipes": ["sgd", "adam"], "lr": [0.1, 0.003]}
    whole = runner.compute(small_run("resnet18_cifar10", tmp_path / "whole", changes))
    notes = stop_at(3)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small_run("resnet18_cifar10", tmp_path / "cut", changes))
    rest = runner.compute(small_run("resnet18_cifar10", tmp_path / "cut", changes))
    assert len(notes) == 4  # one epoch was left
    assert rest.info["resumed"] and not whole.info["resumed"]
    assert_same_result(rest, whole)


def test_the_setting_of_a_run_that_is_stopped_is_kept(
    tmp_path: Path, stop_at: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever timing would say now: other settings give other numbers; other threads do not."""
    stop_at(1)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small_run("resnet18_cifar10", tmp_path, SMALL, precision="auto"))
    (file,) = tmp_path.rglob("engine.json")
    kept = json.loads(file.read_text())
    monkeypatch.setattr("section4.engine.choose", None)  # would fail, if it were called
    again = small_run("resnet18_cifar10", tmp_path, SMALL, precision="auto", threads=2)
    result = runner.compute(again)
    assert json.loads(file.read_text()) == kept | {"threads": 2}
    assert result.info["engine"] == f"{kept['setting']}, 2 threads"


def test_adam_learns_at_a_tenth_and_a_hundredth_in_the_end() -> None:
    schedule = resnet18_cifar10.two_drops(1.0, 100)
    expected = multi_step(1.0, [60, 85])
    assert [schedule(step) for step in range(100)] == [expected(step) for step in range(100)]
    assert schedule(84) == pytest.approx(0.1) and schedule(85) == pytest.approx(0.01)


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_training_begins_with_windows_and_goes_on_with_whole_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cutmix: float
) -> None:
    sides, holes, labels = [], [], []
    forward, loss = ResNet.forward, torch.nn.functional.cross_entropy

    def noted(model: ResNet, x: torch.Tensor) -> torch.Tensor:
        if model.training:
            sides.append(x.shape[2])
            alike = (x.flatten(2) == x.flatten(2).roll(1, 2)).all(1)  # neighbours in a row
            holes.append(alike.any(1).float().mean().item())
        return forward(model, x)

    def noted_labels(scores: torch.Tensor, y: torch.Tensor, **options: Any) -> torch.Tensor:
        if scores.requires_grad:
            labels.append(y.ndim)
        return loss(scores, y, **options)

    monkeypatch.setattr(ResNet, "forward", noted)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noted_labels)
    changes = SMALL | {"epochs": 3, "window": 20, "window_epochs": 2, "hole": 6, "crop": 0}
    runner.compute(small_run("resnet18_cifar10", tmp_path, changes | {"cutmix": cutmix}))
    steps = 3  # 54 images in batches of 20
    assert sides == 2 * steps * [20] + steps * [32]
    in_windows, in_whole = holes[: 2 * steps], holes[2 * steps :]
    assert min(in_windows) == 1 or cutmix  # which may cover a hole
    assert min(in_windows) > max(in_whole)
    assert labels == 2 * steps * [1 + bool(cutmix)] + steps * [1]  # blended: shares of the classes


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("window", 0, "window must be 1 to 32, .* got 0"),
        ("window", 33, "window must be 1 to 32, .* got 33"),
        ("hole", 24, "hole must be smaller than the window of 24, got 24"),
    ],
)
def test_a_window_larger_than_the_images_is_refused(
    tmp_path: Path, key: str, value: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        runner.compute(small_run("resnet18_cifar10", tmp_path, SMALL | {key: value}))


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    changes = SMALL | {"recipes": ["lion"], "lr": [0.1]}
    with pytest.raises(UserError, match="there is no recipe lion: choose from sgd or adam"):
        runner.compute(small_run("resnet18_cifar10", tmp_path, changes))


def test_the_threads_of_pytorch_are_those_that_were_asked_for(tmp_path: Path) -> None:
    run = small_run("resnet18_cifar10", tmp_path, SMALL | {"epochs": 1}, threads=1)
    result = runner.compute(run)
    assert torch.get_num_threads() == 1
    assert " after 1 epoch in " in result.answer
    figure = resnet18_cifar10.draw(result)["curves"]
    title, loss = figure.get_suptitle(), figure.axes[2]
    assert " after 1 epoch (" in title and title.endswith(" s)")
    assert loss.get_legend_handles_labels()[1] == ["sgd (smoothed labels)"] and loss.get_legend()
