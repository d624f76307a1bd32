"""`results/index.html`: every saved result on one page that needs no network and no other file.

It is made from `result.json`, `failure.json` and the figures alone, so it says what they say.
All that stands in them is escaped, and the page allows no script to run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

import config
from utils.experiments import machine
from utils.experiments.registry import SECTIONS, time_taken
from utils.experiments.results import write_file
from utils.output.plots import COLOURS

TEMPLATES = Path(__file__).with_name("templates")
INSIDE = 20_000_000  # bytes of figures within the page; of more, the largest are linked to
TYPES = {".png": "image/png", ".gif": "image/gif"}


@dataclass
class Card:
    """One experiment: what the head of the page tells of it, and how it is shown itself."""

    section: int
    label: str  # its number in the course; empty where it has none
    name: str
    state: str  # "done", "failed" or "damaged"
    question: str
    answer: list[str] = field(default_factory=list)  # the first sentence, and the others
    facts: dict[str, str] = field(default_factory=dict)  # in which cards may differ
    html: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: its source is within the page as a data URI, or a path from there."""

    name: str
    source: str | Markup  # a data URI needs no escaping, and is long
    width: int  # pixels
    height: int
    title: str


def write(results: Path) -> Path:
    """Make the page of all that lies in the folder `results`; returns its path.

    What cannot be read is shown as such. Raises UserError where the page cannot be written.
    """
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    cards = make_cards(results)
    labels = course()
    there = {(card.section, card.name) for card in cards}
    sections = [
        {
            "number": number,
            "title": SECTIONS.get(number, "Other experiments"),
            "cards": [card for card in cards if card.section == number],
            "missing": [key[1] for key in labels if key[0] == number and key not in there],
        }
        for number in sorted({section for section, _ in labels.keys() | there})
    ]
    html = templates().get_template("page.html").render(
        sections=sections,
        cards=cards,
        remarks=remarks(cards),
        latest=max((card.facts.get("finished", "") for card in cards), default=""),
        colours=COLOURS,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    write_file(results / "index.html", html.encode("utf-8", "replace"))
    return results / "index.html"


def course() -> dict[tuple[int, str], str]:
    """The label ("1.2") of every experiment by section and name, in the order of the course."""
    return {
        (section, name): f"{section}.{number}"
        for section, budgets in config.BUDGETS.items()
        for number, name in enumerate(budgets, start=1)
    }


def make_cards(results: Path) -> list[Card]:
    """A card for every folder with a result or a failure, in the order of the course."""
    folders = {
        (int(path.parts[-3].removeprefix("section")), path.parts[-2]): path.parent
        for kind in ("result", "failure")
        for path in results.glob(f"section[0-9]/*/{kind}.json")
    }
    inside = smallest([path for folder in folders.values() for path in figures(folder)], INSIDE)
    labels = course()
    known = [key for key in labels if key in folders]
    others = sorted(folders.keys() - labels.keys())
    return [make_card(folders[key], *key, labels.get(key, ""), inside) for key in known + others]


def make_card(folder: Path, section: int, name: str, label: str, inside: set[Path]) -> Card:
    """The card of one experiment; whatever is wrong with its files, the others are to be seen."""
    template = templates().get_template("card.html")
    try:
        result, failure = read(folder / "result.json"), read(folder / "failure.json")
        account = failure if result is None else result["info"]
        card = Card(section, label, name, "failed", account.get("question", name))
        pictures, plots = [], []
        if result is not None:
            card.state = "done"
            card.answer = re.split(r"(?<=[.!?])\s+(?=[^a-z])", result["answer"], maxsplit=1)
            card.facts = facts(result["info"])
            paths = [folder / file for file in result["info"].get("figures", [])]
            pictures = [made for path in paths if (made := picture(path, path in inside))]
            plots = grouped(result["curves"])
        card.html = Markup(
            template.render(
                card=card, result=result, failure=failure, pictures=pictures, plots=plots, damage=""
            )
        )
    except Exception as error:
        card = Card(section, label, name, "damaged", name)
        damage = f"{type(error).__name__}: {error}"
        card.html = Markup(template.render(card=card, damage=damage))
    return card


def read(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)


def facts(info: dict[str, Any]) -> dict[str, str]:
    """What decides whether the numbers of two cards compare."""
    return {
        "mode": str(info["settings"]["mode"]).upper(),
        "seed": str(info["settings"]["seed"]),
        "commit": machine.code_version(info["code"]),
        "machine": str(info["machine"]["gpu"] or info["machine"]["cpu"]),
        "data": " ".join(str(used["provenance"]) for used in info["data"].values()),
        "finished": str(info["finished"]),
    }


def remarks(cards: list[Card]) -> list[str]:
    """What to know before comparing the numbers of one card with another's."""
    said = []
    for state, words in (("failed", "failed"), ("damaged", "cannot be read")):
        if count := sum(card.state == state for card in cards):
            said.append(f"{count} of {len(cards)} {words}.")
    for fact, words in {
        "mode": "Modes differ, and their numbers do not compare",
        "seed": "Seeds differ",
        "commit": "Versions of the code differ",
        "machine": "Machines differ, and their times do not compare",
    }.items():
        counts = Counter(card.facts[fact] for card in cards if card.facts)
        if len(counts) > 1:
            listed = ", ".join(f"{value} ({count})" for value, count in counts.most_common())
            said.append(f"{words}: {listed}.")
    if count := sum("embedded" in card.facts.get("data", "") for card in cards):
        said.append(
            f"{count} of {len(cards)} rest on embedded stand-ins for the data they are named after."
        )
    return said


def figures(folder: Path) -> list[Path]:
    """The figures in an experiment's folder."""
    return [path for path in folder.iterdir() if path.suffix in TYPES and path.is_file()]


def smallest(paths: Iterable[Path], limit: int) -> set[Path]:
    """As many of the files as fit into `limit` bytes, smallest first."""
    sized = sorted((path.stat().st_size, path) for path in paths)
    totals = accumulate(size for size, _ in sized)
    return {path for (_, path), total in zip(sized, totals) if total <= limit}


def picture(path: Path, inside: bool) -> Picture | None:
    """A figure for the page; None where the file is not an image."""
    try:
        with Image.open(path) as image:
            (width, height), title = image.size, str(image.info.get("Title", ""))
    except OSError:
        return None
    if not inside:
        return Picture(path.stem, "/".join(path.parts[-3:]), width, height, title)
    content = base64.b64encode(path.read_bytes()).decode()
    source = Markup(f"data:{TYPES[path.suffix]};base64,{content}")
    return Picture(path.stem, source, width, height, title)


def grouped(curves: dict[str, Any]) -> list[dict[str, Any]]:
    """Curves that share their axes' labels in one plot each."""
    plots: dict[tuple[str, str], dict[str, Any]] = {}
    for name, curve in curves.items():
        axes = str(curve["x_label"]), str(curve["y_label"])
        plot = plots.setdefault(axes, {"x_label": axes[0], "y_label": axes[1], "curves": []})
        points = [  # as (x, y, standard deviation), each of which may be unknown
            [None if value is None else float(value) for value in point]
            for point in zip_longest(curve["x"], curve["y"], curve["std"] or [])
        ]
        plot["curves"].append({"name": name, "n": int(curve["n"]), "points": points})
    return list(plots.values())


def words(name: str) -> str:
    """A name as people write it: "test accuracy" for "test_accuracy"."""
    return name.replace("_", " ")


def shown(value: Any) -> Markup:
    """A value for people, four digits of a number; the number as it was saved stays with it."""
    if value is None or value != value:  # NaN is not itself
        return Markup("n/a")
    if isinstance(value, (list, tuple)):
        return Markup(", ").join(map(shown, value)) or Markup("none")
    if isinstance(value, float):
        short = f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
        return Markup(f'<data value="{value}" title="{value}">{short}</data>')
    return escape(f"{value:,}" if type(value) is int else value)


@cache
def templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "words": words, "time_taken": time_taken}
    return environment
