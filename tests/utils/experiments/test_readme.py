"""The README says what is so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import config
from utils.experiments.registry import ROOT
from utils.output import readme

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_experiments_is_that_of_the_registry() -> None:
    assert readme.updated(TEXT) == TEXT, "run: python -m utils.output.readme"


def test_the_two_commands_name_files_that_exist() -> None:
    commands = [line for line in TEXT.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    for command in commands:
        words = command.split()
        files = [word for word in words if word.endswith((".txt", ".py"))]
        assert len(files) >= 2
        for file in files:
            assert (ROOT / file).is_file()


def test_every_mode_is_explained() -> None:
    assert all(mode.upper() in TEXT for mode in config.MODES)


def test_the_example_experiment_runs(course: Callable[..., int], tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    budget = re.search(r'`"coin": (\{.*\})`', TEXT)
    assert code and budget
    (tmp_path / "section9" / "experiments" / "coin.py").write_text(code.group(1))
    config.BUDGETS[9]["coin"] = eval(budget.group(1))
    try:
        assert course("coin") == 0
    finally:
        del config.BUDGETS[9]["coin"]
    folder = tmp_path / "out" / "section9" / "coin"
    assert json.loads((folder / "result.json").read_text())["metrics"]["heads"] > 0
    assert (folder / "coin.png").exists()
