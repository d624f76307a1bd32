"""Metrics: SciPy's Fréchet distance, loops, known cases, and pictures that get worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

from section4.engine import cross_entropy
from section4.gans import metrics
from section4.gans.metrics import (
    Evaluator,
    class_shares,
    classifier_score,
    features,
    frechet_distance,
    precision_recall,
    squared_distances,
)
from section4.images import Batches
from section4.training import fit
from section4.vision.classifiers import cnn
from tests.section4.no_float64 import NoFloat64
from utils.data import load


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --- the Fréchet distance -------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 4), (200, 20), (12, 8), (5, 8), (30, 1)], ids=str)
def test_frechet_distance_is_scipys(shape: tuple[int, int]) -> None:
    """Also with fewer samples than features, where covariances have no inverse."""
    first = some(*shape) @ some(shape[1], shape[1], seed=1) + 1
    second = some(*shape, seed=2) @ some(shape[1], shape[1], seed=3)
    c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (first, second))
    if len(first) > shape[1]:
        trace = np.trace(linalg.sqrtm(c1 @ c2)).real
    else:  # sqrtm wants an inverse: the same trace from the product's eigenvalues
        trace = np.sqrt(linalg.eigvals(c1 @ c2).real.clip(0)).sum()
    difference = first.mean(axis=0) - second.mean(axis=0)
    expected = difference @ difference + np.trace(c1) + np.trace(c2) - 2 * trace
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_gaussians_by_hand() -> None:
    x = some(20_000, 3)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + np.array([3, 0, 4])) == pytest.approx(25, rel=1e-6)
    spread = float(np.trace(np.cov(x, rowvar=False)))
    assert frechet_distance(x, 3 * x) == pytest.approx(
        4 * spread + 4 * (x.mean(axis=0) ** 2).sum(), rel=1e-6
    )


def test_frechet_distance_of_equal_gaussians_is_too_large_by_what_the_docstring_says() -> None:
    n, width = 500, 16
    found = [
        frechet_distance(some(n, width, seed=2 * k), some(n, width, seed=2 * k + 1))
        for k in range(9)
    ]
    assert np.mean(found) == pytest.approx((2 + (width + 1) / 2) * width / n, rel=0.1)


def test_what_cannot_be_compared_is_refused() -> None:
    for first, second in (((5, 3), (5, 4)), ((1, 3), (5, 3)), ((5,), (5,))):
        with pytest.raises(ValueError, match="compares two rows or more"):
            frechet_distance(some(*first), some(*second))
    with pytest.raises(ValueError, match="3 neighbours need more points than that, got 3 and 9"):
        precision_recall(some(3, 2), some(9, 2))


# --- precision and recall -------------------------------------------------------------------


def by_loop(points: np.ndarray, cloud: np.ndarray, neighbours: int) -> float:
    radii = [np.sort(np.linalg.norm(cloud - c, axis=1))[neighbours] for c in cloud]
    inside = [any(np.linalg.norm(p - c) <= r for c, r in zip(cloud, radii)) for p in points]
    return float(np.mean(inside))


@pytest.mark.parametrize("rows", [7, 1000])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_are_the_loop(
    rows: int, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "ROWS", rows)
    real, fake = some(40, 2), 0.5 * some(30, 2, seed=1) + 0.5
    precision, recall = precision_recall(real, fake, neighbours)
    assert precision == by_loop(fake, real, neighbours)
    assert recall == by_loop(real, fake, neighbours)
    assert 0 < recall < precision <= 1


def test_a_missing_kind_costs_recall_and_a_bad_one_precision() -> None:
    left, right = some(300, 2) - 9, some(300, 2, seed=1) + 9
    both = np.concatenate([left, right])
    again = some(300, 2, seed=2) - 9
    precision, recall = precision_recall(both, again)
    assert precision > 0.9 and recall == pytest.approx(0.5, abs=0.06)
    recall_of_real, precision_of_real = precision_recall(again, both)
    assert (recall_of_real, precision_of_real) == (recall, precision)


def test_distances_far_from_zero() -> None:
    first, second = some(5, 3) + 1e6, some(4, 3, seed=1) + 1e6
    found = np.concatenate(list(squared_distances(first, second)))
    expected = ((first[:, None] - second) ** 2).sum(axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# --- what the classifier says ---------------------------------------------------------------


def test_classifier_score_lies_between_1_and_the_number_of_classes() -> None:
    assert classifier_score(np.full((8, 4), 0.25)) == pytest.approx(1)
    assert classifier_score(np.eye(4)[[0, 1, 2, 3] * 2]) == pytest.approx(4)
    assert classifier_score(np.eye(4)[[1] * 8]) == pytest.approx(1)  # sharp, but all alike
    p = np.array([[0.9, 0.1], [0.3, 0.7]])
    mean = np.array([0.6, 0.4])
    kl = [(row * np.log(row / mean)).sum() for row in p]
    assert classifier_score(p) == pytest.approx(np.exp(np.mean(kl)))


def test_shares_of_classes() -> None:
    p = np.eye(4)[[0, 0, 2, 3]]
    np.testing.assert_array_equal(class_shares(p), [0.5, 0, 0.25, 0.25])


# --- pictures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Any:
    """A classifier of the embedded digits, trained for a second, and digits in [-1, 1]."""
    data = load("mnist", "embedded")
    mean = std = torch.tensor([0.5])
    images = torch.from_numpy((data.train_x * 255).astype(np.uint8)).permute(0, 3, 1, 2)
    batches = Batches(images, torch.from_numpy(data.train_y), mean, std, 64, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = cnn(1, filters=(8, 16, 32))
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-2)
    history = fit(classifier, cross_entropy(), optimizer, batches, epochs=3, seed=0)
    assert history.metric[-1] > 0.9
    return classifier, (images.float() / 127.5 - 1)[:1200]


def blurred(images: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        images = nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return images


def test_the_worse_the_pictures_the_larger_the_distance(digits: Any) -> None:
    classifier, images = digits
    first, second = images[::2], images[1::2]
    evaluator = Evaluator(classifier, first)
    real = evaluator(second)
    noise = evaluator(2 * torch.rand(600, 1, 28, 28) - 1)
    distances = [evaluator(blurred(second, times))["frechet_distance"] for times in (0, 1, 2, 4, 8)]
    assert distances == sorted(distances) and distances[0] == real["frechet_distance"]
    assert real["frechet_distance"] < 0.02 * noise["frechet_distance"]
    assert distances[2] > 3 * real["frechet_distance"]
    assert real["precision"] > 0.8 and real["recall"] > 0.8
    assert noise["precision"] < 0.05
    assert real["classes"] == 10 and real["rarest_class"] > 0.05
    assert noise["classes"] <= 3 and noise["rarest_class"] == 0
    assert noise["classifier_score"] < 2 < 5 < real["classifier_score"] < 10


def test_a_generator_of_one_class_is_found_out(digits: Any) -> None:
    classifier, images = digits
    evaluator = Evaluator(classifier, images[::2])
    _, probabilities = features(classifier, images[1::2])
    ones = images[1::2][torch.from_numpy(probabilities.argmax(axis=1) == 1)]
    found = evaluator(ones)
    assert found["classes"] == 1 and found["rarest_class"] == 0
    assert found["precision"] > 0.8 and found["recall"] < 0.3


def test_features_are_the_last_layers_input(digits: Any) -> None:
    classifier, images = digits
    classifier.train()
    h, p = features(classifier, images[:30], batch=7)
    assert classifier.training
    classifier.eval()
    assert h.shape == (30, 32) and p.shape == (30, 10) and h.dtype == p.dtype == np.float64
    with torch.no_grad():
        scores = classifier(images[:30])
        expected = classifier[-1](torch.from_numpy(h).float())
    torch.testing.assert_close(expected, scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(p, scores.double().softmax(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_features_of_a_device_without_float64() -> None:
    images = torch.rand(3, 1, 8, 8)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    h, p = features(classifier, images.as_subclass(NoFloat64))
    assert h.shape == (3, 64) and p.dtype == np.float64
