"""Hidden tokens, and the tables that guess them from their neighbours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from section4.transformers.masking import Neighbours, masked


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_of_the_tokens_chosen_eight_in_ten_are_hidden_and_one_stays() -> None:
    tokens = rng().integers(50, size=(400, 500))
    x, y = masked(tokens, 50, -100, rng(1))
    chosen = y != -100
    assert chosen.mean() == pytest.approx(0.15, abs=0.005)
    np.testing.assert_array_equal(y[chosen], tokens[chosen])
    np.testing.assert_array_equal(x[~chosen], tokens[~chosen])
    hidden, same = x[chosen] == 50, x[chosen] == tokens[chosen]
    assert hidden.mean() == pytest.approx(0.8, abs=0.01)
    assert same.mean() == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    others = x[chosen][~hidden & ~same]
    assert set(others.tolist()) == set(range(50))
    assert tokens.max() == 49  # the text itself is left as it was


def by_hand(train: list[int], text: list[int], left: int, right: int) -> list[int]:
    """The most frequent middle, and the smallest of those, with fewer neighbours where new."""
    order = [(2, 2), (2, 1), (1, 2), (1, 1), (2, 0), (0, 2), (1, 0), (0, 1), (0, 0)]
    order = [(a, b) for a, b in order if a <= left and b <= right]

    def around(row: list[int], at: int, a: int, b: int) -> tuple[int, ...] | None:
        if at - a < 0 or at + b >= len(row):
            return None
        found = (*row[at - a : at], *row[at + 1 : at + b + 1])
        return None if any(not 0 <= token < 4 for token in found) else found

    guesses = []
    for at in range(len(text)):
        for a, b in order:
            here = around(text, at, a, b)
            met = Counter(
                train[k]
                for k in range(len(train))
                if here is not None and around(train, k, a, b) == here
            )
            if met:
                guesses.append(min(met, key=lambda token: (-met[token], token)))
                break
    return guesses


@pytest.mark.parametrize("sides", [(0, 0), (2, 0), (0, 1), (1, 1), (2, 2)])
def test_neighbours_are_counted_as_by_hand(sides: tuple[int, int]) -> None:
    train, text = rng().integers(4, size=60), rng(1).integers(4, size=40)
    text[[5, 6, 20]] = 4  # hidden
    table = Neighbours(train, 4, *sides)
    assert table.predict(text).tolist() == by_hand(train.tolist(), text.tolist(), *sides)


def test_a_text_too_short_for_a_table_leaves_the_smaller_ones() -> None:
    text = np.array([0, 1, 0])
    assert Neighbours(text, 2, 2, 2).predict(text).tolist() == by_hand([0, 1, 0], [0, 1, 0], 2, 2)


def test_what_a_place_holds_itself_does_not_matter() -> None:
    train, text = rng().integers(4, size=60), rng(1).integers(4, size=40)
    table = Neighbours(train, 4, 1, 1)
    changed = text.copy()
    changed[7] = (text[7] + 1) % 4
    assert table.predict(changed)[7] == table.predict(text)[7]


def test_too_many_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 \+ 6 neighbours of 65 tokens are too many"):
        Neighbours(np.zeros(3, int), 65, 6, 6)
