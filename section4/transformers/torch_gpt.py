"""The same GPT in PyTorch, for every device, with the weights of either put into the other.

Attention is one call here, `scaled_dot_product_attention`: it goes through the keys in pieces that
stay in fast memory and never writes P down (Dao et al., FlashAttention, arXiv:2205.14135). To write
text token by token the keys and values of what is already there are kept in a `Cache`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from section2.gradient_check import named_parameters
from section4.transformers.embedding import STD
from section4.transformers.gpt import GPTConfig, NumpyGPT

Turns = tuple[Tensor, Tensor]


class Cache:
    """The keys and values (N, H, T, d) of the tokens read so far, a pair for every block."""

    def __init__(self) -> None:
        self.pairs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.tokens: Tensor | None = None  # (N, T)

    @property
    def length(self) -> int:
        return 0 if self.tokens is None else self.tokens.shape[1]

    def read(self, x: Tensor) -> Tensor:
        """All tokens, the new ones at the end; these it remembers."""
        self.tokens = x if self.tokens is None else torch.cat([self.tokens, x], dim=1)
        return self.tokens

    def extended(self, block: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a block, the new ones at the end; these it remembers."""
        if block in self.pairs:
            before = self.pairs[block]
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        self.pairs[block] = k, v
        return k, v


class Attention(nn.Module):
    """`MultiHeadAttention` of `section4.transformers.attention`.

    mask: true where a key may be looked at, which decides in place of `config.causal`; turns:
    cosines and sines (T, d/2) for `rotate`.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.heads, self.p, self.causal = config.heads, config.dropout, config.causal
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x: Tensor, mask: Tensor | None, turns: Turns | None, cache: Cache | None
    ) -> Tensor:
        n, t, width = x.shape
        qkv = self.qkv(x).view(n, t, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, H, T, d) each
        if turns is not None:
            q, k = rotate(q, *turns), rotate(k, *turns)
        if cache is not None:
            k, v = cache.extended(self, k, v)
        p = self.p if self.training else 0.0
        causal = self.causal and mask is None
        y = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(n, t, width))  # (N, H, T, d) -> (N, T, D)


class Block(nn.Module):
    """`TransformerBlock` of `section4.transformers.block`."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
            nn.Dropout(config.dropout),
        )

    def forward(
        self, x: Tensor, mask: Tensor | None, turns: Turns | None, cache: Cache | None
    ) -> Tensor:
        y = x + self.dropout(self.attention(self.norm1(x), mask, turns, cache))
        return y + self.mlp(self.norm2(y))


class TorchGPT(nn.Module):
    """`NumpyGPT` of `section4.transformers.gpt`: from tokens (N, T), the logits (N, T, V) of the
    next ones.

    With a `cache` the tokens are those that come after the ones it has seen, and are added to it.
    Raises ValueError for a text that does not fit into the context, and for a cache where tokens
    see later ones: what they once took from others would no longer be right.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        c = self.config = config
        self.tokens = nn.Embedding(c.vocabulary, c.width)
        if c.positions == "learned":
            self.positions = nn.Embedding(c.context, c.width)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        self.head = nn.Linear(c.width, c.vocabulary, bias=False)
        if c.tied:
            self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("attention.out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=STD / math.sqrt(2 * c.layers) if last else STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        if cache is not None and not self.config.causal:
            raise ValueError("a cache needs a causal model: here tokens see later ones")
        start = cache.length if cache else 0
        self.config.check_shape(tuple(x.shape), start)
        t = x.shape[1]
        h, turns = self.tokens(x), None  # (N, T, D)
        if self.config.positions == "learned":
            h = h + self.positions.weight[start : start + t]
        elif self.config.positions == "sinusoidal":
            angles = self.angles(start, t, self.config.width)  # (T, D/2)
            pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)
            h = h + STD * math.sqrt(2) * pairs.flatten(1)  # (T, D/2, 2) -> (T, D)
        else:
            angles = self.angles(start, t, self.config.width // self.config.heads)
            turns = angles.cos(), angles.sin()
        h = self.dropout(h)
        mask = self.mask(x if cache is None else cache.read(x), t)
        for block in self.blocks:
            h = block(h, mask, turns, cache)
        return self.head(self.norm(h))

    def angles(self, start: int, count: int, size: int) -> Tensor:
        """(count, size / 2): place times speed, as in `sinusoids` and `rotate` of NumPy."""
        like = self.tokens.weight
        places = torch.arange(start, start + count, device=like.device, dtype=like.dtype)
        pairs = torch.arange(0, size, 2, device=like.device, dtype=like.dtype)
        return places[:, None] * 10_000.0 ** (-pairs / size)

    def mask(self, seen: Tensor, t: int) -> Tensor | None:
        """For the last t of the tokens (N, S): (t, S) or (N, 1, t, S), true where each may look.

        None says the same as a triangle (T, T), or, of a model that is not causal, a square.
        """
        size, padding = seen.shape[1], self.config.padding
        if padding is None and t == size:
            return None
        allowed = torch.ones(t, size, dtype=torch.bool, device=seen.device)
        if self.config.causal:
            allowed = allowed.tril(size - t)
        return allowed if padding is None else allowed & (seen != padding)[:, None, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` of `section4.transformers.embedding`; bfloat16 is turned in float32."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


# --- from one to the other --------------------------------------------------------------------


def to_torch(model: NumpyGPT) -> TorchGPT:
    """A PyTorch model with the weights of the NumPy one, in its precision, on the CPU."""
    twin = TorchGPT(model.config).to(torch.from_numpy(model.norm.gamma.value).dtype)
    with torch.no_grad():
        for tensor, array in same_weights(twin, model):
            tensor.copy_(torch.from_numpy(array))
    return twin


def to_numpy(model: TorchGPT) -> NumpyGPT:
    """A NumPy model with the weights of the PyTorch one, in float64 if they are, else float32."""
    dtype = np.float64 if model.norm.weight.dtype == torch.float64 else np.float32
    twin = NumpyGPT(model.config, rng=np.random.default_rng(0), dtype=dtype)
    for tensor, array in same_weights(model, twin):
        array[...] = tensor.detach().cpu().double().numpy()
    return twin


def same_weights(theirs: TorchGPT, ours: NumpyGPT) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Every weight of both, in one shape: a matrix is (in, out) here and (out, in) in PyTorch."""
    state = dict(theirs.named_parameters(remove_duplicate=False))
    for name, parameter in named_parameters(ours):
        name = name.replace("gamma", "weight").replace("beta", "bias").replace(".layers.", ".")
        inside = name.startswith("blocks") and parameter.value.ndim == 2
        yield state[name], parameter.value.T if inside else parameter.value
