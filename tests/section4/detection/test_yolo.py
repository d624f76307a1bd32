"""YOLO: whose business a cell is, what its numbers mean, and losses that know what is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from section4.detection.boxes import to_centre
from section4.detection.detector import STRIDE, places
from section4.detection.scenes import compose
from section4.detection.yolo import BOX_WEIGHT, YOLO, assign, decode, losses
from tests.section4.detection.helpers import truths
from utils import data

CLASSES = 3
CELLS = places(torch.zeros(1, 1, 12, 12))  # of pictures of 96x96 pixels
THREE = [(10, 20, 40, 50, 2), (60, 10, 80, 50, 0), (55, 60, 96, 96, 1)]
TRUE = truths(THREE, [], [(2, 3, 12, 9, 1)])


def owners(truths: torch.Tensor) -> torch.Tensor:
    """Of the first image which row each cell belongs to, -1 for none: (12, 12)."""
    mine, which = assign(truths, CELLS)
    return torch.where(mine, which, -1)[0].unflatten(0, (12, 12))


def around(x: float, y: float, label: int = 0) -> tuple[float, float, float, float, float]:
    """A row of truths with its middle there."""
    return (x - 9, y - 7, x + 9, y + 7, label)


def perfect(truths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a network that is right and sure says in every cell: (sure, boxes, scores)."""
    mine, which = assign(truths, CELLS)
    true = truths.gather(1, which[..., None].expand(-1, -1, 5))
    labels = functional.one_hot(true[..., 4].long().clamp(min=0), CLASSES)
    return 60 * mine.float() - 30, true[..., :4], 30.0 * labels


# --- whose business a cell is ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "rows", "columns"),
    [
        (41, 50, [5, 6], [4, 5]),  # middles at 36 and 44, 44 and 52
        (44, 50, [5, 6], [5]),  # the middle of a cell, along x
        (44, 52, [6], [5]),
        (1, 95.9, [11], [0]),  # there are no cells beyond the edge
        (1, 50, [5, 6], [0]),
    ],
)
def test_the_cells_around_a_middle(x: float, y: float, rows: list[int], columns: list[int]) -> None:
    expected = torch.full((12, 12), -1)
    expected[torch.tensor(rows)[:, None], torch.tensor(columns)] = 0
    assert torch.equal(owners(truths([around(x, y)])), expected)


def test_the_nearest_box_has_the_cell() -> None:
    found = owners(truths([around(41, 50), around(47, 50)]))  # 36 and 44, 44 and 52
    assert found[5].tolist() == [-1] * 4 + [0, 0, 1] + [-1] * 5
    found = owners(truths([around(37, 44), around(45, 44)]))  # both reach 44, the second nearer
    assert found[5].tolist() == [-1] * 4 + [0, 1, 1] + [-1] * 5


def test_rows_that_are_not_needed_get_no_cell() -> None:
    mine, which = assign(TRUE, CELLS)
    assert mine.sum(1).tolist()[1] == 0
    assert not mine[which == TRUE.shape[1] - 1].any()
    unused = truths([])
    unused[..., :4] = torch.tensor([40.0, 40, 50, 50])  # whatever their numbers are
    assert not assign(unused, CELLS)[0].any()


def test_in_scenes_nearly_every_box_gets_up_to_four_cells_close_to_its_middle() -> None:
    digits = data.load("mnist", policy="embedded")
    rng = np.random.default_rng(0)
    true = torch.from_numpy(compose(digits.train_x, digits.train_y, 100, rng).truths)
    mine, which = assign(true, CELLS)
    cells = (functional.one_hot(which, true.shape[1]) * mine[..., None]).sum(1)  # (N, M)
    real = true[..., 4] >= 0
    assert set(cells[real].tolist()) <= {0, 1, 2, 3, 4}
    assert not cells[~real].any()
    assert (cells[real] == 0).float().mean() < 0.01  # unless another lies right on it
    assert (cells[real] == 4).float().mean() > 0.5
    image, place = mine.nonzero(as_tuple=True)
    middle = to_centre(true[image, which[image, place], :4])[:, :2]
    assert (middle - CELLS[place]).abs().max() < STRIDE


# --- boxes ----------------------------------------------------------------------------------


def test_decode() -> None:
    middles = torch.tensor([[44.0, 52], [4, 4]])
    numbers = torch.tensor([[[0.5, -1, math.log(3) - 1, math.log(5) - 1], [0, 0, -1, 0]]])
    found = to_centre(decode(numbers, middles))[0]
    torch.testing.assert_close(found[0], torch.tensor([48.0, 44, 24, 40]))
    torch.testing.assert_close(found[1], torch.tensor([4.0, 4, 8, 8 * math.e]))
    assert decode(torch.full((1, 2, 4), 1e6), middles).isfinite().all()


# --- losses ---------------------------------------------------------------------------------


def test_who_is_right_has_no_loss() -> None:
    found = losses(*perfect(TRUE), TRUE, CELLS)
    assert list(found) == ["object", "box", "class"]
    for loss in found.values():
        assert abs(loss.item()) < 1e-5


def test_each_mistake_is_in_its_own_loss() -> None:
    sure, boxes, scores = perfect(TRUE)
    assert losses(-sure, boxes, scores, TRUE, CELLS)["object"] > 30
    assert losses(sure, boxes, scores.flip(-1), TRUE, CELLS)["class"] > 10
    far = losses(sure, boxes + 200, scores, TRUE, CELLS)
    assert BOX_WEIGHT < far["box"] < 2 * BOX_WEIGHT
    assert far["object"] < 1e-5 and far["class"] < 1e-5


def test_what_cells_without_a_box_say_of_it_does_not_matter() -> None:
    sure, boxes, scores = perfect(TRUE)
    others = ~assign(TRUE, CELLS)[0]
    boxes[others], scores[others] = -77.0, 5.0
    assert all(loss.abs() < 1e-5 for loss in losses(sure, boxes, scores, TRUE, CELLS).values())


def test_losses_are_means_over_the_cells_with_a_box() -> None:
    sure, boxes, scores = perfect(TRUE)
    cells = int(assign(TRUE, CELLS)[0].sum())
    found = losses(torch.zeros_like(sure), boxes, torch.zeros_like(scores), TRUE, CELLS)
    assert found["object"].item() == pytest.approx(math.log(2) * sure.numel() / cells)
    assert found["class"].item() == pytest.approx(math.log(CLASSES))


def test_at_first_it_says_that_there_is_little() -> None:
    torch.manual_seed(0)
    model = YOLO(CLASSES, width=8).eval()
    with torch.no_grad():
        found = model(torch.randn(2, 3, 96, 96))
    assert 0 < max(item.scores.max() for item in found) < 0.05
    size = to_centre(found[0].boxes)[:, 2:]
    assert (size / (math.e * STRIDE)).log().abs().max() < 0.5
