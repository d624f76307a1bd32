"""Average precision against COCO's own code, over thousands of random sets of detections."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from section4.detection.metrics import (
    THRESHOLDS,
    Detections,
    Truth,
    average_precisions,
    iou,
    match,
    mean_average_precision,
    precision_recall,
)

CLASSES = 3


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes on a coarse grid, so that many overlap equally; some have no area."""
    corner = rng.integers(0, 12, (count, 2))
    size = rng.integers(0, 8, (count, 2))
    return np.concatenate([corner, corner + size], 1).astype(float) * 3


def moved(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """A little: by whole pixels, so that overlaps tie and fall on thresholds, or by any number."""
    whole = rng.random() < 0.5
    shape = boxes.shape
    boxes = boxes + (rng.integers(-2, 3, shape) if whole else rng.normal(0, 1, shape))
    boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
    return boxes


def random_set(seed: int) -> tuple[list[Detections], list[Truth]]:
    """A few images: some without true boxes or detections; true boxes and scores that are equal."""
    rng = np.random.default_rng(seed)
    found, true = [], []
    for _ in range(rng.integers(1, 6)):
        boxes = random_boxes(rng, int(rng.integers(0, 6)))
        if len(boxes) > 3:
            boxes[:2] = boxes[2]
        truth = Truth(boxes, rng.integers(0, CLASSES, len(boxes)))
        near = rng.integers(0, len(boxes), rng.integers(0, 9) if len(boxes) else 0)
        others = random_boxes(rng, int(rng.integers(0, 5)))
        labels = rng.integers(0, CLASSES, len(near) + len(others))
        known = rng.random(len(near)) < 0.7
        labels[: len(near)][known] = truth.labels[near][known]
        scores = rng.choice([0.0, 0.25, 0.5, *rng.random(4)], len(labels))
        found.append(Detections(np.concatenate([moved(rng, boxes[near]), others]), scores, labels))
        true.append(truth)
    return found, true


def by_coco(found: list[Detections], true: list[Truth]) -> np.ndarray:
    """AP (thresholds, classes) by pycocotools; NaN where a class has no true box."""

    def xywh(box: np.ndarray) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    annotations: list[dict] = []
    results: list[dict] = []
    for image, (detections, truth) in enumerate(zip(found, true), start=1):
        for box, label in zip(truth.boxes, truth.labels):
            w, h = xywh(box)[2:]
            entry = {"image_id": image, "category_id": int(label), "bbox": xywh(box)}
            annotations.append({**entry, "area": w * h, "iscrowd": 0, "id": len(annotations) + 1})
        for box, score, label in zip(detections.boxes, detections.scores, detections.labels):
            entry = {"image_id": image, "category_id": int(label), "bbox": xywh(box)}
            results.append({**entry, "score": float(score)})
    coco = COCO()
    coco.dataset = {
        "info": {}, "images": [{"id": k + 1} for k in range(len(true))],
        "categories": [{"id": k} for k in range(CLASSES)], "annotations": annotations,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results) if results else COCO(), "bbox")
        evaluation.params.imgIds = [k + 1 for k in range(len(true))]
        evaluation.params.catIds = list(range(CLASSES))
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    mean = evaluation.eval["precision"][:, :, :, 0, 0].mean(axis=1)  # (T, recalls, K) -> (T, K)
    return np.where(mean < 0, np.nan, mean)


@pytest.mark.parametrize("start", range(0, 2000, 250))
def test_average_precision_is_that_of_pycocotools(start: int) -> None:
    for seed in range(start, start + 250):
        found, true = random_set(seed)
        np.testing.assert_allclose(
            average_precisions(found, true, CLASSES),
            by_coco(found, true),
            rtol=0,
            atol=1e-9,
            err_msg=f"seed {seed}",
        )


def test_of_a_class_in_an_image_the_hundred_best_count_as_in_pycocotools() -> None:
    rng = np.random.default_rng(0)
    truth = Truth(random_boxes(rng, 40), np.arange(40) % 2)
    picked = rng.integers(0, 40, 300)
    boxes = truth.boxes[picked] + rng.integers(-2, 3, (300, 4)).clip([-2, -2, 0, 0], [0, 0, 2, 2])
    crowded = Detections(boxes, rng.permutation(300) / 300, truth.labels[picked])
    kept = crowded.scores > 0.6  # fewer than 100 of each class
    few = Detections(crowded.boxes[kept], crowded.scores[kept], crowded.labels[kept])
    values = average_precisions([crowded], [truth], CLASSES)
    np.testing.assert_allclose(values, by_coco([crowded], [truth]), rtol=0, atol=1e-9)
    assert len(precision_recall([crowded], [truth], 0, 0.5).scores) == 100
    assert len(precision_recall([few], [truth], 0, 0.5).scores) < 100
    assert (values[:, :2] >= average_precisions([few], [truth], CLASSES)[:, :2]).all()


def by_hand() -> tuple[list[Detections], list[Truth]]:
    """Two true boxes: the best detection is one of them, the next is nothing, the third has an
    overlap of 80 pixels of 120 with the other.
    """
    truth = Truth(np.array([[0.0, 0, 10, 10], [30, 30, 40, 40]]), np.array([0, 0]))
    boxes = np.array([[32.0, 30, 42, 40], [0, 0, 10, 10], [60, 60, 70, 70]])
    return [Detections(boxes, np.array([0.7, 0.9, 0.8]), np.array([0, 0, 0]))], [truth]


def test_precision_and_recall_by_hand() -> None:
    found, true = by_hand()
    curve = precision_recall(found, true, 0, 0.5)
    assert curve.scores.tolist() == [0.9, 0.8, 0.7]
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3]
    assert curve.recall.tolist() == [1 / 2, 1 / 2, 1]
    assert curve.truths == 2


def test_average_precision_by_hand() -> None:
    found, true = by_hand()
    both = (51 + 50 * 2 / 3) / 101  # recalls 0, 0.01 ... 0.5; 0.51 ... 1
    one = 51 / 101
    values = average_precisions(found, true, 1)
    by_threshold = np.repeat([both, one], [4, 6])  # the third has an IoU of 2/3
    np.testing.assert_allclose(values[:, 0], by_threshold, rtol=1e-12)
    assert mean_average_precision(found, true, 1) == pytest.approx((4 * both + 6 * one) / 10)
    assert mean_average_precision(found, true, 1, [0.5]) == pytest.approx(both)


def test_overlaps_by_hand() -> None:
    a = np.array([[0.0, 0, 10, 10], [3, 3, 3, 9]])
    b = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [3, 3, 3, 9]])
    np.testing.assert_allclose(iou(a, b), [[1.0, 1 / 3, 0.0, 0.0], [0.0] * 4])
    assert iou(np.zeros((0, 4)), b).shape == (0, 4)


def test_a_true_box_is_found_once_and_by_the_best_score() -> None:
    overlap = np.array([[0.6, 0.8], [0.7, 0.9], [0.7, 0.7]])
    assert match(overlap, [0.5, 0.65, 0.75]).tolist() == [[1, 0, -1], [1, 0, -1], [1, -1, -1]]
    assert match(np.array([[0.7, 0.7]]), [0.5]).tolist() == [[1]]  # of equal ones the last
    assert match(np.array([[1 - 1e-12]]), [1.0]).tolist() == [[0]]  # 1 but for rounding


@pytest.mark.parametrize("seed", range(40))
def test_to_cut_off_low_scores_can_only_lower_average_precision(seed: int) -> None:
    found, true = random_set(seed)
    last = average_precisions(found, true, CLASSES)
    for least in (0.1, 0.25, 0.4, 0.5, 0.7, 0.9):
        rest = [
            Detections(
                d.boxes[d.scores > least], d.scores[d.scores > least], d.labels[d.scores > least]
            )
            for d in found
        ]
        values = average_precisions(rest, true, CLASSES)
        assert not (values > last).any()
        last = values


def test_a_perfect_detector_has_average_precision_one() -> None:
    rng = np.random.default_rng(0)
    true, found = [], []
    for count in (5, 0, 1, 8):
        corner = rng.uniform(0, 90, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(1, 30, (count, 2))], 1)
        true.append(Truth(boxes, np.arange(count) % CLASSES))
        found.append(Detections(boxes, rng.random(count), np.arange(count) % CLASSES))
    assert (average_precisions(found, true, CLASSES) == 1).all()
    assert mean_average_precision(found, true, CLASSES) == 1


def test_a_detector_that_finds_nothing_has_zero() -> None:
    _, true = by_hand()
    nothing = [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))]
    assert average_precisions(nothing, true, 1).tolist() == [[0.0]] * len(THRESHOLDS)


def test_a_class_of_which_there_is_nothing_to_find_is_left_out() -> None:
    found, true = by_hand()
    extra = Detections(
        np.concatenate([found[0].boxes, [[0, 0, 5, 5]]]),
        np.append(found[0].scores, 1.0),
        np.append(found[0].labels, 1),
    )
    values = average_precisions([extra], true, 2)
    assert np.isnan(values[:, 1]).all()
    assert not np.isnan(values[:, 0]).any()
    assert mean_average_precision([extra], true, 2) == mean_average_precision(found, true, 1)
    assert np.isnan(mean_average_precision([extra], [Truth(np.zeros((0, 4)), np.zeros(0))], 2))


def test_found_and_true_have_to_be_of_the_same_images() -> None:
    found, true = by_hand()
    with pytest.raises(ValueError, match="longer"):
        average_precisions(found, true * 2, 1)
