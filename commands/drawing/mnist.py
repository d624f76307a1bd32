"""Any drawing as MNIST would have shown it.

A network that learned from MNIST has seen digits of one size at one place. So a drawing is treated
as those were: cut out along its outermost ink, made to fit 20x20 pixels without changing its
proportions, and put into 28x28 so that its centre of mass lies in the pixel after the middle,
row 14 and column 14 counted from 0.
Source: LeCun, Cortes, Burges, The MNIST database of handwritten digits, yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import numpy as np

SIDE, BOX = 28, 20  # pixels


def like_mnist(drawing: np.ndarray) -> np.ndarray:
    """A drawing (H, W), ink above 0, in MNIST's size and place: (28, 28), in the same units.

    Raises ValueError for a drawing without ink.
    """
    rows, columns = (np.flatnonzero(drawing.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError("the drawing is empty")
    digit = drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(digit.shape)
    h, w = (max(1, round(side * scale)) for side in digit.shape)
    small = mean_matrix(h, digit.shape[0]) @ digit @ mean_matrix(w, digit.shape[1]).T  # (h, w)
    top, left = (
        min(max(0, SIDE // 2 - int(round(centre, 6))), SIDE - side)  # rounded, so 9.9999999 is 10
        for centre, side in zip(centre_of_mass(small), small.shape)
    )
    image = np.zeros((SIDE, SIDE))
    image[top : top + h, left : left + w] = small
    return image


def mean_matrix(n_out: int, n_in: int) -> np.ndarray:
    """The (n_out, n_in) matrix that makes of n_in pixels in a row n_out: means of what they cover.

    Output pixel i covers the input from i n_in / n_out to (i + 1) n_in / n_out.
    """
    edges = np.arange(n_out + 1) * n_in / n_out
    start, end = edges[:-1, None], edges[1:, None]
    pixel = np.arange(n_in)
    covered = np.minimum(end, pixel + 1) - np.maximum(start, pixel)
    return np.maximum(0, covered) * n_out / n_in


def centre_of_mass(image: np.ndarray) -> tuple[float, float]:
    """(row, column) in pixels from the upper left corner of an image (H, W) that has ink."""
    h, w = image.shape
    mass = image.sum()
    row = image.sum(axis=1) @ (np.arange(h) + 0.5) / mass
    column = image.sum(axis=0) @ (np.arange(w) + 0.5) / mass
    return float(row), float(column)
