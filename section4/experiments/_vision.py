"""What the experiments with photographs share: images as bytes, and one way to train."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from section1.experiments._images import SPLIT, errors_among
from section2.schedules import Schedule
from section3.experiments._cnns import channel_statistics
from section3.experiments._learning import up_and_down
from section4.engine import PLAIN, Setting, cross_entropy
from section4.experiments._engine import choose
from section4.images import Batches, Change, Pair, as_bytes
from section4.training import History, averaged, evaluate, fit, predict
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.results import Table
from utils.experiments.run import Run

AT_ONCE = 100  # images to be looked at, where nothing is learned


@dataclass(frozen=True)
class Photographs:
    """Images as bytes (N, C, H, W) with their labels (N,), for training, validation and test."""

    train: Pair
    validation: Pair
    test: Pair
    raw: np.ndarray  # (N, H, W, C) in [0, 1], those of the test set, to be looked at
    classes: tuple[str, ...]
    mean: torch.Tensor  # (C,), of the training images
    std: torch.Tensor  # (C,)

    @property
    def side(self) -> int:
        """Height and width of an image, in pixels."""
        return self.raw.shape[1]

    def batches(self, pair: Pair, size: int, setting: Setting, **options: Any) -> Batches:
        return Batches(*pair, self.mean, self.std, size, setting, **options)


def load_photographs(
    run: Run, name: str, samples: int | None = None, side: int | None = None
) -> Photographs:
    """At most `samples` training images of a set, a tenth of them held out for validation.

    Without `samples`, as many as the budget says. side: make them smaller, side x side pixels.
    """
    samples = run.budget.samples if samples is None else samples
    data = run.load(name).subset(samples, rng=run.rng(SPLIT))
    if side is not None:
        smaller = {part: shrunk(getattr(data, part), side) for part in ("train_x", "test_x")}
        data = replace(data, **smaller)
    split = data.split_validation(math.ceil(len(data.train_x) / 10), run.rng(SPLIT + 1))

    def pair(x: np.ndarray, y: np.ndarray) -> Pair:
        return as_bytes(x), torch.from_numpy(y)

    mean, std = channel_statistics(split.train_x)
    return Photographs(
        pair(split.train_x, split.train_y),
        pair(split.val_x, split.val_y),
        pair(split.test_x, split.test_y),
        split.test_x,
        split.classes,
        torch.from_numpy(mean),
        torch.from_numpy(std),
    )


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """Images (N, H, H, C) as (N, side, side, C): each pixel the mean of a square of them."""
    n, size, _, channels = images.shape
    if size % side:
        raise UserError(f"side must divide the {size} pixels of an image, got {side}")
    cut = images.reshape(n, side, size // side, side, size // side, channels)
    return cut.mean((2, 4))


def choose_for(
    run: Run, model: nn.Module, data: Photographs, folder: Path | None, epochs: int = 0
) -> Setting:
    """The fastest setting for so many epochs with these images on a GPU (see `choose`)."""
    (x, y), size = data.train, run.budget.batch_size
    batch = next(data.batches((x[:size], y[:size]), size, PLAIN)())
    return choose(run, model, batch, folder=folder, steps=epochs * math.ceil(len(x) / size))


# --- training -------------------------------------------------------------------------------


@dataclass
class Trained:
    """A trained classifier, how it came about, and what it says of images it has never seen."""

    model: nn.Module  # with the weights that were validated
    history: History
    test_loss: float
    test_metric: float
    scores: torch.Tensor = field(repr=False)  # (N, K), of the test images


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """With Nesterov's momentum and a little weight decay, as residual networks are trained."""
    return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


def train(
    run: Run,
    model: nn.Module,
    data: Photographs,
    setting: Setting,
    *,
    epochs: int,
    lr: float,
    seed: int,
    bar: Progress,
    train: Pair | None = None,
    optimizer: Callable[[Any, float], torch.optim.Optimizer] = sgd,
    schedule: Callable[[float, int], Schedule] = up_and_down,
    change: Change | None = None,
    first: tuple[int, Change | None] = (0, None),
    label_smoothing: float = 0.0,
    average: float = 0.0,
    folder: Path | None = None,
    on_gradients: Callable[[int], object] | None = None,
) -> Trained:
    """Train a classifier by `sgd`, the rate going up and down, or as told.

    train: other training images than those of `data`. optimizer: takes parameters and `lr`;
    schedule: `lr` and the number of steps. change, first: as `Batches` has them.
    average: the decay of a running mean of the weights, which is then what is measured (0: no
    mean). folder: for checkpoints; where it has some, training goes on from there.
    """
    pair = data.train if train is None else train
    size = min(run.budget.batch_size, len(pair[0]))
    batches = data.batches(pair, size, setting, change=change, first=first, seed=seed)
    steps = epochs * len(batches)
    plain = cross_entropy()
    validation = data.batches(data.validation, AT_ONCE, setting)
    setting.prepare(model)
    mean = averaged(model, average) if average else None

    def on_epoch(history: History) -> None:
        bar.advance(f"validation {history.val_metric[-1]:.1%}")

    history = fit(
        model,
        cross_entropy(label_smoothing),
        optimizer(model.parameters(), lr),
        batches,
        epochs=epochs,
        seed=seed,
        setting=setting,
        schedule=schedule(lr, steps),
        validate=lambda judged: evaluate(judged, plain, validation, setting),
        average=mean,
        on_gradients=on_gradients,
        on_epoch=on_epoch,
        checkpoints=folder,
        resume=True,
        on_resume=bar.skip,
    )
    trained = model if mean is None else mean.module
    scores = look(trained, data.test, data, setting)
    loss = nn.functional.cross_entropy(scores, data.test[1]).item()
    return Trained(trained, history, loss, share_right(scores, data.test), scores)


def look(
    model: nn.Module, pair: Pair, data: Photographs, setting: Setting, change: Change | None = None
) -> torch.Tensor:
    """What the model says of each of these images, as it is or changed: float32 on the CPU."""
    return predict(
        model, data.batches(pair, AT_ONCE, setting, shared=False, change=change), setting
    )


def share_right(scores: torch.Tensor, pair: Pair) -> float:
    """The share of images whose class gets the highest score, (N, K)."""
    return (scores.argmax(1) == pair[1]).float().mean().item()


def length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def account_of_errors(
    trained: Trained, data: Photographs
) -> tuple[dict[str, Table], dict[str, np.ndarray]]:
    """Tables and arrays on the errors on the test set, for section 1's `draw_errors`."""
    probability = trained.scores.softmax(1).numpy()
    return errors_among(probability, data.test[1].numpy(), data.raw, data.classes)
