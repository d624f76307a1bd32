"""What experiments share: training the same thing over several seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from section1.layer import Layer
from section1.losses import Loss
from section1.sgd import Optimizer
from section1.training import Batch, History, batch_ends, evaluate, fit
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.run import Run

WARM_UP = 0.2  # the share of the steps in which the learning rate rises

Recipe = Callable[[np.random.Generator], tuple[Layer, Loss, Optimizer]]


@dataclass
class Trained:
    """A trained model, how it came about, and how it does on data it has never seen."""

    model: Layer
    history: History
    test_loss: float
    test_metric: float


def train(
    run: Run,
    recipe: Recipe,
    data: Batch,
    test: Batch,
    *,
    key: Iterable[int],
    bar: Progress,
    validation: Batch | None = None,
    **options: Any,
) -> Trained:
    """Train what `recipe(rng)` makes with the epochs and batch size of the run's budget.

    `key` picks the random numbers (a repetition's number, say): the first generator of it
    makes the initial weights, the second shuffles. `bar` advances at every epoch.
    `options` go to `fit`.
    """
    weights, order = run.rng(*key).spawn(2)
    model, loss, optimizer = recipe(weights)

    def on_epoch(history: History) -> None:
        bar.advance(f"loss {history.loss[-1]:.3f}")

    settings = {"epochs": run.budget.epochs, "batch_size": run.budget.batch_size} | options
    history = fit(
        model,
        loss,
        optimizer,
        data,
        rng=order,
        validation=validation,
        threads=run.threads,
        on_epoch=on_epoch,
        **settings,
    )
    metric = {"metric": options["metric"]} if "metric" in options else {}
    scores = evaluate(model, loss, test, threads=run.threads, **metric)
    return Trained(model, history, *scores)


def rise_and_fall(peak: float, run: Run, rows: int) -> Callable[[int], float]:
    """The learning rate at each step: a line up to `peak`, then a line down to zero.

    Up, because the first steps from random weights are the ones that blow up; down, because
    large steps cannot settle. Source: Smith, Topin, Super-convergence, arXiv:1708.07120.
    """
    steps = run.budget.epochs * len(batch_ends(rows, run.budget.batch_size))

    def rate(step: int) -> float:
        done = (step + 1) / (steps + 1)
        return peak * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))

    return rate


def one_for_each(names: Collection[str], rates: list[float]) -> list[float]:
    """A learning rate for each name, from as many or from a single one for all.

    Raises UserError for any other number of rates.
    """
    rates = rates * len(names) if len(rates) == 1 else rates
    if len(rates) != len(names):
        raise UserError(f"lr must be one number, or one for each of {', '.join(names)}")
    return rates


def smoothed(series: np.ndarray, points: int = 100) -> tuple[list[float], np.ndarray]:
    """Numbers of steps (n, steps) as means over as many runs of steps as a curve has points.

    Returns the middles of these runs, counted from 1, and the means (n, points).
    """
    pieces = np.array_split(np.arange(series.shape[1]), min(points, series.shape[1]))
    means = np.stack([series[:, piece].mean(axis=1) for piece in pieces], axis=1)
    return [float(piece.mean()) + 1 for piece in pieces], means


def mean_std(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation: NaN for a single value, which has none."""
    numbers = np.asarray(list(values), float)
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan


def spread(std: float, n: int, form: str = ".2f") -> str:
    """What follows a mean of n runs: " ± std", or nothing for a single one, which has none."""
    return f" ± {std:{form}}" if n > 1 else ""


def mean_in_words(metrics: Mapping[str, float], key: str, form: str, n: int) -> str:
    """The mean over n runs of what `metrics` has under this name, and its deviation."""
    return f"{metrics[key]:{form}}{spread(metrics[f'{key}_std'], n, form)}"


def counted(count: float, one: str, many: str = "") -> str:
    """So many of them: "1 seed", "2,000 seeds", and of what has another plural "3 boxes"."""
    return f"{count:,.0f} {one if count == 1 else many or one + 's'}"


def rounded(number: float, digits: int) -> float:
    """What is to be written with so many digits: never -0.0."""
    return round(number, digits) + 0.0


def signed(number: float, digits: int = 1) -> str:
    """A difference with its sign."""
    return f"{rounded(number, digits):+.{digits}f}"


def sharing(values: Mapping[str, float], pick: Callable[[Iterable[float]], float]) -> list[str]:
    """The names of the smallest value (`pick` is min) or the largest (max): several in a tie.

    Means of the same numbers in another order may differ in the last bit, so it is left out.
    """
    return [name for name in values if math.isclose(values[name], pick(values.values()))]


def of_runs(n: int) -> str:
    """What a figure shows of n runs."""
    return f"mean ± std (n = {n})" if n > 1 else "n = 1"


def telling_gap(scores: np.ndarray) -> float:
    """How far apart two means, of `scores` (arms, n), must lie for n seeds to tell them apart.

    Chance alone moves two means of n runs apart by s sqrt(2 / n), the standard deviation of
    their difference. The best of several arms is a lucky one too, so it takes three of these.
    s is that of the median arm, which a single wild arm does not change, or the root mean square
    of all arms where that is zero (say most arms are always right); from few runs it comes out
    too small, by about sqrt((n - 1) / n). A single seed tells nothing: the gap is infinite.
    """
    n = scores.shape[1]
    if n == 1:
        return math.inf
    changes = scores - scores[:, :1]  # exactly zero where all are equal
    deviations = changes.std(axis=1, ddof=1)
    s = np.median(deviations) or math.sqrt(np.mean(deviations**2))
    return float(3 * s * math.sqrt(2 / (n - 1)))


def level_with_best(scores: np.ndarray, names: Sequence[str]) -> list[str]:
    """Those whose mean, of `scores` (arms, n), n seeds cannot tell from the best mean."""
    means = scores.mean(axis=1)
    return [name for name, mean in zip(names, means) if mean >= means.max() - telling_gap(scores)]


def in_front(scores: np.ndarray, names: Sequence[str]) -> str:
    """Who is ahead, or who is level with the best, in words."""
    level = level_with_best(scores, names)
    if not level[1:]:
        return f"{level[0]} is ahead"
    who = "all" if len(level) == len(names) else ", ".join(level)
    return f"{who} are level as far as these seeds can tell"


def standing(scores: np.ndarray, names: Sequence[str]) -> str:
    """The title of a comparison in per cent (arms, n): who is in front, and who is last."""
    means, words = scores.mean(axis=1), in_front(scores, names)
    last = sharing(dict(zip(names, means.tolist())), min)
    if len(last) < len(names):
        words += f"; {', '.join(last)} {'are' if last[1:] else 'is'} last, "
        words += f"{np.ptp(means):.2f} percentage points behind the best"
    return words[0].upper() + words[1:]
