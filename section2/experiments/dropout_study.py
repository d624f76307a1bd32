"""How much of its units should a network drop, when it has only few images to learn from?

With few images and many weights a network learns its images by heart: the training loss goes
to zero while the validation loss grows. How much harm that does depends on how much there is
that should not be learned, so the same network is trained on true labels and on labels of
which a share is wrong (of training images alone), each with several dropout rates. The best
rate is chosen on validation images, and only then are test images looked at.
Sources: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting
(2014); Zhang et al., Understanding deep learning requires rethinking generalization,
arXiv:1611.03530 (wrong labels learned by heart).
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import SPLIT, load_rows
from section1.experiments._training import Trained, counted, mean_std, spread, train
from section1.losses import SoftmaxCrossEntropy
from section1.training import Batch, evaluate
from section2.models import fully_connected_net
from section2.optimizers import Adam
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

PARTS = ("train", "validation", "test")
MEASURES = ("accuracy", "loss")
LABEL, RATE, FIRST = 0, 1, 2  # columns of the table; from FIRST on mean and std of each measure


def with_wrong_labels(data: Batch, share: float, classes: int, rng: np.random.Generator) -> Batch:
    """The same images, a share of them with a label that is not theirs."""
    x, y = data
    wrong = rng.permutation(len(y))[: round(share * len(y))]
    y = y.copy()
    y[wrong] = (y[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return x, y


def scores(trained: Trained, few: Batch, threads: int | None) -> list[tuple[float, float]]:
    """(loss, accuracy) on training, validation and test images, with nothing dropped."""
    history = trained.history
    return [
        evaluate(trained.model, SoftmaxCrossEntropy(), few, threads=threads),
        (history.val_loss[-1], history.val_metric[-1]),
        (trained.test_loss, trained.test_metric),
    ]


def compute(run: Run) -> Result:
    budget = run.budget
    if max(budget.rates) >= 1:
        raise UserError(f"rates must be chances below 1, got {max(budget.rates):g}")
    if max(budget.wrong) > 1:
        raise UserError(f"wrong must be shares of at most 1, got {max(budget.wrong):g}")
    data = load_rows(run, "mnist")
    true = data.train[0][: budget.images], data.train[1][: budget.images]
    sizes = [data.features, budget.width, budget.width, len(data.classes)]
    rates, wrongs = sorted(set(budget.rates)), sorted(set(budget.wrong))
    metrics, curves, rows, sentences = {}, {}, [], []
    with run.progress(len(wrongs) * len(rates) * budget.seeds * budget.epochs) as bar:
        for wrong in wrongs:
            few = with_wrong_labels(true, wrong, len(data.classes), run.rng(SPLIT + 2))
            for rate in rates:

                def recipe(rng: np.random.Generator, rate: float = rate) -> tuple:
                    model = fully_connected_net(sizes, dropout=rate, rng=rng)
                    return model, SoftmaxCrossEntropy(), Adam(model.parameters(), budget.lr)

                runs = [
                    train(
                        run, recipe, few, data.test, key=(k,), bar=bar, validation=data.validation
                    )
                    for k in range(budget.seeds)
                ]
                curves[f"{wrong:g}_{rate:g}"] = Curve.over_runs(
                    range(1, budget.epochs + 1),
                    [trained.history.val_loss for trained in runs],
                    "epoch",
                    "validation loss (nats)",
                )
                ends = np.array([scores(trained, few, run.threads) for trained in runs])
                pairs = [mean_std(ends[:, part, kind]) for kind in (1, 0) for part in range(3)]
                rows.append([wrong, rate, *(n for pair in pairs for n in pair), budget.seeds])

    names = [f"{part} {measure}" for measure in MEASURES for part in PARTS]
    columns = ["wrong labels", "dropout rate", *(c for name in names for c in (name, "std")), "n"]
    for wrong in wrongs:
        mine = [row for row in rows if row[LABEL] == wrong]
        validation = columns.index("validation accuracy")
        chosen = {"best": max(mine, key=lambda row: row[validation]), "least": min(mine)}
        for name, row in chosen.items():
            key = f"{name}_wrong_{wrong:g}"
            metrics[f"{key}_rate"] = row[RATE]
            metrics[f"{key}_gap"] = row[columns.index("train accuracy")] - row[validation]
            for kind in names:
                metrics[f"{key}_{kind.replace(' ', '_')}"] = row[columns.index(kind)]
                metrics[f"{key}_{kind.replace(' ', '_')}_std"] = row[columns.index(kind) + 1]
        best, least = (metrics[f"{name}_wrong_{wrong:g}_rate"] for name in ("best", "least"))
        sentences.append(
            f"With {share(wrong)} of the labels wrong rate {best:g} is best on validation "
            f"images: {percent(metrics, 'best', wrong, budget.seeds)} of the test images"
            + f", against {percent(metrics, 'least', wrong, budget.seeds)} with rate {least:g}"
            * (best != least)
            + "."
        )
    answer = f"From {counted(len(true[0]), 'image')}: {' '.join(sentences)} (n = {budget.seeds})"
    headline = f"best_wrong_{wrongs[-1]:g}_test_accuracy"
    return Result(answer, headline, metrics, curves, {"rates": Table(columns, rows)})


def share(wrong: float) -> str:
    return f"{100 * wrong:g}%"


def percent(metrics: dict[str, float], name: str, wrong: float, n: int) -> str:
    mean, std = (metrics[f"{name}_wrong_{wrong:g}_test_accuracy{part}"] for part in ("", "_std"))
    return f"{mean:.1%}{spread(100 * std, n, '.1f')}"


def effect(metrics: dict[str, float], wrong: float, n: int) -> str:
    """What the best rate does to test accuracy and to the gap above validation, in words."""
    names = ("least", "best")
    before, after = (percent(metrics, name, wrong, n) for name in names)
    lowest, best = (metrics[f"{name}_wrong_{wrong:g}_rate"] for name in names)
    gaps = [metrics[f"{name}_wrong_{wrong:g}_gap"] for name in names]
    wide, narrow = (
        f"{abs(100 * gap):.1f} points {'above' if gap >= 0 else 'below'}" for gap in gaps
    )
    words = f"With {share(wrong)} wrong labels "
    if best == lowest:
        return (
            f"{words}no rate is better than {best:g} on validation images: test accuracy "
            f"{after}, training is {narrow} validation"
        )
    return (
        f"{words}rate {best:g} takes test accuracy from {before} to {after}; training is {wide} "
        f"validation before and {narrow} after"
    )


def draw(result: Result) -> dict[str, Figure]:
    metrics, table = result.metrics, result.tables["rates"]
    arms = sorted({row[LABEL] for row in table.rows})
    rates = sorted({row[RATE] for row in table.rows})
    worst = arms[-1]

    ends, axes = plots.grid(2, len(arms), width=4.8, height=3, sharex=True, sharey="row")
    epochs, places = plots.grid(1, len(arms), width=4.8, height=3.8, sharey=True)
    for column, wrong in enumerate(arms):
        rows = [row for row in table.rows if row[LABEL] == wrong]
        title = f"{share(wrong)} of the training labels wrong" if wrong else "all labels true"
        axes[0, column].set_title(title)
        places[0, column].set_title(title)
        axes[1, column].set_xlabel("dropout rate: the share of hidden units dropped")
        for measure, place in enumerate(axes[:, column]):
            factor = (100, 1)[measure]
            for number, part in enumerate(PARTS):
                first = FIRST + 2 * (len(PARTS) * measure + number)
                pairs = np.array([row[first : first + 2] for row in rows], float)
                mean, std = factor * pairs.T
                place.errorbar(
                    rates, mean, std, label=part, capsize=3, color=f"C{number}",
                    marker=plots.MARKERS[number], ms=5, ls=("-", "--", ":")[number],
                )  # fmt: skip
            chosen = metrics[f"best_wrong_{wrong:g}_rate"]
            place.axvline(chosen, color="black", lw=1, ls="-.", label="chosen on validation")
        for number, rate in enumerate(rates):
            look = {"marker": plots.MARKERS[number], "color": f"C{number}", "ms": 4}
            curve = result.curves[f"{wrong:g}_{rate:g}"]
            every = max(1, len(curve.x) // 10)
            plots.plot_curve(places[0, column], curve, f"rate {rate:g}", markevery=every, **look)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].set_ylabel("loss (nats)")
    ends.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    epochs.legend(*places[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    ends.suptitle(effect(metrics, worst, curve.n))
    growth = []
    for wrong in arms:
        loss = result.curves[f"{wrong:g}_{rates[0]:g}"].y
        growth.append(
            f"{loss[-1]:.2f} nats (lowest {min(loss):.2f}) with {share(wrong)} wrong labels"
        )
    epochs.suptitle(f"With rate {rates[0]:g} the validation loss ends at " + " and ".join(growth))
    return {"rates": ends, "epochs": epochs}
