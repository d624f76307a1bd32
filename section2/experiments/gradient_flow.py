"""How much of the gradient arrives at the first layer of a deep network?

Backwards, every layer multiplies the gradient by its weights and by the slope of its
activation. Below one on average it vanishes with depth, above one it explodes. Untrained
networks of several depths get one batch of images, and for every hidden layer two things are
measured, over activations, initial weights, and with and without batch norm: the gradient
that arrives at the layer, dL/dh, and the gradient of its weights, dL/dW. What the forward
signal does, and whether such networks learn, is in section 1, `initialization`.
Sources: Glorot, Bengio (2010); Ioffe, Szegedy, arXiv:1502.03167; Yang et al., A mean field
theory of batch normalization, arXiv:1902.08129 (why it is not free with ReLU).
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._images import load_rows
from section1.experiments._training import mean_std, signed
from section1.experiments.initialization import IMAGES, spreads
from section1.linear import Linear
from section1.network import Sequential
from section1.training import Batch
from section2.models import fully_connected_net
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

BENDS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}
INITS = {  # name: (recipe of section 1, factor on its weights, label)
    "normal": ("normal", 1, "normal (0.01)"),
    "xavier": ("xavier_normal", 1, "Xavier"),
    "he": ("he_normal", 1, "He"),
    "large": ("he_normal", 2, "He × 2"),
}
NORMS = {"plain": False, "batchnorm": True}
KINDS = {"arriving": "dL/dh", "weights": "dL/dW"}
BARS = {  # metric: the networks whose gradient it is about
    "sigmoid_orders_lost": "sigmoid_xavier_plain",
    "relu_he_orders": "relu_he_plain",
    "sigmoid_batchnorm_orders": "sigmoid_xavier_batchnorm",
}
SHOWN = ("sigmoid_xavier_plain", "relu_xavier_plain", "relu_he_plain", "relu_large_plain",
         "sigmoid_xavier_batchnorm", "relu_he_batchnorm")  # fmt: skip
LEAST = 1e-300  # instead of 0 under a logarithm
SPAN = 12  # decades at which the colours of the heat map end


def network(
    sizes: list[int], bend: str, init: str, batchnorm: bool, rng: np.random.Generator
) -> Sequential:
    recipe, factor, _ = INITS[init]
    model = fully_connected_net(
        sizes, bend, batchnorm=batchnorm, init=recipe, rng=rng, dtype=np.float64
    )
    for layer in model.layers:
        if isinstance(layer, Linear):
            layer.weight.value *= factor
    return model


def gradient_sizes(model: Sequential, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """log10 of the size of dL/dh and of dL/dW in each hidden layer, from input to output.

    Sizes are standard deviations and root mean squares of elements, so the width of a layer
    does not matter; dL/dh is that of each image's own loss.
    """
    model.zero_grad()
    _, arriving = spreads(model, batch)
    linear = [layer for layer in model.layers if isinstance(layer, Linear)][:-1]
    images = len(batch[1])
    weights = [math.sqrt(np.mean((layer.weight.grad / images) ** 2)) for layer in linear]
    arrived, weighed = (np.log10(np.maximum(sizes, LEAST)) for sizes in (arriving, weights))
    return arrived, weighed


def compute(run: Run) -> Result:
    budget = run.budget
    if max(budget.depths) < 2:
        raise UserError("depths must reach at least 2: the first layer is held against the last")
    data = load_rows(run, "mnist")
    batch = data.train[0][:IMAGES].astype(float), data.train[1][:IMAGES]
    arms = [(bend, init, norm) for bend in BENDS for init in INITS for norm in NORMS]
    metrics, decades, curves, rows = {}, {}, {}, []
    with run.progress(len(arms) * len(budget.depths) * budget.seeds) as bar:
        for bend, init, norm in arms:
            for depth in budget.depths:
                sizes = [data.features, *[budget.width] * depth, len(data.classes)]
                runs = []
                for seed in range(budget.seeds):
                    model = network(sizes, bend, init, NORMS[norm], run.rng(seed))
                    runs.append(gradient_sizes(model, batch))
                    bar.advance()
                key = f"{bend}_{init}_{norm}_{depth}"
                row = [BENDS[bend], INITS[init][2], norm, depth]
                for (kind, symbol), side in zip(KINDS.items(), zip(*runs)):
                    curves[f"{kind}_{key}"] = Curve.over_runs(
                        range(1, depth + 1), side, "hidden layer", f"log10 of the size of {symbol}"
                    )
                    mean, std = mean_std(one[0] - one[-1] for one in side)  # decades
                    decades[f"{kind}_{key}"] = mean
                    row += [mean, std]
                rows.append([*row, budget.seeds])
    deep = max(budget.depths)
    arrived = {key: decades[f"arriving_{key}_{deep}"] for key in SHOWN}
    for name, key in BARS.items():  # of the two measures the one that speaks against it
        both = [decades[f"{kind}_{key}_{deep}"] for kind in KINDS]
        metrics[name] = -max(both) if name == "sigmoid_orders_lost" else max(map(abs, both))
    metrics |= {f"{key}_factor": 10**number for key, number in arrived.items()}
    metrics["batchnorm_scale_factor"] = scale_effect(decades, deep)
    answer = (
        f"With {deep} hidden layers the gradient that arrives at the first is, against the last, "
        f"{times(arrived['sigmoid_xavier_plain'])} with sigmoid and Xavier, "
        f"{times(arrived['relu_he_plain'])} with ReLU and He, and "
        f"{times(arrived['relu_large_plain'])} with ReLU and weights twice as large. Batch norm "
        f"makes it {times(arrived['sigmoid_xavier_batchnorm'])} with sigmoid and "
        f"{times(arrived['relu_he_batchnorm'])} with ReLU, and the scale of the initial weights "
        f"then matters by a factor of {metrics['batchnorm_scale_factor']:.3g} at most "
        f"(n = {budget.seeds})."
    )
    columns = ["activation", "init", "norm", "hidden layers"]
    for symbol in KINDS.values():
        columns += [f"log10 of {symbol}, first / last layer", "std"]
    tables = {"gradients": Table([*columns, "n"], rows)}
    return Result(answer, "sigmoid_orders_lost", metrics, curves, tables)


def times(decades: float) -> str:
    factor = 10**decades
    if not 0.01 <= factor < 1e6:
        return f"×{factor:.0e}"
    return f"×{float(f'{factor:.2g}'):,g}"


def scale_effect(decades: dict[str, float], depth: int) -> float:
    """With batch norm, the largest ratio between initial weights of different scale."""
    spans = []
    for bend in BENDS:
        inits = [decades[f"arriving_{bend}_{init}_batchnorm_{depth}"] for init in INITS]
        spans.append(max(inits) - min(inits))
    return 10 ** max(spans)


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["gradients"].rows
    depths = sorted({row[3] for row in rows})
    deep, metrics = depths[-1], result.metrics

    layers, axes = plots.grid(1, 2, width=4.6, height=4.2, sharey=True)
    for place, kind in zip(axes[0], KINDS):
        for number, key in enumerate(SHOWN):
            bend, init, norm = key.split("_")
            label = f"{BENDS[bend]}, {INITS[init][2]}" + (", batch norm" if NORMS[norm] else "")
            plots.plot_curve(
                place, result.curves[f"{kind}_{key}_{deep}"], label, color=f"C{number}",
                marker=plots.MARKERS[number], ms=4, ls="--" if NORMS[norm] else "-",
            )  # fmt: skip
        place.xaxis.get_major_locator().set_params(integer=True)
        place.set_xlabel("hidden layer (1: next to the input)")
    axes[0, 0].set_title("gradient that arrives at a layer, dL/dh")
    axes[0, 1].set_title("gradient of its weights, dL/dW")
    layers.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    layers.suptitle(
        f"From layer {deep} back to layer 1 a sigmoid network loses at least "
        f"{metrics['sigmoid_orders_lost']:.1f} orders of magnitude of gradient; ReLU with He "
        f"changes by {metrics['relu_he_orders']:.1f} at most, sigmoid with batch norm by "
        f"{metrics['sigmoid_batchnorm_orders']:.1f}"
    )

    table = {tuple(row[:4]): row[4] for row in rows}
    heat, axes = plots.grid(1, 2, width=4.6, height=4.8, sharey=True)
    labels = [(bend, label) for bend in BENDS.values() for *_, label in INITS.values()]
    for place, norm in zip(axes[0], NORMS):
        cells = np.array([[table[(*label, norm, depth)] for depth in depths] for label in labels])
        image = place.imshow(cells, cmap="PuOr", vmin=-SPAN, vmax=SPAN, aspect="auto")
        for row, column in np.ndindex(*cells.shape):
            colour = "white" if abs(cells[row, column]) > 0.6 * SPAN else "black"
            text = signed(float(cells[row, column]))
            place.text(column, row, text, ha="center", va="center", color=colour)
        for edge in range(len(INITS), len(labels), len(INITS)):
            place.axhline(edge - 0.5, color="black", lw=1)
        place.set_xticks(range(len(depths)), depths)
        place.set_yticks(range(len(labels)), [", ".join(label) for label in labels])
        title = "with batch norm" if NORMS[norm] else "without batch norm"
        place.set(title=title, xlabel="hidden layers")
        place.grid(False)
    label = "log10 of dL/dh, first / last hidden layer\nbelow 0: vanishes; above 0: explodes"
    heat.colorbar(image, ax=axes[0].tolist(), label=label, extend="both")
    within = {
        norm: sum(abs(row[4]) <= 1 for row in rows if row[2] == norm and row[3] == deep)
        for norm in NORMS
    }
    heat.suptitle(
        f"With {deep} layers the gradient that arrives stays within a factor of 10 in "
        f"{within['plain']} of {len(labels)} networks; with batch norm in {within['batchnorm']}, "
        "where the scale of the weights changes it by a factor of "
        f"{metrics['batchnorm_scale_factor']:.3g} at most"
    )
    return {"layers": layers, "heat_map": heat}
