"""The kinds of errors: a scene made for each, and what holds for any detections."""

from __future__ import annotations

import numpy as np
import pytest

from section4.detection.errors import KINDS, breakdown, judge, mend, missed
from section4.detection.metrics import Detections, Truth, mean_average_precision

CLASSES = 3

Box = tuple[float, float, float, float]
HERE: Box = (0, 0, 10, 10)
GOOD: Box = (0, 0, 10, 8)  # an overlap of 0.8 with HERE
SHIFTED: Box = (5, 0, 15, 10)  # of 1/3
BARELY: Box = (9, 0, 19, 10)  # of 1/19
THERE: Box = (50, 50, 60, 60)
NOWHERE: Box = (80, 80, 90, 90)


def detections(*rows: tuple[Box, float, int]) -> Detections:
    boxes, scores, labels = zip(*rows)
    return Detections(np.array(boxes, float), np.array(scores), np.array(labels))


def kinds(found: Detections, true: Truth) -> np.ndarray:
    return judge(found, true)[0]


def truth(*rows: tuple[Box, int]) -> Truth:
    boxes, labels = zip(*rows)
    return Truth(np.array(boxes, float), np.array(labels))


SCENES = {
    "class": (detections((GOOD, 0.9, 1)), truth((HERE, 0))),
    "location": (detections((SHIFTED, 0.9, 0)), truth((HERE, 0))),
    "both": (
        detections((SHIFTED, 0.9, 1), (HERE, 0.8, 0), (THERE, 0.7, 1)),
        truth((HERE, 0), (THERE, 1)),
    ),
    "duplicate": (
        detections((HERE, 0.9, 0), (GOOD, 0.8, 0), (THERE, 0.7, 0)),
        truth((HERE, 0), (THERE, 0)),
    ),
    "background": (detections((NOWHERE, 0.9, 0), (HERE, 0.8, 0)), truth((HERE, 0))),
    "missed": (detections((HERE, 0.9, 0)), truth((HERE, 0), (THERE, 0))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_its_own_oracle_mends_an_error_and_does_so_wholly(kind: str) -> None:
    found, true = SCENES[kind]
    before = mean_average_precision([found], [true], CLASSES, [0.5])
    rises = breakdown([found], [true], CLASSES)
    assert before < 0.9
    assert list(rises) == list(KINDS)
    assert rises == {other: (1 - before if other == kind else 0) for other in KINDS}


def test_rises_by_hand_are_those_of_average_precision() -> None:
    rises = {kind: breakdown([found], [true], CLASSES) for kind, (found, true) in SCENES.items()}
    assert rises["class"]["class"] == 1  # nothing was right
    assert rises["background"]["background"] == pytest.approx(1 / 2)
    assert rises["missed"]["missed"] == pytest.approx(50 / 101)  # recalls 0.51 ... 1
    assert rises["duplicate"]["duplicate"] == pytest.approx(50 / 101 / 3)  # precision 2/3 there
    assert rises["both"]["both"] == pytest.approx((1 - 1 / 2) / 2)  # of two classes


def test_kinds_of_one_image() -> None:
    found = detections(
        (GOOD, 0.3, 0),  # the lower score: HERE is taken
        (HERE, 0.9, 0),
        (SHIFTED, 0.8, 0),
        (HERE, 0.7, 1),
        (SHIFTED, 0.6, 1),
        (BARELY, 0.5, 0),
        (NOWHERE, 0.4, 2),
    )
    true = truth((HERE, 0), (THERE, 2))
    assert kinds(found, true).tolist() == [
        "duplicate", "right", "location", "class", "both", "background", "background",
    ]  # fmt: skip
    _, targets = judge(found, true)
    assert targets.tolist() == [-1, 0, 0, 0, -1, -1, -1]
    assert missed(true, targets).tolist() == [False, True]
    assert (kinds(found, Truth(np.zeros((0, 4)), np.zeros(0, int))) == "background").all()
    assert kinds(Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)), true).shape == (0,)


def test_overlaps_on_the_limits_count_as_enough() -> None:
    tenth, half = (0, 0, 10, 1), (0, 0, 10, 5)
    found = detections((half, 0.9, 0), (tenth, 0.8, 0), (half, 0.7, 1), (tenth, 0.6, 1))
    assert kinds(found, truth((HERE, 0))).tolist() == ["right", "location", "class", "both"]


def test_of_equal_overlaps_the_last_is_meant_as_in_matching() -> None:
    # The first would be free. But with the right class the detection would take the last, which
    # another has, and mAP would fall.
    twins = truth(((0, 0, 10, 10), 0), ((4, 0, 14, 10), 0), (THERE, 0))
    found = detections(((2, 0, 12, 10), 0.9, 1), ((4, 0, 14, 10), 0.8, 0), (THERE, 0.7, 0))
    assert judge(found, twins)[1].tolist() == [1, 1, 2]
    assert breakdown([found], [twins], CLASSES)["class"] == 0
    shifted = detections(((2, 5, 12, 15), 0.9, 0), ((4, 0, 14, 10), 0.8, 0))
    assert kinds(shifted, twins).tolist() == ["location", "right"]
    assert judge(shifted, twins)[1].tolist() == [1, 1]


def test_a_detection_that_is_wrong_in_several_ways_is_the_first_of_them() -> None:
    near = truth((HERE, 0), (GOOD, 1))
    judged, targets = judge(detections((HERE, 0.9, 0), (HERE, 0.8, 0)), near)
    assert judged.tolist() == ["right", "class"]
    assert targets.tolist() == [0, 1]
    apart = truth((HERE, 0), (SHIFTED, 1))
    assert kinds(detections((HERE, 0.9, 1)), apart).tolist() == ["location"]


@pytest.mark.parametrize("kind, box, label", [("class", GOOD, 1), ("location", SHIFTED, 0)])
def test_of_rivals_for_a_true_box_the_best_is_mended_and_the_rest_removed(
    kind: str, box: Box, label: int
) -> None:
    found = detections((box, 0.5, label), (box, 0.7, label), (NOWHERE, 0.6, 0), (box, 0.6, label))
    true = truth((HERE, 0))
    mended, same = mend(kind, found, true, *judge(found, true))
    assert same is true
    assert mended.scores.tolist() == [0.7, 0.6]
    assert mended.labels.tolist() == [0, 0]
    assert kinds(mended, true).tolist() == ["right", "background"]
    taken = detections((HERE, 0.1, 0), (box, 0.9, label))
    mended, _ = mend(kind, taken, true, *judge(taken, true))
    assert mended.scores.tolist() == [0.1]


@pytest.mark.parametrize("kind", ["class", "location"])
def test_a_true_box_that_another_oracle_recovers_is_not_missed(kind: str) -> None:
    found, true = SCENES[kind]
    kept = mend("missed", found, true, *judge(found, true))[1]
    assert kept.labels.tolist() == [0]


def test_oracles_leave_what_they_were_given_as_it_was() -> None:
    found, true = random_images(0)
    copies = [(d.boxes.copy(), d.labels.copy(), t.boxes.copy()) for d, t in zip(found, true)]
    breakdown(found, true, CLASSES)
    for d, t, (boxes, labels, true_boxes) in zip(found, true, copies):
        assert (d.boxes == boxes).all() and (d.labels == labels).all()
        assert (t.boxes == true_boxes).all()


def random_images(seed: int) -> tuple[list[Detections], list[Truth]]:
    """Eight images with errors of every kind, and boxes and scores that are equal."""
    rng = np.random.default_rng(seed)
    found, true = [], []
    for _ in range(8):
        corner = rng.integers(0, 20, (rng.integers(0, 7), 2)) * 3.0
        boxes = np.concatenate([corner, corner + rng.integers(3, 8, corner.shape) * 3], 1)
        if len(boxes) > 4:
            boxes[0] = boxes[1]
        labels = rng.integers(0, CLASSES, len(boxes))
        picked = rng.integers(0, len(boxes), 12 if len(boxes) else 0)
        near = boxes[picked] + rng.integers(-5, 6, (len(picked), 1)) * rng.integers(0, 2, 4)
        aside = rng.integers(0, 60, (3, 2))
        elsewhere = np.concatenate([aside, aside + 9], 1)
        guesses = rng.integers(0, CLASSES, len(picked) + 3)
        known = rng.random(len(picked)) < 0.6
        guesses[: len(picked)][known] = labels[picked][known]
        scores = rng.choice([0.25, 0.5, *rng.random(6)], len(guesses))
        found.append(Detections(np.concatenate([near, elsewhere]), scores, guesses))
        true.append(Truth(boxes, labels))
    return found, true


@pytest.mark.parametrize("seed", range(100))
def test_no_oracle_lowers_map_nor_leaves_errors_of_its_kind(seed: int) -> None:
    found, true = random_images(seed)
    rises = breakdown(found, true, CLASSES)
    assert min(rises.values()) > -1e-12
    assert max(rises.values()) > 0
    for d, t in zip(found, true):
        verdict = judge(d, t)
        for kind in KINDS[:-1]:
            assert kind not in kinds(*mend(kind, d, t, *verdict))
        kept = mend("missed", d, t, *verdict)[1]
        assert not missed(kept, judge(d, kept)[1]).any()


def test_random_images_have_errors_of_every_kind() -> None:
    found, true = random_images(0)
    seen = {kind for image in zip(found, true) for kind in kinds(*image)}
    assert seen == {"right", *KINDS[:-1]}


def test_nothing_found_is_all_missed() -> None:
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    rises = breakdown([nothing], [truth((HERE, 0))], CLASSES)
    assert rises == {kind: float(kind == "missed") for kind in KINDS}


def test_a_class_that_is_all_missed_drops_out_of_the_mean() -> None:
    found, true = detections((NOWHERE, 0.9, 0), (HERE, 0.8, 0)), truth((HERE, 0), (THERE, 1))
    assert breakdown([found], [true], CLASSES)["missed"] == pytest.approx(1 / 2 - 1 / 4)


def test_where_there_is_nothing_to_find_there_is_nothing_to_lose() -> None:
    found, _ = SCENES["class"]
    with pytest.raises(ValueError, match="nothing to find"):
        breakdown([found], [Truth(np.zeros((0, 4)), np.zeros(0, int))], CLASSES)
