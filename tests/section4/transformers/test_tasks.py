"""Toy tasks: right answers, and no input that is both trained on and tested on."""

from __future__ import annotations

import numpy as np
import pytest

from section4.transformers import tasks
from section4.transformers.tasks import (
    END,
    TASKS,
    TOKENIZER,
    encoded,
    held_out_examples,
    training_examples,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def answer(task: str, text: str) -> str:
    """By other means than those of the library."""
    if task == "reverse":
        return "".join(text[-k] for k in range(1, len(text) + 1))
    if task == "sort":
        return "".join(digit * text.count(digit) for digit in "0123456789")
    a, b = text.split("+")
    total = f"{int(a) + int(b):0{len(a) + 1}d}"
    return total if task == "add" else "".join(reversed(total))


@pytest.mark.parametrize("task", TASKS)
def test_outputs_are_right_and_inputs_as_long_as_asked_for(task: str) -> None:
    seen = set[int]()
    for text, output in training_examples(task, [2, 5], 300, rng()):
        length = len(text.split("+")[0])
        seen.add(length)
        assert len(text) == (2 * length + 1 if "+" in text else length)
        assert output == answer(task, text)
        assert len(output) == length + ("add" in task)
    assert seen == {2, 5}


@pytest.mark.parametrize("task", TASKS)
def test_no_input_is_for_both(task: str) -> None:
    trained = {text for text, _ in training_examples(task, [1, 2], 3000, rng())}
    tested = [text for n in (1, 2) for text, _ in held_out_examples(task, n, 50, rng(1))]
    assert tested and len(set(tested)) == len(tested)
    assert not trained & set(tested)


def test_about_one_input_of_ten_is_held_out() -> None:
    assert sum(map(tasks.is_held_out, map(str, range(1000, 10_000)))) / 9000 == pytest.approx(
        0.1, abs=0.01
    )
    assert len(held_out_examples("sort", 2, 200, rng())) == sum(
        tasks.is_held_out(f"{k:02d}") for k in range(100)
    )


def test_a_sum_is_held_out_with_its_numbers_swapped() -> None:
    numbers = [f"{k:02d}" for k in range(100)]
    held_out = {(a, b) for a in numbers for b in numbers if tasks.is_held_out(f"{a}+{b}")}
    assert held_out == {(b, a) for a, b in held_out}
    assert len(held_out) == pytest.approx(1000, rel=0.1)


def test_only_the_output_counts() -> None:
    x, y = encoded([("31", "13"), ("2+5", "07")], ignored=-1)
    assert [TOKENIZER.decode(row) for row in x] == ["31=13.", "2+5=07"]
    for row, output, start in zip(y, ("13.", "07."), (2, 3)):
        counted = np.flatnonzero(row >= 0)
        assert counted.tolist() == list(range(start, start + 3))
        assert TOKENIZER.decode(row[counted]) == output
    assert output[-1] == END
    np.testing.assert_array_equal(x[0, 3:5], y[0, 2:4])  # y is what comes next
