"""The adversarial loop of section 4: two networks, each of which is the other's task.

Batch by batch the discriminator learns to tell real samples from generated ones, and the
generator, after every batch or every few, to make what the discriminator takes for real. There
is no loss that falls: when one side's gets better, the other's gets worse. So whether a training
goes well is measured on samples (`metrics`), not read from the losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from section2.schedules import Schedule
from section4 import checkpoint, distributed
from section4.engine import PLAIN, Batch, Setting, gpus, gradient_norm
from section4.gans.losses import Game, gradient_penalty
from section4.gans.models import Discriminator, Generator
from section4.gans.numpy_gan import History, Measure
from section4.images import device_seed
from section4.training import Data, evaluation, set_rate


def fit(
    generator: Generator,
    discriminator: Discriminator,
    game: Game,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    data: Data,
    *,
    epochs: int,
    seed: int,
    discriminator_steps: int = 1,
    setting: Setting = PLAIN,
    schedule: Schedule | None = None,
    average: AveragedModel | None = None,
    measure: Measure[nn.Module] | None = None,
    on_epoch: Callable[[History], object] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    on_resume: Callable[[int], object] | None = None,
) -> History:
    """Train both networks and return what was seen on the way.

    Args:
        game: the losses of the two (see `losses`).
        optimizers: of the generator's parameters and of the discriminator's.
        data: the batches of an epoch, (x,) or (x, y) with the classes (N,) of samples x;
            with several processes, this one's share of them.
        seed: of the noise, with the number of the epoch, so that a resumed run draws what the
            uninterrupted one would have.
        discriminator_steps: batches that the discriminator learns from before the generator
            takes one step; what is left over at the end of an epoch is the discriminator's.
        setting: where and in which precision (see `engine`).
        schedule: the learning rate of both as a function of the number of batches, from 0; a
            group of parameters with an item "scale" takes that multiple of it.
        average: `training.averaged(generator, ...)`, a running mean of the generator's weights:
            measured instead of the generator itself.
        measure: gives named numbers of the generator it is handed, in evaluation mode, after
            every epoch.
        checkpoints: a folder for `last.pt`, after every epoch.
        resume: go on from `last.pt` where there is one.
        on_resume: called with the number of epochs that then lie behind this run.

    Raises ValueError for a checkpoint that does not fit, and FloatingPointError when a loss is no
    finite number or beyond all bounds; the checkpoint is then that of the last epoch that went
    well.
    """
    distributed.join(setting.device)
    networks: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
    if average is not None:
        networks["average"] = average
    for network in networks.values():
        distributed.same_weights(setting.prepare(network))
    step = _Step(generator, discriminator, game, optimizers, setting)
    parts: dict[str, Any] = dict(networks)
    for kind, pair in (("optimizer", optimizers), ("scaler", step.scalers)):
        parts |= {f"{kind} {k}": part for k, part in enumerate(pair)}
    last = checkpoints / "last.pt" if checkpoints is not None else None
    history = History()
    if last is not None and distributed.of_first(resume and last.exists()):
        history = _restore(last, parts)
        if on_resume is not None:
            on_resume(len(history.seconds))
    step.batches = len(history.discriminator_loss)
    judged = generator if average is None else average.module
    start = time.perf_counter() - sum(history.seconds[-1:])
    # PyTorch's own generator is what noise is drawn from; it is given back as it was.
    with torch.random.fork_rng(gpus(setting.device)):
        for epoch in range(len(history.seconds), epochs):
            torch.manual_seed(device_seed(seed, epoch, distributed.rank()))
            generator.train()
            discriminator.train()
            seen = _Seen(history)
            for number, batch in enumerate(data(epoch), 1):
                if schedule is not None:
                    rate = schedule(step.batches)
                    for optimizer in optimizers:
                        set_rate(optimizer, rate)
                seen.add("discriminator_loss", *step.discriminate(batch))
                if number % discriminator_steps == 0:
                    seen.add("generator_loss", step.generate(batch))
                    if average is not None:
                        average.update_parameters(generator)
            seen.fetch()
            history.seconds.append(time.perf_counter() - start)
            for network in networks.values():
                distributed.same_buffers(network)
            if measure is not None:
                with evaluation(judged, setting):
                    history.measured.append(measure(judged))
            if last is not None and distributed.rank() == 0:
                _save(last, parts, history)
            if on_epoch is not None:
                on_epoch(history)
    return history


def sample(
    generator: nn.Module,
    z: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    setting: Setting = PLAIN,
    batch_size: int = 500,
) -> torch.Tensor:
    """Samples (N, ...) for noise z (N, Z) and classes y (N,), float32 on the CPU."""
    cuts = [slice(k, k + batch_size) for k in range(0, len(z), batch_size)]
    with evaluation(generator, setting):
        return torch.cat([
            generator(setting.place(z[k]), None if y is None else setting.place(y[k])).float().cpu()
            for k in cuts
        ])  # fmt: skip


class _Step:
    """A step of either side on a batch. The losses stay on the device."""

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        game: Game,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        setting: Setting,
    ):
        self.generator, self.discriminator, self.game = generator, discriminator, game
        self.optimizers, self.setting = optimizers, setting
        self.scalers = setting.scaler(), setting.scaler()
        self.batches = 0  # that the discriminator has learned from

    def discriminate(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, length of its gradient) of the discriminator."""
        x, y = batch[0], classes(batch)
        with self.setting.autocast():
            with torch.no_grad():
                fake = self.samples(batch)
            scores = self.discriminator(x, y).float(), self.discriminator(fake, y).float()
        loss = self.game.discriminator(*scores)
        if self.game.penalty:
            share = torch.rand(len(x), device=x.device)
            penalty = gradient_penalty(lambda x: self.discriminator(x, y), x, fake.float(), share)
            loss = loss + self.game.penalty * penalty
        self.batches += 1
        return loss.detach(), self.update(self.discriminator, 1, loss)

    def generate(self, batch: Batch) -> torch.Tensor:
        """The loss of the generator."""
        self.discriminator.requires_grad_(False)  # the slope goes through it to the generator
        with self.setting.autocast():
            scores = self.discriminator(self.samples(batch), classes(batch)).float()
        loss = self.game.generator(scores)
        self.update(self.generator, 0, loss)
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def samples(self, batch: Batch) -> torch.Tensor:
        """As many generated samples as the batch has, of the same classes."""
        x = batch[0]
        z = torch.randn(len(x), self.generator.noise, device=x.device)
        return self.generator(z, classes(batch))

    def update(self, network: nn.Module, side: int, loss: torch.Tensor) -> torch.Tensor:
        optimizer, scaler = self.optimizers[side], self.scalers[side]
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        distributed.average_gradients(network.parameters())  # first, so that all see an overflow
        scaler.unscale_(optimizer)
        length = gradient_norm(network.parameters())
        if scaler.is_enabled():  # an overflow is no divergence: the step is left out, and counts 0
            length = length.nan_to_num(0.0, posinf=0.0)
        scaler.step(optimizer)
        scaler.update()
        return length


def classes(batch: Batch) -> torch.Tensor | None:
    return batch[1] if len(batch) > 1 else None


class _Seen:
    """Numbers on their way into the history. Fetching one makes a GPU wait: so many at a time."""

    def __init__(self, history: History):
        self.history = history
        self.waiting: list[tuple[str, torch.Tensor]] = []

    def add(self, name: str, loss: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
        self.waiting.append((name, loss))
        if gradient is not None:
            self.waiting.append(("gradient_norm", gradient))
        if loss.device.type == "cpu" or len(self.waiting) >= 150:
            self.fetch()

    def fetch(self) -> None:
        if not self.waiting:
            return
        names, numbers = zip(*self.waiting)
        for name, number in zip(names, torch.stack(numbers).tolist()):
            self.history.add(name, number)
        self.waiting.clear()


# --- checkpoints ----------------------------------------------------------------------------


def _save(last: Path, parts: dict[str, Any], history: History) -> None:
    for name in ("generator", "discriminator"):
        if not all(torch.isfinite(weight).all() for weight in parts[name].parameters()):
            raise FloatingPointError(
                f"a weight of the {name} is no longer a finite number after epoch "
                f"{len(history.seconds)}: try a smaller learning rate; {last.name} was left as "
                "it was"
            )
    content = {name: part.state_dict() for name, part in parts.items()}
    checkpoint.save(last, {**content, "history": asdict(history)})


def _restore(last: Path, parts: dict[str, Any]) -> History:
    saved = checkpoint.load(last)
    try:
        if unknown := saved.keys() ^ {*parts, "history", "format"}:
            raise ValueError(f"only one of the two has {', '.join(sorted(unknown))}")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        return History(**saved["history"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{last} is a checkpoint of another training: {reason[:200]}") from error
