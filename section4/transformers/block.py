"""The Transformer block: tokens exchange what they know, then each thinks it over by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from section1.activations import GELU, Identity
from section1.layer import Layer
from section1.linear import Linear
from section1.network import Sequential, chain_rule
from section2.dropout import Dropout
from section2.layernorm import LayerNorm
from section4.transformers.attention import MultiHeadAttention


class TransformerBlock(Layer):
    """y = x + attention(norm(x));  z = y + mlp(norm(y)), with mlp = Linear, GELU, Linear.

    What comes in goes on unchanged, and both parts only add to it: so the gradient has a way
    round them. The norms stand before the parts and not after the sums ("pre-norm"), which
    leaves that way free, and lets deep stacks train without care.

    Shapes: x, y, z (N, T, D); mask (N, T), see `MultiHeadAttention`; inside the mlp (N, T, 4 D).

    Args:
        dropout: the chance of a zero in P, and in what each part adds, in training.
        others: those of `MultiHeadAttention`.

    Sources: Vaswani et al., arXiv:1706.03762; Xiong et al., On layer normalization in the
    Transformer architecture, arXiv:2002.04745.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rng: np.random.Generator,
        causal: bool = True,
        rotary: bool = False,
        dropout: float = 0.0,
        dtype: Any = np.float32,
    ):
        self.norm1 = LayerNorm(width, dtype=dtype)
        self.attention = MultiHeadAttention(
            width, heads, rng=rng, causal=causal, rotary=rotary, dropout=dropout, dtype=dtype
        )
        self.dropout = Dropout(dropout, rng=rng) if dropout else Identity()
        self.norm2 = LayerNorm(width, dtype=dtype)
        self.mlp = Sequential(
            Linear(width, 4 * width, rng=rng, dtype=dtype),
            GELU(),
            Linear(4 * width, width, rng=rng, dtype=dtype),
            Dropout(dropout, rng=rng) if dropout else Identity(),
        )

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        y = self.dropout.forward(self.attention.forward(self.norm1.forward(x), mask))
        y += x
        z = self.mlp.forward(self.norm2.forward(y))
        z += y
        return z

    def backward(self, dz: np.ndarray) -> np.ndarray | None:
        dy = chain_rule(dz, self.mlp, self.norm2)
        dy += dz
        dx = chain_rule(dy, self.dropout, self.attention, self.norm1)
        dx += dy
        return dx
