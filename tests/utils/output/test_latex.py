"""Words, numbers and tables as LaTeX, and what is written for the report."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.animation import FuncAnimation
from matplotlib.lines import Line2D

from tests.utils.output.saved import save_result
from utils.experiments import registry, results, runner
from utils.experiments.registry import Experiment
from utils.experiments.results import Table
from utils.output import latex, plots
from utils.output.latex import escape, number, prose, spread, table

HOSTILE = (
    r"\input{/etc/passwd} $x_1^2$ 50% #1 {a} }{ ~ & % -- ''quotes'' `ticks` <<b>> \\ [x] * | \end "
    "± × → − – — … é ñ Å ł ß ç x\u0302 γ Ω λ ς ∇ √ 10⁻³ H₂O ½ ﬁ 漢字 😀 \u202e \x00 \x07 \ud800 µ Ĳ"
)
COMMANDS = re.compile(r"\\(?:[A-Za-z]+|[^A-Za-z])")


def assert_harmless(text: str) -> None:
    """Plain ASCII, braces in pairs, and no sign that means something to LaTeX on its own."""
    assert text.isascii() and text.isprintable()
    known = {"textbackslash", "ensuremath", "allowbreak", *("textsuperscript", "textsubscript")}
    known |= set(re.findall(r"\\([A-Za-z]+)", " ".join(latex.SIGNS.values())))
    known |= set(latex.ACCENTS.values())
    greek = re.findall(r"\\ensuremath\{\\([A-Za-z]+)\}", text)
    for command in COMMANDS.findall(text):
        name = command[1:]
        assert name in known or name in "{}$&#%_^" or name in greek, command
    plain = re.sub(r"\\ensuremath\{[^{}]*\}", "", text)
    plain = COMMANDS.sub(" ", plain)  # what stands on either side does not touch
    assert not set(plain) & set('$&#%_^~\\<>|"`')
    depth = 0
    for sign in plain:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    assert "--" not in plain and "''" not in plain and ",," not in plain


@given(st.text())
def test_any_text_becomes_harmless(text: str) -> None:
    assert_harmless(escape(text))


@pytest.mark.parametrize("text", [HOSTILE, *HOSTILE.split()])
def test_hostile_text_becomes_harmless(text: str) -> None:
    assert_harmless(escape(text))


def test_every_sign_of_europe_and_mathematics_alone() -> None:
    for code in range(0x2600):
        assert_harmless(escape(chr(code)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50% of $5 & #1", r"50\% of \$5 \& \#1"),
        ("a_b", r"a\_\allowbreak{}b"),
        ("--all", "-{}-all"),
        ("0.5 ± 0.1", r"0.5 \ensuremath{\pm} 0.1"),
        ("café", r"caf\'{e}"),
        ("cafe\u0301", r"caf\'{e}"),
        ("γ Γ", r"\ensuremath{\gamma} \ensuremath{\Gamma}"),
        ("ςλ", r"\ensuremath{\varsigma}\ensuremath{\lambda}"),
        ("Ν", "N"),  # a capital nu, for which TeX has no sign of its own
        ("10⁻³", r"10\textsuperscript{\ensuremath{-}}\textsuperscript{3}"),
        ("ﬁ ½", "fi 1/2"),
        ("漢", "{[}U+6F22{]}"),
        ("a\u202e\x00b\n\tc", "ab c"),
    ],
)  # fmt: skip
def test_what_words_become(text: str, expected: str) -> None:
    assert escape(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "$3$"), (-3, "$-3$"), (1234567, r"$1\,234\,567$"), (10**400, None), (0.0, "$0$"),
        (0.123456, "$0.1235$"), (-2.5, "$-2.5$"), (1.23e-7, r"$1.23 \times 10^{-7}$"),
        (12345.6, r"$12\,346$"), (1e12, r"$1 \times 10^{12}$"), (math.nan, r"\textendash{}"),
        (None, r"\textendash{}"), (math.inf, r"$\infty$"), (-math.inf, r"$-\infty$"),
        (True, "yes"), ("5%", r"5\%"), (-0.0, "$0$"),
    ],
)  # fmt: skip
def test_numbers(value: Any, expected: str | None) -> None:
    text = number(value)
    assert text == expected or (expected is None and len(text) > 400)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.91234, 0.0049, r"$0.9123 \pm 0.0049$"),
        (91.234, 1.5, r"$91.2 \pm 1.5$"),
        (1234.5, 87.0, r"$1234 \pm 87$"),
        (0.5, 0.0, "$0.5$"),
        (0.5, 1e-17, "$0.5$"),
        (0.5, None, "$0.5$"),
        (None, 0.1, r"\textendash{}"),
    ],
)
def test_mean_and_deviation(mean: Any, std: Any, expected: str) -> None:
    assert spread(mean, std) == expected


def test_a_column_of_deviations_joins_the_one_before() -> None:
    text = table(Table(["net", "error", "std", "n"], [["a", 0.5, 0.01, 3]]), "T")
    assert r"a & $0.500 \pm 0.010$ & $3$ \\" in text
    assert "std" not in text


def test_a_long_table_is_cut_and_says_so() -> None:
    text = table(Table(["k"], [[k] for k in range(100)]), "T")
    assert "$29$" in text and "$30$" not in text
    assert f"The first {latex.ROWS} of 100 rows" in text
    assert "tablenote" not in table(Table(["k"], [[k] for k in range(latex.ROWS)]), "T")


def test_long_words_are_wrapped_within_the_line() -> None:
    text = table(Table(["who", "what"], [["word " * 20, "other " * 30]]), "T")
    shares = [float(share) for share in re.findall(r"L\{(.+?)\\linewidth\}", text)]
    assert len(shares) >= 2 and sum(shares[:2]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a *b c* d", r"a \emph{b c} d"),
        ("KH*KW*C", "KH{*}KW{*}C"),
        ("3 * 4 * 5 and `x", r"3 {*} 4 {*} 5 and \textasciigrave{}x"),
        ("`a`, `b c`.", r"\texttt{a}, \texttt{b c}."),
        ("`=` and `+=`", r"\texttt{=} and \texttt{+=}"),
    ],
)
def test_code_and_emphasis(text: str, expected: str) -> None:
    assert prose(text) == expected


def test_docstrings_as_prose() -> None:
    text = prose("Uses `a_b.py`.\nAnd 5%.\nSources: X.\n\n- one\n  more\n- two")
    first, sources, items = text.split("\n\n")
    assert first == r"Uses \texttt{a\_\allowbreak{}b.py}. And 5\%."
    assert sources == "Sources: X."
    assert items.split("\n") == [
        r"\begin{itemize}", r"\item one more ", r"\item two", r"\end{itemize}"
    ]  # fmt: skip


# --- figures for print ----------------------------------------------------------------------


def test_a_figure_and_the_end_of_an_animation_are_written_for_print_too(tmp_path: Path) -> None:
    for kind, name in (("png", "still"), ("gif", "moving")):
        figure, axes = plots.grid()
        (line,) = axes[0, 0].plot([0, 1])
        figure.suptitle("What was found")

        def show(frame: int, line: Line2D = line) -> list[Line2D]:
            line.set_ydata([frame, 1])
            return [line]

        picture = FuncAnimation(figure, show, frames=3) if kind == "gif" else figure
        path = plots.save(picture, tmp_path / name, "data, mode and seed")
        assert path == tmp_path / f"{name}.{kind}" and path.exists()
        content = path.with_suffix(".pdf").read_bytes()
        assert content.startswith(b"%PDF") and b"CreationDate" not in content
        assert line.get_ydata()[0] == (2 if kind == "gif" else 0)


def test_printed_figures_that_are_drawn_no_more_are_removed(tmp_path: Path) -> None:
    folder = save(tmp_path, "xor")
    (folder / "old.pdf").write_bytes(b"")
    (experiment,) = registry.select(["xor"])
    with pytest.raises(KeyError):  # this result has nothing to draw
        runner.draw(experiment, results.load(folder), folder)
    assert (folder / "old.pdf").exists()
    experiment = Drawn(1, 1, "xor", "?")
    runner.draw(experiment, results.load(folder), folder)
    assert {path.name for path in folder.glob("*.p*")} == {"one.png", "one.pdf"}


class Drawn(Experiment):
    def module(self) -> Any:
        return SimpleNamespace(draw=lambda result: {"one": plots.grid()[0]})


# --- what is written ------------------------------------------------------------------------


def save(folder: Path, name: str, mode: str = "quick", seed: int = 0, **budget: Any) -> Path:
    """A made-up result of an experiment, full of words that LaTeX would choke on."""
    (experiment,) = registry.select([name])
    place = folder / f"section{experiment.section}" / name
    usual = results.to_plain(experiment.settings(mode))
    save_result(
        place,
        answer=f"100% {HOSTILE.encode(errors='ignore').decode()}",
        headline="share",
        metrics={"share": 0.75, "bad } name": 1.0},
        tables={"a_b & c": Table([HOSTILE[:20], "%", "std"], [["[x] & y", 0.5, 0.1], ["*", 1, 0]])},
        info={
            "settings": {"mode": mode, "seed": seed, "budget": usual | budget},
            "data": {"d": {"description": "data_set #1", "provenance": "official"}},
            "machine": {"cpu": "x86 & co", "gpu": None},
            "code": {"commit": None, "dirty": None},
            "figures": ["missing_figure.png"],
        },
    )
    return place


def read(folder: Path, name: str) -> str:
    return (folder / "report" / f"{name}.tex").read_text(encoding="ascii")


def test_everything_is_listed_in_the_order_of_the_course(tmp_path: Path) -> None:
    save(tmp_path, "xor")
    latex.write(tmp_path)
    names = [experiment.name for experiment in registry.all_experiments()]
    assert re.findall(r"report/(\w+)\.tex", read(tmp_path, "experiments")) == names
    assert r"\answer{" in read(tmp_path, "xor") and "notrun" not in read(tmp_path, "xor")
    other = read(tmp_path, "mnist_cnn")
    assert r"\notrun{Not yet run: \texttt{python main.py mnist\_\allowbreak{}cnn}}" in other
    assert r"How many handwritten digits" in other and r"\method{Convolutions look" in other


def test_a_section_says_where_its_numbers_come_from(tmp_path: Path) -> None:
    save(tmp_path, "xor", mode="full", seed=7, epochs=3)
    latex.write(tmp_path)
    text = read(tmp_path, "xor")
    assert r"\provenance{FULL \ensuremath{\cdot} seed 7 \ensuremath{\cdot} data: data\_" in text
    assert "settings other than in config.py: epochs = 3" in text
    assert r"\resultfigure{section1/xor/missing_figure}{Missing figure (FULL, seed 7).}" in text
    assert "(FULL, seed 7).}{" in text  # the caption of the table
    assert read(tmp_path, "metrics") == "\\setmetric{xor}{share}{$0.75$}\n"


def test_the_title_page_tells_when_results_are_not_alike(tmp_path: Path) -> None:
    save(tmp_path, "xor")
    latex.write(tmp_path)
    text = read(tmp_path, "provenance")
    assert "Mode: QUICK." in text and "Seed: 0." in text and "different" not in text
    assert text.startswith("1 of ")
    save(tmp_path, "regression", mode="hybrid", seed=1, noise=0.9)
    latex.write(tmp_path)
    text = read(tmp_path, "provenance")
    assert "different modes: QUICK (1), HYBRID (1)" in text
    assert "different seeds: 0 (1), 1 (1)" in text
    assert "Not with the settings of \\texttt{config.py}: regression" in text


def test_a_damaged_result_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    (save(tmp_path, "xor") / "result.json").write_text("{")
    place = save(tmp_path, "regression")
    saved = results.load(place)
    saved.info = {}
    results.save(saved, place)
    place = save(tmp_path, "mnist_cnn")
    saved = results.load(place)
    del saved.info["data"]["d"]["provenance"]
    results.save(saved, place)
    save(tmp_path, "fashion_mlp")
    latex.write(tmp_path)
    for name in ("xor", "regression", "mnist_cnn"):
        assert "cannot be read" in read(tmp_path, name)
    assert r"\answer" in read(tmp_path, "fashion_mlp")
    assert read(tmp_path, "provenance").startswith("1 of ")


def test_what_is_left_of_experiments_that_are_gone_is_removed(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "gone.tex").write_text("old")
    latex.write(tmp_path)
    assert not (tmp_path / "report" / "gone.tex").exists()
    assert "0 of" in read(tmp_path, "provenance")
