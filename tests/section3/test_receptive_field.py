"""Receptive fields: the recurrence against the support of a gradient, and what it is made of."""

from __future__ import annotations

import numpy as np
import pytest

from section1.activations import GELU, Identity, ReLU
from section1.layer import Layer
from section1.linear import Linear
from section1.network import Sequential
from section1.training import predict
from section2.dropout import Dropout
from section3.batchnorm import BatchNorm2D
from section3.conv import Conv2D
from section3.flatten import Flatten
from section3.fused import fused
from section3.models import lenet5, mnist_cnn, numpy_resnet
from section3.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from section3.receptive_field import (
    Field,
    Window,
    effective_receptive_field,
    evaluation_twin,
    input_gradient,
    receptive_fields,
    side,
)
from section3.residual import Residual
from tests.helpers import numerical_gradient


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def conv(
    channels: int, filters: int, kernel: int | tuple[int, int] = 3, **options: object
) -> Conv2D:
    return Conv2D(channels, filters, kernel, rng=rng(), dtype=np.float64, **options)  # type: ignore[arg-type]


# Networks without batch norm; all weights are made positive, so nothing can cancel.
NETWORKS: dict[str, list[Layer]] = {
    "valid": [conv(2, 3), ReLU(), conv(3, 2)],
    "padding": [conv(2, 3, 5, padding=2), conv(3, 2, 3, padding=1)],
    "stride": [conv(2, 3, stride=2, padding=1), conv(3, 2, stride=3), conv(2, 2, 2)],
    "dilation": [conv(2, 3, dilation=2, padding=2), conv(3, 2, dilation=3), conv(2, 2)],
    "uneven": [
        conv(2, 3, (1, 4), stride=(1, 2), padding=(0, 1)),
        conv(3, 2, (3, 2), dilation=(2, 1), stride=(2, 1), padding=(0, 1)),
    ],
    "mean pools": [conv(2, 3), AvgPool2D(2), conv(3, 2), AvgPool2D(3, stride=2, padding=1)],
    "max-pools": [conv(2, 3, padding=1), MaxPool2D(2), conv(3, 2), MaxPool2D(3, stride=2)],
    "residual": [
        conv(2, 2, 4, stride=2),
        Residual(Sequential(conv(2, 2, padding=1), ReLU(), conv(2, 2, padding=1))),
        Residual(conv(2, 3, stride=2, padding=1), conv(2, 3, 1, stride=2)),
    ],
}  # fmt: skip


def support(model: Layer, x: np.ndarray, unit: tuple[int, int]) -> tuple[int, int, int, int]:
    """The smallest box around the pixels along which a place of the output has a slope."""
    mass = effective_receptive_field(model, x, rng=rng(), unit=unit)
    rows, columns = (np.flatnonzero(mass.any(axis=axis)) for axis in (1, 0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_theory_is_the_support_of_the_gradient(name: str) -> None:
    """At every layer, in the middle and in a corner, where a part of the field is padding."""
    model = Sequential(*NETWORKS[name])
    for parameter in model.parameters():
        parameter.value[...] = np.abs(parameter.value) + 0.01
    h, w = 28, 32  # the strides before a padding leave no pixel over
    x = rng().uniform(0.1, 1, (60 if name == "max-pools" else 2, h, w, 2))
    fields = receptive_fields(model)
    assert len(fields) == len(model)
    for k, field in enumerate(fields):
        part = Sequential(*model.layers[: k + 1])
        _, oh, ow, _ = part(x[:1]).shape
        for row, column in ((oh // 2, ow // 2), (0, 0), (oh - 1, ow - 1)):
            top, left, bottom, right = field.box(row, column)
            inside = max(top, 0), max(left, 0), min(bottom, h), min(right, w)
            assert support(part, x, (row, column)) == inside, f"layer {k}, unit {row}, {column}"


def test_fields_of_networks_that_are_written_down() -> None:
    """LeNet-5 by hand; a list of windows and the network itself say the same."""
    windows = [
        Window("c1", 5, padding=2), Window("s2", 2, 2), Window("c3", 5), Window("s4", 2, 2)
    ]  # fmt: skip
    fields = receptive_fields(windows)
    assert [f.name for f in fields] == ["c1", "s2", "c3", "s4"]
    assert [f.size[0] for f in fields] == [5, 6, 14, 16]
    assert [f.jump[0] for f in fields] == [1, 2, 2, 4]
    assert [f.start[0] for f in fields] == [-2, -2, -2, -2]
    model = lenet5(rng=rng())
    convolutions = [f for f, layer in zip(receptive_fields(model), model.layers)
                    if isinstance(layer, (Conv2D, AvgPool2D))]  # fmt: skip
    assert [f[1:] for f in convolutions] == [f[1:] for f in fields]


def test_dilation_grows_the_field_exponentially() -> None:
    fields = receptive_fields([Window("", 3, dilation=2**k) for k in range(5)])
    assert [f.size for f in fields] == [(2 ** (k + 2) - 1,) * 2 for k in range(5)]


def test_fields_end_where_places_do() -> None:
    assert len(receptive_fields(mnist_cnn(rng=rng()))) == 6
    resnet = receptive_fields(numpy_resnet(rng=rng()))
    assert [f.size[0] for f in resnet] == [3, 3, 3, 7, 13, 25]
    assert resnet[-1].jump == (4, 4)
    per_pixel = Sequential(BatchNorm2D(1), GELU(), Dropout(rng=rng()), Identity())
    assert {f[1:] for f in receptive_fields(per_pixel)} == {Field("image")[1:]}


def test_a_fused_network_has_the_same_fields() -> None:
    model = mnist_cnn(rng=rng())
    plain, quick = receptive_fields(model), receptive_fields(fused(model))
    assert [f[1:] for f in quick] == [f[1:] for f in plain if "Conv2D" not in f.name]


def test_what_cannot_be_known_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear"):
        receptive_fields(Sequential(Linear(2, 2, rng=rng())))
    with pytest.raises(ValueError, match="jump"):
        receptive_fields(Sequential(Residual(conv(1, 1, stride=2))))


# --- gradients in evaluation mode -----------------------------------------------------------


def noisy_model() -> Sequential:
    """With batch norm that has seen something, dropout, and a residual block."""
    model = Sequential(
        conv(2, 3, padding=1), BatchNorm2D(3, dtype=np.float64), GELU(), Dropout(0.5, rng=rng()),
        Residual(Sequential(conv(3, 3, padding=1), BatchNorm2D(3, dtype=np.float64))),
        GlobalAvgPool2D(), Linear(3, 4, rng=rng(), dtype=np.float64),
    )  # fmt: skip
    for _ in range(3):
        model(rng().normal(1, 2, (8, 5, 5, 2)))
    return model


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_evaluation_mode(training: bool) -> None:
    """They equal centred differences there, and leave the model as it was."""
    model, x = noisy_model(), rng().standard_normal((3, 5, 5, 2))
    dy = rng().standard_normal((3, 4))
    before = [array.copy() for array in (*model.buffers(), *(p.grad for p in model.parameters()))]
    (model.train if training else model.eval)()
    dx = input_gradient(model, x, lambda y, rows: dy[rows])
    after = (*model.buffers(), *(p.grad for p in model.parameters()))
    for array, expected in zip(after, before):
        np.testing.assert_array_equal(array, expected)
    assert all(module.training is training for module in model.modules())

    model.eval()
    np.testing.assert_allclose(evaluation_twin(model)(x), model(x), rtol=1e-12)
    slope = numerical_gradient(lambda: float((model(x) * dy).sum()), x)
    np.testing.assert_allclose(dx, slope, atol=1e-8)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_twin_predicts_what_the_model_does(threads: int) -> None:
    model, x = noisy_model(), rng().standard_normal((100, 5, 5, 2))  # several micro-batches
    expected = predict(model, x, threads=1)
    found = predict(evaluation_twin(model), x, threads=threads)
    np.testing.assert_array_equal(found, expected)


def test_integer_images_have_the_gradient_of_floats() -> None:
    model, x = noisy_model(), rng().integers(0, 256, (3, 5, 5, 2), dtype=np.uint8)
    dx, expected = (
        input_gradient(model, a, lambda y, rows: np.ones_like(y)) for a in (x, x.astype(np.float32))
    )
    np.testing.assert_array_equal(dx, expected)


def test_a_single_image_and_many_give_the_same_gradient() -> None:
    model, x = noisy_model(), rng().standard_normal((40, 5, 5, 2))  # more than a micro-batch
    dx = input_gradient(model, x, lambda y, rows: np.ones_like(y))
    alone = input_gradient(model, x[35:36], lambda y, rows: np.ones_like(y))
    np.testing.assert_allclose(dx[35:36], alone, rtol=1e-10)


def test_flatten_has_a_gradient_too() -> None:
    model = Sequential(Flatten(), Linear(8, 1, rng=rng(), dtype=np.float64))
    dx = input_gradient(model, np.ones((2, 2, 2, 2)), lambda y, rows: np.ones_like(y))
    expected = np.broadcast_to(model.parameters()[0].value.reshape(2, 2, 2), (2, 2, 2, 2))
    np.testing.assert_array_equal(dx, expected)


# --- effective receptive fields -------------------------------------------------------------


def test_a_single_filter_is_its_own_effective_field() -> None:
    model = Sequential(conv(1, 1, 3, padding=1))
    mass = effective_receptive_field(model, np.ones((2, 7, 7, 1)), rng=rng())
    weight = model.parameters()[0].value[:, :, 0, 0] ** 2
    np.testing.assert_allclose(mass[2:5, 2:5], weight / weight.sum())
    assert mass.sum() == pytest.approx(1) and np.count_nonzero(mass) == 9


def test_equal_weights_give_a_bell() -> None:
    """The number of ways from a pixel to the unit is a trinomial coefficient, squared here."""
    layers = [conv(1, 1, 3) for _ in range(6)]
    for layer in layers:
        layer.weight.value[...] = 1
    mass = effective_receptive_field(Sequential(*layers), np.ones((1, 13, 13, 1)), rng=rng())
    ways = np.ones(1)
    for _ in layers:
        ways = np.convolve(ways, np.ones(3))
    expected = np.outer(ways, ways) ** 2
    np.testing.assert_allclose(mass, expected / expected.sum())


def test_random_weights_see_the_root_of_the_depth() -> None:
    """Without bends each layer adds (k^2 - 1) / 12 to the variance of a way, on average."""
    layers = [conv(8 if k else 1, 8) for k in range(5)]
    mass = effective_receptive_field(Sequential(*layers), np.ones((64, 11, 11, 1)), rng=rng())
    variance = mass.sum(axis=0) @ (np.arange(11) - 5) ** 2
    assert variance == pytest.approx(5 * 8 / 12, rel=0.25)


def test_dead_units_use_nothing() -> None:
    model = Sequential(conv(1, 2), ReLU())
    model.parameters()[1].value[...] = -100
    mass = effective_receptive_field(model, np.ones((1, 5, 5, 1)), rng=rng())
    assert not mass.any() and side(mass) == 0


def test_side_counts_the_pixels_that_carry_most() -> None:
    mass = np.zeros((10, 10))
    mass[3:6, 2:6] = 1
    assert side(mass, 1.0) == pytest.approx(np.sqrt(12))
    assert side(mass, 0.5) == pytest.approx(np.sqrt(6))
    mass[0, 0] = 20
    assert side(mass, 0.6) == 1
