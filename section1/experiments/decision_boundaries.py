"""What shapes can a network separate that a straight line cannot, and how large must it be?

Four problems in the plane, each with more bends than the one before. A linear model draws
straight lines; every hidden ReLU unit adds one fold to the boundary, and a second hidden layer
folds what is folded already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import counted, mean_std, of_runs, spread, train
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.sgd import SGD
from section1.training import evaluate, predict
from utils.data import toy
from utils.experiments.budget import whole_number
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

NOISE = {"moons": 0.15, "circles": 0.1, "spirals": 0.02, "swiss_roll": 0.02}
SPAN = np.linspace(-1, 1, 121)
HELD_OUT = 1000  # points per seed, for the test alone
SOLVED = 0.95  # test accuracy


def hidden_layers(shape: str) -> list[int]:
    """The widths that a word such as "32-32" stands for; "0" is a linear model."""
    widths = [whole_number("a width in shapes", width, 0) for width in shape.split("-")]
    return [width for width in widths if width]


def label(shape: str) -> str:
    *first, last = hidden_layers(shape) or [0]
    return " + ".join([*map(str, first), counted(last, "unit")]) if last else "linear"


def plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width of the square that holds all points, with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, 1.1 * (high - low).max() / 2


def compute(run: Run) -> Result:
    budget = run.budget
    shapes = sorted(budget.shapes, key=lambda shape: sum(hidden_layers(shape)))
    metrics: dict[str, float] = {}
    rows: list[list[Any]] = []
    arrays = {}
    described = ", ".join(name.replace("_", " ") for name in NOISE)
    run.note_data("toy", f"{described}: {counted(budget.samples, 'training point')} each")
    with run.progress(len(NOISE) * len(shapes) * budget.seeds * budget.epochs) as bar:
        for place, (name, noise) in enumerate(NOISE.items()):
            make = getattr(toy, name)
            sets = [
                (make(budget.samples, noise, first), make(HELD_OUT, noise, second))
                for first, second in (run.rng(place, s).spawn(2) for s in range(budget.seeds))
            ]
            (x, y), (_, held_out) = sets[0]
            classes = int(held_out.max()) + 1
            arrays[f"{name}_x"], arrays[f"{name}_y"] = x, y
            centre, half = plane(x)
            grid = centre + half * np.stack(np.meshgrid(SPAN, SPAN), -1).reshape(-1, 2)
            for shape in shapes:
                sizes = [2, *hidden_layers(shape), classes]

                def recipe(rng: np.random.Generator, sizes: list[int] = sizes) -> tuple:
                    model = MLP(sizes, rng=rng)  # ReLU, He
                    return model, SoftmaxCrossEntropy(), SGD(model.parameters(), budget.lr)

                runs = [
                    train(run, recipe, data, test, key=(place, seed, *sizes), bar=bar)
                    for seed, (data, test) in enumerate(sets)
                ]
                test_mean, test_std = mean_std(t.test_metric for t in runs)
                train_mean, train_std = mean_std(
                    evaluate(t.model, SoftmaxCrossEntropy(), data, threads=run.threads)[1]
                    for t, (data, _) in zip(runs, sets)
                )
                rows.append([name, shape, train_mean, train_std, test_mean, test_std, len(runs)])
                metrics[f"{name}_{shape}_train"] = train_mean
                metrics[f"{name}_{shape}_test"] = test_mean
                logits = predict(runs[0].model, grid.astype(np.float32), threads=run.threads)
                arrays[f"{name}_{shape}"] = logits.reshape(
                    len(SPAN), len(SPAN), classes
                )  # (grid points, K) -> (rows, columns, K)
    words = []
    for name in NOISE:
        scores = {shape: metrics[f"{name}_{shape}_test"] for shape in shapes}
        enough = next((shape for shape, score in scores.items() if score >= SOLVED), None)
        metrics[f"{name}_best"] = max(scores.values())
        words.append(
            f"{name.replace('_', ' ')}: "
            + (f"{label(enough)} ({scores[enough]:.0%})" if enough else "none")
            + (f", linear {scores['0']:.0%}" if "0" in scores and enough != "0" else "")
        )
    metrics["worst_best"] = min(metrics[f"{name}_best"] for name in NOISE)
    answer = (
        f"The smallest network with {SOLVED:.0%} test accuracy (mean over "
        f"{counted(budget.seeds, 'seed')}) is for {'; '.join(words)}."
    )
    columns = ["set", "hidden", "train accuracy", "std", "test accuracy", "test std", "n"]
    return Result(answer, "worst_best", metrics, {}, {"accuracy": Table(columns, rows)}, arrays)


def draw(result: Result) -> dict[str, Figure]:
    rows = {(row[0], row[1]): row for row in result.tables["accuracy"].rows}
    names, shapes = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    seeds = next(iter(rows.values()))[-1]
    regions, axes = plots.grid(len(names), len(shapes), width=2.6, height=2.75)
    for name, line in zip(names, axes):
        x, y = result.arrays[f"{name}_x"], result.arrays[f"{name}_y"]
        centre, half = plane(x)
        for shape, place in zip(shapes, line):
            logits = result.arrays[f"{name}_{shape}"]  # (rows, columns, K)
            chosen = logits.argmax(axis=-1)
            for k in range(logits.shape[-1]):
                colour = plots.COLOURS[k]
                place.contourf(
                    centre[0] + half * SPAN, centre[1] + half * SPAN,
                    chosen == k, [0.5, 1.5], colors=[colour], alpha=0.25,
                )  # fmt: skip
                place.plot(*x[y == k].T, plots.MARKERS[k], color=colour, ms=2.2, mew=0)
            mean, std, n = rows[name, shape][4:]
            words = f"{mean:.0%}{spread(std, n, '.1%')} (n = {n})"
            place.set_title(f"{label(shape)}: {words}", fontsize="small")
            place.set(xticks=[], yticks=[], aspect="equal")
            place.grid(False)
        line[0].set_ylabel(name.replace("_", " "), fontsize="large")
    solved = {s: sum(rows[name, s][4] >= SOLVED for name in names) for s in shapes}
    regions.suptitle(
        f"Sets separated ({SOLVED:.0%} or more of held-out points right): "
        + ", ".join(f"{label(shape)} {solved[shape]} of {len(names)}" for shape in shapes)
        + " (panels: test accuracy; dots: training points)"
    )
    scores, axes = plots.grid(width=6.4)
    for k, name in enumerate(names):
        means, stds = np.array([rows[name, shape][4:6] for shape in shapes], float).T
        train_means = [rows[name, shape][2] for shape in shapes]
        at = np.arange(len(shapes)) + 0.08 * (k - (len(names) - 1) / 2)
        options = {"color": f"C{k}", "marker": plots.MARKERS[k]}
        axes[0, 0].errorbar(at, means, stds, capsize=3, label=name.replace("_", " "), **options)
        axes[0, 0].plot(at, train_means, ls="none", mfc="none", ms=11, **options)
    axes[0, 0].axhline(SOLVED, color="black", ls=":", lw=1, label=f"{SOLVED:.0%}")
    axes[0, 0].set_xticks(range(len(shapes)), [label(shape) for shape in shapes])
    axes[0, 0].set(
        xlabel="hidden layers",
        ylabel="accuracy",
        ylim=(0, 1.03),
        title=f"filled: test, {of_runs(seeds)}; hollow: training",
    )
    axes[0, 0].legend(loc="lower right")
    hard = min(names, key=lambda name: sum(rows[name, shape][4] for shape in shapes))
    scores.suptitle(
        f"Over all sizes {hard.replace('_', ' ')} is the hardest set: "
        + ", ".join(f"{rows[hard, shape][4]:.0%}" for shape in shapes)
    )
    return {"regions": regions, "accuracy": scores}
