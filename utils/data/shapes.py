"""Drawn shapes: an endless supply of labelled images from formulas.

A shape is a function of the plane that is negative inside and positive outside; all of
them fit into a circle of radius 1. Where it
is (nearly) the distance to the outline, drawing without jagged edges is one line: a pixel
is covered by clip(1/2 - distance in pixels, 0, 1). Moving, turning and scaling a shape is
done by moving, turning and scaling the pixels' coordinates instead.

Position, size, angle, colours, background and noise are random, and a shape is brighter
than its background as often as darker. No single pixel tells anything about the class: a
linear classifier has little to go by, and a small convolutional network learns it.

Source of the idea: https://iquilezles.org/articles/distfunctions2d/
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75) - 0.2


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def _frame(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.55) - 0.17


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Three half planes, each 1/2 away from the centre."""
    return np.maximum(np.sqrt(0.75) * np.abs(x) + y / 2, -y) - 0.5


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five tips: fold the plane into a tenth of a turn, where the outline is one line."""
    half = np.pi / 5
    angle = np.abs((np.arctan2(x, y) + half) % (2 * half) - half)  # 0 at a tip, half between
    radius = np.hypot(x, y)
    u, v = radius * np.cos(angle), radius * np.sin(angle)
    inner_u, inner_v = 0.42 * np.cos(half), 0.42 * np.sin(half)  # the tip is (1, 0)
    edge = np.hypot(1 - inner_u, inner_v)
    return (inner_v * (u - 1) + (1 - inner_u) * v) / edge


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.27)


def _bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.25)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A disc without another disc."""
    return np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.5, y))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner, and a disc on each of its upper sides."""
    x, y = np.abs(x), y + 0.1
    diamond = (x + np.abs(y) - 0.75) / np.sqrt(2)
    lobe = np.hypot(x - 0.375, y - 0.375) - 0.75 / np.sqrt(2)
    return np.minimum(diamond, lobe)


FIELDS: dict[str, Field] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "bar": _bar,
    "crescent": _crescent,
    "heart": _heart,
}
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.9, 0.1, 0.1),
    "orange": (1.0, 0.55, 0.0),
    "yellow": (0.95, 0.95, 0.1),
    "green": (0.1, 0.65, 0.15),
    "cyan": (0.1, 0.85, 0.9),
    "blue": (0.1, 0.2, 0.9),
    "purple": (0.5, 0.05, 0.7),
    "pink": (1.0, 0.5, 0.8),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
}
SHAPES = tuple(FIELDS)
COLOURED_SHAPES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)


def coloured(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n shapes in random colours: (n, 32, 32, 3) float32 in [0, 1], labels (n,) in SHAPES."""
    return _random_colours(n, 32, 3, rng)


def grey(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n shapes in random greys: (n, 28, 28, 1) float32 in [0, 1], labels (n,) in SHAPES."""
    return _random_colours(n, 28, 1, rng)


def in_named_colours(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n shapes in named colours on grey: (n, 32, 32, 3), labels (n,) in COLOURED_SHAPES."""
    labels = _balanced(n, len(COLOURED_SHAPES), rng)
    shape, colour = np.divmod(labels, len(COLOURS))
    ink = np.array(list(COLOURS.values()))[colour] + rng.uniform(-0.06, 0.06, (n, 3))
    paper = rng.uniform(0.3, 0.6, (n, 1)) + rng.uniform(-0.04, 0.04, (n, 3))
    return _paint(coverage(shape, 32, rng), ink, paper, rng), labels


def coverage(shape: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """How much of each pixel each shape covers: (n, size, size) float32 in [0, 1].

    shape: (n,) indices into SHAPES. Position, size (radius 0.22 to 0.4 of the image) and
    angle are drawn from `rng`; the whole shape stays inside the image.
    """
    n = len(shape)
    radius = rng.uniform(0.22, 0.4, n) * size  # pixels
    centre = size / 2 + rng.uniform(-1, 1, (2, n)) * (size / 2 - radius)
    angle = rng.uniform(0, 2 * np.pi, n)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    pixel = np.arange(size) + 0.5
    masks = np.empty((n, size, size), dtype=np.float32)
    for index, field in enumerate(FIELDS.values()):
        here = np.flatnonzero(shape == index)
        column = (pixel - centre[0, here, None])[:, None, :]  # (m, 1, size)
        row = (pixel - centre[1, here, None])[:, :, None]  # (m, size, 1)
        c, s = cos[here, None, None], sin[here, None, None]
        x = (c * column + s * row).astype(np.float32)  # (m, size, size), radius 1
        y = (c * row - s * column).astype(np.float32)
        distance = field(x, y) * radius[here, None, None].astype(np.float32)
        masks[here] = np.clip(0.5 - distance, 0, 1)
    return masks


def _random_colours(
    n: int, size: int, channels: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Shapes whose brightness differs from the background's by 0.35 to 0.65, either way.

    Brightness is taken modulo 1, like hours on a clock: the paper's is anything, the ink's
    is up to two thirds of the way around.
    """
    labels = _balanced(n, len(SHAPES), rng)
    light = rng.uniform(0, 1, (n, 1))
    tint = rng.uniform(-0.2, 0.2, (2, n, channels))
    tint -= tint.mean(axis=2, keepdims=True)  # a tint changes colour, not brightness
    paper = light + tint[0]
    ink = (light + rng.uniform(0.35, 0.65, (n, 1))) % 1 + tint[1]
    return _paint(coverage(labels, size, rng), ink, paper, rng), labels


def _paint(
    masks: np.ndarray, ink: np.ndarray, paper: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """masks (n, S, S), ink and paper (n, C) -> images (n, S, S, C), shaded and noisy."""
    n, size, _ = masks.shape
    slope = rng.uniform(-0.15, 0.15, (2, n, 1, 1))
    ramp = np.linspace(-1, 1, size)
    shade = slope[0] * ramp + slope[1] * ramp[:, None]  # (n, S, S): light from one side
    images = rng.standard_normal((n, size, size, ink.shape[1]), dtype=np.float32)
    images *= 0.05
    images += shade.astype(np.float32)[..., None]
    for channel in range(ink.shape[1]):
        contrast = (ink - paper)[:, channel, None, None].astype(np.float32)
        images[..., channel] += masks * contrast
        images[..., channel] += paper[:, channel, None, None].astype(np.float32)
    return np.clip(images, 0, 1, out=images)


def _balanced(n: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """n labels in random order, of every class as many as of any other, give or take one."""
    return rng.permutation(np.arange(n, dtype=np.int64) % classes)
