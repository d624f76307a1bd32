"""Progress counts every step and tells the time that is left, of a resumed run as well."""

from __future__ import annotations

import io

import pytest

from utils.experiments import progress
from utils.experiments.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as its only item."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("xor", 20) as bar:
        for _ in range(8):
            clock[0] += 3.0
            bar.advance("97%")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "  xor: 4 of 20, about 48 s left, 97%",
        "  xor: 8 of 20, about 36 s left, 97%",
    ]


def test_what_a_resumed_run_has_behind_it_counts_but_not_as_time(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("cnn", 48) as bar:
        bar.skip(5)
        for _ in range(2):
            clock[0] += 100.0
            bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "  cnn: 6 of 48, about 4200 s left",
        "  cnn: 7 of 48, about 4100 s left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("cnn", 48) as bar:
        monkeypatch.setattr(bar.bar, "_time", lambda: bar.bar.start_t + 100.0 * (bar.done - 5))
        bar.skip(5)
        for _ in range(2):
            bar.advance("97%")
    seen = terminal.getvalue()
    assert "6/48 [01:40<1:10:00, 100.00s/it, 97%]" in seen and "7/48 [03:20<1:08:20" in seen
