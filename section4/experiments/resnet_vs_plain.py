"""Why do plain networks train worse the deeper they are, and what do skips change?

Networks of two depths, with and without skips: one flag, all else the same, down to the initial
weights, the order of the images and their changes. A deep network could copy the shallow one and
do nothing more, so a higher *training* loss means that it is harder to train, not that it is too
large (He et al., arXiv:1512.03385). What makes it hard shows in the gradients of the early layers:

- their length. Batch norm lets only the direction of a filter W count, and a step of SGD with
  rate lr turns it by about lr |dL/dW| / |W|. This ratio must be alike in all layers for one rate
  to suit them all; with batch norm and ReLU it need not vanish but can grow with every layer
  that it passes (Yang et al., arXiv:1902.08129). And where it is large, the first steps, being at a
  right angle to W, make W long and the ratio small for good.
- their direction. A step helps if the gradient is still about the same after it. In plain networks
  the gradient in the image turns into noise, "shatters", with depth: it differs between images that
  hardly differ (Balduzzi et al., arXiv:1702.08591).

Every deeper network lags in its first thousands of steps. So that more of them fit into the time,
HYBRID and FULL make the images smaller (`side`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from section1.experiments._training import counted, mean_std, of_runs, rounded, signed
from section2.experiments.gradient_flow import times
from section3.experiments._cnns import ALONE, tied
from section4.engine import PLAIN, cross_entropy, gradient_norm
from section4.experiments._engine import seeded
from section4.experiments._kept import Kept
from section4.experiments._vision import Trained, choose_for, load_photographs, train
from section4.images import Pair
from section4.vision.augment import standard
from section4.vision.resnet import ResNet, thin_resnet
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

ARMS = {"plain": "without skips", "residual": "with skips"}
DISTANCES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]  # between images, in standard deviations of a pixel
NEAR = 1  # the number of the distance that words are about
PUBLISHED_STEPS = 64_000  # of the paper
LEAST = float(np.finfo(np.float32).tiny)  # what stands for a gradient of 0 in a logarithm
LOOKS = 60  # at the early layers while they learn, about


def convolutions(model: ResNet) -> list[nn.Parameter]:
    """The weights of all convolutions in their order, from the image on: depth - 1."""
    layers: list[nn.Module] = [model.conv1]
    for block in model.blocks():
        layers += [block.conv1, block.conv2]
    return [weight for layer in layers for weight in layer.parameters()]  # no biases


def early(model: ResNet) -> list[nn.Parameter]:
    """Those of the stem and of the first of the three groups of blocks."""
    weights = convolutions(model)
    return weights[: (len(weights) + 2) // 3]


def lengths(weights: list[nn.Parameter]) -> tuple[float, float]:
    """(|dL/dW|, |W|), all these weights as one vector W."""
    norms = [weight.detach().float().norm() for weight in weights]
    return gradient_norm(weights).item(), torch.stack(norms).norm().item()


def at_the_start(model: ResNet, images: Pair, seed: int) -> tuple[list[float], list[float]]:
    """(|dL/dW| / |W| of each convolution, how alike gradients are at each of `DISTANCES`).

    The latter is the cosine between dL/dx at an image x and at x + distance * noise, the mean
    over all images (n, C, H, W). All of it in float64, so that no rounding is taken for it.
    """
    twin, (x, y) = copy.deepcopy(model).double().train(), images
    objective = cross_entropy()

    def gradient(at: torch.Tensor) -> torch.Tensor:  # (n, C*H*W)
        at = at.clone().requires_grad_()
        twin.zero_grad()
        objective(twin, (at, y))[0].backward()
        assert at.grad is not None
        return at.grad.flatten(1)

    x = x.double()
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
    here = gradient(x)
    each = [lengths([weight]) for weight in convolutions(twin)]
    turns = [gradient / weight for gradient, weight in each]
    moved = [gradient(x + distance * noise) for distance in DISTANCES]
    return turns, [torch.cosine_similarity(here, there).mean().item() for there in moved]


class Watch:
    """Notes `lengths` of the early layers at every so many steps: `Watch.seen[step]`."""

    def __init__(self, model: ResNet, every: int, folder: Path):
        self.weights, self.every = early(model), every
        self.seen = Kept[tuple[float, float]](folder / "gradients.pt")

    def __call__(self, step: int) -> None:
        if step % self.every == 0:
            self.seen[step] = lengths(self.weights)


@dataclass
class Learned:
    """One network: what its gradients were at the start (`at_the_start`), what became of it."""

    turns: list[float]
    alike: list[float]
    early: dict[int, tuple[float, float]]  # step -> `lengths` of the early layers
    trained: Trained


def compute(run: Run) -> Result:
    budget = run.budget
    depths = sorted(set(budget.depths))
    if len(depths) < 2:
        raise UserError(f"depths must be two numbers or more, got {depths[0]} alone")
    data = load_photographs(run, "cifar10", side=budget.side)
    enough = len(data.validation[0])  # the test images are no more than a second opinion here
    data = replace(data, test=(data.test[0][:enough], data.test[1][:enough]))
    classes, few = len(data.classes), budget.looked_at
    x, y = data.train
    images = next(data.batches((x[:few], y[:few]), few, PLAIN)())

    def new_model(depth: int, arm: str, seed: int) -> ResNet:
        skip = arm == "residual"
        return seeded(run.seed(seed, 0), lambda: thin_resnet(depth, classes, skip=skip))

    try:
        deepest = [new_model(depth, "plain", 0) for depth in depths][-1]
    except ValueError as error:
        raise UserError(f"depths: {error}") from error
    names = {f"{arm}_{depth}": (arm, depth) for arm, depth in product(ARMS, depths)}
    learned: dict[str, list[Learned]] = {name: [] for name in names}
    with run.resumable() as folder:
        setting = choose_for(run, deepest, data, folder)
        epochs = budget.epochs if setting.device.type == "cpu" else budget.epochs_on_gpu
        every = max(1, epochs * math.ceil(len(x) / budget.batch_size) // LOOKS)
        with run.progress(len(names) * budget.seeds * epochs) as bar:
            for (name, (arm, depth)), seed in product(names.items(), range(budget.seeds)):
                model, place = new_model(depth, arm, seed), folder / f"{name}_{seed}"
                start = at_the_start(model, images, run.seed(seed, 2))
                watch = Watch(model, every, place)
                trained = train(
                    run, model, data, setting, epochs=epochs, lr=budget.lr, seed=run.seed(seed, 1),
                    bar=bar, change=standard(data.side // 8), folder=place, on_gradients=watch,
                )  # fmt: skip
                learned[name].append(Learned(*start, watch.seen, trained))

    curves, rows = dict[str, Curve](), list[list[Any]]()
    arrays: dict[str, np.ndarray] = {}
    metrics: dict[str, float] = {"shallow": depths[0], "deep": depths[-1]}
    for name, (arm, depth) in names.items():
        curves |= {f"{name}_{kind}": curve for kind, curve in seen(learned[name]).items()}
        histories = [one.trained.history for one in learned[name]]
        arrays[f"{name}_loss"] = np.array([history.loss[-1] for history in histories])
        row: list[Any] = [ARMS[arm], depth]
        values: dict[str, list[float]] = {
            "training_loss": arrays[f"{name}_loss"].tolist(),
            "validation_accuracy": [history.val_metric[-1] for history in histories],
            "test_accuracy": [one.trained.test_metric for one in learned[name]],
            "decades": [math.log10(one.turns[0] / one.turns[-1]) for one in learned[name]],
            "alike": [one.alike[NEAR] for one in learned[name]],
            "growth": [at_the_end(one)[0] for one in learned[name]],
            "late_decades": [at_the_end(one)[1] for one in learned[name]],
        }
        for kind, numbers in values.items():
            metrics[f"{name}_{kind}"], metrics[f"{name}_{kind}_std"] = mean_std(numbers)
            row += [metrics[f"{name}_{kind}"], metrics[f"{name}_{kind}_std"]]
        rows.append([*row, mean_std(h.seconds[-1] for h in histories)[0], budget.seeds])
    for arm in ARMS:
        shallow, deep = ends(metrics, arrays, arm)
        metrics[f"{arm}_depth_costs"] = float(deep.mean() - shallow.mean())
    measured = ["training loss", "validation accuracy", "test accuracy"]
    measured += ["log10 of |dL/dW| / |W|, first / last convolution, at the start"]
    measured += [f"cosine of gradients in images {DISTANCES[NEAR]:g} std apart, at the start"]
    measured += ["|W| at the end / at the start, early layers"]
    measured += ["log10 of |dL/dW| / |W| at the end, early layers"]
    columns = [column for word in measured for column in (word, "std")]
    columns = ["network", "layers", *columns, "training time (s)", "n"]
    tables = {"networks": Table(columns, rows)}
    steps = len(histories[0].step_loss)
    answer = (
        f"{of_losses(metrics, arrays)} (n = {budget.seeds}). {of_gradients(metrics)}. "
        f"{of_learning(metrics)}. {counted(steps, 'step')} with images of {data.side} "
        "pixels"
        + f": a short training, the paper's has {PUBLISHED_STEPS:,}" * (steps < PUBLISHED_STEPS)
        + "."
    )
    return Result(answer, "plain_depth_costs", metrics, curves, tables, arrays)


def seen(runs: list[Learned]) -> dict[str, Curve]:
    """What is drawn of the runs of one network."""
    histories = [one.trained.history for one in runs]
    epochs, layers = range(1, len(histories[0].loss) + 1), range(1, len(runs[0].turns) + 1)
    right = [100 * np.array(history.val_metric) for history in histories]
    turns = [np.log10(one.turns) for one in runs]
    steps = list(runs[0].early)
    norms = [decades([g for g, _ in one.early.values()]) for one in runs]
    during = [decades([g / w for g, w in one.early.values()]) for one in runs]
    growth = [[w / one.early[0][1] for _, w in one.early.values()] for one in runs]
    ratio, over = "log10 of |dL/dW| / |W|", Curve.over_runs
    return {
        "training": over(epochs, [h.loss for h in histories], "epoch", "training loss"),
        "validation": over(epochs, right, "epoch", "validation images that are right (%)"),
        "layers": over(layers, turns, "convolution (1: next to the image)", ratio),
        "norm": over(steps, norms, "step", "log10 of |dL/dW|, early layers"),
        "early": over(steps, during, "step", f"{ratio}, early layers"),
        "growth": over(steps, growth, "step", "|W| / |W| at the start, early layers"),
        "alike": over(
            DISTANCES, [one.alike for one in runs],
            "distance of two images (std of a pixel)", "cosine of the gradients in two images",
        ),
    }  # fmt: skip


def decades(gradients: Any) -> np.ndarray:
    """log10 of lengths of gradients, of which those behind a dead layer are 0."""
    return np.log10(np.maximum(gradients, LEAST))


def at_the_end(one: Learned) -> tuple[float, float]:
    """(|W| against the start, log10 of |dL/dW| / |W|) of the early layers, medians of the last
    tenth of the looks."""
    lasting = list(one.early.values())[-max(1, len(one.early) // 10) :]
    gradients, weights = np.median(lasting, axis=0)
    return weights / one.early[0][1], float(decades(gradients / weights))


def ends(
    metrics: dict[str, float], arrays: dict[str, np.ndarray], arm: str
) -> tuple[np.ndarray, np.ndarray]:
    """The training losses of the last epoch (seeds,) of the shallowest and the deepest network."""
    shallow, deep = (arrays[f"{arm}_{metrics[end]}_loss"] for end in ("shallow", "deep"))
    return shallow, deep


# --- in words ---------------------------------------------------------------------------------


def effect(metrics: dict[str, float], arrays: dict[str, np.ndarray]) -> str:
    """What depth does to the training loss; what differs by no more than seeds do is noise."""
    words = []
    for arm, label in ARMS.items():
        shallow, deep = ends(metrics, arrays, arm)
        change = rounded(deep.mean() - shallow.mean(), 2)
        if len(deep) > 1 and tied(shallow, deep):
            words.append(f"changes it by no more than noise ({signed(change, 2)}) {label}")
        elif change == 0:
            words.append(f"changes it by less than 0.01 {label}")
        else:
            words.append(f"{'raises' if change > 0 else 'lowers'} it by {abs(change):.2f} {label}")
    return " and ".join(words) + f"; {ALONE}" * (len(deep) < 2)


def of_losses(metrics: dict[str, float], arrays: dict[str, np.ndarray]) -> str:
    def both(arm: str, kind: str, form: str) -> str:
        numbers = (metrics[f"{arm}_{metrics[end]}_{kind}"] for end in ("shallow", "deep"))
        return " and ".join(format(number, form) for number in numbers)

    return (
        f"The training loss with {metrics['shallow']} and {metrics['deep']} layers is "
        f"{both('plain', 'training_loss', '.2f')} without skips, "
        f"{both('residual', 'training_loss', '.2f')} with them: depth {effect(metrics, arrays)}. "
        f"Of the validation images {both('plain', 'validation_accuracy', '.1%')} are right, "
        f"with skips {both('residual', 'validation_accuracy', '.1%')}"
    )


def of_gradients(metrics: dict[str, float]) -> str:
    plain, residual = (f"{arm}_{metrics['deep']}" for arm in ARMS)
    alike = [rounded(metrics[f"{name}_alike"], 2) for name in (plain, residual)]
    return (
        f"Before the first step of {metrics['deep']} layers |dL/dW| / |W| is in the first "
        f"convolution {times(metrics[f'{plain}_decades'])} what it is in the last without skips, "
        f"{times(metrics[f'{residual}_decades'])} with them; gradients in images "
        f"{DISTANCES[NEAR]:g} standard deviations apart have a cosine of {alike[0]:.2f} without "
        f"and {alike[1]:.2f} with them"
    )


def of_learning(metrics: dict[str, float]) -> str:
    plain, residual = (f"{arm}_{metrics['deep']}" for arm in ARMS)
    return (
        "In the end the weights of the early layers are "
        f"{metrics[f'{plain}_growth']:.2f} times as long as at the start without skips, "
        f"{metrics[f'{residual}_growth']:.2f} times with them, and |dL/dW| / |W| there is "
        f"{10 ** metrics[f'{plain}_late_decades']:.2g} and "
        f"{10 ** metrics[f'{residual}_late_decades']:.2g}"
    )


# --- drawn ------------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    metrics, names = result.metrics, result.tables["networks"].rows
    learning, upper = plots.grid(1, 2, width=5.2, height=3.8)
    gradients, lower = plots.grid(2, 2, width=5.2, height=3.6)
    panels = dict(zip(("training", "validation"), upper[0]))
    panels |= dict(zip(("layers", "alike", "norm", "early"), lower.ravel()))
    depths = sorted({row[1] for row in names})
    for number, (arm, label) in enumerate(ARMS.items()):
        for place, depth in enumerate(depths):
            look: dict[str, Any] = {
                "color": f"C{number}",
                "ls": "-" if depth == depths[-1] else "--",
            }
            look |= {"marker": plots.MARKERS[2 * number + place % 2], "ms": 4}
            for kind, axes in panels.items():
                curve = result.curves[f"{arm}_{depth}_{kind}"]
                look["markevery"] = max(1, len(curve.x) // 12)
                plots.plot_curve(axes, curve, f"{depth} layers {label}", **look)
    spread = of_runs(result.curves[f"plain_{depths[0]}_training"].n)
    panels["training"].legend(title=spread, title_fontsize="small")
    panels["alike"].set(xscale="log", ylim=(-0.1, 1.05))
    panels["layers"].set_title("at the start")
    panels["alike"].set_title("at the start")
    panels["norm"].set_title("while learning")
    panels["early"].set_title("while learning")
    handles = panels["layers"].get_legend_handles_labels()
    gradients.legend(*handles, loc="outside lower center", ncols=4, title=spread)
    for kind in ("layers", "norm", "early"):
        panels[kind].xaxis.get_major_locator().set_params(integer=True)
    learning.suptitle(
        f"Training loss: depth ({depths[-1]} layers instead of {depths[0]}) "
        f"{effect(metrics, result.arrays)}"
    )
    gradients.suptitle(of_gradients(metrics))
    return {"learning": learning, "gradients": gradients}
