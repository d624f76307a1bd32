"""Boxes and truths to test detectors with, and overlap written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Row = Sequence[float]  # a box, or a box and its class


def random_boxes(*shape: int, side: float, seed: int) -> torch.Tensor:
    """Boxes (*shape, 4) in float64 inside a square, a tenth to a half as large as it is."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(*shape, 4, dtype=torch.float64, generator=generator)
    size = side * (0.1 + 0.4 * draws[..., 2:])
    low = draws[..., :2] * (side - size)
    return torch.cat([low, low + size], -1)


def truths(*images: Sequence[Row]) -> torch.Tensor:
    """(N, M, 5) of each image's rows (x1, y1, x2, y2, class), and at least one that is unused."""
    padded = torch.zeros(len(images), max(map(len, images)) + 1, 5)
    padded[..., 4] = -1
    for rows, image in zip(padded, images):
        rows[: len(image)] = torch.tensor(image).reshape(-1, 5)
    return padded


def overlap(a: Row, b: Row) -> float:
    """IoU of two boxes."""
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either else 0.0
