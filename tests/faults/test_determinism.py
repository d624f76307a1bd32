"""The same seed gives the same numbers: twice, on any number of threads, stopped or not.

Each experiment runs twice through main.py: once on one thread, from start to end; once more on
two, where Ctrl-C comes half-way and `--resume` goes on. All of result.json and of arrays.npz must
be the same bit for bit, but for times and the machine. With PyTorch both runs are on one thread,
for the order of its sums depends on how many there are, and with the engine's plain setting, for
else it times which one is fastest.

Experiments with a test of their own for this are not repeated here (see `test_same_numbers...`
and `test_a_run_that_is_stopped...` in tests/section1 to 4).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main
from tests.runs import TIME, assert_same_result
from utils.experiments import results, runner
from utils.experiments.registry import Experiment
from utils.experiments.results import Result

ONE_SEED = "--set seeds=1 --epochs 2"
IMAGES = f"{ONE_SEED} --samples 200 --batch-size 100"
NUMPY = {
    "activation_functions": "--set seeds=2 --samples 50",
    "xor": "--set seeds=2 --epochs 5 --set hidden=2",
    "decision_boundaries": f"{ONE_SEED} --set shapes=0,8",
    "universal_approximation": f"{ONE_SEED} --set widths=2,8 --set targets=sines",
    "regression": f"{ONE_SEED} --samples 10,40 --batch-size 40",
    "initialization": "--set seeds=1 --samples 200 --set depth=3 --set width=64 --set steps=5",
    "sanity_checks": f"{IMAGES} --set steps=10",
    "fashion_mlp": IMAGES,
    "gradient_flow": "--set seeds=1 --samples 200 --set depths=5 --set width=32",
    "batchnorm_study": f"{IMAGES} --set batch_sizes=20,60 --set width=32 --lr 0.1",
    "dropout_study": f"{IMAGES} --set images=60 --set rates=0.0,0.5 --set width=32",
    "loss_landscape": f"{IMAGES} --set points=2 --set images=40 --set depth=2",
    "cifar10_cnn": "--samples 40 --epochs 3 --batch-size 20 --set models=three_layer_cnn --lr 0.01",
    "pooling_comparison": f"{IMAGES} --set images=20",
    "batchnorm_cnn": f"{ONE_SEED} --samples 80 --batch-size 40 --lr 0.1 --set convolutions=1",
    "cifar100_mlp_vs_cnn": f"{ONE_SEED} --samples 100 --batch-size 50 --set filters=4,8",
}
PYTORCH = {
    "augmentation_study": "--set seeds=1 --epochs 1 --samples 20 --set width=4",
    "cifar100_architectures": f"{ONE_SEED} --samples 24 --batch-size 12 --set width=4",
}
MACHINE = (
    "threads", "seconds", "resumed", "peak_memory_mb", "finished", "versions", "code", "machine",
    "figures",
)  # fmt: skip
TAKES = re.compile(r"\d[\d.]* (s|times as long|of the time|of that with)\b")  # in an answer
Course = Callable[..., int]
Record = Callable[[str, object], None]


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch) -> Course:
    """main.py on the embedded data, without drawing and publishing what it finds."""

    def no_figures(experiment: Experiment, result: Result, folder: Path) -> None:
        results.add_info(folder, figures=[])

    def call(folder: Path, *words: str) -> int:
        fixed = ("--mode", "quick", "--data", "embedded", "--results", str(folder))
        monkeypatch.setattr(sys, "argv", ["main.py", *words, *fixed])
        return main.main()

    monkeypatch.setattr(runner, "draw", no_figures)
    monkeypatch.setattr(runner, "publish", lambda settings: None)
    return call


def found(folder: Path) -> tuple[Result, dict[str, Any]]:
    """The one result in a folder, and its record without arrays, times and machine."""
    (path,) = folder.rglob("result.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    record["answer"] = TAKES.sub("", record["answer"])
    record["info"] = {key: fact for key, fact in record["info"].items() if key not in MACHINE}
    for kind in ("metrics", "curves", "tables"):
        del record[kind]  # these are compared by assert_same_result
    if any(TIME.search(name) for name in record["arrays"]):
        record.pop("arrays_sha256")
    return results.load(path.parent), record


def assert_same_run(first: Path, second: Path) -> None:
    (one, record), (other, again) = found(first), found(second)
    assert_same_result(one, other)
    assert record == again


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_again_on_two_threads_and_stopped_half_way(
    name: str,
    course: Course,
    tmp_path: Path,
    stop_at: Callable[[int], list[str]],
    record_property: Record,
) -> None:
    words = (name, *NUMPY[name].split())
    assert course(tmp_path / "whole", *words, "--threads", "1") == 0
    stop_at(2)
    assert course(tmp_path / "again", *words, "--threads", "2") == 130
    assert not list((tmp_path / "again").rglob("result.json"))
    assert course(tmp_path / "again", *words, "--threads", "2", "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    record_property("faults injected", 1)


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("name", PYTORCH)
def test_pytorch_again_and_stopped_half_way(
    name: str,
    course: Course,
    tmp_path: Path,
    stop_at: Callable[[int], list[str]],
    record_property: Record,
) -> None:
    where = ("--device", "cpu", "--precision", "float32", "--threads", "1")
    words = (name, *PYTORCH[name].split(), *where)
    assert course(tmp_path / "whole", *words) == 0
    stop_at(3)
    assert course(tmp_path / "again", *words) == 130
    assert course(tmp_path / "again", *words, "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    record_property("faults injected", 1)


def test_another_seed_gives_other_numbers(course: Course, tmp_path: Path) -> None:
    words = ("fashion_mlp", *NUMPY["fashion_mlp"].split())
    for seed in ("0", "1"):
        assert course(tmp_path / seed, *words, "--seed", seed) == 0
    with pytest.raises(AssertionError):
        assert_same_result(found(tmp_path / "0")[0], found(tmp_path / "1")[0])
