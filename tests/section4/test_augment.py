"""Augmentation: every image is changed as said, by its own draw, and its label goes with it."""

from __future__ import annotations

import math

import pytest
import torch

from section4.compat import v2
from section4.images import Change, Pair
from section4.vision import augment
from section4.vision.augment import arms, chain, colours, crop, cutout, flip, in_groups, turn

ARMS = sorted(arms(10))


def photographs(n: int = 32, side: int = 32, channels: int = 3) -> Pair:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, channels, side, side, generator=generator)
    return x, torch.randint(0, 10, (n,), generator=generator)


def with_seed(change: Change | None, pair: Pair, seed: int = 0) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return pair if change is None else change(*pair)


# --- all of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("n", [2, 9])  # 9 is no multiple of a group
def test_every_arm_keeps_what_images_are(name: str, n: int) -> None:
    x, y = photographs(n)
    before = x.clone(), y.clone()
    images, labels = with_seed(arms(10)[name], (x, y))
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])  # the data stay as they are
    assert images.shape == x.shape and images.dtype == torch.float32
    assert images.isfinite().all() and images.min() >= -1e-6 and images.max() <= 1 + 1e-6
    if name in ("mixup", "cutmix", "combined"):
        assert labels.shape == (n, 10) and labels.dtype == torch.float32
        assert (labels >= 0).all()
        torch.testing.assert_close(labels.sum(1), torch.ones(n))
    else:
        assert torch.equal(labels, y)


@pytest.mark.parametrize("name", ARMS)
def test_a_seed_decides_what_is_drawn(name: str) -> None:
    pair, change = photographs(), arms(10)[name]
    first, again, other = (with_seed(change, pair, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "none")


def test_there_are_twelve_arms_and_none_is_none() -> None:
    assert len(ARMS) == 12 and arms(10)["none"] is None


def test_a_chain_does_one_change_after_the_other() -> None:
    x, y = photographs(4)
    changed, _ = chain(lambda x, y: (x / 2, y), lambda x, y: (x + 1, y))(x, y)
    torch.testing.assert_close(changed, x / 2 + 1)
    pair = photographs()
    both, _ = with_seed(chain(crop(4), flip), pair)
    assert torch.equal(both, with_seed(augment.standard(4), pair)[0])


# --- moved, mirrored, turned ----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (6, 9)])
def test_cropped_images_are_torchvisions_crops_of_them(shape: tuple[int, int]) -> None:
    padding, n = 2, 400
    x = torch.rand(1, 3, *shape).expand(n, -1, -1, -1)
    images, _ = with_seed(crop(padding), (x, torch.zeros(n)))
    offsets = [(i, j) for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    padded = v2.functional.pad(x[0], [padding])
    crops = torch.stack([v2.functional.crop(padded, i, j, *shape) for i, j in offsets])
    same = (images[:, None] == crops[None]).all(dim=(2, 3, 4))  # (n, offsets)
    assert (same.sum(1) == 1).all()  # each image is one of them
    assert same.any(0).all()  # and all of them are there
    assert same.sum(0).max() < n / 10  # each image has a draw of its own


def test_half_of_the_images_are_mirrored() -> None:
    x, y = photographs(300)
    images, _ = with_seed(flip, (x, y))
    mirrored = (images == v2.functional.horizontal_flip(x)).all(dim=(1, 2, 3))
    assert (mirrored ^ (images == x).all(dim=(1, 2, 3))).all()
    assert 120 < mirrored.sum() < 180


def test_turned_images_are_torchvisions_rotations_of_them() -> None:
    x, y = photographs(20, side=11)
    images, _ = with_seed(turn(30), (x, y))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        degrees = 30 * (2 * torch.rand(20) - 1)
    assert len(set(degrees.tolist())) == 20 and degrees.min() < -15 and degrees.max() > 15
    # torchvision rounds nothing but what lies half outside of the image, at its very edge
    for image, result, angle in zip(x, images, degrees.tolist()):
        bilinear = v2.InterpolationMode.BILINEAR
        expected = v2.functional.rotate(image, angle, interpolation=bilinear)
        torch.testing.assert_close(result[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2])


def test_a_turn_by_nothing_changes_nothing() -> None:
    x, y = photographs(3)
    torch.testing.assert_close(with_seed(turn(0), (x, y))[0], x)


# --- colours --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_torchvisions_of_each_image(channels: int) -> None:
    x, y = photographs(12, side=8, channels=channels)
    images, _ = with_seed(colours(0.4), (x, y))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        factors = (1 + 0.4 * (2 * torch.rand(3, 12) - 1)).T.tolist()
    for image, result, (brightness, contrast, saturation) in zip(x, images, factors):
        expected = v2.functional.adjust_brightness(image, brightness)
        expected = v2.functional.adjust_contrast(expected, contrast)
        expected = v2.functional.adjust_saturation(expected, saturation)
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


# --- holes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "h", "w"), [(4, 8, 8), (3, 7, 9), (1, 5, 5)])
def test_cutout_covers_a_square_that_may_reach_over_the_edge(side: int, h: int, w: int) -> None:
    n = 600
    x = torch.rand(1, 3, h, w).expand(n, -1, -1, -1)
    images, _ = with_seed(cutout(side), (x, torch.zeros(n)))
    expected = []
    for i in range(h):
        for j in range(w):
            square = x[0].clone()
            top, left = max(i - side // 2, 0), max(j - side // 2, 0)
            square[:, top : i - side // 2 + side, left : j - side // 2 + side] = 0.5
            expected.append(square)
    same = (images[:, None] == torch.stack(expected)[None]).all(dim=(2, 3, 4))
    assert same.any(1).all()
    assert same.any(0).all()  # all places are drawn, corners too
    inside = (images == 0.5).all(dim=1).sum(dim=(1, 2))
    assert inside.max() == side**2


def test_erased_are_rectangles_and_not_of_all_images() -> None:
    x, y = photographs(200)
    images, _ = with_seed(arms(10)["random erasing"], (x, y))
    hole = (images != x).any(dim=1)  # (n, H, W)
    assert (images[hole[:, None].expand_as(images)] == 0).all()
    for mask in hole:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])
    assert 0.25 < hole.any(2).any(1).float().mean() < 0.75


# --- blends ---------------------------------------------------------------------------------


def shares_of_two(labels: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The share (n,) of each image's own label; the rest is that of the image before it."""
    own = torch.nn.functional.one_hot(y, 10).float()
    share = 1 - (labels - own).clamp(min=0).sum(1)
    before = own.roll(1, 0)
    torch.testing.assert_close(labels, share[:, None] * own + (1 - share[:, None]) * before)
    return share


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_images_as_it_blends_labels(seed: int) -> None:
    x, y = photographs(10)[0], torch.arange(10)
    images, labels = with_seed(arms(10)["mixup"], (x, y), seed)
    share = shares_of_two(labels, y)[:, None, None, None]
    assert 0 < share[0] < 1
    torch.testing.assert_close(images, share * x + (1 - share) * x.roll(1, 0))


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_takes_as_large_a_share_of_the_image_as_of_the_label(seed: int) -> None:
    x, y = photographs(10)[0], torch.arange(10)
    images, labels = with_seed(arms(10)["cutmix"], (x, y), seed)
    share = shares_of_two(labels, y)
    kept = images == x
    assert torch.equal(images[~kept], x.roll(1, 0)[~kept])
    torch.testing.assert_close(kept.float().mean(dim=(1, 2, 3)), share)


# --- groups ---------------------------------------------------------------------------------


def test_a_group_shares_a_draw_and_the_next_has_its_own() -> None:
    calls = []

    def transform(part: torch.Tensor) -> torch.Tensor:
        calls.append(len(part))
        return part + len(calls)

    x, y = photographs(10, side=2)
    images, labels = in_groups(transform, 4)(x, y)
    assert calls == [4, 4, 2] and labels is y
    draws = (images - x).mean(dim=(1, 2, 3)).round().tolist()
    assert draws == [1] * 4 + [2] * 4 + [3] * 2


def test_trivial_augment_is_that_of_torchvision() -> None:
    x, y = photographs(8)
    images, _ = with_seed(arms(10)["trivial augment"], (x, y))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transform = v2.TrivialAugmentWide()
        expected = torch.cat([transform(x[:4]), transform(x[4:])])
    assert augment.GROUP == 4
    assert torch.equal(images, expected)


def test_brightness_as_it_is_seen() -> None:
    assert math.isclose(sum(augment.GREY), 1, abs_tol=2e-4)
    x, _ = photographs(3, side=4)
    expected = v2.functional.rgb_to_grayscale(x, num_output_channels=1)
    torch.testing.assert_close(augment.grey(x), expected)
