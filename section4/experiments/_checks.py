"""Of every NumPy layer of section 4 an example, for its gradient to be checked, and some networks.

The tables are those that `section2/experiments/_checks.py` explains. `MISTAKES` has the ways in
which the backward pass of attention and of tables goes wrong in practice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from section1.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from section1.network import Sequential, chain_rule
from section2.experiments._checks import F64, Example, Model, Random, labels, layer, normal
from section2.faults import Faulty, Mistake
from section4.gans.numpy_gan import conv_discriminator, conv_generator
from section4.transformers.attention import MultiHeadAttention
from section4.transformers.block import TransformerBlock
from section4.transformers.embedding import (
    Embedding,
    LearnedPositions,
    SinusoidalPositions,
    Unembedding,
)
from section4.transformers.gpt import GPTConfig, NumpyGPT

# --- examples ----------------------------------------------------------------------------


def tokens(vocabulary: int, *shape: int) -> Callable[[Random], np.ndarray]:
    return lambda rng: rng.integers(vocabulary, size=shape)


def unembedding(rng: Random) -> Unembedding:
    return Unembedding(Embedding(5, 4, rng=rng, dtype=F64).weight)


def attention(heads: int, **options: Any) -> Example:
    return Example(
        lambda rng: MultiHeadAttention(4, heads, rng=rng, dtype=F64, **options), normal(2, 3, 4)
    )


def block(**options: Any) -> Example:
    return Example(
        lambda rng: TransformerBlock(4, 2, rng=rng, dtype=F64, **options), normal(2, 3, 4)
    )


def gpt(**options: Any) -> Callable[[Random], NumpyGPT]:
    """With larger tokens than at the start, where a norm makes a bend of what is a small step."""
    config = GPTConfig(vocabulary=5, context=3, layers=1, heads=2, width=4, **options)

    def make(rng: Random) -> NumpyGPT:
        model = NumpyGPT(config, rng=rng, dtype=F64)
        model.tokens.weight.value *= 50
        return model

    return make


EXAMPLES: dict[type, list[Example]] = {
    Embedding: [
        Example(lambda rng: Embedding(3, 4, rng=rng, dtype=F64), tokens(3, 2, 4)),
        Example(lambda rng: Embedding(9, 2, rng=rng, dtype=F64), tokens(9, 5)),
    ],
    Unembedding: [Example(unembedding, normal(2, 3, 4))],
    LearnedPositions: [
        Example(lambda rng: LearnedPositions(3, 4, rng=rng, dtype=F64), normal(2, 3, 4)),
        Example(lambda rng: LearnedPositions(5, 4, rng=rng, dtype=F64), normal(2, 3, 4)),
    ],
    SinusoidalPositions: [layer(lambda: SinusoidalPositions(5, 4, dtype=F64), normal(2, 3, 4))],
    MultiHeadAttention: [
        attention(1),
        attention(2),
        attention(2, causal=False),
        attention(2, rotary=True),
        attention(2, dropout=0.3),
    ],
    TransformerBlock: [block(), block(causal=False, rotary=True, dropout=0.2)],
    NumpyGPT: [Example(gpt(), tokens(5, 2, 3)), Example(gpt(tied=False), tokens(5, 2, 3))],
}

ABSTRACT: dict[type, str] = {}


# --- mistakes ----------------------------------------------------------------------------


def repetitions_lost(table: Embedding, x: np.ndarray, dy: np.ndarray) -> None:
    """dW[x] += dy, which NumPy does once for a token that comes several times."""
    table.weight.grad[x] += dy


def heads_not_apart(layer: MultiHeadAttention, x: np.ndarray, dy: np.ndarray) -> np.ndarray | None:
    """dO read as (N, H, T, d) and not as (N, T, H, d)."""
    n, t, width = x.shape

    def misread(do: np.ndarray) -> np.ndarray:
        return do.reshape(n, layer.heads, t, -1).swapaxes(1, 2).reshape(n, t, width)

    return backward_with(layer, "out", misread, dy)


def row_forgotten(layer: MultiHeadAttention, x: np.ndarray, dy: np.ndarray) -> np.ndarray | None:
    """dS = P dP, as if the weights of a row had no sum to keep."""
    p = layer.recall()[3]

    def without(ds: np.ndarray) -> np.ndarray:
        return ds + (p * ds).sum(axis=-1, keepdims=True)  # which is subtracted next

    return backward_with(layer, "dropout", without, dy)


def backward_with(
    layer: MultiHeadAttention, part: str, fault: Callable[[np.ndarray], np.ndarray], dy: np.ndarray
) -> np.ndarray | None:
    """dx of a layer, with a fault in the dx of one of its parts."""
    right = getattr(layer, part)
    setattr(layer, part, Faulty(right, fault))
    dx = layer.backward(dy)
    setattr(layer, part, right)
    return dx


def shortcuts_forgotten(block: TransformerBlock, x: np.ndarray, dz: np.ndarray) -> np.ndarray:
    return chain_rule(dz, block.mlp, block.norm2, block.dropout, block.attention, block.norm1)


def only_head_learns(model: NumpyGPT, x: np.ndarray, dy: np.ndarray) -> None:
    """Tokens are learnt, if tied, where they are told apart, and not where they come in."""
    chain_rule(dy, model.head, model.norm, *reversed(model.blocks), model.dropout, model.positions)


MISTAKES: dict[str, tuple[tuple[type, ...], Mistake]] = {
    "repetitions lost": ((Embedding,), repetitions_lost),
    "heads not apart": ((MultiHeadAttention,), heads_not_apart),
    "row forgotten": ((MultiHeadAttention,), row_forgotten),
    "shortcuts forgotten": ((TransformerBlock,), shortcuts_forgotten),
    "only the head learns": ((NumpyGPT,), only_head_learns),
}


# --- whole networks ----------------------------------------------------------------------


def language_model(**options: Any) -> Model:
    make, text = gpt(**options), tokens(5, 3, 3)
    loss = SoftmaxCrossEntropy(ignore=options.get("padding"))
    return Model(lambda rng: Sequential(make(rng)), loss, text, text)


MODELS: dict[str, Model] = {
    "GPT": language_model(),
    "GPT, untied, sinusoidal": language_model(tied=False, positions="sinusoidal"),
    "GPT, rotary, padding": language_model(positions="rotary", padding=0),
    "GPT, dropout": language_model(dropout=0.2),
    "GAN, generator": Model(
        lambda rng: conv_generator(3, (4, 4, 1), (2,), rng=rng, dtype=F64),
        MeanSquaredError(), normal(4, 3), normal(4, 4, 4, 1),
    ),
    "GAN, discriminator": Model(
        lambda rng: conv_discriminator((4, 4, 1), (2,), rng=rng, dtype=F64),
        BinaryCrossEntropy(), normal(4, 4, 4, 1), labels(4, 2),
    ),
}  # fmt: skip
