"""Losses: one number that says how wrong a prediction is, and where downhill lies.

Training starts where the network ends: `forward` compares prediction and target, and
`backward` gives the slope of that number along every prediction. Both are means over the
batch, so that a learning rate means the same for any batch size.

Derivations: report.tex, eq:softmax-cross-entropy-backward, eq:binary-cross-entropy-backward,
eq:mean-squared-error, eq:hinge-backward.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from section1.functions import as_float, sigmoid


class Loss:
    """Base class. A subclass writes `forward` and `backward`.

    - `forward(prediction, target)` returns the mean loss as a float and remembers what
      `backward` needs.
    - `backward()` returns the slope along the prediction, with its shape and dtype, and
      may be called twice.
    - Targets that do not fit raise ValueError; `backward` without `forward` RuntimeError.
    """

    _memory: Any = None

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        raise NotImplementedError

    def backward(self) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, prediction: np.ndarray, target: np.ndarray) -> float:
        return self.forward(prediction, target)

    def weight(self, target: np.ndarray) -> float:
        """How much the mean over these targets counts beside the mean over others."""
        return len(target)

    def remember(self, *arrays: Any) -> None:
        self._memory = arrays

    def recall(self) -> Any:
        if self._memory is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward pass before it")
        return self._memory


class SoftmaxCrossEntropy(Loss):
    """L = -log p_t for the true class t, with p = softmax(z) of the logits z.

    With z_max taken out of each row, log p_t = z_t - z_max - log sum_k e^(z_k - z_max): no
    exponential overflows and no logarithm sees a zero. The slope is dz = (p - q) / N, where
    q is the target as a distribution: 1 for the true class and 0 for all others.

    Label smoothing e takes q = 1 - e + e/K and e/K instead, so that no logit need grow for
    ever (Szegedy et al., arXiv:1512.00567, section 7).

    Targets of the number `ignore` are left out: the loss is the mean over all others, or 0
    where there are none.

    Shapes: logits (N, K) and integer targets (N,); or (..., K) and (...,).
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), section 6.2.2.3.
    """

    def __init__(self, label_smoothing: float = 0.0, ignore: int | None = None):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing, self.ignore = label_smoothing, ignore

    def weight(self, target: np.ndarray) -> float:
        return len(target) if self.ignore is None else int((target != self.ignore).sum())

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        z, true = class_targets(prediction, target, self.ignore)  # (N, K), (N,)
        kept: Any = slice(None) if self.ignore is None else true != self.ignore
        z, true = z[kept], true[kept]
        z = z - z.max(axis=1, keepdims=True)
        each = np.arange(len(z))
        correct = z[each, true]  # (N,)
        smooth = self.label_smoothing
        if smooth:
            correct = (1 - smooth) * correct + smooth * z.mean(axis=1)
        exponentials = np.exp(z, out=z)
        sums = exponentials.sum(axis=1)
        self.remember(exponentials, sums, each, true, kept, np.shape(prediction))
        return mean(np.log(sums) - correct) if len(z) else 0.0

    def backward(self) -> np.ndarray:
        exponentials, sums, each, true, kept, shape = self.recall()
        n, classes = max(len(each), 1), exponentials.shape[1]
        dz = exponentials / (n * sums)[:, None]  # p / N
        dz[each, true] -= (1 - self.label_smoothing) / n
        if self.label_smoothing:
            dz -= self.label_smoothing / (n * classes)
        if self.ignore is not None:
            some, dz = dz, np.zeros((len(kept), classes), dz.dtype)
            dz[kept] = some
        return dz.reshape(shape)  # (N, K) -> (..., K)


class BinaryCrossEntropy(Loss):
    """L = -t log p - (1 - t) log(1 - p), with p = sigmoid(z) of the logit z.

    In terms of z it is max(z, 0) - z t + log(1 + e^-|z|), where nothing overflows, and its
    slope is dz = (p - t) / n, for n elements.

    Shapes: logits and targets alike, or logits (N, 1) and targets (N,). Targets are 0 or 1,
    or a probability between.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), section 6.2.2.2.
    """

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        z, t = same_shape(prediction, target)
        if not (t.min() >= 0 and t.max() <= 1):
            raise ValueError(
                f"targets must lie between 0 and 1, got values from {t.min():g} to {t.max():g}"
            )
        self.remember(z, t)
        return mean(np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z))))

    def backward(self) -> np.ndarray:
        z, t = self.recall()
        dz = sigmoid(z)
        dz -= t
        dz /= dz.size
        return dz


class MeanSquaredError(Loss):
    """L = mean of (y - t)^2 over all elements; its slope is dy = 2 (y - t) / n.

    Shapes: predictions and targets alike, or predictions (N, 1) and targets (N,).
    Source: Gauss, Theory of the motion of the heavenly bodies (1809), book 2, section 3.
    """

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        y, t = same_shape(prediction, target)
        difference = y - t
        self.remember(difference)
        return mean(difference * difference)

    def backward(self) -> np.ndarray:
        (difference,) = self.recall()
        return difference * (2 / difference.size)


class MulticlassHinge(Loss):
    """L = sum over the wrong classes k of max(0, z_k - z_t + margin): the loss of an SVM.

    The true class t should win by the margin. Every class that comes closer pulls its own
    score down by 1 / N and pushes the true one up by as much.

    Shapes: scores (N, K) and integer targets (N,); or (..., K) and (...,).
    Source: Weston, Watkins, Support vector machines for multi-class pattern recognition (1999).
    """

    def __init__(self, margin: float = 1.0):
        self.margin = margin

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        z, true = class_targets(prediction, target)  # (N, K), (N,)
        each = np.arange(len(z))
        excess = z - z[each, true][:, None]
        excess += self.margin
        excess[each, true] = 0
        np.maximum(excess, 0, out=excess)
        self.remember(excess, each, true, np.shape(prediction))
        return mean(excess.sum(axis=1))

    def backward(self) -> np.ndarray:
        excess, each, true, shape = self.recall()
        dz = np.greater(excess, 0, out=np.empty_like(excess))  # 1 for true, 0 for false
        dz[each, true] = -dz.sum(axis=1)
        dz /= len(dz)
        return dz.reshape(shape)  # (N, K) -> (..., K)


# --- what the losses share ---------------------------------------------------------------


def mean(losses: np.ndarray) -> float:
    """The mean, summed in float64: a float32 sum of many losses would lose digits."""
    return float(np.mean(losses, dtype=np.float64))


def class_targets(
    prediction: np.ndarray, target: np.ndarray, ignore: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as (N, K) and classes as (N,), from (..., K) and (...,).

    Raises ValueError where the targets are not integers from 0 to K - 1 (or `ignore`), one for
    each row of scores.
    """
    z, t = np.asarray(prediction), np.asarray(target)
    if z.ndim < 2 or t.shape != z.shape[:-1]:
        raise ValueError(
            f"scores (N, K) need targets (N,): got scores {z.shape} and targets {t.shape}"
        )
    if t.dtype.kind not in "iu":
        raise ValueError(f"targets must be integer class numbers, got an array of {t.dtype}")
    if z.size == 0:
        raise ValueError(f"the batch is empty: got scores of shape {z.shape}")
    classes = z.shape[-1]
    used = t if ignore is None else np.append(t[t != ignore], 0)
    low, high = used.min(), used.max()
    if low < 0 or high >= classes:
        raise ValueError(
            f"targets must be classes from 0 to {classes - 1}, got values from {low} to {high}"
        )
    return as_float(z).reshape(-1, classes), t.reshape(-1)


def same_shape(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of one shape and of the prediction's dtype; targets (N,) fit (N, 1).

    Raises ValueError for other shapes, which NumPy would broadcast to (N, N) silently.
    """
    y, t = np.asarray(prediction), np.asarray(target)
    if t.ndim == 1 and y.shape == (len(t), 1):
        t = t[:, None]  # (N,) -> (N, 1)
    if y.shape != t.shape:
        raise ValueError(
            f"targets must have the shape of the predictions, got {t.shape} for {y.shape}"
        )
    if y.size == 0:
        raise ValueError(f"the batch is empty: got predictions of shape {y.shape}")
    y = as_float(y)
    return y, t.astype(y.dtype, copy=False)
