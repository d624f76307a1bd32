"""How many photographs does a residual network of 18 layers tell apart, and after how long?

CIFAR-10 again, now with the network that is the yardstick for it (He et al., arXiv:1512.03385),
its blocks written by hand in `vision/resnet.py`, in PyTorch. The recipe is SGD with a learning rate
that goes up and down once, a mean of the last weights and smoothed labels; FULL has a second one,
AdamW with a weight decay of 0.05 and a rate that drops in steps. The training images are seen as
they are or in a mirror, in QUICK and FULL also moved by some pixels. HYBRID and FULL begin with no
more of each than a window. A window of 24 x 24 pixels takes 9/16 of the arithmetic of an image of
32 x 32, and is not as soon learned by heart; a network that ends in a mean over all places takes
images of any size (Touvron et al., arXiv:1906.06423). In FULL, which sees each image often, windows
have a hole in them: what no two epochs show alike is harder to learn by heart. `--set cutmix=0.5`
also blends half of the batches of windows by CutMix.

In the end each test image is looked at twice, as it is and in a mirror, and the scores of both are
added: two looks go wrong in different ways. How much that is worth is stated beside one look.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from section1.experiments._images import draw_errors, hardest_and_easiest
from section1.experiments._training import counted, one_for_each
from section2.schedules import Schedule, multi_step
from section4.compat import v2
from section4.engine import count_parameters
from section4.experiments._engine import seeded
from section4.experiments._vision import (
    Trained,
    account_of_errors,
    choose_for,
    length,
    load_photographs,
    look,
    share_right,
    train,
)
from section4.vision.augment import chain, cutout, flip, mirror, standard, windows
from section4.vision.resnet import ResNet, resnet18
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

GOAL = 0.94  # the share of images right, of which others publish the time that it took them
AIRBENCH = "github.com/KellerJordan/cifar10-airbench"
PUBLISHED = [  # as stated by their authors; not measured here
    ["airbench94_muon, a smaller network", "94% in 2.6 s on one A100", AIRBENCH],
    ["airbench, standard ResNet-18", "96% in 7 min on one A100", AIRBENCH],
    ["pytorch-cifar, ResNet-18", "93.0%", "github.com/kuangliu/pytorch-cifar"],
]


def adam(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr, weight_decay=0.05)


def two_drops(lr: float, steps: int) -> Schedule:
    """A tenth of the rate after 60% of the steps, a hundredth after 85%."""
    return multi_step(lr, [round(0.6 * steps), round(0.85 * steps)])


RECIPES: dict[str, dict[str, Any]] = {  # options of `_vision.train`
    "sgd": {"label_smoothing": 0.1, "average": 0.99},
    "adam": {"optimizer": adam, "schedule": two_drops},
}


def compute(run: Run) -> Result:
    budget = run.budget
    if unknown := [name for name in budget.recipes if name not in RECIPES]:
        raise UserError(f"there is no recipe {unknown[0]}: choose from {' or '.join(RECIPES)}")
    rates = one_for_each(budget.recipes, budget.lr)
    data = load_photographs(run, "cifar10")
    window = budget.window
    if not 1 <= window <= data.side:
        raise UserError(f"window must be 1 to {data.side}, the pixels of a side, got {window}")
    if budget.hole >= window:
        raise UserError(f"hole must be smaller than the window of {window}, got {budget.hole}")
    cutmix = v2.RandomApply([v2.CutMix(num_classes=len(data.classes))], budget.cutmix)
    small = chain(windows(window, window), flip, cutout(budget.hole), cutmix)
    trained: dict[str, Trained] = {}
    with run.resumable() as folder:

        def new_model() -> ResNet:
            return seeded(run.seed(0), lambda: resnet18(len(data.classes), width=budget.width))

        setting = choose_for(run, new_model(), data, folder, budget.epochs_on_gpu)
        epochs = budget.epochs if setting.device.type == "cpu" else budget.epochs_on_gpu
        with run.progress(len(budget.recipes) * epochs) as bar:
            for name, lr in zip(budget.recipes, rates):
                trained[name] = train(
                    run, new_model(), data, setting, epochs=epochs, lr=lr, seed=run.seed(1),
                    bar=bar, change=standard(budget.crop), first=(budget.window_epochs, small),
                    folder=folder / name, **RECIPES[name],
                )  # fmt: skip
        test_twice = dict[str, float]()
        for name, outcome in trained.items():
            mirrored = look(outcome.model, data.test, data, setting, mirror)
            test_twice[name] = share_right(outcome.scores + mirrored, data.test)
    best = max(trained, key=lambda name: trained[name].history.val_metric[-1])
    tables, arrays = account_of_errors(trained[best], data)
    rows, curves = list[list[Any]](), dict[str, Curve]()
    metrics: dict[str, float] = {"test_accuracy": trained[best].test_metric}
    metrics["test_accuracy_twice"] = test_twice[best]
    for name, outcome in trained.items():
        history, test = outcome.history, outcome.test_metric
        right, seconds = history.val_metric, history.seconds
        goal = next((t for t, share in zip(seconds, right) if share >= GOAL), math.nan)
        row = [name, len(right), seconds[-1], goal, right[-1], test, test_twice[name]]
        rows.append([*row, outcome.test_loss])
        metrics |= {f"{name}_test_accuracy": test, f"{name}_seconds": seconds[-1]}
        percent = [[100 * share for share in right]]
        label = "validation images that are right (%)"
        curves[name] = Curve.over_runs(range(1, epochs + 1), percent, "epoch", label)
        minutes = [second / 60 for second in seconds]
        curves[f"{name}, time"] = Curve.over_runs(minutes, percent, "training time (min)", label)
        x = range(1, len(history.step_loss) + 1)
        curves[f"{name}, loss"] = Curve.over_runs(x, [history.step_loss], "step", "training loss")
    columns = ["recipe", "epochs", "training time (s)", f"time to {GOAL:.0%} (s)"]
    columns += ["validation accuracy", "test accuracy", "and in a mirror", "test loss"]
    tables["recipes"] = Table(columns, rows)
    tables["published"] = Table(["who", "what they state", "source"], PUBLISHED)
    parameters = count_parameters(new_model())
    answer = f"ResNet-18 ({parameters:,} parameters): " + "; ".join(
        f"{name} gets {test:.1%} of the test images right, {twice:.1%} when it sees them in a "
        f"mirror as well, after {counted(count, 'epoch')} in {length(seconds)}"
        + (f", {GOAL:.0%} of the validation images after {goal:.0f} s" if goal > 0 else "")
        for name, count, seconds, goal, _, test, twice, _ in rows
    )
    answer += f" (n = 1); {hardest_and_easiest(tables['classes'].rows, '.0%')}."
    metrics |= {"parameters": parameters}
    return Result(answer, "test_accuracy", metrics, curves, tables, arrays)


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["recipes"].rows
    curves, axes = plots.grid(1, 3, width=4.2, height=3.8)
    for number, (name, *_) in enumerate(rows):
        look = {"marker": plots.MARKERS[number], "ms": 4, "color": f"C{number}"}
        plots.plot_curve(axes[0, 0], result.curves[name], name, **look)
        plots.plot_curve(axes[0, 1], result.curves[f"{name}, time"], name, **look)
        label = name + " (smoothed labels)" * ("label_smoothing" in RECIPES[name])
        curve = result.curves[f"{name}, loss"]
        plots.plot_curve(axes[0, 2], curve, label, color=f"C{number}", lw=0.6)
    axes[0, 0].legend(loc="lower right")
    axes[0, 2].legend(loc="upper right")
    best = max(rows, key=lambda row: row[4])  # on validation data: the test set chooses nothing
    curves.suptitle(
        f"ResNet-18 gets {best[5]:.1%} of the test images right after "
        f"{counted(best[1], 'epoch')} ({length(best[2])})"
    )
    return {"curves": curves, **draw_errors(result, "ResNet-18")}
