"""The frame as a person meets it: through `main.main()`, its exit codes and its files."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import config
import main
from tests.utils.experiments.conftest import GOOD
from utils.data import DataError
from utils.errors import UserError
from utils.experiments import forecast, machine, registry, results, runner
from utils.experiments.budget import Budget, parse
from utils.experiments.run import Run, Settings

Course = Callable[..., int]
PLACE = Path("out") / "section9"


def record(folder: Path, name: str = "good") -> dict:
    return json.loads((folder / PLACE / name / "result.json").read_text())


def modified(folder: Path, name: str = "good") -> int:
    return (folder / PLACE / name / "result.json").stat().st_mtime_ns


def one_sentence(capsys: pytest.CaptureFixture) -> str:
    """What was said on stderr: a single line without a traceback."""
    said = capsys.readouterr().err.strip()
    assert said.startswith("main.py: ") and "\n" not in said and "Traceback" not in said
    return said


# --- a run --------------------------------------------------------------------------------


def test_a_run_writes_result_arrays_and_figure(course: Course, tmp_path: Path) -> None:
    assert course("good", "--seed", "3") == 0
    names = sorted(path.name for path in (tmp_path / PLACE / "good").iterdir())
    assert names == ["arrays.npz", "loss.pdf", "loss.png", "result.json"]
    saved = record(tmp_path)
    assert saved["answer"] == "It works."
    assert saved["metrics"]["bad"] is None  # JSON knows no NaN
    info = saved["info"]
    assert info["question"] == "Does the frame work?"
    assert info["settings"]["seed"] == 3 and info["settings"]["mode"] == config.mode()
    assert info["settings"]["budget"] == {"epochs": 1, "lr": 0.5, "sizes": [1, 2], "fast": True}
    assert info["data"]["points"]["provenance"] == "generated"
    assert info["seconds"] > 0 and info["versions"]["numpy"] == np.__version__
    assert {"cpu", "cores", "gpu", "system"} <= info["machine"].keys()
    assert {"commit", "dirty"} == info["code"].keys()
    peak = machine.peak_memory_mb()
    assert peak is None or info["peak_memory_mb"] > 10


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_millions_of_bytes(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    """Linux counts in 1,024 bytes, whatever it calls them."""
    status = "Name:\tpython\nVmHWM:\t  250000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path: status)
    assert machine.peak_memory_mb() == 256
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(Path, "read_text", lambda path: "")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=250_000))
    assert machine.peak_memory_mb() == 0.25 * unit


def test_what_is_saved_can_be_loaded(course: Course, tmp_path: Path) -> None:
    assert course("good") == 0
    result = results.load(tmp_path / PLACE / "good")
    assert np.isnan(result.metrics["bad"]) and result.arrays["values"].shape == (3,)
    assert result.curves["loss"].n == 3 and len(result.curves["loss"].std or []) == 2
    assert result.tables["t"].rows == [[1]]


def test_same_seed_same_numbers_another_seed_others(course: Course, tmp_path: Path) -> None:
    scores = []
    for seed in ("1", "1", "2"):
        assert course("good", "--seed", seed) == 0
        scores.append(record(tmp_path)["metrics"]["score"])
    assert scores[0] == scores[1] != scores[2]


def test_experiments_do_not_share_random_numbers(course: Course, tmp_path: Path) -> None:
    assert course("good", "other") == 0
    assert record(tmp_path)["metrics"] != record(tmp_path, "other")["metrics"]


def test_every_key_has_random_numbers_of_its_own(tmp_path: Path) -> None:
    experiment = registry.Experiment(9, 1, "good", "?")
    run = Run(experiment, Settings("quick", 0, "auto", tmp_path), Budget())
    keys: list[tuple[int, ...]] = [(), (0,), (0, 0), (1,), (0, 1), (1, 0)]
    assert len({run.rng(*key).random() for key in keys}) == len(keys)
    assert run.rng(1, 0).random() == run.rng(1, 0).random()


def test_a_failure_is_recorded_and_the_rest_goes_on(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert course("--all") == 1
    assert record(tmp_path, "good") and record(tmp_path, "other")
    failure = json.loads((tmp_path / PLACE / "broken" / "failure.json").read_text())
    assert "a planted fault" in failure["error"] and "Traceback" in failure["traceback"][0]
    out = capsys.readouterr().out
    assert "ZeroDivisionError: a planted fault" in out and "Traceback" not in out
    assert "score 0." in out and "three points" in out  # the table at the end


def test_budget_changes_reach_the_experiment(course: Course, tmp_path: Path) -> None:
    assert course("good", "--epochs", "7", "--set", "sizes=3,4,5", "--set", "fast=no") == 0
    budget = record(tmp_path)["info"]["settings"]["budget"]
    assert budget == {"epochs": 7, "lr": 0.5, "sizes": [3, 4, 5], "fast": False}


@pytest.mark.parametrize(("mode", "epochs"), [("quick", 1), ("hybrid", 2), ("full", 3)])
def test_mode_picks_the_budget(course: Course, tmp_path: Path, mode: str, epochs: int) -> None:
    assert course("good", "--mode", mode) == 0
    assert record(tmp_path)["info"]["settings"]["budget"]["epochs"] == epochs


def test_section_label_and_name_choose_the_same(course: Course, tmp_path: Path) -> None:
    assert course("9.1") == 0
    first = modified(tmp_path)
    assert not (tmp_path / PLACE / "other").exists()
    assert course("9") == 1  # the whole section, with the broken one
    assert modified(tmp_path) > first and record(tmp_path, "other")


# --- again --------------------------------------------------------------------------------


def test_resume_skips_what_is_done_with_the_same_settings(course: Course, tmp_path: Path) -> None:
    assert course("good") == 0
    first = modified(tmp_path)
    assert course("good", "--resume", "--threads", "1") == 0
    assert modified(tmp_path) == first
    assert course("good", "--resume", "--epochs", "9") == 0
    assert modified(tmp_path) > first


def test_resume_draws_what_was_not_yet_drawn(course: Course, tmp_path: Path) -> None:
    assert course("good") == 0
    assert record(tmp_path)["info"]["figures"] == ["loss.png"]
    first, figure = modified(tmp_path), tmp_path / PLACE / "good" / "loss.png"
    figure.unlink()
    assert course("good", "--resume") == 0
    assert figure.exists() and modified(tmp_path) == first


def test_a_costlier_result_is_kept_unless_forced(course: Course, tmp_path: Path) -> None:
    assert course("good", "--mode", "full") == 0
    assert course("good", "--mode", "quick") == 0
    assert record(tmp_path)["info"]["settings"]["mode"] == "full"
    assert course("good", "--mode", "quick", "--force") == 0
    assert record(tmp_path)["info"]["settings"]["mode"] == "quick"


def test_replot_draws_without_computing(course: Course, tmp_path: Path) -> None:
    assert course("good") == 0
    figure = tmp_path / PLACE / "good" / "loss.png"
    figure.unlink()
    stale = [figure.with_name("stale.png"), figure.with_name("stale.gif")]
    for path in stale:
        path.touch()
    before = modified(tmp_path)
    calls = len(sys.modules["section9.experiments.good"].CALLS)
    assert course("good", "--replot") == 0
    assert figure.exists() and modified(tmp_path) == before
    assert not any(path.exists() for path in stale)
    assert len(sys.modules["section9.experiments.good"].CALLS) == calls


def test_ctrl_c_keeps_what_is_done(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stop = tmp_path / "section9" / "experiments" / "broken.py"
    stop.write_text('"""Stop?"""\ndef compute(run):\n    raise KeyboardInterrupt\n')
    assert course("--all") == 130
    assert record(tmp_path, "good") and not (tmp_path / PLACE / "other").exists()
    assert "--resume" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other errors for its pipes")
def test_who_reads_no_more_stops_the_run_and_loses_nothing(
    course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    leave = f'"""Gone?"""\nimport os\ndef compute(run):\n    os.close({reader})\n    print()\n'
    (tmp_path / "section9" / "experiments" / "broken.py").write_text(leave)
    with open(writer, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert course("--all") == 141
    assert record(tmp_path, "good") and (tmp_path / "out" / "index.html").exists()
    assert not (tmp_path / PLACE / "broken").exists(), "recorded as an error of the experiment"
    assert not (tmp_path / PLACE / "other").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other errors for its pipes")
def test_who_reads_the_list_may_stop_anywhere(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert course("--list") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device for it")
@pytest.mark.parametrize("words", ["--list", "good"])
def test_what_is_printed_goes_to_a_full_disk(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: str
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert course(words) == 2
    assert "what is printed cannot be written (No space left on device)" in one_sentence(capsys)


def test_a_package_that_is_not_installed_is_named(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(main, "run", Mock(side_effect=ModuleNotFoundError(name="jinja2")))
    assert course("good") == 2
    said = f"jinja2 is not installed for {sys.executable}: activate the environment"
    assert said in one_sentence(capsys)


def test_closed_streams_are_as_if_nobody_read_or_wrote(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert course() == 2
    assert course("good") == 0
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        assert not stream.isatty()
        stream.close()


# --- bad input: one sentence, exit code 2 ---------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["god"], "did you mean good"),
        (["7"], "no section or experiment '7'"),
        (["good", "--epochs", "0"], "epochs must be a whole number of at least 1, got 0"),
        (["good", "--epochs", "many"], "epochs must be a whole number"),
        (["broken", "--samples", "-1"], "samples must be a whole number of at least 1, got -1"),
        (["good", "--lr", "0"], "lr must be a number above 0"),
        (["good", "--lr", "nan"], "lr must be a number above 0"),
        (["good", "--set", "sizes="], "sizes must be a list"),
        (["good", "--set", "fast=perhaps"], "fast must be true or false"),
        (["good", "--set", "depth=3"], "good has no setting 'depth'; settings: epochs, fast, lr, "),
        (["good", "other", "--set", "depth=3"], "good and other have no setting 'depth'"),
        (["good", "--set", "depth"], "KEY=VALUE"),
        (["good", "--seed", "-1"], "--seed"),
        (["good", "--threads", "0"], "--threads"),
        (["good", "--mode", "slow"], "invalid choice: 'slow'"),
        (["good", "--resume", "--force"], "not allowed with"),
        (["good", "--replot"], "no results"),
        (["--nonsense"], "unrecognized arguments"),
        (["report"], "report comes first, before all flags: python main.py report"),
    ],
)
def test_bad_words(
    course: Course, capsys: pytest.CaptureFixture, words: list[str], expected: str
) -> None:
    assert course(*words) == 2
    assert expected in one_sentence(capsys)


def test_both_modes_true(
    course: Course, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "QUICK_MODE", True)
    monkeypatch.setattr(config, "HYBRID_MODE", True)
    assert course("good") == 2
    assert "both QUICK_MODE and HYBRID_MODE" in one_sentence(capsys)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SEED", -1, "SEED in config.py must be a whole number of at least 0, got -1"),
        ("SEED", None, "SEED in config.py must be a whole number"),
        ("THREADS", -1, "THREADS in config.py must be a whole number of at least 1, got -1"),
        ("THREADS", 10_000, "THREADS in config.py must be at most 1024, got 10000"),
        ("BUDGETS", {9: {"good": {"seconds": (1, 2)}}}, "good 2 values of 'seconds' in round"),
        ("BUDGETS", {9: {"good": {"seconds": 1, "a": (1, 2)}}}, "good 2 values of 'a' in round"),
    ],
)
def test_config_is_checked_as_the_command_line_is(
    course: Course, capsys: Any, monkeypatch: Any, name: str, value: object, expected: str
) -> None:
    monkeypatch.setattr(config, name, value)
    assert course("good", "--mode", "full") == 2
    assert expected in one_sentence(capsys)


IMPOSSIBLE = {  # values of every setting in config.py that is no whole number
    "lr": "0", "lr_on_gpu": "0", "common_lr": "0", "generator_lr": "0", "peaks": "0",
    "dropout": "1", "dropout_on_gpu": "1", "rates": "1.0", "mean": "1.5", "wrong": "1.1",
    "temperatures": "0", "top_p": "1.1", "noise": "-0.1", "turn": "-1", "stretch": "-1",
    "block_ms": "-1", "body_scale": "-1", "decay": "inf", "cutmix": "1.1",
}  # fmt: skip


def test_every_number_of_config_can_be_set_and_an_impossible_one_cannot() -> None:
    """In every mode what stands in config.py is accepted as it stands."""
    zeros = set()
    for experiment, mode in product(registry.all_experiments(), config.MODES):
        for key, value in experiment.settings(mode).items():
            values = value if isinstance(value, list) else [value]
            if isinstance(values[0], (str, bool)):
                continue
            assert parse(key, ",".join(map(str, values)), value) == value
            zeros |= {key} if 0 in values and isinstance(values[0], int) else set()
            impossible = IMPOSSIBLE[key] if isinstance(values[0], float) else "-1"
            with pytest.raises(UserError, match=f"{key} must be"):
                parse(key, impossible, value)
    assert zeros <= {"crop", "hole", "window_epochs"}
    assert parse("shift", "0", 2) == 0
    with pytest.raises(UserError, match="epochs must be a whole number of at least 1"):
        parse("epochs", "0", 2)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            '"""Is it?"""\nx = (1\n',
            r"good.py cannot be read as Python: '\(' was never closed .*line 2",
        ),
        ("x = 1\n", "good.py must begin with a docstring"),
    ],
)
def test_a_file_that_is_no_experiment_is_named(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture, written: str, words: str
) -> None:
    (tmp_path / "section9" / "experiments" / "good.py").write_text(written)
    for command in ("--list", "other"):
        assert course(command) == 2
        assert re.search(words, one_sentence(capsys))


def test_a_budget_must_say_what_time_to_expect(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delitem(config.BUDGETS[9]["good"], "seconds")
    assert course("--list") == 2
    assert "config.BUDGETS gives good no 'seconds'" in one_sentence(capsys)


def test_all_and_a_name_contradict_each_other(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert course("--all", "god") == 2
    assert "leave out god, or --all" in one_sentence(capsys)
    assert not (tmp_path / "out").exists()


def test_no_terminal(
    course: Course, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert course() == 2
    assert "--all" in one_sentence(capsys)


def test_results_folder_that_cannot_be(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    assert course("good") == 2
    assert f"--results is {tmp_path / 'out'}, which is no folder" in one_sentence(capsys)
    assert (tmp_path / "out").read_text() == "a file where the folder should be"


@pytest.mark.parametrize("full_after", range(1, 5))  # a probe, arrays, json, figure, json
def test_full_disk_loses_nothing(
    course: Course,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    full_after: int,
) -> None:
    assert course("good", "--seed", "1") == 0
    before = results.load(tmp_path / PLACE / "good")
    writes = 0

    def fsync(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes > full_after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert course("good", "--seed", "2") == 2
    assert "No space left" in one_sentence(capsys)
    after = results.load(tmp_path / PLACE / "good")
    if full_after < 3:  # the new result was not yet whole
        assert after.metrics["score"] == before.metrics["score"]
        np.testing.assert_array_equal(after.arrays["values"], before.arrays["values"])
    assert not list((tmp_path / "out").rglob(".*tmp*"))


@pytest.mark.parametrize("name", ["result.json", "loss.pdf"])
def test_a_file_that_another_program_holds_open(
    course: Course,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Windows then refuses to replace it: this experiment fails alone, and its files still fit."""
    assert course("good", "--seed", "1") == 0
    folder, replace = tmp_path / PLACE / "good", Path.replace
    together = [folder / "loss.png", folder / "loss.pdf"]
    together += [folder / "arrays.npz", folder / name] if name == "result.json" else []
    before = [path.read_bytes() for path in together]

    def refuse(path: Path, target: Path) -> Path:
        if target == folder / name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        capsys.readouterr()
        assert course("good", "other", "--seed", "2") == 1
    said = capsys.readouterr().out
    assert f"{name}: Permission denied; nothing was changed" in said and "\nother " in said
    assert [path.read_bytes() for path in together] == before
    assert results.load(folder).info["settings"]["seed"] == (1 if name == "result.json" else 2)
    assert record(tmp_path, "other") and (folder / "failure.json").exists()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("links", [True, False])
def test_where_one_file_is_refused_the_others_are_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_link(*_: object) -> None:
        raise OSError("a file system without hard links")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "c").mkdir()
    files = {tmp_path / name: lambda file: file.write(b"new") for name in "abc"}
    (tmp_path / "b").write_text("old")
    with pytest.raises(UserError, match=r"c: .*; nothing was changed"):
        results.write_files(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    assert (tmp_path / "b").read_text() == "old"


def test_damaged_data_is_bad_input(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert course("good") == 0
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 9]))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 9]))
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "data"))
    reader = GOOD.replace("    CALLS.append(run.budget)", '    run.load("mnist")')
    (tmp_path / "section9" / "experiments" / "broken.py").write_text(reader)
    before = modified(tmp_path)
    assert course("broken", "other") == 2
    out = capsys.readouterr().out
    assert "train-images-idx3-ubyte is damaged" in out and "Traceback" not in out
    assert modified(tmp_path) == before and record(tmp_path, "other")


def test_real_data_that_cannot_be_had_is_bad_input(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise DataError("MNIST could not be downloaded.")

    monkeypatch.setattr("utils.data.sets.fetch", refuse)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "data"))
    reader = GOOD.replace("    CALLS.append(run.budget)", '    run.load("mnist")')
    (tmp_path / "section9" / "experiments" / "broken.py").write_text(reader)
    assert course("broken", "--data", "real") == 2
    assert "could not be downloaded" in capsys.readouterr().out
    assert course("broken") == 0  # QUICK goes on with the embedded digits, and says so
    assert record(tmp_path, "broken")["info"]["data"]["mnist"]["provenance"] == "embedded stand-in"
    (tmp_path / "data").rmdir()
    assert course("broken", "--force") == 2  # not taken for "there are none": it was mistyped
    assert "which is no folder" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"answer": 1}', "\x00"])
def test_a_damaged_result_is_refused(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture, damage: str
) -> None:
    assert course("good", "other") == 0
    (tmp_path / PLACE / "good" / "result.json").write_text(damage)
    capsys.readouterr()
    assert course("good", "other", "--replot") == 2
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("FAILED to draw") and first.endswith("run the experiment again")
    assert second == f"drew {tmp_path / PLACE / 'other'}"
    assert course("good", "--resume") == 0  # as if it had never run


def test_arrays_of_another_run_are_refused(course: Course, tmp_path: Path) -> None:
    assert course("good", "other") == 0
    other = (tmp_path / PLACE / "other" / "arrays.npz").read_bytes()
    (tmp_path / PLACE / "good" / "arrays.npz").write_bytes(other)
    assert course("good", "--replot") == 2


# --- the list and the menu ------------------------------------------------------------------


def test_list_imports_nothing_heavy() -> None:
    code = (
        "import sys, main; main.run(['--list']);"
        "print([m for m in ('numpy', 'matplotlib', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=machine.ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_console_that_knows_only_ascii() -> None:
    done = subprocess.run(
        [sys.executable, "main.py", "--list"],
        capture_output=True,
        cwd=machine.ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and done.stdout.isascii() and not done.stderr


def test_menu(
    course: Course, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    answers = iter(["nonsense", "", "m", "9.1", "broken", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert course() == 1  # something failed on the way
    out = capsys.readouterr().out
    assert "Does the frame work?" in out and "'nonsense'" in out
    assert record(tmp_path)["info"]["settings"]["mode"] == "hybrid"  # quick, then one further


@pytest.mark.parametrize("answer", ["q", EOFError])
def test_menu_quits(
    course: Course, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: object
) -> None:
    def reply(prompt: str) -> str:
        if answer is EOFError:
            raise EOFError
        return str(answer)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", reply)
    assert course() == 0
    assert not (tmp_path / "out").exists()


# --- the registry ---------------------------------------------------------------------------


def test_budget_and_file_must_go_together(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = tmp_path / "section9" / "experiments" / "extra.py"
    extra.write_text('"""Extra?"""\n')
    assert course("--list") == 0  # work in progress stops nothing else
    capsys.readouterr()
    assert course("extra") == 2
    assert "has no budget" in one_sentence(capsys)
    (tmp_path / "section9" / "experiments" / "other.py").unlink()
    assert course("--list") == 2
    assert "config.BUDGETS names other" in one_sentence(capsys)


def test_the_real_budgets_are_well_formed() -> None:
    assert not registry.without_budget()
    names = [name for section in config.BUDGETS.values() for name in section]
    assert len(names) == len(set(names))
    for section in config.BUDGETS.values():
        for budget in section.values():
            assert isinstance(budget["seconds"], tuple)
            for value in budget.values():
                assert not isinstance(value, tuple) or len(value) == len(config.MODES)


def test_listing_names_the_time(course: Course, capsys: pytest.CaptureFixture) -> None:
    assert course("--list", "--mode", "full") == 0
    out = capsys.readouterr().out
    assert "9  Tiny  (FULL: about 9 s)" in out and "9.3" in out
    assert registry.duration(600) == "10 min" and registry.duration(0.01) == "under 1 s"


def test_the_time_to_expect_is_that_of_config_times_how_slow_this_machine_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = registry.select(["1"])
    expected = sum(experiment.expected_seconds("hybrid") for experiment in chosen)
    for factor, words in ((2.0, "2.0 times as long"), (0.5, "2.0 times as fast")):
        monkeypatch.setattr(forecast, "slowness", lambda threads, factor=factor: factor)
        said = forecast.expected_time(chosen, "hybrid")
        assert words in said and registry.duration(factor * expected) in said
        assert "on this machine's processor" in said and "GPU" not in said
    assert "section 4: less on a GPU" in forecast.expected_time(registry.select(["4"]), "hybrid")


def test_a_machine_of_half_the_speed_is_twice_as_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "THREADS", 1)
    for speed in (forecast.REFERENCE, forecast.REFERENCE / 2):
        monkeypatch.setattr(forecast, "rounds", lambda seconds, speed=speed: speed * seconds)
        assert forecast.slowness() == pytest.approx(forecast.REFERENCE / speed)


def test_the_time_to_expect_is_that_of_what_will_not_be_kept(
    course: Course, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "slowness", lambda threads: 1.0)
    for words, expected in (
        (["good", "--mode", "full"], "about 3 s"),
        (["good", "other", "--mode", "full", "--resume"], "about 3 s"),
        (["good", "other", "--mode", "hybrid"], ""),  # a costlier result stays
        (["good", "other", "--mode", "hybrid", "--force"], "about 4 s"),
    ):
        capsys.readouterr()
        assert course(*words) == 0
        said = capsys.readouterr().out
        assert f"This will take {expected}" in said if expected else "will take" not in said


def test_what_to_do_next_is_said(course: Course, tmp_path: Path, capsys: Any) -> None:
    place = tmp_path / "my results"
    assert course("good", "--mode", "full", "--results", str(place)) == 0
    said = capsys.readouterr().out
    for command in ("report", "--all --mode full"):
        assert f'python main.py {command} --results "{place}"' in said
    assert "main.py draw" not in said, "there is no network to draw for"
    assert (place / "index.html").exists()
    (trained := place / "section3" / "mnist_cnn").mkdir(parents=True)
    (trained / "result.json").touch()
    assert "main.py draw" in runner.what_next(Settings("full", 0, "auto", place))


# --- the machine ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "gpu"),
    [
        ("", None),
        ("cpu, bfloat16, 2 threads", None),
        ("NumPy on 2 threads, PyTorch on 2 threads", None),
        ("cuda, float32", "a fast one"),
        ("ResNet: cuda:1, bfloat16, compiled; VGG: cuda:1, float32", "a fast one"),
        ("mps, float32", "Apple GPU"),
    ],
)
def test_a_gpu_is_named_where_it_computed(
    monkeypatch: pytest.MonkeyPatch, engine: str, gpu: str | None
) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "a fast one")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert machine.describe(engine)["gpu"] == gpu


def test_a_library_of_matrix_products_that_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = {"Build Dependencies": {"blas": {"name": "accelerate"}}}
    monkeypatch.setattr("threadpoolctl.threadpool_info", list)
    monkeypatch.setattr(np, "show_config", lambda mode: built)
    assert machine.blas() == "accelerate"
