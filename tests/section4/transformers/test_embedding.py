"""Embeddings against PyTorch, and what positions promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from section2.gradient_check import check_layer
from section4.transformers.embedding import (
    Embedding,
    LearnedPositions,
    SinusoidalPositions,
    Unembedding,
    rotate,
    sinusoids,
)
from tests.helpers import assert_layer_contract, assert_matches_torch


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (6,), (2, 5), (3, 1, 4)])
@pytest.mark.parametrize("vocabulary", [1, 4, 50])  # with repetitions, and with gaps
def test_embedding_matches_torch(shape: tuple[int, ...], vocabulary: int) -> None:
    layer = Embedding(vocabulary, 3, rng=rng(), dtype=np.float64)
    assert_matches_torch(layer, F.embedding, rng(1).integers(vocabulary, size=shape))


def test_embedding_keeps_the_contract_of_a_layer() -> None:
    x = rng().integers(4, size=(3, 5))
    assert_layer_contract(lambda dtype: Embedding(4, 3, rng=rng(), dtype=dtype), x)


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        (np.array([0, 4]), r"from 0 to 3, got values from 0 to 4"),
        (np.array([-1, 2]), r"got values from -1 to 2"),
        (np.array([0.0, 1.0]), "expects integers, got an array of float64"),
    ],
)
def test_embedding_refuses(x: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Embedding(4, 3, rng=rng())(x)


def unembedding(dtype: type) -> Unembedding:
    return Unembedding(Embedding(7, 4, rng=rng(), dtype=dtype).weight)


def test_unembedding_matches_torch_and_keeps_the_contract_of_a_layer() -> None:
    x = rng().standard_normal((2, 3, 4))
    assert_matches_torch(unembedding(np.float64), F.linear, x)
    assert_layer_contract(unembedding, x)


# --- positions ----------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 3, 5])
def test_positions_match_torch(tokens: int) -> None:
    x = rng().standard_normal((2, tokens, 4))
    learned = LearnedPositions(5, 4, rng=rng(1), dtype=np.float64)
    assert_matches_torch(learned, lambda x, p: x + p[:tokens], x)
    sinusoidal = SinusoidalPositions(5, 4, dtype=np.float64)
    table = torch.tensor(0.02 * np.sqrt(2) * sinusoids(5, 4))
    assert_matches_torch(sinusoidal, lambda x: x + table[:tokens], x)


@pytest.mark.parametrize("tokens", [3, 5])
def test_positions_keep_the_contract_of_a_layer(tokens: int) -> None:
    x = rng().standard_normal((2, tokens, 4))
    assert_layer_contract(lambda dtype: LearnedPositions(5, 4, rng=rng(), dtype=dtype), x)
    assert_layer_contract(lambda dtype: SinusoidalPositions(5, 4, dtype=dtype), x)


def test_positions_refuse_a_long_text_and_half_a_pair() -> None:
    for layer in (LearnedPositions(5, 4, rng=rng()), SinusoidalPositions(5, 4)):
        with pytest.raises(ValueError, match="6 tokens does not fit into a context of 5"):
            layer(np.zeros((1, 6, 4), np.float32))
    with pytest.raises(ValueError, match="must be even, got 3"):
        sinusoids(5, 3)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(50, 8)
    for t, i in ((0, 0), (7, 1), (49, 3)):
        angle = t / 10_000 ** (2 * i / 8)
        np.testing.assert_allclose(table[t, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)])
    assert sinusoids(50, 8).std() == pytest.approx(np.sqrt(0.5), rel=0.2)


def test_a_step_of_sinusoids_is_one_rotation() -> None:
    table = sinusoids(20, 6)
    step = np.linalg.lstsq(table[:-3], table[3:], rcond=None)[0]  # P[t + 3] = P[t] M for all t
    np.testing.assert_allclose(table[:-3] @ step, table[3:], atol=1e-10)
    np.testing.assert_allclose(step @ step.T, np.eye(6), atol=1e-10)


def test_rotation_matches_complex_numbers() -> None:
    x = rng().standard_normal((2, 3, 5, 6))
    z = x[..., :3] + 1j * x[..., 3:]
    turned = z * np.exp(1j * np.arange(5)[:, None] / 10_000 ** (np.arange(3) / 3))
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(x), expected, atol=1e-12)
    np.testing.assert_allclose(rotate(rotate(x), backward=True), x, atol=1e-12)
    assert rotate(x.astype(np.float32)).dtype == np.float32


def test_rotated_products_depend_on_the_distance_alone() -> None:
    q, k = rng().standard_normal((2, 8))
    everywhere = rotate(np.tile(q, (10, 1))) @ rotate(np.tile(k, (10, 1))).T  # (10, 10)
    for distance in range(-4, 5):
        along = np.diagonal(everywhere, distance)
        np.testing.assert_allclose(along, along[0], atol=1e-12)
    assert abs(everywhere[0, 0] - everywhere[0, 3]) > 1e-3


def test_gradients_match_centred_differences() -> None:
    x = rng().standard_normal((2, 3, 4))
    for layer in (LearnedPositions(5, 4, rng=rng(), dtype=np.float64), unembedding(np.float64)):
        report = check_layer(layer, x, rng=rng())
        assert report.passed, report
    tokens = rng().integers(4, size=(3, 5))
    report = check_layer(Embedding(4, 3, rng=rng(), dtype=np.float64), tokens, rng=rng())
    assert report.passed, report
