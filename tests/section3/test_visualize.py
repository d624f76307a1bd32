"""Looking into networks: every picture against a case in which it is known what must be seen."""

from __future__ import annotations

import numpy as np
import pytest

from section1.activations import ReLU, Tanh
from section1.functions import softmax
from section1.linear import Linear
from section1.network import Sequential
from section2.dropout import Dropout
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.flatten import Flatten
from section3.models import mnist_cnn
from section3.pooling import MaxPool2D
from section3.visualize import (
    best_patches,
    filters,
    layer_output,
    occlusion,
    saliency,
    tiles,
)
from tests.helpers import numerical_gradient


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- filters --------------------------------------------------------------------------------


def test_filters_span_minus_one_to_one_and_keep_zero() -> None:
    weight = rng().standard_normal((3, 2, 4, 5))
    weight[..., 1] = 0  # a filter of nothing stays one
    images = filters(weight)
    assert images.shape == (5, 4, 3, 2)
    np.testing.assert_allclose(np.abs(images).max(axis=(1, 2, 3)), [1, 0, 1, 1, 1])
    np.testing.assert_allclose(images[0, 2], weight[:, :, 2, 0] / np.abs(weight[..., 0]).max())


def test_tiles_lie_in_rows_with_gaps_between() -> None:
    images = np.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    whole = tiles(images)
    assert whole.shape == (5, 8)
    np.testing.assert_array_equal(whole[3:, 6:], images[1, 2])
    np.testing.assert_array_equal(whole[:2, 3:5], images[0, 1])
    assert np.isnan(whole[2]).all() and np.isnan(whole[:, [2, 5]]).all()
    assert tiles(images, gap=0).shape == (4, 6)


# --- feature maps and patches ---------------------------------------------------------------


def test_layer_output_is_what_the_next_layer_gets() -> None:
    model = mnist_cnn((2, 3), 4, shape=(8, 8, 1), batchnorm=True, dropout=0.5, rng=rng())
    x = rng().standard_normal((5, 8, 8, 1)).astype(np.float32)
    before = [buffer.copy() for buffer in model.buffers()]
    outputs = [layer_output(model, x, k, threads=1) for k in range(len(model))]
    for k in range(1, len(model)):
        model[k].eval()
        np.testing.assert_array_equal(model[k](outputs[k - 1]), outputs[k])
        model[k].train()
    for buffer, expected in zip(model.buffers(), before):
        np.testing.assert_array_equal(buffer, expected)
    for wrong in (-1, len(model)):
        with pytest.raises(ValueError, match="no layer"):
            layer_output(model, x, wrong)


def edge_finder() -> Sequential:
    """A filter that answers to a bright pixel, and a filter that answers to a dark one."""
    conv = Conv2D(1, 2, 3, padding=1, rng=rng(), dtype=np.float64)
    conv.weight.value[...] = 0
    conv.weight.value[1, 1, 0] = 1, -1
    return Sequential(conv, ReLU(), MaxPool2D(2))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_patches_lie_where_the_activation_is(layer: int) -> None:
    """Each image has one spot, at a place of its own; the brightest are found, in order."""
    x = np.zeros((6, 8, 8, 1))
    spots = [(0, 0), (3, 4), (7, 7), (2, 6), (5, 1), (6, 6)]
    for number, spot in enumerate(spots):
        x[number][spot] = number + 1 if number % 2 else -number - 1
    found = best_patches(edge_finder(), x, layer, 3, outside=9, threads=1)
    np.testing.assert_array_equal(found.images, [[5, 3, 1], [4, 2, 0]])
    np.testing.assert_array_equal(found.answers, [[6, 4, 2], [5, 3, 1]])
    size = (3, 3, 4)[layer]
    assert found.crops.shape == (2, 3, size, size, 1)
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=9)
    for f, k in np.ndindex(2, 3):
        image, (top, left, bottom, right) = found.images[f, k], found.boxes[f, k]
        row, column = spots[image]
        assert top <= row < bottom and left <= column < right
        expected = padded[image, top + 4 : bottom + 4, left + 4 : right + 4]
        np.testing.assert_array_equal(found.crops[f, k], expected)


@pytest.mark.parametrize("outside", [0.5, -1.0])
def test_patches_of_integers_show_what_is_outside(outside: float) -> None:
    x = np.ones((1, 4, 4, 1), np.uint8)
    ours, floats = (
        best_patches(edge_finder(), images, 0, 1, outside=outside, threads=1).crops
        for images in (x, x.astype(float))
    )
    assert outside in floats
    np.testing.assert_array_equal(ours, floats)


def test_patches_that_cannot_be_are_refused() -> None:
    model = Sequential(*edge_finder().layers, Flatten())
    with pytest.raises(ValueError, match="no places"):
        best_patches(model, np.zeros((9, 8, 8, 1)), 3)
    with pytest.raises(ValueError, match="more than 2 images"):
        best_patches(model, np.zeros((2, 8, 8, 1)), 0, 3)


# --- saliency and occlusion -----------------------------------------------------------------


def classifier() -> Sequential:
    """With everything that behaves differently in training."""
    model = Sequential(
        Conv2D(2, 3, 3, padding=1, rng=rng(), dtype=np.float64),
        BatchNorm2D(3, dtype=np.float64), Tanh(), MaxPool2D(2), Flatten(),
        Dropout(0.5, rng=rng()), Linear(27, 4, rng=rng(), dtype=np.float64),
    )  # fmt: skip
    for _ in range(3):
        model(rng().normal(1, 2, (8, 6, 6, 2)))
    return model


def test_saliency_is_the_slope_of_the_score() -> None:
    model, x, classes = classifier(), rng().standard_normal((3, 6, 6, 2)), np.array([2, 0, 2])
    before = [buffer.copy() for buffer in model.buffers()]
    found = saliency(model, x, classes)
    for buffer, expected in zip(model.buffers(), before):
        np.testing.assert_array_equal(buffer, expected)
    model.eval()
    slope = numerical_gradient(lambda: float(model(x)[np.arange(3), classes].sum()), x)
    np.testing.assert_allclose(found, np.abs(slope).max(axis=3), atol=1e-8)


def test_occlusion_finds_the_pixel_that_matters() -> None:
    """A class that hangs on the pixel (2, 4) alone loses where, and only where, it is covered."""
    linear = Linear(36, 2, rng=rng(), dtype=np.float64)
    linear.weight.value[...] = 0
    linear.weight.value[2 * 6 + 4, 1] = 3
    x = np.ones((2, 6, 6, 1))
    drops = occlusion(Sequential(Flatten(), linear), x, np.array([1, 0]), patch=2, threads=1)
    expected = np.zeros((5, 5))
    expected[1:3, 3:5] = np.log(softmax(np.array([0.0, 3.0]))[1] / 0.5)
    np.testing.assert_allclose(drops[0], expected, atol=1e-12)
    lost = np.log(softmax(np.array([0.0, 3.0]))[0] / 0.5)
    np.testing.assert_allclose(drops[1], np.where(expected > 0, lost, 0), atol=1e-12)


def test_a_patch_on_images_of_integers_is_not_cut_to_one() -> None:
    model, x = classifier(), rng().integers(0, 9, (2, 6, 6, 2), dtype=np.uint8)
    ours, floats = (
        occlusion(model, images, np.array([3, 1]), patch=3, value=0.5, threads=1)
        for images in (x, x.astype(float))
    )
    np.testing.assert_allclose(ours, floats, atol=1e-5)


def test_occlusion_by_hand() -> None:
    model, x = classifier(), rng().standard_normal((2, 6, 6, 2))
    classes = np.array([3, 1])
    drops = occlusion(model, x, classes, patch=3, stride=2, value=0.5, threads=2)
    assert drops.shape == (2, 2, 2)
    covered = x.copy()
    covered[:, 2:5, 0:3] = 0.5
    model.eval()
    whole, less = (np.log(softmax(model(a)))[[0, 1], classes] for a in (x, covered))
    np.testing.assert_allclose(drops[:, 1, 0], whole - less, atol=1e-12)
    with pytest.raises(ValueError, match="does not fit"):
        occlusion(model, x, classes, patch=7)
