"""RoIAlign against its definition, point by point, and against torchvision's."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch

from section4.compat import COMPILED, ops
from section4.detection.roi_align import interpolation, roi_align
from tests.section4.detection.helpers import random_boxes

MAPS = [(2, 3, 6, 9), (1, 1, 11, 5), (3, 2, 7, 7)]  # N, C, H, W


def random_maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def value(image: list[list[float]], y: float, x: float) -> float:
    """What an image has between its pixels, by bilinear interpolation; 0 far outside."""
    h, w = len(image), len(image[0])
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    y, x = y - top, x - left
    upper = (1 - x) * image[top][left] + x * image[top][right]
    lower = (1 - x) * image[bottom][left] + x * image[bottom][right]
    return (1 - y) * upper + y * lower


def by_definition(
    image: list[list[float]], box: list[float], size: int, scale: float, points: int, aligned: bool
) -> torch.Tensor:
    """One map and one box: (size, size)."""
    x1, y1, x2, y2 = (scale * number - 0.5 * aligned for number in box)
    w, h = x2 - x1, y2 - y1
    if not aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    pooled = torch.zeros(size, size, dtype=torch.float64)
    for row, column in itertools.product(range(size), repeat=2):
        for i, k in itertools.product(range(points), repeat=2):
            y = y1 + h / size * (row + (i + 0.5) / points)
            x = x1 + w / size * (column + (k + 0.5) / points)
            pooled[row, column] += value(image, y, x) / points**2
    return pooled


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("scale", [1.0, 1 / 8])
@pytest.mark.parametrize("points", [1, 2, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_against_the_definition(
    shape: tuple[int, ...], scale: float, points: int, aligned: bool
) -> None:
    maps = random_maps(*shape)
    boxes = random_boxes(shape[0], 6, side=18, seed=points)
    boxes[:, 3:] = 2 * boxes[:, 3:] - 9  # these reach far outside
    boxes[:, 0, 2:] = boxes[:, 0, :2] + 0.25  # and this is smaller than a place
    boxes = (boxes - 4) / scale  # partly outside
    found = roi_align(maps, boxes, 3, scale, points, aligned)
    assert found.shape == (shape[0], 6, shape[1], 3, 3)
    for image, box, channel in itertools.product(range(shape[0]), range(6), range(shape[1])):
        expected = by_definition(
            maps[image, channel].tolist(), boxes[image, box].tolist(), 3, scale, points, aligned
        )
        torch.testing.assert_close(found[image, box, channel], expected)


def test_of_maps_of_coordinates_each_bin_gives_its_own_middle() -> None:
    x, y = torch.meshgrid(4.0 + 8 * torch.arange(12), 4.0 + 8 * torch.arange(9), indexing="xy")
    box = torch.tensor([[[10.0, 20, 60, 50]]])
    found = roi_align(torch.stack([x, y])[None], box, 5, 1 / 8)[0, 0]
    torch.testing.assert_close(found[0], torch.arange(15.0, 60, 10).expand(5, 5))
    torch.testing.assert_close(found[1], torch.arange(23.0, 50, 6)[:, None].expand(5, 5))


def test_a_box_of_whole_places_without_interpolation_is_those_places() -> None:
    maps = random_maps(1, 2, 6, 7)
    box = torch.tensor([[[2.0, 1, 5, 4]]], dtype=torch.float64)
    torch.testing.assert_close(roi_align(maps, box, 3, points=1)[0, 0], maps[0, :, 1:4, 2:5])


def test_the_shares_of_a_bin_add_up_to_one_inside() -> None:
    start = torch.tensor([0.3, -0.5, -4.0])
    shares = interpolation(start, torch.tensor([4.2, 6.4, -2.0]), bins=3, points=2, places=6)
    assert shares.shape == (3, 3, 6)
    torch.testing.assert_close(shares.sum(-1)[:2], torch.ones(2, 3))
    assert not shares[2].any()


def test_each_image_has_its_own_boxes() -> None:
    maps, boxes = random_maps(3, 2, 8, 8), random_boxes(3, 5, side=8, seed=0)
    together = roi_align(maps, boxes, 4)
    for image in range(3):
        alone = roi_align(maps[image : image + 1], boxes[image : image + 1], 4)[0]
        torch.testing.assert_close(together[image], alone)


def test_no_boxes() -> None:
    assert roi_align(torch.zeros(2, 3, 8, 8), torch.zeros(2, 0, 4), 5).shape == (2, 0, 3, 5, 5)


def test_bfloat16_and_channels_last() -> None:
    maps, boxes = random_maps(2, 3, 8, 9).float(), random_boxes(2, 5, side=8, seed=0).float()
    expected = roi_align(maps, boxes, 4)
    moved = maps.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(roi_align(moved, boxes, 4), expected)
    half = roi_align(maps.bfloat16(), boxes, 4)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("aligned", [True, False])
def test_gradient(aligned: bool) -> None:
    maps, boxes = random_maps(2, 2, 4, 5).requires_grad_(), random_boxes(2, 3, side=6, seed=0) - 1
    assert torch.autograd.gradcheck(
        lambda maps: roi_align(maps, boxes, 2, points=2, aligned=aligned), maps
    )


def as_rois(boxes: torch.Tensor) -> torch.Tensor:
    """(N, R, 4) -> (N R, 5): the number of the image before each box."""
    number = torch.arange(len(boxes)).to(boxes)[:, None, None].expand(-1, boxes.shape[1], 1)
    return torch.cat([number, boxes], -1).flatten(0, 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("points", [1, 2])
def test_against_torchvisions_python(points: int, aligned: bool) -> None:
    """Of boxes inside: beyond the edge that one extrapolates."""
    theirs = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__
    maps, boxes = random_maps(2, 3, 12, 12), 8 * (1 + random_boxes(2, 5, side=9, seed=0))
    expected = theirs(maps, as_rois(boxes), 1 / 8, 3, 3, points, aligned)
    found = roi_align(maps, boxes, 3, 1 / 8, points, aligned)
    torch.testing.assert_close(found.flatten(0, 1), expected)


@pytest.mark.skipif(not COMPILED, reason="torchvision's operators do not fit this PyTorch")
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("points", [1, 2, 3])
@pytest.mark.parametrize("shape", MAPS)
def test_against_torchvisions(shape: tuple[int, ...], points: int, aligned: bool) -> None:
    """With the gradient, and of boxes that reach outside."""
    maps = random_maps(*shape).requires_grad_()
    boxes = 8 * (2 * random_boxes(shape[0], 20, side=12, seed=0) - 4)
    expected = ops.roi_align(maps, as_rois(boxes), 5, 1 / 8, points, aligned)
    found = roi_align(maps, boxes, 5, 1 / 8, points, aligned).flatten(0, 1)
    torch.testing.assert_close(found, expected)
    weights = random_maps(*found.shape)
    slopes = [torch.autograd.grad((item * weights).sum(), maps)[0] for item in (found, expected)]
    torch.testing.assert_close(*slopes)
