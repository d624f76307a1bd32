"""Attention: every token asks all others for what it needs, and takes a mean of their answers.

Each token sends a query q, and offers a key k and a value v. How well its query agrees with the
keys of others decides how much of their values it takes. Which tokens look where is so computed
from the text itself, and any two of them are one step apart.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from section1.activations import Identity
from section1.layer import Layer
from section1.linear import Linear
from section1.network import chain_rule
from section2.dropout import Dropout
from section4.transformers.embedding import rotate


class MultiHeadAttention(Layer):
    """y = concat_h(P_h V_h) W_o + b_o, with P_h = softmax(Q_h K_h^T / sqrt(d)) for every head h.

    Q, K, V = x W + b, three matrices of one product, cut into H heads of d = D / H features.
    A causal layer sees no later token: there P is 0. Of S = Q K^T / sqrt(d) the softmax has
    the slope
        dS = P (dP - r),  r = the sum over a row of P dP, which is that of dO O for O = P V,
    everything else is a matrix product, whose backward is two matrix products.

    Shapes: x and y (N, T, D); mask (N, T), true where a token may be looked at. A token that may
    look nowhere takes 0.

    Args:
        width, heads: D and H.
        causal: whether a token sees only itself and those before it.
        rotary: whether positions are told by turning queries and keys (see `rotate`).
        dropout: the chance that a weight of P is dropped in training.

    Raises ValueError where D is not a multiple of H, x does not have D features, the mask does
    not fit, or there are no pairs of features to turn.
    Source: Vaswani et al., Attention is all you need, arXiv:1706.03762, section 3.2. Derivation:
    report.tex, eq:attention-backward, eq:attention-row-sum.
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
        if heads < 1 or width % heads:
            raise ValueError(f"a width of {width} cannot be cut into {heads} heads")
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.qkv = Linear(width, 3 * width, rng=rng, init="xavier_normal", dtype=dtype)
        self.out = Linear(width, width, rng=rng, init="xavier_normal", dtype=dtype)
        self.dropout = Dropout(dropout, rng=rng) if dropout else Identity()

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        n, t, width = x.shape
        size = width // self.heads
        if mask is not None and mask.shape != (n, t):
            raise ValueError(f"a mask of shape {mask.shape} does not fit tokens {(n, t)}")
        q, k, v = by_head(self.qkv.forward(x), self.heads)  # (N, H, T, d) each
        if self.rotary:
            q, k = rotate(q), rotate(k)
        q *= 1 / math.sqrt(size)
        p = self.scratch("p", (n, self.heads, t, t), q.dtype)
        np.matmul(q, k.swapaxes(2, 3), out=p)  # S: (N, H, T, d) @ (N, H, d, T)
        if self.causal:
            p += causal_mask(t, p.dtype)
        if mask is not None:
            p += padding_mask(mask, p.dtype)
        softmax_rows(p)
        used = self.dropout.forward(p)
        o = self.scratch("o", (n, t, self.heads, size), p.dtype)
        np.matmul(used, v, out=o.swapaxes(1, 2))  # (N, H, T, T) @ (N, H, T, d)
        self.remember(q, k, v, p, used, o)
        return self.out.forward(o.reshape(n, t, width))  # (N, T, H, d) -> (N, T, D)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        q, k, v, p, used, o = self.recall()
        n, t, heads, size = o.shape
        do = chain_rule(dy, self.out).reshape(o.shape)  # (N, T, D) -> (N, T, H, d)
        row = np.einsum("nthd,nthd->nht", do, o)[..., None]  # r: (N, H, T, 1)
        do = do.swapaxes(1, 2)  # (N, H, T, d)
        dqkv = self.workspace("dqkv", (n, t, 3 * heads * size), p.dtype)
        dq, dk, dv = by_head(dqkv, heads)
        np.matmul(used.swapaxes(2, 3), do, out=dv)  # (N, H, T, T) @ (N, H, T, d)
        dp = np.matmul(do, v.swapaxes(2, 3), out=self.workspace("dp", p.shape, p.dtype))
        ds = self.dropout.backward(dp)
        ds -= row
        ds *= p
        np.matmul(ds, k, out=dq)
        dq *= 1 / math.sqrt(size)
        np.matmul(ds.swapaxes(2, 3), q, out=dk)  # q has the factor 1 / sqrt(d) in it
        if self.rotary:
            dq[...], dk[...] = rotate(dq, backward=True), rotate(dk, backward=True)
        return self.qkv.backward(dqkv)

    def skip_input_gradient(self) -> None:
        self.qkv.skip_input_gradient()


def by_head(qkv: np.ndarray, heads: int) -> np.ndarray:
    """(N, T, 3 D) -> (3, N, H, T, d): a view; no number is moved."""
    n, t, width = qkv.shape
    return qkv.reshape(n, t, 3, heads, width // (3 * heads)).transpose(2, 0, 3, 1, 4)


def softmax_rows(s: np.ndarray) -> None:
    """The softmax along the last axis, in place; 0 where all of a row is -inf."""
    s -= s.max(axis=-1, keepdims=True, initial=np.finfo(s.dtype).min)
    np.exp(s, out=s)
    sums = np.einsum("...t->...", s)[..., None]
    s /= np.maximum(sums, np.finfo(s.dtype).tiny, out=sums)


@lru_cache(maxsize=16)
def causal_mask(tokens: int, dtype: Any) -> np.ndarray:
    """(T, T): 0 for a key at or before the query, -inf for one after it."""
    mask = np.triu(np.full((tokens, tokens), -np.inf, dtype), 1)
    mask.setflags(write=False)
    return mask


def padding_mask(mask: np.ndarray, dtype: Any) -> np.ndarray:
    """(N, 1, 1, T): 0 for a key that may be looked at, -inf for others."""
    return np.where(mask, 0, -np.inf).astype(dtype)[:, None, None]
