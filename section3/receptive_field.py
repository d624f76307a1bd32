"""Receptive fields: how much of the image a unit can see, and how much of it it does see.

Theory, layer by layer from the image on. A unit's field is a box of `size` pixels; that of
its neighbour lies `jump` pixels further, and that of the first unit begins at pixel `start`,
which is negative where it begins in the padding. For kernel k, stride s, dilation d, padding p:

    size  <- size + (k - 1) d jump      start <- start - p jump      jump <- jump s

That is what a unit *can* see. What it *does* see is told by the slope of its value along every
pixel, and that is steepest in the middle: a pixel there reaches the unit on many ways through
the layers, one in the corner of the field on a single one.

Sources: Araujo, Norris, Sim, Computing receptive fields of convolutional neural networks,
Distill (2019); Luo et al., Understanding the effective receptive field in deep convolutional
neural networks, arXiv:1701.04128. Derivation: report.tex, eq:receptive-field,
eq:effective-field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np

from section1.activations import Activation, Identity, SelfGate
from section1.functions import as_float
from section1.layer import Layer
from section1.network import Sequential
from section1.parallel import one_blas_thread
from section1.training import micro_batches, rows_at_once
from section2.batchnorm import BatchNorm1D
from section2.dropout import Dropout
from section3.conv import Conv2D
from section3.flatten import Flatten
from section3.fused import ConvMaxPool2D
from section3.im2col import Pair, pair
from section3.pooling import GlobalAvgPool2D, Pool2D
from section3.residual import Residual

Place = TypeVar("Place", int, np.ndarray)

# --- what a unit can see --------------------------------------------------------------------


class Window(NamedTuple):
    """A layer as far as receptive fields go, for networks that are only written down."""

    name: str
    kernel: int | Pair
    stride: int | Pair = 1
    dilation: int | Pair = 1
    padding: int | Pair = 0


class Field(NamedTuple):
    """What the units of a layer see, in pixels of the image: (rows, columns) each."""

    name: str
    size: Pair = (1, 1)
    jump: Pair = (1, 1)
    start: Pair = (0, 0)

    def box(self, row: Place, column: Place) -> tuple[Place, Place, Place, Place]:
        """What the unit at (row, column) sees: the first row and column, and those after the last.

        A box may reach beyond the image, where padding is all there is to see. Arrays of rows
        and columns give arrays.
        """
        top, left = (s + j * k for s, j, k in zip(self.start, self.jump, (row, column)))
        return top, left, top + self.size[0], left + self.size[1]


def receptive_fields(network: Sequential | Iterable[Window]) -> list[Field]:
    """The field of each layer of `network`, as far as its units have a place in the image.

    So it ends before the first `Flatten` or `GlobalAvgPool2D`, after which a unit sees
    everything; field k is that of layer k. In a residual block the field is the smallest box
    around those of both ways.

    Raises ValueError for a layer of which it does not know what it looks at.
    """
    fields: list[Field] = []
    field = Field("image")
    for layer in network.layers if isinstance(network, Sequential) else network:
        if isinstance(layer, (Flatten, GlobalAvgPool2D)):
            break
        field = _after(layer, field)
        fields.append(field)
    return fields


def _after(layer: Layer | Window, field: Field) -> Field:
    """The field after a layer, from the one before it."""
    if isinstance(layer, Window):
        k, s, d = (pair(number, "a window's setting") for number in layer[1:4])
        p = pair(layer.padding, "padding", least=0)
        size, jump, start = field.size, field.jump, field.start
        return Field(
            layer.name,
            (size[0] + (k[0] - 1) * d[0] * jump[0], size[1] + (k[1] - 1) * d[1] * jump[1]),
            (jump[0] * s[0], jump[1] * s[1]),
            (start[0] - p[0] * jump[0], start[1] - p[1] * jump[1]),
        )
    if isinstance(layer, Conv2D):
        window = Window(str(layer), layer.kernel, layer.stride, layer.dilation, layer.padding)
        field = _after(window, field)
        if isinstance(layer, ConvMaxPool2D):
            field = _after(Window(f"{layer} + pool", layer.pool, layer.pool), field)
        return field
    if isinstance(layer, Pool2D):
        return _after(Window(str(layer), layer.kernel, layer.stride, 1, layer.padding), field)
    if isinstance(layer, Sequential):
        for inner in layer.layers:
            field = _after(inner, field)
        return field._replace(name=type(layer).__name__)
    if isinstance(layer, Residual):
        return _around(_after(layer.body, field), _after(layer.shortcut, field))
    if isinstance(layer, (Activation, SelfGate, Identity, BatchNorm1D, Dropout)):
        return field._replace(name=type(layer).__name__)
    raise ValueError(f"{type(layer).__name__} is no layer whose receptive field is known")


def _around(a: Field, b: Field) -> Field:
    """The smallest field that holds two of the same jump."""
    if a.jump != b.jump:
        raise ValueError(f"the two ways of a residual block jump {a.jump} and {b.jump} pixels")
    start = min(a.start[0], b.start[0]), min(a.start[1], b.start[1])
    ends = [
        max(s + n for s, n in zip(starts, sizes))
        for starts, sizes in zip(zip(a.start, b.start), zip(a.size, b.size))
    ]
    return Field("Residual", (ends[0] - start[0], ends[1] - start[1]), a.jump, start)


# --- what a unit does see -------------------------------------------------------------------


class Affine(Layer):
    """y = scale x + shift, channel by channel: what batch norm does in evaluation mode.

    Shapes: x (..., C), scale and shift (C,), y (..., C).
    """

    def __init__(self, norm: BatchNorm1D):
        self.scale = norm.gamma.value / np.sqrt(norm.running_var + norm.eps)
        self.shift = norm.beta.value - norm.running_mean * self.scale

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x * self.scale + self.shift

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.scale


def evaluation_twin(model: Layer) -> Layer:
    """A copy that computes what `model` does in evaluation mode, and has a backward pass.

    A layer remembers nothing in evaluation mode. In this copy, which is in training mode, batch
    norm's running averages have become constants and dropout is gone, so nothing that it
    does depends on other rows or changes `model`. It shares the values of its parameters.
    """
    twin = _without_noise(model.replica())
    twin.train()
    for module in twin.modules():
        module.input_gradient = True
    return twin


def _without_noise(layer: Layer) -> Layer:
    if isinstance(layer, BatchNorm1D):
        return Affine(layer)
    if isinstance(layer, Dropout):
        return Identity()
    for name, value in list(vars(layer).items()):
        if isinstance(value, Layer):
            setattr(layer, name, _without_noise(value))
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Layer) for item in value):
            items = [_without_noise(v) if isinstance(v, Layer) else v for v in value]
            setattr(layer, name, type(value)(items))
    return layer


def input_gradient(
    model: Layer, x: np.ndarray, direction: Callable[[np.ndarray, slice], np.ndarray]
) -> np.ndarray:
    """dx, of the shape of x (N, ...): the slope along x of sum(y dy), in evaluation mode.

    `direction(y, rows)` gives dy for the outputs y of those rows of x. `model` stays as it is.
    """
    x, twin = as_float(x), evaluation_twin(model)
    dx = np.empty_like(x)
    with one_blas_thread():
        for rows in micro_batches(len(x), rows_at_once(twin)):
            y = twin.forward(x[rows])
            dx[rows] = twin.backward(direction(y, rows))
    return dx


def effective_receptive_field(
    part: Layer, x: np.ndarray, *, rng: np.random.Generator, unit: Pair | None = None
) -> np.ndarray:
    """What share each pixel has in moving one place of the output: (H, W), with sum 1,
    or 0 everywhere where all units there are dead.

    It is the mean square of the slope dx, over the channels of x and its images: were every
    pixel to wobble a little, each for itself, it would be the pixel's share in the variance of
    the output. All channels of that place count, each with a random sign, so that they do not
    cancel in the same way for every image.

    Args:
        part: layers from the image on whose output still is a stack of images (N, OH, OW, F).
        x: images (N, H, W, C).
        rng: the source of the signs.
        unit: the place, (row, column) of the output; the one in the middle unless given.
    """

    def one_place(y: np.ndarray, rows: slice) -> np.ndarray:
        del rows
        row, column = unit or (y.shape[1] // 2, y.shape[2] // 2)
        dy = np.zeros_like(y)
        dy[:, row, column] = rng.choice([-1, 1], (len(y), y.shape[3]))
        return dy

    dx = input_gradient(part, x, one_place)
    moved = np.einsum("nhwc,nhwc->hw", dx, dx, dtype=float)
    return moved / (moved.sum() or 1)


def side(mass: np.ndarray, share: float = 0.95) -> float:
    """The side of a square with as many pixels as it takes, at least, for `share` of `mass`."""
    largest_first = np.sort(mass, axis=None)[::-1]
    reached = np.concatenate([[0], np.cumsum(largest_first)])
    enough = reached >= share * reached[-1] * (1 - 1e-9)
    return float(np.sqrt(np.argmax(enough)))
