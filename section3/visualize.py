"""Looking into a network: its filters, what they answer to, and what its answer hangs on.

    filters         kernels as small images; only those of the first layer look at pixels
    layer_output    the feature maps of a layer: each filter's answer, place by place
    best_patches    the pieces of images to which a filter answers most
    saliency        how the score of a class changes with each pixel: a slope, in one pass back
    occlusion       how it changes when a patch is covered: no slope, and no pass back

All of them show the network in evaluation mode, and leave it as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from section1.functions import as_float, softmax
from section1.layer import Layer
from section1.network import Sequential
from section1.training import predict
from section3.im2col import output_size, pad
from section3.receptive_field import input_gradient, receptive_fields


def filters(weight: np.ndarray) -> np.ndarray:
    """Kernels (KH, KW, C, F) as (F, C, KH, KW), each filter divided by its largest |weight|.

    So every filter spans at most -1 to 1 and 0 stays 0, for a colour map with two ends.
    """
    kernels = weight.transpose(3, 2, 0, 1)
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    return kernels / np.where(largest > 0, largest, 1)


def tiles(images: np.ndarray, gap: int = 1) -> np.ndarray:
    """Images (rows, columns, H, W) as one, with `gap` pixels of NaN between each two."""
    rows, columns, h, w = images.shape
    wide = np.full((rows, columns, h + gap, w + gap), np.nan)
    wide[:, :, :h, :w] = images
    whole = wide.transpose(0, 2, 1, 3).reshape(rows * (h + gap), columns * (w + gap))
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap]


def layer_output(
    model: Sequential, x: np.ndarray, layer: int, *, threads: int | None = None
) -> np.ndarray:
    """What layer number `layer` of `model` (from 0) gives out for x (N, ...), in evaluation mode.

    Raises ValueError where there is no such layer.
    """
    if not 0 <= layer < len(model):
        raise ValueError(f"there is no layer {layer} in a network of {len(model)}")
    return predict(Sequential(*model.layers[: layer + 1]), x, threads=threads)


# --- what a filter answers to ---------------------------------------------------------------


class Patches(NamedTuple):
    """For F filters the n pieces of images to which each answers most, the best first."""

    crops: np.ndarray  # (F, n, RH, RW, C), with RH x RW the receptive field
    images: np.ndarray  # (F, n), numbers of images
    boxes: np.ndarray  # (F, n, 4), as by `Field.box`
    answers: np.ndarray  # (F, n), the filter's output there


def best_patches(
    model: Sequential,
    x: np.ndarray,
    layer: int,
    count: int = 9,
    *,
    outside: float = 0.0,
    threads: int | None = None,
) -> Patches:
    """For each filter of a layer the `count` images with the largest answer, and where it is.

    Args:
        x: images (N, H, W, C), of which there must be `count`.
        layer: its number from 0; its output must be a stack of images (N, OH, OW, F).
        outside: what crops show where a receptive field reaches beyond the image.

    Raises ValueError for a layer without places, and for too few images.
    Source: Zeiler, Fergus, Visualizing and understanding convolutional networks,
    arXiv:1311.2901, section 4.
    """
    fields = receptive_fields(model)
    if not 0 <= layer < len(fields):
        raise ValueError(f"layer {layer} has no places: only the first {len(fields)} layers have")
    if count > len(x):
        raise ValueError(f"{count} patches of different images need more than {len(x)} images")
    maps = layer_output(model, x, layer, threads=threads)  # (N, OH, OW, F)
    n, _, columns, f = maps.shape
    flat = maps.reshape(n, -1, f)
    place, best = flat.argmax(axis=1), flat.max(axis=1)  # (N, F)
    images = np.argsort(-best, axis=0, kind="stable")[:count].T  # (F, count)
    each = np.arange(f)[:, None]
    rows, cols = np.divmod(place[images, each], columns)
    boxes = np.stack(fields[layer].box(rows, cols), axis=-1)
    return Patches(_crops(x, images, boxes, outside), images, boxes, best[images, each])


def _crops(x: np.ndarray, images: np.ndarray, boxes: np.ndarray, outside: float) -> np.ndarray:
    _, h, w, _ = x.shape
    ends = boxes.max(axis=(0, 1))
    over = int(max(0, -boxes[..., :2].min(), ends[2] - h, ends[3] - w))  # pixels beyond an edge
    wide = pad(as_float(x[images.ravel()]), (over, over), outside)
    crops = [
        image[top + over : bottom + over, left + over : right + over]
        for image, (top, left, bottom, right) in zip(wide, boxes.reshape(-1, 4))
    ]
    return np.stack(crops).reshape(*images.shape, *crops[0].shape)


# --- what an answer hangs on ----------------------------------------------------------------


def saliency(model: Layer, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """|d score / d pixel| (N, H, W) for the score, before softmax, of one class an image.

    Of several channels of a pixel the largest counts.
    Shapes: x (N, H, W, C), classes (N,), and the model's output (N, K).
    Source: Simonyan, Vedaldi, Zisserman, Deep inside convolutional networks, arXiv:1312.6034.
    """

    def of_class(y: np.ndarray, rows: slice) -> np.ndarray:
        dy = np.zeros_like(y)
        dy[np.arange(len(y)), classes[rows]] = 1
        return dy

    return np.abs(input_gradient(model, x, of_class)).max(axis=3)


def occlusion(
    model: Layer,
    x: np.ndarray,
    classes: np.ndarray,
    *,
    patch: int = 7,
    stride: int = 1,
    value: float = 0.0,
    threads: int | None = None,
) -> np.ndarray:
    """How much log p of a class falls where a patch is covered: (N, OH, OW).

    Element (i, k) is for a square of `patch` x `patch` pixels, all `value`, whose first one is
    (i stride, k stride). It is a difference of logarithms, in nats, and not of p, which shows
    nothing as long as the model remains sure.

    Shapes: x (N, H, W, C), classes (N,), and the model's output (N, K).
    Raises ValueError for a patch that does not fit into the image.
    Source: Zeiler, Fergus, arXiv:1311.2901, section 4.2.
    """
    x = as_float(x)
    n, h, w, _ = x.shape
    oh, ow = output_size((h, w), (patch, patch), (stride, stride), (0, 0), (1, 1))

    def log_p(images: np.ndarray, k: int) -> np.ndarray:
        p = softmax(predict(model, images, threads=threads).astype(float))[:, k]
        return np.log(np.maximum(p, np.finfo(float).tiny))

    drops = np.empty((n, oh, ow))
    for image, k, drop in zip(x, classes, drops):
        covered = np.repeat(image[None], oh * ow + 1, axis=0)  # the last one stays as it is
        for number, (i, j) in enumerate(np.ndindex(oh, ow)):
            top, left = i * stride, j * stride
            covered[number, top : top + patch, left : left + patch] = value
        *others, whole = log_p(covered, int(k))
        drop[...] = whole - np.reshape(others, (oh, ow))
    return drops
