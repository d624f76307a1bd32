"""Make results/report.pdf: the derivations, and every experiment with what was measured.

It needs LaTeX's pdflatex. Without one, upload report.tex, report/ and results/ to Overleaf.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import config
from utils.errors import UserError
from utils.experiments.registry import ROOT

PASSES = 4  # at most: for the table of contents, and the numbers of pages and equations
PATIENCE = 300  # seconds a pass
CUT = 5.0  # points that a line may be too long before a reader sees it; a letter is as wide
UNREADABLE = re.compile(r"[\\{}%#~$^&\"\n]")  # in the name of a folder, to LaTeX


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", metavar="DIR", default=config.RESULTS_DIR)


def run(parsed: argparse.Namespace) -> int:
    """Write the fragments anew, run LaTeX, and say where the PDF lies and what is amiss in it."""
    from utils.experiments.results import write_file
    from utils.output import latex

    results = Path(parsed.results).resolve()
    if UNREADABLE.search(str(results)):
        raise UserError(f"LaTeX cannot read from {results}: use a folder with a plainer name")
    if not results.exists() and parsed.results != config.RESULTS_DIR:
        raise UserError(f"there is no folder {results}")
    latex.write(results)
    program = shutil.which("pdflatex")
    if program is None:
        raise UserError(
            "there is no pdflatex: install TeX Live (on Debian and Ubuntu: apt install "
            "texlive-latex-recommended lmodern), or upload report.tex, report/ and results/ to "
            "Overleaf"
        )
    log = compile_report(program, results)
    write_file(results / "report.pdf", (results / "report/build/report.pdf").read_bytes())
    for complaint in complaints(log):
        print(complaint)
    print(f"{results / 'report.pdf'}: {pages(log)} pages")
    return 0


def compile_report(program: str, results: Path) -> str:
    """Run LaTeX in results/report/build until nothing changes any more; its log.

    Raises UserError where it fails.
    """
    build = results / "report" / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    command = [
        program, "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error",
        "-file-line-error", f"-output-directory={build}", "-jobname=report",
        rf"\def\results{{{results.as_posix()}}}\input{{report.tex}}",
    ]  # fmt: skip
    for _ in range(PASSES):
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | {"max_print_line": "10000"},  # one line of the log a message
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"LaTeX did not end within {PATIENCE} s: see {build}") from None
        path = build / "report.log"
        log = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if done.returncode:
            wrong = re.search(r"(?m)^(?:!|.*?:\d+: ).*", log)
            words = wrong.group() if wrong else "it did not say why"
            raise UserError(f"LaTeX failed: {words} (details: {path})")
        if not re.search(r"Rerun to get|undefined references|No file report\.", log):
            break
    return log


def complaints(log: str) -> list[str]:
    """What a reader of the PDF would stumble over: references that lead nowhere, lines that run
    off the page, figures that are not there.
    """
    found = [f"missing figure: {path}" for path in re.findall(r"report: missing figure (.+)", log)]
    found += [
        f"undefined {kind.lower()}: {name}"
        for kind, name in re.findall(r"Warning: (Reference|Citation) [`'](.+?)' ", log)
    ]
    found += [
        f"a line is {width} pt too long: {place}"
        for width, place in re.findall(r"Overfull \\hbox \((.+?)pt too wide\) (.+)", log)
        if float(width) > CUT
    ]
    found += [
        f"a page is {height} pt too full"
        for height in re.findall(r"Overfull \\vbox \((.+?)pt too high\)", log)
        if float(height) > CUT
    ]
    return list(dict.fromkeys(found))


def pages(log: str) -> int:
    (count,) = re.findall(r"Output written on .*? \((\d+) pages?", log)[-1:] or ["0"]
    return int(count)
