"""How many labelled images does a network save by having learned something else before?

A ResNet-18 for CIFAR-10, given few images of each class, three times: from random weights; with a
body that has learned on another task and is left as it is, under a linear classifier; and the
same, with body and classifier then trained on together, the body more slowly. It is the same
network in all three, and the same images. The body comes from torchvision (1.3 million labelled
photographs of ImageNet) where its weights can be had; else it is pretrained here, and says so.
Fine-tuning starts from the linear classifier, so that a random head does not spoil the body in
its first steps (Kumar et al., Fine-tuning can distort pretrained features, arXiv:2202.10054).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from section1.experiments._training import counted, mean_std, of_runs
from section2.experiments._optimizers import listed
from section3.experiments._cnns import ALONE, tied
from section4.engine import count_parameters
from section4.experiments._transfer import (
    Pretrained,
    few,
    find_or_make,
    learn_target,
    new_classifier,
)
from section4.experiments._vision import load_photographs, look, share_right
from section4.training import History
from section4.vision.pretrained import TURNS, classifier, linear_classifier
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

ARMS = {"scratch": "from scratch", "frozen": "frozen features", "fine_tuned": "fine-tuned"}
SUBJECTS = {"frozen": "frozen features are", "fine_tuned": "fine-tuning is"}
REACHED = {"frozen": "frozen features reach", "fine_tuned": "fine-tuning reaches"}
X_LABEL = "training images of each class"

Key = tuple[int, int]  # the number of images of each class that was asked for, and the seed
Arrays = dict[str, np.ndarray]


def compute(run: Run) -> Result:
    budget = run.budget
    if len(budget.lr) != 3:
        raise UserError("lr must be three rates: for pretraining, from scratch, fine-tuning")
    if len(budget.steps) not in (1, len(budget.images)):
        raise UserError("steps must be one number, or one for each number of images")
    steps = dict(zip(budget.images, budget.steps * len(budget.images)))
    data = load_photographs(run, "cifar10")
    labels = data.train[1].numpy()
    numbers, most = sorted(steps), np.bincount(labels).max()
    numbers = numbers[: 1 + sum(each < most for each in numbers)]  # one that takes all is enough
    rows = {
        (each, seed): few(labels, each, run.rng(seed, 0))
        for each, seed in product(numbers, range(budget.seeds))
    }
    with run.resumable() as folder:
        source = find_or_make(run, data, folder)
        with run.progress(len(rows)) as bar:
            found = three_arms(run, source, rows, steps, bar)
    x = [len(rows[each, 0]) / len(data.classes) for each in numbers]
    accuracy, seconds = (
        {
            arm: np.array(
                [[found[arm, (n, s)][part] for n in numbers] for s in range(budget.seeds)]
            )
            for arm in ARMS
        }
        for part in range(2)
    )  # of each arm (seeds, numbers of images)
    metrics, curves, rows_of_table = dict[str, float](), dict[str, Curve](), list[list[Any]]()
    for arm, name in ARMS.items():
        label = "test images that are right (%)"
        curves[arm] = Curve.over_runs(x, 100 * accuracy[arm], X_LABEL, label)
        if arm != "scratch":
            lead, label = 100 * (accuracy[arm] - accuracy["scratch"]), "points ahead of scratch"
            curves[f"{arm} lead"] = Curve.over_runs(x, lead, X_LABEL, label)
            metrics[f"{arm}_lead_points"] = lead[:, 0].mean()
        for place, each in enumerate(numbers):
            score = mean_std(accuracy[arm][:, place])
            metrics[f"{arm}_{each}"], metrics[f"{arm}_{each}_std"] = score
            taken, count = seconds[arm][:, place].mean(), found[arm, (each, 0)][2]
            rows_of_table.append([name, x[place], *score, taken, count, budget.seeds])
    metrics |= {"chance": 1 / len(data.classes), "parameters": count_parameters(source.body)}
    columns = ["arm", "images of each class", "test accuracy", "std", "training time (s)"]
    tables = {"arms": Table([*columns, "steps", "n"], rows_of_table)}
    if source.history is not None:
        tables["pretraining"], of_pretraining = account(source.history)
        curves |= of_pretraining
        metrics["pretraining_accuracy"] = source.history.val_metric[-1]
        metrics["pretraining_chance"] = 1 / source.answers
    arrays = {f"{arm}_test_accuracy": runs for arm, runs in accuracy.items()} | source.arrays
    words = answer(run, source, curves, arrays)
    return Result(words, "frozen_lead_points", metrics, curves, tables, arrays)


def three_arms(
    run: Run, source: Pretrained, rows: dict[Key, np.ndarray], steps: dict[int, int], bar: Progress
) -> dict[tuple[str, Key], tuple[float, float, int | None]]:
    """(test accuracy, seconds of training, steps) of each arm, number of images and seed.

    A linear classifier on frozen features takes no steps; its seconds include those for features.
    """
    budget, data, setting = run.budget, source.target, source.setting
    images, labels = data.train
    test = data.test[0][: budget.tested], data.test[1][: budget.tested]
    # Features are computed once, for all numbers of images and all seeds.
    needed = np.unique(np.concatenate(list(rows.values())))
    start = time.perf_counter()
    known = look(source.body, (images[needed], labels[needed]), data, setting)
    for_one = (time.perf_counter() - start) / len(needed)
    known_test = look(source.body, test, data, setting)
    found: dict[tuple[str, Key], tuple[float, float, int | None]] = {}
    for key, chosen in rows.items():
        each, seed = key
        pair = images[chosen], labels[chosen]
        start = time.perf_counter()
        features = known[np.searchsorted(needed, chosen)]
        head = linear_classifier(features, pair[1], len(data.classes), budget.decay)
        seconds = time.perf_counter() - start + for_one * len(chosen)
        with torch.no_grad():
            found["frozen", key] = share_right(head(known_test), test), seconds, None
        new = new_classifier(source.blank(run.seed(seed, 1)), len(data.classes), run.seed(seed, 2))
        tuned = classifier(copy.deepcopy(source.body), head)
        for arm, model, lr, scale in (
            ("scratch", new, budget.lr[1], 1.0),
            ("fine_tuned", tuned, budget.lr[2], budget.body_scale),
        ):
            start = time.perf_counter()
            taken = learn_target(
                run, model, pair, data, setting, steps=steps[each], lr=lr, body_scale=scale,
                seed=run.seed(seed, 3),
            )  # fmt: skip
            seconds = time.perf_counter() - start
            right = share_right(look(model, test, data, setting), test)
            found[arm, key] = right, seconds, taken
        scores = ", ".join(f"{found[arm, key][0]:.1%} {name}" for arm, name in ARMS.items())
        bar.advance(f"{each} images of each class: {scores}")
    return found


def account(history: History) -> tuple[Table, dict[str, Curve]]:
    """How the pretraining went."""
    epochs = range(1, len(history.loss) + 1)
    columns = ["epoch", "time (s)", "training loss", "training accuracy", "held-out accuracy"]
    rows = zip(epochs, history.seconds, history.loss, history.metric, history.val_metric)
    steps, label = range(1, len(history.step_loss) + 1), "answers that are right (%)"
    curves = {"loss": Curve.over_runs(steps, [history.step_loss], "step", "loss of pretraining")}
    for name, shares in {"training": history.metric, "held-out": history.val_metric}.items():
        curves[name] = Curve.over_runs(epochs, [[100 * s for s in shares]], "epoch", label)
    return Table(columns, [list(row) for row in rows]), curves


# --- in words -------------------------------------------------------------------------------


def answer(run: Run, source: Pretrained, curves: dict[str, Curve], arrays: Arrays) -> str:
    history, scratch = source.history, curves["scratch"]
    text = f"ResNet-18 ({count_parameters(source.body):,} parameters), pretrained {source.task}"
    if history is not None:
        count = len(history.step_loss)
        text += (
            f" ({counted(count, 'step')} in {history.seconds[-1]:.0f} s, once for all "
            f"seeds; {history.val_metric[-1]:.0%} of its answers on held-out images are right, by "
            f"chance {1 / source.answers:.0%})"
        )
    parts = [
        f"with {each:g} image{'s' * (each != 1)} of each class "
        + ", ".join(f"{score(curves[arm], place)} {name}" for arm, name in ARMS.items())
        for place, each in enumerate(scratch.x)
    ]
    text += f": {'; '.join(parts)} (test images right, {of_runs(scratch.n)}). "
    said = [verdict(arrays, arm, scratch.x) + saving(arrays, curves, arm) for arm in SUBJECTS]
    text += " ".join(said) if scratch.n > 1 else f"{ALONE.capitalize()}."
    if "turned" in arrays and run.data_used["cifar10"]["provenance"] == "embedded stand-in":
        text += " (Drawn shapes that look the same when turned leave their turn open.)"
    if run.settings.mode == "quick":
        text += " QUICK trains a narrow network for seconds: to be seen working, not a finding."
    return text


def score(curve: Curve, place: int) -> str:
    noise = "" if curve.std is None else f" ± {curve.std[place]:.1f}"
    return f"{curve.y[place]:.1f}%{noise}"


def lead(arrays: Arrays, arm: str, place: int) -> float:
    """Points by which an arm is ahead of training from scratch, the mean over seeds."""
    runs, scratch = (arrays[f"{name}_test_accuracy"][:, place] for name in (arm, "scratch"))
    return 100 * (runs.mean() - scratch.mean())


def within_noise(arrays: Arrays, arm: str, place: int) -> bool:
    runs, scratch = (arrays[f"{name}_test_accuracy"][:, place] for name in (arm, "scratch"))
    return tied(runs, scratch)


def verdict(arrays: Arrays, arm: str, x: Sequence[float]) -> str:
    """With how many images an arm is ahead of training from scratch, and with how many not."""
    places: dict[str, list[str]] = {"ahead of": [], "within noise of": [], "behind": []}
    for place, each in enumerate(x):
        word = "ahead of" if lead(arrays, arm, place) > 0 else "behind"
        if within_noise(arrays, arm, place):
            word = "within noise of"
        places[word].append(f"{each:g}")
    found = {word: numbers for word, numbers in places.items() if numbers}
    words = [
        f"{word} training from scratch with {listed(numbers)}" for word, numbers in found.items()
    ]
    one = list(found.values())[-1] == ["1"]
    text = f"{SUBJECTS[arm]} {', '.join(words)} image{'s' * (not one)} of each class"
    return f"{text.capitalize()}."


def saving(arrays: Arrays, curves: dict[str, Curve], arm: str) -> str:
    """How many images training from scratch needs to get as far, where the arm is ahead of it.

    Read off straight lines between what was measured, over the logarithm of the images.
    """
    x, scratch = curves["scratch"].x, np.maximum.accumulate(curves["scratch"].y)
    ahead, needed = list[str](), list[str]()
    for place, reached in enumerate(curves[arm].y):
        if lead(arrays, arm, place) > 0 and not within_noise(arrays, arm, place):
            ahead.append(f"{x[place]:g}")
            after = int(np.searchsorted(scratch, reached))  # the first place that gets as far
            if after == len(x):
                needed.append(f"more than {x[-1]:g}")
            elif after == 0:
                needed.append(f"no more than {x[0]:g}")
            else:
                around = slice(after - 1, after + 1)
                number = np.exp(np.interp(reached, scratch[around], np.log(x[around])))
                needed.append(f"about {number:.0f}")
    if not ahead:
        return ""
    return f" What {REACHED[arm]} with {listed(ahead)} takes {listed(needed)} from scratch."


# --- figures --------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    figure, axes = plots.grid(1, 2, width=5, height=4)
    for number, (arm, name) in enumerate(ARMS.items()):
        for place, key in enumerate((arm, f"{arm} lead")):
            if key not in result.curves:
                continue
            curve = result.curves[key]
            x = [each * 1.03 ** (number - 1) for each in curve.x]  # so that no bar hides another
            axes[0, place].errorbar(
                x, curve.y, curve.std, label=name, fmt=f"-{plots.MARKERS[number]}",
                color=f"C{number}", ms=6, capsize=4,
            )  # fmt: skip
            axes[0, place].set(xlabel=curve.x_label, ylabel=curve.y_label)
    axes[0, 0].axhline(100 * result.metrics["chance"], color="0.4", lw=1, ls=":", label="chance")
    axes[0, 1].axhline(0, color="0.4", lw=1, ls=":")
    for place in axes[0]:
        place.set_xscale("log")
        place.set_xticks(curve.x, [f"{each:g}" for each in curve.x])
        place.minorticks_off()
    lines, names = axes[0, 0].get_legend_handles_labels()
    noise = of_runs(curve.n)
    figure.legend(lines, names, loc="outside lower center", ncols=4, title=noise)
    figure.suptitle(title(result.arrays, curve.x))
    figures = {"accuracy": figure}
    if "held-out" in result.curves:
        figures["pretraining"] = draw_pretraining(result)
    if "turned" in result.arrays:
        figures["turns"] = draw_turns(result)
    return figures


def title(arrays: Arrays, x: Sequence[float]) -> str:
    sentences = []
    for arm, subject in SUBJECTS.items():
        words = []
        for place in sorted({0, len(x) - 1}):
            points = round(lead(arrays, arm, place), 1)
            noise = ", within noise," if points and within_noise(arrays, arm, place) else ""
            noise = " (n = 1)" if len(arrays["scratch_test_accuracy"]) < 2 else noise
            side = f"{abs(points):.1f} points {'ahead' if points > 0 else 'behind'}"
            number = f"{x[place]:g} image{'s' * (x[place] != 1)}"
            words.append(f"{side if points else 'as good'}{noise} with {number}")
        sentences.append(f"{subject} {' and '.join(words)}")
    return f"Against training from scratch {'; '.join(sentences)} of each class"


def draw_pretraining(result: Result) -> Figure:
    figure, axes = plots.grid(1, 2, width=4.6, height=3.6)
    plots.plot_curve(axes[0, 0], result.curves["loss"], "loss", lw=0.6)
    for number, name in enumerate(("training", "held-out")):
        look = {"marker": plots.MARKERS[number], "ms": 5, "color": f"C{number}"}
        plots.plot_curve(axes[0, 1], result.curves[name], f"{name} images", **look)
    chance, epochs = result.metrics["pretraining_chance"], len(result.curves["held-out"].x)
    axes[0, 1].axhline(100 * chance, color="0.4", lw=1, ls=":", label="chance")
    axes[0, 1].set_ylim(0, 100)
    axes[0, 1].legend()
    figure.suptitle(
        f"The pretraining gets {result.metrics['pretraining_accuracy']:.1%} of its answers on "
        f"held-out images right after {counted(epochs, 'epoch')} (chance: {chance:.0%}; "
        "n = 1)"
    )
    return figure


def draw_turns(result: Result) -> Figure:
    images, guessed = result.arrays["turned"] / 255, result.arrays["guessed_turns"]
    figure, axes = plots.grid(*guessed.shape, width=1.5, height=1.75)
    for row, some, answers in zip(axes, images, guessed):
        names = [f"guess: {TURNS[turn]}°" for turn in answers]
        plots.show_images(row.tolist(), some, names)
        for place, turn, name in zip(row, answers, range(len(TURNS))):
            place.title.set_color("C2" if turn == name else "C1")
    right = int((guessed == np.arange(len(TURNS))).sum())
    figure.suptitle(
        f"Turned by 0, 90, 180 and 270 degrees against the clock: of these {guessed.size} turns "
        f"{right} {'is' if right == 1 else 'are'} guessed right"
    )
    return figure
