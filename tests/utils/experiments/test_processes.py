"""The frame in one of several processes that torchrun has started: one writes, one speaks."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.experiments import machine, results, runner
from utils.experiments.budget import Budget
from utils.experiments.registry import Experiment
from utils.experiments.run import Run, Settings

Course = Callable[..., int]
Become = Callable[[int], None]


@pytest.fixture
def process(course: Course, monkeypatch: pytest.MonkeyPatch) -> Become:
    """`process(1)` makes this process the second of two; the tiny course may run in both."""
    monkeypatch.setattr(runner, "in_several_processes", lambda experiments: experiments)
    monkeypatch.setattr(machine, "PATIENCE", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")

    def become(rank: int) -> None:
        monkeypatch.setenv("RANK", str(rank))

    become(0)
    return become


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").rglob("*") if path.is_file())


def test_the_first_process_writes_and_speaks(
    course: Course, process: Become, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert course("good") == 0
    assert {"arrays.npz", "loss.pdf", "loss.png", "result.json"} <= set(files(tmp_path))
    assert results.load(tmp_path / "out" / "section9" / "good").info["processes"] == 2
    assert "It works." in capsys.readouterr().out


def test_the_others_compute_and_do_neither(
    course: Course, process: Become, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    process(1)
    assert course("good", "other") == 0
    assert len(sys.modules["section9.experiments.good"].CALLS) == 1
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rank", [0, 1])
def test_all_keep_what_is_done(course: Course, process: Become, tmp_path: Path, rank: int) -> None:
    """Or one would wait for the other."""
    assert course("good") == 0
    (tmp_path / "out" / "section9" / "good" / "loss.png").unlink()
    calls = len(sys.modules["section9.experiments.good"].CALLS)
    process(rank)
    assert course("good", "--resume") == 0
    assert len(sys.modules["section9.experiments.good"].CALLS) == calls
    assert ("loss.png" in files(tmp_path)) == (rank == 0)


def test_after_a_failure_the_first_process_ends(
    course: Course, process: Become, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert course("--all") == 1  # good, broken, other
    assert files(tmp_path).count("failure.json") == 1
    assert files(tmp_path).count("result.json") == 1, "went on, though the others cannot follow"
    out, err = capfd.readouterr()
    assert "a planted fault" in out and "a planted fault" not in err


def test_a_process_that_is_alone_with_an_error_says_so_in_the_end(
    course: Course, process: Become, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    process(1)
    assert course("--all") == 1
    assert not (tmp_path / "out").exists()
    out, err = capfd.readouterr()
    assert not out and err.startswith("process 1: FAILED: ZeroDivisionError: a planted fault")
    assert course("good", "--epochs", "0") == 2
    out, err = capfd.readouterr()
    assert not out and err.startswith("process 1: main.py: epochs must be a whole number")


def test_the_others_leave_the_first_time_to_speak(
    process: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[float]()
    monkeypatch.setattr(machine.time, "sleep", waited.append)
    machine.complain("first")
    assert not waited
    process(1)
    machine.complain("second")
    assert waited == [machine.PATIENCE]


def test_the_menu_is_for_one_process(
    course: Course, process: Become, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail("asked"))
    assert course() == 2
    assert "--all, --list or names" in capfd.readouterr().err


def test_only_section_4_runs_in_several_processes() -> None:
    one, four = (Experiment(section, 1, f"e{section}", "?") for section in (1, 4))
    assert runner.in_several_processes([one, four]) == [four]
    with pytest.raises(UserError, match="torchrun is for section 4 alone"):
        runner.in_several_processes([one])


def test_checkpoints_are_kept_or_cleared_by_the_first_process(
    process: Become, tmp_path: Path
) -> None:
    def stopped(resume: bool = True, learned_from: str = "drawn digits") -> bool:
        """Whether a run that begins now finds what the one before it left; it stops, too."""
        settings = Settings("quick", 0, "auto", tmp_path, resume=resume)
        run = Run(Experiment(4, 1, "e", "?"), settings, Budget())
        run.note_data("mnist", learned_from)
        with pytest.raises(KeyboardInterrupt), run.resumable() as folder:
            found.append((folder / "last.pt").exists())
            if machine.writes():
                (folder / "last.pt").touch()
            raise KeyboardInterrupt
        return found[-1]

    found = list[bool]()
    assert not stopped() and stopped()
    process(1)
    assert stopped(resume=False), "the second process has cleared the folder"
    process(0)
    assert not stopped(resume=False)
    assert stopped()
    assert not stopped(learned_from="MNIST"), "it would go on with what other data have taught"


def test_a_checkpoint_that_cannot_be_cleared_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def held_open(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "held open by another program", str(folder))

    run = Run(Experiment(4, 1, "e", "?"), Settings("quick", 0, "auto", tmp_path), Budget())
    with run.resumable() as folder:
        (folder / "last.pt").touch()
    monkeypatch.setattr(shutil, "rmtree", held_open)
    with pytest.raises(PermissionError, match="held open"), run.resumable():
        pytest.fail("an old checkpoint is there to go on with")


@pytest.mark.parametrize("words", ["abc", "0", "", "1.5"])
def test_a_number_of_processes_that_is_none(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", words)
    assert course("good") == 2
    said = f"main.py: WORLD_SIZE must be a whole number of at least 1, got {words}"
    assert capsys.readouterr().err.strip() == said.strip()


@pytest.mark.parametrize("section", [1, 4])
def test_the_number_of_processes_is_a_setting_of_section_4(
    process: Become, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, section: int
) -> None:
    run = Run(Experiment(section, 1, "e", "?"), Settings("quick", 0, "auto", tmp_path), Budget())
    two = run.identity()
    monkeypatch.delenv("WORLD_SIZE")
    assert (run.identity() == two) == (section == 1)
