"""The sliding window: windows and pictures, what is learned from, and what is answered."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from section4.detection import sliding_window
from section4.detection.boxes import pairwise_iou, to_centre, to_corners
from section4.detection.sliding_window import (
    BORDER,
    DRAWN,
    FITS,
    MISSES,
    SIZES,
    STEP,
    THING,
    WINDOW,
    SlidingWindow,
    crops,
    draw_windows,
    window_around,
    windows_of,
)
from tests.section4.detection.helpers import overlap, random_boxes, truths

THREE = [(10, 20, 40, 50, 2), (60, 10, 80, 50, 0), (55, 60, 96, 96, 1)]
TRUE = truths(THREE, [(2, 3, 22, 19, 1)], [])


def trained(classes: int = 3) -> SlidingWindow:
    """In evaluation mode, with running statistics that are not those of the beginning."""
    torch.manual_seed(0)
    model = SlidingWindow(classes, width=8).double()
    with torch.no_grad():
        model(torch.randn(3, 3, 96, 96, dtype=torch.float64), TRUE.double())
    return model.eval()


def cut_out(copy: torch.Tensor) -> torch.Tensor:
    """Every window of a copy (N, C, H, W), row by row: (N, R, C, 32, 32)."""
    windows = copy.unfold(2, WINDOW, STEP).unfold(3, WINDOW, STEP)  # (N, C, h, w, 32, 32)
    return windows.flatten(2, 3).transpose(1, 2)


def copies(images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
    """The pyramid: (scale, copy)."""
    padded = functional.pad(images, (BORDER,) * 4, mode="replicate")
    return [
        (scale, functional.interpolate(padded, scale_factor=scale, mode="bilinear"))
        for scale in (THING / size for size in SIZES)
    ]


# --- windows --------------------------------------------------------------------------------


def test_one_pass_over_a_copy_answers_for_each_of_its_windows() -> None:
    model = trained()
    images = torch.randn(1, 3, 40, 52, dtype=torch.float64)
    with torch.no_grad():
        for _, copy in copies(images):
            answers = model.layers(copy).flatten(2).transpose(1, 2)  # (N, R, 1 + K)
            windows = cut_out(copy)
            alone = model.layers(windows.flatten(0, 1))[..., 0, 0]
            torch.testing.assert_close(answers.flatten(0, 1), alone)


def test_windows_show_in_training_what_they_show_in_the_pyramid() -> None:
    """The geometry both ways: what is cut out of the picture is what the copies hold there."""
    images = torch.rand(2, 3, 56, 70, dtype=torch.float64)
    for scale, copy in copies(images):
        expected = cut_out(copy)
        shape = [(length - WINDOW) // STEP + 1 for length in copy.shape[2:]]
        windows = windows_of(torch.zeros(2, 4, *shape), scale)
        assert len(windows) == expected.shape[1]
        found = crops(images, windows.double().expand(2, -1, -1))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_crops_of_whole_pixels_are_those_pixels() -> None:
    images = torch.rand(2, 3, 40, 64, dtype=torch.float64)
    corners = torch.tensor([[[5, 3], [30, 8]], [[-7, -4], [50, 31]]])
    found = crops(images, torch.cat([corners, corners + WINDOW], -1).double())
    assert found.shape == (2, 2, 3, WINDOW, WINDOW)
    for image in range(2):
        for number, (x, y) in enumerate(corners[image].tolist()):
            rows = (y + torch.arange(WINDOW)).clamp(0, 39)
            columns = (x + torch.arange(WINDOW)).clamp(0, 63)
            expected = images[image][:, rows[:, None], columns]
            torch.testing.assert_close(found[image, number], expected)


def test_beyond_the_edge_the_nearest_pixel_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a picture with a wide border of such pixels; also where nothing of it is in sight.

    Without PyTorch's own way, which Apple's GPUs refuse.
    """
    images = torch.rand(2, 3, 24, 40, dtype=torch.float64)
    wide = functional.pad(images, (200,) * 4, mode="replicate")
    windows = random_boxes(2, 60, side=380, seed=1) - 170
    expected, sample = crops(wide, windows + 200), functional.grid_sample

    def on_apple(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        assert options.get("padding_mode") != "border"
        return sample(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(functional, "grid_sample", on_apple)
    torch.testing.assert_close(crops(images, windows), expected)
    found = crops(images.float(), windows.float())
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-4)


def test_windows_twice_as_large_show_every_second_place_between_pixels() -> None:
    images = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    found = crops(images, torch.tensor([[[0.0, 0, 64, 64]]], dtype=torch.float64))[0, 0]
    torch.testing.assert_close(found, functional.avg_pool2d(images, 2)[0])


def test_the_window_around_a_box() -> None:
    found = window_around(torch.tensor([[30.0, 40, 54, 52], [0, 0, 6, 12]]))
    assert found.tolist() == [[26, 30, 58, 62], [-5, -2, 11, 14]]


def test_every_thing_has_a_window_that_fits_it() -> None:
    """Wherever it lies in the picture, for every length from the smallest to the largest."""
    windows = []
    for scale, copy in copies(torch.zeros(1, 1, 96, 96)):
        shape = [(length - WINDOW) // STEP + 1 for length in copy.shape[2:]]
        windows.append(windows_of(torch.zeros(1, 4, *shape), scale))
    generator = torch.Generator().manual_seed(0)
    size = min(SIZES) + (max(SIZES) - min(SIZES)) * torch.rand(500, 1, generator=generator)
    low = torch.rand(500, 2, generator=generator) * (96 - size)
    low[:4] = torch.stack([torch.zeros(4), (96 - size)[:4, 0] * torch.tensor([0, 1, 0, 1])], 1)
    low[2:4] = low[2:4].flip(1)  # in corners and at edges
    best = pairwise_iou(torch.cat(windows), window_around(torch.cat([low, low + size], 1))).amax(0)
    assert best.min() > FITS


# --- training -------------------------------------------------------------------------------


def test_windows_are_called_what_they_show() -> None:
    torch.manual_seed(0)
    kinds = set()
    for _ in range(20):
        windows, labels = draw_windows(TRUE, 96)
        assert windows.shape == (3, 8 + DRAWN, 4) and labels.shape == (3, 8 + DRAWN)
        for image, number in torch.cartesian_prod(torch.arange(3), torch.arange(8 + DRAWN)):
            real = TRUE[image][TRUE[image, :, 4] >= 0]
            if number < 8 and TRUE[image, number % 4, 4] < 0:
                expected = -1  # drawn around a row that is no box
            else:
                window = windows[image, number].tolist()
                shares = [overlap(window, ideal) for ideal in window_around(real[:, :4]).tolist()]
                best = max(shares, default=0.0)
                if abs(best - FITS) < 1e-4 or abs(best - MISSES) < 1e-4:
                    continue
                expected = -1 if MISSES < best < FITS else 0
                if best > FITS:
                    expected = 1 + int(real[shares.index(best), 4])
            assert labels[image, number] == expected
            kinds.add((int(number) // 4, expected > 0, expected == 0))
    # Near a thing and anywhere are windows of both kinds; the first ones always show it.
    assert {kind for kind in kinds if kind[0] == 0} == {(0, True, False), (0, False, False)}
    assert {(1, True, False), (1, False, True), (2, False, True)} <= kinds


def test_windows_are_square_and_have_their_middles_in_the_picture() -> None:
    torch.manual_seed(0)
    boxes = random_boxes(200, 2, side=96, seed=0).float()
    windows, _ = draw_windows(torch.cat([boxes, torch.zeros(200, 2, 1)], -1), 96)
    found = to_centre(windows)
    torch.testing.assert_close(found[..., 2], found[..., 3])
    middle, side = found[:, 4:, :2], found[:, 4:, 2]
    assert 0 <= middle.min() < 2 and 94 < middle.max() <= 96
    sizes = torch.tensor(SIZES) * WINDOW / THING
    assert (side[..., None] - sizes).abs().amin(-1).max() < 1e-4


def test_without_things_there_is_only_background() -> None:
    windows, labels = draw_windows(truths([], []), 96)
    assert labels[:, :2].tolist() == [[-1, -1]] * 2
    assert windows.shape == (2, 2 + DRAWN, 4)
    assert not labels[:, 2:].any()


def test_it_learns_the_mean_shape_of_each_class() -> None:
    model = SlidingWindow(3, width=4)
    model.learn_shapes(TRUE)
    model.learn_shapes(truths([(0, 0, 12, 24, 0)], [(5, 5, 17, 8, 0)]))
    assert model.shape_sums[:, 2].tolist() == [3, 2, 1]
    mean = model.shape_sums[:, :2] / model.shape_sums[:, 2:]
    # A box that fills its window is THING / WINDOW = 0.75 of it along its longer side.
    wide = [(0.75 * 20 / 40 + 0.75 * 0.5 + 0.75) / 3, (0.75 + 0.75 + 0.75 * 3 / 12) / 3]
    torch.testing.assert_close(mean[0], torch.tensor(wide))
    torch.testing.assert_close(mean[2], torch.tensor([0.75, 0.75]))


def test_it_learns_shapes_only_while_it_learns() -> None:
    model = SlidingWindow(3, width=4)
    model(torch.randn(3, 3, 96, 96), TRUE)
    assert model.shape_sums[:, 2].tolist() == [1, 2, 1]
    model.eval()
    with torch.no_grad():
        model(torch.randn(1, 3, 96, 96))
        model(torch.randn(3, 3, 96, 96), TRUE)  # such as for a loss on pictures not learned from
    assert model.shape_sums[:, 2].tolist() == [1, 2, 1]
    assert "shape_sums" in model.state_dict()


# --- answers --------------------------------------------------------------------------------


class OneHit(torch.nn.Module):
    """Instead of the layers: class 2 in one window of one copy, nothing anywhere else."""

    def __init__(self, side: int, row: int, column: int):
        super().__init__()
        self.side, self.row, self.column = side, row, column

    def forward(self, copy: torch.Tensor) -> torch.Tensor:
        h, w = ((length - WINDOW) // STEP + 1 for length in copy.shape[2:])
        scores = torch.zeros(len(copy), 4, h, w)
        scores[:, 0] = 20
        if copy.shape[-1] == self.side:
            scores[:, 3, self.row, self.column] = 30
        return scores


@pytest.mark.parametrize("size", SIZES)
def test_what_a_window_shows_is_found_where_it_shows_it(size: float) -> None:
    scale = THING / size
    model = SlidingWindow(3, width=4).eval()
    model.learn_shapes(truths([(0, 0, 12, 24, 2), (0, 0, 24, 24, 2)]))
    model.layers = OneHit(int((96 + 2 * BORDER) * scale), 8, 7)  # type: ignore[assignment]
    (found,) = model(torch.zeros(1, 3, 96, 96))
    assert found.scores[0] > 0.99 > found.scores[1] and found.labels[0] == 2
    x, y = ((STEP * number + WINDOW / 2) / scale - BORDER for number in (7, 8))
    expected = to_corners(torch.tensor([x, y, 0.75 * size, size]))  # the mean of 0.5 and 1 wide
    torch.testing.assert_close(found.boxes[0], expected)


def test_every_copy_of_the_pyramid_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, asked = list[torch.Tensor](), list[torch.Tensor]()
    monkeypatch.setattr(
        sliding_window, "keep_best", lambda boxes, scores, labels: seen.append(boxes)
    )
    model, images = trained().float(), torch.randn(1, 3, 96, 96)
    model.layers.register_forward_pre_hook(lambda _, inputs: asked.extend(inputs))
    with torch.no_grad():
        model(images)
    assert len(asked) == len(SIZES)
    for found, (_, expected) in zip(asked, copies(images)):
        torch.testing.assert_close(found, expected)
    sides = [int((96 + 2 * BORDER) * THING / size) for size in SIZES]
    assert seen[0].shape[1] == sum(((side - WINDOW) // STEP + 1) ** 2 for side in sides)
