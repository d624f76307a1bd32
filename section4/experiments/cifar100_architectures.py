"""What do three architectures make of the same images in the same number of epochs?

A hundred classes, CIFAR-100 (Krizhevsky, Learning multiple layers of features from tiny images,
2009), for an MLP, to which an image is a list of numbers; a plain CNN of three convolutions, which
knows that neighbours belong together; and ResNet-18 (He et al., arXiv:1512.03385), six times as
deep. All see the same images, in the same order, moved by a few pixels and in a mirror, and learn
by the same recipe, each at a learning rate of its own. With a hundred classes, many of them alike,
it also counts whether the right one is among the first five guesses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from section1.experiments._training import counted, mean_in_words, mean_std, of_runs, one_for_each
from section3.experiments._cnns import ALONE, tied
from section4.engine import Setting, count_parameters
from section4.experiments._engine import find_device, seeded
from section4.experiments._vision import (
    Photographs,
    Trained,
    choose_for,
    length,
    load_photographs,
    train,
)
from section4.vision.augment import standard
from section4.vision.classifiers import cnn, mlp
from section4.vision.resnet import resnet18
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

GUESSES = 5
LABELS = {"mlp": "MLP", "cnn": "CNN", "resnet18": "ResNet-18"}


def networks(data: Photographs, width: int) -> dict[str, Callable[[], nn.Module]]:
    """A function for each architecture that makes it; `width`: filters of the first convolution."""
    classes, (channels, h, w) = len(data.classes), data.train[0].shape[1:]
    return {
        "mlp": lambda: mlp((channels, h, w), classes),
        "cnn": lambda: cnn(channels, classes, [width, 2 * width, 4 * width]),
        "resnet18": lambda: resnet18(classes, width=width),
    }


def among_first(scores: torch.Tensor, y: torch.Tensor, guesses: int) -> float:
    """The share of rows of scores (N, K) with the true class (N,) among the highest so many."""
    return (scores.topk(guesses).indices == y[:, None]).any(1).float().mean().item()


def compute(run: Run) -> Result:
    budget = run.budget
    rates = one_for_each(LABELS, budget.lr)
    data = load_photographs(run, "cifar100")
    makers, guesses = networks(data, budget.width), min(GUESSES, len(data.classes))
    trained: dict[str, list[Trained]] = {name: [] for name in makers}
    settings = dict[str, Setting]()
    on_cpu = find_device(run).type == "cpu"
    epochs = budget.epochs if on_cpu else budget.epochs_on_gpu
    with run.resumable() as folder, run.progress(len(makers) * budget.seeds * epochs) as bar:
        for (name, make), lr in zip(makers.items(), rates):
            # Not earlier: what is chosen last sets the threads of all of PyTorch.
            settings[name] = choose_for(run, seeded(run.seed(0, 0), make), data, folder / name)
            for seed in range(budget.seeds):
                trained[name].append(
                    train(
                        run, seeded(run.seed(seed, 0), make), data, settings[name],
                        epochs=epochs, lr=lr, seed=run.seed(seed, 1), bar=bar,
                        change=standard(data.side // 8), folder=folder / f"{name}_{seed}",
                    )
                )  # fmt: skip
    run.engine = "; ".join(f"{LABELS[name]}: {setting}" for name, setting in settings.items())
    metrics: dict[str, float] = {"guesses": guesses}
    rows, curves, arrays = list[list[Any]](), dict[str, Curve](), dict[str, np.ndarray]()
    for name, runs in trained.items():
        parameters = count_parameters(runs[0].model)
        found = [among_first(one.scores, data.test[1], guesses) for one in runs]
        seconds = np.array([one.history.seconds for one in runs])  # (seeds, epochs)
        percent = [100 * np.array(one.history.val_metric) for one in runs]
        arrays[f"{name}_top1"] = np.array([one.test_metric for one in runs])
        row: list[Any] = [LABELS[name], parameters, str(settings[name])]
        values: dict[str, list[float]] = {
            "top1": arrays[f"{name}_top1"].tolist(),
            "top5": found,
            "validation": [one.history.val_metric[-1] for one in runs],
            "seconds": seconds[:, -1].tolist(),
        }
        for kind, numbers in values.items():
            mean, std = mean_std(numbers)
            metrics |= {f"{name}_{kind}": mean, f"{name}_{kind}_std": std}
            row += [mean, std]
        metrics[f"{name}_parameters"] = parameters
        rows.append([*row, budget.seeds])
        label = "validation images that are right (%)"
        minutes = (seconds.mean(axis=0) / 60).tolist()
        curves[name] = Curve.over_runs(range(1, epochs + 1), percent, "epoch", label)
        curves[f"{name}, time"] = Curve.over_runs(minutes, percent, "training time (min)", label)
    measured = ["test accuracy", f"right within {guesses} guesses", "validation accuracy"]
    columns = [column for word in (*measured, "training time (s)") for column in (word, "std")]
    tables = {
        "networks": Table(["network", "parameters", "computed in", *columns, "n"], rows),
    }
    steps = len(trained["mlp"][0].history.step_loss)
    answer = (
        f"After {counted(epochs, 'epoch')} ({counted(steps, 'step')}) "
        f"{verdict(arrays)}: "
        + "; ".join(
            f"{LABELS[name]} ({metrics[f'{name}_parameters']:,} parameters) gets "
            f"{mean_in_words(metrics, f'{name}_top1', '.1%', budget.seeds)} of the test images "
            f"right, {mean_in_words(metrics, f'{name}_top5', '.1%', budget.seeds)} within "
            f"{guesses} guesses, after {length(metrics[f'{name}_seconds'])}"
            for name in makers
        )
        + f" (n = {budget.seeds})."
    )
    return Result(answer, "resnet18_top1", metrics, curves, tables, arrays)


def verdict(arrays: dict[str, np.ndarray]) -> str:
    """On test images: how far the best is ahead of each other, where noise does not explain it."""
    tests = {name: arrays[f"{name}_top1"] for name in LABELS}
    best, *others = sorted(tests, key=lambda name: -tests[name].mean())
    alone, words = len(tests[best]) < 2, list[str]()
    for name in others:
        lead = round(100 * (tests[best].mean() - tests[name].mean()), 1)
        noise = not alone and tied(tests[best], tests[name])
        if lead == 0:
            words.append(f"level with the {LABELS[name]}")
            continue
        words.append(
            f"{lead:.1f} points ahead of the {LABELS[name]}" + " (no more than noise)" * noise
        )
    return f"the {LABELS[best]} is {' and '.join(words)}" + f" ({ALONE})" * alone


def draw(result: Result) -> dict[str, Figure]:
    metrics = result.metrics
    figure, axes = plots.grid(1, 3, width=4.2, height=3.8)
    for number, (name, label) in enumerate(LABELS.items()):
        look: dict[str, Any] = {"marker": plots.MARKERS[number], "ms": 4, "color": f"C{number}"}
        for place, key in zip(axes[0], (name, f"{name}, time")):
            plots.plot_curve(place, result.curves[key], label, **look)
        for kind, face in (("top1", f"C{number}"), ("top5", "white")):
            y, std = (100 * metrics[f"{name}_{kind}{part}"] for part in ("", "_std"))
            axes[0, 2].errorbar(number, y, std, fmt="o", capsize=4, color=f"C{number}", mfc=face)
            axes[0, 2].annotate(
                f"{y:.1f}", (number, y), (9, 0), textcoords="offset points", va="center"
            )
    axes[0, 0].legend(title=of_runs(result.curves["mlp"].n), title_fontsize="small")
    ticks = [f"{label}\n{metrics[f'{name}_parameters']:,}" for name, label in LABELS.items()]
    axes[0, 2].set_xticks(range(len(ticks)), ticks)
    guesses = metrics["guesses"]
    axes[0, 2].set(
        xlim=(-0.5, len(ticks) - 0.3), ylim=(0, 105), ylabel="test images that are right (%)",
        xlabel=f"parameters (filled: one guess; open: {guesses} guesses)",
    )  # fmt: skip
    axes[0, 2].grid(False, axis="x")
    epochs = len(result.curves["mlp"].x)
    figure.suptitle(f"On test images, after {counted(epochs, 'epoch')}, {verdict(result.arrays)}")
    return {"accuracy": figure}
