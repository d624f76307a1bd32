"""What is best to make an image smaller: the largest of neighbours, their mean, or a stride?

Three networks with exactly the same parameters, from the same initial weights, on the same
images in the same order: two 3x3 convolutions, each of which ends with half the rows and
columns, and a linear layer. Max-pool and average-pool make all outputs of a convolution and
then one of every four; a convolution of stride 2 makes only every fourth. (Times are those
of this code, in which a convolution and its max-pool are one layer.) Afterwards the test
images are moved by a few pixels, which a network that pools is said to forgive.
Sources: Scherer, Müller, Behnke, Evaluation of pooling operations (2010); Springenberg et
al., Striving for simplicity, arXiv:1412.6806 (strides instead of pools); Zhang, Making
convolutional networks shift-invariant again, arXiv:1904.11486.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from section1.activations import ReLU
from section1.experiments._training import (
    Trained,
    mean_std,
    of_runs,
    one_for_each,
    rise_and_fall,
    spread,
    train,
)
from section1.layer import Layer
from section1.linear import Linear
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.training import predict
from section2.optimizers import Adam
from section3.conv import Conv2D
from section3.experiments._cnns import (
    ALONE,
    Images,
    count_parameters,
    load_images,
    tied,
)
from section3.flatten import Flatten
from section3.fused import fused
from section3.pooling import AvgPool2D, MaxPool2D
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

ARMS = {"max": "max-pool", "average": "average-pool", "strided": "strided convolution"}
FARTHEST = 4  # pixels that test images are moved by
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def network(arm: str, filters: list[int], data: Images, rng: np.random.Generator) -> Sequential:
    """For each number of filters a 3x3 convolution that halves the image; a linear layer."""
    h, w, channels = data.shape
    layers: list[Layer] = []
    for count in filters:
        stride = 2 if arm == "strided" else 1
        layers.append(Conv2D(channels, count, 3, stride=stride, padding=1, rng=rng))
        if arm == "max":
            layers += [MaxPool2D(2), ReLU()]  # the order does not matter to the largest
        else:
            layers += [ReLU(), AvgPool2D(2)] if arm == "average" else [ReLU()]
        h, w, channels = h // 2, w // 2, count
    output = Linear(h * w * channels, len(data.classes), init="xavier_uniform", rng=rng)
    return fused(Sequential(*layers, Flatten(), output))


def moved(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images (N, H, W, C) moved by so many pixels; what comes in from outside is black."""
    _, h, w, _ = images.shape
    result = np.zeros_like(images)
    target, source = (
        (slice(max(d, 0), n + min(d, 0)) for d, n in ((sign * down, h), (sign * right, w)))
        for sign in (1, -1)
    )
    result[(slice(None), *target)] = images[(slice(None), *source)]
    return result


def when_moved(model: Layer, data: Images, images: int, threads: int | None) -> list[list[float]]:
    """Accuracy, and the share of predictions that stay, at each distance from 0 pixels on."""
    raw, labels = data.raw[:images], data.test[1][:images]
    rows = []
    for pixels in range(FARTHEST + 1):
        guesses = []
        for down, right in DIRECTIONS if pixels else [(0, 0)]:
            x = data.standardised(moved(raw, pixels * down, pixels * right))
            guesses.append(predict(model, x, threads=threads).argmax(axis=1))
        if not pixels:
            unmoved = guesses[0]
        rows.append([np.mean(np.equal(guesses, wanted)) for wanted in (labels, unmoved)])
    return np.transpose(rows).tolist()


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_images(run, "mnist")
    h, w, _ = data.shape
    if h % 2 ** len(budget.filters) or w % 2 ** len(budget.filters):
        raise UserError(
            f"images of {h}x{w} cannot be halved {len(budget.filters)} times without a row left "
            "over: give fewer filters"
        )
    runs: dict[str, list[Trained]] = {}
    with run.progress(len(ARMS) * budget.seeds * budget.epochs) as bar:
        for arm, lr in zip(ARMS, one_for_each(ARMS, budget.lr)):

            def recipe(rng: np.random.Generator, arm: str = arm) -> tuple:
                model = network(arm, budget.filters, data, rng)
                return model, SoftmaxCrossEntropy(), Adam(model.parameters(), 0)

            schedule = rise_and_fall(lr, run, len(data.train[0]))
            runs[arm] = [
                train(
                    run, recipe, data.train, data.test, key=(seed,), bar=bar,
                    validation=data.validation, schedule=schedule,
                )
                for seed in range(budget.seeds)
            ]  # fmt: skip
    metrics, curves, rows = {}, {}, []
    accuracy, seconds, far = np.zeros((3, len(ARMS), budget.seeds))
    for place, (arm, trained) in enumerate(runs.items()):
        shifts = [when_moved(t.model, data, budget.images, run.threads) for t in trained]
        for kind, values in zip(("accuracy", "unchanged"), np.swapaxes(shifts, 0, 1)):
            curves[f"{arm}_{kind}"] = Curve.over_runs(range(FARTHEST + 1), values, "pixels", kind)
            metrics[f"{arm}_{kind}_moved"] = values[:, -1].mean()
        accuracy[place] = [t.test_metric for t in trained]
        seconds[place] = [t.history.seconds[-1] / budget.epochs for t in trained]
        far[place] = [accuracy[-1] for accuracy, _ in shifts]
        parameters = count_parameters(trained[0].model)
        validation = mean_std(t.history.val_metric[-1] for t in trained)
        test, time = mean_std(accuracy[place]), mean_std(seconds[place])
        metrics |= {f"{arm}_test_accuracy": test[0], f"{arm}_test_accuracy_std": test[1]}
        metrics |= {f"{arm}_seconds_an_epoch": time[0], f"{arm}_parameters": parameters}
        rows.append([ARMS[arm], parameters, *validation, *test, *time, budget.seeds])
    arrays = {"test_accuracy": accuracy, "seconds_an_epoch": seconds, "moved_accuracy": far}
    n = budget.seeds
    each = [f"{row[0]} {100 * row[4]:.2f}{spread(100 * row[5], n, '.2f')}%" for row in rows]
    parted = [f"{label} {metrics[f'{arm}_accuracy_moved']:.0%}" for arm, label in ARMS.items()]
    times = [metrics["strided_seconds_an_epoch"] / mean for mean in seconds[:2].mean(axis=1)]
    answer = (
        f"With {parameters:,} parameters each, {verdict(accuracy)} (test images right: "
        f"{', '.join(each)}; n = {n}). With strides an epoch takes {times[0]:.2f} of "
        f"the time with max-pool and {times[1]:.2f} of that with average-pool. On images moved by "
        f"{FARTHEST} pixels {verdict(far)} ({', '.join(parted)})."
    )
    columns = ["network", "parameters", "validation accuracy", "std", "test accuracy", "std"]
    tables = {"networks": Table([*columns, "seconds an epoch", "std", "n"], rows)}
    return Result(answer, "max_test_accuracy", metrics, curves, tables, arrays)


def verdict(accuracy: np.ndarray) -> str:
    """Whom the best is ahead of, given (arms, seeds), and with whom it ties."""
    if accuracy.shape[1] < 2:
        return ALONE
    labels = list(ARMS.values())
    first, *others = np.argsort(-accuracy.mean(axis=1), kind="stable")
    near = [labels[k] for k in others if tied(accuracy[first], accuracy[k])]
    behind = [labels[k] for k in others if labels[k] not in near]
    words = []
    if behind:
        words.append(f"is ahead of {' and '.join(behind)}")
    if near:
        words.append(f"ties with {' and '.join(near)} within noise")
    return f"{labels[first]} {', and '.join(words)}"


def draw(result: Result) -> dict[str, Figure]:
    metrics, arrays = result.metrics, result.arrays
    names = [label.replace(" ", "\n") for label in ARMS.values()]

    ends, axes = plots.grid(1, 2, width=4.6, height=3.8)
    plots.show_runs(axes[0, 0], 100 * arrays["test_accuracy"], names)
    plots.show_runs(axes[0, 1], arrays["seconds_an_epoch"], names)
    label = f"dots: single runs; diamonds: mean ± std (n = {arrays['seconds_an_epoch'].shape[1]})"
    axes[0, 0].set(xlabel=label, ylabel="test accuracy (%)")
    axes[0, 1].set(xlabel=label, ylabel="time for an epoch (s)", ylim=(0, None))
    ratio = metrics["strided_seconds_an_epoch"] / metrics["max_seconds_an_epoch"]
    ends.suptitle(
        f"On test images {verdict(arrays['test_accuracy'])}; with strides an epoch takes "
        f"{ratio:.2f} of the time with max-pool (equal parameters: {metrics['max_parameters']:,})"
    )

    shifts, axes = plots.grid(1, 2, width=4.6, height=3.8)
    kinds = {"accuracy": "accuracy (%)", "unchanged": "predictions that stay as they were (%)"}
    for place, (kind, label) in zip(axes[0], kinds.items()):
        for number, (arm, name) in enumerate(ARMS.items()):
            curve = result.curves[f"{arm}_{kind}"]
            y, std = (
                100 * np.array(values) for values in (curve.y, curve.std or [0] * len(curve.x))
            )
            place.errorbar(
                curve.x, y, std, label=name, marker=plots.MARKERS[number], ms=5, capsize=3,
                ls=("-", "--", ":")[number],
            )  # fmt: skip
        place.set(xlabel="pixels that test images are moved by", ylabel=label, ylim=(0, 104))
        place.set_xticks(curve.x)
    axes[0, 0].legend(loc="lower left", title=of_runs(curve.n))
    shifts.suptitle(
        f"Moved by {FARTHEST} pixels, {verdict(arrays['moved_accuracy'])}; right are "
        + ", ".join(
            f"{metrics[f'{arm}_accuracy_moved']:.0%} with {name}" for arm, name in ARMS.items()
        )
    )
    return {"comparison": ends, "moved": shifts}
