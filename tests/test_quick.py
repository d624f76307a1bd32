"""The first command of the README: everything, in QUICK, on the data that come with the course."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import main
from utils.experiments import registry, results


@pytest.mark.slow
def test_everything_runs_on_embedded_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--all", "--mode", "quick", "--data", "embedded", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    assert main.main() == 0
    memory = dict[str, float]()
    for experiment in registry.all_experiments():
        folder = tmp_path / f"section{experiment.section}" / experiment.name
        result = results.load(folder)
        assert result.answer and list(folder.glob("*.png"))
        assert not (folder / "failure.json").exists()
        memory[experiment.name] = result.info["peak_memory_mb"] or 0
    most = max(memory, key=lambda name: memory[name])
    assert memory[most] < 3000, f"{most} took {memory[most]:.0f} MB"
