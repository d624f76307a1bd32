"""Which changes to the training images help a network, and do they help more where images are few?

Twelve ways to change every image at random at every step, from none to several at once: moved, in a
mirror, turned, in other colours, with a hole, blended with another image and its label. The same
small residual network learns with each, from the same initial weights, the same images in the same
order, for the same number of steps, from a small set and from a larger one that contains it.
Measured are test images and, unchanged, training images: how far these are ahead is what a network
learnt by heart. Nothing is chosen by these numbers.
Sources: Zhang et al., mixup, arXiv:1710.09412; Yun et al., CutMix, arXiv:1905.04899; Zhong et al.,
Random erasing, arXiv:1708.04896; Müller, Hutter, TrivialAugment, arXiv:2103.10158.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from section1.experiments._training import counted, mean_std, signed
from section2.experiments._optimizers import listed
from section3.experiments._cnns import ALONE, tied
from section4 import distributed
from section4.engine import Setting, cross_entropy
from section4.experiments._engine import seeded
from section4.experiments._vision import (
    AT_ONCE,
    Photographs,
    choose_for,
    load_photographs,
    train,
)
from section4.images import Change, Pair
from section4.training import evaluate
from section4.vision.augment import GROUP, arms
from section4.vision.resnet import ResNet
from utils.experiments.progress import Progress
from utils.experiments.results import Result, Table, to_json, write_file
from utils.experiments.run import Run
from utils.output import plots

SHOWN = 6  # images in the picture of the augmentations
LEARNT = 0.9  # with fewer training images right, a network has not learnt its images by heart


def network(width: int, classes: int) -> ResNet:
    """Three residual blocks on maps a quarter as high and wide as the image: cheap to train."""
    return ResNet([width, 2 * width, 4 * width], [1, 1, 1], classes=classes, stem="large")


def first_rows(pair: Pair, size: int) -> Pair:
    """The first `size` rows again and again, as many in all as there were."""
    rows = torch.arange(len(pair[0])) % size
    return pair[0][rows], pair[1][rows]


def scores(
    run: Run,
    data: Photographs,
    setting: Setting,
    size: int,
    change: Change | None,
    seed: int,
    bar: Progress,
) -> list[float]:
    """Accuracy on training images as they are, and on test images, of one trained network.

    An epoch goes once through the larger set, or as many steps through the small one.
    """
    budget = run.budget
    trained = train(
        run, seeded(run.seed(0, seed), lambda: network(budget.width, len(data.classes))), data,
        setting, epochs=budget.epochs, lr=budget.lr, seed=run.seed(1, seed), bar=bar,
        train=first_rows(data.train, size), change=change,
    )  # fmt: skip
    at_most = min(size, len(data.test[0]))
    seen = data.train[0][:at_most], data.train[1][:at_most]
    batches = data.batches(seen, AT_ONCE, setting)
    return [evaluate(trained.model, cross_entropy(), batches, setting)[1], trained.test_metric]


def compute(run: Run) -> Result:
    budget = run.budget
    data = load_photographs(run, "cifar10", max(budget.samples))
    changes = arms(len(data.classes), data.side)
    most = len(data.train[0])  # a tenth of the samples is held out
    sizes = sorted({min(count - count // 10, most) for count in budget.samples})
    accuracy = np.zeros((2, len(sizes), len(changes), budget.seeds))  # of training, of test images
    with run.resumable() as folder:
        setting = choose_for(run, network(budget.width, len(data.classes)), data, folder)
        with run.progress(accuracy[0].size * budget.epochs) as bar:
            for place in np.ndindex(accuracy.shape[1:]):
                size, name, seed = sizes[place[0]], list(changes)[place[1]], place[2]
                kept = folder / f"{size}_{slug(name)}_{seed}.json"
                if distributed.of_first(kept.exists()):
                    found = json.loads(kept.read_text(encoding="utf-8"))
                    for _ in range(budget.epochs):
                        bar.advance()
                else:
                    found = scores(run, data, setting, size, changes[name], seed, bar)
                    if distributed.rank() == 0:
                        write_file(kept, to_json(found))
                accuracy[(slice(None), *place)] = found
    learnt, test = accuracy
    batches = data.batches(data.train, min(budget.batch_size, most), setting, seed=0)
    steps = budget.epochs * len(batches)
    rows, metrics = list[list[Any]](), dict[str, float]()
    gain, margin = gains(test)
    for place in np.ndindex(gain.shape):
        size, name = sizes[place[0]], list(changes)[place[1]]
        seen, new = mean_std(learnt[place]), mean_std(test[place])
        metrics[f"{slug(name)}_{size}_test_accuracy"] = new[0]
        metrics[f"{slug(name)}_{size}_gain"] = float(gain[place])
        interval = margin[place[0]] if budget.seeds > 1 else None
        rows.append(
            [size, name, *seen, *new, seen[0] - new[0], gain[place], interval, budget.seeds]
        )
    metrics["steps"] = steps
    metrics["mean_gain"] = float(gain[0, 1:].mean())
    columns = ["images", "augmentation", "training accuracy", "std", "test accuracy", "std"]
    columns += ["gap", "gain", "95% interval (±)", "n"]
    tables = {"augmentations": Table(columns, rows)}
    pictures, captions = looked_at(changes, data, run.seed(2))
    arrays = {"training_accuracy": learnt, "test_accuracy": test}
    arrays |= {"pictures": pictures, "captions": captions}
    answer = words(sizes, list(changes), learnt, test, steps)
    return Result(answer, "mean_gain", metrics, {}, tables, arrays)


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)


# --- what the numbers say -------------------------------------------------------------------


def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t for at least 10 degrees of freedom, to three digits.

    Source: Abramowitz, Stegun, Handbook of mathematical functions, 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def gains(test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of test accuracies (sizes, arms, n): gains over arm 0 (sizes, arms), intervals ± (sizes,).

    The intervals hold all gains of a set at once with 95% (Bonferroni), for of so many arms one
    would else be ahead by chance. What seeds do is taken to be alike in all arms, which makes up
    for there being few. A single run tells nothing: infinite.
    """
    sizes, count, n = test.shape
    mean = test.mean(axis=2)
    gain = mean - mean[:, :1]
    if n < 2:
        return gain, np.full(sizes, np.inf)
    variance = test.var(axis=2, ddof=1).mean(axis=1)
    quantile = student(1 - 0.025 / (count - 1), count * (n - 1))
    return gain, quantile * np.sqrt(2 * variance / n)


def verdict(names: Sequence[str], gain: np.ndarray, margin: float) -> str:
    """Which of the arms raise the accuracy, and which lower it, by more than the margin."""
    if np.isinf(margin):
        return ALONE
    order = np.argsort(-gain, kind="stable")
    named = [f"{names[k]} ({signed(100 * gain[k])})" for k in order]
    up = [name for name, k in zip(named, order) if gain[k] > margin]
    down = [name for name, k in zip(named, order) if gain[k] < -margin]
    if not up and not down:
        return f"none of {len(names)} augmentations makes a difference beyond the noise of seeds"
    found = {"raised": up, "lowered": down}
    parts = [f"{word} by {listed(arms)}" for word, arms in found.items() if arms]
    rest = len(names) - len(up) - len(down)
    tie = f"; within the noise of seeds: {rest} of {len(names)}" * bool(rest)
    return f"this is {', '.join(parts)} points{tie}"


def by_size(sizes: Sequence[int], test: np.ndarray) -> tuple[list[str], str]:
    """The gain of the mean arm from each number of images, and from which it is larger."""
    each = test[:, 1:].mean(axis=1) - test[:, 0]  # (sizes, n)
    means = 100 * each.mean(axis=1)
    said = [f"{signed(mean)} points from {size:,}" for size, mean in zip(sizes, means)]
    if len(sizes) < 2:
        return said, "one set alone"
    if each.shape[1] < 2:
        return said, ALONE
    if tied(each[0], each[-1]):
        return said, "no difference between the sets beyond the noise of seeds"
    more = each[0].mean() > each[-1].mean()
    ends = ("smallest", "largest") if more else ("largest", "smallest")
    return said, "larger from the {} set than from the {}".format(*ends)


def words(
    sizes: Sequence[int], names: Sequence[str], learnt: np.ndarray, test: np.ndarray, steps: int
) -> str:
    sentences = []
    gain, margin = gains(test)
    for place, size in enumerate(sizes):
        gap = 100 * (learnt[place] - test[place]).mean(axis=1)
        plain, changed = (round(number) for number in (gap[0], gap[1:].mean()))  # never -0
        sentences.append(
            f"From {size:,} images the network gets {test[place, 0].mean():.1%} of the test images "
            f"right without augmentation; {verdict(names[1:], gain[place, 1:], margin[place])}. "
            f"Training accuracy minus test accuracy is {plain:+} points without, and {changed:+} "
            "on average with augmentation."
        )
    said, where = by_size(sizes, test)
    sentences.append(
        f"On average over {len(names) - 1} the gain is {listed(said)} images: {where}."
    )
    new = [f"{n:,}" for n, share in zip(sizes, learnt[:, 0].mean(axis=1)) if share < LEARNT]
    if new:
        sentences.append(
            f"Training was short: even without augmentation fewer than {LEARNT:.0%} of the "
            f"{listed(new)} training images are right at its end."
        )
    return " ".join(sentences) + f" ({counted(steps, 'step')} each, n = {test.shape[2]})"


# --- pictures -------------------------------------------------------------------------------


def looked_at(
    changes: dict[str, Change | None], data: Photographs, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training images under each change, bytes (arms, SHOWN, H, W, C); captions (arms, SHOWN)."""
    classes, first = np.unique(data.train[1].numpy(), return_index=True)
    chosen = torch.from_numpy(first[:SHOWN])
    # Each several times, of which one is shown: images that share a draw would look alike.
    x = data.train[0][chosen].repeat_interleave(GROUP, 0).float() / 255
    y = data.train[1][chosen].repeat_interleave(GROUP)
    pictures, rows = [], []
    for change in changes.values():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            images, labels = (x, y) if change is None else change(x, y)
        images, labels = images[::GROUP], labels[::GROUP]
        pictures.append(np.rint(255 * images.permute(0, 2, 3, 1).numpy()).astype(np.uint8))
        if change is None:
            rows.append([data.classes[k] for k in classes[:SHOWN]])
        else:
            rows.append([caption(shares, data.classes) for shares in labels])
    return np.stack(pictures), np.array(rows)


def caption(label: torch.Tensor, classes: Sequence[str]) -> str:
    """The shares of a blended label (K,) in words; nothing for a class."""
    if label.ndim == 0:
        return ""
    order = label.argsort(descending=True).tolist()
    return "\n".join(f"{label[k]:.0%} {classes[k]}" for k in order if label[k] >= 0.005)


def draw(result: Result) -> dict[str, Figure]:
    rows, arrays = result.tables["augmentations"].rows, result.arrays
    sizes, names = list(dict.fromkeys(row[0] for row in rows)), [row[1] for row in rows]
    names = names[: len(names) // len(sizes)]
    learnt, test = arrays["training_accuracy"], arrays["test_accuracy"]
    gain, margin = gains(test)
    n = test.shape[2]

    study, axes = plots.grid(1, 3, width=4.1, height=5.4, sharey=True)
    places = np.arange(len(names))
    for k, size in enumerate(sizes):
        at = places + 0.26 * (k - (len(sizes) - 1) / 2)
        options: dict[str, Any] = {
            "fmt": plots.MARKERS[k % len(plots.MARKERS)], "color": f"C{k}",
            "ms": 5, "capsize": 3, "lw": 1.3, "label": f"{size:,} training images",
        }  # fmt: skip
        gap = learnt[k] - test[k]
        for axis, values in zip((axes[0, 0], axes[0, 2]), (test[k], gap)):
            spread = 100 * values.std(axis=1, ddof=1) if n > 1 else None
            axis.errorbar(100 * values.mean(axis=1), at, xerr=spread, **options)
        bars = 100 * margin[k] if n > 1 else None
        axes[0, 1].errorbar(100 * gain[k, 1:], at[1:], xerr=bars, **options)
    axes[0, 1].axvline(0, color="black", lw=1)
    axes[0, 0].set_yticks(places, names)
    axes[0, 0].invert_yaxis()
    kinds = "± std", f"95% intervals, all {len(names) - 1} at once"
    spread, interval = (f"\nbars: {kind}" if n > 1 else "" for kind in kinds)
    axes[0, 0].set_xlabel(f"test accuracy (%), n = {n}{spread}")
    axes[0, 1].set_xlabel(f"test accuracy minus that with none (points){interval}")
    axes[0, 2].set_xlabel(f"training minus test accuracy (points){spread}")
    study.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    said, where = by_size(sizes, test)
    up, down = (
        listed([str((sign * row[1:] > limit).sum()) for row, limit in zip(gain, margin)])
        for sign in (1, -1)
    )
    study.suptitle(
        f"On average over {counted(len(names) - 1, 'augmentation')} the gain in test accuracy is "
        f"{listed(said)} images ({where})"
        + (f"; those that raise it beyond noise: {up}, that lower it: {down}" if n > 1 else "")
    )

    pictures = arrays["pictures"]
    shown, axes = plots.grid(*pictures.shape[:2], width=1.25, height=1.2)
    for line, images, name, captions in zip(axes, pictures, names, arrays["captions"]):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, image, text in zip(line, images, captions):
            axis.imshow(image)
            axis.set_title(text, fontsize=7, pad=2)
            axis.set(xticks=[], yticks=[], frame_on=False)
    shown.suptitle(
        f"{pictures.shape[1]} training images as a network sees them under each augmentation; "
        "where images are blended, so are their labels"
    )
    return {"comparison": study, "pictures": shown}
