"""Subsets and validation splits: who may end up where."""

from __future__ import annotations

import numpy as np
import pytest

from utils.data import DataError, Dataset


def numbered(train: int = 50, test: int = 20) -> Dataset:
    """A data set in which every image is filled with a number of its own."""
    numbers = np.arange(train + test, dtype=np.float32) / (train + test)
    images = np.broadcast_to(numbers[:, None, None, None], (train + test, 2, 2, 1))
    labels = np.arange(train + test, dtype=np.int64)
    return Dataset(
        "numbered", images[:train], labels[:train], images[train:], labels[train:], (),
        "generated", "numbered images",
    )  # fmt: skip


def assert_pairs_kept(x: np.ndarray, y: np.ndarray) -> None:
    """Every image is still with its own label."""
    np.testing.assert_allclose(x[:, 0, 0, 0], y.astype(np.float32) / 70)


def test_validation_is_cut_from_training_data_only() -> None:
    data = numbered()
    split = data.split_validation(15, np.random.default_rng(0))
    train, val, test = set(split.train_y), set(split.val_y), set(split.test_y)
    assert (len(split.train_y), len(split.val_y), len(split.test_y)) == (35, 15, 20)
    assert train | val == set(range(50))
    assert not train & val
    assert test == set(range(50, 70))
    assert_pairs_kept(split.train_x, split.train_y)
    assert_pairs_kept(split.val_x, split.val_y)
    assert len(data.train_y) == 50, "the original stays as it was"


def test_validation_is_random_and_follows_the_generator() -> None:
    data = numbered()
    first, again, other = (
        data.split_validation(15, np.random.default_rng(seed)).val_y for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    assert set(first) not in (set(range(15)), set(range(35, 50)))


@pytest.mark.parametrize("n", [-1, 0, 50, 51])
def test_impossible_validation_size(n: int) -> None:
    with pytest.raises(DataError, match=f"Cannot cut {n} validation samples from 50"):
        numbered().split_validation(n, np.random.default_rng(0))


def test_validation_can_be_cut_from_a_set_that_was_split_before() -> None:
    split = numbered().split_validation(15, np.random.default_rng(0))
    again = split.split_validation(5, np.random.default_rng(1))
    assert len(again.train_y) == 30
    assert set(again.val_y) <= set(split.train_y)


def test_subset_draws_without_replacement() -> None:
    small = numbered().subset(10, rng=np.random.default_rng(0))
    assert len(set(small.train_y)) == 10
    assert set(small.train_y) <= set(range(50))
    assert set(small.train_y) != set(range(10))
    np.testing.assert_array_equal(small.test_y, np.arange(50, 70))
    assert_pairs_kept(small.train_x, small.train_y)
    assert_pairs_kept(small.test_x, small.test_y)
    again = numbered().subset(10, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(small.train_y, again.train_y)


@pytest.mark.parametrize("n", [None, 50, 10**9])
def test_subset_of_everything(n: int | None) -> None:
    data = numbered().subset(n, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(data.train_y, np.arange(50))
    np.testing.assert_array_equal(data.test_y, np.arange(50, 70))


@pytest.mark.parametrize("n", [0, -3])
def test_empty_subset_is_refused(n: int) -> None:
    with pytest.raises(DataError, match="at least 1"):
        numbered().subset(n, rng=np.random.default_rng(0))


def test_subset_keeps_validation_data() -> None:
    split = numbered().split_validation(15, np.random.default_rng(0))
    small = split.subset(10, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(small.val_y, split.val_y)
    assert len(small.train_y) == 10
    assert (small.provenance, small.description) == ("generated", "numbered images")
