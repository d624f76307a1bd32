"""The first command of the README: everything, in QUICK, on the data that come with the course."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

import main
from utils.experiments import registry, results

ALL = registry.all_experiments()
FIRST = ("activation_functions", "cnn_gradient_checking", "resnet18_cifar10",
         "sliding_window_detection", "numpy_gan", "attention_from_scratch")  # fmt: skip
STARTS = [0, *([experiment.name for experiment in ALL].index(name) for name in FIRST[1:])]
PARTS = [ALL[start:end] for start, end in pairwise([*STARTS, len(ALL)])]  # for several processes


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=FIRST)
def test_everything_runs_on_embedded_data(
    part: list[registry.Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [experiment.name for experiment in part]
    words += ["--mode", "quick", "--data", "embedded", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    assert main.main() == 0
    memory = dict[str, float]()
    for experiment in part:
        folder = tmp_path / f"section{experiment.section}" / experiment.name
        result = results.load(folder)
        assert result.answer and list(folder.glob("*.png"))
        assert not (folder / "failure.json").exists()
        memory[experiment.name] = result.info["peak_memory_mb"] or 0
    most = max(memory, key=lambda name: memory[name])
    assert memory[most] < 3000, f"{most} took {memory[most]:.0f} MB"


def test_the_parts_are_everything() -> None:
    assert [experiment for part in PARTS for experiment in part] == ALL
