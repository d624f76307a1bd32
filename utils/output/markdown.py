"""docs/results.md, all answers of saved results: `python -m utils.output.markdown RESULTS ...`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.experiments import machine, registry, results
from utils.experiments.registry import Experiment, time_taken
from utils.experiments.results import Result, write_file
from utils.output.latex import changed

HEAD = """# What the experiments found

Every answer, as the run that measured it wrote it down: `python -m utils.output.markdown` makes
this page from saved results, and nobody edits it. Your numbers will differ where your machine,
your versions or your seed do; `n` is the number of seeds.
"""


def document(folders: list[Path]) -> str:
    """All results in these folders, those of one run together, in the order of the course.

    Raises UserError where there are none, and for one that cannot be read.
    """
    found = [
        (experiment, results.load(path.parent))
        for parent in folders
        for experiment in registry.all_experiments()
        for path in parent.glob(f"section{experiment.section}/{experiment.name}/result.json")
    ]
    if not found:
        raise UserError(f"there is no result in {', '.join(map(str, folders))}")
    runs: dict[str, list[tuple[Experiment, Result]]] = {}
    for experiment, result in found:
        runs.setdefault(circumstances(result.info), []).append((experiment, result))
    return HEAD + "".join(f"\n{title}\n{listed(run)}" for title, run in runs.items())


def circumstances(info: dict[str, Any]) -> str:
    """A heading: in which mode, and with what, these results came about."""
    settings, used = info["settings"], info["machine"]
    versions = ", ".join(
        f"{name} {info['versions'][name]}"
        for name in ("python", "numpy", "torch")
        if name in info["versions"]
    )
    return (
        f"## {settings['mode'].upper()}, seed {settings['seed']}, "
        f"commit {machine.code_version(info['code'])}\n\n"
        f"{escape(used['gpu'] or used['cpu'])}, {used['cores']} cores; {versions}."
    )


def listed(run: list[tuple[Experiment, Result]]) -> str:
    """The time of all, then each question with its answer."""
    lines = list[str]()
    if not any(result.info.get("resumed") for _, result in run):  # else not all time is known
        seconds = sum(result.info["seconds"] for _, result in run)
        lines.append(f"{registry.duration(seconds)} in all.")
    for number, title in registry.SECTIONS.items():
        those = [one for one in run if one[0].section == number]
        if those:
            lines += ["", f"### {number}. {title}"]
        for experiment, result in those:
            path = f"../section{number}/experiments/{experiment.name}.py"
            name = f"**[{experiment.label} {experiment.name}]({path})**"
            lines += ["", f"{name} *{escape(experiment.question)}*", "", escape(result.answer)]
            lines += ["", f"*{escape(rests_on(experiment, result))}*"]
    return "\n".join(lines) + "\n"


def rests_on(experiment: Experiment, result: Result) -> str:
    """Time, data, and what of the budget was not as in config.py, as --set would have it."""
    other = [f"{key}={value}" for key, value in changed(experiment, result).items()]
    return "; ".join([f"{time_taken(result.info)} on {', '.join(result.data)}", *other])


def escape(text: str) -> str:
    """The text on one line, printed as it is: no sign of it means anything to Markdown."""
    return re.sub(r"([\\`*_~$<>\[\]#|])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="RESULTS", type=Path)
    try:
        text = document(parser.parse_args().folders)
        write_file(registry.ROOT / "docs" / "results.md", text.encode())
    except UserError as error:
        parser.error(str(error))
