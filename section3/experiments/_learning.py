"""What `mnist_cnn` and `cifar10_cnn` share: learning from changed images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from section1.experiments._images import Rows
from section1.experiments._training import WARM_UP, Trained
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.training import History, batch_ends, evaluate, fit
from section2.optimizers import AdamW
from section2.schedules import Schedule, cosine, warm_up
from section3.augment import augmented
from section3.experiments._cnns import Images
from section3.fused import fused
from utils.experiments.progress import Progress
from utils.experiments.run import Run


def learn(
    run: Run,
    model: Sequential,
    data: Images,
    *,
    epochs: int,
    lr: float,
    folder: Path,
    bar: Progress,
    key: int = 0,
    **changes: Any,
) -> Trained:
    """Train `model` by AdamW on images changed as `changes` say (see `section3.augment`).

    The learning rate is `lr` at its highest. `folder` is for checkpoints; where it has one,
    training goes on from there. The key picks the random numbers that order and change images.
    """
    budget, network, loss = run.budget, fused(model), SoftmaxCrossEntropy()
    steps = epochs * len(batch_ends(len(data.train[0]), budget.batch_size))

    def on_epoch(history: History) -> None:
        bar.advance(f"loss {history.loss[-1]:.3f}")

    history = fit(
        network,
        loss,
        AdamW(network.parameters(), 0),
        lambda rng: augmented(data.train, budget.batch_size, rng, **changes),
        epochs=epochs,
        batch_size=budget.batch_size,
        rng=run.rng(key, 1),
        validation=data.validation,
        schedule=up_and_down(lr, steps),
        threads=run.threads,
        on_epoch=on_epoch,
        checkpoints=folder,
        resume=True,
        on_resume=bar.skip,
    )
    return Trained(network, history, *evaluate(network, loss, data.test, threads=run.threads))


def up_and_down(peak: float, steps: int) -> Schedule:
    """A line up to `peak` over the first fifth of the steps, then half a cosine down to zero."""
    rise = max(1, round(WARM_UP * steps))
    return warm_up(cosine(peak, max(1, steps - rise)), rise)


def as_rows(data: Images) -> Rows:
    """What `account_of_errors` wants to know."""
    return Rows(data.train, data.validation, data.test, data.raw, data.classes)
