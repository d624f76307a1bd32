"""How much memory a step takes, and batches that are cut so that they fit into it."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from section1.activations import Identity
from section1.losses import SoftmaxCrossEntropy
from section1.memory import GIGABYTE, UNKNOWN, bytes_per_row, usable_memory
from section1.network import Sequential
from section1.parallel import Workers
from section1.sgd import SGD
from section1.training import LANES, TrainingStep, fit
from section3.conv import Conv2D
from section3.fused import fused
from section3.models import mnist_cnn, numpy_resnet
from section3.pooling import GlobalAvgPool2D, MaxPool2D
from tests.helpers import gradients

SHAPE = (12, 10, 2)
MACHINE = 16 * GIGABYTE


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(rows: int, shape: tuple[int, ...] = SHAPE, dtype: type = np.float64) -> np.ndarray:
    return rng(1).standard_normal((rows, *shape)).astype(dtype)


def cnn(dtype: type = np.float64, **options: object) -> Sequential:
    return mnist_cnn((3, 4), 6, shape=SHAPE, rng=rng(), dtype=dtype, **options)  # type: ignore[arg-type]


def batchnorm_cnn(dtype: type = np.float64) -> Sequential:
    return cnn(dtype, batchnorm=True)


def dropout_cnn(dtype: type = np.float64) -> Sequential:
    return cnn(dtype, dropout=0.5)


def fused_cnn(dtype: type = np.float64) -> Sequential:
    return fused(cnn(dtype))


def resnet(dtype: type = np.float64) -> Sequential:
    return numpy_resnet((3, 4), channels=2, rng=rng(), dtype=dtype)


def wide_window(dtype: type = np.float64) -> Sequential:
    """A first layer that keeps more columns than it makes of dy."""
    conv = Conv2D(2, 1, 7, padding=3, rng=rng(), dtype=dtype)
    return fused(Sequential(conv, MaxPool2D(2), GlobalAvgPool2D()))


Make = Callable[..., Sequential]
models = pytest.mark.parametrize("make", [cnn, batchnorm_cnn, dropout_cnn, fused_cnn, resnet])


# --- what the machine has -----------------------------------------------------------------


def give_machine(monkeypatch: pytest.MonkeyPatch, container: str | None) -> None:
    """A machine of 16 GB, in a container whose limit is in that file, if it is there."""

    def read(path: Path) -> str:
        if container is None:
            raise FileNotFoundError(path)
        return container

    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": MACHINE // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)
    monkeypatch.setattr(Path, "read_text", read)


@pytest.mark.parametrize(
    ("container", "usable"),
    [
        (None, MACHINE // 2),
        ("max\n", MACHINE // 2),
        (f"{2 * GIGABYTE}\n", GIGABYTE),
        (f"{2**62}\n", MACHINE // 2),
    ],
)
def test_half_of_what_there_is(
    monkeypatch: pytest.MonkeyPatch, container: str | None, usable: int
) -> None:
    give_machine(monkeypatch, container)
    assert usable_memory() == usable


def test_a_machine_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    give_machine(monkeypatch, None)
    monkeypatch.delattr(os, "sysconf")
    assert usable_memory() == UNKNOWN


def test_this_machine_has_some() -> None:
    assert usable_memory() > 2**24


# --- what a row takes ---------------------------------------------------------------------


@pytest.mark.parametrize("prepare", [lambda model: model, fused], ids=["plain", "fused"])
def test_a_row_takes_memory_in_proportion_to_its_image(
    prepare: Callable[[Sequential], Sequential],
) -> None:
    conv = Conv2D(2, 4, 3, padding=1, rng=rng())
    model = prepare(Sequential(conv, MaxPool2D(2), GlobalAvgPool2D()))
    sizes = [
        bytes_per_row(model, images(2, (height, 16, 2), np.float32)) for height in (16, 32, 64, 128)
    ]
    steps = np.diff(sizes) / [16, 32, 64]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert sizes[-1] > 7 * sizes[0]
    assert sizes[0] >= 16 * 16 * (2 + 2 + 4 // 4) * 4  # at the least x, dx and y


@models
def test_measuring_leaves_the_model_alone(make: Make) -> None:
    model, x = make(), images(4)
    model(x)
    model.backward(np.ones((4, 10)))
    for mode in (model.train, model.eval):
        mode()
        before = pickle.dumps(model)
        assert bytes_per_row(model, x) > 0
        assert pickle.dumps(model) == before


@models
def test_the_dtype_counts(make: Make) -> None:
    single = bytes_per_row(make(np.float32), images(2, dtype=np.float32))
    assert 1.6 * single < bytes_per_row(make(), images(2)) < 2.1 * single


@pytest.mark.parametrize("make", [cnn, batchnorm_cnn, dropout_cnn, fused_cnn, resnet, wide_window])
def test_a_step_takes_no_more_than_foretold(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("section3.conv.COLUMNS", 1)  # an image at a time, as large ones are
    model, x = make(), images(24)
    with Workers(1) as workers:
        step = TrainingStep(
            model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0.0), workers, None, 24
        )
        step(x, np.zeros(24, int))
    replica = step.replicas[0].model
    arrays = [array for layer in replica.modules() for array in (layer._scratch or {}).values()]
    arrays += (replica._workspace or {}).values()
    assert sum(array.nbytes for array in arrays) <= 24 * step.bytes_per_row


# --- batches that do not fit --------------------------------------------------------------


class Spy(Identity):
    """It notes how many rows come by."""

    rows: list[int] = []

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.rows.append(len(x))
        return x


def gradients_of_a_step(
    model: Sequential, rows: int, memory: int | None = None, micro_batch: int | None = None
) -> list[np.ndarray]:
    """Those of a step on so many rows; `Spy.rows` then holds how these were cut."""
    with Workers(2) as workers:
        step = TrainingStep(
            Sequential(Spy(), *model.layers),
            SoftmaxCrossEntropy(),
            SGD(model.parameters(), 0.0),
            workers,
            micro_batch=micro_batch,
            memory=memory,
        )
        for _ in range(2):  # the second one starts from zero again
            Spy.rows.clear()  # the first one also measured what a row takes
            step(images(rows), np.arange(rows) % 10)
    assert sum(Spy.rows) == rows
    lanes = min(LANES, len(Spy.rows))
    assert max(Spy.rows) == 1 or lanes * max(Spy.rows) * step.bytes_per_row <= step.memory
    return gradients(model)


def assert_same(ours: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [cnn, fused_cnn])
@pytest.mark.parametrize(
    ("rows_that_fit", "least", "most"), [(10**6, 2, 2), (24, 10, 40), (3, 40, 40), (0, 40, 40)]
)
def test_a_batch_that_does_not_fit_is_cut(
    make: Make, rows_that_fit: int, least: int, most: int
) -> None:
    memory = rows_that_fit * bytes_per_row(make(), images(2))
    whole = gradients_of_a_step(make(), 40, micro_batch=40)
    assert Spy.rows == [40]
    assert_same(gradients_of_a_step(make(), 40, memory), whole)
    assert least <= len(Spy.rows) <= most


@pytest.mark.parametrize("make", [batchnorm_cnn, resnet])
def test_batch_norm_that_does_not_fit_is_refused(make: Make) -> None:
    memory = 20 * bytes_per_row(make(), images(2))
    gradients_of_a_step(make(), 20, memory)
    complaint = "a batch of 90 rows needs .* GB .* may use .* GB; batch norm .* at most [2-8]. rows"
    with pytest.raises(ValueError, match=complaint):
        gradients_of_a_step(make(), 90, memory)


@pytest.mark.parametrize("make", [cnn, batchnorm_cnn, fused_cnn, resnet])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_has_the_gradients_of_the_model(make: Make, micro_batch: int | None) -> None:
    model, loss, rows = make(), SoftmaxCrossEntropy(), 70
    loss(model(images(rows)), np.arange(rows) % 10)
    model.backward(loss.backward())
    assert_same(gradients_of_a_step(make(), rows, micro_batch=micro_batch), gradients(model))


# --- any number of threads ----------------------------------------------------------------


@models
@pytest.mark.parametrize("micro_batch", [None, 5])
def test_threads_do_not_change_a_bit(make: Make, micro_batch: int | None) -> None:
    def train(threads: int) -> list[np.ndarray]:
        model = make(np.float32)
        history = fit(
            model,
            SoftmaxCrossEntropy(),
            SGD(model.parameters(), 0.1),
            (images(130, dtype=np.float32), rng().integers(0, 10, 130)),
            epochs=1,
            batch_size=64,  # 13 micro-batches of at most 5, for 8 lanes; then 66 rows
            micro_batch=micro_batch,
            rng=rng(),
            threads=threads,
        )
        arrays = [*(parameter.value for parameter in model.parameters()), *model.buffers()]
        return [*arrays, np.array(history.step_loss)]

    assert math.ceil(64 / 5) > LANES
    one, *others = (train(threads) for threads in (1, 2, 3))
    for other in others:
        for ours, expected in zip(other, one, strict=True):
            np.testing.assert_array_equal(ours, expected)
