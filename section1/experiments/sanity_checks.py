"""Which quick checks tell that a network and its training are sound, and do ours pass?

Each check has a value that theory or experience gives beforehand, so a bug shows as a
number that is off: a wrong loss, a gradient of the wrong size, labels that do not belong to
their images, a learning rate that is ten times too large.
Source: Karpathy, A recipe for training neural networks (2019).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import Rows, load_rows
from section1.experiments._training import counted, mean_std, spread, train
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.parallel import Workers
from section1.sgd import SGD
from section1.training import Batch
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

LAYERS = ("784 to 256", "256 to 128", "128 to 10")


class WatchedSGD(SGD):
    """SGD that notes at each step, for each weight matrix, |update| / |weight|."""

    def __init__(self, model: MLP, lr: float):
        super().__init__(model.parameters(), lr)
        self.ratios: list[list[float]] = []

    def step(self, workers: Workers | None = None) -> None:
        weights = [parameter for parameter in self.parameters if parameter.value.ndim == 2]
        sizes = [np.linalg.norm(weight.value) for weight in weights]
        moves = [self.lr * np.linalg.norm(weight.grad) for weight in weights]
        super().step(workers)
        self.ratios.append([float(move / size) for move, size in zip(moves, sizes)])


def new_model(
    data: Rows, rng: np.random.Generator, init: str = "he_normal", dtype: Any = np.float32
) -> MLP:
    return MLP([data.features, 256, 128, len(data.classes)], init=init, rng=rng, dtype=dtype)


def gradient_of(model: MLP, batch: Batch) -> tuple[float, np.ndarray]:
    """The loss of a batch and its slope along the logits; the parameters get their gradients."""
    loss = SoftmaxCrossEntropy()
    model.zero_grad()
    value = loss(model(batch[0]), batch[1])
    model.backward(loss.backward())
    return value, loss.backward()


def slope_ratio(model: MLP, batch: Batch, step: float = 1e-4) -> float:
    """The fall of the loss after a tiny step down the gradient g, over step * |g|^2."""
    before, _ = gradient_of(model, batch)
    square = sum(float(np.sum(p.grad.astype(float) ** 2)) for p in model.parameters())
    SGD(model.parameters(), step).step()
    after, _ = gradient_of(model, batch)
    return (before - after) / (step * square)


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_rows(run, "mnist")
    classes, seeds = len(data.classes), range(budget.seeds)
    checks: list[list[Any]] = []
    guessing = math.log(classes)

    def check(what: str, expected: str, values: list[float], within: tuple[float, float]) -> None:
        passed = all(within[0] <= value <= within[1] for value in values)
        checks.append([what, expected, *mean_std(values), len(values), passed])

    x, y = data.train
    batch, few = (x[:256], y[:256]), (x[:20], y[:20])
    images = f"{len(few[0])} images"
    starts = [gradient_of(new_model(data, run.rng(k), "normal"), batch) for k in seeds]
    losses = [loss for loss, _ in starts]
    check("loss before training, small weights", f"ln {classes} = {guessing:.3f}", losses,
          (0.99 * guessing, 1.01 * guessing))  # fmt: skip
    sums = [float(abs(slope.sum(axis=1)).max() * len(slope)) for _, slope in starts]
    check("slopes of an image's logits, summed", "0 (to rounding)", sums, (0, 1e-5))
    falls = [slope_ratio(new_model(data, run.rng(k), dtype=np.float64), batch) for k in seeds]
    check("fall of the loss / (step × |gradient|²)", "1", falls, (0.95, 1.05))

    optimizers: list[WatchedSGD] = []

    def recipe(rng: np.random.Generator) -> tuple:
        model = new_model(data, rng)
        optimizers.append(WatchedSGD(model, budget.lr))
        return model, SoftmaxCrossEntropy(), optimizers[-1]

    with run.progress(budget.seeds * (budget.steps + 2 * budget.epochs)) as bar:
        many = {"epochs": budget.steps, "batch_size": len(few[0])}
        small = [train(run, recipe, few, few, key=(k,), bar=bar, **many) for k in seeds]
        optimizers.clear()
        runs = {}
        for kind in ("true", "shuffled"):
            runs[kind] = [
                train(
                    run, recipe, (x, y if kind == "true" else run.rng(k, 1).permutation(y)),
                    data.validation, key=(k,), bar=bar, validation=data.validation,
                )
                for k in seeds
            ]  # fmt: skip
    check(f"loss on {images}, trained on them alone", "0 (below 0.05)",
          [trained.test_loss for trained in small], (0, 0.05))  # fmt: skip
    check(f"accuracy on these {images}", "1", [t.test_metric for t in small], (1, 1))
    ratios = np.array([optimizer.ratios for optimizer in optimizers[: budget.seeds]])
    middle = np.median(ratios, axis=1)  # (seeds, steps, layers) -> (seeds, layers)
    for layer, name in enumerate(LAYERS):
        check(f"|update| / |weight|, {name} layer", "about 0.001 (0.0001 to 0.01)",
              middle[:, layer].tolist(), (1e-4, 1e-2))  # fmt: skip
    check("validation loss, true labels", f"below ln {classes} / 2 = {guessing / 2:.3f}",
          [t.history.val_loss[-1] for t in runs["true"]], (0, guessing / 2))  # fmt: skip
    check("lowest validation loss, shuffled labels", f"not below ln {classes} = {guessing:.3f}",
          [min(t.history.val_loss) for t in runs["shuffled"]],
          (0.99 * guessing, math.inf))  # fmt: skip

    epochs, nats = range(1, budget.epochs + 1), "cross-entropy (nats)"
    steps = range(1, budget.steps + 1)
    few_losses = [t.history.loss for t in small]
    curves = {"few": Curve.over_runs(steps, few_losses, "step", nats)}
    for kind, made in runs.items():
        losses_of = [t.history.val_loss for t in made]
        curves[kind] = Curve.over_runs(epochs, losses_of, "epoch", f"validation {nats}")
    for layer, name in enumerate(LAYERS):
        curves[f"ratio_{name}"] = Curve.over_runs(
            range(1, ratios.shape[1] + 1), ratios[..., layer], "step", "|update| / |weight|"
        )
    passed = sum(row[-1] for row in checks)
    failed = [f"{row[0]}: {row[2]:.3g}, expected {row[1]}" for row in checks if not row[-1]]
    answer = (
        f"{passed} of {len(checks)} checks passed, each on {counted(budget.seeds, 'seed')}. Before "
        f"training the loss is {checks[0][2]:.4f} (ln {classes} = {guessing:.4f}); {images} are "
        f"learned to a loss of {checks[3][2]:.3f}; an update moves the weights by "
        f"{middle.mean():.1e} of their length. "
        + (f"Failed: {'; '.join(failed)}." if failed else "")
    )
    metrics = {"passed": float(passed), "checks": float(len(checks)), "guessing": guessing}
    metrics |= {f"check_{number}": row[2] for number, row in enumerate(checks, start=1)}
    columns = ["check", "expected", "measured", "std", "n", "passed"]
    arrays = {"initial_loss": np.array(losses)}
    return Result(answer, "passed", metrics, curves, {"checks": Table(columns, checks)}, arrays)


def draw(result: Result) -> dict[str, Figure]:
    guessing, rows = result.metrics["guessing"], result.tables["checks"].rows
    figure, axes = plots.grid(2, 2, width=4.8, height=3.5)
    start, few, ratio, labels = axes.ravel()
    losses = result.arrays["initial_loss"]
    start.plot(range(1, len(losses) + 1), losses, "o")
    start.axhline(guessing, color="black", ls=":", lw=1, label="guessing: ln 10")
    start.set(xlabel="seed", ylabel="cross-entropy (nats)", title="Loss before training")
    start.set(ylim=(0.98 * guessing, 1.02 * guessing), xticks=range(1, len(losses) + 1))
    start.legend()

    plots.plot_curve(few, result.curves["few"], "")
    few.set(yscale="log", title=rows[3][0].capitalize())

    for name in LAYERS:
        plots.plot_curve(ratio, result.curves[f"ratio_{name}"], name, lw=1)
    ratio.axhspan(1e-4, 1e-2, color="#999999", alpha=0.15, lw=0, label="healthy")
    ratio.axhline(1e-3, color="black", ls=":", lw=1)
    ratio.set(yscale="log", ylim=(3e-5, 1e-1), title="How far an update moves each weight matrix")
    ratio.legend(loc="lower center", ncols=4, columnspacing=1, handlelength=1.2)

    for kind in ("true", "shuffled"):
        plots.plot_curve(labels, result.curves[kind], f"{kind} labels", marker="o", ms=3)
    labels.axhline(guessing, color="black", ls=":", lw=1, label="guessing: ln 10")
    labels.set(title="Training on true and on shuffled labels", ylim=(0, None))
    labels.legend(loc="center right")
    passed = sum(row[-1] for row in rows)
    figure.suptitle(f"{passed} of {len(rows)} sanity checks passed")

    listing = Figure(figsize=(9, 0.32 * len(rows) + 0.5), layout="constrained")
    place = listing.subplots()
    place.axis("off")
    words = [
        [
            row[0],
            row[1],
            f"{row[2]:.4g}{spread(row[3], row[4], '.1g')}",
            "passed" if row[-1] else "FAILED",
        ]
        for row in rows
    ]
    table = place.table(
        words, colLabels=["check", "expected", "measured", ""], cellLoc="left", colLoc="left",
        colWidths=[0.44, 0.28, 0.18, 0.1], loc="center", edges="horizontal",
    )  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(9.5)
    table.scale(1, 1.35)
    for number, row in enumerate(rows, start=1):
        table[number, 3].get_text().set_color("#009E73" if row[-1] else "#D55E00")
    listing.suptitle(f"{passed} of {len(rows)} sanity checks passed")
    return {"curves": figure, "checks": listing}
