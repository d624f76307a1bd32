"""How many noisy samples does a network need before it fits the function and not the noise?

The network and the number of steps stay the same while the training set grows. Training
error alone cannot tell: on few samples it falls below the noise, which no prediction of new
samples can do. The root mean squared error of the true function itself on such samples is
the standard deviation of the noise: the noise floor.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._functions import tanh_units
from section1.experiments._training import (
    counted,
    mean_std,
    of_runs,
    rise_and_fall,
    spread,
    train,
)
from section1.losses import MeanSquaredError
from section1.sgd import SGD
from section1.training import Batch, evaluate, predict
from utils.data.functions import TARGETS_1D
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

TARGET = TARGETS_1D["sines"]
X = np.linspace(-1, 1, 401, dtype=np.float32)
HELD_OUT = 1000  # samples for validation, and as many again for the test
UNIT = "RMSE (units of y)"


def sample(n: int, noise: float, rng: np.random.Generator) -> Batch:
    """x uniform on [-1, 1], y = f(x) + noise: arrays (n, 1) and (n,)."""
    x = rng.uniform(-1, 1, n).astype(np.float32)
    return x[:, None], TARGET(x) + noise * rng.standard_normal(n).astype(np.float32)


def compute(run: Run) -> Result:
    budget = run.budget
    if budget.noise == 0:
        raise UserError("noise must be above 0: errors are given as multiples of it")
    run.note_data("samples", f"the function 'sines' with normal noise of std {budget.noise:g}")
    metrics, curves, rows, arrays = {"noise_floor": budget.noise}, {}, [], {}
    epochs = range(1, budget.epochs + 1)
    sizes = sorted(set(budget.samples))
    most = sizes[-1]

    def recipe(rng: np.random.Generator) -> tuple:
        model = tanh_units(1, budget.hidden, rng)
        return model, MeanSquaredError(), SGD(model.parameters(), 0)

    with run.progress(len(sizes) * budget.seeds * budget.epochs) as bar:
        for n in sizes:
            runs, fits, errors = [], [], []
            for seed in range(budget.seeds):
                data, validation, test = (
                    sample(size, budget.noise, rng)
                    for size, rng in zip((n, HELD_OUT, HELD_OUT), run.rng(seed, n).spawn(3))
                )
                # A small set is repeated, so that every epoch has as many steps.
                repeated = (np.resize(data[0], (most, 1)), np.resize(data[1], most))
                trained = train(
                    run, recipe, repeated, test, key=(seed, n, 1), bar=bar,
                    validation=validation, metric=None,
                    schedule=rise_and_fall(budget.lr, run, most),
                )  # fmt: skip
                runs.append(trained)
                fits.append(predict(trained.model, X[:, None], threads=run.threads)[:, 0])
                error, _ = evaluate(
                    trained.model, MeanSquaredError(), data, metric=None, threads=run.threads
                )
                errors.append(error**0.5)
                if seed == 0:
                    arrays[f"x_{n}"], arrays[f"y_{n}"] = data[0][:, 0], data[1]
            arrays[f"fits_{n}"] = np.array(fits)  # (seeds, len(X))
            for kind, losses in (
                ("train", [t.history.loss for t in runs]),
                ("validation", [t.history.val_loss for t in runs]),
            ):
                curves[f"{kind}_{n}"] = Curve.over_runs(epochs, np.sqrt(losses), "epoch", UNIT)
            best = [int(np.argmin(t.history.val_loss)) + 1 for t in runs]
            test_mean, test_std = mean_std(t.test_loss**0.5 for t in runs)
            train_mean, train_std = mean_std(errors)
            metrics |= {f"train_{n}": train_mean, f"test_{n}": test_mean}
            if len(fits) > 1:
                metrics[f"spread_{n}"] = float(np.std(fits, axis=0, ddof=1).mean())
            rows.append(
                [n, train_mean, train_std, test_mean, test_std, float(np.median(best)), len(runs)]
            )
    for kind, column in (("train", 1), ("test", 3)):
        label = "samples for training"
        y, std = [row[column] for row in rows], [row[column + 1] for row in rows]
        several = std if budget.seeds > 1 else None
        curves[kind] = Curve(sizes, y, several, budget.seeds, label, UNIT)
    metrics["excess"] = rows[-1][3] / budget.noise - 1
    floor = budget.noise
    seeds = budget.seeds
    words = [
        f"{counted(row[0], 'sample')} {row[3]:.3f}{spread(row[4], seeds, '.3f')}, "
        f"{row[3] / floor:.2f} times the floor"
        for row in rows
    ]
    fooled = [str(n) for n, error, *_ in rows if error < 0.9 * floor]
    answer = (
        f"Test RMSE at a noise floor of {floor:g} (n = {seeds}): {'; '.join(words)}. "
        f"Noise is fitted (training error 10% or more below the floor) "
        + (
            f"with {', '.join(fooled)} sample{'s' * (fooled != ['1'])}."
            if fooled
            else "with none of these numbers."
        )
    )
    columns = ["samples", "train RMSE", "train std", "test RMSE", "test std", "best epoch", "n"]
    return Result(answer, "excess", metrics, curves, {"samples": Table(columns, rows)}, arrays)


def panels(count: int) -> tuple[Figure, np.ndarray]:
    """A figure of `count` panels, three in a row."""
    columns = min(count, 3)
    figure, axes = plots.grid(-(-count // columns), columns, width=3.9, height=3.1, sharey=True)
    for place in axes.flat[count:]:
        place.axis("off")
    return figure, axes


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["samples"].rows
    sizes, noise = [row[0] for row in rows], result.metrics["noise_floor"]
    ends = rows[:1] + rows[1:][-1:]  # the fewest samples and the most

    fits, axes = panels(len(sizes))
    for place, (n, _, _, test, std, _, runs) in zip(axes.flat, rows):
        predictions = result.arrays[f"fits_{n}"]
        mean = predictions.mean(axis=0)
        place.plot(
            result.arrays[f"x_{n}"],
            result.arrays[f"y_{n}"],
            ".",
            color="0.6",
            ms=4,
            label="samples of one run",
        )
        place.plot(X, TARGET(X), "k:", label="true f")
        place.plot(X, mean, color="C0", label="mean of the fits")
        if runs > 1:
            deviation = predictions.std(axis=0, ddof=1)
            place.fill_between(
                X,
                mean - deviation,
                mean + deviation,
                color="C0",
                alpha=0.3,
                lw=0,
                label="± std over seeds",
            )
        rmse = f"{test:.3f}{spread(std, runs, '.3f')} (n = {runs})"
        place.set(title=f"{counted(n, 'sample')}: test RMSE {rmse}", xlabel="x")
        place.set_ylim(-1.4, 1.4)
    for place in axes[:, 0]:
        place.set_ylabel("y")
    fits.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    apart = "not known from one"
    if rows[0][-1] > 1:
        apart = ", ".join(
            f"{result.metrics[f'spread_{n}']:.2f} with {counted(n, 'sample')}" for n, *_ in ends
        )
    fits.suptitle(f"Spread of the fits between seeds: {apart}")

    error, axes = plots.grid(width=6.4)
    for kind, marker, name in (("test", "o-", "test (new samples)"), ("train", "s--", "training")):
        curve = result.curves[kind]
        axes[0, 0].errorbar(curve.x, curve.y, curve.std, fmt=marker, capsize=4, label=name)
    axes[0, 0].axhline(noise, color="black", ls=":", lw=1.4, label=f"noise floor {noise:g}")
    axes[0, 0].set_xscale("log", base=2)
    axes[0, 0].set_xticks(sizes, [str(n) for n in sizes])
    axes[0, 0].set(xlabel=curve.x_label, ylabel=curve.y_label, ylim=(0, None))
    axes[0, 0].set_title(of_runs(curve.n))
    axes[0, 0].legend(loc="lower right")
    error.suptitle(
        "Errors as multiples of the noise floor: "
        + "; ".join(
            f"test {row[3] / noise:.2f} and training {row[1] / noise:.2f} "
            f"with {counted(row[0], 'sample')}"
            for row in ends
        )
    )

    learning, axes = panels(len(sizes))
    for place, (n, *_, best, _) in zip(axes.flat, rows):
        plots.plot_curve(place, result.curves[f"train_{n}"], "training", ls="--")
        plots.plot_curve(place, result.curves[f"validation_{n}"], "validation")
        place.axhline(noise, color="black", ls=":", lw=1.4, label=f"noise floor {noise:g}")
        place.set(title=f"{counted(n, 'sample')}: validation best after epoch {best:.0f}")
        place.set_xscale("log")
        place.set_ylim(0, 3 * noise)
    for place in axes[:, 1:].flat:
        place.set_ylabel("")
    learning.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    learning.suptitle(
        f"Of {counted(len(result.curves[f'train_{sizes[0]}'].x), 'epoch')} the one with the lowest "
        "validation error is "
        + ", ".join(f"epoch {row[5]:.0f} with {counted(row[0], 'sample')}" for row in ends)
    )
    return {"fits": fits, "error": error, "learning": learning}
