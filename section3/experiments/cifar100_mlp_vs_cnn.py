"""What does a CNN know beforehand that an MLP with as many parameters has to learn?

Both are trained alike on the same images of a hundred classes, and then both once more after
the pixels of all images, training and test, have changed places: every image by the same
random permutation. No information is lost, and to an MLP any order of its inputs is like any
other. But a CNN is built on the belief that what belongs together lies side by side; if that
is what makes it better, then permuting the pixels must take it away.
Sources: LeCun, Bengio, Convolutional networks for images, speech, and time series (1995);
Krizhevsky, Learning multiple layers of features from tiny images (2009), the data.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import SPLIT
from section1.experiments._training import (
    Trained,
    mean_std,
    of_runs,
    one_for_each,
    rise_and_fall,
    signed,
    spread,
    train,
)
from section1.layer import Layer
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.network import Sequential
from section1.training import Batch, evaluate, predict
from section2.optimizers import Adam
from section3.experiments._cnns import (
    ALONE,
    Images,
    count_parameters,
    load_images,
    tied,
)
from section3.flatten import Flatten
from section3.fused import fused
from section3.models import mnist_cnn
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

ARMS = {"mlp": "MLP", "cnn": "CNN"}
ORDERS = {"straight": "images as they are", "permuted": "pixels permuted"}
KINDS = {
    "test": "test accuracy",
    "top": "right within the first guesses",
    "training": "training accuracy",
    "validation": "validation accuracy",
}
TOP = 5  # guesses
SHOWN = 6  # images


def network(arm: str, data: Images, filters: list[int], rng: np.random.Generator) -> Sequential:
    """The CNN, or an MLP of one hidden layer with as many parameters, as near as can be."""
    classes = len(data.classes)
    cnn = mnist_cnn(filters, 0, shape=data.shape, classes=classes, rng=rng)
    if arm == "cnn":
        return fused(cnn)
    features = math.prod(data.shape)
    width = round((count_parameters(cnn) - classes) / (features + 1 + classes))
    return Sequential(Flatten(), MLP([features, max(1, width), classes], rng=rng))


def permuted(images: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) whose pixels have changed places, all channels of a pixel together."""
    n, h, w, c = images.shape
    return images.reshape(n, h * w, c)[:, order].reshape(images.shape)


def top(model: Layer, batch: Batch, guesses: int, threads: int | None) -> float:
    """The share of images whose class is among the first so many guesses.

    Of equal scores the first class comes first, as in argmax; NaN comes last.
    """
    x, y = batch
    scores = predict(model, x, threads=threads)  # (N, K)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :guesses]
    return float((best == y[:, None]).any(axis=1).mean())


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_images(run, "cifar100")
    h, w, _ = data.shape
    places = {"straight": np.arange(h * w), "permuted": run.rng(SPLIT + 2).permutation(h * w)}
    rates = dict(zip(ARMS, one_for_each(ARMS, budget.lr)))
    images, guesses = len(data.train[0]), min(TOP, len(data.classes))
    metrics, curves, rows, arrays = {}, {}, [], {}
    with run.progress(len(ARMS) * len(ORDERS) * budget.seeds * budget.epochs) as bar:
        for order, arm in product(ORDERS, ARMS):

            def recipe(rng: np.random.Generator, arm: str = arm) -> tuple:
                model = network(arm, data, budget.filters, rng)
                return model, SoftmaxCrossEntropy(), Adam(model.parameters(), 0)

            learned, held_out, test = (
                (permuted(x, places[order]), y) for x, y in (data.train, data.validation, data.test)
            )
            runs = [
                train(
                    run, recipe, learned, test, key=(seed,), bar=bar, validation=held_out,
                    schedule=rise_and_fall(rates[arm], run, images),
                )
                for seed in range(budget.seeds)
            ]  # fmt: skip
            few = learned[0][: len(held_out[0])], learned[1][: len(held_out[0])]
            scores = np.array([account(t, few, test, guesses, run.threads) for t in runs])
            name = f"{arm}_{order}"
            arrays[f"{name}_test_accuracy"] = scores[:, 0]
            for kind, values in zip(KINDS, scores.T):
                metrics[f"{name}_{kind}"], metrics[f"{name}_{kind}_std"] = mean_std(values)
            metrics[f"{name}_gap"] = metrics[f"{name}_training"] - metrics[f"{name}_validation"]
            metrics[f"{arm}_parameters"] = count_parameters(runs[0].model)
            seconds = mean_std(t.history.seconds[-1] / budget.epochs for t in runs)
            metrics[f"{name}_seconds_an_epoch"] = seconds[0]
            curves[name] = Curve.over_runs(
                range(1, budget.epochs + 1), [100 * np.array(t.history.val_metric) for t in runs],
                "epoch", "validation accuracy (%)",
            )  # fmt: skip
            each = [metrics[f"{name}_{kind}{part}"] for kind in KINDS for part in ("", "_std")]
            count = metrics[f"{arm}_parameters"]
            rows.append([ARMS[arm], ORDERS[order], count, *each, *seconds, budget.seeds])
    examples = data.raw[:SHOWN]
    arrays |= {"straight": examples, "permuted": permuted(examples, places["permuted"])}
    columns = ["network", "pixels", "parameters"]
    columns += [column for label in KINDS.values() for column in (label, "std")]
    tables = {"networks": Table([*columns, "seconds an epoch", "std", "n"], rows)}
    times = [metrics[f"{arm}_straight_seconds_an_epoch"] for arm in ARMS]
    metrics["guesses"] = guesses
    n = budget.seeds
    mlp, cnn = (percent(metrics, f"{arm}_straight", n) for arm in ARMS)
    answer = (
        f"On images as they are {compared(arrays, 'straight')}: {cnn} of the test images against "
        f"{mlp}, and with {guesses} guesses {metrics['cnn_straight_top']:.1%} against "
        f"{metrics['mlp_straight_top']:.1%} (n = {n}{alone(n)}; {metrics['cnn_parameters']:,} and "
        f"{metrics['mlp_parameters']:,} parameters). Permuting the pixels "
        f"{effect(arrays, 'cnn')} and {effect(arrays, 'mlp')}; then "
        f"{compared(arrays, 'permuted')}. At the end training accuracy less validation "
        f"accuracy is {signed(100 * metrics['cnn_straight_gap'])} points with the CNN and "
        f"{signed(100 * metrics['mlp_straight_gap'])} with the MLP. An epoch of the CNN takes "
        f"{times[1] / times[0]:.1f} times as long: a weight is used at every place of the image."
    )
    return Result(answer, "cnn_straight_test", metrics, curves, tables, arrays)


def account(
    trained: Trained, few: Batch, test: Batch, guesses: int, threads: int | None
) -> list[float]:
    """What `KINDS` names, of one run."""
    _, training = evaluate(trained.model, SoftmaxCrossEntropy(), few, threads=threads)
    found = top(trained.model, test, guesses, threads)
    return [trained.test_metric, found, training, trained.history.val_metric[-1]]


def compared(arrays: dict[str, np.ndarray], order: str) -> str:
    mlp, cnn = (arrays[f"{arm}_{order}_test_accuracy"] for arm in ARMS)
    lead = 100 * (cnn.mean() - mlp.mean())
    if len(cnn) > 1 and tied(cnn, mlp):
        return "CNN and MLP tie within the noise of seeds"
    if not round(lead, 1):
        return "CNN and MLP lie within 0.1 points"
    return f"the CNN is {abs(lead):.1f} points {'ahead of' if lead > 0 else 'behind'} the MLP"


def effect(arrays: dict[str, np.ndarray], arm: str) -> str:
    before, after = (arrays[f"{arm}_{order}_test_accuracy"] for order in ORDERS)
    change = 100 * (after.mean() - before.mean())
    if len(before) > 1 and tied(before, after):
        return f"changes the {ARMS[arm]} by no more than noise ({signed(change)} points)"
    if not round(change, 1):
        return f"changes the {ARMS[arm]} by less than 0.1 points"
    return f"{'gives' if change > 0 else 'costs'} the {ARMS[arm]} {abs(change):.1f} points"


def alone(n: int) -> str:
    """What must be added to differences between single runs."""
    return f"; {ALONE}" if n < 2 else ""


def percent(metrics: dict[str, float], name: str, n: int) -> str:
    return f"{metrics[f'{name}_test']:.1%}{spread(100 * metrics[f'{name}_test_std'], n, '.1f')}"


def draw(result: Result) -> dict[str, Figure]:
    metrics, arrays = result.metrics, result.arrays
    figure, axes = plots.grid(1, 3, width=4.2, height=4)
    names = [f"{arm}_{order}" for arm, order in product(ARMS, ORDERS)]
    labels = [f"{arm}, {order}" for arm, order in product(ARMS.values(), ORDERS.values())]
    for number, (name, label) in enumerate(zip(names, labels)):
        curve = result.curves[name]
        look = {"marker": plots.MARKERS[number], "ms": 5, "ls": ("-", "--")[number % 2]}
        plots.plot_curve(axes[0, 0], curve, label, color=f"C{number // 2}", **look)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    guesses = metrics["guesses"]
    panels = {
        "test images right (%)": {"test": "with one guess", "top": f"with {guesses} guesses"},
        "accuracy at the end (%)": {"training": "training", "validation": "validation"},
    }
    ticks = [f"{arm}\n{order}" for arm in ARMS.values() for order in ("as they are", "permuted")]
    for place, (label, kinds) in zip(axes[0, 1:], panels.items()):
        for number, (kind, word) in enumerate(kinds.items(), start=2):
            y, std = ([100 * metrics[f"{n}_{kind}{p}"] for n in names] for p in ("", "_std"))
            marker = {"fmt": plots.MARKERS[number], "color": f"C{number}", "ms": 7, "capsize": 4}
            place.errorbar(range(len(names)), y, std, label=word, **marker)
        place.set_xticks(range(len(names)), ticks, fontsize="small")
        place.set(ylabel=label, ylim=(0, None))
        place.margins(x=0.15)
        place.legend(title=of_runs(curve.n), title_fontsize="small")
    figure.suptitle(
        f"As the images are, {compared(arrays, 'straight')}; permuting the pixels "
        f"{effect(arrays, 'cnn')} and {effect(arrays, 'mlp')}{alone(curve.n)}"
    )

    pictures, axes = plots.grid(2, SHOWN, width=1.5, height=1.75)
    for row, (order, title) in zip(axes, ORDERS.items()):
        plots.show_images(row.tolist(), arrays[order], [""] * SHOWN)
        row[0].set_title(title, loc="left").set_in_layout(False)
    scores = {name: f"{metrics[f'{name}_test']:.1%}" for name in names}
    pictures.suptitle(
        "The same pixels in another order: of such test images the CNN gets "
        f"{scores['cnn_straight']} right above and {scores['cnn_permuted']} below, the MLP "
        f"{scores['mlp_straight']} and {scores['mlp_permuted']}"
    )
    return {"accuracy": figure, "pixels": pictures}
