"""Fixtures for all tests."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import main
from utils.experiments import registry, results
from utils.experiments.progress import Progress
from utils.experiments.results import Result

torch.set_num_threads(1)  # for arrays as small as here, more would only wait for each other
COUNTS = ("faults injected", "inputs tried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow tests first: in the end no process then waits long for another one's last test."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests in tests/faults counted, added up. Here, for xdist reads no other file."""
    totals = Counter(dict.fromkeys((*COUNTS, "failures"), 0))
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if "tests/faults/" in report.nodeid and report.when == "call":
                for name, number in report.user_properties:
                    totals[name] += number if name in COUNTS else 0
                totals["failures"] += outcome == "failed"
    if any(totals.values()):
        told = ", ".join(f"{name} {number:,}" for name, number in totals.items())
        terminalreporter.write_line(f"tests/faults: {told}")


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where COURSE_DATA_DIR names none."""
    folder = os.environ.get("COURSE_DATA_DIR")
    if not folder:
        pytest.skip("needs real data sets: set COURSE_DATA_DIR")
    return Path(folder)


@pytest.fixture
def one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 4's engine has nothing to choose from: timing would not choose alike every time."""
    from section4 import engine

    monkeypatch.setattr(engine, "settings", lambda *_, **__: [engine.PLAIN])


@pytest.fixture
def full_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that does not get to its end fails, unless an exception ended it."""
    close = Progress.__exit__

    def check(bar: Progress, *exception: object) -> None:
        close(bar, *exception)
        assert any(exception) or bar.done == bar.total, f"{bar.done} of {bar.total} steps"

    monkeypatch.setattr(Progress, "__exit__", check)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch, full_bars: None) -> Callable[[int], list[str]]:
    """`notes = stop_at(3)`: Ctrl-C comes, once, at the third step of progress from now on.

    The list takes the note of every step, that one's too.
    """

    def prepare(number: int) -> list[str]:
        advance, notes = Progress.advance, list[str]()

        def stop(bar: Progress, note: str = "") -> None:
            notes.append(note)
            if len(notes) == number:
                raise KeyboardInterrupt
            advance(bar, note)

        monkeypatch.setattr(Progress, "advance", stop)
        return notes

    return prepare


@pytest.fixture
def run_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_bars: None
) -> Callable[..., Result]:
    """`run_tiny("xor", "--epochs", "3")` runs main.py on one experiment and returns its result.

    Whatever the budget, a run must end well, say its answer in words, keep every number
    finite, leave figures that are more than a blank page, get to the end of its progress bar, and
    be drawn again by --replot; of single runs it must state no spread, not even one of 0.
    """

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["main.py", "--results", str(tmp_path), *words])
        return main.main()

    def run(name: str, *words: str) -> Result:
        (experiment,) = registry.select([name])
        assert experiment.question.endswith("?")
        assert call(name, *words) == 0
        folder = tmp_path / f"section{experiment.section}" / name
        result = results.load(folder)
        assert result.answer.strip() and "nan" not in result.answer.lower().split()
        assert "±" not in result.answer or "seeds=1" not in words
        known = {key for key, number in result.metrics.items() if math.isfinite(number)}
        assert all(key.endswith("_std") for key in result.metrics.keys() - known), result.metrics
        assert "seeds=1" not in words or not any(key.endswith("_std") for key in known), known
        assert result.info["data"], "the result does not say what data it rests on"
        figures = {path: path.stat().st_size for path in folder.glob("*.png")}
        assert figures and min(figures.values()) > 5_000
        for path in figures:
            path.unlink()
        assert call(name, "--replot") == 0
        assert set(folder.glob("*.png")) == set(figures)
        return result

    return run
