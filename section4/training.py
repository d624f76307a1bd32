"""The training loop of section 4: every network that learns from examples learns here.

What it does is what section 1's loop does: forward, loss, backward, update, batch by batch. What
is new: it runs on any device, in the precision that `engine.choose` found fastest, in several
processes, and where the memory of a GPU is too small for a batch, in parts whose gradients are
added up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from section1 import training
from section2.schedules import Schedule
from section4 import checkpoint, distributed
from section4.engine import PLAIN, Batch, Objective, Setting, gpus, no_memory
from section4.images import device_seed

Data = Callable[[int], Iterable[Batch]]  # the number of an epoch -> its batches, on the device


@dataclass
class History(training.History):
    """As in section 1; `parts`: so many pieces a batch was cut into, for want of memory."""

    parts: int = 1


def fit(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    data: Data,
    *,
    epochs: int,
    seed: int,
    setting: Setting = PLAIN,
    schedule: Schedule | None = None,
    validate: Callable[[nn.Module], tuple[float, float]] | None = None,
    average: AveragedModel | None = None,
    clip: float | None = None,
    on_gradients: Callable[[int], object] | None = None,
    on_epoch: Callable[[History], object] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    on_resume: Callable[[int], object] | None = None,
) -> History:
    """Train `model` and return what was seen on the way.

    Args:
        objective: what to make small, such as `engine.cross_entropy()`.
        optimizer: of the model's parameters.
        data: the batches of an epoch, such as `images.Batches`; with several processes, this
            one's share of them.
        seed: of all that is drawn at random on the way (dropout, augmentation), with the number
            of the epoch, so that a resumed run draws what the uninterrupted one would have.
        setting: where and in which precision (see `engine.choose`).
        schedule: the learning rate as a function of the step, from 0; a group of parameters with
            an item "scale" takes that multiple of it.
        validate: gives (loss, score) of the model it is handed, after every epoch.
        average: `averaged(model, ...)`, a running mean of the weights: validated and kept as
            best instead of the weights themselves.
        clip: the greatest length of all gradients together.
        on_gradients: called with the number of the step between backward and update.
        on_epoch: called with the history after each epoch.
        checkpoints: a folder for `last.pt`, after every epoch, and `best.pt`, the model as
            validated in the epoch with the highest score (without scores: the lowest loss).
        resume: go on from `last.pt` where there is one.
        on_resume: called with the number of epochs that then lie behind this run.

    Raises ValueError for a checkpoint that does not fit, MemoryError where not even one row fits
    into the memory of the GPU, and FloatingPointError when the loss is no longer a finite number;
    the checkpoints are then those of the last epoch that went well.
    """
    distributed.join(setting.device)
    setting.prepare(model)
    if average is not None:
        setting.prepare(average.module)  # not its counter, which is read in every step
    history, scaler = History(), setting.scaler()
    last = checkpoints / "last.pt" if checkpoints is not None else None
    if last is not None and distributed.of_first(resume and last.exists()):
        history = _restore(last, model, optimizer, average, scaler)
        if on_resume is not None:
            on_resume(len(history.loss))
    network = distributed.wrap(model)
    if setting.compiled:
        network = torch.compile(network)  # type: ignore[assignment]
    step = _Step(network, objective, optimizer, setting, scaler, clip, on_gradients, history)
    start = time.perf_counter() - sum(history.seconds[-1:])
    # PyTorch's own generator is what dropout and transforms draw from; it is given back as it was.
    with torch.random.fork_rng(gpus(setting.device)):
        for epoch in range(len(history.loss), epochs):
            torch.manual_seed(device_seed(seed, epoch, distributed.rank()))
            model.train()
            seen = _Sums(epoch, optimizer, history.step_loss)
            for batch in data(epoch):
                if schedule is not None:
                    set_rate(optimizer, schedule(step.number))
                loss, score = step(batch)
                if average is not None:
                    average.update_parameters(model)
                seen.add(loss, score, len(batch[0]))
            for series, mean in zip((history.loss, history.metric), seen.means()):
                series.append(mean)
            history.seconds.append(time.perf_counter() - start)
            judged = model if average is None else average.module
            distributed.same_buffers(judged)
            if validate is not None:
                for values, number in zip((history.val_loss, history.val_metric), validate(judged)):
                    values.append(number)
            if last is not None and distributed.rank() == 0:
                _save(last, model, judged, optimizer, average, scaler, history)
            if on_epoch is not None:
                on_epoch(history)
    return history


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of all parameters, times the "scale" of those groups that have one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


class _Step:
    """Forward, backward and update for one batch, in as many parts as memory asks for."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        setting: Setting,
        scaler: torch.amp.GradScaler,
        clip: float | None,
        on_gradients: Callable[[int], object] | None,
        history: History,
    ):
        self.network, self.objective, self.optimizer = network, objective, optimizer
        self.setting, self.scaler, self.clip, self.on_gradients = (
            setting, scaler, clip, on_gradients,
        )  # fmt: skip
        self.history = history
        self.number = len(history.step_loss)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss, score = self.gradients(batch)
        if self.clip is not None or self.on_gradients is not None:
            self.scaler.unscale_(self.optimizer)
        if self.on_gradients is not None:
            self.on_gradients(self.number)
        if self.clip is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.number += 1
        return loss, score

    def gradients(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, score) of the batch, and its gradients in the parameters."""
        rows = len(batch[0])
        while True:
            self.optimizer.zero_grad()
            try:
                return self.in_parts(batch, rows)
            except torch.cuda.OutOfMemoryError as error:
                if distributed.count() > 1 or self.history.parts >= rows:
                    raise no_memory(math.ceil(rows / self.history.parts)) from error
            self.history.parts *= 2
            torch.cuda.empty_cache()

    def in_parts(self, batch: Batch, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same part by part, each of which counts by its rows."""
        losses = []
        for cut in training.micro_batches(rows, math.ceil(rows / self.history.parts)):
            with self.setting.autocast():
                loss, score = self.objective(self.network, [item[cut] for item in batch])
            share = (cut.stop - cut.start) / rows
            self.scaler.scale(loss * share).backward()
            losses.append(torch.stack([loss.detach(), score.detach()]) * share)
        loss, score = torch.stack(losses).sum(0)
        return loss, score


class _Sums:
    """Sums over an epoch. They stay on the device, for fetching a number makes it wait."""

    def __init__(self, epoch: int, optimizer: torch.optim.Optimizer, step_loss: list[float]):
        self.epoch, self.optimizer, self.step_loss = epoch, optimizer, step_loss
        self.waiting: list[torch.Tensor] = []
        self.sums = [0.0, 0.0, 0.0]  # loss, score, rows

    def add(self, loss: torch.Tensor, score: torch.Tensor, rows: int) -> None:
        self.waiting.append(torch.stack([loss * rows, score * rows, torch.full_like(loss, rows)]))
        if loss.device.type == "cpu" or len(self.waiting) == 50:
            self.fetch()

    def fetch(self) -> None:
        if not self.waiting:
            return
        for sums in torch.stack(self.waiting).tolist():
            value = sums[0] / sums[2]
            if not math.isfinite(value):
                rate = self.optimizer.param_groups[0]["lr"]
                raise FloatingPointError(
                    f"the loss became {value} in epoch {self.epoch + 1}, step "
                    f"{len(self.step_loss) + 1}, at learning rate {rate:g}: try a smaller one"
                )
            self.step_loss.append(value)
            self.sums = [a + b for a, b in zip(self.sums, sums)]
        self.waiting.clear()

    def means(self) -> tuple[float, float]:
        self.fetch()
        loss, score, rows = distributed.total(self.sums)
        return loss / rows, score / rows


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential mean of the weights and running statistics of a model.

    Over the last 1 / (1 - decay) steps; at first over fewer, for the earliest weights are random.
    Source: Polyak, Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def update(means: Any, values: Any, number: torch.Tensor | int) -> None:
        part = 1 - torch.as_tensor((1 + number) / (10 + number)).clamp(max=decay)  # that is new
        for mean, value in zip(means, values):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), part.to(mean.dtype))
            else:
                mean.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


# --- measuring ------------------------------------------------------------------------------


@contextmanager
def evaluation(model: nn.Module, setting: Setting) -> Iterator[None]:
    """Evaluation mode, without gradients, in the precision of the setting."""
    training_before = model.training
    model.eval()
    try:
        with torch.inference_mode(), setting.autocast():
            yield
    finally:
        model.train(training_before)


def evaluate(
    model: nn.Module, objective: Objective, data: Data, setting: Setting = PLAIN
) -> tuple[float, float]:
    """(loss, score) over all batches of `data(0)`, without learning: means, in which each batch
    counts by its rows. Of several processes each does its share."""
    sums = torch.zeros(3, dtype=torch.float64)
    with evaluation(model, setting):
        for batch in data(0):
            rows = len(batch[0])
            if not rows:  # of a last batch smaller than the number of processes
                continue
            loss, score = objective(model, batch)
            sums += torch.tensor([float(loss) * rows, float(score) * rows, rows])
    loss_sum, score_sum, count = distributed.total(sums.tolist())
    return loss_sum / count, score_sum / count


def predict(model: nn.Module, data: Data, setting: Setting = PLAIN) -> torch.Tensor:
    """The model's output for every row of `data(0)`, float32 on the CPU."""
    with evaluation(model, setting):
        return torch.cat([model(x).float().cpu() for x, *_ in data(0)])


# --- checkpoints ----------------------------------------------------------------------------


def _save(
    last: Path,
    model: nn.Module,
    judged: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    scaler: torch.amp.GradScaler,
    history: History,
) -> None:
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise FloatingPointError(
            f"a weight is no longer a finite number after epoch {len(history.loss)}: try a smaller "
            f"learning rate; {last.name} was left as it was"
        )
    if history.newest_is_best():
        checkpoint.save(last.with_name("best.pt"), {"model": judged.state_dict()})
    content = {
        "model": model.state_dict(),
        "average": None if average is None else average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "kind of optimizer": type(optimizer).__name__,
        "scaler": scaler.state_dict(),
        "history": asdict(history),
    }
    checkpoint.save(last, content)


def _restore(
    last: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    scaler: torch.amp.GradScaler,
) -> History:
    saved = checkpoint.load(last)
    kind = type(optimizer).__name__
    try:
        if saved["kind of optimizer"] != kind:
            raise ValueError(f"its optimizer is {saved['kind of optimizer']}, here {kind}")
        if (saved["average"] is None) != (average is None):
            raise ValueError("one has a mean of the weights, the other has none")
        model.load_state_dict(saved["model"])
        if average is not None:
            average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        return History(**saved["history"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{last} is a checkpoint of another training: {reason[:200]}") from error


def load_weights(path: Path, model: nn.Module) -> None:
    """Put the weights of a `best.pt` or `last.pt` into a model of the same kind.

    Raises FileNotFoundError, and ValueError for a damaged file or another model.
    """
    saved = checkpoint.load(path)
    try:
        model.load_state_dict(saved["model"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds the weights of another model") from error
