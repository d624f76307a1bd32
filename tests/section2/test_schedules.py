"""Schedules against their torch.optim.lr_scheduler twins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as twins

from section2 import schedules


def rates(make: Any, lr: float = 0.3, steps: int = 60) -> list[float]:
    """The learning rates of a PyTorch scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def warm(after: Any) -> Any:
    """after(optimizer) behind a warm-up of 7 steps from a fifth of the rate."""

    def make(optimizer: Any) -> Any:
        first = twins.LinearLR(optimizer, start_factor=0.2, end_factor=1, total_iters=7)
        return twins.SequentialLR(optimizer, [first, after(optimizer)], milestones=[7])

    return make


def cosine(optimizer: Any) -> Any:
    return twins.CosineAnnealingLR(optimizer, T_max=60, eta_min=0.01)


CASES = {
    "constant": (schedules.constant(0.3), lambda o: twins.LambdaLR(o, lambda step: 1)),
    "step": (schedules.step_decay(0.3, 13, 0.5), lambda o: twins.StepLR(o, 13, 0.5)),
    "multi-step": (
        schedules.multi_step(0.3, [30, 10, 31], 0.2),
        lambda o: twins.MultiStepLR(o, [10, 30, 31], 0.2),
    ),
    "exponential": (schedules.exponential(0.3, 0.93), lambda o: twins.ExponentialLR(o, 0.93)),
    "linear": (schedules.polynomial(0.3, 40), lambda o: twins.PolynomialLR(o, 40)),
    "polynomial": (
        schedules.polynomial(0.3, 40, power=2.5),
        lambda o: twins.PolynomialLR(o, 40, power=2.5),
    ),
    "cosine": (schedules.cosine(0.3, 60, final=0.01), cosine),
    "one-cycle": (schedules.one_cycle(0.7, 60), lambda o: twins.OneCycleLR(o, 0.7, 60)),
    "one-cycle, other options": (
        schedules.one_cycle(0.7, 60, rise=0.45, start_divisor=10, end_divisor=50),
        lambda o: twins.OneCycleLR(o, 0.7, 60, pct_start=0.45, div_factor=10, final_div_factor=50),
    ),
    "warm-up, constant": (
        schedules.warm_up(schedules.constant(0.3), 7, start=0.2),
        warm(lambda o: twins.LambdaLR(o, lambda step: 1)),
    ),
    "warm-up, cosine": (
        schedules.warm_up(schedules.cosine(0.3, 60, final=0.01), 7, start=0.2),
        warm(cosine),
    ),
    "warm-up, step": (
        schedules.warm_up(schedules.step_decay(0.3, 13, 0.5), 7, start=0.2),
        warm(lambda o: twins.StepLR(o, 13, 0.5)),
    ),
}


@pytest.mark.parametrize(("schedule", "twin"), CASES.values(), ids=CASES.keys())
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # SequentialLR's own
def test_equals_its_twin(schedule: Any, twin: Any) -> None:
    ours = [schedule(step) for step in range(60)]
    assert ours == pytest.approx(rates(twin), rel=1e-12, abs=1e-15)
    assert [schedule(step) for step in reversed(range(60))] == ours[::-1]  # remembers nothing


def test_after_the_end_the_last_rate_stays() -> None:
    assert schedules.polynomial(0.3, 40)(41) == 0
    assert schedules.cosine(0.3, 40, final=0.02)(400) == pytest.approx(0.02, rel=1e-12)
    cycle = schedules.one_cycle(0.3, 40)
    assert cycle(39) == cycle(400) == pytest.approx(0.3 / 25 / 1e4, rel=1e-12)


def test_warm_up_starts_at_zero_unless_told() -> None:
    schedule = schedules.warm_up(schedules.constant(0.4), 4)
    assert [schedule(step) for step in range(6)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])


def test_what_is_refused() -> None:
    for make, sentence in (
        (lambda: schedules.step_decay(0.1, 0), "every must be at least 1 step, got 0"),
        (lambda: schedules.polynomial(0.1, 0), "steps must be at least 1"),
        (lambda: schedules.cosine(0.1, -1), "steps must be at least 1"),
        (lambda: schedules.warm_up(schedules.constant(0.1), 0), "steps must be at least 1"),
        (lambda: schedules.one_cycle(0.1, 3), "cannot rise over 0.3 of 3 steps"),
        (lambda: schedules.one_cycle(0.1, 30, rise=1.0), "cannot rise"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make()
