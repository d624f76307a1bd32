"""What the NumPy GAN learns in `numpy_gan`: points of a ring and of a strip, and digits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from section1.layer import Layer
from section1.training import predict
from section2.optimizers import Adam
from section2.schedules import Schedule, constant, cosine
from section4.experiments._gans import Judge, pictures
from section4.experiments._kept import Kept
from section4.gans.mixtures import Mixture, ring
from section4.gans.numpy_gan import History, fit, mlp_discriminator, mlp_generator
from utils.data.toy import swiss_roll
from utils.experiments.progress import Progress
from utils.experiments.run import Run

POINTS, DIGITS = range(2)  # keys of what is drawn at random
PLANES = {"ring": "a ring of 8 Gaussians", "strip": "a rolled-up strip"}
NOISE, BATCH, JUDGED = 2, 64, 2500  # of points: numbers that one is made of; how many are judged
HIDDEN, BETAS, RATE = (64, 64), (0.5, 0.9), 4e-3  # of both networks for points, and of Adam
DIGIT_NOISE, DIGIT_BETAS = 64, (0.5, 0.999)
WIDTHS = (256, 512), (128, 64)  # of generator and discriminator of digits
DEVIATION, ALONG = 0.04, 200  # of points from the middle of the strip; places along it
SHOWN = 10  # digits, of the same noise at every look


@dataclass
class Learned:
    """A training: what was seen, and samples by the step at which they were made."""

    history: History
    samples: Kept[torch.Tensor]
    generator: Layer

    @property
    def steps(self) -> list[int]:
        return list(self.samples)

    def series(self, key: str) -> list[float]:
        """What was measured under this name, a number for each of `steps`."""
        return [measured[key] for measured in self.history.measured]


def learn(
    run: Run,
    networks: tuple[Layer, Layer],
    batch: Callable[[np.random.Generator], np.ndarray],
    score: Callable[[Layer], tuple[np.ndarray, dict[str, float]]],
    *,
    steps: int,
    noise: int,
    betas: tuple[float, float],
    schedule: Schedule,
    rng: np.random.Generator,
    folder: Path,
    bar: Progress,
) -> Learned:
    """Train generator and discriminator on one `batch(rng)` after the other.

    score: gives samples of a generator that are to be kept, and what is measured.
    """
    first, second = (Adam(side.parameters(), schedule(0), betas) for side in networks)
    each = max(1, steps // run.budget.checks)
    samples = Kept[torch.Tensor](folder / "samples.pt")

    def batches(rng: np.random.Generator) -> Iterable[np.ndarray]:
        return (batch(rng) for _ in range(each))

    def measure(generator: Layer) -> dict[str, float]:
        made, scores = score(generator)
        samples[first.steps] = torch.from_numpy(made)
        return scores

    def on_epoch(history: History) -> None:
        now = history.measured[-1]
        bar.advance(", ".join(f"{key} {value:.3g}" for key, value in now.items()))

    history = fit(
        *networks, (first, second), batches, noise=noise, epochs=run.budget.checks, rng=rng,
        schedule=schedule, threads=run.threads, measure=measure, on_epoch=on_epoch,
        checkpoints=folder, resume=True, on_resume=bar.skip,
    )  # fmt: skip
    return Learned(history, samples, networks[0])


# --- points ---------------------------------------------------------------------------------


def strip() -> Mixture:
    """The middle of the rolled-up strip as a row of narrow Gaussians, to count what is near."""
    angle = np.pi * (1.5 + 3 * (np.arange(ALONG) + 0.5) / ALONG)
    radius = 2 * angle / (4.5 * np.pi)
    centres = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return Mixture(centres, DEVIATION)


def real_points(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """New points (n, 2) of the ring or the strip."""
    if name == "ring":
        return ring().sample(n, rng)[0]
    return 2 * swiss_roll(n, DEVIATION / 2, rng)[0]


def learn_points(run: Run, name: str, folder: Path, bar: Progress) -> Learned:
    """How many samples are near the data, and near how much of the data there are samples."""
    weights, order, judged = run.rng(POINTS, list(PLANES).index(name)).spawn(3)
    z = judged.standard_normal((JUDGED, NOISE)).astype(np.float32)
    target = ring() if name == "ring" else strip()

    def score(generator: Layer) -> tuple[np.ndarray, dict[str, float]]:
        points = predict(generator, z, threads=run.threads)
        covered, near = target.quality(points)
        return points, {"near": near, "covered": covered / len(target.centres)}

    networks = (
        mlp_generator(NOISE, 2, HIDDEN, bounded=False, rng=weights),
        mlp_discriminator(2, HIDDEN, rng=weights),
    )
    steps = run.budget.point_steps
    return learn(
        run, networks, lambda rng: real_points(name, BATCH, rng), score, steps=steps, noise=NOISE,
        betas=BETAS, schedule=cosine(RATE, steps), rng=order, folder=folder, bar=bar,
    )  # fmt: skip


# --- digits ---------------------------------------------------------------------------------


def learn_digits(run: Run, x: np.ndarray, judge: Judge, folder: Path, bar: Progress) -> Learned:
    """Digits like the images x (N, 784) in [-1, 1], held against validation images on the way."""
    budget = run.budget
    weights, order, judged = run.rng(DIGITS).spawn(3)
    z = judged.standard_normal((len(judge.validation.real), DIGIT_NOISE)).astype(np.float32)

    def batch(rng: np.random.Generator) -> np.ndarray:
        return x[rng.integers(len(x), size=budget.batch_size)]

    def score(generator: Layer) -> tuple[np.ndarray, dict[str, float]]:
        images = made(generator, z, run)
        return pictures(images[:SHOWN]), judge.validation(images)

    networks = (
        mlp_generator(DIGIT_NOISE, x.shape[1], WIDTHS[0], batchnorm=True, rng=weights),
        mlp_discriminator(x.shape[1], WIDTHS[1], rng=weights),
    )
    return learn(
        run, networks, batch, score, steps=budget.steps, noise=DIGIT_NOISE, betas=DIGIT_BETAS,
        schedule=constant(budget.lr), rng=order, folder=folder, bar=bar,
    )  # fmt: skip


def made(generator: Layer, z: np.ndarray, run: Run) -> torch.Tensor:
    """Images (N, 1, 28, 28) of noise (N, Z)."""
    return torch.from_numpy(predict(generator, z, threads=run.threads)).reshape(-1, 1, 28, 28)
