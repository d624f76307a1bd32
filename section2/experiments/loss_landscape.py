"""What does the loss look like around the weights that training found, and is it flatter with
batch norm?

The loss is a function of a hundred thousand weights; what can be drawn is a plane through the
trained ones, along two random directions. A weight matrix can be scaled without a change of
the function, so a distance means nothing by itself: each unit's part of a direction gets the
length of that unit's own weights (filter normalisation). Distance 1 is then a change as large
as the weights themselves. With batch norm there are two losses: that of training, by the
statistics of the batch, and that of evaluation, by the running averages of the trained network.
Source: Li et al., Visualizing the loss landscape of neural nets, arXiv:1712.09913.
"""

from __future__ import annotations

import copy

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import load_rows
from section1.experiments._training import mean_std, rise_and_fall, signed, spread, train
from section1.layer import Layer
from section1.losses import SoftmaxCrossEntropy
from section1.sgd import SGD
from section1.training import Batch
from section2.models import fully_connected_net
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

VIEWS = {  # name: (batch norm, statistics of the batch, label)
    "plain": (False, False, "without batch norm"),
    "batchnorm": (True, True, "with batch norm, statistics of the batch"),
    "batchnorm_running": (True, False, "with batch norm, running averages"),
}
HALF = 0.5  # the distance at which the rise of the loss is given
LEVEL = 1.0  # nats
DISTANCE = "distance from the trained weights (1: as long as they are)"


def filter_normalised(layer: Layer, rng: np.random.Generator) -> list[np.ndarray]:
    """A random direction: for each unit as long as its weights; zero for biases and batch norm."""
    direction = []
    for parameter in layer.parameters():
        along = np.zeros_like(parameter.value)
        if along.ndim == 2:  # (in, out): a column holds what a unit listens to
            along[:] = rng.standard_normal(along.shape)
            along *= np.linalg.norm(parameter.value, axis=0) / np.linalg.norm(along, axis=0)
        direction.append(along)
    return direction


def plane(
    model: Layer, batch: Batch, span: np.ndarray, rng: np.random.Generator, training: bool
) -> np.ndarray:
    """The loss at weights + span[j] a + span[i] b for two directions a and b: (points, points)."""
    model, loss = copy.deepcopy(model), SoftmaxCrossEntropy()
    if training:
        model.train()
    else:
        model.eval()
    middle = [parameter.value.copy() for parameter in model.parameters()]
    a, b = filter_normalised(model, rng), filter_normalised(model, rng)
    losses = np.empty((len(span), len(span)))
    for i, j in np.ndindex(*losses.shape):
        for parameter, centre, along, across in zip(model.parameters(), middle, a, b):
            parameter.value[...] = centre + span[j] * along + span[i] * across
        losses[i, j] = loss(model(batch[0]), batch[1])
    return losses


def by_distance(losses: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the centre up to the edge, and the mean loss of the points that far away."""
    distance = np.hypot(*np.meshgrid(span, span))
    step = span[1] - span[0]
    ring = np.round(distance / step).astype(int)  # rings one grid step wide
    count = len(span) // 2 + 1
    means = np.array([losses[ring == k].mean() for k in range(count)])
    return step * np.arange(count), means


def compute(run: Run) -> Result:
    budget = run.budget
    if min(budget.batch_size, budget.images) < 2:
        raise UserError("batch norm needs two images: batch_size and images of at least 2")
    data = load_rows(run, "mnist")
    x, y = data.train
    some = x[: budget.images], y[: budget.images]
    sizes = [data.features, *[budget.width] * budget.depth, len(data.classes)]
    span = np.linspace(-1, 1, 2 * budget.points + 1)
    planes: dict[str, list[np.ndarray]] = {name: [] for name in VIEWS}
    accuracies: dict[bool, list[float]] = {False: [], True: []}
    with run.progress(budget.seeds * (2 * budget.epochs + len(VIEWS))) as bar:
        for seed in range(budget.seeds):
            for norm in (False, True):

                def recipe(rng: np.random.Generator, norm: bool = norm) -> tuple:
                    model = fully_connected_net(sizes, batchnorm=norm, rng=rng)
                    return model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0)

                schedule = rise_and_fall(budget.lr, run, len(x))
                trained = train(
                    run, recipe, data.train, data.test, key=(seed,), bar=bar, schedule=schedule
                )
                accuracies[norm].append(trained.test_metric)
                for name, (with_norm, training, _) in VIEWS.items():
                    if with_norm == norm:
                        around = run.rng(seed, 1)  # the same random numbers for every view
                        planes[name].append(plane(trained.model, some, span, around, training))
                        bar.advance()

    metrics, curves, rows = {}, {}, []
    for name, (norm, _, label) in VIEWS.items():
        profiles = [by_distance(losses, span) for losses in planes[name]]
        distance = profiles[0][0]
        means = [means for _, means in profiles]
        curves[name] = Curve.over_runs(distance.tolist(), means, DISTANCE, "mean loss (nats)")
        rises = [np.interp(HALF, distance, mean) - mean[0] for mean in means]
        shares = [float((losses < LEVEL).mean()) for losses in planes[name]]
        row: list = [label]
        found = {"rise": rises, "share": shares, "loss": [mean[0] for mean in means]}
        for key, values in {**found, "test_accuracy": accuracies[norm]}.items():
            metrics[f"{name}_{key}"], metrics[f"{name}_{key}_std"] = mean_std(values)
            row += mean_std(values)
        rows.append([*row, budget.seeds])
    n = budget.seeds
    answer = (
        f"At distance {HALF} the loss changes by {rise(metrics, 'plain', n)} nats "
        f"without batch norm, by {rise(metrics, 'batchnorm', n)} with it (statistics of "
        f"the batch), and by {rise(metrics, 'batchnorm_running', n)} where the running "
        f"averages stay as they were (n = {n}). Of the plane, "
        f"{metrics['plain_share']:.0%}, {metrics['batchnorm_share']:.0%} and "
        f"{metrics['batchnorm_running_share']:.0%} lie below {LEVEL:g} nat. Test accuracy: "
        f"{metrics['plain_test_accuracy']:.1%} without, "
        f"{metrics['batchnorm_test_accuracy']:.1%} with batch norm."
    )
    columns = ["network", f"rise at {HALF} (nats)", "std", f"share below {LEVEL:g} nat", "std"]
    table = Table([*columns, "loss at the centre", "std", "test accuracy", "std", "n"], rows)
    arrays = {"span": span, **{name: np.stack(losses) for name, losses in planes.items()}}
    return Result(answer, "batchnorm_rise", metrics, curves, {"sharpness": table}, arrays)


def rise(metrics: dict[str, float], name: str, n: int) -> str:
    """With its sign: around weights that have learned little the loss may also fall."""
    return f"{signed(metrics[f'{name}_rise'], 2)}{spread(metrics[f'{name}_rise_std'], n)}"


def draw(result: Result) -> dict[str, Figure]:
    metrics, span = result.metrics, result.arrays["span"]
    first = {name: result.arrays[name][0] for name in VIEWS}
    top = 10.0 ** np.ceil(np.log10(max(losses.max() for losses in first.values())))
    bottom = 10.0 ** np.floor(np.log10(max(min(losses.min() for losses in first.values()), 1e-4)))
    decades = np.log10(bottom), np.log10(top)
    levels = np.linspace(*decades, 4 * round(decades[1] - decades[0]) + 1)

    contour, axes = plots.grid(1, len(VIEWS), width=3.9, height=3.9, sharey=True)
    surface, places = plots.grid(
        1, len(VIEWS), width=3.9, height=3.6, subplot_kw={"projection": "3d"}
    )
    for column, (name, (*_, label)) in enumerate(VIEWS.items()):
        heights = np.log10(np.clip(first[name], bottom, top))
        place = axes[0, column]
        image = place.contourf(span, span, heights, levels)
        place.contour(span, span, first[name], [LEVEL], colors="white", linewidths=2)
        place.plot(0, 0, "*", color="#D55E00", ms=12, mec="white")
        title = label.replace(", ", ",\n")
        place.set(title=title, xlabel="along the first direction", aspect="equal")
        place.grid(False)
        relief = places[0, column]
        relief.plot_surface(*np.meshgrid(span, span), heights, cmap="viridis", vmin=decades[0],
                            vmax=decades[1], rstride=1, cstride=1, lw=0)  # fmt: skip
        relief.set(title=title, zlim=decades, xlabel="first direction", ylabel="second direction")
        relief.set_box_aspect(None, zoom=0.82)  # room for the labels of the axes
        relief.locator_params(nbins=5)
        relief.set_zlabel("log10 of the loss (nats)", labelpad=6)
    axes[0, 0].set_ylabel("along the second direction")
    contour.colorbar(image, ax=axes[0].tolist(), label="log10 of the loss (nats)", shrink=0.8)
    contour.suptitle(
        f"Share of the plane below {LEVEL:g} nat (white line): {metrics['plain_share']:.0%} "
        f"without batch norm, {metrics['batchnorm_share']:.0%} with it, "
        f"{metrics['batchnorm_running_share']:.0%} with its averages held (star: trained weights)"
    )
    surface.suptitle(
        f"At distance {HALF} from the trained weights the loss changes by "
        f"{rise(metrics, 'plain', 1)} nats without and by {rise(metrics, 'batchnorm', 1)} with "
        "batch norm"
    )

    profile, axes = plots.grid(width=6.8, height=3.8)
    for number, (name, (*_, label)) in enumerate(VIEWS.items()):
        look = {"marker": plots.MARKERS[number], "ms": 4, "ls": ("-", "--", ":")[number]}
        plots.plot_curve(axes[0, 0], result.curves[name], label, **look)
    axes[0, 0].axvline(HALF, color="black", lw=1, ls="-.")
    axes[0, 0].legend(loc="upper left")
    n = result.curves[name].n
    profile.suptitle(
        f"At distance {HALF} the loss changes by {rise(metrics, 'plain', n)} nats without "
        f"batch norm and by {rise(metrics, 'batchnorm', n)} with it"
    )
    return {"contour": contour, "surface": surface, "profile": profile}
