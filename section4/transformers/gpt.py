"""GPT: a stack of Transformer blocks that guesses the next token, at every place of a text at once.

A text of T tokens is T exercises: from the first t of them, guess the one after. As no token
sees a later one, all are done in one pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from section1.activations import Identity
from section1.layer import Layer
from section1.linear import Linear
from section1.network import chain_rule
from section2.dropout import Dropout
from section2.layernorm import LayerNorm
from section4.transformers.block import TransformerBlock
from section4.transformers.embedding import (
    STD,
    Embedding,
    LearnedPositions,
    SinusoidalPositions,
    Unembedding,
)

POSITIONS = ("learned", "sinusoidal", "rotary")
TOKENS_AT_ONCE = 384  # so many are computed at once, which stay in cache


@dataclass(frozen=True)
class GPTConfig:
    """What a GPT is made of, in NumPy and in PyTorch.

    Args:
        vocabulary: V, the number of different tokens.
        context: the most tokens that it can look at.
        layers, heads, width: blocks, heads of each, and features D of a token.
        positions: one of POSITIONS.
        causal: whether a token sees only itself and those before it, as to guess the next one
            it must; else it sees all, as to fill in what is missing.
        tied: whether tokens are told apart at the end by the same vectors that they have at
            the beginning.
        dropout: see `TransformerBlock`; also on the sum of tokens and positions.
        padding: a token that fills up short texts, and that no other may look at.

    Raises ValueError for what does not fit together.
    """

    vocabulary: int
    context: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    positions: str = "learned"
    causal: bool = True
    tied: bool = True
    dropout: float = 0.0
    padding: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be cut into {self.heads} heads")
        if self.positions not in POSITIONS:
            known = ", ".join(POSITIONS)
            raise ValueError(f"unknown positions {self.positions!r}; known are {known}")
        pairs = {"learned": 2, "sinusoidal": self.width, "rotary": self.width // self.heads}
        if pairs[self.positions] % 2:
            raise ValueError(
                f"{self.positions} positions need pairs of features, got {pairs[self.positions]}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.padding is not None and not 0 <= self.padding < self.vocabulary:
            raise ValueError(f"padding must be one of the tokens, got {self.padding}")

    def check_shape(self, shape: tuple[int, ...], before: int = 0) -> None:
        """Raises ValueError for texts that are empty or do not fit into the context.

        shape: (N, T); before: how many tokens come before these T.
        """
        if len(shape) != 2:
            raise ValueError(f"expected tokens (N, T), got shape {shape}")
        if not 1 <= shape[1] <= self.context - before:
            total = before + shape[1]
            raise ValueError(f"expected 1 to {self.context} tokens (the context), got {total}")


class NumpyGPT(Layer):
    """logits = norm(block_L(... block_1(E[x] + P))) E^T: the scores of every next token.

    Weights start normal with standard deviation 0.02, biases at 0. What the 2 L parts add up
    to would grow with L, so the last weights of each are smaller by sqrt(2 L).

    Shapes: x (N, T) integers with T up to the context, logits (N, T, V).

    Raises ValueError for a text that does not fit, and tokens that are none.
    Sources: Radford et al., Language models are unsupervised multitask learners (2019), GPT-2;
    its proportions at this size: Karpathy, nanoGPT.
    """

    def __init__(self, config: GPTConfig, *, rng: np.random.Generator, dtype: Any = np.float32):
        c = self.config = config
        self.micro_batch = max(1, TOKENS_AT_ONCE // c.context)
        self.tokens = Embedding(c.vocabulary, c.width, rng=rng, dtype=dtype)
        self.positions: Layer = Identity()
        if c.positions == "learned":
            self.positions = LearnedPositions(c.context, c.width, rng=rng, dtype=dtype)
        elif c.positions == "sinusoidal":
            self.positions = SinusoidalPositions(c.context, c.width, dtype=dtype)
        self.dropout = Dropout(c.dropout, rng=rng) if c.dropout else Identity()
        rotary = c.positions == "rotary"
        self.blocks = [
            TransformerBlock(
                c.width,
                c.heads,
                rng=rng,
                causal=c.causal,
                rotary=rotary,
                dropout=c.dropout,
                dtype=dtype,
            )
            for _ in range(c.layers)
        ]
        self.norm = LayerNorm(c.width, dtype=dtype)
        self.head = Unembedding(self.tokens.weight)
        if not c.tied:
            self.head = Unembedding(Embedding(c.vocabulary, c.width, rng=rng, dtype=dtype).weight)
        linear = [layer for layer in self.modules() if isinstance(layer, Linear)]
        for layer in linear:
            layer.weight.value[...] = STD * rng.standard_normal(layer.weight.value.shape)
        for last in linear[1::2]:  # of attention and mlp in turn, which have two each
            last.weight.value /= math.sqrt(2 * c.layers)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.config.check_shape(x.shape)
        mask = None if self.config.padding is None else x != self.config.padding
        h = self.dropout.forward(self.positions.forward(self.tokens.forward(x)))  # (N, T, D)
        for block in self.blocks:
            h = block.forward(h, mask)
        return self.head.forward(self.norm.forward(h))

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        dh = chain_rule(dy, self.head, self.norm, *reversed(self.blocks))
        return self.tokens.backward(chain_rule(dh, self.dropout, self.positions))
