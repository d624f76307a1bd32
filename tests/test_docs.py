"""The documents say what is so: recipes are followed, and what is named exists."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.experiments import registry
from utils.experiments.registry import ROOT

RECIPES = re.split(r"^## ", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), flags=re.M)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES[1:], ids=lambda recipe: recipe.splitlines()[0])
def test_a_recipe_can_be_followed(recipe: str, tmp_path: Path) -> None:
    """In a copy of the repository: files are written, lines are added, commands are run."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    commands, start = list[str](), 0
    for block in BLOCK.finditer(recipe):
        before, start = recipe[start : block.start()], block.end()
        kind, content = block.groups()
        if kind == "sh":
            commands += content.splitlines()
        elif new := re.search(r"Write\s`([^`]+)`:\s+$", before):
            (tmp_path / new.group(1)).write_text(content, encoding="utf-8")
        else:
            added = re.search(r"`([^`]+\.py)`, after\s`([^`]+)`:\s+$", before)
            assert added, f"what is to be done with this?\n{content}"
            path, line = tmp_path / added.group(1), added.group(2) + "\n"
            text = path.read_text(encoding="utf-8")
            assert text.count(line) == 1, f"{added.group(1)} has {text.count(line)} times: {line}"
            path.write_text(text.replace(line, line + content), encoding="utf-8")
    assert commands
    for command in commands:
        words = [sys.executable if word == "python" else word for word in shlex.split(command)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def rows(document: str, title: str) -> list[list[str]]:
    """The cells of the table that begins with the column `title`, without its heading."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    table = text[text.index(f"| {title} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


def test_the_rubric_has_a_hundred_points_and_every_experiment() -> None:
    sums, marked = list[tuple[int, int]](), set[str]()
    for points, what, experiments, tests in rows("teachers.md", "points"):
        if total := re.search(r"\((\d+)\)\*\*$", what):
            sums.append((int(total[1]), 0))
            continue
        sums[-1] = sums[-1][0], sums[-1][1] + int(points)
        marked |= set(re.findall(r"`(\w+)`", experiments))
        assert all((ROOT / path).exists() for path in re.findall(r"`([^`]+)`", tests)), tests
    assert sums == [(20, 20), (25, 25), (30, 30), (25, 25)]
    assert marked == {experiment.name for experiment in registry.all_experiments()}


def test_the_exercises_take_out_what_is_there() -> None:
    for name, path, _ in rows("teachers.md", "take out"):
        item: object = importlib.import_module(
            path.strip("`").removesuffix(".py").replace("/", ".")
        )
        for part in name.strip("`").split("."):
            item = getattr(item, part)
        assert callable(item)
