"""What all detectors share, and what must hold for each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from section2.schedules import cosine, warm_up
from section4.detection.boxes import pairwise_iou
from section4.detection.detector import (
    AT_MOST,
    CANDIDATES,
    OVERLAP,
    STRIDE,
    Found,
    backbone,
    by_place,
    detect,
    keep_best,
    pick,
    places,
    rows,
    sum_of_losses,
)
from section4.detection.faster_rcnn import FasterRCNN
from section4.detection.metrics import Truth, mean_average_precision
from section4.detection.reference import Torchvision
from section4.detection.scenes import Scenes, Style, compose
from section4.detection.sliding_window import SlidingWindow
from section4.detection.yolo import YOLO
from section4.engine import PLAIN, Setting
from section4.images import Batches
from section4.training import History, fit
from tests.section4.detection.helpers import truths
from utils import data

Detector = Callable[..., nn.Module]
DETECTORS: list[Detector] = [SlidingWindow, YOLO, FasterRCNN, Torchvision]
every = pytest.mark.parametrize("kind", DETECTORS)
TRUE = truths([(10, 20, 40, 50, 2), (60, 10, 80, 50, 0)], [(2, 3, 22, 19, 1)], [])
NONE = truths([], [], [])


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Eight small pictures with one to three digits each."""
    digits = data.load("mnist", policy="embedded")
    style = Style(side=64, digits=(1, 3))
    return compose(digits.train_x, digits.train_y, 8, np.random.default_rng(0), style)


def batches(scenes: Scenes, size: int = 8, **options: Any) -> Batches:
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous()
    middle = torch.full((3,), 0.4)
    return Batches(images, torch.from_numpy(scenes.truths), middle, middle / 2, size, **options)


def learn(model: nn.Module, data: Batches, epochs: int, seed: int = 0, **options: Any) -> History:
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = epochs * len(data)
    schedule = warm_up(cosine(2e-3, steps - steps // 5), steps // 5)
    return fit(
        model, sum_of_losses, optimizer, data, epochs=epochs, seed=seed, schedule=schedule,
        clip=10.0, **options,
    )  # fmt: skip


def made(kind: Detector, classes: int = 3, width: int = 8, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind(classes, width)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


# --- what they share ------------------------------------------------------------------------


def test_places_and_rows_go_together() -> None:
    """Maps that hold their own coordinates, three things at each place, are read back in order."""
    y, x = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    things = [torch.stack([STRIDE * (x + 0.5), STRIDE * (y + 0.5), 0 * x + k]) for k in range(3)]
    maps = torch.cat(things).expand(2, -1, -1, -1)  # (N, 9, 5, 7)
    found = by_place(maps, 3)
    assert found.shape == (2, 5 * 7 * 3, 3) and found.dtype == torch.float32
    middles = places(maps)
    assert middles.shape == (35, 2)
    assert torch.equal(found[..., :2].unflatten(1, (35, 3)), middles[:, None].expand(2, -1, 3, -1))
    assert torch.equal(found[..., 2], torch.arange(3.0).repeat(2, 35))
    assert by_place(maps.bfloat16(), 3).dtype == torch.float32


def test_a_place_of_the_backbones_maps_sees_71_pixels() -> None:
    torch.manual_seed(0)
    net = backbone(4).eval().double()
    images = pictures(1, 3, 160, 160).double().requires_grad_()
    maps = net(images)
    assert maps.shape == (1, 16, 160 // STRIDE, 160 // STRIDE)
    (gradient,) = torch.autograd.grad(maps[0, :, 10, 10].sum(), images)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [71, 71]
    assert ((seen.amax(0) + seen.amin(0)) / 2).tolist() == [10 * STRIDE] * 2


def test_rows() -> None:
    items, which = torch.arange(24).reshape(2, 4, 3), torch.tensor([[3, 0], [1, 1]])
    assert rows(items, which).tolist() == [[[9, 10, 11], [0, 1, 2]], [[15, 16, 17]] * 2]


def test_the_best_are_kept_in_order_whatever_their_score() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]]).expand(2, -1, -1)
    scores = torch.tensor([[1e-9, 0.3, 0], [0.1, 0.2, 0.9]])
    first, second = keep_best(boxes, scores, torch.tensor([[2, 1, 0], [0, 0, 1]]))
    assert first.scores.tolist() == pytest.approx([0.3, 1e-9, 0])
    assert first.labels.tolist() == [1, 2, 0]
    assert first.boxes[:, 0].tolist() == [20, 0, 40]
    assert second.boxes[:, 0].tolist() == [40, 20, 0]


def test_only_a_better_box_of_the_same_class_suppresses() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 9, 9], [0, 0, 9, 2]]])
    (found,) = keep_best(boxes, torch.tensor([[0.5, 0.9, 0.7, 0.1]]), torch.tensor([[1, 1, 0, 1]]))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.1])
    assert found.labels.tolist() == [1, 0, 1]


def test_at_most_so_many_of_at_most_so_many_candidates() -> None:
    boxes = 20.0 * torch.arange(500)[:, None] + torch.tensor([0.0, 0, 9, 9])
    scores = torch.rand(1, 500, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 500, dtype=torch.int64)
    (found,) = keep_best(boxes[None], scores, labels)
    assert torch.equal(found.scores, scores[0].sort(descending=True).values[:AT_MOST])
    same = boxes[:1].expand(1, 500, -1).clone()
    same[0, scores[0].argsort(descending=True)[[CANDIDATES - 1, CANDIDATES]]] += 1000
    (found,) = keep_best(same, scores, labels)
    assert len(found.scores) == 2  # the best one, and the last candidate
    (found,) = keep_best(boxes[None, :0], scores[:, :0], labels[:, :0])
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn"),
    [(30, 60, (5, 15)), (3, 60, (3, 17)), (0, 60, (0, 20)), (30, 8, (5, 8)), (4, 0, (4, 0)),
     (0, 0, (0, 0))],
)  # fmt: skip
def test_pick(positives: int, negatives: int, drawn: tuple[int, int]) -> None:
    torch.manual_seed(0)
    kind = torch.zeros(2, 100, dtype=torch.int64)  # 0: neither of the two
    kind[0, :positives], kind[0, 40 : 40 + negatives] = 1, 2
    kind[1] = kind[0].flip(0)
    which, real = pick(kind == 1, kind == 2, 20, 0.25)
    assert which.shape == real.shape == (2, 20)
    for image in range(2):
        chosen = which[image][real[image]]
        assert len(set(chosen.tolist())) == len(chosen)
        found = kind[image, chosen]
        assert ((found == 1).sum().item(), (found == 2).sum().item()) == drawn


def test_pick_of_fewer_candidates_than_places() -> None:
    which, real = pick(torch.tensor([[True, True, False]]), torch.tensor([[False] * 3]), 20, 0.5)
    assert sorted(which[real].tolist()) == [0, 1]
    assert real.sum() == 2


def test_pick_draws_all_alike_and_the_same_from_the_same_seed() -> None:
    positive = torch.arange(20) < 10

    def counts(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        which, real = pick(positive.expand(2000, -1), ~positive.expand(2000, -1), 8, 0.5)
        assert real.all()
        return which.flatten().bincount(minlength=20)

    assert torch.equal(counts(0), counts(0))
    assert not torch.equal(counts(0), counts(1))
    assert ((counts(0) - 800).abs() < 5 * (2000 * 0.4 * 0.6) ** 0.5).all()  # 4 of each 10


def test_the_sum_of_losses() -> None:
    class Constant(nn.Module):
        def forward(self, images: torch.Tensor, truths: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"a": images.sum(), "b": truths.sum()}

    image = torch.tensor([2.0, 3.0], requires_grad=True)
    loss, score = sum_of_losses(Constant(), (image, torch.tensor([1.0])))
    assert loss == 6 and score == -6
    assert loss.requires_grad and not score.requires_grad


# --- what holds for each --------------------------------------------------------------------


@every
@pytest.mark.parametrize("true", [TRUE, NONE], ids=["truths", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_losses_and_gradients(kind: Detector, true: torch.Tensor, dtype: torch.dtype) -> None:
    """Also in a batch without any truth, and for every weight: several processes wait for each."""
    model = made(kind)
    with Setting(torch.device("cpu"), dtype).autocast():
        losses = model(pictures(3, 3, 96, 96), true)
    for loss in losses.values():
        assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
        assert loss.requires_grad
    torch.stack(list(losses.values())).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@every
def test_what_stands_in_rows_that_are_not_needed_does_not_matter(kind: Detector) -> None:
    model, images, other = made(kind), pictures(3, 3, 96, 96), TRUE.clone()
    other[other[..., 4] < 0, :4] = torch.tensor([12.0, 18, 41, 52])
    losses = []
    for true in (TRUE, other):
        torch.manual_seed(1)
        losses.append(torch.stack(list(model(images, true).values())))
    torch.testing.assert_close(losses[0], losses[1])


@every
@pytest.mark.parametrize("shape", [(96, 96), (64, 96)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_detections(kind: Detector, shape: tuple[int, int], dtype: torch.dtype) -> None:
    model, images = made(kind), pictures(3, 3, *shape)
    model(images, TRUE)
    setting = Setting(torch.device("cpu"), dtype, channels_last=True)
    found = detect(setting.prepare(model), lambda _: [(images[:2],), (images[2:],)], setting)
    assert len(found) == 3
    assert model.training  # as before
    for item in found:
        n = len(item.scores)
        assert 0 < n <= AT_MOST
        assert item.boxes.shape == (n, 4) and item.labels.shape == (n,)
        assert np.isfinite(item.boxes).all()
        assert item.boxes.min() >= 0
        assert (item.boxes[:, 2:] <= shape[::-1]).all()
        assert (item.boxes[:, 2:] >= item.boxes[:, :2]).all()
        assert ((item.scores >= 0) & (item.scores <= 1)).all()
        assert (np.diff(item.scores) <= 0).all()
        assert item.labels.dtype == np.int64 and set(item.labels) <= {0, 1, 2}
        for label in set(item.labels):
            own = torch.from_numpy(item.boxes[item.labels == label])
            assert pairwise_iou(own, own).triu(1).max() <= OVERLAP + 1e-3


@every
def test_each_image_is_looked_at_by_itself(kind: Detector) -> None:
    model, images = made(kind), pictures(3, 3, 96, 96)
    model(images, TRUE)
    model.eval()
    with torch.no_grad():
        together, alone = model(images), model(images[1:2])
    assert isinstance(together[0], Found)
    torch.testing.assert_close(together[1].scores[:20], alone[0].scores[:20])


# Steps that suffice for each with a margin, for all of the first seeds.
STEPS = {SlidingWindow: 240, YOLO: 80, FasterRCNN: 160, Torchvision: 120}


@every
def test_it_can_learn_a_few_scenes_by_heart(kind: Detector, scenes: Scenes) -> None:
    model = made(kind, classes=10, width=16)
    real = [truth[truth[:, 4] >= 0] for truth in scenes.truths]
    true = [Truth(truth[:, :4], truth[:, 4].astype(int)) for truth in real]

    def score() -> float:
        return mean_average_precision(detect(model, batches(scenes), PLAIN), true, 10, (0.5,))

    assert score() < 0.2
    learn(model, batches(scenes), epochs=STEPS[kind])  # type: ignore[index]
    assert score() > 0.95


class Killed(Exception):
    pass


@every
def test_a_resumed_training_ends_as_the_uninterrupted_one(
    kind: Detector, scenes: Scenes, tmp_path: Path
) -> None:
    def start(seed: int, **options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
        model = made(kind, 10, seed=seed)
        history = learn(model, batches(scenes, size=4, seed=3), epochs=3, **options)
        return dict(model.state_dict()), history.step_loss

    def kill(history: History) -> None:
        if len(history.loss) == 2:
            raise Killed

    expected = start(0)
    with pytest.raises(Killed):
        start(0, on_epoch=kill, checkpoints=tmp_path)
    again = start(1, checkpoints=tmp_path, resume=True)
    assert again[1] == expected[1]
    for name, tensor in again[0].items():
        assert torch.equal(tensor, expected[0][name]), name
