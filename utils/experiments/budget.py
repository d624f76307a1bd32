"""The settings of one run: the budget of its mode, with changes from the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from utils.errors import UserError
from utils.experiments.registry import Experiment

MAY_BE_ZERO = {"crop", "hole", "shift", "window_epochs"}  # of the whole numbers; others count
ABOVE_ZERO = {"lr", "lr_on_gpu", "common_lr", "generator_lr", "peaks", "temperatures", "top_p",
              "--temperature", "--top-p"}  # fmt: skip
BELOW_ONE = {"dropout", "dropout_on_gpu", "rates", "mean"}  # at 1 nothing would be left
AT_MOST_ONE = {"cutmix", "wrong", "top_p", "--top-p"}


class Budget(dict):
    """A dict whose items read as attributes: `budget.epochs`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"config.BUDGETS gives this experiment no {name!r}; it has {', '.join(self)}"
            ) from None


def parse(name: str, text: str, like: Any) -> Any:
    """`text` as a value of the same kind as `like`: whole number, number, list, word, yes or no.

    Raises UserError where the text is of another kind or out of range: whole numbers are
    counts, at least 1; other numbers are finite and not negative. The tables above say of which
    `name` that is not so, and which has more bounds.
    """
    if isinstance(like, list):
        items = [part for part in text.split(",") if part.strip()]
        if not items:
            raise UserError(f"{name} must be a list such as 1,2,3, got {text!r}")
        return [parse(name, part.strip(), like[0]) for part in items]
    if isinstance(like, bool):
        answers = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in answers:
            raise UserError(f"{name} must be true or false, got {text!r}")
        return answers[text.lower()]
    if isinstance(like, int):
        return whole_number(name, text, 0 if name in MAY_BE_ZERO else 1)
    if isinstance(like, float):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        least, right = "of at least 0", math.isfinite(number) and number >= 0
        if name in ABOVE_ZERO:
            least, right = "above 0", right and number > 0
        if name in BELOW_ONE:
            least, right = f"{least} and below 1", right and number < 1
        if name in AT_MOST_ONE:
            least, right = f"{least} and at most 1", right and number <= 1
        if not right:
            raise UserError(f"{name} must be a number {least}, got {text}")
        return number
    return text


def whole_number(name: str, text: str, least: int) -> int:
    """`text` as a whole number. Raises UserError unless it is at least `least`, and below 2^63."""
    digits = text.removeprefix("+")
    number = int(digits[:20]) if digits.isdecimal() else -1
    if number < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {text}")
    if number >= 2**63:
        raise UserError(f"{name} must be a whole number below 2^63, got {text}")
    return number


def budgets(
    experiments: Iterable[Experiment], mode: str, changes: Mapping[str, str]
) -> dict[str, Budget]:
    """For each experiment by name its settings in `mode`, with `changes` where they apply.

    Raises UserError for a change that applies to none of the experiments.
    """
    table = {e.name: Budget(e.settings(mode)) for e in experiments}
    for key, text in changes.items():
        owners = [budget for budget in table.values() if key in budget]
        if not owners:
            known = sorted({name for budget in table.values() for name in budget})
            chosen = " and ".join(table) if len(table) < 4 else "the chosen experiments"
            verb = "has" if len(table) == 1 else "have"
            raise UserError(f"{chosen} {verb} no setting {key!r}; settings: {', '.join(known)}")
        for budget in owners:
            budget[key] = parse(key, text, budget[key])
    return table
