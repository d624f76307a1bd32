"""Scenes of digits: the same for the same seed, with exact boxes, in colours that can be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from section4.detection import scenes
from section4.detection.scenes import INK, Scenes, Style, compose
from utils import data

SET = data.load("mnist", policy="embedded")
STYLE = Style()


def composed(count: int, seed: int = 0, style: Style = STYLE) -> Scenes:
    return compose(SET.train_x, SET.train_y, count, np.random.default_rng(seed), style)


@pytest.fixture(scope="module")
def many() -> Scenes:
    return composed(200)


def boxes_of(truth: np.ndarray) -> np.ndarray:
    return truth[truth[:, 4] >= 0]


def test_what_is_returned(many: Scenes) -> None:
    assert len(many) == 200
    assert many.images.shape == (200, 96, 96, 3)
    assert many.images.dtype == np.uint8
    assert many.truths.dtype == np.float32
    assert many.classes == tuple("0123456789")
    assert set(many.truths[..., 4].ravel()) == {-1, *range(10)}
    some = many[np.array([3, 5])]
    assert len(some) == 2
    assert np.array_equal(some.images, many.images[[3, 5]])
    assert np.array_equal(some.truths, many.truths[[3, 5]])


def test_the_same_seed_gives_the_same_scenes_and_another_seed_others() -> None:
    first, again, other = composed(4), composed(4), composed(4, seed=1)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.truths, again.truths)
    for a, b in zip(first.images, other.images):
        assert not np.array_equal(a, b)


def test_a_scene_does_not_depend_on_how_many_follow(many: Scenes) -> None:
    few = composed(7)
    assert np.array_equal(few.images, many.images[:7])
    for short, long in zip(few.truths, many.truths):
        assert np.array_equal(boxes_of(short), boxes_of(long))


def test_no_scenes() -> None:
    none = composed(0)
    assert none.images.shape == (0, 96, 96, 3)
    assert none.truths.shape == (0, 1, 5)


def test_numbers_and_sizes_are_in_range_and_all_occur(many: Scenes) -> None:
    numbers = [len(boxes_of(truth)) for truth in many.truths]
    assert set(numbers) == set(range(1, 7))
    assert many.truths.shape[1] == max(numbers)
    boxes = many.truths[many.truths[..., 4] >= 0]
    size = boxes[:, 2:4] - boxes[:, :2]
    longer = size.max(1)
    assert longer.max() == 40
    assert 14 <= longer.min() <= 16  # a faint edge of a pixel or two is cut off
    assert (size.min(1) >= 3).all()


def test_boxes_lie_inside_and_the_places_without_one_are_zero(many: Scenes) -> None:
    boxes = many.truths[many.truths[..., 4] >= 0]
    assert boxes[:, :4].min() == 0  # digits touch the edges
    assert boxes[:, :4].max() == 96
    empty = many.truths[many.truths[..., 4] < 0]
    assert len(empty)
    assert not empty[:, :4].any()


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_boxes_overlap_at_most_up_to_the_bound(bound: float) -> None:
    worst = 0.0
    for truth in composed(60, style=Style(digits=(6, 6), overlap=bound)).truths:
        found = boxes_of(truth)[:, :4].astype(int)
        for k, a in enumerate(found):
            for b in found[:k]:
                drawn = np.zeros((2, 96, 96), bool)
                for mask, (x1, y1, x2, y2) in zip(drawn, (a, b)):
                    mask[y1:y2, x1:x2] = True
                worst = max(worst, drawn.all(0).sum() / drawn.sum((1, 2)).min())
    assert bound - 0.05 <= worst <= bound + 1e-12


def test_a_box_is_tight_around_what_its_digit_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.full((96, 96, 3), 0.5)
    monkeypatch.setattr(scenes, "background", lambda side, rng: grey.copy())
    alone = Style(digits=(1, 1), clutter=(0, 0))
    for child in np.random.default_rng(2).spawn(100):
        canvas, truth = scenes.scene(SET.train_x, SET.train_y, child, alone)
        painted = np.abs(canvas - grey).sum(2)
        x1, y1, x2, y2, _ = truth[0].astype(int)
        rows, columns = np.nonzero(painted > 0.2 * painted.max())
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
        painted[y1:y2, x1:x2] = 0
        assert not painted.any()


def test_a_digit_stands_out_from_what_lies_beneath_it(monkeypatch: pytest.MonkeyPatch) -> None:
    paint, distances = scenes.paint, []

    def watched(
        canvas: np.ndarray, ink: np.ndarray, top: int, left: int, rng: np.random.Generator
    ) -> None:
        part = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
        before = part.copy()
        paint(canvas, ink, top, left, rng)
        inked = ink > INK
        if max(ink.shape) >= 14:  # clutter is smaller
            distances.append(np.abs(part - before).sum(2)[inked] / ink[inked])

    monkeypatch.setattr(scenes, "paint", watched)
    composed(100)
    assert len(distances) > 200
    # Of the colours, summed over three channels in [0, 1]: anywhere, and on average.
    assert min(distance.min() for distance in distances) > 0.3
    assert min(distance.mean() for distance in distances) > 0.6


def test_resampling_keeps_what_is_even_and_the_sum_of_weights() -> None:
    for old, new in ((28, 40), (20, 16), (3, 96), (5, 5), (1, 3)):
        matrix = scenes.resampling(old, new)
        assert matrix.shape == (new, old)
        np.testing.assert_allclose(matrix.sum(1), 1)
        assert (matrix >= 0).all()
    np.testing.assert_allclose(scenes.resampling(5, 5), np.eye(5))


def test_resampling_is_that_of_pytorch() -> None:
    image = np.random.default_rng(0).random((20, 13))
    for h, w in ((40, 26), (16, 10), (11, 30)):
        ours = scenes.resampling(20, h) @ image @ scenes.resampling(13, w).T
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(image)[None, None], (h, w), mode="bilinear", antialias=True
        )
        np.testing.assert_allclose(ours, theirs[0, 0], atol=1e-12)


def test_the_class_is_that_of_the_digit() -> None:
    nines = SET.train_y == 9
    rng = np.random.default_rng(0)
    found = compose(SET.train_x[nines], SET.train_y[nines], 10, rng).truths[..., 4]
    assert set(found.ravel()) == {-1, 9}


def test_a_style_whose_digits_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="has 32 pixels, but needs at least 40"):
        Style(side=32)
    small = composed(3, style=Style(side=32, size=(8, 16)))
    assert small.images.shape == (3, 32, 32, 3)
