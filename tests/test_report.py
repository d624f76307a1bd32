"""The report: it compiles in every state, and it and the code refer to what there is."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import main
from commands import report
from tests.utils.output.saved import save_result
from tests.utils.output.test_latex import HOSTILE, save
from utils.errors import UserError
from utils.experiments import registry
from utils.experiments.results import Table

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = [ROOT / "report.tex", *sorted((ROOT / "report").glob("*.tex"))]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in CHAPTERS)
LABELS = re.findall(r"\\label\{(.+?)\}", TEXT)

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")


# --- the report and the code ----------------------------------------------------------------


def test_every_equation_that_a_docstring_names_is_in_the_report() -> None:
    named = set()
    for path in ROOT.glob("section*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                named |= set(re.findall(r"\beq:[a-z0-9-]+", ast.get_docstring(node) or ""))
    assert len(named) > 20
    assert not named - set(LABELS)


def test_every_file_that_the_report_names_is_there() -> None:
    files = re.findall(r"\\code\{([\w/]+\.py)\}", TEXT)
    assert len(files) > 20
    assert not [name for name in files if not (ROOT / name).is_file()]


def test_labels_are_unique_and_references_lead_to_one() -> None:
    assert len(LABELS) == len(set(LABELS))
    assert not set(re.findall(r"\\(?:eq)?ref\{(.+?)\}", TEXT)) - set(LABELS)
    cited = {key for keys in re.findall(r"\\cite\{(.+?)\}", TEXT) for key in keys.split(",")}
    assert cited <= set(re.findall(r"\\bibitem\{(.+?)\}", TEXT))


def test_chapters_are_read_and_numbers_are_of_experiments() -> None:
    read = set(re.findall(r"\\input\{report/(\w+)\}", TEXT))
    assert read == {path.stem for path in CHAPTERS[1:]}
    names = {experiment.name for experiment in registry.all_experiments()}
    assert set(re.findall(r"\\metric\{(\w+)\}", TEXT)) <= names


def test_only_packages_of_every_tex_live_are_used() -> None:
    lines = re.findall(r"\\usepackage(?:\[.*?\])?\{(.+?)\}", TEXT)
    assert {name for line in lines for name in line.split(",")} <= {
        "fontenc", "inputenc", "lmodern", "geometry", "amsmath", "amssymb", "amsthm",
        "mathtools", "textcomp", "microtype", "booktabs", "array", "graphicx", "caption", "xcolor",
        "parskip", "hyperref",
    }  # fmt: skip


# --- the command ----------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
    return main.main()


def test_without_latex_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert call(monkeypatch, "report", "--results", tmp_path) == 2
    said = capsys.readouterr().err
    assert "texlive-latex-recommended" in said and "Overleaf" in said and "Traceback" not in said
    assert (tmp_path / "report" / "experiments.tex").exists()  # for Overleaf


def test_a_folder_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "report", "--results", tmp_path / "typo") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_a_folder_that_latex_cannot_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "report", "--results", tmp_path / "100%") == 2
    assert "plainer name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("(report.tex\n! Undefined control sequence.\n", "! Undefined control sequence."),
        ("(report.tex\n./report.tex:3: Emergency stop.\n", "./report.tex:3: Emergency stop."),
        ("!pdfTeX error: a.png: no file\n==> F", "!pdfTeX error: a.png: no file"),
        ("nothing\n", "it did not say why"),
    ],
)
def test_where_latex_fails_its_first_error_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, words: str
) -> None:
    def fail(command: list[str], **options: object) -> subprocess.CompletedProcess:
        (tmp_path / "report/build/report.log").write_text(log)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UserError, match=re.escape(f"LaTeX failed: {words} (details: ")):
        report.compile_report("pdflatex", tmp_path)


def test_complaints_are_what_a_reader_would_stumble_over() -> None:
    log = (
        "LaTeX Warning: Reference `eq:gone' on page 3 undefined on input line 5.\n"
        "LaTeX Warning: Citation `nobody' on page 3 undefined on input line 6.\n"
        "Overfull \\hbox (2.5pt too wide) in paragraph at lines 1--2\n"
        "Overfull \\hbox (25.0pt too wide) in paragraph at lines 3--4\n"
        "Overfull \\vbox (40.0pt too high) has occurred while \\output is active\n"
        "report: missing figure results/section1/xor/loss\n"
    )
    assert report.complaints(log) == [
        "missing figure: results/section1/xor/loss",
        "undefined reference: eq:gone",
        "undefined citation: nobody",
        "a line is 25.0 pt too long: in paragraph at lines 3--4",
        "a page is 40.0 pt too full",
    ]


def root_files() -> set[str]:
    return {path.name for path in ROOT.iterdir()}


@pytest.mark.latex
@needs_latex
def test_it_compiles_on_a_fresh_clone(tmp_path: Path) -> None:
    """By LaTeX alone, without main.py having made anything."""
    before = root_files()
    log = report.compile_report(str(shutil.which("pdflatex")), tmp_path)
    assert report.complaints(log) == []
    assert report.pages(log) > 20
    assert root_files() == before


@pytest.mark.latex
@needs_latex
def test_it_compiles_after_some_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a real run, and with results full of words that LaTeX would choke on."""
    before, folder = root_files(), tmp_path / "my results_1"
    tiny = ("--set", "seeds=2", "--set", "hidden=2", "--epochs", "3")
    assert call(monkeypatch, "xor", "--results", folder, *tiny) == 0
    assert (folder / "section1" / "xor" / "boundary.pdf").stat().st_size > 5_000
    save(folder, "regression", mode="hybrid")
    words = [word.encode(errors="ignore").decode() for word in HOSTILE.split()]
    save_result(
        folder / "section1" / "fashion_mlp",
        tables={
            "wide": Table(words, [words, words]),
            "long": Table(["a", "b"], [[" ".join(words), "supercalifragilistic" * 9]] * 100),
            "numbers": Table(["n"] * 40, [[k * 1e-9 for k in range(40)]]),
        },
    )
    capsys.readouterr()
    assert call(monkeypatch, "report", "--results", folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{re.escape(str(folder))}/report\.pdf: \d+ pages", said[-1])
    assert said[:-1] == [f"missing figure: {folder}/section1/regression/missing_figure"]
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    assert root_files() == before
