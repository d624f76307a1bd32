"""What the comparisons of optimizers share: how each is made, looks, and trains a network."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

import numpy as np

from section1.layer import Layer
from section1.losses import SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.sgd import SGD, Optimizer
from section1.training import Batch, History, batch_ends, fit, shuffled
from section2.muon import Muon
from section2.optimizers import AdaGrad, Adam, AdamW, Momentum, Nesterov, RMSprop
from section2.schedules import Schedule
from utils.experiments.run import Run
from utils.output import plots

# The rules that treat each number by itself; Muon, which needs matrices, is the last.
ELEMENTWISE: dict[str, type[Optimizer]] = {
    "SGD": SGD,
    "Momentum": Momentum,
    "Nesterov": Nesterov,
    "AdaGrad": AdaGrad,
    "RMSprop": RMSprop,
    "Adam": Adam,
    "AdamW": AdamW,
}
NAMES = [*ELEMENTWISE, "Muon"]
DECAY = 0.1  # weight decay of AdamW and Muon; the others have none


def new_optimizer(name: str, model: Layer, lr: float) -> Optimizer:
    """An optimizer by name, with its usual settings but for the learning rate.

    Muon takes the matrices between hidden layers; the input layer, the output layer and all
    biases are left to AdamW, as its write-up advises.
    """
    parameters = model.parameters()
    if name == "Muon":
        return Muon(parameters, lr, weight_decay=DECAY, adamw=[parameters[0], *parameters[-2:]])
    if name == "AdamW":
        return AdamW(parameters, lr, weight_decay=DECAY)
    return ELEMENTWISE[name](parameters, lr)


def look(name: str) -> dict[str, Any]:
    """Colour, marker and line of an optimizer, the same in every figure."""
    place = NAMES.index(name)
    rounds, place = divmod(place, len(plots.MARKERS))
    dashes = ("-", "--", "-.", ":")[(place + rounds) % 4]
    return {"color": plots.COLOURS[place], "marker": plots.MARKERS[place], "ls": dashes}


def listed(names: list[str]) -> str:
    """Names as a sentence lists them: "SGD, Adam and Muon"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


@dataclass
class Feed:
    """Batches for `fit`, whose "epochs" here are stretches of `steps` batches.

    So validation can be measured more often than once a pass over the data. `seconds` has for
    each stretch the time that training alone took.
    """

    data: Batch
    batch_size: int
    steps: int
    seconds: list[float] = field(default_factory=list)
    batches: Iterator[Batch] | None = None

    def __call__(self, rng: np.random.Generator) -> Iterator[Batch]:
        if self.batches is None:
            passes = (shuffled(self.data, self.batch_size, rng) for _ in count())
            self.batches = chain.from_iterable(passes)
        start = time.perf_counter()
        yield from islice(self.batches, self.steps)
        self.seconds.append(time.perf_counter() - start)


@dataclass
class Learned:
    """A trained network; x counts passes over the data at every measurement."""

    model: Layer
    history: History
    x: list[float]
    seconds: list[float]  # of training, from the start to each measurement


def learn(
    run: Run,
    sizes: list[int],
    name: str,
    data: Batch,
    validation: Batch,
    *,
    key: tuple[int, ...],
    epochs: int,
    batch_size: int,
    schedule: Callable[[int], Schedule],
    checks: int = 1,
) -> Learned | None:
    """Train an MLP of these sizes by one optimizer; None where the loss ceased to be finite.

    `schedule(steps)` makes the learning rates of so many steps. `key` picks weights and order:
    with the same key all optimizers start from the same weights and see the same batches.
    `checks` is how often in an epoch validation is measured.
    """
    weights, order = run.rng(*key).spawn(2)
    model = MLP(sizes, rng=weights)  # ReLU, He
    an_epoch = len(batch_ends(len(data[0]), batch_size))
    stretch = math.ceil(an_epoch / checks)
    number = max(1, round(epochs * an_epoch / stretch))
    feed = Feed(data, batch_size, stretch)
    with warnings.catch_warnings():  # numbers that overflow are what is to be found out
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            history = fit(
                model, SoftmaxCrossEntropy(), new_optimizer(name, model, 0), feed, epochs=number,
                batch_size=batch_size, rng=order, validation=validation,
                schedule=schedule(number * stretch), threads=run.threads,
            )  # fmt: skip
        except FloatingPointError:
            return None
    x = [stretch * (k + 1) / an_epoch for k in range(number)]
    return Learned(model, history, x, np.cumsum(feed.seconds).tolist())
