"""Scenes: pictures composed of handwritten digits, with a box around each.

A detector needs pictures in which things lie anywhere, in any size and number, before backgrounds
that are not empty, with a true box for each. Composed of MNIST's digits they can be had in any
number, are learned in minutes, and every box is exact: it is the box of the digit's own ink.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

INK = 0.25  # a pixel with more belongs to the digit
TRIES = 60  # places that are tried for a digit before it is left out


@dataclass(frozen=True)
class Scenes:
    """Pictures and what is in them.

    images: (N, H, W, 3) bytes. truths: (N, M, 5) float32, a row (x1, y1, x2, y2, class) for each
    box, in pixels as `boxes` has them; where an image has fewer than M its last rows are
    (0, 0, 0, 0, -1). classes: the name of each class.
    """

    images: np.ndarray
    truths: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | np.ndarray) -> Scenes:
        return Scenes(self.images[rows], self.truths[rows], self.classes)


@dataclass(frozen=True)
class Style:
    """What scenes are like; sizes in pixels."""

    side: int = 96
    digits: tuple[int, int] = (1, 6)  # at least, at most; fewer where there is no place for more
    size: tuple[int, int] = (16, 40)  # of the longer side, before a faint edge is cut off
    overlap: float = 0.3  # at most so much of the smaller of two boxes lies in the other
    clutter: tuple[int, int] = (0, 6)  # scraps of digits that are none

    def __post_init__(self) -> None:
        if self.side < max(16, self.size[1]):
            needed = max(16, self.size[1])
            raise ValueError(f"the side has {self.side} pixels, but needs at least {needed}")


STYLE = Style()


def compose(
    digits: np.ndarray,
    labels: np.ndarray,
    count: int,
    rng: np.random.Generator,
    style: Style = STYLE,
) -> Scenes:
    """`count` scenes of digits (N, 28, 28, 1) in [0, 1] with labels (N,) from 0 to 9.

    The same generator gives the same scenes. Scene k does not depend on how many follow it.
    """
    images = np.empty((count, style.side, style.side, 3), np.uint8)
    truths = []
    for image, child in zip(images, rng.spawn(count)):
        canvas, truth = scene(digits, labels, child, style)
        image[:] = np.rint(255 * canvas.clip(0, 1))
        truths.append(truth)
    return Scenes(images, padded(truths), tuple("0123456789"))


def padded(truths: Sequence[np.ndarray]) -> np.ndarray:
    """N arrays (m, 5) of boxes and classes as one, (N, M, 5) float32 with class -1 for no box."""
    most = max([1, *map(len, truths)])
    together = np.zeros((len(truths), most, 5), np.float32)
    together[..., 4] = -1
    for rows, truth in zip(together, truths):
        rows[: len(truth)] = truth
    return together


def scene(
    digits: np.ndarray, labels: np.ndarray, rng: np.random.Generator, style: Style
) -> tuple[np.ndarray, np.ndarray]:
    """One scene: its image (H, W, 3), about in [0, 1], and its boxes and classes (m, 5)."""
    canvas = background(style.side, rng)
    for _ in range(rng.integers(*style.clutter, endpoint=True)):
        number, longer = rng.integers(len(digits)), int(rng.integers(6, 14))
        scrap = resized(piece(digits[number, ..., 0], rng), longer)
        paint(canvas, scrap, *corner(scrap, style.side, rng), rng)
    truth = np.zeros((0, 5))
    for _ in range(rng.integers(*style.digits, endpoint=True)):
        number, longer = rng.integers(len(digits)), int(rng.integers(*style.size, endpoint=True))
        ink = cut_out(resized(cut_out(digits[number, ..., 0]), longer))
        for _ in range(TRIES):
            top, left = corner(ink, style.side, rng)
            row = np.array([left, top, left + ink.shape[1], top + ink.shape[0], labels[number]])
            if covered(row[:4], truth[:, :4]).max(initial=0) <= style.overlap:
                paint(canvas, ink, top, left, rng)
                truth = np.concatenate([truth, row[None]])
                break
    return canvas, truth


def background(side: int, rng: np.random.Generator) -> np.ndarray:
    """A slow change between colours, under a little noise: (side, side, 3) in [0, 1]."""
    coarse = rng.uniform(0.05, 0.75, (3, 3, 3))  # (C, H, W)
    smooth = resampling(3, side) @ coarse @ resampling(3, side).T  # (C, side, side)
    noise = rng.standard_normal((side, side, 3), np.float32)
    return smooth.transpose(1, 2, 0) + 0.03 * noise


def cut_out(digit: np.ndarray) -> np.ndarray:
    """The smallest part (h, w) of a digit (H, W) that has all of its ink."""
    ink = digit > INK
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else digit


def piece(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random square of 8x8 pixels out of a digit's ink: a stroke, but no digit."""
    ink = cut_out(digit)
    down, right = (rng.integers(max(1, length - 7)) for length in ink.shape)
    return ink[down : down + 8, right : right + 8]


@cache
def resampling(old: int, new: int) -> np.ndarray:
    """The matrix (new, old) that interpolates linearly, and averages where pixels become fewer."""
    scale = old / new
    middle = (np.arange(new) + 0.5) * scale - 0.5
    weights = (1 - np.abs(middle[:, None] - np.arange(old)) / max(scale, 1)).clip(0)
    return weights / weights.sum(1, keepdims=True)


def resized(ink: np.ndarray, longer: int) -> np.ndarray:
    """With the longer side `longer` pixels long, in the same proportions, at least 3 wide."""
    h, w = (max(3, round(length * longer / max(ink.shape))) for length in ink.shape)
    return resampling(ink.shape[0], h) @ ink @ resampling(ink.shape[1], w).T


def corner(ink: np.ndarray, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random place (top, left) at which it lies wholly inside the picture."""
    top, left = (int(rng.integers(side - length + 1)) for length in ink.shape)
    return top, left


def covered(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which share of the smaller of the two lies in the other: (4,), (M, 4) -> (M,)."""
    size = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    both = size.clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return both / np.minimum(areas, (box[2:] - box[:2]).prod())


def paint(
    canvas: np.ndarray, ink: np.ndarray, top: int, left: int, rng: np.random.Generator
) -> None:
    """Lay ink (h, w) in [0, 1] over the canvas (H, W, 3), in place, in a colour that is seen there.

    Of a few random colours it is the one that keeps farthest from all that lies under the ink.
    """
    h, w = ink.shape
    part, share = canvas[top : top + h, left : left + w], ink[..., None]
    colours = rng.uniform(0, 1, (8, 3))
    under = part[ink >= ink.max() / 2].T  # (3, P)
    distance = np.abs(colours[..., None] - under).sum(1)  # (8, 3, P) -> (8, P)
    part += share * (colours[distance.min(1).argmax()] - part)
