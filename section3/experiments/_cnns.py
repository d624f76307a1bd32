"""What the experiments with images share: standardised images, and whether a difference is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from section1.experiments._images import SPLIT
from section1.layer import Layer
from section1.training import Batch
from utils.experiments.run import Run

# Of Student's t with 1, 2, 3, ... degrees of freedom: 95% lies between -t and t.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
       2.12, 2.11, 2.10)  # fmt: skip
ALONE = "single runs tell no difference from noise"


@dataclass(frozen=True)
class Images:
    """Images (N, H, W, C) of standardised pixels, with their labels (N,)."""

    train: Batch
    validation: Batch
    test: Batch
    raw: np.ndarray  # (N, H, W, C) in [0, 1], those of the test set
    classes: tuple[str, ...]
    mean: np.ndarray  # (C,), of the training images
    std: np.ndarray  # (C,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        h, w, c = self.raw.shape[1:]
        return h, w, c

    def standardised(self, raw: np.ndarray) -> np.ndarray:
        return (raw - self.mean) / self.std


def load_images(run: Run, name: str) -> Images:
    """At most `samples` training images of a set, a tenth of them held out for validation.

    Each channel gets mean 0 and standard deviation 1 over all places of the training images:
    one number for all places, for a filter is the same at all of them.
    """
    data = run.load(name).subset(run.budget.samples, rng=run.rng(SPLIT))
    split = data.split_validation(math.ceil(len(data.train_x) / 10), run.rng(SPLIT + 1))
    mean, std = channel_statistics(split.train_x)

    def batch(x: np.ndarray, y: np.ndarray) -> Batch:
        return (x - mean) / std, y

    return Images(
        batch(split.train_x, split.train_y),
        batch(split.val_x, split.val_y),
        batch(split.test_x, split.test_y),
        split.test_x,
        split.classes,
        mean,
        std,
    )


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and standard deviation (C,) of the channels of images (N, H, W, C) in [0, 1].

    Summed in float64. A sum in float32 stops growing at 2^24, where 0.5 more is rounded away:
    of 50,000 photographs of 32x32 pixels it would make a mean of 0.33, whatever is on them.
    """
    n = images.size // images.shape[3]
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    squares = np.einsum("nhwc,nhwc->c", images, images, dtype=np.float64, casting="safe")
    std = np.sqrt(np.maximum(squares / n - mean**2, 0))
    return mean.astype(images.dtype), std.astype(images.dtype)


def count_parameters(model: Layer) -> int:
    return sum(parameter.value.size for parameter in model.parameters())


def tied(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> bool:
    """Whether two sets of runs differ by no more than noise would explain.

    That is: 0 lies in the 95% confidence interval of the difference of their means (t-test), which
    is without end where one of them is a single run. Two sets of n have 2 (n - 1) degrees of
    freedom; others as many as the smaller has alone, the least that there can be (Welch, The
    generalization of Student's problem, 1947).
    """
    n = min(len(a), len(b))
    if n < 2:
        return True
    freedom = 2 * (n - 1) if len(a) == len(b) else n - 1
    margin = T95[min(freedom, len(T95)) - 1] * math.sqrt(
        np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)
    )
    return bool(abs(np.mean(a) - np.mean(b)) <= margin)
