"""How much faster do several processes train one network, and do they learn the same?

Every process has the whole network and takes its share of each batch; the gradients are averaged,
and all take the same step (`distributed.py`). On several GPUs that is how training gets faster. On
a CPU one process can use all cores with threads, so that is what several processes, with as many
threads between them, are fairly compared with; one process with one thread shows what the cores are
worth. Whether they learn the same is seen in a single step from the same weights, whose result
should differ by rounding alone, unless batch norm takes its means over fewer rows; and in the test
accuracy after training from the same weights in the same order. All is in float32; the arms run
one after the other, each in processes of its own.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from section1.experiments._training import counted, signed
from section1.parallel import available_threads
from section3.experiments._cnns import ALONE, tied
from section4 import checkpoint
from section4.engine import find_device
from section4.experiments._vision import load_photographs
from utils.errors import UserError
from utils.experiments import machine
from utils.experiments.registry import ROOT
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

WORKER = "section4.experiments._data_parallel_worker"
# The beginnings of what torchrun tells its processes: those started here are none of them.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def plan(counts: Sequence[int], cores: int, gpu: bool) -> dict[int, list[int]]:
    """For each number of processes the threads of one, as often as it is measured.

    All arms have as many threads in all, at most one a core, if there are cores enough. On a CPU
    one process is also measured with one.
    """
    shared = cores - cores % math.lcm(*counts) or cores
    arms = {count: [max(1, shared // count)] for count in sorted({1, *counts})}
    if not gpu and shared > 1:
        arms[1].insert(0, 1)
    return arms


def launch(processes: int, threads: Sequence[int], task: Path, answer: Path) -> list[dict]:
    """What the worker found for each number of threads. Raises RuntimeError where it failed."""
    command = [sys.executable, "-m", WORKER, str(task), str(answer), str(processes)]
    kept = {name: text for name, text in os.environ.items() if not name.startswith(TORCHRUN)}
    done = subprocess.run(
        [*command, *map(str, threads)], capture_output=True, text=True,
        cwd=ROOT, env={**kept, "OMP_NUM_THREADS": str(max(threads))},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"training in {processes} processes failed: {reason(done.stderr)}")
    return checkpoint.load(answer)["found"]


def reason(said: str) -> str:
    """The first line that names an error: what is said of the other processes comes after it."""
    lines = [line for line in said.splitlines() if line.strip()] or ["nothing was said"]
    return next((line for line in lines if "Error: " in line), lines[-1]).strip()


def name_of(processes: int, threads: int) -> str:
    each = " each" * (processes > 1)
    return f"{counted(processes, 'process', 'processes')}, {counted(threads, 'thread')}{each}"


def on_gpus(wanted: str, processes: int) -> bool:
    """Whether to train on GPUs, one for each process, or on the CPU.

    Raises UserError where another device than the CPU is asked for and they are too few.
    """
    count, reason = 0, ""
    try:
        device, reason = find_device(wanted)
        if device.type == "cuda":
            count = torch.cuda.device_count()
    except ValueError as error:
        reason = str(error)
    if count < processes and wanted not in ("auto", "cpu"):
        raise UserError(
            f"{processes} processes need {processes} CUDA GPUs, and {count} can be used"
            + (f" ({reason})" if reason else "")
            + ": --device cpu trains on the CPU"
        )
    return count >= processes


def compute(run: Run) -> Result:
    if not machine.writes():  # torchrun runs this course: the first process starts all others
        return Result("Measured by the first process.", "times_as_fast", {"times_as_fast": 1.0})
    budget = run.budget
    if max(budget.processes) < 2:
        raise UserError("processes must have a number above 1: it is compared with one process")
    data = load_photographs(run, "cifar10")
    cores = available_threads() if run.threads is None else run.threads
    gpu = on_gpus(run.settings.device, max(budget.processes))
    run.engine = f"{'cuda' if gpu else 'cpu'}, float32"
    task = {
        "device": "cuda" if gpu else "cpu",
        "train": list(data.train),
        "test": [part[: budget.test_samples] for part in data.test],
        "mean": data.mean,
        "std": data.std,
        "classes": len(data.classes),
        "seeds": [run.seed(number) for number in range(budget.seeds)],
        **{key: budget[key] for key in ("depth", "batch_size", "lr", "epochs")},
    }
    arms, found = plan(budget.processes, cores, gpu), dict[tuple[int, int], dict]()
    with tempfile.TemporaryDirectory() as folder, run.progress(len(arms)) as bar:
        checkpoint.save(Path(folder) / "task.pt", task)
        for processes, threads in arms.items():
            files = Path(folder) / "task.pt", Path(folder) / f"{processes}.pt"
            answers = launch(processes, threads, *files)
            found |= {(processes, n): answer for n, answer in zip(threads, answers)}
            bar.advance()
    return account(found, len(data.train[0]), gpu)


def account(found: dict[tuple[int, int], dict], images: int, gpu: bool) -> Result:
    """The result from what each arm (processes, threads) found, training on so many images."""
    accuracy = 100 * np.array([arm["accuracy"] for arm in found.values()])  # (arms, seeds)
    speed = np.array([images / np.ravel(arm["seconds"]) for arm in found.values()])
    first, middle, third = np.percentile(speed, (25, 50, 75), axis=1)
    cores = max(threads for processes, threads in found if processes == 1)
    alone = found[1, cores]
    rows = list[list[Any]]()
    for k, ((processes, threads), arm) in enumerate(found.items()):
        units = processes if gpu else min(processes * threads, cores)
        rows.append(
            [processes, threads, name_of(processes, threads), middle[k], first[k], third[k],
             units * middle[0], accuracy[k].mean(), *differences(arm, alone)]
        )  # fmt: skip
    columns = ["processes", "threads of each", "arm", "images/s", "lower quartile",
               "upper quartile", "images/s if ideal", "test accuracy (%)",
               "weights off by, without batch norm", "weights off by, with batch norm"]  # fmt: skip
    one, most = list(found).index((1, cores)), rows[-1]
    apart = accuracy[-1].mean() - accuracy[one].mean()
    n, doubt = accuracy.shape[1], doubt_about(accuracy[-1], accuracy[one])
    metrics = {
        "gpus": most[0] if gpu else 0,
        "times_as_fast": most[3] / middle[one],
        "times_as_fast_as_one_thread": most[3] / middle[0],
        "of_the_ideal": most[3] / most[6],
        "images_per_second": most[3],
        "accuracy_difference": apart,
        "weights_off_without_batchnorm": most[8],
        "weights_off_with_batchnorm": most[9],
    }
    answer = (
        f"{most[2].capitalize()}, train {most[3]:,.0f} images a second, "
        f"{metrics['times_as_fast']:.2f} times as many as {rows[one][2]}"
    )
    if one:
        answer += (
            f", and {metrics['times_as_fast_as_one_thread']:.2f} times as many as {rows[0][2]} "
            f"({medians(speed)})"
        )
    answer += (
        f". One step from the same weights ends in the same place but for {most[8]:.0e} of its "
        f"longest move without batch norm, and {most[9]:.0e} with it, where each process takes "
        f"means over its own rows. After training, {most[7]:.1f}% of the test images are right, "
        f"with {rows[one][2]} {rows[one][7]:.1f}%: a difference of {signed(apart)} percentage "
        f"points (n = {n}" + f"; {doubt}" * bool(doubt) + ")."
    )
    arrays = {"accuracy": accuracy, "images_per_second": speed}
    return Result(
        answer, "times_as_fast", metrics, tables={"arms": Table(columns, rows)}, arrays=arrays
    )


def doubt_about(runs: np.ndarray, alone: np.ndarray) -> str:
    """Why a difference between two sets of runs (n,) means nothing: no words where it does."""
    return ALONE if len(runs) < 2 else "no more than noise" * tied(runs, alone)


def medians(speed: np.ndarray) -> str:
    epochs = speed.shape[1]
    return f"medians of {epochs} epochs" if epochs > 1 else "one epoch"


def differences(arm: dict, alone: dict) -> list[float]:
    """Largest difference of a weight after the first step, without and with batch norm.

    As a share of the largest change that the step made to any weight.
    """
    found = []
    for name, step in alone["steps"].items():
        length = (step["after"] - step["before"]).abs().max()
        apart = (arm["steps"][name]["after"] - step["after"]).abs().max()
        found.append((apart / length).item())
    return found


def draw(result: Result) -> dict[str, Figure]:
    rows, metrics = result.tables["arms"].rows, result.metrics
    names = [row[2].replace(", ", "\n") for row in rows]
    speed, low, high, ideal = np.array([row[3:7] for row in rows]).T
    figure, ((bars, dots),) = plots.grid(1, 2, width=4.8, height=4.0)
    places = np.arange(len(rows))
    whiskers = {"yerr": (speed - low, high - speed), "capsize": 5, "ecolor": "black"}
    bars.bar(places, speed, 0.6, color=[f"C{place}" for place in places], **whiskers)
    bars.hlines(ideal, places - 0.4, places + 0.4, color="black", ls="--", label="ideal")
    for place, value, top in zip(places, speed, high):
        bars.annotate(
            f"{value:,.0f}", (place, top), (0, 5), textcoords="offset points", ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )  # fmt: skip
    bars.set_xticks(places, names)
    bars.set(ylabel="images a second", ylim=(0, 1.2 * max(high.max(), ideal.max())))
    bars.grid(False, axis="x")
    bars.set_xlabel(f"bars: {medians(result.arrays['images_per_second'])}; whiskers: quartiles")
    bars.legend(loc="upper left")
    plots.show_runs(dots, result.arrays["accuracy"], names)
    dots.set_ylabel("test images that are right (%)")
    dots.xaxis.label.set_fontsize("small")
    bars.xaxis.label.set_fontsize("small")
    accuracy = result.arrays["accuracy"]
    one = max(k for k, row in enumerate(rows) if row[0] == 1)
    doubt = doubt_about(accuracy[-1], accuracy[one])
    figure.suptitle(
        f"{rows[-1][2].capitalize()}, train {metrics['times_as_fast']:.2f} times as fast as "
        f"{'one GPU' if metrics.get('gpus') else rows[one][2]}; test accuracy "
        f"differs by {signed(metrics['accuracy_difference'])} points" + f" ({doubt})" * bool(doubt)
    )
    return {"processes": figure}
