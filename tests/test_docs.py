"""The documents say what is so: recipes are followed, and what is named exists."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from section2.experiments import _checks as section2
from section3.experiments import _checks as section3
from section4.experiments import _checks as section4
from utils.experiments import registry
from utils.experiments.registry import ROOT

RECIPES = re.split(r"^## ", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), flags=re.M)
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES[1:], ids=lambda recipe: recipe.splitlines()[0])
def test_a_recipe_can_be_followed(recipe: str, tmp_path: Path) -> None:
    """In a copy of the repository: files are written, lines are added, commands are run."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know the files to copy")
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
    for name, path, *_ in rows("teachers.md", "take out"):
        item: object = importlib.import_module(
            path.strip("`").removesuffix(".py").replace("/", ".")
        )
        for part in name.strip("`").split("."):
            item = getattr(item, part)
        assert callable(item)


def test_the_mistakes_of_the_exercises_are_planted_where_it_says() -> None:
    mistakes = [
        {c for layers, _ in s.MISTAKES.values() for c in layers} for s in (section3, section4)
    ]
    planted = {
        "`gradient_checking`": set(section2.EXAMPLES),
        "`cnn_gradient_checking`": mistakes[0],
        "`tests/section4/test_experiments_checks.py`": mistakes[1],
    }
    for name, _, _, where in rows("teachers.md", "take out"):
        names = {cls.__name__ for cls in planted.get(where, set())}
        assert name.strip("`").split(".")[0] in names or where.startswith("nothing: "), name


def test_the_cpus_pytorch_is_of_the_versions_that_the_tests_passed_with() -> None:
    """Another one would be thrown out again, for the one with CUDA."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    command = re.search(r"pip install (.*) --index-url \S+/cpu", text)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert command and set(command[1].split()) == {p for p in pinned if re.match("torch", p)}


def test_pip_installs_the_packages_of_the_library_and_no_others() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    included = re.search(r"(?s)\[tool.setuptools.packages.find\]\ninclude = (\[.*?\])", text)
    assert included and "[build-system]" in text
    found = {
        path.parent.name
        for path in ROOT.glob("*/__init__.py")
        if any(fnmatch(path.parent.name, pattern) for pattern in ast.literal_eval(included[1]))
    }
    assert found == {"section1", "section2", "section3", "section4", "utils"}
