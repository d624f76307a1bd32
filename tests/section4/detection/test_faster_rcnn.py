"""Faster R-CNN: anchors, proposals, and the losses of both stages."""

from __future__ import annotations

import math

import pytest
import torch

from section4.detection import faster_rcnn
from section4.detection.boxes import encode, pairwise_iou, to_centre
from section4.detection.detector import STRIDE, places
from section4.detection.faster_rcnn import (
    HEAD_DRAWN,
    HEAD_OVERLAP,
    HEAD_SHARE,
    HEAD_WEIGHTS,
    RATIOS,
    RPN_DRAWN,
    RPN_NMS,
    RPN_OVERLAPS,
    SIZES,
    FasterRCNN,
    RegionProposals,
    anchors,
    overlaps,
    proposals,
    rpn_losses,
)
from tests.section4.detection.helpers import overlap, random_boxes, truths

SHAPES = len(SIZES) * len(RATIOS)
SIZE = torch.Size((96, 96))
MIDDLES = places(torch.zeros(1, 1, 12, 12))
FRAMES = anchors(MIDDLES)
THREE = [(10, 20, 40, 50, 2), (60, 10, 80, 50, 0), (55, 60, 96, 96, 1)]
TRUE = truths(THREE, [(2, 3, 12, 9, 1)], [])
NONE = truths([], [])


@pytest.fixture
def model() -> FasterRCNN:
    torch.manual_seed(0)
    return FasterRCNN(3, width=8)


# --- anchors --------------------------------------------------------------------------------


def test_anchors_have_every_size_and_ratio_around_every_place() -> None:
    assert FRAMES.shape == (144 * SHAPES, 4)
    found = to_centre(FRAMES).unflatten(0, (144, SHAPES))
    torch.testing.assert_close(found[..., :2], MIDDLES[:, None].expand(-1, SHAPES, -1))
    w, h = found[..., 2:].unbind(-1)
    for place in (0, 143):
        shapes = zip((w * h)[place].sqrt().tolist(), (h / w)[place].tolist())
        expected = [(size, ratio) for size in SIZES for ratio in RATIOS]
        assert list(shapes) == [pytest.approx(pair) for pair in expected]


def test_scores_and_deltas_are_in_the_order_of_the_anchors() -> None:
    rpn = RegionProposals(4)
    with torch.no_grad():
        maps = torch.rand(2, 4, 5, 7)
        scores, deltas = rpn(maps)
        inner = torch.relu(rpn.conv(maps))
        by_map, moves = rpn.score(inner), rpn.delta(inner)
    assert scores.shape == (2, 5 * 7 * SHAPES) and deltas.shape == (2, 5 * 7 * SHAPES, 4)
    row = (3 * 7 + 2) * SHAPES + 4  # place (3, 2), the fifth anchor
    assert torch.equal(scores[1, row], by_map[1, 4, 3, 2])
    assert torch.equal(deltas[1, row], moves[1, 16:20, 3, 2])


def test_overlaps_with_rows_that_are_no_boxes_do_not_count() -> None:
    found = overlaps(FRAMES.expand(3, -1, -1), TRUE)
    assert found.shape == (3, len(FRAMES), 4)
    assert (found[TRUE[:, None, :, 4].expand_as(found) < 0] == -1).all()
    assert found[0, 100, 1].item() == pytest.approx(
        overlap(FRAMES[100].tolist(), TRUE[0, 1].tolist()[:4])
    )
    best, which = overlaps(FRAMES.expand(3, -1, -1), TRUE).max(-1)
    assert torch.equal(best[0], pairwise_iou(FRAMES, TRUE[0, :3, :4]).amax(1))
    assert which[0].max() < 3 and (which[1] == 0).all() and (best[2] == -1).all()


def test_every_true_box_has_an_anchor_and_others_need_to_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = list[torch.Tensor]()
    pick = faster_rcnn.pick

    def watched(positive: torch.Tensor, negative: torch.Tensor, *rest: float) -> tuple:
        seen.extend((positive, negative))
        return pick(positive, negative, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(faster_rcnn, "pick", watched)
    boxes = random_boxes(8, 3, side=96, seed=0).float()
    true = torch.cat([boxes, torch.zeros(8, 3, 1)], -1)
    rpn_losses(torch.zeros(8, len(FRAMES)), torch.zeros(8, len(FRAMES), 4), FRAMES, true)
    positive, negative = seen
    overlap = pairwise_iou(FRAMES, boxes)  # (N, P, M)
    low, high = RPN_OVERLAPS
    assert not (positive & negative).any()
    assert torch.equal(negative & (overlap.amax(-1) >= low), torch.zeros_like(negative))
    assert positive[overlap.amax(-1) >= high].all()
    for image, frame in (positive & (overlap.amax(-1) < high)).nonzero().tolist():
        assert (overlap[image, frame] == overlap[image].amax(0)).any()
    best = overlap == overlap.amax(1, keepdim=True)
    assert (best & positive[..., None]).any(1).all()  # also for those that no anchor fits well
    assert overlap.amax(1).min() < high


# --- stage one ------------------------------------------------------------------------------


def perfect() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and deltas of an RPN that knows the true boxes."""
    best, which = overlaps(FRAMES.expand(3, -1, -1), TRUE).max(-1)
    true = TRUE.gather(1, which[..., None].expand(-1, -1, 5))[..., :4]
    deltas = torch.where(best[..., None] > 0, encode(true, FRAMES), 0.0)
    fitting = overlaps(FRAMES.expand(3, -1, -1), TRUE).unbind(2)
    some = torch.stack([(item == item.amax(1, keepdim=True)) & (item > 0) for item in fitting])
    return 40.0 * ((best >= RPN_OVERLAPS[1]) | some.any(0)) - 20, deltas


def test_an_rpn_that_is_right_has_no_loss() -> None:
    scores, deltas = perfect()
    found = rpn_losses(scores, deltas, FRAMES, TRUE)
    assert list(found) == ["objectness", "proposal"]
    assert found["objectness"] < 1e-6 and found["proposal"] < 1e-6
    torch.manual_seed(0)
    values = [rpn_losses(share * scores, share * deltas, FRAMES, TRUE) for share in (0.0, 0.5, 1.0)]
    for name in found:
        assert values[0][name] > values[1][name] > values[2][name]
    assert values[0]["objectness"].item() == pytest.approx(math.log(2))
    assert rpn_losses(-scores, deltas, FRAMES, TRUE)["objectness"] > 19


def test_an_rpn_without_truths_learns_that_there_is_nothing() -> None:
    scores = torch.zeros(2, len(FRAMES), requires_grad=True)
    deltas = torch.zeros(2, len(FRAMES), 4, requires_grad=True)
    found = rpn_losses(scores, deltas, FRAMES, NONE)
    assert found["proposal"] == 0
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert scores.grad is not None and deltas.grad is not None
    assert not deltas.grad.any()
    assert (scores.grad >= 0).all()  # downhill is downwards
    assert (scores.grad > 0).sum(1).tolist() == [RPN_DRAWN] * 2


def test_proposals_are_the_best_ones_that_do_not_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, len(FRAMES), generator=generator)
    deltas = 0.3 * torch.randn(3, len(FRAMES), 4, generator=generator)
    boxes, best = proposals(scores, deltas, FRAMES, SIZE, 50)
    assert boxes.shape == (3, 50, 4) and best.shape == (3, 50)
    assert torch.equal(best, best.sort(1, descending=True).values)
    assert torch.equal(best[:, 0], scores.amax(1))
    assert boxes.min() >= 0 and boxes.max() <= 96
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert pairwise_iou(boxes, boxes).triu(1).max() <= RPN_NMS


def test_proposals_of_an_rpn_that_is_right_are_the_true_boxes() -> None:
    boxes, _ = proposals(*perfect(), FRAMES, SIZE, 50)
    found = pairwise_iou(boxes, TRUE[..., :4])
    for image, row in (TRUE[..., 4] >= 0).nonzero().tolist():
        assert found[image, :, row].max() > 0.999


def test_suppressed_proposals_fill_up() -> None:
    scores = torch.arange(6.0)[None]
    frames = torch.tensor([[0.0, 0, 20, 20]]).repeat(6, 1)
    frames[2] += 40
    boxes, best = proposals(scores, torch.zeros(1, 6, 4), frames, SIZE, 4)
    assert best.tolist() == [[5, 2, 4, 3]]
    assert boxes[0, :, 0].tolist() == [0, 40, 0, 0]
    boxes, best = proposals(scores, torch.zeros(1, 6, 4), frames, SIZE, 50)
    assert boxes.shape == (1, 6, 4)  # there are no more anchors


def test_propose_gives_as_many_as_are_asked_for(model: FasterRCNN) -> None:
    model.eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        few, many = model.propose(images, 10), model.propose(images, 300)
    assert few[0].shape == (2, 10, 4) and many[0].shape == (2, 300, 4)
    assert torch.equal(few[0], many[0][:, :10]) and torch.equal(few[1], many[1][:, :10])
    assert many[0][..., 0::2].max() <= 96 and many[0][..., 1::2].max() <= 64


# --- stage two ------------------------------------------------------------------------------


class Known(torch.nn.Module):
    """Instead of the head: answers that do not depend on the features, one or one for each box."""

    def __init__(self, scores: torch.Tensor, deltas: torch.Tensor):
        super().__init__()
        self.answers = scores, deltas

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, deltas = self.answers
        return scores.expand(len(features), 4), deltas.expand(len(features), 3, 4)


def test_the_head_learns_from_true_boxes_where_nothing_was_proposed(model: FasterRCNN) -> None:
    nowhere = torch.zeros(3, 50, 4)
    found = model.head_losses(torch.randn(3, 32, 12, 12), nowhere, TRUE)
    assert found["box"] > 0  # of the deltas, which are not yet zero
    model.head = Known(torch.zeros(4), torch.zeros(3, 4))  # type: ignore[assignment]
    found = model.head_losses(torch.randn(3, 32, 12, 12), nowhere, TRUE)
    assert found["box"] == 0  # true boxes need no correction
    assert found["class"].item() == pytest.approx(math.log(4))


def test_the_head_is_told_what_proposals_are(model: FasterRCNN) -> None:
    """Of good and bad proposals, by the losses of a head that gives the same answer for all."""
    true = truths([(10, 20, 40, 50, 2)])
    good, bad = torch.tensor([10.0, 20, 40, 44]), torch.tensor([10.0, 20, 40, 32])  # 0.8 and 0.4
    proposed = torch.stack([good] * 5 + [bad] * 44 + [torch.zeros(4)])[None]
    deltas = torch.zeros(3, 4)
    deltas[2] = encode(true[0, 0, :4], good, HEAD_WEIGHTS)  # what takes a good one to the truth
    model.head = Known(torch.tensor([0.0, 0, 0, 50]), deltas)  # type: ignore[assignment]
    found = model.head_losses(torch.randn(1, 32, 12, 12), proposed, true)
    # Five good ones and the true box are things, and 26 of the others make up the number.
    assert found["class"].item() == pytest.approx(50 * 26 / HEAD_DRAWN)
    # Only the true box itself is moved away: by deltas[2], beyond beta in some of its numbers.
    wrong = torch.nn.functional.smooth_l1_loss(
        deltas[2], torch.zeros(4), beta=1 / 9, reduction="sum"
    )
    assert found["box"].item() == pytest.approx(wrong.item() / HEAD_DRAWN)


def test_the_head_draws_at_most_its_share_of_things(
    model: FasterRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[torch.Tensor]()
    classify = FasterRCNN.classify

    def watched(self: FasterRCNN, maps: torch.Tensor, boxes: torch.Tensor) -> tuple:
        seen.append(boxes)
        return classify(self, maps, boxes)

    monkeypatch.setattr(FasterRCNN, "classify", watched)
    proposed = torch.cat([TRUE[:, :1, :4].expand(-1, 25, -1) + 0.5, torch.zeros(3, 25, 4)], 1)
    model.head_losses(torch.randn(3, 32, 12, 12), proposed, TRUE)
    (boxes,) = seen
    assert boxes.shape == (3, HEAD_DRAWN, 4)
    things = overlaps(boxes, TRUE).amax(-1) >= HEAD_OVERLAP
    assert things.sum(1).tolist() == [int(HEAD_SHARE * HEAD_DRAWN)] * 2 + [0]


def test_a_head_without_truths_has_losses_and_gradients(model: FasterRCNN) -> None:
    maps = torch.randn(2, 32, 12, 12, requires_grad=True)
    found = model.head_losses(maps, random_boxes(2, 50, side=96, seed=0).float(), NONE)
    assert found["box"] == 0
    assert 0 < found["class"] < 10
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert maps.grad is not None and maps.grad.isfinite().all()


def test_detections_are_corrected_by_the_deltas_of_their_class(model: FasterRCNN) -> None:
    proposed = torch.tensor([[[10.0, 20, 40, 50], [60, 60, 90, 80]]])
    target = torch.tensor([[12.0, 20, 44, 56], [70, 58, 100, 82]])
    deltas = torch.full((2, 3, 4), 9.0)
    deltas[:, 1] = encode(target, proposed[0], HEAD_WEIGHTS)
    scores = torch.tensor([[0.0, -30, 2, -30], [0.0, -30, 1, -30]])
    model.head = Known(scores, deltas)  # type: ignore[assignment]
    (found,) = model.detections(torch.zeros(1, 32, 12, 12), proposed, SIZE)
    assert found.labels[:2].tolist() == [1, 1]
    expected = target.clamp(max=96)
    torch.testing.assert_close(found.boxes[:2], expected)
    torch.testing.assert_close(found.scores[:2], torch.tensor([2.0, 1.0]).sigmoid())


class Means(torch.nn.Module):
    """Instead of the head: the mean of each feature over the bins."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = features.mean((2, 3))
        return means, means[:, None]


def test_of_maps_of_coordinates_the_head_is_given_the_middle_of_the_box(model: FasterRCNN) -> None:
    model.head = Means()  # type: ignore[assignment]
    maps = MIDDLES.T.reshape(1, 2, 12, 12)
    boxes = random_boxes(1, 20, side=80, seed=0).float() + 8
    means, _ = model.classify(maps, boxes)
    torch.testing.assert_close(means, to_centre(boxes)[..., :2])


def test_the_head_sees_the_box_it_is_asked_about(model: FasterRCNN) -> None:
    """The same thing elsewhere in the picture gives the same answer."""
    maps = torch.zeros(2, 32, 12, 12)
    thing = torch.randn(32, 4, 3, generator=torch.Generator().manual_seed(0))
    maps[0, :, 2:6, 1:4] = maps[1, :, 7:11, 8:11] = thing
    box = torch.tensor([1.0, 2, 4, 6]) * STRIDE
    moved = torch.tensor([8.0, 7, 11, 11]) * STRIDE
    scores, deltas = model.classify(maps, torch.stack([box, moved])[:, None])
    assert scores.shape == (2, 1, 4) and deltas.shape == (2, 1, 3, 4)
    torch.testing.assert_close(scores[0], scores[1])
    other, _ = model.classify(maps, torch.stack([moved, box])[:, None])
    assert not torch.allclose(scores, other, atol=1e-3)
