"""The training loop: every NumPy network of the course learns here.

For each batch: forward, loss, backward, update. `TrainingStep` does that for one batch,
`fit` repeats it over epochs, `evaluate` measures without learning.

To use every core, a batch is cut into micro-batches, each with a replica of the model.
The loss is a mean, so its gradient is the weighted sum of the micro-batches' gradients. The
cut depends on the model, the batch and, where that is short, the memory, and the sum runs in a
fixed order: the result is the same bit for bit on any number of threads. Where batch norm needs
all rows, only the layers between are cut (`row_parallel.py`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from section1 import checkpoint
from section1.layer import Layer
from section1.losses import Loss
from section1.memory import GIGABYTE, bytes_per_row, usable_memory
from section1.parallel import Workers, one_blas_thread
from section1.parameter import Parameter
from section1.row_parallel import needs_whole_batch, row_parallel
from section1.sgd import Optimizer

Batch = tuple[np.ndarray, np.ndarray]
Metric = Callable[[np.ndarray, np.ndarray], float]

LANES = 8  # replicas, so gradients to add up; micro-batches beyond that take turns


def accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    """The share classified right, by scores (..., K) or, for two classes, one logit (..., 1)."""
    if prediction.shape[-1] == 1:
        chosen = (prediction > 0).reshape(target.shape)
    else:
        chosen = prediction.argmax(axis=-1)
    return float((chosen == target).mean())


@dataclass
class History:
    """What `fit` saw. `step_loss` has a number per step, the others one per epoch.

    `loss` and `metric` are means over the epoch's training batches, taken while the
    weights were changing; `val_loss` and `val_metric` are measured after the epoch;
    `seconds` is the time from the start of `fit` to the end of the epoch's training.
    """

    step_loss: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_metric: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def newest_is_best(self) -> bool:
        """Whether no epoch before the last one did as well on the validation data."""
        scores = self.val_metric
        if not scores or math.isnan(scores[-1]):
            scores = [-loss for loss in self.val_loss]
        return bool(scores) and scores[-1] > max(scores[:-1], default=-math.inf)


def micro_batches(rows: int, at_most: int) -> list[slice]:
    """Cut `rows` into as few nearly equal runs as hold `at_most` rows each."""
    pieces = max(1, math.ceil(rows / at_most))
    ends = [rows * k // pieces for k in range(pieces + 1)]
    return [slice(a, b) for a, b in zip(ends, ends[1:])]


def rows_at_once(model: Layer) -> int:
    """The rows of a micro-batch: as few as the layer that wants fewest."""
    return min(layer.micro_batch for layer in model.modules())


class Replica(NamedTuple):
    """What one lane of micro-batches works with; see `Layer.replica`."""

    model: Layer
    loss: Loss
    parameters: list[Parameter]
    random_layers: list[Layer]


class TrainingStep:
    """One step of gradient descent on a batch: `step(x, y) -> (loss, metric)`."""

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Optimizer,
        workers: Workers,
        metric: Metric | None = None,
        micro_batch: int | None = None,
        on_gradients: Callable[[], object] | None = None,
        memory: int | None = None,
    ):
        self.model, self.loss, self.optimizer, self.metric = model, loss, optimizer, metric
        self.workers, self.on_gradients = workers, on_gradients
        self.whole_batch = needs_whole_batch(model)
        self.micro_batch = rows_at_once(model) if micro_batch is None else micro_batch
        self.memory = usable_memory() if memory is None else memory
        self.measured: tuple[int, ...] | None = None  # the shape of a row
        self.bytes_per_row = 0
        self.replicas: list[Replica] = []

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        cuts = micro_batches(len(x), self._rows_that_fit(x))
        lanes = min(LANES, len(cuts))
        while len(self.replicas) < lanes:
            self._add_replica()

        def work(lane: int) -> tuple[float, float]:
            model, loss, parameters, random_layers = self.replicas[lane]
            for parameter in parameters:
                parameter.zero_grad()
            value = score = 0.0
            total = loss.weight(y)
            for number in range(lane, len(cuts), lanes):
                for layer in random_layers:
                    layer.reseed(self.optimizer.steps, number)
                rows = cuts[number]
                share = loss.weight(y[rows]) / total if total else 0.0
                prediction = model.forward(x[rows])
                value += loss.forward(prediction, y[rows]) * share
                gradient = loss.backward()
                model.backward(gradient if share == 1 else gradient * share)
                part = (rows.stop - rows.start) / len(x)
                score += (self.metric(prediction, y[rows]) if self.metric else math.nan) * part
            return value, score

        results = self.workers.map(work, range(lanes))
        self._add_gradients(lanes)
        if self.on_gradients is not None:
            self.on_gradients()
        self.optimizer.step(self.workers)
        value, score = (sum(column) for column in zip(*results))
        return value, score

    def _rows_that_fit(self, x: np.ndarray) -> int:
        """How many rows are computed at once: fewer than usual where memory would run out."""
        if self.measured != x.shape[1:]:
            self.measured, self.bytes_per_row = x.shape[1:], bytes_per_row(self.model, x)
            wanted = len(x) if self.whole_batch else LANES * min(self.micro_batch, len(x))
            if wanted * self.bytes_per_row > self.memory:  # so look closer
                few = min(self.micro_batch, self.memory // (4 * self.bytes_per_row))
                if few > 2:
                    self.bytes_per_row = bytes_per_row(self.model, x, few)
        rows = self.memory // self.bytes_per_row
        if not self.whole_batch:
            return max(1, min(self.micro_batch, len(x), rows // LANES))
        if rows < len(x):
            raise ValueError(
                f"a batch of {len(x)} rows needs {len(x) * self.bytes_per_row / GIGABYTE:.1f} GB "
                f"of memory and may use {self.memory / GIGABYTE:.1f} GB; batch norm needs all of "
                f"it at once, so take batches of at most {rows} rows"
            )
        return len(x)

    def _lanes(self, rows: int) -> list[slice]:
        """How the layers between batch norms share out the rows of a batch."""
        return micro_batches(rows, max(self.micro_batch, math.ceil(rows / LANES)))

    def _add_replica(self) -> None:
        """One more replica. The first adds into the model's own gradients."""
        replica = self.model.replica(share_gradients=not self.replicas)
        replica.train()
        replica.skip_input_gradient()
        if self.whole_batch:
            replica = row_parallel(replica, self.workers, self._lanes)
        if len(self.replicas) >= self.workers.threads:  # this one's jobs come after that one's
            replica.share_scratch(self.replicas[len(self.replicas) - self.workers.threads].model)
        random_layers = [
            layer for layer in replica.modules() if type(layer).reseed is not Layer.reseed
        ]
        self.replicas.append(
            Replica(replica, copy.deepcopy(self.loss), replica.parameters(), random_layers)
        )

    def _add_gradients(self, count: int) -> None:
        """The sum of the replicas' gradients, always in the same order."""
        total, *others = (replica.parameters for replica in self.replicas[:count])
        for other in others:
            for mine, its in zip(total, other):
                mine.grad += its.grad


def batch_ends(rows: int, batch_size: int) -> list[int]:
    """Where the batches of so many rows end.

    The last batch has what is left over; a single row joins the batch before it, for alone
    it would weigh as much as a whole batch, and batch norm could not use it.
    """
    lone = 1 if batch_size > 1 else 0
    return [*range(batch_size, rows - lone, batch_size), rows]


def shuffled(data: Batch, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of (x, y) in a new random order of the rows, cut at `batch_ends`."""
    x, y = data
    order = rng.permutation(len(x))
    start = 0
    for end in batch_ends(len(x), batch_size):
        yield x[order[start:end]], y[order[start:end]]
        start = end


def fit(
    model: Layer,
    loss: Loss,
    optimizer: Optimizer,
    data: Batch | Callable[[np.random.Generator], Iterable[Batch]],
    *,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
    validation: Batch | None = None,
    metric: Metric | None = accuracy,
    schedule: Callable[[int], float] | None = None,
    threads: int | None = None,
    micro_batch: int | None = None,
    memory: int | None = None,
    on_gradients: Callable[[], object] | None = None,
    on_epoch: Callable[[History], None] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    on_resume: Callable[[int], object] | None = None,
) -> History:
    """Train `model` by gradient descent and return what was seen on the way.

    Args:
        data: arrays x (N, ...) and y (N, ...), shuffled anew at every epoch; or a
            function that takes `rng` and yields the batches (x, y) of one epoch.
        epochs, batch_size: passes over the data, and rows a step.
        rng: decides the order of the rows, and nothing else.
        validation: (x, y), measured after every epoch.
        metric: what to report beside the loss, `metric(prediction, target) -> float`, a
            mean over rows; None for no metric.
        schedule: the learning rate as a function of the step number, from 0.
        threads: workers for micro-batches (default: every core); no effect on results.
        micro_batch: most rows that a worker takes at once (default: what the layers say).
        memory: bytes that activations may take (default: half of the machine's memory); a batch
            that needs more is cut into smaller micro-batches.
        on_gradients: called between backward and update, to clip gradients or look at them.
        on_epoch: called with the history after each epoch.
        checkpoints: a folder for `last.npz`, written after every epoch, and `best.npz`, the
            epoch with the highest validation metric (without a metric: the lowest validation
            loss; without validation data there is none).
        resume: go on from `last.npz` where there is one; the end is the same bit for bit as
            that of a run that was not interrupted.
        on_resume: called with the number of epochs that then lie behind this run.

    Raises ValueError for settings out of range, for a checkpoint that does not fit, for an
    epoch without batches, and for a batch that cannot be cut (batch norm) and does not fit into
    memory; and FloatingPointError as soon as the loss is not a finite number; the checkpoints
    then are those of the last epoch that went well.
    """
    for name, number in (
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("micro_batch", micro_batch),
    ):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if isinstance(data, tuple) and not len(data[0]) == len(data[1]) > 0:
        raise ValueError(f"{len(data[0])} inputs do not go with {len(data[1])} targets")
    if resume and checkpoints is None:
        raise ValueError("resume=True needs checkpoints, the folder of the run to go on with")

    history = History()
    if resume and checkpoints is not None and (checkpoints / "last.npz").exists():
        history = History(**checkpoint.load(checkpoints / "last.npz", model, optimizer, rng))
        if on_resume is not None:
            on_resume(len(history.loss))
    start = time.perf_counter() - sum(history.seconds[-1:])
    with Workers(threads) as workers, one_blas_thread():
        step = TrainingStep(
            model, loss, optimizer, workers, metric, micro_batch, on_gradients, memory
        )
        for epoch in range(len(history.loss), epochs):
            batches = data(rng) if callable(data) else shuffled(data, batch_size, rng)
            total_loss = total_metric = rows = 0.0
            for x, y in batches:
                if schedule is not None:
                    optimizer.lr = float(schedule(optimizer.steps))
                value, score = step(x, y)
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss became {value} in epoch {epoch + 1}, step {optimizer.steps}, "
                        f"at learning rate {optimizer.lr:g}: try a smaller one"
                    )
                history.step_loss.append(value)
                total_loss += value * len(x)
                total_metric += score * len(x)
                rows += len(x)
            if not rows:
                raise ValueError(
                    f"data(rng) yielded no batch in epoch {epoch + 1}; it must make new batches "
                    "at every call"
                )
            history.seconds.append(time.perf_counter() - start)
            history.loss.append(total_loss / rows)
            history.metric.append(total_metric / rows)
            if validation is not None:
                value, score = _evaluate(model, loss, validation, metric, workers)
                history.val_loss.append(value)
                history.val_metric.append(score)
            if checkpoints is not None:
                for name in ("best.npz", "last.npz") if history.newest_is_best() else ("last.npz",):
                    checkpoint.save(checkpoints / name, model, optimizer, rng, vars(history))
            if on_epoch is not None:
                on_epoch(history)
    return history


def evaluate(
    model: Layer,
    loss: Loss,
    data: Batch,
    *,
    metric: Metric | None = accuracy,
    threads: int | None = None,
) -> tuple[float, float]:
    """(loss, metric) over `data`, in evaluation mode, without learning.

    Raises ValueError where there are no rows.
    """
    with Workers(threads) as workers, one_blas_thread():
        return _evaluate(model, loss, data, metric, workers)


def _evaluate(
    model: Layer, loss: Loss, data: Batch, metric: Metric | None, workers: Workers
) -> tuple[float, float]:
    x, y = data
    if not len(x):
        raise ValueError("there are no rows to evaluate")
    total = loss.weight(y)

    def measure(rows: slice) -> tuple[float, float]:
        prediction = model.forward(x[rows])
        share = loss.weight(y[rows]) / total if total else 0.0
        part = (rows.stop - rows.start) / len(x)
        value = copy.copy(loss).forward(prediction, y[rows])
        return value * share, (metric(prediction, y[rows]) if metric else math.nan) * part

    results = _in_eval_mode(model, workers, measure, len(x))
    value, score = (sum(column) for column in zip(*results))
    return value, score


def predict(model: Layer, x: np.ndarray, *, threads: int | None = None) -> np.ndarray:
    """The model's output for every row of x, in evaluation mode."""
    with Workers(threads) as workers, one_blas_thread():
        return np.concatenate(
            _in_eval_mode(model, workers, lambda rows: model.forward(x[rows]), len(x))
        )


def _in_eval_mode(model: Layer, workers: Workers, function: Callable, rows: int) -> list:
    """[function(slice of rows)]: one model serves all threads, for it remembers nothing."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        return workers.map(function, micro_batches(rows, rows_at_once(model)))
    finally:
        for layer, mode in modes:
            layer.training = mode
