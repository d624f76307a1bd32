"""Handwritten digits at MNIST's size, from the 1,797 that scikit-learn carries.

Enlarging an image by bilinear interpolation is linear, and rows and columns do not mix:
with R (20, 8) whose every row holds two weights that add up to one, the enlarged image is
R @ image @ R.T. MNIST's digits fill 20 x 20 pixels of 28 x 28, so four pixels of empty
border are added on each side.

Source: https://archive.ics.uci.edu/dataset/80 (optdigits, its test part; CC BY 4.0).
"""

from __future__ import annotations

import numpy as np

from utils.data.errors import DataError

TEST_SIZE = 360


def resize_matrix(n_out: int, n_in: int) -> np.ndarray:
    """The (n_out, n_in) matrix of linear interpolation between pixel centres.

    Output pixel i has its centre at (i + 0.5) * n_in / n_out - 0.5 on the input's scale.
    """
    centre = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    centre = np.clip(centre, 0, n_in - 1)
    distance = np.abs(centre[:, None] - np.arange(n_in))  # (n_out, n_in)
    return np.maximum(0, 1 - distance)


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """train_x, train_y, test_x, test_y: (N, 28, 28, 1) float32 in [0, 1] and (N,) int64.

    The last 360 of the 1,797 are the test set. The rows of one writer lie together, so
    that nearly all hands in the test set are new; a random split would test on the hands
    it was trained on. Raises DataError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "The embedded digits come with scikit-learn: pip install scikit-learn."
        ) from error
    small, labels = load_digits(return_X_y=True)  # (1797, 64) in 0 ... 16
    resize = resize_matrix(20, 8)
    large = resize @ small.reshape(-1, 8, 8) @ resize.T / 16  # (N, 20, 20)
    images = np.pad(large, ((0, 0), (4, 4), (4, 4)))[..., None].astype(np.float32)
    labels = labels.astype(np.int64)
    return images[:-TEST_SIZE], labels[:-TEST_SIZE], images[-TEST_SIZE:], labels[-TEST_SIZE:]
