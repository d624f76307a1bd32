"""Variants of a GAN that makes digits, and the one way in which all of them are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

import config
from section4 import checkpoint, gans
from section4.engine import PLAIN, Batch, Setting
from section4.experiments import _gans
from section4.experiments._engine import choose, seeded
from section4.experiments._gans import (
    MEASURED,
    ORDER,
    WEIGHTS,
    Judge,
    pictures,
)
from section4.experiments._kept import Kept
from section4.experiments._recipes import is_of, recipe_of, sign
from section4.experiments._vision import Photographs
from section4.gans import losses
from section4.gans.adversarial import fit, sample
from section4.gans.losses import Game
from section4.gans.models import (
    dcgan_discriminator,
    dcgan_generator,
    mlp_discriminator,
    mlp_generator,
)
from section4.gans.numpy_gan import History
from section4.gans.spectral_norm import spectrally_normalised
from section4.images import Batches, device_seed
from section4.training import Data, averaged
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.run import Run

BETAS = 0.0, 0.9  # of Adam: momentum makes two players overshoot one another
SHOWN = 100  # samples to be looked at


@dataclass(frozen=True)
class Variant:
    """A game, and the networks that play it.

    spectral: normalise the discriminator. linear: linear layers in place of convolutions.
    conditional: tell both networks the class.
    """

    label: str
    game: Callable[[], Game]
    spectral: bool = False
    linear: bool = False
    conditional: bool = False


VARIANTS = {
    "mlp": Variant("MLP, standard", losses.non_saturating, linear=True),
    "standard": Variant("standard", losses.non_saturating),
    "lsgan": Variant("LSGAN", losses.least_squares),
    "wgan_gp": Variant("WGAN-GP", losses.wasserstein),
    "sn": Variant("spectral norm", losses.non_saturating, spectral=True),
}


@dataclass
class Learned:
    """One training: what was seen, samples on the way, and the mean of the generator's weights."""

    variant: Variant
    generator: nn.Module
    setting: Setting
    history: History
    samples: Kept[torch.Tensor]  # step -> bytes (SHOWN, H, W, 1), always of the same noise
    fault: str  # why training ended before its time, "" where it did not

    def made(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Images (N, 1, H, W) in [-1, 1] for noise z (N, Z) and, if it needs them, classes."""
        return sample(self.generator, z, y, setting=self.setting)


def find_setting(run: Run, digits: Photographs, folder: Path | None = None) -> Setting:
    """In float32, unless asked otherwise, in the order of memory that is fastest.

    Numbers of 16 bits make a step of networks this small no more than a quarter faster, and a
    comparison of losses must not hang on what the slope of a slope loses with them.
    """
    precision = run.settings.precision.replace("auto", "float32")
    choosing = replace(run, settings=replace(run.settings, precision=precision))
    networks = new_networks(run, VARIANTS["standard"], digits, 0)
    game = losses.non_saturating()

    def both_losses(networks: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        generator, discriminator = networks
        x = batch[0]
        z = torch.randn(len(x), generator.noise, device=x.device)
        loss = game.discriminator(discriminator(x).float(), discriminator(generator(z)).float())
        return loss, loss.detach()

    batch = next(digits.batches(digits.train, run.budget.batch_size, PLAIN)())
    setting = choose(choosing, networks, batch, both_losses, folder=folder)
    run.engine = choosing.engine
    return setting


def new_networks(run: Run, variant: Variant, digits: Photographs, seed: int) -> nn.ModuleList:
    """Generator and discriminator; the same seed gives all variants the same convolutions.

    Raises UserError for more widths than an image can be halved.
    """
    budget, shape = run.budget, (1, digits.side, digits.side)
    classes = len(digits.classes) if variant.conditional else 0

    def make() -> nn.ModuleList:
        if variant.linear:
            pair = mlp_generator(budget.noise, shape), mlp_discriminator(shape)
        else:
            pair = (
                dcgan_generator(budget.noise, shape, budget.widths, classes=classes),
                dcgan_discriminator(shape, budget.widths[::-1], classes=classes),
            )
        if variant.spectral:
            spectrally_normalised(pair[1])
        return nn.ModuleList(pair)

    try:
        return seeded(device_seed(run.settings.seed, WEIGHTS, seed), make)
    except ValueError as error:
        raise UserError(f"widths: {error}") from error


def learn(
    run: Run,
    variant: Variant,
    digits: Photographs,
    judge: Judge,
    setting: Setting,
    *,
    seed: int,
    folder: Path,
    bar: Progress,
) -> Learned:
    """Train a variant, as the run's budget says; where it diverges, up to there.

    The budget has `steps` of either network, `looks` (how often it is measured), `batch_size`,
    `noise`, `widths`, `lr`, and `mean`, the decay of the mean of weights that is measured. Where
    the folder has checkpoints, training goes on from there.
    """
    budget = run.budget
    networks: Any = setting.prepare(new_networks(run, variant, digits, seed))
    generator, discriminator = networks
    average = averaged(generator, budget.mean)
    optimizers: Any = tuple(
        torch.optim.Adam(network.parameters(), budget.lr, BETAS) for network in networks
    )
    order = device_seed(run.settings.seed, ORDER, seed)
    size = min(budget.batch_size, len(digits.train[0]))
    batches = digits.batches(digits.train, size, setting, seed=order)
    n = len(judge.validation.real)
    z = noise(run, n)
    y = evenly(n, digits) if variant.conditional else None
    learned = Learned(variant, average.module, setting, History(), Kept(folder / "samples.pt"), "")

    def measure(mean: nn.Module) -> dict[str, float]:
        images = learned.made(z, y)
        shown = torch.from_numpy(pictures(images[:SHOWN]))
        learned.samples[int(average.n_averaged)] = shown
        return judge.validation(images)

    def on_epoch(history: History) -> None:
        distance = history.measured[-1]["frechet_distance"]
        bar.advance(f"{variant.label}: Fréchet distance {distance:.2f}")

    try:
        learned.history = fit(
            generator, discriminator, variant.game(), optimizers,
            in_rounds(batches, steps_of(run) // budget.looks), epochs=budget.looks,
            seed=order, setting=setting, average=average, measure=measure, on_epoch=on_epoch,
            checkpoints=folder, resume=True, on_resume=bar.skip,
        )  # fmt: skip
    except FloatingPointError as error:
        learned.fault = str(error)
    if not learned.fault:
        sign(folder, recipe_of_training(run))
    return learned


def in_rounds(batches: Batches, steps: int) -> Data:
    """So many batches a round, which go on where those of the last round ended."""

    def data(number: int) -> Iterator[Batch]:
        epoch, done = divmod(number * steps, len(batches))
        return islice(chain.from_iterable(map(batches, count(epoch))), done, done + steps)

    return data


def steps_of(run: Run) -> int:
    """The budget's steps, as many between any two looks, and one at least."""
    return run.budget.looks * max(1, run.budget.steps // run.budget.looks)


def noise(run: Run, n: int, *key: int) -> torch.Tensor:
    """Noise (n, Z) to measure with, the same in every experiment; with a key another."""
    generator = torch.Generator().manual_seed(device_seed(run.settings.seed, MEASURED, *key))
    return torch.randn(n, run.budget.noise, generator=generator)


def evenly(n: int, digits: Photographs) -> torch.Tensor:
    """Classes (n,) in turn."""
    return torch.arange(n) % len(digits.classes)


def recipe_of_training(run: Run) -> bytes:
    """Of all trainings of `learn` with this run's budget, whichever experiment has done them."""
    budget = {key: run.budget[key] for key in config.GANS}
    sources = [Path(__file__), Path(_gans.__file__), Path(gans.__file__).parent]
    return recipe_of(run, budget, sources, run.data_used["mnist"])


def best_trained(run: Run) -> tuple[str, int, Path] | None:
    """(variant, seed, folder) of the training of `gan_variants` with the least Fréchet distance.

    From validation images. None where it has done none with the same settings.
    """
    recipe, found = recipe_of_training(run), []
    for name in VARIANTS:
        for folder in run.checkpoints_of("gan_variants").glob(f"{name}_*"):
            if is_of(folder, recipe):
                last = checkpoint.load(folder / "last.pt")["history"]["measured"][-1]
                seed = int(folder.name.rpartition("_")[2])
                found.append((last["frechet_distance"], name, seed, folder))
    return min(found)[1:] if found else None
