"""What the experiments on GANs for images share: digits, and a judge of what looks like one.

The judge is a classifier of digits. How often it is right on test images is said wherever its
opinion counts: what it cannot tell apart, a metric that rests on it cannot either.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from section4.engine import Setting
from section4.experiments import _vision
from section4.experiments._engine import find_device, seeded
from section4.experiments._recipes import is_of, recipe_of, sign
from section4.experiments._vision import Photographs, train
from section4.gans.metrics import Evaluator
from section4.images import as_bytes, device_seed
from section4.vision import classifiers
from section4.vision.augment import crop
from utils.errors import UserError
from utils.experiments.budget import Budget
from utils.experiments.machine import writes
from utils.experiments.run import Run

# What is drawn at random, the same in all experiments on GANs for images.
SPLIT, JUDGE, WEIGHTS, ORDER, MEASURED = range(1, 6)
HALF = torch.tensor([0.5])  # mean and deviation that take pixels from [0, 1] to [-1, 1]


def load_digits(run: Run) -> Photographs:
    """MNIST, `held_out` of the training images for validation; batches are in [-1, 1].

    They do not depend on the experiment, so that all of them see the same. Test images come in
    random order: the first half of MNIST's file is by other writers than the second, and the first
    few would not stand for all.
    """
    rng = np.random.default_rng(device_seed(run.settings.seed, SPLIT))
    data = run.load("mnist").subset(run.budget.samples, rng=rng)
    split = data.split_validation(min(run.budget.held_out, len(data.train_x) // 5), rng)
    order = rng.permutation(len(split.test_x))
    test_x, test_y = split.test_x[order], split.test_y[order]
    parts = (split.train_x, split.train_y), (split.val_x, split.val_y), (test_x, test_y)
    learned, held_out, test = ((as_bytes(x), torch.from_numpy(y)) for x, y in parts)
    return Photographs(learned, held_out, test, test_x, split.classes, HALF, HALF)


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Bytes (N, C, H, W) as numbers from -1 to 1, as generators make them."""
    return images.float() / 127.5 - 1


def pictures(images: torch.Tensor) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1] as bytes (N, H, W, C), to be kept and looked at."""
    return (127.5 * (images.clamp(-1, 1) + 1)).round().byte().permute(0, 2, 3, 1).numpy()


# --- the judge ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """A classifier of digits in [-1, 1], and the metrics of its features against real images.

    `validation` is there to choose by, `test` to report. Both compare with real images that
    neither the classifier nor any generator has learned from; hand them as many images as they
    have real ones (`len(judge.test.real)`).
    """

    classifier: nn.Sequential
    setting: Setting
    accuracy: float  # on all test images, to be stated wherever the judge is asked
    validation: Evaluator
    test: Evaluator


def find_judge(run: Run, digits: Photographs) -> Judge:
    """The judge of this seed and mode: as another experiment has trained it, or trained here.

    In float32, whatever the generators are trained in: what measures must not change with the
    machine. Its weights lie in a folder of their own, with the recipe that led to them.
    Raises UserError, before it is trained, for fewer images to compare with than classes.
    """
    budget, least = run.budget, len(digits.classes)
    for part, (images, _) in {"validation": digits.validation, "test": digits.test}.items():
        if (count := min(budget.judged, len(images))) < least:
            raise UserError(
                f"generated images are judged by at least {least} real ones, and there are {count} "
                f"for {part}: take larger judged, held_out and samples"
            )
    own = {"samples": budget.samples, "held_out": budget.held_out}
    own |= {"epochs": budget.judge_epochs, "batch_size": budget.judge_batch_size}
    judging = replace(run, budget=Budget(own))
    setting = Setting(find_device(run), channels_last=True)
    folder = run.checkpoints_of("gan_judge")
    _prepare(folder, judging)
    model = seeded(
        device_seed(run.settings.seed, JUDGE),
        lambda: classifiers.cnn(1, len(digits.classes), (16, 32, 64)),
    )
    with run.progress(own["epochs"]) as bar:
        trained = train(
            judging, model, digits, setting, epochs=own["epochs"], lr=0.1, bar=bar,
            seed=device_seed(run.settings.seed, JUDGE), change=crop(2), folder=folder,
        )  # fmt: skip

    def evaluator(images: torch.Tensor) -> Evaluator:
        return Evaluator(model, scaled(images[: budget.judged]), setting)

    parts = evaluator(digits.validation[0]), evaluator(digits.test[0])
    return Judge(model, setting, trained.test_metric, *parts)


def _prepare(folder: Path, judging: Run) -> None:
    """Empty the folder, unless what lies in it has been trained by this very recipe."""
    sources = [Path(classifiers.__file__), Path(_vision.__file__), Path(__file__)]
    recipe = recipe_of(judging, judging.budget, sources, judging.data_used["mnist"])
    if not is_of(folder, recipe) and writes():
        shutil.rmtree(folder, ignore_errors=True)
        sign(folder, recipe)
