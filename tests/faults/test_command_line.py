"""Whatever is typed: an exit code of the four, and for wrong words one sentence instead of a trace.

0: done; 1: an experiment failed, and the summary says so; 2: wrong words; 130: Ctrl-C.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import config
import main
from tests.faults.test_hostile_files import changed_json
from utils.experiments import registry, runner

Course = Callable[..., int]
Count = Callable[[str, int], None]

LONG = "x" * 100_000
NUMBERS = ["1", "2", "+3", "٣", "007"]  # the third is Arabic for 3
ODD = ["", " ", "0", "-1", "++3", "1.5", "1e3", "nan", "-inf", "1e999", "9" * 30, "9" * 5000,
       "0x10", "1_000", "²", "½", "None", "true", "1,2", "1;2", "%s", "{}", "../..", "🙂", "\ud800",
       "\x1b[31m", "a\nb", "\0", LONG]  # fmt: skip
NO_FOLDER = ["", "\0", "\udcff\0", "a" * 300, LONG]
if sys.platform != "win32":  # where this is a folder like others
    NO_FOLDER.append("/dev/null/x")
COUNTS = ("--epochs", "--batch-size", "--samples", "--resize", "--threads", "--seed")
SETTINGS = ["epochs=2", "lr=0.1", "lr=nan", "lr=0", "lr=-1", "sizes=3,4", "sizes=,", "sizes=1,x",
            "fast=no", "fast=2", "word=", "word=" + LONG, "word=a=b", "=", "==", "=3", "epochs",
            "EPOCHS=2", "seconds=3", "samples=1e3", "mode=full", "__class__=1", "\x1b=1",
            ""]  # fmt: skip
CHOICES = {
    "--mode": [*config.MODES, "QUICK"],
    "--data": ["auto", "real", "embedded", "none"],
    "--device": ["auto", "cpu", "cuda", "mps", "tpu"],
    "--precision": ["auto", "float32", "bfloat16", "float16", "int8"],
}
SWITCHES = [
    "--all",
    "--list",
    "--resume",
    "--force",
    "--replot",
    "--help",
    "-h",
    "--bogus",
    "-1",
    "--ep",
]
NAMES = ["good", "other", "broken", "9", "9.1", "9.3", "10", "good good", "god", "GOOD", *ODD]


def one_of(rng: np.random.Generator, values: list[str], odd: list[str] = ODD) -> str:
    """Mostly one of `values`, else something odd."""
    values = values if rng.random() < 0.7 else odd
    return values[rng.integers(len(values))]


def experiments(rng: np.random.Generator, place: str) -> list[str]:
    """Names and up to four flags, right and wrong, in any order."""
    words = [[one_of(rng, NAMES[:6], NAMES)] for _ in range(rng.integers(3))]
    for _ in range(rng.integers(5)):
        kind = rng.integers(6)
        if kind == 0:
            words.append([one_of(rng, SWITCHES[:5], SWITCHES)])
        elif kind == 1:
            flag = list(CHOICES)[rng.integers(len(CHOICES))]
            words.append([flag, one_of(rng, CHOICES[flag])])
        elif kind == 2:
            words.append(["--set", one_of(rng, SETTINGS)])
        elif kind == 3 and rng.random() < 0.3:
            words.append(["--results", one_of(rng, [place, f"{place}/deep/er"], NO_FOLDER)])
        else:
            words.append([("--lr", *COUNTS)[rng.integers(7)], one_of(rng, NUMBERS)])
    return [word for k in rng.permutation(len(words)) for word in words[k]]


def command(rng: np.random.Generator, place: str) -> list[str]:
    """`generate`, `draw` or `report` with wrong words, or where there is nothing to work on."""
    flags = {
        "generate": ["--prompt", "--count", "--temperature", "--top-k", "--top-p", "--seed"],
        "draw": ["--port", "--open", "--results"],
        "report": ["--results"],
    }
    name = list(flags)[rng.integers(3)]
    words = [name, "--results", place]
    for _ in range(rng.integers(4)):
        flag = flags[name][rng.integers(len(flags[name]))]
        value = one_of(rng, [place], NO_FOLDER) if flag == "--results" else one_of(rng, NUMBERS)
        words += [flag] if flag == "--open" else [flag, value]
    return words + ([one_of(rng, ["--bogus", "xor", "--all"])] if rng.random() < 0.2 else [])


@pytest.fixture
def typed(
    course: Course, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`typed("good", "--epochs", "0")`: the exit code, once all that was said has been looked at.

    Nothing is drawn, and there is no LaTeX.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "draw", lambda *arguments: None)
    monkeypatch.setattr(runner, "publish", lambda settings: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        capsys.readouterr()
        try:
            code = main.main()
        except SystemExit as end:  # argparse has printed its help
            assert {"--help", "-h"} & set(words)
            code = end.code if isinstance(end.code, int) else -1
        said = capsys.readouterr()
        assert code in (0, 1, 2, 130)
        assert "Traceback" not in said.out + said.err
        assert code != 1 or "FAILED: " in said.out
        if code == 2 and "FAILED: " not in said.out:
            assert said.err.startswith("main.py: ") and said.err.count("\n") == 1, said.err[:500]
            assert 20 < len(said.err) < 1100 and said.err.strip().isprintable(), said.err[:500]
        return code

    return call


@pytest.mark.parametrize("kind", [experiments, command])
def test_any_words_end_with_one_of_four_codes(
    typed: Course, tmp_path: Path, kind: Callable, times: int, count: Count
) -> None:
    codes, failures = list[int](), list[str]()
    for number in range(60 * times if kind is experiments else 20 * times):
        words = kind(np.random.default_rng([3, number]), str(tmp_path / "out"))
        try:
            codes.append(typed(*words))
        except Exception as error:
            failures.append(f"{[word[:60] for word in words]}: {type(error).__name__}: {error}")
    count("inputs tried", len(codes) + len(failures))
    count("failures", len(failures))
    assert not failures, "\n".join(failures[:10])
    assert set(codes) == ({0, 1, 2} if kind is experiments else {2})
    assert {path.name for path in tmp_path.iterdir()} <= {"section9", "out", "results"}


@pytest.mark.parametrize("flag", ["--lr", *COUNTS])
def test_numbers_out_of_range_are_refused(
    typed: Course, tmp_path: Path, count: Count, flag: str
) -> None:
    """And numbers that are right are not. Only `--seed` may be 0, only `--lr` not whole."""
    right = {"--lr": ["1.5", "1e3", "1_000", "9" * 30], "--seed": ["0"]}.get(flag, [])
    setting = flag[2:].replace("-", "_")
    config.BUDGETS[9]["other"] |= {"batch_size": 2, "samples": 2, "resize": 2, "lr": 0.5}
    for text in [*NUMBERS, *ODD]:
        expected = 0 if text in NUMBERS or text in right else 2
        assert typed("other", f"{flag}={text}", "--results", str(tmp_path / "out")) == expected, (
            text
        )
        count("inputs tried", 1)
        if flag not in ("--threads", "--seed"):
            words = ("--set", f"{setting}={text}", "--results", str(tmp_path / "out"))
            assert typed("other", *words) == expected, text
            count("inputs tried", 1)


@pytest.mark.parametrize("name", [*NO_FOLDER, "file", "file/under"], ids=lambda n: repr(n[:9]))
def test_results_are_written_only_where_a_folder_can_be(
    typed: Course, tmp_path: Path, name: str, count: Count
) -> None:
    """An empty name would be the folder of the course itself."""
    (tmp_path / "file").write_text("mine")
    for words in (["good"], ["good", "--replot"], ["draw"], ["report"], ["generate", "--prompt=a"]):
        assert typed(*words, "--results", name) == 2
        count("inputs tried", 1)
    assert (tmp_path / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"section9", "file"}


def test_a_setting_that_is_no_word_of_the_experiment_is_refused(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, count: Count
) -> None:
    """For every setting of every experiment that takes words."""
    monkeypatch.chdir(tmp_path)
    fixed = ["--mode", "quick", "--data", "embedded", "--device", "cpu", "--precision", "float32"]
    for experiment in registry.all_experiments():
        for key, value in experiment.settings("quick").items():
            if isinstance(value[0] if isinstance(value, list) else value, str):
                words = [experiment.name, *fixed, "--set", f"{key}=nonsense"]
                monkeypatch.setattr(sys, "argv", ["main.py", *words])
                assert main.main() == 2, words
                said = capsys.readouterr()
                assert "FAILED: " in said.out and "nonsense" in said.out and not said.err
                count("inputs tried", 1)


def test_a_name_with_a_letter_missing_is_guessed(capsys: Any, monkeypatch: Any) -> None:
    for experiment in registry.all_experiments()[::6]:
        monkeypatch.setattr(sys, "argv", ["main.py", experiment.name[:-2] + experiment.name[-1]])
        assert main.main() == 2
        assert "did you mean" in (said := capsys.readouterr().err) and experiment.name in said


def test_a_damaged_result_stops_nobody(
    course: Course, tmp_path: Path, capsys: Any, times: int, count: Count
) -> None:
    """It is drawn again, or one sentence says why not; and a run replaces it."""
    assert course("good") == 0
    file = tmp_path / "out/section9/good/result.json"
    good = file.read_bytes()
    for number in range(5 * times):
        file.write_bytes(changed_json(good, np.random.default_rng([4, number])))
        changed = json.loads(file.read_bytes())
        capsys.readouterr()
        code = course("good", "--replot")
        said = capsys.readouterr()
        assert code in (0, 1, 2) and "Traceback" not in said.out + said.err
        assert code == 0 or "FAILED to draw" in said.out, changed
        assert course("good", "--mode", "quick") in (0, 1), changed
        assert "Traceback" not in "".join(capsys.readouterr())
        count("inputs tried", 2)
