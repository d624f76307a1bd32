"""Boxes: every function against its definition in plain Python, and against torchvision."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from section4.compat import COMPILED, ops, torchvision
from section4.detection.boxes import (
    LONGEST,
    apart,
    area,
    clip,
    decode,
    encode,
    giou,
    intersection,
    iou,
    nms,
    pairwise_iou,
    survivors,
    to_centre,
    to_corners,
)
from tests.section4.detection.helpers import Row, overlap, random_boxes

HERE = (0.0, 0.0, 10.0, 10.0)


def generalised(a: Row, b: Row) -> float:
    """GIoU of two boxes."""
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    share = overlap(a, b)
    either = areas / (1 + share)  # areas = either + both = either (1 + IoU)
    return share - (around - either) / around if around else share


def suppress(boxes: list[Row], scores: list[float], threshold: float) -> list[int]:
    """Non-maximum suppression: a box is kept if it overlaps none of those kept too much."""
    kept = list[int]()
    for k in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        if all(overlap(boxes[k], boxes[other]) <= threshold for other in kept):
            kept.append(k)
    return kept


def on_a_grid(count: int, generator: torch.Generator) -> torch.Tensor:
    """Boxes with whole corners: many are equal, touch, contain each other or have no area."""
    corner = torch.randint(0, 8, (count, 2), generator=generator)
    size = torch.randint(0, 6, (count, 2), generator=generator)
    return torch.cat([corner, corner + size], 1).double()


# --- how much two boxes overlap -------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "expected_iou", "expected_giou"),
    [
        (HERE, 1, 1),
        ((5, 0, 15, 10), 1 / 3, 1 / 3),
        ((5, 5, 15, 15), 25 / 175, 25 / 175 - 50 / 225),
        ((2, 2, 4, 7), 0.1, 0.1),  # contained
        ((10, 0, 20, 10), 0, 0),  # an edge in common
        ((10, 10, 20, 20), 0, -0.5),  # a corner in common
        ((90, 90, 100, 100), 0, -0.98),  # far apart
        ((3, 3, 3, 8), 0, 0),  # without area, inside
        ((20, 0, 20, 10), 0, -0.5),  # without area, outside
    ],
)
def test_two_boxes(other: Row, expected_iou: float, expected_giou: float) -> None:
    a, b = torch.tensor([HERE, other], dtype=torch.float64)
    for one, two in ((a, b), (b, a)):
        assert iou(one, two).item() == pytest.approx(expected_iou)
        assert giou(one, two).item() == pytest.approx(expected_giou)


def test_boxes_that_are_all_empty() -> None:
    point, same, other = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3], [5, 5, 5, 5]])
    assert iou(point, same) == iou(point, other) == giou(point, same) == 0
    assert giou(point, other) == -1


def test_overlaps_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.cat([on_a_grid(25, generator), random_boxes(15, side=12, seed=1)])
    table, rows = pairwise_iou(boxes, boxes[:30]), boxes.tolist()
    assert table.shape == (40, 30)
    for (i, a), (k, b) in itertools.product(enumerate(rows), enumerate(rows[:30])):
        assert table[i, k].item() == pytest.approx(overlap(a, b), abs=1e-12)
        assert giou(boxes[i], boxes[k]).item() == pytest.approx(generalised(a, b), abs=1e-12)
    assert torch.equal(table[:30], table[:30].T)


def test_areas_and_what_two_boxes_share() -> None:
    a, b = torch.tensor([[1.0, 2, 4, 4]]), torch.tensor([[[3.0, 0, 9, 3]], [[5.0, 5, 9, 9]]])
    assert area(a).tolist() == [6]
    assert intersection(a, b).tolist() == [[1], [0]]


def test_pairs_of_many_images_at_once() -> None:
    a, b = random_boxes(3, 2, 5, side=20, seed=0), random_boxes(3, 2, 4, side=20, seed=1)
    found = pairwise_iou(a, b)
    assert found.shape == (3, 2, 5, 4)
    assert torch.equal(found[2, 1], pairwise_iou(a[2, 1], b[2, 1]))
    assert pairwise_iou(a[0, 0, :0], b[0, 0]).shape == (0, 4)


def test_giou_is_at_most_iou_and_in_its_range() -> None:
    a = random_boxes(2000, side=30, seed=0)
    b = a.flip(0)
    assert (giou(a, b) <= iou(a, b) + 1e-12).all()
    assert -1 < giou(a, b).min() < -0.8
    assert giou(a, b).max() < 1 == giou(a, a).min()
    theirs = ops.generalized_box_iou(a[:100], b[:100])
    assert torch.allclose(giou(a[:100, None], b[:100]), theirs)


def test_where_boxes_do_not_touch_giou_has_a_gradient_and_iou_has_none() -> None:
    box = torch.tensor([20.0, 30, 30, 36], requires_grad=True)
    target = torch.tensor(HERE)
    (flat,) = torch.autograd.grad(iou(box, target), box)
    assert flat.tolist() == [0, 0, 0, 0]
    (slope,) = torch.autograd.grad(giou(box, target), box)
    assert (slope != 0).all()
    with torch.no_grad():
        nearer, farther = giou(box + slope, target), giou(box - slope, target)
    assert nearer > giou(box, target) > farther


def test_gradients_of_giou() -> None:
    a, b = random_boxes(20, side=10, seed=0), random_boxes(20, side=10, seed=1)
    assert torch.autograd.gradcheck(giou, (a.requires_grad_(), b.requires_grad_()))


# --- formats --------------------------------------------------------------------------------


def test_formats() -> None:
    boxes = torch.tensor([[1.0, 2, 5, 10]])
    assert to_centre(boxes).tolist() == [[3, 6, 4, 8]]
    assert to_corners(to_centre(boxes)).tolist() == boxes.tolist()
    many = random_boxes(3, 50, side=96, seed=0)
    assert torch.allclose(to_corners(to_centre(many)), many)


def test_the_numbers_that_take_an_anchor_to_a_box() -> None:
    anchor, box = torch.tensor([[10.0, 20, 20, 40]]), torch.tensor([[20.0, 15, 25, 55]])
    expected = [0.75, 0.25, math.log(0.5), math.log(2)]
    assert encode(box, anchor)[0].tolist() == pytest.approx(expected)
    weighted = encode(box, anchor, (10, 10, 5, 5))[0].tolist()
    assert weighted == pytest.approx([7.5, 2.5, 5 * math.log(0.5), 5 * math.log(2)])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decode_inverts_encode_and_both_are_torchvisions(weights: tuple[float, ...]) -> None:
    boxes, anchors = random_boxes(200, side=96, seed=0), random_boxes(200, side=96, seed=1)
    deltas = encode(boxes, anchors, weights)
    assert torch.allclose(decode(deltas, anchors, weights), boxes)
    coder = torchvision.models.detection._utils.BoxCoder(weights)
    assert torch.allclose(deltas, coder.encode_single(boxes, anchors))
    wild = 30 * deltas
    assert torch.allclose(decode(wild, anchors, weights), coder.decode_single(wild, anchors))


def test_decoded_boxes_stay_finite() -> None:
    anchors = torch.tensor([[0.0, 0, 16, 32]])
    box = decode(torch.tensor([[0.0, 0, 1e6, 1e6]]), anchors)
    assert (to_centre(box)[0, 2:] / torch.tensor([16, 32])).tolist() == pytest.approx(
        [math.exp(LONGEST)] * 2
    )
    assert area(decode(torch.tensor([[0.0, 0, -1e6, -1e6]]), anchors)) == 0


def test_clip() -> None:
    boxes = torch.tensor([[-5.0, 3, 50, 90], [70, -9, 80, -1], [1, 2, 3, 4]])
    expected = [[0, 3, 40, 20], [40, 0, 40, 0], [1, 2, 3, 4]]
    assert clip(boxes, height=20, width=40).tolist() == expected
    assert clip(boxes[None, :, None], 20, 40)[0, :, 0].tolist() == expected


# --- non-maximum suppression ----------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_nms_is_that_of_the_definition(threshold: float) -> None:
    """Of boxes on a grid, with few different scores: equal boxes, equal scores, no area."""
    generator = torch.Generator().manual_seed(0)
    removed = 0
    for _ in range(150):
        count = int(torch.randint(0, 20, (), generator=generator))
        boxes = on_a_grid(count, generator)
        scores = torch.randint(0, 5, (count,), generator=generator) / 5
        kept = nms(boxes, scores, threshold)
        assert kept.tolist() == suppress(boxes.tolist(), scores.tolist(), threshold)
        removed += count - len(kept)
    assert (removed > 0) == (threshold < 1)


def test_what_a_suppressed_box_would_suppress_is_kept() -> None:
    row = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert nms(row, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]
    assert nms(row, torch.tensor([0.7, 0.9, 0.8]), 0.3).tolist() == [1]


def test_an_overlap_of_exactly_the_threshold_does_not_suppress() -> None:
    halves = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert nms(halves, torch.tensor([0.1, 0.2]), 0.5).tolist() == [1, 0]
    assert nms(halves, torch.tensor([0.1, 0.2]), 0.4999).tolist() == [1]


def test_nothing_to_suppress() -> None:
    none = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert none.shape == (0,)
    assert none.dtype == torch.int64
    assert survivors(torch.zeros(3, 0, 4), 0.5).shape == (3, 0)


def test_survivors_of_many_images_are_those_of_each() -> None:
    boxes = random_boxes(3, 4, 30, side=20, seed=0)
    together = survivors(boxes, 0.3)
    assert together.shape == (3, 4, 30)
    assert 0.1 < together.double().mean() < 0.9
    for i, k in itertools.product(range(3), range(4)):
        alive = survivors(boxes[i, k], 0.3).nonzero()[:, 0].tolist()
        assert together[i, k].nonzero()[:, 0].tolist() == alive
        assert alive == suppress(boxes[i, k].tolist(), [0.0] * 30, 0.3)


@pytest.mark.parametrize("shift", [0, -1000, 1000])
def test_moved_apart_suppression_is_within_each_class(shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(5, 60, side=20, seed=0) + shift
    labels = torch.randint(0, 4, (5, 60), generator=generator)
    alive = survivors(apart(boxes, labels), 0.3)
    for image, label in itertools.product(range(5), range(4)):
        own = labels[image] == label
        assert torch.equal(alive[image][own], survivors(boxes[image][own], 0.3))


def test_moved_apart_equal_boxes_of_different_classes_do_not_touch() -> None:
    boxes = torch.tensor([[-3.0, -5, 8, 9]]).repeat(3, 1)
    moved = apart(boxes, torch.tensor([2, 0, 1]))
    assert torch.equal(pairwise_iou(moved, moved), torch.eye(3))
    assert apart(boxes[:0], torch.zeros(0)).shape == (0, 4)


@pytest.mark.skipif(not COMPILED, reason="torchvision's operators do not fit this PyTorch")
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_nms_is_torchvisions(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(200):
        count = int(torch.randint(0, 60, (), generator=generator))
        boxes = random_boxes(count, side=20, seed=seed)
        if seed % 2:  # some equal, some without area, and scores that tie
            boxes = torch.cat([boxes[: count // 2], on_a_grid(count - count // 2, generator)])
        scores = torch.randint(0, 10, (count,), generator=generator).double()
        assert torch.equal(nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold))
