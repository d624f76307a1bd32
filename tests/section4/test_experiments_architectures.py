"""The experiments that compare architectures: plain and residual; MLP, CNN and ResNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from section3.experiments._cnns import ALONE
from section4.engine import cross_entropy
from section4.experiments import cifar100_architectures as three
from section4.experiments import resnet_vs_plain as skips
from section4.experiments._engine import seeded
from section4.experiments._vision import Trained, shrunk
from section4.vision.resnet import thin_resnet
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Result
from utils.experiments.run import Run

TINY = ("--mode", "quick", "--device", "cpu", "--precision", "float32", "--data", "embedded")
SMALL: dict[str, Any] = {
    "depths": [8, 14], "seeds": 1, "epochs": 2, "samples": 40, "batch_size": 12, "looked_at": 2,
}  # fmt: skip


def small(folder: Path, **changes: Any) -> Run:
    return small_run("resnet_vs_plain", folder, SMALL | changes)


# --- resnet_vs_plain --------------------------------------------------------------------------


def test_images_made_smaller_have_the_means_of_squares() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    small = shrunk(images, 2)
    assert small.shape == (2, 2, 2, 3) and small.dtype == np.float32
    np.testing.assert_allclose(small[1, 0, 1], images[1, :2, 2:].mean((0, 1)))
    with pytest.raises(UserError, match="side must divide the 4 pixels"):
        shrunk(images, 3)


def test_resnet_vs_plain(run_tiny: Callable[..., Result]) -> None:
    sizes = ("--samples", "40", "--epochs", "3", "--batch-size", "12", "--set", "seeds=2")
    result = run_tiny(
        "resnet_vs_plain", *TINY, *sizes, "--set", "depths=14,8", "--set", "looked_at=2"
    )
    table, metrics, curves = result.tables["networks"], result.metrics, result.curves
    assert [row[:2] for row in table.rows] == [
        ["without skips", 8], ["without skips", 14], ["with skips", 8], ["with skips", 14],
    ]  # fmt: skip
    assert all(row[-1] == 2 and len(row) == len(table.columns) for row in table.rows)
    losses = [row[table.columns.index("training loss")] for row in table.rows]
    assert metrics["plain_depth_costs"] == pytest.approx(losses[1] - losses[0])
    assert metrics["residual_depth_costs"] == pytest.approx(losses[3] - losses[2])
    for name in ("plain_8", "plain_14", "residual_8", "residual_14"):
        assert curves[f"{name}_training"].n == 2 and len(curves[f"{name}_training"].y) == 3
        assert result.arrays[f"{name}_loss"].mean() == pytest.approx(
            curves[f"{name}_training"].y[-1]
        )
        depth = int(name.split("_")[1])
        layers = curves[f"{name}_layers"]
        assert layers.x == list(range(1, depth))  # every convolution, and not the layer of scores
        assert layers.y[0] - layers.y[-1] == pytest.approx(metrics[f"{name}_decades"])
        assert list(curves[f"{name}_early"].x) == list(range(9))  # 3 epochs of 36 images by 12
        assert curves[f"{name}_growth"].y[0] == 1
        norm, turn = curves[f"{name}_norm"], curves[f"{name}_early"]
        assert norm.n == 2 and norm.y[0] > turn.y[0]  # the weights are longer than 1
        assert curves[f"{name}_alike"].y[0] > 0.9 > curves[f"{name}_alike"].y[-1]
        assert curves[f"{name}_alike"].y[skips.NEAR] == pytest.approx(metrics[f"{name}_alike"])
    assert "9 steps with images of 32 pixels: a short training" in result.answer
    assert "(n = 2)" in result.answer
    assert f"{losses[0]:.2f} and {losses[1]:.2f} without skips" in result.answer


def test_early_layers_are_the_stem_and_the_first_third_of_the_blocks() -> None:
    model = thin_resnet(14)
    expected = [model.conv1]
    for block in model.blocks()[:2]:
        expected += [block.conv1, block.conv2]
    assert [id(weight) for weight in skips.early(model)] == [id(c.weight) for c in expected]
    assert len(skips.convolutions(model)) == 13


def test_lengths_are_those_of_all_weights_as_one_vector() -> None:
    model = thin_resnet(8)
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    weights = skips.convolutions(model)[:2]
    for weight in weights:
        weight.grad = torch.full_like(weight, 2.0)
    count = sum(weight.numel() for weight in weights)
    square = sum(weight.square().sum().item() for weight in weights)
    assert skips.lengths(weights) == pytest.approx(((4 * count) ** 0.5, square**0.5))


@pytest.mark.parametrize("skip", [True, False])
def test_with_batch_norm_filters_10_times_as_long_turn_a_hundredth_as_far(skip: bool) -> None:
    images = torch.randn(4, 3, 16, 16), torch.arange(4)
    model = seeded(1, lambda: thin_resnet(8, skip=skip))
    before, alike = skips.at_the_start(model, images, 5)
    with torch.no_grad():
        for weight in skips.convolutions(model):
            weight.mul_(10)
    after, alike_after = skips.at_the_start(model, images, 5)
    np.testing.assert_allclose(after, np.array(before) / 100, rtol=0.01)
    np.testing.assert_allclose(alike_after, alike, atol=0.01)
    assert all(weight.grad is None for weight in model.parameters())  # it looked at a copy


def test_the_first_turn_is_the_gradient_of_the_loss() -> None:
    images = torch.randn(3, 3, 16, 16), torch.arange(3)
    model = seeded(2, lambda: thin_resnet(8))
    turns, alike = skips.at_the_start(model, images, 0)
    cross_entropy()(model.train(), images)[0].backward()
    weight = skips.convolutions(model)[-1]
    assert weight.grad is not None
    assert turns[-1] == pytest.approx((weight.grad.norm() / weight.norm()).item(), rel=1e-4)
    assert len(alike) == len(skips.DISTANCES) and max(map(abs, alike)) <= 1


@pytest.mark.usefixtures("one_setting")
def test_a_run_that_is_stopped_keeps_the_gradients_that_it_has_seen(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    """Stopped in the second network after its first epoch."""
    whole = runner.compute(small(tmp_path / "whole"))
    calls = stop_at(4)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small(tmp_path / "cut"))
    rest = runner.compute(small(tmp_path / "cut"))
    assert len(calls) < 4 + 8  # it did not begin anew
    assert_same_result(rest, whole)


def test_depths_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="depths must be two numbers or more, got 8 alone"):
        runner.compute(small(tmp_path, depths=[8, 8]))
    with pytest.raises(UserError, match=r"depths: depth must be 8, 14, 20 .* got 10"):
        runner.compute(small(tmp_path, depths=[8, 10]))


@pytest.mark.parametrize(
    ("shallow", "deep", "words"),
    [
        ([1.0], [1.5], "raises it by 0.50"),
        ([1.5], [1.25], "lowers it by 0.25"),
        ([1.5], [1.5], "changes it by less than 0.01"),
        ([1.5], [1.497], "changes it by less than 0.01"),
        ([1.0, 2.0], [0.999, 1.999], "changes it by no more than noise (+0.00)"),
        ([1.0, 1.01, 0.99], [1.5, 1.52, 1.51], "raises it by 0.51"),
        ([1.0, 2.0, 3.0], [1.5, 2.5, 3.5], "changes it by no more than noise (+0.50)"),
    ],
)
def test_the_effect_of_depth_is_said_as_it_is(
    shallow: list[float], deep: list[float], words: str
) -> None:
    arrays = {
        f"{arm}_{depth}_loss": np.full(len(deep), 1.5 - depth / 100)
        for arm in skips.ARMS
        for depth in (20, 56)
    }
    arrays |= {"plain_20_loss": np.array(shallow), "plain_56_loss": np.array(deep)}
    said = skips.effect({"shallow": 20, "deep": 56}, arrays)
    alone = f"; {ALONE}" if len(deep) == 1 else ""
    assert said == f"{words} without skips and lowers it by 0.36 with skips{alone}"


def test_a_gradient_of_zero_has_a_place_in_words_and_figures() -> None:
    """Where ReLUs have died none comes through to the early layers."""
    early = {0: (1.0, 2.0), 1: (0.0, 3.0)}
    history: Any = SimpleNamespace(loss=[1.0], val_metric=[0.5])
    one = skips.Learned([1.0], [1.0], early, Trained(nn.Identity(), history, 0, 0, torch.ones(1)))
    growth, decades = skips.at_the_end(one)
    assert growth == 1.5 and -40 < decades < -30
    curves = skips.seen([one])
    assert curves["early"].y == pytest.approx([np.log10(0.5), decades])
    assert curves["norm"].y == pytest.approx([0, decades])


def test_a_cosine_is_never_minus_zero_and_a_single_step_is_one(tmp_path: Path) -> None:
    result = runner.compute(small(tmp_path, side=8, epochs=1, batch_size=40))
    assert ". 1 step with images of 8 pixels: a short training" in result.answer
    metrics = result.metrics | {"plain_14_alike": -0.001, "residual_14_alike": 0.5}
    assert "a cosine of 0.00 without and 0.50 with them" in skips.of_gradients(metrics)


# --- cifar100_architectures -------------------------------------------------------------------


def test_cifar100_architectures(run_tiny: Callable[..., Result]) -> None:
    sizes = ("--samples", "120", "--epochs", "2", "--batch-size", "27", "--set", "seeds=2")
    result = run_tiny("cifar100_architectures", *TINY, *sizes, "--set", "width=4")
    table, metrics = result.tables["networks"], result.metrics
    assert [row[0] for row in table.rows] == ["MLP", "CNN", "ResNet-18"]
    assert all(row[-1] == 2 and len(row) == len(table.columns) for row in table.rows)
    mlp, cnn = 3073 * 512 + 513 * 256 + 257 * 100, 9 * (12 + 32 + 128) + 2 * 28 + 17 * 100
    assert [row[1] for row in table.rows][:2] == [mlp, cnn]
    for number, name in enumerate(three.LABELS):
        assert 0 <= metrics[f"{name}_top1"] <= metrics[f"{name}_top5"] <= 1
        assert metrics[f"{name}_top1"] == pytest.approx(table.rows[number][3])
        assert metrics[f"{name}_top1"] == pytest.approx(result.arrays[f"{name}_top1"].mean())
        assert result.curves[name].n == 2 and list(result.curves[name].x) == [1, 2]
        seconds = 60 * result.curves[f"{name}, time"].x[-1]
        assert seconds == pytest.approx(metrics[f"{name}_seconds"])
        assert f"{metrics[f'{name}_parameters']:,} parameters" in result.answer
    assert "After 2 epochs (8 steps)" in result.answer
    assert result.info["engine"].count("cpu, float32") == 3


def test_the_right_class_among_the_first_guesses() -> None:
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 0, 9, 1], [1, 5, 2, 4]])
    y = torch.tensor([0, 3, 3, 2])  # found by guess 1, 4, 2, 3
    assert [three.among_first(scores, y, n) for n in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1]


def test_the_order_of_the_networks_is_said_as_it_is() -> None:
    def verdict(**tests: list[float]) -> str:
        return three.verdict({f"{name}_top1": np.array(runs) for name, runs in tests.items()})

    said = verdict(mlp=[0.5, 0.5], cnn=[0.1, 0.3], resnet18=[0.3, 0.31])
    assert said.startswith("the MLP is ")
    assert "19.5 points ahead of the ResNet-18 and" in said
    assert said.endswith("30.0 points ahead of the CNN (no more than noise)")
    assert "noise" not in verdict(mlp=[0.5, 0.51], cnn=[0.4, 0.41], resnet18=[0.3, 0.31])
    alone = verdict(mlp=[0.5], cnn=[0.4], resnet18=[0.45])
    assert alone.endswith(f"10.0 points ahead of the CNN ({ALONE})")
    said = verdict(mlp=[0.5, 0.52], cnn=[0.5, 0.52], resnet18=[0.1, 0.1])
    assert said == "the MLP is level with the CNN and 41.0 points ahead of the ResNet-18"


def test_each_network_is_trained_with_as_many_threads_as_are_best_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, seen, train = iter((3, 2, 1)), list[int](), three.train
    monkeypatch.setattr("section4.engine.best_threads", lambda *_: next(best))

    def noted(*words: Any, **options: Any) -> Trained:
        seen.append(torch.get_num_threads())
        return train(*words, **options)

    monkeypatch.setattr(three, "train", noted)
    changes = {"samples": 20, "epochs": 1, "batch_size": 20, "width": 4, "seeds": 1}
    runner.compute(small_run("cifar100_architectures", tmp_path, changes, threads=None))
    assert seen == [3, 2, 1]


def test_a_single_epoch_of_a_single_step_is_one(tmp_path: Path) -> None:
    changes = {"samples": 20, "epochs": 1, "batch_size": 20, "width": 4, "seeds": 1}
    result = runner.compute(small_run("cifar100_architectures", tmp_path, changes))
    assert result.answer.startswith("After 1 epoch (1 step) the ")
    assert "after 1 epoch, " in three.draw(result)["accuracy"].get_suptitle()
