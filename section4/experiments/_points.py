"""What the experiments on GANs in the plane share: variants of the game, one way to train them.

In the plane it can be counted what a generator makes: `Mixture.quality` gives the modes that it
has found and the share of its samples that lie in one. Both are asked of the generator and of the
running mean of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from section2.schedules import constant, cosine
from section4.engine import Setting
from section4.experiments._engine import find_device, seeded
from section4.experiments._kept import Kept
from section4.gans import adversarial, losses, mixtures
from section4.gans.losses import Game
from section4.gans.mixtures import Mixture
from section4.gans.models import Generator, mlp_discriminator, mlp_generator
from section4.gans.numpy_gan import History
from section4.gans.spectral_norm import spectrally_normalised
from section4.training import averaged
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.run import Run

NOISE = 2  # numbers that a sample is made of
BETAS = 0.5, 0.9  # of Adam
PENALTY = 0.2  # of WGAN-GP, for data of variance 1 in the plane
JUDGED = 2500  # samples, a hundred for each mode of the grid
KEPT = 1000  # of them, to be drawn
MIXTURES: dict[str, Callable[[], Mixture]] = {"ring": mixtures.ring, "grid": mixtures.grid}
GENERATORS = {"": "mean of weights", "raw_": "generator itself"}


@dataclass(frozen=True)
class Variant:
    """A game, and how it is played.

    spectral: normalise the discriminator. discriminator_steps: for each step of the generator.
    generator_lr: the generator's learning rate, as a multiple of the discriminator's.
    """

    game: Callable[[], Game]
    spectral: bool = False
    discriminator_steps: int = 5
    generator_lr: float = 1.0


VARIANTS = {
    "standard": Variant(losses.non_saturating),
    "lsgan": Variant(losses.least_squares),
    "wgan_gp": Variant(lambda: losses.wasserstein(PENALTY)),
    "sn_hinge": Variant(losses.hinge, spectral=True),
}


def find_setting(run: Run) -> Setting:
    """The device; in float32, on one thread: networks this small gain by nothing else."""
    setting = Setting(find_device(run))
    torch.set_num_threads(1)
    run.engine = f"{setting}, 1 thread" if setting.device.type == "cpu" else str(setting)
    return setting


def find_mixture(run: Run, name: str) -> Mixture:
    """The mixture of that name. Raises UserError where there is none."""
    if name not in MIXTURES:
        raise UserError(f"there is no mixture {name!r}: choose from {', '.join(MIXTURES)}")
    mixture = MIXTURES[name]()
    run.note_data(name, f"{name} of {len(mixture.centres)} narrow Gaussians, always new samples")
    return mixture


def spread(points: np.ndarray, mixture: Mixture) -> float:
    """exp of the entropy of the shares of points (N, 2) that are nearest to each of K modes.

    From 1, all samples next to one mode, to K, as many next to each; how near does not count.
    """
    distance = np.linalg.norm(points[:, None] - mixture.centres, axis=2)  # (N, K)
    shares = np.bincount(distance.argmin(axis=1)) / len(points)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


# --- training -------------------------------------------------------------------------------


@dataclass
class Played:
    """One training, measured every so many steps of the generator."""

    history: History
    points: Kept[torch.Tensor]  # step -> (2, KEPT, 2), samples of each of `GENERATORS`

    @property
    def steps(self) -> list[int]:
        return list(self.points)

    def series(self, key: str) -> np.ndarray:
        """What was measured under this name, a number for each of `steps`."""
        return np.array([measured[key] for measured in self.history.measured])


@dataclass
class Watch:
    """Measures a generator and its mean, and keeps samples of both."""

    generator: Generator
    average: AveragedModel
    mixture: Mixture
    z: torch.Tensor
    setting: Setting
    points: Kept[torch.Tensor]

    def __call__(self, mean: nn.Module) -> dict[str, float]:
        both = [
            adversarial.sample(network, self.z, setting=self.setting)
            for network in (mean, self.generator)
        ]
        measured = dict[str, float]()
        for of, points in zip(GENERATORS, both):
            modes, good = self.mixture.quality(points.numpy())
            measured |= {f"{of}modes": modes, f"{of}good": good}
            measured[f"{of}spread"] = spread(points.numpy(), self.mixture)
        step = int(self.average.n_averaged)  # restored with the mean where training goes on
        self.points[step] = torch.stack([points[:KEPT] for points in both])
        return measured


def losses_between(history: History, side: str) -> np.ndarray:
    """The loss of "generator" or "discriminator", a mean for each time between two measurements."""
    losses = np.array(getattr(history, f"{side}_loss"))
    return losses.reshape(len(history.measured), -1).mean(axis=1)


def play_all(
    run: Run, variants: Mapping[str, Variant], mixture: Mixture, *, falling: bool = False
) -> dict[str, list[Played]]:
    """Train every variant with every seed of the run's budget (see `play`)."""
    budget, setting = run.budget, find_setting(run)
    played: dict[str, list[Played]] = {name: [] for name in variants}
    total = len(variants) * budget.seeds * budget.checks
    with run.resumable() as folder, run.progress(total) as bar:
        for (name, variant), seed in product(variants.items(), range(budget.seeds)):
            place = folder / f"{name}_{seed}"
            one = play(
                run, variant, mixture, setting,
                seed=seed, falling=falling, folder=place, bar=bar,
            )  # fmt: skip
            played[name].append(one)
    return played


def play(
    run: Run,
    variant: Variant,
    mixture: Mixture,
    setting: Setting,
    *,
    seed: int,
    falling: bool,
    folder: Path,
    bar: Progress,
) -> Played:
    """Train a variant; the same seed starts all of them from the same weights.

    falling: let the learning rates fall to zero along half a cosine, or keep them.
    The run's budget has `steps` (of the generator), `checks` (how often it is measured), `hidden`
    (the widths of both networks), `batch_size`, `lr` (of the discriminator) and `mean` (the decay
    of the mean of weights). Where the folder has checkpoints, training goes on from there.
    """
    budget = run.budget
    steps = max(1, budget.steps // budget.checks)  # of an epoch

    def new_networks() -> nn.ModuleList:
        generator = mlp_generator(NOISE, (2,), budget.hidden, bounded=False)
        discriminator = mlp_discriminator((2,), budget.hidden)
        if variant.spectral:
            spectrally_normalised(discriminator)
        return nn.ModuleList([generator, discriminator])

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor]]:
        rows = steps * variant.discriminator_steps * budget.batch_size
        x, _ = mixture.sample(rows, run.rng(seed, epoch))
        for batch in setting.place(torch.from_numpy(x)).split(budget.batch_size):
            yield (batch,)

    def on_epoch(history: History) -> None:
        now = history.measured[-1]
        bar.advance(f"{now['modes']} modes, {now['good']:.0%} good")

    networks: Any = setting.prepare(seeded(run.seed(seed), new_networks))
    generator, discriminator = networks
    average = averaged(generator, budget.mean)
    optimizers: Any = tuple(
        torch.optim.Adam([{"params": side.parameters(), "scale": scale}], betas=BETAS, fused=True)
        for side, scale in ((generator, variant.generator_lr), (discriminator, 1.0))
    )
    total = steps * budget.checks * variant.discriminator_steps
    schedule = cosine(budget.lr, total) if falling else constant(budget.lr)
    z = torch.from_numpy(run.rng(seed).standard_normal((JUDGED, NOISE)).astype(np.float32))
    watch = Watch(generator, average, mixture, z, setting, Kept(folder / "samples.pt"))
    history = adversarial.fit(
        generator, discriminator, variant.game(), optimizers, batches,
        epochs=budget.checks, seed=run.seed(seed), setting=setting, average=average,
        discriminator_steps=variant.discriminator_steps, schedule=schedule, measure=watch,
        on_epoch=on_epoch, checkpoints=folder, resume=True, on_resume=bar.skip,
    )  # fmt: skip
    return Played(history, watch.points)
