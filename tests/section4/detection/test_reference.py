"""torchvision's Faster R-CNN and ours: with the same weights and conventions, the same numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from section4.detection import detector, faster_rcnn, reference
from section4.detection.detector import STRIDE, by_place, places
from section4.detection.faster_rcnn import RATIOS, SIZES, FasterRCNN, anchors
from section4.detection.reference import Torchvision, own_roi_align
from section4.detection.roi_align import roi_align
from section4.engine import count_parameters
from tests.section4.detection.helpers import random_boxes

CLASSES, WIDTH, SHAPES = 4, 8, len(SIZES) * len(RATIOS)
# Ours has all ratios of a size one after the other, torchvision all sizes of a ratio.
ORDER = torch.arange(SHAPES).reshape(len(SIZES), len(RATIOS)).T.flatten()


def weights_of(ours: FasterRCNN) -> dict[str, torch.Tensor]:
    """Ours by torchvision's names. Its head has deltas of "nothing" as well, which nobody uses."""
    rpn, head = ours.rpn, ours.head
    four = (4 * ORDER[:, None] + torch.arange(4)).flatten()  # the rows of the deltas
    state = {f"backbone.{name}": value for name, value in ours.backbone.state_dict().items()}
    for name, layer, order in (
        ("rpn.head.conv.0.0", rpn.conv, None),
        ("rpn.head.cls_logits", rpn.score, ORDER),
        ("rpn.head.bbox_pred", rpn.delta, four),
        ("roi_heads.box_head.fc6", head.layers[1], None),
        ("roi_heads.box_head.fc7", head.layers[3], None),
        ("roi_heads.box_predictor.cls_score", head.score, None),
        ("roi_heads.box_predictor.bbox_pred", head.delta, None),
    ):
        for kind, value in layer.state_dict().items():
            state[f"{name}.{kind}"] = value if order is None else value[order]
            if layer is head.delta:
                state[f"{name}.{kind}"] = torch.cat([torch.zeros_like(value[:4]), value])
    return state


class OurAnchors(nn.Module):
    """Instead of torchvision's generator of anchors: ours, in its order."""

    def forward(self, images: Any, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        frames = anchors(places(maps[0])).unflatten(0, (-1, SHAPES))[:, ORDER].flatten(0, 1)
        return [frames] * len(images.image_sizes)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[FasterRCNN, Torchvision]:
    """Both with the same weights, anchors and place of the maps, learning from all candidates."""
    monkeypatch.setattr(faster_rcnn, "RPN_DRAWN", 10_000)  # so that none are drawn at random
    monkeypatch.setattr(faster_rcnn, "HEAD_DRAWN", 10_000)
    monkeypatch.setattr(faster_rcnn, "roi_align", partial(roi_align, aligned=False))
    monkeypatch.setattr(detector, "CANDIDATES", 10_000)
    torch.manual_seed(0)
    ours, theirs = FasterRCNN(CLASSES, WIDTH), Torchvision(CLASSES, WIDTH)
    with torch.no_grad():
        for layer in (ours.rpn.score, ours.rpn.delta, ours.head.delta):
            for weight in layer.parameters():
                weight.normal_(std=0.1)  # so that no two boxes are alike
    theirs.model.load_state_dict(weights_of(ours))
    theirs.model.rpn.anchor_generator = OurAnchors()
    return ours, theirs


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def test_maps_scores_and_deltas_are_the_same(
    pair: tuple[FasterRCNN, Torchvision], images: torch.Tensor
) -> None:
    ours, theirs = pair
    for model in pair:
        model.eval()
    with torch.no_grad():
        maps = ours.backbone(images)
        torch.testing.assert_close(theirs.model.backbone(images), maps)
        scores, deltas = ours.rpn(maps)
        their_scores, their_deltas = (part[0] for part in theirs.model.rpn.head([maps]))
    for expected, found in ((scores[..., None], their_scores), (deltas, their_deltas)):
        rows = by_place(found, expected.shape[-1]).unflatten(1, (-1, SHAPES))
        torch.testing.assert_close(rows, expected.unflatten(1, (-1, SHAPES))[:, :, ORDER])


def test_losses_are_the_same(pair: tuple[FasterRCNN, Torchvision], images: torch.Tensor) -> None:
    boxes = random_boxes(3, 4, side=96, seed=0).float()
    truths = torch.cat([boxes, torch.arange(12.0).reshape(3, 4, 1) % CLASSES], -1)
    truths[1, 2:] = truths[2] = torch.tensor([0.0, 0, 0, 0, -1])
    ours, theirs = (model(images, truths) for model in pair)
    names = {"objectness": "loss_objectness", "proposal": "loss_rpn_box_reg",
             "class": "loss_classifier", "box": "loss_box_reg"}  # fmt: skip
    assert ours.keys() == names.keys() and set(theirs) == set(names.values())
    for name, loss in ours.items():
        assert loss > 0
        torch.testing.assert_close(loss, theirs[names[name]], rtol=1e-4, atol=1e-6)


def test_detections_are_the_same(
    pair: tuple[FasterRCNN, Torchvision], images: torch.Tensor
) -> None:
    with torch.no_grad():
        found, expected = (model.eval()(images) for model in pair)
    for ours, theirs in zip(found, expected):
        assert 80 < len(ours.scores) == len(theirs.scores) <= 100
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-2)
        assert torch.equal(ours.labels, theirs.labels)


def test_both_have_as_many_parameters_but_for_the_deltas_of_nothing() -> None:
    ours, theirs = FasterRCNN(10, 32), Torchvision(10, 32)
    assert count_parameters(theirs) - count_parameters(ours) == 4 * (8 * 32 + 1)


def test_the_conventions_in_which_they_differ() -> None:
    model = Torchvision(CLASSES, WIDTH).model
    maps = torch.zeros(1, 4 * WIDTH, 12, 12)
    images = torch.zeros(1, 3, 96, 96)
    listed = reference.parts.image_list.ImageList(images, [(96, 96)])
    (theirs,) = model.rpn.anchor_generator(listed, [maps])
    (ours,) = OurAnchors()(listed, [maps])
    assert torch.equal(theirs, theirs.round())
    assert (theirs - (ours - STRIDE / 2)).abs().max() <= 0.5


def test_our_roi_align_as_torchvision_calls_it() -> None:
    maps, boxes = torch.randn(3, 2, 12, 12), random_boxes(3, 4, side=96, seed=0).float()
    rois = torch.cat(
        [
            torch.cat([torch.full((count, 1), float(image)), boxes[image, :count]], 1)
            for image, count in enumerate((4, 0, 3))  # not equally many, and none at all
        ]
    )
    found = own_roi_align(maps, rois, (5, 5), 1 / 8, 2)
    expected = roi_align(maps, boxes, 5, 1 / 8, 2, aligned=False)
    torch.testing.assert_close(found, torch.cat([expected[0], expected[2, :3]]))


@pytest.mark.parametrize("shape", [(96, 96), (64, 96), (96, 64)])
def test_images_reach_the_network_as_they_are(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, seen = Torchvision(CLASSES, WIDTH).eval(), list[torch.Tensor]()
    model.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    images = torch.randn(2, 3, *shape)
    with torch.no_grad():
        found = model(images)
    torch.testing.assert_close(seen[0], images)
    assert all((item.boxes[:, 2:].amax(0) <= torch.tensor(shape[::-1])).all() for item in found)


def test_in_bfloat16_boxes_are_not_rounded(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = Torchvision(CLASSES, WIDTH).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(images)[0]
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert not torch.equal(found.boxes, found.boxes.bfloat16().float())
