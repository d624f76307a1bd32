"""Which experiments there are: the budgets in `config.py`, and a file for each.

An experiment `name` of section N is the file `sectionN/experiments/name.py`. The first
paragraph of its docstring is the question it answers; `compute(run)` finds the answer and
`draw(result)` the figures. Nothing is imported until it runs, so that a list of
everything is there at once.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import config
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {
    1: "Foundations (NumPy)",
    2: "Optimization (NumPy)",
    3: "CNNs (NumPy)",
    4: "Modern networks (PyTorch)",
}


@dataclass(frozen=True)
class Experiment:
    section: int
    number: int  # place within its section, from 1
    name: str
    question: str

    @property
    def label(self) -> str:
        return f"{self.section}.{self.number}"

    def budget(self, mode: str) -> dict:
        """What `config.BUDGETS` says of this experiment, for one mode.

        Raises UserError for round brackets that have not one value for each mode.
        """
        column, modes = config.MODES.index(mode), len(config.MODES)
        given = config.BUDGETS[self.section][self.name]
        for key, value in given.items():
            if isinstance(value, tuple) and len(value) != modes:
                raise UserError(
                    f"config.BUDGETS gives {self.name} {len(value)} values of {key!r} in round "
                    f"brackets: write one for each of the {modes} modes, or one without brackets"
                )
        return {k: v[column] if isinstance(v, tuple) else v for k, v in given.items()}

    def settings(self, mode: str) -> dict:
        """The budget without the time that it is expected to take."""
        return {key: value for key, value in self.budget(mode).items() if key != "seconds"}

    def expected_seconds(self, mode: str) -> float:
        budget = self.budget(mode)
        if "seconds" not in budget:
            raise UserError(f"config.BUDGETS gives {self.name} no 'seconds', the time to expect")
        return budget["seconds"]

    def module(self) -> ModuleType:
        return importlib.import_module(f"section{self.section}.experiments.{self.name}")


def question_of(path: Path) -> str:
    """The first paragraph of the docstring of a Python file, on one line."""
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"), path.name))
    except (SyntaxError, ValueError) as error:  # ValueError: bytes that are no text
        raise UserError(f"{path} cannot be read as Python: {error}") from error
    if not docstring:
        raise UserError(f"{path} must begin with a docstring that asks the experiment's question")
    return " ".join(docstring.split("\n\n")[0].split())


def all_experiments() -> list[Experiment]:
    """Every experiment, in the order of `config.BUDGETS`.

    Raises UserError where a budget has no file.
    """
    experiments = []
    for section, budgets in config.BUDGETS.items():
        for number, name in enumerate(budgets, start=1):
            path = ROOT / f"section{section}" / "experiments" / f"{name}.py"
            if not path.is_file():
                raise UserError(f"config.BUDGETS names {name}, but there is no {path}")
            experiments.append(Experiment(section, number, name, question_of(path)))
    return experiments


def without_budget() -> dict[str, Path]:
    """The files of experiments that `config.BUDGETS` does not name."""
    return {
        path.stem: path
        for path in ROOT.glob("section*/experiments/[!_]*.py")
        if not any(path.stem in budgets for budgets in config.BUDGETS.values())
    }


def select(wanted: list[str]) -> list[Experiment]:
    """The experiments that the words ask for: sections ("3"), labels ("3.2"), names ("xor").

    In the order of the registry, each once. Raises UserError for a word that fits none.
    """
    everything = all_experiments()
    chosen = []
    for word in wanted:
        matches = [e for e in everything if word in (e.name, e.label, str(e.section))]
        if not matches:
            raise UserError(
                f"there is no section or experiment {word!r}: {_hint(word, everything)}"
            )
        chosen += matches
    return [e for e in everything if e in chosen]


def _hint(word: str, experiments: list[Experiment]) -> str:
    if path := without_budget().get(word):
        return f"{path} has no budget, add {word!r} to config.BUDGETS"
    close = difflib.get_close_matches(word, [e.name for e in experiments], n=3)
    return f"did you mean {' or '.join(close)}?" if close else "see python main.py --list"


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min"."""
    if seconds < 0.5:
        return "under 1 s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def time_taken(info: dict[str, Any]) -> str:
    """How long it took to come to a result, of which this is the `info`."""
    return duration(info["seconds"]) + " since it was resumed" * info.get("resumed", False)
