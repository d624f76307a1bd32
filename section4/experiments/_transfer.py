"""What `transfer_learning` transfers: a body that has learned on another task, found or made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from section3.experiments._learning import up_and_down
from section4 import distributed
from section4.engine import Setting, cross_entropy
from section4.experiments._engine import find_device, seeded
from section4.experiments._vision import (
    AT_ONCE,
    Photographs,
    choose_for,
    load_photographs,
    look,
    sgd,
)
from section4.images import Pair
from section4.training import History, evaluate, fit
from section4.vision import pretrained
from section4.vision.augment import chain, flip, standard, windows
from section4.vision.pretrained import (
    TURNS,
    Features,
    classifier,
    parameter_groups,
    rotation_task,
    rotations,
)
from section4.vision.resnet import ResNet, resnet18
from utils.data import disk
from utils.data.sources import SOURCES
from utils.errors import UserError
from utils.experiments.run import Run

SHOWN = 4  # images of which the guessed turns are shown
LAST, LATE = [4], [2, 3, 4]  # groups of layers: labels make the last one best, turns do not


@dataclass
class Pretrained:
    """A body that has learned on another task, and what there is to know about it."""

    body: Features
    blank: Callable[[int], Features]  # the same network, its weights drawn from a seed
    target: Photographs  # the images of the new task, standardised as the body has learned them
    setting: Setting
    task: str  # in words, after "pretrained"
    answers: int  # that there were to choose from
    history: History | None = None  # of the pretraining, where it was done here
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


# --- where a body comes from -----------------------------------------------------------------


def find_or_make(run: Run, target: Photographs, folder: Path) -> Pretrained:
    """A pretrained body: torchvision's weights, or else our own from another task."""
    device = find_device(run)
    if fetched(run):
        return from_torchvision(
            run, target, run.budget.resize[0 if device.type == "cpu" else -1], folder
        )
    cifar100 = SOURCES["cifar100"]
    whole = len(disk.find(cifar100, run.data_folder)) == len(cifar100.files)
    if run.settings.data != "embedded" and whole:
        source = load_photographs(run, "cifar100")
        task = f"here on the {len(source.classes)} classes of CIFAR-100"
        return made_here(run, target, source, task, folder, turned=False)
    task = "here on telling by how much an image is turned, without labels"
    return made_here(run, target, target, task, folder, turned=True)


def fetched(run: Run) -> bool:
    """Whether torchvision's weights are there, if need be after a download; says why not."""
    find_device(run)  # where several processes meet
    path = pretrained.official_file()
    if distributed.rank() == 0 and not path.exists():
        if run.settings.mode == "quick" or run.settings.data == "embedded":
            reason = f"not in {path.parent}, and this run downloads nothing"
        else:
            reason = pretrained.download_official()
        if reason:
            print(f"      no ImageNet weights ({reason}): pretraining here instead", flush=True)
    return distributed.of_first(path.exists())


def from_torchvision(run: Run, target: Photographs, side: int, folder: Path) -> Pretrained:
    """The body with torchvision's weights, which sees images of side x side pixels."""
    path = pretrained.official_file()
    try:
        net = pretrained.load_official(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    answers = net.fc.out_features
    target = replace(target, mean=torch.tensor(pretrained.MEAN), std=torch.tensor(pretrained.STD))

    def blank(seed: int) -> Features:
        return Features(seeded(seed, lambda: resnet18(stem="large")), LAST, side)

    setting = choose_setting(run, blank(0), target, folder)
    origin = "official" if pretrained.is_official(path) else "unverified copy"
    words = f"torchvision's weights for ImageNet ({origin}), images resized to {side} pixels"
    run.note_data("pretrained weights", words, origin)
    body = Features(net, LAST, side)
    setting.prepare(body)
    task = f"by torchvision on ImageNet, seeing images of {side} pixels"
    return Pretrained(body, blank, target, setting, task, answers)


def made_here(
    run: Run,
    target: Photographs,
    source: Photographs,
    task: str,
    folder: Path,
    *,
    turned: bool,
) -> Pretrained:
    """A body that learns here: the labels of `source`, or how its images have been turned."""
    answers, groups = (len(TURNS), LATE) if turned else (len(source.classes), LAST)
    target = replace(target, mean=source.mean, std=source.std)

    def new(seed: int) -> ResNet:
        return seeded(seed, lambda: resnet18(answers, width=run.budget.width))

    def blank(seed: int) -> Features:
        return Features(new(seed), groups)

    setting = choose_setting(run, blank(0), target, folder)
    net = new(run.seed(0))
    setting.prepare(net)
    history = learn_source(run, net, source, setting, folder / "pretraining", turned)
    arrays = guesses(net, source, setting) if turned else {}
    run.note_data("pretrained weights", f"body pretrained {task}", "generated")
    return Pretrained(Features(net, groups), blank, target, setting, task, answers, history, arrays)


def choose_setting(run: Run, body: Features, data: Photographs, folder: Path) -> Setting:
    """The fastest setting to train such a body with a head for the new task."""
    return choose_for(run, new_classifier(body, len(data.classes), 0), data, folder)


def new_classifier(body: Features, classes: int, seed: int) -> nn.Sequential:
    """The body with a head whose weights are drawn from this seed."""
    return classifier(body, seeded(seed, lambda: nn.Linear(body.width, classes)))


# --- learning --------------------------------------------------------------------------------


def learn_source(
    run: Run,
    net: ResNet,
    source: Photographs,
    setting: Setting,
    folder: Path,
    turned: bool,
) -> History:
    """Pretrain `net`; its weights lie in `folder`, and what was stopped goes on from there."""
    budget, side = run.budget, source.side
    epochs = budget.epochs if setting.device.type == "cpu" else budget.epochs_on_gpu
    change = standard(side // 8)
    if turned:  # from the black margins of `standard` there is nothing to learn about turns
        part = 3 * side // 4
        change = chain(windows(part, part), flip, rotation_task)
    batches = source.batches(
        source.train, budget.batch_size, setting, change=change, seed=run.seed(1)
    )
    some = source.validation[0][: budget.tested], source.validation[1][: budget.tested]
    held_out = source.batches(some, AT_ONCE, setting, change=rotation_task if turned else None)
    lr = budget.lr[0]
    with run.progress(epochs) as bar:
        return fit(
            net,
            cross_entropy(),
            sgd(net.parameters(), lr),
            batches,
            epochs=epochs,
            seed=run.seed(2),
            setting=setting,
            schedule=up_and_down(lr, epochs * len(batches)),
            validate=lambda judged: evaluate(judged, cross_entropy(), held_out, setting),
            on_epoch=lambda history: bar.advance(f"pretraining {history.val_metric[-1]:.1%}"),
            checkpoints=folder,
            resume=True,
            on_resume=bar.skip,
        )


def learn_target(
    run: Run,
    model: nn.Sequential,
    pair: Pair,
    data: Photographs,
    setting: Setting,
    *,
    steps: int,
    lr: float,
    body_scale: float,
    seed: int,
) -> int:
    """Train body and head for `steps` steps or a few more, the body at a rate scaled down.

    Returns the number of steps: those of whole epochs.
    """
    batches = data.batches(
        pair, min(run.budget.batch_size, len(pair[0])), setting, seed=seed,
        change=standard(data.side // 8),
    )  # fmt: skip
    epochs = math.ceil(steps / len(batches))
    setting.prepare(model)
    fit(
        model,
        cross_entropy(),
        sgd(parameter_groups(model, body_scale), lr),
        batches,
        epochs=epochs,
        seed=seed,
        setting=setting,
        schedule=up_and_down(lr, epochs * len(batches)),
    )
    return epochs * len(batches)


def few(labels: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of `each` images of every class, fewer where there are no more.

    With the same random numbers, those for a smaller `each` are among those for a larger one.
    """
    order = rng.permutation(len(labels))
    return np.concatenate([order[labels[order] == k][:each] for k in np.unique(labels)])


def guesses(net: nn.Module, source: Photographs, setting: Setting) -> dict[str, np.ndarray]:
    """Some validation images in all turns (n, 4, H, W, C), and the turns guessed (n, 4)."""
    images = rotations(source.validation[0][:SHOWN])
    found = look(net, (images, torch.zeros(len(images), dtype=torch.int64)), source, setting)
    shown = images.unflatten(0, (-1, len(TURNS))).permute(0, 1, 3, 4, 2)
    return {
        "turned": shown.numpy(),  # bytes
        "guessed_turns": found.argmax(1).unflatten(0, (-1, len(TURNS))).numpy(),
    }
