"""The stand-ins: the promised shapes, the same every time, and neither too easy nor too hard."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest

from utils.data import DataError, Dataset, load
from utils.data.digits import resize_matrix
from utils.data.shapes import COLOURED_SHAPES, COLOURS, FIELDS, SHAPES, coverage

IMAGE_SETS = {
    "mnist": ((28, 28, 1), 1437, 360, 10),
    "fashion_mnist": ((28, 28, 1), 5000, 1000, 10),
    "cifar10": ((32, 32, 3), 5000, 1000, 10),
    "cifar100": ((32, 32, 3), 5000, 1000, 100),
}


def embedded(name: str) -> Dataset:
    data = load(name, "embedded")
    assert isinstance(data, Dataset)
    return data


def linear_accuracy(data: Dataset) -> float:
    """Test accuracy of ridge regression onto one-hot labels, from pixels."""
    train = data.train_x.reshape(len(data.train_x), -1).astype(np.float64)
    test = data.test_x.reshape(len(data.test_x), -1)
    mean = train.mean(axis=0)
    centred = train - mean
    targets = np.eye(len(data.classes))[data.train_y]
    gram = centred.T @ centred + 10 * np.eye(train.shape[1])
    weights = np.linalg.solve(gram, centred.T @ targets)
    return float(np.mean(((test - mean) @ weights).argmax(axis=1) == data.test_y))


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_images(name: str) -> None:
    shape, train, test, classes = IMAGE_SETS[name]
    data = embedded(name)
    assert data.train_x.shape == (train, *shape)
    assert data.test_x.shape == (test, *shape)
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert x.min() >= 0
        assert x.max() <= 1
        assert x.std() > 0.1
        counts = np.bincount(y, minlength=classes)
        assert len(counts) == classes
        assert counts.min() > 0.8 * len(y) / classes
    assert len(data.classes) == len(set(data.classes)) == classes
    assert (data.name, data.provenance) == (name, "embedded stand-in")
    assert "embedded stand-in for" in data.description

    again = embedded(name)
    for field in ("train_x", "train_y", "test_x", "test_y"):
        np.testing.assert_array_equal(getattr(again, field), getattr(data, field))


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_no_test_image_is_a_training_image(name: str) -> None:
    data = embedded(name)
    images = [image.tobytes() for image in (*data.train_x, *data.test_x)]
    assert len(set(images)) == len(images)


def test_digits_are_the_last_of_the_file_and_learnable() -> None:
    from sklearn.datasets import load_digits

    data = embedded("mnist")
    np.testing.assert_array_equal(data.test_y, load_digits().target[-360:])
    assert data.train_x[:, :4].max() == data.train_x[..., -4:, :].max() == 0, "the border"
    assert 0.85 < linear_accuracy(data) < 0.99


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_shapes_need_more_than_a_linear_classifier(name: str) -> None:
    data = embedded(name)
    small = data.subset(2000, rng=np.random.default_rng(0))
    pooled = small.train_x[:, ::2, ::2].mean(axis=-1, keepdims=True)
    pooled_test = small.test_x[:, ::2, ::2].mean(axis=-1, keepdims=True)
    reduced = Dataset(
        name, pooled, small.train_y, pooled_test, small.test_y, data.classes, "generated", ""
    )
    assert linear_accuracy(reduced) < 0.3


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_shapes_are_brighter_than_their_background_as_often_as_darker(name: str) -> None:
    """A shape covers less than half of its image, so that the median is background."""
    light = embedded(name).train_x.mean(axis=3)
    skew = light.mean(axis=(1, 2)) - np.median(light, axis=(1, 2))
    assert 0.4 < np.mean(skew > 0) < 0.6


def test_shapes_can_be_told_apart_once_position_and_light_are_known() -> None:
    """Nearest centroid of upright, centred outlines: the ten formulas really differ."""
    axis = np.linspace(-1, 1, 32, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    masks = np.array([field(x, y) < 0 for field in FIELDS.values()])
    areas = masks.mean(axis=(1, 2))
    assert areas.min() > 0.1
    assert areas.max() < 0.75
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert np.mean(first != second) > 0.04


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_every_shape_stays_inside_the_image(index: int) -> None:
    masks = coverage(np.full(200, index), 32, np.random.default_rng(0))
    border = np.concatenate([masks[:, [0, -1]].ravel(), masks[:, :, [0, -1]].ravel()])
    assert masks.max() == 1
    assert masks.min() == 0
    assert border.mean() < 0.03
    area = masks.sum(axis=(1, 2))
    assert area.max() / area.min() > 2, "sizes vary"


def test_coloured_classes_show_their_colour() -> None:
    data = embedded("cifar100")
    colours = np.array(list(COLOURS.values()))
    discs = [i for i, name in enumerate(COLOURED_SHAPES) if name.endswith(" disc")]
    right = 0
    for label in discs:
        images = data.train_x[data.train_y == label]
        flat = images.reshape(len(images), -1, 3)
        paper = np.median(flat, axis=1, keepdims=True)
        contrast = np.abs(flat - paper).sum(axis=2)
        ink = np.array([np.median(f[c > 0.6 * c.max()], axis=0) for f, c in zip(flat, contrast)])
        nearest = ((ink[:, None] - colours) ** 2).sum(axis=2).argmin(axis=1)
        right += int(np.bincount(nearest).argmax() == label % len(COLOURS))
    assert right == len(discs)


def test_resize_matrix() -> None:
    resize = resize_matrix(20, 8)
    np.testing.assert_allclose(resize.sum(axis=1), 1)
    assert ((resize > 0).sum(axis=1) <= 2).all()
    ramp = resize @ np.arange(8.0)
    np.testing.assert_allclose(np.diff(ramp)[2:-2], 8 / 20, rtol=1e-12)
    np.testing.assert_allclose(resize_matrix(8, 8), np.eye(8))


def test_text() -> None:
    data = load("tinyshakespeare", "embedded")
    assert 300_000 < len(data.text) < 1_000_000
    assert "expression" in data.text
    assert data.text == load("tinyshakespeare", "embedded").text
    assert data.provenance == "embedded stand-in"
    assert f"Python 3.{sys.version_info[1]}" in data.description


@pytest.mark.parametrize(
    ("name", "module", "advice"),
    [("mnist", "sklearn.datasets", "pip install"), ("tinyshakespeare", "pydoc_data", "download")],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, advice: str
) -> None:
    real_import = builtins.__import__

    def without(wanted: str, *args: Any, **kwargs: Any) -> Any:
        if wanted.startswith(module):
            raise ImportError(wanted)
        return real_import(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=advice):
        load(name, "embedded")
