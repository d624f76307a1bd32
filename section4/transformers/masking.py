"""Masked language modelling: hide some tokens of a text, and guess each from both of its sides.

A model that guesses the next token may look to one side only. One that fills in what is missing
may look to both, as nothing is given away: what is to be guessed is not there.
"""

from __future__ import annotations

from itertools import product

import numpy as np

Batch = tuple[np.ndarray, np.ndarray]


def masked(
    tokens: np.ndarray, mask: int, ignored: int, rng: np.random.Generator, share: float = 0.15
) -> Batch:
    """A text with some tokens hidden, and what stood there: x and y, both shaped as `tokens`.

    Each token is chosen with the chance `share`. Of those chosen, 80% become the token `mask`,
    10% a token drawn at random and 10% stay, so that a model must have an opinion of every
    token and not of `mask` alone. y is the true token where one was chosen, else `ignored`.

    tokens: integers from 0 to mask - 1.
    Source: Devlin et al., BERT, arXiv:1810.04805, section 3.1.
    """
    chosen = rng.random(tokens.shape) < share
    fate = rng.random(tokens.shape)
    x = np.where(chosen & (fate < 0.8), mask, tokens)
    x = np.where(chosen & (fate >= 0.9), rng.integers(mask, size=tokens.shape), x)
    return x, np.where(chosen, tokens, ignored)


class Neighbours:
    """The token that in a text is met most often between the same neighbours.

    Looks at `left` tokens before a place and `right` after it. Where those were never met
    together, or one is hidden (none of 0 to V - 1) or beyond an end of the text, it looks at fewer:
    as many as it can, evenly from both sides before unevenly, rather on the left; with none at all
    it says the most frequent token. That is an n-gram with its gap inside and with back-off.

    Of tokens that are met equally often the smallest is taken.
    Raises ValueError where V^(left + right + 1) is too large for a whole number of 64 bits.
    """

    def __init__(self, text: np.ndarray, vocabulary: int, left: int, right: int):
        if vocabulary ** (left + right + 1) >= 2**63:
            raise ValueError(
                f"{left} + {right} neighbours of {vocabulary} tokens are too many to be counted"
            )
        self.vocabulary = vocabulary
        self.tables = list[tuple[int, int, np.ndarray, np.ndarray]]()
        sides = product(range(left + 1), range(right + 1))
        for a, b in sorted(sides, key=lambda side: (-sum(side), abs(side[0] - side[1]), side[1])):
            context = self.contexts(text, a, b)
            whole = context >= 0
            if not whole.any():  # a text shorter than that
                continue
            pairs, counts = np.unique(context[whole] * vocabulary + text[whole], return_counts=True)
            order = np.lexsort((-counts, pairs // vocabulary))  # the most frequent one first
            found, first = np.unique(pairs[order] // vocabulary, return_index=True)
            self.tables.append((a, b, found, pairs[order][first] % vocabulary))

    def contexts(self, text: np.ndarray, left: int, right: int) -> np.ndarray:
        """A number for the neighbours of each place of a text (n,); -1 where some are missing."""
        known = (text >= 0) & (text < self.vocabulary)
        padded = np.pad(np.where(known, text, -1), (left, right), constant_values=-1)
        number = np.zeros(len(text), np.int64)
        whole = np.ones(len(text), bool)
        for shift in [*range(left), *range(left + 1, left + right + 1)]:
            neighbour = padded[shift : shift + len(text)]
            number = number * self.vocabulary + neighbour
            whole &= neighbour >= 0
        return np.where(whole, number, -1)

    def predict(self, text: np.ndarray) -> np.ndarray:
        """The guess for every place of a text (n,), from its neighbours alone."""
        guess = np.full(len(text), -1)
        for left, right, found, middle in self.tables:
            context = self.contexts(text, left, right)
            at = np.searchsorted(found, context).clip(max=len(found) - 1)
            guess = np.where((guess < 0) & (found[at] == context), middle[at], guess)
        return guess
