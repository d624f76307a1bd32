"""Schedules: the learning rate as a function of the step.

A large rate finds the valley and a small one its floor, so the rate should fall; and the
first steps, when weights are random and averages empty, should be short. Each function here
returns a schedule, a pure function `step -> learning rate` with steps counted from 0, as
`section1.training.fit(schedule=...)` takes it. Nothing is remembered, so a run that is
resumed at step 1000 simply asks for schedule(1000).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """lr at every step."""
    return lambda step: lr


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """lr factor^floor(step / every): a drop after every so many steps."""
    positive("every", every)
    return lambda step: lr * factor ** (step // every)


def multi_step(lr: float, milestones: Sequence[int], factor: float = 0.1) -> Schedule:
    """lr factor^k after k of the milestones: a drop at each of the steps given."""
    at = sorted(milestones)
    return lambda step: lr * factor ** bisect_right(at, step)


def exponential(lr: float, factor: float) -> Schedule:
    """lr factor^step."""
    return lambda step: lr * factor**step


def polynomial(lr: float, steps: int, power: float = 1.0) -> Schedule:
    """lr (1 - step / steps)^power, and 0 from `steps` on; power 1 is a straight line."""
    positive("steps", steps)
    return lambda step: lr * (1 - min(step, steps) / steps) ** power


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """final + (lr - final) (1 + cos(pi step / steps)) / 2, and `final` from `steps` on.

    Source: Loshchilov, Hutter, SGDR: stochastic gradient descent with warm restarts,
    arXiv:1608.03983 (one period, without a restart).
    """
    positive("steps", steps)
    return lambda step: between(lr, final, min(step, steps) / steps)


def warm_up(after: Schedule, steps: int, start: float = 0.0) -> Schedule:
    """A straight line from start * after(0) to after(0) over `steps` steps, then `after`.

    `after` counts its own steps from the end of the warm-up.
    Source: Goyal et al., Accurate, large minibatch SGD, arXiv:1706.02677.
    """
    positive("steps", steps)

    def schedule(step: int) -> float:
        if step >= steps:
            return after(step - steps)
        return after(0) * (start + (1 - start) * step / steps)

    return schedule


def one_cycle(
    max_lr: float,
    steps: int,
    rise: float = 0.3,
    start_divisor: float = 25.0,
    end_divisor: float = 1e4,
) -> Schedule:
    """Up from max_lr / start_divisor to max_lr, then down to the start / end_divisor.

    The way up takes the share `rise` of the `steps`, and both ways are half a cosine. From
    the last step, steps - 1, on the rate stays as it is.
    Source: Smith, Topin, Super-convergence, arXiv:1708.07120.
    """
    top = rise * steps - 1  # the step at which the rate is highest
    if not 0 < top < steps - 1:
        raise ValueError(f"one_cycle cannot rise over {rise} of {steps} steps and then fall")
    low = max_lr / start_divisor

    def schedule(step: int) -> float:
        if step <= top:
            return between(low, max_lr, step / top)
        return between(max_lr, low / end_divisor, (min(step, steps - 1) - top) / (steps - 1 - top))

    return schedule


def between(start: float, end: float, share: float) -> float:
    """From start (share 0) to end (share 1) along half a period of a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def positive(name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{name} must be at least 1 step, got {steps}")
