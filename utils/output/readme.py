"""The README's table of experiments, made from the registry: `python -m utils.output.readme`."""

from __future__ import annotations

import config
from utils.experiments import registry
from utils.experiments.results import write_file

BEGIN, END = "<!-- experiments -->\n", "<!-- end of experiments -->\n"


def table() -> str:
    """Every experiment with its question and what to expect of its time, as Markdown."""
    lines = ["|   | experiment | question | QUICK | HYBRID | FULL |", "|---|---|---|--:|--:|--:|"]
    for e in registry.all_experiments():
        times = " | ".join(registry.duration(e.expected_seconds(mode)) for mode in config.MODES)
        lines.append(f"| {e.label} | `{e.name}` | {e.question} | {times} |")
    return "\n".join(lines) + "\n"


def updated(readme: str) -> str:
    """The text of the README with its table replaced."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    path = registry.ROOT / "README.md"
    write_file(path, updated(path.read_text(encoding="utf-8")).encode())
