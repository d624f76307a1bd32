"""The two tasks on which optimizers are compared, and the choice of their learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from section1.experiments._images import SPLIT, load_rows
from section1.training import Batch
from section2.experiments._optimizers import Learned, learn
from section2.schedules import cosine
from utils.data import toy
from utils.experiments.progress import Progress
from utils.experiments.run import Run

RATES = {  # on MNIST; the small network on the spirals takes rates ten times as large
    "SGD": (0.03, 0.1, 0.3, 1.0),
    "Momentum": (0.01, 0.03, 0.1, 0.3),
    "Nesterov": (0.01, 0.03, 0.1, 0.3),
    "AdaGrad": (0.003, 0.01, 0.03, 0.1),
    "RMSprop": (0.0003, 0.001, 0.003, 0.01),
    "Adam": (0.001, 0.003, 0.01, 0.03),
    "AdamW": (0.001, 0.003, 0.01, 0.03),
    "Muon": (0.001, 0.003, 0.01, 0.03),
}
POINTS, NOISE = 400, 0.02  # the spirals: of training and of validation points, each


@dataclass
class Task:
    """Data, a network for it, and what training it may cost."""

    title: str
    sizes: list[int]
    train: Batch
    validation: Batch
    test: Batch
    epochs: int
    batch_size: int
    checks: int  # measurements an epoch
    trial: tuple[int, int]  # rows and epochs of the runs that choose the learning rate
    factor: float  # of the learning rates to try

    def rates(self, name: str) -> list[float]:
        return [self.factor * lr for lr in RATES[name]]


def tasks(run: Run) -> list[Task]:
    budget = run.budget
    digits = load_rows(run, "mnist")
    run.note_data("spirals", f"two spirals, {POINTS} points")
    generators = run.rng(SPLIT + 2).spawn(3)
    sizes = (POINTS, POINTS, 1000)
    spirals = [toy.spirals(n, NOISE, rng) for n, rng in zip(sizes, generators)]
    return [
        Task(
            "MNIST", [digits.features, *budget.hidden, len(digits.classes)],
            digits.train, digits.validation, digits.test,
            budget.epochs, budget.batch_size, budget.checks,
            (budget.tuning_samples, budget.tuning_epochs), 1,
        ),
        Task(
            "spirals", [2, 32, 32, 2], spirals[0], spirals[1], spirals[2],
            budget.toy_epochs, 32, 1, (POINTS, budget.toy_epochs), 10,
        ),
    ]  # fmt: skip


def tuned(run: Run, task: Task, name: str, bar: Progress) -> tuple[float, list[list[Any]]]:
    """The learning rate of the best trial, by validation, and a row for each of them."""
    rows, epochs = task.trial
    data = task.train[0][:rows], task.train[1][:rows]
    trials: list[list[Any]] = []
    scores = {}
    for lr in task.rates(name):
        learned = train(run, task, name, lr, data, (SPLIT + 3,), epochs)
        bar.advance(f"{task.title}: {name} at {lr:g}")
        if learned is None:
            trials.append([task.title, name, lr, None])
            continue
        accuracy = learned.history.val_metric[-1]
        trials.append([task.title, name, lr, accuracy])
        scores[lr] = accuracy, -learned.history.val_loss[-1]  # the loss decides between equals
    if not scores:
        raise FloatingPointError(f"{name} blew up at every learning rate that was tried")
    return max(scores, key=scores.__getitem__), trials


def train(
    run: Run, task: Task, name: str, lr: float, data: Batch, key: tuple[int, ...], epochs: int
) -> Learned | None:
    return learn(
        run, task.sizes, name, data, task.validation, key=key, epochs=epochs, checks=task.checks,
        batch_size=task.batch_size, schedule=lambda steps: cosine(lr, steps),
    )  # fmt: skip
