"""Batches of images: every row once an epoch, standardised, in an order that seeds decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from section4.engine import Setting
from section4.images import Batches, Change, Pair, as_bytes, device_seed


def numbered(n: int, side: int = 2) -> Pair:
    """Image k has the value k in all its pixels, and the label k."""
    labels = torch.arange(n)
    return labels.to(torch.uint8)[:, None, None, None].expand(n, 3, side, side), labels


def batches(n: int, size: int, **options: Any) -> Batches:
    return Batches(*numbered(n), torch.zeros(3), torch.ones(3), size, **options)


def rows(data: Batches, epoch: int = 0) -> list[int]:
    return torch.cat([y for _, y in data(epoch)]).tolist()


def test_bytes_are_the_images_again() -> None:
    original = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 8, 16, 3)
    found = as_bytes((original / 255).astype(np.float32))
    assert found.dtype == torch.uint8 and found.shape == (2, 3, 8, 16) and found.is_contiguous()
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), original)


def test_seeds_differ_with_every_number_and_their_order() -> None:
    keys = [(0,), (1,), (0, 1), (1, 0), (0, 1, 2), (2**63, 5)]
    seeds = [device_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and seeds == [device_seed(*key) for key in keys]
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize(("n", "size"), [(10, 4), (8, 4), (3, 5), (1, 1), (7, 7)])
@pytest.mark.parametrize("seed", [None, 3])
def test_every_row_once_an_epoch_with_its_label(n: int, size: int, seed: int | None) -> None:
    data = batches(n, size, seed=seed)
    assert sorted(rows(data)) == list(range(n))
    found = list(data(0))
    assert len(found) == len(data) == -(-n // size)
    assert all(len(x) <= size for x, _ in found)
    for x, y in found:
        torch.testing.assert_close(255 * x.mean(dim=(1, 2, 3)), y.float())


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    data = batches(50, 8, seed=1)
    first = rows(data, 0)
    torch.rand(3)  # nor on what was drawn elsewhere
    assert rows(data, 0) == rows(batches(50, 16, seed=1), 0) == first
    others = [rows(data, 1), rows(batches(50, 8, seed=2), 0), list(range(50))]
    assert all(first != other for other in others)
    assert rows(batches(50, 8), 4) == list(range(50))  # without a seed as they are


def test_standardised_images_have_mean_0_and_deviation_1() -> None:
    images = np.random.default_rng(0).random((40, 6, 5, 3)) * [1, 0.5, 0.2]
    pixels = as_bytes(images)
    values = pixels.double().permute(1, 0, 2, 3).reshape(3, -1) / 255
    mean, std = values.mean(1), values.std(1, correction=0)
    x = torch.cat([x for x, _ in Batches(pixels, torch.arange(40), mean, std, 16, seed=0)()])
    assert x.dtype == torch.float32 and x.shape == (40, 3, 6, 5)
    channels = x.permute(1, 0, 2, 3).reshape(3, -1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(channels.std(1, correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_a_change_sees_images_between_0_and_1_before_they_are_standardised() -> None:
    images = torch.full((4, 3, 2, 2), 51, dtype=torch.uint8)
    half = torch.full((3,), 0.5)

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        torch.testing.assert_close(x, torch.full_like(x, 0.2))
        return x + 0.3, y + 7

    data = Batches(images, torch.zeros(4), half, 2 * half, 4, change=change)
    ((x, y),) = data()
    torch.testing.assert_close(x, torch.zeros(4, 3, 2, 2))
    assert y.tolist() == [7] * 4 and images.unique().item() == 51


def test_the_first_epochs_may_have_a_change_of_their_own() -> None:
    def plus(number: int) -> Change:
        return lambda x, y: (x, y + number)

    data = batches(3, 4, change=plus(10), first=(2, plus(5)))
    assert [rows(data, epoch) for epoch in range(4)] == 2 * [[5, 6, 7]] + 2 * [[10, 11, 12]]
    assert rows(batches(3, 4, change=plus(10), first=(1, None)), 0) == [0, 1, 2]


def test_a_last_single_row_is_left_out_in_training_alone() -> None:
    assert len(rows(batches(9, 4, seed=0))) == 8 and len(batches(9, 4, seed=0)) == 2
    assert len(rows(batches(9, 4))) == 9 and len(batches(9, 4)) == 3
    assert len(rows(batches(10, 4, seed=0))) == 10
    left_out = [(set(range(9)) - set(rows(batches(9, 4, seed=0), k))).pop() for k in range(20)]
    assert len(set(left_out)) > 4  # not always the same


@pytest.mark.parametrize("seed", [None, 5])
def test_shares_of_two_processes_are_disjoint_and_complete(
    monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    alone = [y.tolist() for _, y in batches(23, 8, seed=seed)()]
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append([y.tolist() for _, y in batches(23, 8, seed=seed)()])
        assert sorted(rows(batches(23, 8, seed=seed, shared=False))) == list(range(23))
    assert [len(share) for share in shares[0]] == [4, 4, 4]
    for whole, first, second in zip(alone, *shares):
        assert not set(first) & set(second) and sorted(first + second) == sorted(whole)


def test_two_processes_need_two_rows_each_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert len(batches(11, 8, seed=0)) == 1  # 3 rows would be one for the second process
    assert len(batches(12, 8, seed=0)) == 2
    assert len(batches(11, 8)) == 2


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_come_in_the_order_of_memory_of_the_setting(channels_last: bool) -> None:
    setting = Setting(torch.device("cpu"), channels_last=channels_last)
    plain = list(batches(6, 4)())
    for (x, y), (expected, labels) in zip(batches(6, 4, setting=setting)(), plain):
        assert x.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert torch.equal(x, expected) and torch.equal(y, labels)


def test_images_and_labels_must_be_as_many() -> None:
    x, y = numbered(5)
    with pytest.raises(ValueError, match="5 images do not go with 4 labels"):
        Batches(x, y[:4], torch.zeros(3), torch.ones(3), 2)
    with pytest.raises(ValueError, match="0 images do not go with 0 labels"):
        Batches(x[:0], y[:0], torch.zeros(3), torch.ones(3), 2)
