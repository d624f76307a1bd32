"""A course of three tiny experiments, to see how the frame treats them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import config
import main
from utils.experiments import forecast, registry

GOOD = '''"""Does the frame work?

More words.
"""
import numpy as np
from utils.experiments.results import Curve, Result, Table
from utils.output import plots

CALLS = []

def compute(run):
    CALLS.append(run.budget)
    run.note_data("points", "three points")
    rng = run.rng(1)
    curve = Curve.over_runs([1, 2], rng.random((3, 2)), "epoch", "loss")
    return Result("It works.", "score", {"score": float(rng.random()), "bad": float("nan")},
                  {"loss": curve}, {"t": Table(["a"], [[1]])}, {"values": rng.random(3)})

def draw(result):
    figure, axes = plots.grid()
    plots.plot_curve(axes[0, 0], result.curves["loss"], "loss")
    figure.suptitle("It works")
    return {"loss": figure}
'''
OTHER = GOOD.replace("Does the frame work?", "Does another work?")
BROKEN = '''"""Does a failure stay alone?"""
def compute(run):
    raise ZeroDivisionError("a planted fault")
'''
BUDGETS = {
    "good": {"seconds": (1, 2, 3), "epochs": (1, 2, 3), "lr": 0.5, "sizes": [1, 2], "fast": True},
    "broken": {"seconds": (1, 2, 3), "samples": 10},
    "other": {"seconds": (1, 2, 3), "epochs": 4, "word": "abc"},
}


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """`course("good", "--seed", "1")` runs main.py on the tiny course; results in tmp_path/out."""
    folder = tmp_path / "section9" / "experiments"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    for name, source in (("good", GOOD), ("other", OTHER), ("broken", BROKEN)):
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setattr(config, "BUDGETS", {9: BUDGETS})
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.setattr(registry, "SECTIONS", {9: "Tiny"})
    monkeypatch.setattr(forecast, "slowness", lambda threads: 1.0)  # measured, it takes a while
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["main.py", "--results", str(tmp_path / "out"), *words])
        return main.main()

    yield call
    for name in [name for name in sys.modules if name.split(".")[0] == "section9"]:
        del sys.modules[name]
