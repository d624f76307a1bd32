"""How good generated images are: as many, as varied and as sharp as real ones?

No single number says that. The features of a classifier that knows the data, its last layer but
one, turn images into points where distance means something; there the two clouds of points,
real and generated, are compared by mean and covariance (Fréchet distance), by how much of one
lies within the other (precision and recall); and the classes that the classifier sees say
whether any is missing. For points in the plane `mixtures.Mixture.quality` counts modes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from section4.engine import PLAIN, Setting
from section4.training import evaluation

ROWS = 1000  # of the table of all distances, at a time


class Evaluator:
    """Measures images against real ones, with the features of a classifier.

    classifier: an `nn.Sequential` whose last layer makes scores (N, K) of features (N, D), such
    as `vision.classifiers.cnn`. real: images (N, C, H, W), scaled as the classifier wants them.

    `evaluator(images)` gives, for generated images scaled alike:
    - frechet_distance, precision, recall: of the features, see the functions below;
    - classifier_score: see below;
    - classes: how many classes at least `LEAST` of the images belong to, by the classifier;
    - rarest_class: the share of the images that belong to the rarest class.
    """

    LEAST = 0.03

    def __init__(self, classifier: nn.Sequential, real: torch.Tensor, setting: Setting = PLAIN):
        self.classifier, self.setting = classifier, setting
        self.real, _ = features(classifier, real, setting)

    def __call__(self, images: torch.Tensor) -> dict[str, float]:
        fake, probabilities = features(self.classifier, images, self.setting)
        precision, recall = precision_recall(self.real, fake)
        shares = class_shares(probabilities)
        return {
            "frechet_distance": frechet_distance(self.real, fake),
            "precision": precision,
            "recall": recall,
            "classifier_score": classifier_score(probabilities),
            "classes": int((shares >= self.LEAST).sum()),
            "rarest_class": float(shares.min()),
        }


def features(
    classifier: nn.Sequential, images: torch.Tensor, setting: Setting = PLAIN, batch: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """What the last layer is given (N, D), and the probabilities it makes of it (N, K); float64."""
    body, head = classifier[:-1], classifier[-1]
    parts = []
    with evaluation(classifier, setting):
        for x in images.split(batch):
            h = body(setting.place(x))
            # To the CPU first, for not every device has float64.
            parts.append((h.cpu().double(), head(h).cpu().double().softmax(1)))
    h, p = (torch.cat(column).numpy() for column in zip(*parts))
    return h, p


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), for means m and covariances C of (N, D).

    It is the least mean squared way from one to the other of the Gaussians with these means and
    covariances (Wasserstein-2, squared). C1 C2 has the eigenvalues of the symmetric R C2 R, with
    R = C1^(1/2), so its root's trace is the sum of their roots. With N samples of each it is too
    large by up to about (2 + (D + 1) / 2) tr(C) / N, the more so the more alike the eigenvalues
    of C are: compare equal numbers of samples only, and more than D of them.

    Raises ValueError for samples of different width, or fewer than two.
    Sources: Dowson, Landau, The Fréchet distance between multivariate normal distributions
    (1982); Heusel et al., GANs trained by a two time-scale update rule, arXiv:1706.08500.
    """
    if first.ndim != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        raise ValueError(
            "the Fréchet distance compares two rows or more (N, D) of one width, got "
            f"{first.shape} and {second.shape}"
        )
    difference = first.mean(axis=0) - second.mean(axis=0)
    c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (first, second))
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # R
    of_product = np.linalg.eigvalsh(root @ c2 @ root).clip(0)
    squared = difference @ difference + np.trace(c1) + np.trace(c2) - 2 * np.sqrt(of_product).sum()
    return float(max(squared, 0.0))


def precision_recall(
    real: np.ndarray, fake: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
    """The share of `fake` (M, D) that lies within `real` (N, D), and the reverse.

    A set of points covers a ball around each that reaches to its third neighbour. Precision asks
    whether images are good, recall whether all kinds are there.
    Raises ValueError where there are not more points than neighbours.
    Source: Kynkäänniemi et al., Improved precision and recall metric for assessing generative
    models, arXiv:1904.06991.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"{neighbours} neighbours need more points than that, got {len(real)} and {len(fake)}"
        )
    return _within(fake, real, neighbours), _within(real, fake, neighbours)


def _within(points: np.ndarray, cloud: np.ndarray, neighbours: int) -> float:
    """The share of the points that lie in a ball of the cloud."""
    radii = np.concatenate(
        [
            np.partition(rows, neighbours, axis=1)[:, neighbours]  # the nearest is the point itself
            for rows in squared_distances(cloud, cloud)
        ]
    )
    inside = [(rows <= radii).any(axis=1) for rows in squared_distances(points, cloud)]
    return float(np.concatenate(inside).mean())


def squared_distances(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    """|a - b|^2 = |a|^2 + |b|^2 - 2 a b of all rows a, b: some rows (n, M) of (N, M) at a time.

    The middle of the second set is taken for the origin, for the sum of large numbers would
    round the small distances away.
    """
    middle = second.mean(axis=0)
    first, second = first - middle, second - middle
    lengths = np.einsum("nd,nd->n", second, second)
    for start in range(0, len(first), ROWS):
        rows = first[start : start + ROWS]
        yield np.einsum("nd,nd->n", rows, rows)[:, None] + lengths - 2 * rows @ second.T


def classifier_score(probabilities: np.ndarray) -> float:
    """exp of the mean of KL(p(k | x) | p(k)): from 1 to K, for probabilities (N, K) of classes.

    High where each image is of one class beyond doubt, and all classes are equally frequent. It
    is the inception score, with a classifier that knows the data in place of Inception.
    Source: Salimans et al., Improved techniques for training GANs, arXiv:1606.03498, section 4.
    """
    tiny = np.finfo(np.float64).tiny
    p = np.maximum(probabilities, tiny)
    return float(np.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()))


def class_shares(probabilities: np.ndarray) -> np.ndarray:
    """The share (K,) of the rows (N, K) for which each class is the most likely."""
    classes = probabilities.shape[1]
    return np.bincount(probabilities.argmax(axis=1), minlength=classes) / len(probabilities)
