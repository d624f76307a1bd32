"""With a tuned learning rate for each, which optimizer learns fastest, and does it end better?

Eight optimizers train the same ReLU networks, one on MNIST and a small one on two spirals.
Each has its own learning rate, the one of a grid of four with the best validation accuracy
in a run of its own (on MNIST a shorter one); it falls to zero along a cosine. AdamW and Muon have
weight decay 0.1. All start from the same weights and see the same batches. The test set is looked
at once, at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import in_front, level_with_best, mean_std, sharing, spread
from section1.losses import SoftmaxCrossEntropy
from section1.training import evaluate
from section2.experiments._optimizers import NAMES, Learned, listed, look
from section2.experiments._tuning import RATES, tasks, train, tuned
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

GOAL = 0.95  # validation accuracy


def first_at_goal(run: Learned) -> tuple[float, float]:
    """(passes over the data, seconds of training) until validation first was at the goal."""
    for accuracy, x, seconds in zip(run.history.val_metric, run.x, run.seconds):
        if accuracy >= GOAL:
            return x, seconds
    return np.nan, np.nan


def compute(run: Run) -> Result:
    budget = run.budget
    metrics: dict[str, float] = {}
    curves, arrays = {}, {}
    rows: list[list[Any]] = []
    tuning: list[list[Any]] = []
    sentences = []
    problems = tasks(run)
    total = len(problems) * sum(len(rates) + budget.seeds for rates in RATES.values())
    with run.progress(total) as bar:
        for place, task in enumerate(problems):
            scores, goals = [], []
            for name in NAMES:
                lr, trials = tuned(run, task, name, bar)
                tuning += trials
                runs = []
                for seed in range(budget.seeds):
                    learned = train(run, task, name, lr, task.train, (place, seed), task.epochs)
                    if learned is None:
                        raise FloatingPointError(f"{name} at {lr:g} blew up on {task.title}")
                    runs.append(learned)
                    bar.advance(f"{task.title}: {name} {learned.history.val_metric[-1]:.2%}")
                test = [
                    evaluate(r.model, SoftmaxCrossEntropy(), task.test, threads=run.threads)[1]
                    for r in runs
                ]
                scores.append(test)
                goals.append([first_at_goal(r) for r in runs])
                curves[f"{task.title}_{name}"] = Curve.over_runs(
                    runs[0].x, [[100 - 100 * a for a in r.history.val_metric] for r in runs],
                    "passes over the training data", "validation error (%)",
                )  # fmt: skip
                (mean, std), (validation, _) = (
                    mean_std(values) for values in (test, [r.history.val_metric[-1] for r in runs])
                )
                edge = lr in (task.rates(name)[0], task.rates(name)[-1])
                passes, seconds = np.mean(goals[-1], axis=0)
                reached = int(np.isfinite(goals[-1]).all(axis=1).sum())
                rows.append(
                    [task.title, name, lr, edge, validation, mean, std, passes, seconds, reached,
                     budget.seeds]
                )  # fmt: skip
                prefix = name.lower() if task.title == "MNIST" else f"{task.title}_{name.lower()}"
                metrics[f"{prefix}_test_accuracy"] = mean
                metrics[f"{prefix}_test_accuracy_std"] = std
                metrics[f"{prefix}_lr"] = lr
                if reached == budget.seeds:
                    metrics[f"{prefix}_passes_to_goal"] = float(passes)
                    metrics[f"{prefix}_seconds_to_goal"] = float(seconds)
            arrays[f"{task.title}_test_accuracy"] = np.array(scores)  # (optimizers, seeds)
            arrays[f"{task.title}_to_goal"] = np.array(goals)  # (optimizers, seeds, 2)
            sentences.append(finding(task.title, rows, np.array(scores)))
    columns = [
        "data", "optimizer", "lr", "at the edge", "validation accuracy", "test accuracy", "std",
        "passes to 95%", "seconds to 95%", "runs at 95%", "n",
    ]  # fmt: skip
    tables = {
        "optimizers": Table(columns, rows),
        "tuning": Table(["data", "optimizer", "lr", "validation accuracy"], tuning),
    }
    answer = f"{' '.join(sentences)} (n = {budget.seeds})"
    return Result(answer, "adam_test_accuracy", metrics, curves, tables, arrays)


def fastest(title: str, rows: list[list[Any]]) -> str:
    """Who is first at the goal, by passes over the data, and who last, in words."""
    mine = [row for row in rows if row[0] == title]
    there = {row[1]: row[7] for row in mine if row[9] == row[10]}
    if not there:
        return f"no optimizer reaches {GOAL:.0%} validation accuracy in every run"
    first, last = (sharing(there, pick) for pick in (min, max))
    passes, most = (two_digits(pick(there.values())) for pick in (min, max))
    missing = [row[1] for row in mine if row[9] < row[10]]
    words = (
        f"{listed(first)} {'are' if first[1:] else 'is'} first at {GOAL:.0%} validation accuracy"
    )
    words += f" ({passes} pass{'es' * (passes != '1')}"
    words += f"; last: {listed(last)}, {most})" if last != first else ")"
    return words + (f", {listed(missing)} not in every run" if missing else "")


def two_digits(number: float) -> str:
    """Rounded to two digits, and 100 is not 1e+02."""
    return f"{float(f'{number:.2g}'):g}"


def finding(title: str, rows: list[list[Any]], scores: np.ndarray) -> str:
    mine = {row[1]: row for row in rows if row[0] == title}
    means = {name: row[5] for name, row in mine.items()}
    (first, *others), last = (sharing(means, pick) for pick in (max, min))
    best, adam, n = mine[first], mine["Adam"], scores.shape[1]
    words = f"On {title} {fastest(title, rows)}. On the test set "
    if len(others) == len(mine) - 1:
        return f"{words}all have {best[5]:.2%}."
    level = [name for name in level_with_best(scores, NAMES) if name != first]
    return (
        f"{words}{first} is best with "
        f"{best[5]:.2%}{spread(100 * best[6], n)}, "
        + (f"level with {listed(level)} as far as these seeds can tell, " if level else "")
        + f"{listed(last)} last with {means[last[0]]:.2%}; Adam has {adam[5]:.2%}"
        f"{spread(100 * adam[6], n)}."
    )


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["optimizers"].rows
    titles = list(dict.fromkeys(row[0] for row in rows))

    curves, axes = plots.grid(1, 2, width=5.4, height=4.4)
    for place, title in zip(axes[0], titles):
        for name in NAMES:
            curve = result.curves[f"{title}_{name}"]
            every = max(1, len(curve.x) // 8)
            plots.plot_curve(place, curve, name, **look(name), ms=4, lw=1.4, markevery=every)
        place.axhline(100 * (1 - GOAL), color="black", lw=0.8)
        place.annotate(f"{GOAL:.0%} right", (1, 100 * (1 - GOAL)), (-4, 3), ha="right",
                       xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
        place.set_title(title)
    axes[0, 0].set_yscale("log")  # on the spirals an error may be zero
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("{x:g}")
    axes[0, 1].set_ylim(-1, None)
    curves.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    first, second = (f"n {title} {fastest(title, rows)}" for title in titles)
    curves.suptitle(f"O{first}; o{second}")

    accuracy, axes = plots.grid(2, 1, width=9.6, height=3.2)
    words = []
    for place, title in zip(axes[:, 0], titles):
        scores = 100 * result.arrays[f"{title}_test_accuracy"]
        lrs = {row[1]: row[2] for row in rows if row[0] == title}
        plots.show_runs(place, scores, [f"{name}\n(lr {lr:g})" for name, lr in lrs.items()])
        place.set(ylabel="test accuracy (%)", title=title)
        words.append(f"on {title} {in_front(scores, NAMES)}")
    axes[0, 0].set_xlabel("")
    accuracy.suptitle(f"At the end {'; '.join(words)}")

    goal, axes = plots.grid(1, 2, width=5.4, height=3.4)
    to_goal = result.arrays["MNIST_to_goal"]  # (optimizers, seeds, 2)
    for column, (place, unit) in enumerate(
        zip(axes[0], ("passes over the training data", "seconds of training on this machine"))
    ):
        for height, (name, runs) in enumerate(zip(NAMES, to_goal[..., column])):
            there = runs[np.isfinite(runs)]
            style = look(name)
            place.plot(
                there, [height] * len(there), style["marker"], color=style["color"], ms=7, alpha=0.6
            )
            if len(there) < len(runs):
                place.annotate(
                    f"{len(there)} of {len(runs)} runs", (0.98, height), ha="right", va="center",
                    xycoords=("axes fraction", "data"), fontsize="small",
                )  # fmt: skip
        place.set_yticks(range(len(NAMES)), NAMES)
        place.set(xlabel=f"{unit} until {GOAL:.0%}", xlim=(0, None), ylim=(len(NAMES) - 0.5, -0.5))
    goal.suptitle(quickest(rows))
    return {"curves": curves, "accuracy": accuracy, "to_goal": goal}


def quickest(rows: list[list[Any]]) -> str:
    """Who is first at the goal on MNIST by the clock, and what a pass costs it."""
    there = [row for row in rows if row[0] == "MNIST" and row[9] == row[10]]
    if not there:
        return f"On MNIST no optimizer reaches {GOAL:.0%} validation accuracy in every run"
    passes, seconds = ({row[1]: row[column] for row in there} for column in (7, 8))
    fewest, least = (two_digits(min(costs.values())) for costs in (passes, seconds))
    return (
        f"To {GOAL:.0%} on MNIST: fewest passes {listed(sharing(passes, min))} ({fewest}), "
        f"least time {listed(sharing(seconds, min))} ({least} s)"
    )
