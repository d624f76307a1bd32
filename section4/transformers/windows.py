"""Pieces of a long text, to train on: what stands there, and the same one token further on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Batch = tuple[np.ndarray, np.ndarray]


def windows(tokens: np.ndarray, context: int, stride: int = 1) -> Batch:
    """x (N, T) and y (N, T): a piece of T = `context` tokens at every `stride`, and the one
    that follows each of its tokens.

    Both are views of `tokens` (n,), an array of integers. Raises ValueError where not a single
    piece fits.
    """
    if not 1 <= context < len(tokens):
        raise ValueError(
            f"a text of {len(tokens)} tokens has no piece of {context} tokens with a next one"
        )
    view = np.lib.stride_tricks.sliding_window_view
    return view(tokens[:-1], context)[::stride], view(tokens[1:], context)[::stride]


def random_windows(
    tokens: np.ndarray, context: int, *, batch_size: int, batches: int
) -> Callable[[np.random.Generator], Iterator[Batch]]:
    """An "epoch" of so many batches of pieces at random places, as `fit(data=...)` takes it."""
    x, y = windows(tokens, context)

    def epoch(rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(batches):
            rows = rng.integers(len(x), size=batch_size)
            yield x[rows], y[rows]

    return epoch
