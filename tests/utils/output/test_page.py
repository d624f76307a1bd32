"""The page of all results: it says what the files say, whatever stands in them."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import config
import main
from tests.utils.output.saved import HOSTILE, save_figure, save_result
from utils.experiments import registry, results
from utils.experiments.results import Result, Table
from utils.output import page


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and text."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if not kind or kind in a.get("class", "").split()]


@pytest.fixture(autouse=True)
def course(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sections: alpha and beta in the first, gamma in the second."""
    monkeypatch.setattr(config, "BUDGETS", {1: {"alpha": {}, "beta": {}}, 2: {"gamma": {}}})


def test_a_result_is_told_whole(tmp_path: Path) -> None:
    save_result(tmp_path / "section1" / "alpha", mode="hybrid", seed=7, figures=("curve.png",))
    shown = Page(page.write(tmp_path))
    words = " ".join(shown.text.split())
    for part in (
        "1 experiment, the last result of 2026-01-02.",
        "1.1 alpha HYBRID seed 7 What is alpha?",
        "The answer of alpha is 42. It took 1.5 s.",
        "test accuracy 0.9877",
        "421,642",
        "lost n/a",
        "true class images cat 12,345 dog 2",
        "epochs 3 hidden 2, 4 lr 0.5",
        "mnist MNIST (official files) (official)",
        "3 min, finished 2026-01-02T03:04:05+00:00",
        "835 MB",
        "A processor, 2 cores, no GPU, Linux",
        "python 3.11.7, numpy 2.4.6",
        "0123456789abcdef, with changes that were not committed",
        "Not run yet: beta.",
    ):
        assert part in words
    assert {"value": "0.987654321", "title": "0.987654321"} in shown.all("data")
    (plot,) = shown.all("div", "plot")
    drawn = json.loads(plot["data-plot"])
    assert (drawn["x_label"], drawn["y_label"]) == ("epoch", "loss")
    assert drawn["curves"][0]["points"] == [[1, 0.9, 0.1], [2, 0.5, 0.05], [3, 0.25, 0.02]]
    assert drawn["curves"][1]["points"][2] == [3, None, None]


def test_figures_are_within_the_page_in_the_order_of_the_result(tmp_path: Path) -> None:
    folder = tmp_path / "section1" / "alpha"
    save_result(folder, figures=("second.png", "first.png"))
    pictures = [i for i in Page(page.write(tmp_path)).all("img") if "src" in i]
    assert [i["alt"] for i in pictures] == ["second: What was found", "first: What was found"]
    kind, content = pictures[0]["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == (folder / "second.png").read_bytes()
    assert (pictures[0]["width"], pictures[0]["height"]) == ("300", "200")


def test_figures_beyond_the_limit_are_linked_the_largest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "section1" / "alpha"
    save_result(folder, figures=("large.png", "small.png"))
    save_figure(folder / "large.png", "a long title " * 500)
    monkeypatch.setattr(page, "INSIDE", 5000)
    sources = [i["src"] for i in Page(page.write(tmp_path)).all("img") if "src" in i]
    assert sources[0] == "section1/alpha/large.png"
    assert sources[1].startswith("data:")


def test_missing_and_damaged_figures_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "section1" / "alpha"
    save_result(folder, figures=("one.png", "two.png", "three.png"))
    (folder / "one.png").unlink()
    (folder / "two.png").write_bytes(b"no image")
    shown = Page(page.write(tmp_path))
    assert "2 of 3 figures are missing" in " ".join(shown.text.split())
    assert [i["alt"] for i in shown.all("img") if "src" in i] == ["three: What was found"]


def test_figures_of_an_earlier_result_are_not_shown(tmp_path: Path) -> None:
    """A new result is saved before it is drawn, and drawing it may fail."""
    folder = tmp_path / "section1" / "alpha"
    save_result(folder, figures=("of_before.png",))
    path = folder / "result.json"
    record = json.loads(path.read_text())
    del record["info"]["figures"]
    path.write_text(json.dumps(record))
    failure = {"error": "no ink", "traceback": [], "settings": record["info"]["settings"]}
    (folder / "failure.json").write_text(json.dumps(failure))
    shown = Page(page.write(tmp_path))
    words = " ".join(shown.text.split())
    assert not [i for i in shown.all("img") if "src" in i]
    assert "have not been drawn: python main.py alpha --replot draws them" in words
    assert "Drawing it failed (QUICK, seed 0): no ink" in words


def test_a_broken_link_is_no_figure(tmp_path: Path) -> None:
    folder = tmp_path / "section1" / "alpha"
    save_result(folder, figures=("one.png",))
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    assert len([i for i in Page(page.write(tmp_path)).all("img") if "src" in i]) == 1


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = tmp_path / "section1" / "alpha"
    save_result(
        folder,
        answer=HOSTILE,
        headline=HOSTILE,
        metrics={HOSTILE: 1.0},
        curves={HOSTILE: results.Curve([1], [2], x_label=HOSTILE, y_label=HOSTILE)},
        tables={HOSTILE: Table([HOSTILE], [[HOSTILE]])},
        info={
            "question": HOSTILE,
            "engine": HOSTILE,
            "data": {HOSTILE: {"description": HOSTILE, "provenance": HOSTILE}},
            "versions": {HOSTILE: HOSTILE},
            "machine": {"cpu": HOSTILE, "cores": HOSTILE, "gpu": HOSTILE, "system": HOSTILE},
        },
        figures=("a.png",),
    )
    save_figure(folder / "a.png", HOSTILE)
    failure = {"error": HOSTILE, "traceback": [HOSTILE], "settings": {"mode": HOSTILE, "seed": 1}}
    (folder / "failure.json").write_text(json.dumps(failure))
    path = page.write(tmp_path)
    shown = Page(path)
    assert len(shown.all("script")) == 1
    assert len([i for i in shown.all("img") if "src" in i]) == 1
    assert not [key for _, attributes in shown.elements for key in attributes if key[:2] == "on"]
    assert shown.text.count(HOSTILE) > 10
    (plot,) = shown.all("div", "plot")
    assert json.loads(plot["data-plot"])["curves"][0]["name"] == HOSTILE
    policy = next(m for m in shown.all("meta") if "http-equiv" in m)["content"]
    script = path.read_text(encoding="utf-8").split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


LABELS = {"x_label": "epoch", "y_label": "loss"}


def changed(**parts: Any) -> Callable[[dict], Any]:
    return lambda record: record | parts


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: [],
        lambda record: 3,
        lambda record: {},
        changed(info={}),
        changed(answer=None),
        changed(metrics=[1, 2]),
        changed(headline="unknown"),
        changed(tables={"t": {"columns": 3, "rows": 4}}),
        changed(curves={"c": LABELS | {"x": ["one"], "y": [2], "std": None, "n": 1}}),
        lambda record: record | {"info": record["info"] | {"settings": [1]}},
        lambda record: record | {"info": record["info"] | {"seconds": "long"}},
        lambda record: record | {"info": record["info"] | {"versions": 7}},
    ],
)
def test_a_damaged_result_is_told_and_the_others_are_shown(
    tmp_path: Path, damage: Callable[[dict], Any]
) -> None:
    save_result(tmp_path / "section1" / "alpha")
    save_result(tmp_path / "section1" / "beta")
    path = tmp_path / "section1" / "alpha" / "result.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    shown = Page(page.write(tmp_path))
    assert [a["class"] for a in shown.all("article")] == ["card damaged", "card done"]
    assert shown.text.count("cannot be read (") == 1
    assert "1 of 2 cannot be read." in shown.text
    assert "The answer of beta is 42." in shown.text


@pytest.mark.parametrize("content", [b"", b'{"answer": "cut o', b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_is_told(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "section1" / "alpha"
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(content)
    assert "cannot be read (" in Page(page.write(tmp_path)).text


def test_characters_that_no_file_can_hold_are_replaced(tmp_path: Path) -> None:
    save_result(tmp_path / "section1" / "alpha")
    path = tmp_path / "section1" / "alpha" / "result.json"
    path.write_text(path.read_text().replace("is 42", "is \\ud800"))
    assert "The answer of alpha is ?." in Page(page.write(tmp_path)).text


def test_numbers_that_json_does_not_know_are_not_available(tmp_path: Path) -> None:
    save_result(tmp_path / "section1" / "alpha")
    path = tmp_path / "section1" / "alpha" / "result.json"
    path.write_text(path.read_text().replace("0.987654321", "NaN").replace("0.25", "Infinity"))
    shown = Page(page.write(tmp_path))
    assert "test accuracy n/a" in " ".join(shown.text.split())
    plot = json.loads(shown.all("div", "plot")[0]["data-plot"], parse_constant=pytest.fail)
    assert plot["curves"][0]["points"][2][1] is None


def test_failures_are_shown_alone_and_beside_an_earlier_result(tmp_path: Path) -> None:
    failure = {
        "question": "Why not?",
        "error": "it broke",
        "traceback": ["Traceback", "  line 7"],
        "settings": {"mode": "full", "seed": 3},
    }
    save_result(tmp_path / "section1" / "alpha")
    for name in ("alpha", "beta"):
        folder = tmp_path / "section1" / name
        folder.mkdir(exist_ok=True)
        (folder / "failure.json").write_text(json.dumps(failure))
    shown = Page(page.write(tmp_path))
    words = " ".join(shown.text.split())
    assert [a["class"] for a in shown.all("article")] == ["card done", "card failed"]
    assert "The last run of it failed (FULL, seed 3): it broke" in words
    assert "The answer of alpha is 42." in words
    assert "Why not? It failed (FULL, seed 3): it broke Where it failed Traceback line 7" in words
    assert "1 of 2 failed." in words


def test_what_does_not_compare_is_said_only_where_it_differs(tmp_path: Path) -> None:
    save_result(tmp_path / "section1" / "alpha")
    save_result(tmp_path / "section1" / "beta")
    assert not Page(page.write(tmp_path)).all("ul", "remarks")
    data = {"mnist": {"description": "digits", "provenance": "embedded stand-in"}}
    save_result(tmp_path / "section2" / "gamma", mode="full", seed=5, info={"data": data})
    words = Page(page.write(tmp_path)).text
    assert "Modes differ, and their numbers do not compare: QUICK (2), FULL (1)." in words
    assert "Seeds differ: 0 (2), 5 (1)." in words
    assert "1 of 3 rest on embedded stand-ins" in words
    assert "Versions of the code differ" not in words


def test_cards_are_in_the_order_of_the_course(tmp_path: Path) -> None:
    for place in ("section2/gamma", "section1/removed", "section1/beta", "section1/alpha"):
        save_result(tmp_path / place)
    shown = Page(page.write(tmp_path))
    assert [a["id"] for a in shown.all("article")] == ["alpha", "beta", "removed", "gamma"]


def test_without_results_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    assert "python main.py --all" in Page(page.write(tmp_path)).text


def test_the_page_refers_to_nothing_elsewhere(tmp_path: Path) -> None:
    save_result(tmp_path / "section1" / "alpha", figures=("a.png",))
    for _, attributes in Page(page.write(tmp_path)).elements:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(421642, "421,642"), (0.123456, "0.1235"), (123456.7, "123,457"), (1e-9, "1e-09"),
     (2e12, "2e+12"), (True, "True"), (None, "n/a"), ([1, 0.5], "1, 0.5"), ([], "none"),
     ("<b>", "&lt;b&gt;"), (-54321.0, "-54,321")],
)  # fmt: skip
def test_values_for_people(value: Any, text: str) -> None:
    shown = page.shown(value)
    assert (shown.striptags() if "<data" in shown else shown) == text


def test_a_run_and_a_replot_make_the_page(
    run_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real course
    written = []
    write = page.write
    monkeypatch.setattr(page, "write", lambda folder: written.append(write(folder)))
    result = run_tiny("xor", "--epochs", "3", "--set", "seeds=1")
    assert written == [tmp_path / "index.html"] * 2
    assert result.answer.split(";")[0] in Page(tmp_path / "index.html").text


def test_a_page_that_cannot_be_made_loses_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    (tmp_path / "index.html").mkdir()
    words = ["xor", "--epochs", "3", "--set", "seeds=1", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    assert main.main() == 0
    (xor,) = registry.select(["xor"])
    assert results.load(tmp_path / "section1" / xor.name).answer
    assert "the page of results was not made" in capsys.readouterr().out
