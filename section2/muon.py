"""Muon: for a matrix, a step in which every direction counts alike.

The momentum of a weight matrix is mostly a few strong directions. Muon replaces it by the
nearest matrix whose singular values are about one, all but the smallest, so that weak
directions learn too (report.tex, eq:newton-schulz).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from section1.parameter import Parameter
from section1.sgd import Piece
from section2.optimizers import AdamW, below_one

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # tuned for the steepest start, not to converge to 1


def orthogonalized(matrix: np.ndarray, steps: int = 5, eps: float = 1e-7) -> np.ndarray:
    """U S V^T with all but the smallest singular values S pushed to between about 0.7 and 1.2.

    Newton-Schulz: X <- a X + (b (X X^T) + c (X X^T)^2) X applies a s + b s^3 + c s^5 to each
    singular value s and leaves U and V alone, so no decomposition is needed. It starts from
    X = G / |G|, where no s is above one.
    """
    a, b, c = COEFFICIENTS
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix  # the smaller product X X^T
    x = x / max(float(np.linalg.norm(x)), eps)
    update, gram = np.empty_like(x), np.empty((len(x), len(x)), x.dtype)
    square = np.empty_like(gram)
    for _ in range(steps):
        np.matmul(x, x.T, out=gram)  # (R, C) @ (C, R)
        np.matmul(gram, gram, out=square)
        square *= c
        gram *= b
        gram += square
        np.matmul(gram, x, out=update)  # (R, R) @ (R, C)
        x *= a
        x += update
    return x.T if len(matrix) > matrix.shape[1] else x


class Muon(AdamW):
    """m <- b m + (1 - b) g;  w <- (1 - lr weight_decay) w - lr scale orthogonalized(m).

    With `nesterov`, (1 - b) g + b m takes the place of m. The scale depends on how many
    inputs and outputs the matrix (in, out) has: `adjust="match_rms_adamw"` takes
    0.2 sqrt(max(in, out)), which makes steps as large as AdamW's, so that one learning rate
    does for both (Liu et al., Muon is scalable for LLM training, arXiv:2502.16982);
    `adjust="original"` takes sqrt(max(1, out / in)).

    A convolution kernel (KH, KW, C, F) is a matrix (KH*KW*C, F). Parameters with fewer than
    two axes, and those in `adamw`, are updated by AdamW with the same lr and weight decay;
    the write-up advises it for the input layer, embeddings and the output layer.

    Source: Keller Jordan et al., Muon: an optimizer for hidden layers in neural networks,
    https://kellerjordan.github.io/posts/muon/. There Newton-Schulz runs in bfloat16, here in
    the dtype of the weights.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        adjust: str = "match_rms_adamw",
        adamw: Iterable[Parameter] = (),
    ):
        if adjust not in ("match_rms_adamw", "original"):
            raise ValueError(f"Muon knows adjust='match_rms_adamw' and 'original', got {adjust!r}")
        self.momentum = below_one("momentum", momentum)
        self.nesterov, self.adjust = nesterov, adjust
        super().__init__(parameters, lr, weight_decay=weight_decay)
        adamw = list(adamw)
        self.is_matrix = [p.value.ndim > 1 and p not in adamw for p in self.parameters]
        self.state.pop()
        self.new_state([not matrix for matrix in self.is_matrix])  # v, for AdamW alone

    def pieces(self, index: int) -> Iterator[Piece]:
        """A matrix is one piece, (in, out); all else goes in flat pieces, as ever."""
        if not self.is_matrix[index]:
            yield from super().pieces(index)
            return
        parameter = self.parameters[index]
        arrays = parameter.value, parameter.grad, self.state[0][index]
        matrices = [array.reshape(-1, array.shape[-1]) for array in arrays]  # (..., C, F) -> 2-D
        yield *matrices, self.state[1][index]

    def update(self, value: np.ndarray, grad: np.ndarray, *state: np.ndarray) -> None:
        if value.ndim == 1:
            super().update(value, grad, *state)
            return
        m = state[0]
        difference = np.subtract(grad, m, out=self.spare(value))
        difference *= 1 - self.momentum
        m += difference
        along = m
        if self.nesterov:  # g + b (m - g)
            along = np.subtract(m, grad, out=difference)
            along *= self.momentum
            along += grad
        step = orthogonalized(along)
        step *= self.lr * self.scale(*value.shape)
        value *= 1 - self.lr * self.weight_decay
        value -= step

    def scale(self, inputs: int, outputs: int) -> float:
        if self.adjust == "original":
            return math.sqrt(max(1, outputs / inputs))
        return 0.2 * math.sqrt(max(inputs, outputs))
