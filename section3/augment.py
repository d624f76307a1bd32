"""Augmentation: a network that never sees the same picture twice cannot learn it by heart.

A digit moved by two pixels is the same digit, and a car seen in a mirror is a car. What does
not change the answer is told to the network by examples: at every epoch each image is changed
at random, its label is not. Only training images are changed, never those that are measured.

A whole batch (N, H, W, C) is changed at once, into a new array of the same dtype; only
`turned` makes floats of integers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from section1.functions import as_float
from section1.training import Batch, shuffled


def shifted(x: np.ndarray, by: int, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to `by` pixels up or down and left or right.

    What comes into view repeats the pixels at the edge. All images are cut out of the padded
    batch by one index: `views` has every cut at every offset, and copies nothing.
    """
    n, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), mode="edge")
    views = np.moveaxis(sliding_window_view(padded, (h, w), (1, 2)), 3, 5)  # (N, 2by+1, 2by+1, HWC)
    down, right = rng.integers(0, 2 * by + 1, size=(2, n))
    return views[np.arange(n), down, right]


def mirrored(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image as it is or, with chance 1/2, with left and right exchanged."""
    chosen = rng.random(len(x)) < 0.5
    y = x.copy()
    y[chosen] = x[chosen, :, ::-1]
    return y


def turned(x: np.ndarray, degrees: float, stretch: float, rng: np.random.Generator) -> np.ndarray:
    """Each image turned around its middle and made larger or smaller.

    The angle is at most `degrees` either way and the factor in size at most 1 + `stretch`, or
    1 / (1 + stretch). A pixel of the result lies between four pixels of the image and is their
    weighted mean (bilinear interpolation); beyond the edge the pixels at the edge repeat.
    """
    x = as_float(x)
    n, h, w, c = x.shape
    angle = np.deg2rad(rng.uniform(-degrees, degrees, n))
    size = (1 + stretch) ** rng.uniform(-1, 1, n)
    cos, sin = (f(angle) / size for f in (np.cos, np.sin))
    cos, sin = (a.astype(np.float32)[:, None, None] for a in (cos, sin))
    i = np.arange(h, dtype=np.float32)[:, None] - (h - 1) / 2
    j = np.arange(w, dtype=np.float32) - (w - 1) / 2
    row = np.clip(cos * i - sin * j + (h - 1) / 2, 0, h - 1)  # (N, H, W)
    column = np.clip(sin * i + cos * j + (w - 1) / 2, 0, w - 1)
    top, left = np.minimum(row.astype(np.intp), h - 2), np.minimum(column.astype(np.intp), w - 2)
    below, right = ((a - b).astype(x.dtype)[..., None] for a, b in ((row, top), (column, left)))
    first = (np.arange(n)[:, None, None] * h + top) * w + left
    flat = x.reshape(-1, c)

    def pixels(offset: int) -> np.ndarray:
        return flat.take(first + offset, axis=0)  # (N, H, W, C)

    upper = pixels(0)
    upper += right * (pixels(1) - upper)
    lower = pixels(w)
    lower += right * (pixels(w + 1) - lower)
    upper += below * (lower - upper)
    return upper


def augmented(
    data: Batch,
    batch_size: int,
    rng: np.random.Generator,
    *,
    shift: int = 0,
    mirror: bool = False,
    turn: float = 0.0,
    stretch: float = 0.0,
) -> Iterator[Batch]:
    """The batches of one epoch, in a new random order, each image changed at random.

    `fit(..., data=lambda rng: augmented((x, y), 128, rng, shift=2))`: order and changes all come
    from the generator of `fit`, so that a resumed run sees the same images.
    """
    for x, y in shuffled(data, batch_size, rng):
        if turn or stretch:
            x = turned(x, turn, stretch, rng)
        if shift:
            x = shifted(x, shift, rng)
        if mirror:
            x = mirrored(x, rng)
        yield x, y
