"""The experiment on transfer, whole on tiny budgets, with each source of a body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import main
from section4.compat import models
from section4.experiments import _transfer, transfer_learning
from section4.experiments._transfer import few
from section4.vision import pretrained
from tests.runs import small_run
from utils.data import load
from utils.data.sources import SOURCES
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Curve, Result
from utils.experiments.run import Run

WHERE = ("--mode", "quick", "--data", "embedded", "--device", "cpu", "--precision", "float32")
SIZES = ("--samples", "60", "--epochs", "2", "--batch-size", "16", "--set", "width=4")
SHORT = ("--set", "images=1,2", "--set", "steps=2", "--set", "tested=20", "--set", "seeds=2")
TINY = (*WHERE, *SIZES, *SHORT)
SMALL: dict[str, Any] = {
    "samples": 60, "epochs": 2, "batch_size": 16, "width": 4, "images": [2, 3], "steps": [2],
    "tested": 20, "seeds": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision's file belongs, in a folder of PyTorch's that is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = pretrained.official_file()
    path.parent.mkdir(parents=True)
    return path


def small(folder: Path, mode: str = "quick", data: Any = "embedded", **changes: Any) -> Run:
    return small_run("transfer_learning", folder, SMALL | changes, mode=mode, data=data)


def test_transfer_learning_with_a_body_pretrained_here(
    run_tiny: Callable[..., Result], tmp_path: Path, hub: Path
) -> None:
    result = run_tiny("transfer_learning", *TINY)
    assert not hub.exists()
    for words in (result.answer, result.info["data"]["pretrained weights"]["description"]):
        assert "pretrained here on telling by how much an image is turned" in words
    assert "Drawn shapes that look the same when turned" in result.answer
    rows = result.tables["arms"].rows
    assert [row[:2] for row in rows] == [
        [name, n] for name in transfer_learning.ARMS.values() for n in (1, 2)
    ]
    for arm in transfer_learning.ARMS:
        runs = result.arrays[f"{arm}_test_accuracy"]
        assert runs.shape == (2, 2) and ((runs >= 0) & (runs <= 1)).all()
        assert result.metrics[f"{arm}_2"] == pytest.approx(runs[:, 1].mean())
        assert result.curves[arm].n == 2
    assert len(result.tables["pretraining"].rows) == 2
    folder = tmp_path / "section4" / "transfer_learning"
    assert {path.stem for path in folder.glob("*.png")} == {"accuracy", "pretraining", "turns"}
    kept = folder / "checkpoints" / "quick" / "pretraining"
    assert {path.name for path in kept.iterdir()} == {"last.pt", "best.pt"}


def test_transfer_learning_finds_and_uses_torchvision_s_file(
    run_tiny: Callable[..., Result], tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    theirs = models.resnet18()
    torch.save(theirs.state_dict(), hub)
    used: list[_transfer.Pretrained] = []
    find_or_make = transfer_learning.find_or_make

    def seen(*arguments: Any) -> _transfer.Pretrained:
        used.append(find_or_make(*arguments))
        return used[-1]

    monkeypatch.setattr(transfer_learning, "find_or_make", seen)
    result = run_tiny(
        "transfer_learning", *TINY, "--resize", "33", "--set", "images=1", "--set", "seeds=1"
    )
    assert "by torchvision on ImageNet, seeing images of 33 pixels" in result.answer
    used_data = result.info["data"]["pretrained weights"]
    assert used_data["provenance"] == "unverified copy" and "33 pixels" in used_data["description"]
    assert not (tmp_path / "section4/transfer_learning/checkpoints/quick/pretraining").exists()
    figures = {path.stem for path in (tmp_path / "section4/transfer_learning").glob("*.png")}
    assert figures == {"accuracy"}
    (source,) = used
    assert source.body.side == 33
    for name, weight in theirs.named_parameters():  # fine-tuning was done on a copy
        if not name.startswith("fc."):
            assert torch.equal(weight, source.body.net.get_parameter(name)), name


def test_a_damaged_file_ends_the_run_with_one_sentence(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.write_bytes(b"cut short")
    with pytest.raises(UserError, match="is damaged or holds more than weights"):
        runner.compute(small(tmp_path))
    torch.save(models.resnet34().state_dict(), hub)
    command = ["main.py", "--results", str(tmp_path), "transfer_learning", *TINY]
    monkeypatch.setattr("sys.argv", command)
    assert main.main() == 2
    assert "does not hold the weights of a ResNet-18: delete it" in capsys.readouterr().out


def test_only_hybrid_and_full_with_real_data_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []

    def no_network() -> str:
        asked.append("for the file")
        return "no network"

    monkeypatch.setattr(pretrained, "download_official", no_network)
    for mode, data in (("quick", "auto"), ("quick", "real"), ("hybrid", "embedded")):
        assert not _transfer.fetched(small(tmp_path, mode, data))
    assert not asked and "downloads nothing" in capsys.readouterr().out
    assert not _transfer.fetched(small(tmp_path, "hybrid", "auto"))
    assert asked and "no ImageNet weights (no network)" in capsys.readouterr().out


def test_labels_of_cifar100_are_used_where_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set on disk is played by the drawn one."""
    files = dict.fromkeys(SOURCES["cifar100"].files, Path())
    monkeypatch.setattr(_transfer.disk, "find", lambda *_: files)
    loaded = []

    def load_embedded(run: Run, name: str) -> Any:
        loaded.append(name)
        data = load(name, policy="embedded")
        run.note_data(name, data.description, data.provenance)
        return data

    monkeypatch.setattr(Run, "load", load_embedded)
    run = small(tmp_path, data="auto", seeds=1, images=[2])
    result = runner.compute(run)
    assert loaded == ["cifar10", "cifar100"]
    assert "pretrained here on the 100 classes of CIFAR-100" in result.answer
    assert "turned" not in result.arrays
    assert result.metrics["pretraining_chance"] == 0.01

    files.popitem()  # of a part the rest would be drawn
    run = small(tmp_path / "part", data="auto", seeds=1, images=[2])
    assert "without labels" in runner.compute(run).answer
    assert loaded[2:] == ["cifar10"]


@pytest.mark.usefixtures("one_setting")
def test_a_pretraining_that_is_stopped_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    whole = runner.compute(small(tmp_path / "whole", seeds=1, images=[2]))
    calls = stop_at(1)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small(tmp_path / "cut", seeds=1, images=[2]))
    rest = runner.compute(small(tmp_path / "cut", seeds=1, images=[2]))
    assert sum(note.startswith("pretraining") for note in calls) == 2  # one epoch was left
    for arm in transfer_learning.ARMS:
        name = f"{arm}_test_accuracy"
        np.testing.assert_array_equal(rest.arrays[name], whole.arrays[name])


def test_fewer_images_are_among_more_and_every_class_has_as_many() -> None:
    labels = np.arange(50) % 3
    one, four, all_of_them = (few(labels, n, np.random.default_rng(0)) for n in (1, 4, 99))
    assert np.bincount(labels[four]).tolist() == [4, 4, 4]
    assert set(one) <= set(four) <= set(all_of_them) == set(range(50))
    assert set(four) != set(few(labels, 4, np.random.default_rng(1)))


def test_the_table_has_the_steps_and_the_time_that_each_arm_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look at an image takes one second, and all else none."""
    now, look = [0], transfer_learning.look

    def slow(model: Any, pair: Any, *words: Any) -> torch.Tensor:
        now[0] += len(pair[0])
        return look(model, pair, *words)

    monkeypatch.setattr(transfer_learning, "look", slow)
    clock = SimpleNamespace(perf_counter=lambda: float(now[0]))
    monkeypatch.setattr(transfer_learning, "time", clock)
    run = small(tmp_path, seeds=1, images=[2, 200, 500], steps=[3, 2, 9])
    result = runner.compute(run)
    columns, rows = result.tables["arms"].columns, result.tables["arms"].rows
    kinds = ("images of each class", "training time (s)", "steps")
    found = [[row[columns.index(kind)] for kind in kinds] for row in rows]
    # 20 and 54 images, in batches of 16: 2 and 4 an epoch; more than there are, only once.
    assert found == [[2, 0, 4], [5.4, 0, 4], [2, 20, None], [5.4, 54, None], [2, 0, 4], [5.4, 0, 4]]
    assert "frozen_200" in result.metrics and "frozen_500" not in result.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lr": [0.1]}, "lr must be three rates"), ({"steps": [1, 2, 3]}, "steps must be one number")],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        runner.compute(small(tmp_path, **change))


def test_words_follow_the_numbers() -> None:
    """Ahead, behind and within noise, and never a claim beyond them."""
    scratch = np.array([[0.2, 0.3, 0.4], [0.21, 0.31, 0.41], [0.19, 0.29, 0.39]])
    change = np.array([0.1, 0.001, -0.1])
    arrays = {"scratch_test_accuracy": scratch, "frozen_test_accuracy": scratch + change}
    words = transfer_learning.verdict(arrays, "frozen", [5, 10, 50])
    assert words.startswith("Frozen features are ahead of training from scratch with 5, ")
    assert "within noise of training from scratch with 10" in words
    assert "behind training from scratch with 50 images" in words
    arrays["fine_tuned_test_accuracy"] = scratch
    title = transfer_learning.title(arrays, [5, 10, 50])
    assert "frozen features are 10.0 points ahead with 5" in title
    assert "10.0 points behind with 50" in title
    x = [5, 10, 50]
    curves = {
        arm: Curve.over_runs(x, 100 * arrays[f"{arm}_test_accuracy"], "", "")
        for arm in transfer_learning.ARMS
    }
    words = transfer_learning.saving(arrays, curves, "frozen")  # 30% with 5; scratch with 10
    assert words == " What frozen features reach with 5 takes about 10 from scratch."
    assert transfer_learning.saving(arrays, curves, "fine_tuned") == ""
    far = {**arrays, "frozen_test_accuracy": scratch + 0.5}
    curves["frozen"] = Curve.over_runs(x, 100 * far["frozen_test_accuracy"], "", "")
    assert "takes more than 50, more than 50 and more than 50" in transfer_learning.saving(
        far, curves, "frozen"
    )
    assert transfer_learning.listed(["5", "10", "50"]) == "5, 10 and 50"
    assert transfer_learning.listed(["5"]) == "5"


def test_a_single_image_and_arms_that_are_level() -> None:
    arrays = {
        f"{arm}_test_accuracy": np.array([[0.5, mean], [0.5, mean + 0.01]])
        for arm, mean in (("scratch", 0.2), ("frozen", 0.2), ("fine_tuned", 0.6))
    }
    assert transfer_learning.verdict(arrays, "frozen", [1]) == (
        "Frozen features are within noise of training from scratch with 1 image of each class."
    )
    assert transfer_learning.verdict(arrays, "fine_tuned", [1, 2]) == (
        "Fine-tuning is ahead of training from scratch with 2, "
        "within noise of training from scratch with 1 image of each class."
    )
    assert transfer_learning.title(arrays, [1, 2]) == (
        "Against training from scratch frozen features are as good with 1 image and as good with "
        "2 images; fine-tuning is as good with 1 image and 40.0 points ahead with 2 images of each "
        "class"
    )


def test_scratch_that_gets_worse_with_more_images_gets_as_far_with_fewer() -> None:
    noise = np.array([[-0.01], [0.0], [0.01]])
    shares = {"scratch": [0.3, 0.35, 0.2, 0.2, 0.4], "frozen": [0.1, 0.1, 0.3, 0.35, 0.1]}
    arrays = {f"{arm}_test_accuracy": np.array(mean) + noise for arm, mean in shares.items()}
    x = [5, 10, 20, 30, 50]
    curves = {
        arm: Curve.over_runs(x, 100 * np.array([mean]), "", "") for arm, mean in shares.items()
    }
    assert transfer_learning.saving(arrays, curves, "frozen") == (
        " What frozen features reach with 20 and 30 takes no more than 5 and about 10 from scratch."
    )


def test_one_epoch_and_one_turn_that_is_guessed_right() -> None:
    line = Curve([1], [50.0])
    metrics = {"pretraining_chance": 0.25, "pretraining_accuracy": 0.5}
    curves = {"loss": line, "training": line, "held-out": line}
    arrays = {"turned": np.zeros((1, 4, 4, 4, 3)), "guessed_turns": np.array([[0, 0, 0, 0]])}
    result = Result("", "pretraining_chance", metrics, curves, {}, arrays)
    title = transfer_learning.draw_pretraining(result).get_suptitle()
    assert "right after 1 epoch (chance: 25%" in title
    title = transfer_learning.draw_turns(result).get_suptitle()
    assert title.endswith("of these 4 turns 1 is guessed right")
