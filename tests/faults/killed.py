"""Runs of a tiny experiment that kill themselves right before a file of the results changes.

`python -m tests.faults.killed FOLDER [N ...]` prints, as JSON, how many changes a run makes and
what became of each run that was killed before its N-th one: its exit status, what was found
unreadable then, and the exit status of the run that went on with --resume. Every run is a fork of
this process, which saves each the time to start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

import config
import main
from utils.errors import UserError
from utils.experiments import registry, results

LEARNS = '''"""Does it learn?"""
import numpy as np
from section1.losses import MeanSquaredError
from section1.mlp import MLP
from section1.training import fit
from section2.optimizers import Adam
from utils.experiments.results import Curve, Result
from utils.output import plots

EPOCHS = []  # that were computed

def compute(run):
    run.note_data("points", "64 points")
    x = run.rng(0).standard_normal((64, 2), np.float32)
    y = x[:, :1] * x[:, 1:]
    model = MLP([2, 8, 1], rng=run.rng(1))
    with run.resumable() as folder, run.progress(run.budget.epochs) as bar:
        def on_epoch(history):
            EPOCHS.append(len(history.loss))
            bar.advance()
        history = fit(
            model, MeanSquaredError(), Adam(model.parameters(), 0.02), (x, y), metric=None,
            epochs=run.budget.epochs, batch_size=16, rng=run.rng(2), validation=(x, y), threads=1,
            checkpoints=folder, resume=True, on_epoch=on_epoch,
        )
    metrics = {"loss": history.val_loss[-1]}
    curve = Curve.over_runs(range(1, len(history.loss) + 1), [history.loss], "epoch", "loss")
    weights = {f"weight {k}": p.value for k, p in enumerate(model.parameters())}
    return Result("It learns.", "loss", metrics, {"loss": curve}, {}, weights)

def draw(result):
    figure, axes = plots.grid()
    plots.plot_curve(axes[0, 0], result.curves["loss"], "loss")
    figure.suptitle("It learns")
    return {"loss": figure}
'''
BUDGET = {"seconds": (1, 2, 3), "epochs": (4, 5, 6)}
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "open")  # as Python's auditing says
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def unreadable(folder: Path) -> list[str]:
    """The files of a results folder that are not whole; those with temporary names do not count.

    A result may lack only what the same run would have written next.
    """
    wrong = []
    for path in sorted(folder.rglob("[!.]*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".npz", ".pt"):
                with zipfile.ZipFile(path) as archive:
                    assert archive.testzip() is None
            elif path.suffix in (".png", ".gif"):
                with Image.open(path) as image:
                    image.load()
            elif path.suffix in (".pdf", ".html", ".tex"):
                tail = {".pdf": b"%%EOF", ".html": b"</html>", ".tex": b"\n"}[path.suffix]
                assert path.read_bytes().rstrip(b"\n").endswith(tail.rstrip(b"\n"))
            if path.name == "result.json":
                results.load(path.parent)
        except (OSError, ValueError, zipfile.BadZipFile, AssertionError, UserError) as error:
            wrong.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    return wrong


def temporary(folder: Path) -> list[Path]:
    return [*folder.rglob(".*.tmp"), *folder.rglob("*.part"), *folder.rglob(".writable")]


class Killer:
    """Counts the changes of files in a folder, and kills this process before the N-th of them."""

    def __init__(self, folder: Path, number: int):
        self.folder, self.number, self.count = str(folder), number, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(self.folder):
            return
        if event == "open" and not arguments[2] & WRITING:
            return
        self.count += 1
        if self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, *words: str, kill_at: int = 0, count_to: Path | None = None) -> int:
    """main.py in a fork of this process; its exit status, negative where a signal ended it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        killer = Killer(folder, kill_at)
        sys.addaudithook(killer)
        sys.argv = ["main.py", "learns", "--mode", "quick", "--results", str(folder), *words]
        status = main.main()
        if count_to is not None:
            count_to.write_text(str(killer.count))
    finally:
        sys.stdout.flush()
        os._exit(status)


def killed(place: Path, numbers: list[int]) -> dict[str, Any]:
    """See the top; PLACE/N has what run N left, PLACE/whole the run that nothing stopped."""
    before, whole = place / "before", place / "whole"
    assert run(before, "--seed", "1") == 0
    shutil.copytree(before, whole)
    assert run(whole, "--seed", "2", count_to=place / "count") == 0
    runs = []
    for number in numbers:
        folder = place / str(number)
        shutil.copytree(before, folder)
        status = run(folder, "--seed", "2", kill_at=number)
        found = {"number": number, "status": status, "unreadable": unreadable(folder)}
        for path in temporary(folder):
            os.utime(path, (0, 0))  # as if a while had passed
        runs.append({**found, "resumed": run(folder, "--seed", "2", "--resume")})
    return {"changes": int((place / "count").read_text()), "runs": runs}


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    (place / "section9" / "experiments").mkdir(parents=True)
    (place / "section9" / "experiments" / "learns.py").write_text(LEARNS)
    sys.path.insert(0, str(place))
    config.BUDGETS, registry.ROOT = {9: {"learns": BUDGET}}, place
    registry.SECTIONS = {9: "Tiny"}
    said, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(killed(place, [int(word) for word in sys.argv[2:]])), file=said)
