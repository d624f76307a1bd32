"""Saved results as LaTeX: `write` makes what `report.tex` reads from results/report/.

experiments.tex   every experiment in the order of the course; it reads the next ones
NAME.tex          one experiment: question, method, figures, tables, answer, and where it was run
metrics.tex       every number as \\metric{experiment}{name}
provenance.tex    modes, seeds and data of all results, for the title page

All words pass through `escape`: whatever they contain, LaTeX prints it or a substitute.
"""

from __future__ import annotations

import ast
import math
import re
import textwrap
import unicodedata
from dataclasses import dataclass
from functools import cache
from operator import methodcaller
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.experiments import machine, registry, results
from utils.experiments.registry import Experiment, time_taken
from utils.experiments.results import Result, Table

ROWS = 30  # of a table; the others are in result.json
LINE = 95  # characters of small type on a line of the page
HEADS = 14, 9  # characters of a column's name on one line, where there is room and where not

# --- words ----------------------------------------------------------------------------------

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_\allowbreak{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "/": r"/\allowbreak{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which mean something after a \\
    "–": r"\textendash{}", "—": r"\textemdash{}", "‐": "-", "‑": "-", "…": r"\ldots{}",
    "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "‘": r"\textquoteleft{}",
    "’": "'", "„": r"\quotedblbase{}", "€": r"\texteuro{}", "£": r"\pounds{}", "§": r"\S{}",
    "°": r"\ensuremath{^\circ}", "·": r"\ensuremath{\cdot}", "•": r"\textbullet{}",
    "±": r"\ensuremath{\pm}", "∓": r"\ensuremath{\mp}", "×": r"\ensuremath{\times}",
    "÷": r"\ensuremath{\div}", "−": r"\ensuremath{-}", "⋅": r"\ensuremath{\cdot}",
    "→": r"\ensuremath{\to}", "←": r"\ensuremath{\leftarrow}", "↔": r"\ensuremath{\leftrightarrow}",
    "↑": r"\ensuremath{\uparrow}", "↓": r"\ensuremath{\downarrow}",
    "⇒": r"\ensuremath{\Rightarrow}", "⟨": r"\ensuremath{\langle}", "⟩": r"\ensuremath{\rangle}",
    "≤": r"\ensuremath{\le}", "≥": r"\ensuremath{\ge}", "≠": r"\ensuremath{\ne}",
    "≈": r"\ensuremath{\approx}", "≡": r"\ensuremath{\equiv}", "∝": r"\ensuremath{\propto}",
    "∞": r"\ensuremath{\infty}", "√": r"\ensuremath{\surd}", "∂": r"\ensuremath{\partial}",
    "∇": r"\ensuremath{\nabla}", "∑": r"\ensuremath{\sum}", "∏": r"\ensuremath{\prod}",
    "∫": r"\ensuremath{\int}", "∈": r"\ensuremath{\in}", "∘": r"\ensuremath{\circ}",
    "‖": r"\ensuremath{\Vert}", "ℓ": r"\ensuremath{\ell}", "µ": r"\ensuremath{\mu}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}",
    "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "⁄": "/",
}  # fmt: skip
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327\u0323",
                   "`'^~=u.\"rHvcd"))  # fmt: skip
GREEK = re.compile(
    "GREEK (SMALL|CAPITAL) LETTER (FINAL )?(ALPHA|BETA|GAMMA|DELTA|EPSILON|ZETA|ETA|THETA|IOTA|"
    "KAPPA|LAMDA|MU|NU|XI|OMICRON|PI|RHO|SIGMA|TAU|UPSILON|PHI|CHI|PSI|OMEGA)$"
)
LIKE_LATIN = {  # so TeX has no signs for them
    "Alpha": "A", "Beta": "B", "Epsilon": "E", "Zeta": "Z", "Eta": "H", "Iota": "I", "Kappa": "K",
    "Mu": "M", "Nu": "N", "Omicron": "O", "Rho": "P", "Tau": "T", "Chi": "X", "omicron": "o",
}  # fmt: skip


def escape(text: object) -> str:
    """Words as LaTeX in ASCII, on one line: they print as they are, whatever they contain.

    A character that LaTeX's own fonts lack becomes its code, such as [U+1F600]; one that is not
    printed at all is left out.
    """
    pieces: list[str] = []
    for sign in unicodedata.normalize("NFC", re.sub(r"\s+", " ", str(text))):
        _add(sign, pieces)
    return re.sub(r"([-',])(?=\1)", r"\1{}", "".join(pieces))  # else -- would be one long dash


def _add(sign: str, pieces: list[str]) -> None:
    """One more character, which may be an accent over the last one."""
    if sign in SIGNS:
        pieces.append(SIGNS[sign])
    elif " " <= sign <= "~":
        pieces.append(sign)
    elif unicodedata.combining(sign):
        if sign in ACCENTS and pieces and re.fullmatch("[A-Za-z]", pieces[-1]):
            pieces[-1] = f"\\{ACCENTS[sign]}{{{pieces[-1]}}}"
    elif unicodedata.category(sign) in ("Cc", "Cf", "Cs"):
        return
    elif greek := GREEK.match(unicodedata.name(sign, "")):
        size, final, letter = greek.groups()
        letter = letter.replace("LAMDA", "LAMBDA")  # as Unicode spells it
        letter = letter.lower() if size == "SMALL" else letter.capitalize()
        pieces.append(
            LIKE_LATIN.get(letter) or rf"\ensuremath{{\{'var' if final else ''}{letter}}}"
        )
    else:
        meaning = unicodedata.decomposition(sign).partition("> ")[0]
        simpler = unicodedata.normalize("NFKD", sign)
        if simpler == sign:
            pieces.append(f"{{[}}U+{ord(sign):04X}{{]}}")
            return
        raised = {"<super": "superscript", "<sub": "subscript"}.get(meaning)
        if raised:
            pieces.append(rf"\text{raised}{{{escape(simpler)}}}")
        else:
            for part in simpler:
                _add(part, pieces)


def code(text: object) -> str:
    return rf"\texttt{{{escape(text)}}}"


def prose(text: str) -> str:
    """Paragraphs, lists of lines that begin with "- ", and `code`, as docstrings have them."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("- "):
            items = [rf"\item {_spans(item)}" for item in re.split(r"(?m)^- ", block)[1:]]
            blocks.append("\n".join([r"\begin{itemize}", *items, r"\end{itemize}"]))
        else:
            blocks += [_spans(part) for part in re.split(r"(?m)\n(?=Sources?:)", block)]
    return "\n\n".join(blocks)


def _spans(text: str) -> str:
    """Words with `code` and *emphasis* among them."""
    parts = re.split(r"`([^`]+)`|(?<!\w)\*(\S|\S[^*]*\S)\*(?!\w)", text)  # (words, code, emphasis)
    spans = [escape(words) for words in parts]
    spans[1::3] = [code(part) if part else "" for part in parts[1::3]]
    spans[2::3] = [rf"\emph{{{escape(part)}}}" if part else "" for part in parts[2::3]]
    return "".join(spans)


# --- numbers --------------------------------------------------------------------------------


def number(value: Any) -> str:
    """A number with four digits, or any other cell of a table; what is missing is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return r"\textendash{}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return escape(value)
    if isinstance(value, float) and math.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    if value == 0:
        return "$0$"  # of -0.0 too
    if isinstance(value, int) or 1e4 <= abs(value) < 1e9:
        digits = (f"{value:,}" if isinstance(value, int) else f"{value:,.0f}").replace(",", r"\,")
    else:
        digits, _, power = f"{value:.4g}".partition("e")
        if power:
            digits = rf"{digits} \times 10^{{{int(power)}}}"
    return f"${digits}$"


def spread(mean: Any, std: Any) -> str:
    """Mean ± standard deviation, to two digits of the latter."""
    if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in (mean, std)) or std <= 0:
        return number(mean)
    if std < 1e-6 * abs(mean):
        return number(mean)
    places = 1 - math.floor(math.log10(std))
    if not -3 < places < 7:
        return rf"{number(mean)} $\pm$ {number(std)}"
    places = max(places, 0)
    return rf"${mean:.{places}f} \pm {std:.{places}f}$"


# --- tables ---------------------------------------------------------------------------------


@dataclass
class Column:
    name: str
    cells: list[str]  # as LaTeX
    words: bool  # not numbers alone
    fold: int = HEADS[0]

    @property
    def head(self) -> list[str]:
        return textwrap.wrap(self.name, self.fold, break_long_words=False)

    @property
    def width(self) -> int:
        """In characters, on one line each."""
        return max(map(_printed, [*self.head, *self.cells]), default=0) + 2

    @property
    def least(self) -> int:
        """The longest word, which is not broken."""
        words = (word for cell in [self.name, *self.cells] for word in re.split(r" |_|/", cell))
        return max(map(_printed, words), default=0) + 2


def _printed(text: str) -> int:
    """About how many characters LaTeX prints."""
    return len(re.sub(r"\\[A-Za-z]+|[\\{}$]", "", text))


def columns(content: Table) -> list[Column]:
    """The columns of a table, its first rows; one called "std" is joined to that before it."""
    found: list[Column] = []
    rows = content.rows[:ROWS]
    for k, name in enumerate(content.columns):
        values = [row[k] for row in rows]
        if name == "std" and k > 0:
            found[-1].cells = [spread(row[k - 1], row[k]) for row in rows]
            continue
        words = any(isinstance(value, str) for value in values)
        found.append(Column(name, [number(value) for value in values], words))
    return found


def table(content: Table, caption: str) -> str:
    """A table that fits on the page; `caption` is LaTeX. Long words are wrapped, and what is left
    out after the first rows is told.
    """
    shown = columns(content)
    if sum(column.width for column in shown) > LINE:
        for column in shown:
            column.fold = HEADS[1]
    long = [column for column in shown if column.words and column.width > 16]
    if sum(column.width for column in shown) <= 1.2 * LINE:  # made a little smaller, it fits
        long = []
    room = LINE - sum(column.width for column in shown if column not in long)
    kinds, heads = [], []
    for column in shown:
        kind = "l" if column.words else "r"
        head = r" \\ ".join(map(escape, column.head))
        head = rf"\begin{{tabular}}[b]{{@{{}}{kind}@{{}}}}{head}\end{{tabular}}"
        if column in long:
            share = max(room * column.width / sum(c.width for c in long), column.least)
            kind, head = rf"L{{{share / LINE:.3f}\linewidth}}", escape(column.name)
        kinds.append(kind)
        heads.append(rf"\multicolumn{{1}}{{{kind}}}{{{head}}}")
    rows = zip(*(column.cells for column in shown))
    parts = [
        rf"\begin{{resulttable}}{{{caption}}}{{{''.join(kinds)}}}",
        rf"{' & '.join(heads)} \\ \midrule",
        *(rf"{' & '.join(row)} \\" for row in rows),
        r"\bottomrule",
        r"\end{resulttable}",
    ]
    if len(content.rows) > ROWS:
        note = f"The first {ROWS} of {len(content.rows)} rows; all are in {code('result.json')}."
        parts.append(rf"\tablenote{{{note}}}")
    return "\n".join(parts)


# --- an experiment --------------------------------------------------------------------------


@cache
def method_of(experiment: Experiment) -> str:
    """What the docstring of an experiment's file says after the question."""
    path = registry.ROOT / f"section{experiment.section}" / "experiments" / f"{experiment.name}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return prose(docstring.partition("\n\n")[2])


def command(experiment: Experiment) -> str:
    return code(f"python main.py {experiment.name}")


def opening(experiment: Experiment) -> list[str]:
    name, question = escape(experiment.name), escape(experiment.question)
    first, method = (
        rf"\experiment{{{experiment.label}}}{{{name}}}{{{question}}}",
        method_of(experiment),
    )
    return [first, rf"\method{{{method}}}"] if method else [first]


def missing(experiment: Experiment, reason: str = "Not yet run") -> str:
    """The section of an experiment without a result that can be read."""
    return "\n".join([*opening(experiment), rf"\notrun{{{reason}: {command(experiment)}}}"])


def section(experiment: Experiment, result: Result) -> str:
    """Question, where it was run, method, figures, tables and answer of an experiment."""
    marks = ", ".join(map(escape, conditions(result)))
    first, *method = opening(experiment)
    parts = [first, rf"\provenance{{{escape(provenance(experiment, result))}}}", *method]
    for file in result.info.get("figures", []):
        name, _, kind = file.rpartition(".")
        words = escape(name.replace("_", " ").capitalize())
        frame = ", the last frame" if kind == "gif" else ""
        place = f"section{experiment.section}/{experiment.name}/{name}"
        parts.append(rf"\resultfigure{{{place}}}{{{words}{frame} ({marks}).}}")
    tables = {name: content for name, content in result.tables.items() if content.rows}
    if not tables:
        tables["numbers"] = Table(["name", "value"], [list(x) for x in result.metrics.items()])
    for name, content in tables.items():
        words = escape(name.replace("_", " ").capitalize())
        parts.append(table(content, f"{words} ({marks})."))
    return "\n\n".join([*parts, rf"\answer{{{escape(result.answer)}}}"])


def conditions(result: Result) -> list[str]:
    """What two results must have in common to be compared: mode and seed."""
    settings = result.info["settings"]
    return [settings["mode"].upper(), f"seed {settings['seed']}"]


def changed(experiment: Experiment, result: Result) -> dict[str, Any]:
    """The settings of a result that are not those of its mode in config.py."""
    settings = result.info["settings"]
    usual = results.to_plain(experiment.settings(settings["mode"]))
    return {k: v for k, v in settings["budget"].items() if k not in usual or usual[k] != v}


def provenance(experiment: Experiment, result: Result) -> str:
    info, other = result.info, changed(experiment, result)
    words = [
        *conditions(result),
        "data: " + "; ".join(result.data),
        "settings other than in config.py: " + ", ".join(f"{k} = {v}" for k, v in other.items())
        if other
        else "",
        info.get("engine"),
        info["machine"].get("gpu") or info["machine"]["cpu"],
        f"{time_taken(info)}, {info['finished'][:10]}",
        f"code {machine.code_version(info['code'])}",
    ]
    return " · ".join(filter(None, words)) + "."


def metrics(experiment: Experiment, result: Result) -> list[str]:
    """Each number as a macro, where LaTeX can take its name."""
    return [
        rf"\setmetric{{{experiment.name}}}{{{name}}}{{{number(value)}}}"
        for name, value in result.metrics.items()
        if re.fullmatch(r"[A-Za-z0-9_.@+() -]+", name)
    ]


def summary(found: dict[Experiment, Result], total: int) -> str:
    """For the title page: how much has been run, how, on what; and whether that is all alike."""
    lines = [f"{len(found)} of {total} experiments have been run."]
    for what in ("mode", "seed"):
        values = [str(result.info["settings"][what]).upper() for result in found.values()]
        counts = {value: values.count(value) for value in values}
        if len(counts) > 1:
            each = escape(", ".join(f"{value} ({n})" for value, n in counts.items()))
            lines.append(rf"\textbf{{The results are of different {what}s: {each}.}}")
        else:
            lines += [f"{what.capitalize()}: {escape(value)}." for value in counts]
    others = [e.name for e, result in found.items() if changed(e, result)]
    if others:
        names = escape(", ".join(others))
        lines.append(rf"\textbf{{Not with the settings of \texttt{{config.py}}: {names}.}}")
    sets = dict.fromkeys(
        used["description"]
        for result in found.values()
        for used in result.info["data"].values()
        if used["provenance"] != "generated"
    )
    if sets:
        lines.append(f"Data sets: {escape('; '.join(sets))}.")
    return "\n\n".join(lines)


def write(folder: Path) -> None:
    """Write `report/` in the results folder from all results in it; what was there is replaced.

    Raises UserError where the folder cannot be written to.
    """
    found: dict[Experiment, Result] = {}
    everything = registry.all_experiments()
    texts: dict[str, str] = {}
    index, current = ["% Written by utils/output/latex.py."], 0
    for e in everything:
        place = folder / f"section{e.section}" / e.name
        try:
            if (place / "result.json").exists():
                result = results.load(place)
                texts[e.name], found[e] = section(e, result), result
            else:
                texts[e.name] = missing(e)
        except (UserError, LookupError, TypeError, ValueError, AttributeError):
            texts[e.name] = missing(e, "The saved result cannot be read; run it again")
        if e.section != current:
            current = e.section
            index.append(rf"\coursesection{{{current}}}{{{escape(registry.SECTIONS[current])}}}")
        index.append(rf"\input{{\results/report/{e.name}.tex}}")
    macros = [line for e, result in found.items() for line in metrics(e, result)]
    texts |= {"experiments": "\n".join(index), "metrics": "\n".join(macros)}
    texts["provenance"] = summary(found, len(everything))
    report = folder / "report"
    files = {report / f"{name}.tex": f"{text}\n".encode() for name, text in texts.items()}
    new = {p: text for p, text in files.items() if not p.exists() or p.read_bytes() != text}
    results.write_files({path: methodcaller("write", text) for path, text in new.items()})
    for old in {*report.glob("*.tex")} - set(files):
        old.unlink()
