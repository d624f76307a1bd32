"""Who may import whom: the rules that keep the course readable from front to back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("section1", "section2", "section3", "section4", "utils")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
NOT_IN_A_LIBRARY = re.compile(r"config|matplotlib|utils|section\d\.experiments")


def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_backwards_only(path: Path) -> None:
    top, *rest = path.relative_to(ROOT).parts
    names = imports(path)
    sections = {int(name[7]) for name in names if re.match(r"section\d", name)}
    own = int(top[7]) if top.startswith("section") else 0
    assert all(section <= own for section in sections)
    if own != 4:
        assert not any(name.split(".")[0] in ("torch", "torchvision") for name in names)
    if own and "experiments" not in rest:
        assert not [name for name in names if NOT_IN_A_LIBRARY.match(name)]


def test_config_imports_nothing_of_the_project() -> None:
    own = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    assert not {name.split(".")[0] for name in imports(ROOT / "config.py")} & own
