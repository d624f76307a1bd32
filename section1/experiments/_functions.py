"""What experiments that learn a function share: a tanh network that starts well spread."""

from __future__ import annotations

import numpy as np

from section1.activations import Tanh
from section1.linear import Linear
from section1.network import Sequential


def tanh_units(inputs: int, width: int, rng: np.random.Generator) -> Sequential:
    """One hidden layer of `width` tanh units whose bends are spread over [-1, 1]^inputs.

    Unit k is tanh(w_k . (x - p_k)): it bends at p_k and looks along the direction of w_k. The
    points p are a Latin hypercube (on each axis one point in each of `width` equal pieces),
    the directions are random, and the steepness is such that a bend is about as wide as the
    distance to the next one: narrower would be a staircase, wider would leave all units alike.
    """
    hidden = Linear(inputs, width, rng=rng)
    output = Linear(width, 1, rng=rng, init="xavier_uniform")
    piece = np.stack([rng.permutation(width) for _ in range(inputs)])  # (inputs, width)
    points = 2 * (piece + rng.uniform(size=piece.shape)) / width - 1
    direction = rng.standard_normal(piece.shape)
    direction /= np.linalg.norm(direction, axis=0)
    weight = inputs / 2 * width ** (1 / inputs) * direction
    hidden.weight.value[:] = weight
    assert hidden.bias is not None
    hidden.bias.value[:] = -(weight * points).sum(axis=0)
    output.weight.value *= 0.1  # a start near zero: what is there at the end was learned
    return Sequential(hidden, Tanh(), output)
