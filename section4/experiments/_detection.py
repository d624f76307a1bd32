"""What the experiments on detection share: their scenes, one way to train, one to measure."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from section3.experiments._learning import up_and_down
from section4 import detection
from section4.detection.detector import detect, sum_of_losses
from section4.detection.errors import judge
from section4.detection.faster_rcnn import FasterRCNN
from section4.detection.folders import read
from section4.detection.metrics import Detections, Truth, average_precisions, mean_average_precision
from section4.detection.reference import Torchvision
from section4.detection.scenes import Scenes, Style, compose
from section4.detection.sliding_window import SIZES, SlidingWindow
from section4.detection.yolo import YOLO
from section4.engine import PLAIN, Setting, seconds
from section4.experiments._engine import choose, find_device, seeded
from section4.experiments._recipes import is_of, recipe_of, sign
from section4.images import Batches, device_seed
from section4.training import History, fit
from section4.vision import resnet
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.run import Run

DETECTORS: dict[str, type[nn.Module]] = {
    "sliding_window": SlidingWindow,
    "faster_rcnn": FasterRCNN,
    "yolo": YOLO,
    "torchvision": Torchvision,
}
NAMES = {
    "sliding_window": "Sliding window",
    "faster_rcnn": "Faster R-CNN",
    "yolo": "YOLO",
    "torchvision": "Torchvision's Faster R-CNN",
}
SCENES, WEIGHTS, ORDER = 1, 2, 3  # what is drawn at random, the same in all of these experiments
AT_ONCE = 50  # images, where nothing is learned
LONGEST_GRADIENT = 10.0
# What of the budget a trained detector depends on.
RECIPE = ("width", "scenes", "validated", "side", "folder", "epochs", "batch_size", "lr")


@dataclass(frozen=True)
class Pictures:
    """Pictures with their true boxes, for training, validation and test."""

    train: Scenes
    validation: Scenes
    test: Scenes
    mean: torch.Tensor  # (3,), of the training pictures
    std: torch.Tensor  # (3,)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def batches(self, part: Scenes, size: int, setting: Setting, **options: Any) -> Batches:
        images = torch.from_numpy(part.images).permute(0, 3, 1, 2).contiguous()
        truths = torch.from_numpy(part.truths)
        return Batches(images, truths, self.mean, self.std, size, setting, **options)

    def pixels(self, images: np.ndarray, setting: Setting) -> torch.Tensor:
        """Pictures (N, H, W, 3) as a detector wants them: (N, 3, H, W), standardised."""
        some = Scenes(images, np.zeros((len(images), 1, 5), np.float32), self.classes)
        return next(self.batches(some, len(some), setting, shared=False)())[0]


def load_pictures(run: Run) -> Pictures:
    """The pictures of a folder, where the budget names one, else scenes composed of digits.

    They do not depend on the experiment, so that all of them see the same.
    """
    budget = run.budget
    if budget.width < 2:
        raise UserError(f"width must be at least 2, got {budget.width}")
    sizes = budget.scenes, budget.validated, budget.tested
    train, *held_out = from_folder(run, sizes) if budget.folder else composed(run, sizes)
    pixels = train.images[:1000].reshape(-1, 3) / 255
    mean, std = (torch.from_numpy(each).float() for each in (pixels.mean(0), pixels.std(0)))
    return Pictures(train, held_out[0], held_out[1], mean, std)


def composed(run: Run, sizes: tuple[int, ...]) -> list[Scenes]:
    """Scenes of MNIST's digits; those of each part have digits that no other part has."""
    seed = device_seed(run.settings.seed, SCENES)
    data = run.load("mnist")
    split = data.split_validation(len(data.train_x) // 10, np.random.default_rng(seed))
    pools = (split.train_x, split.train_y), (split.val_x, split.val_y), (split.test_x, split.test_y)
    try:
        style = Style(side=run.budget.side)
    except ValueError as error:
        raise UserError(str(error)) from error
    return [
        compose(*pool, size, np.random.default_rng([seed, part]), style)
        for part, (pool, size) in enumerate(zip(pools, sizes))
    ]


def from_folder(run: Run, sizes: tuple[int, ...]) -> list[Scenes]:
    """The pictures of a folder, mixed, in parts as large as asked for or in that proportion."""
    if run.budget.side < min(SIZES):
        raise UserError(f"side must be at least {min(SIZES):.0f}, got {run.budget.side}")
    try:
        scenes = read(Path(run.budget.folder), run.budget.side)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if len(scenes) < 3:
        raise UserError(f"{run.budget.folder} has {len(scenes)} pictures: at least 3 are needed")
    run.note_data("pictures", f"{len(scenes)} pictures of {run.budget.folder}", "own files")
    order = np.random.default_rng(device_seed(run.settings.seed, SCENES)).permutation(len(scenes))
    share = min(1.0, len(scenes) / sum(sizes))
    held_out = [max(1, int(share * size)) for size in sizes[1:]]
    first, second = held_out[0], sum(held_out)
    last = second + min(sizes[0], len(scenes) - second)
    cuts = slice(second, last), slice(first), slice(first, second)
    parts = [scenes[order[cut]] for cut in cuts]
    for name, part in zip(("training", "validation", "test"), parts):
        if not (part.truths[..., 4] >= 0).any():
            raise UserError(f"none of the {len(part)} {name} pictures has a box: more are needed")
    return parts


# --- training -------------------------------------------------------------------------------


@dataclass
class Learned:
    """A trained detector."""

    name: str
    model: nn.Module
    setting: Setting
    history: History


def learn(run: Run, name: str, data: Pictures, folder: Path, bar: Progress) -> Learned:
    """Train a detector, or take it from the experiment that has trained the very same.

    folder: for checkpoints.
    """
    find_device(run)  # where several processes meet
    budget = run.budget
    needs = {key: budget[key] for key in RECIPE}
    sources = [Path(detection.__file__).parent, Path(resnet.__file__), Path(__file__)]
    # The training pictures of a folder depend on how many are held out as well.
    pictures = zlib.crc32(data.train.images.tobytes() + data.train.truths.tobytes())
    recipe = recipe_of(run, needs, sources, [run.data_used, pictures])
    elsewhere = run.checkpoints_of(f"{name}_detection") / name
    done = is_of(elsewhere, recipe)
    place = elsewhere if done else folder / name

    def new_model() -> nn.Module:
        return DETECTORS[name](len(data.classes), budget.width)

    model = seeded(device_seed(run.settings.seed, WEIGHTS), new_model)
    some = data.batches(data.train[: budget.batch_size], budget.batch_size, PLAIN)
    setting = choose(run, model, next(some()), sum_of_losses, folder=place)
    setting.prepare(model)
    seed = device_seed(run.settings.seed, ORDER)
    size = min(budget.batch_size, len(data.train))
    batches = data.batches(data.train, size, setting, seed=seed)
    validation = data.batches(data.validation, AT_ONCE, setting, shared=False)
    truths = truths_of(data.validation)

    def validate(judged: nn.Module) -> tuple[float, float]:
        found = detect(judged, validation, setting)
        value = mean_average_precision(found, truths, len(data.classes), [0.5])
        return 1 - value, value

    history = fit(
        model,
        sum_of_losses,
        torch.optim.AdamW(model.parameters(), budget.lr, weight_decay=0.05),
        batches,
        epochs=budget.epochs,
        seed=seed,
        setting=setting,
        schedule=up_and_down(budget.lr, budget.epochs * len(batches)),
        validate=validate,
        clip=LONGEST_GRADIENT,
        on_epoch=lambda history: bar.advance(
            f"{NAMES[name]}: mAP@0.5 {history.val_metric[-1]:.1%}"
        ),
        checkpoints=place,
        resume=True,
        on_resume=bar.skip,
    )
    if not done:
        sign(place, recipe)
    return Learned(name, model, setting, history)


# --- measuring ------------------------------------------------------------------------------


@dataclass
class Measured:
    """What a detector finds in the test pictures."""

    found: list[Detections]
    true: list[Truth]
    precisions: np.ndarray  # AP (T, K)
    seconds: float  # for one image, of many at once, suppression included

    @property
    def map_50(self) -> float:
        return float(np.nanmean(self.precisions[0]))

    @property
    def map_50_95(self) -> float:
        return float(np.nanmean(self.precisions))


def truths_of(scenes: Scenes) -> list[Truth]:
    real = [rows[rows[:, 4] >= 0] for rows in scenes.truths]
    return [Truth(rows[:, :4], rows[:, 4].astype(int)) for rows in real]


def measure(learned: Learned, data: Pictures) -> Measured:
    test = data.batches(data.test, AT_ONCE, learned.setting, shared=False)
    found, true = detect(learned.model, test, learned.setting), truths_of(data.test)
    some = data.batches(data.test[:AT_ONCE], AT_ONCE, learned.setting, shared=False)
    times = [
        seconds(lambda: detect(learned.model, some, learned.setting), learned.setting.device)
        for _ in range(3)
    ]
    each = median(times) / min(AT_ONCE, len(data.test))
    return Measured(found, true, average_precisions(found, true, len(data.classes)), each)


def sure_enough(learned: Learned, data: Pictures) -> float:
    """The score from which on detections are shown in pictures: the best on validation pictures.

    That is where F1, the harmonic mean of precision and recall, is highest. Metrics take all.
    """
    batches = data.batches(data.validation, AT_ONCE, learned.setting, shared=False)
    found, true = detect(learned.model, batches, learned.setting), truths_of(data.validation)
    right = np.concatenate([judge(*image)[0] == "right" for image in zip(found, true)])
    scores = np.concatenate([image.scores for image in found])
    order = np.argsort(-scores, kind="stable")
    # F1 = 2 right / (detections + true boxes)
    truths = sum(len(image.boxes) for image in true)
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + truths)
    return float(scores[order][f1.argmax()])
