"""The NumPy GAN: its gradients are PyTorch's, through both networks; its loop goes on as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from section1.layer import Layer
from section1.parallel import Workers
from section1.sgd import SGD
from section1.training import predict
from section2.optimizers import Adam
from section3.conv_transpose import ConvTranspose2D
from section4.gans.mixtures import Mixture, ring
from section4.gans.numpy_gan import (
    AdversarialStep,
    History,
    conv_discriminator,
    conv_generator,
    fit,
    mlp_discriminator,
    mlp_generator,
)
from tests.helpers import assert_close, gradients, values
from tests.section3.test_layers import run, some

F64: Any = np.float64
RING = ring()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mlps(dtype: Any = F64, batchnorm: bool = False) -> tuple[Layer, Layer]:
    source = rng()
    return (
        mlp_generator(3, 2, (8, 6), batchnorm=batchnorm, bounded=False, rng=source, dtype=dtype),
        mlp_discriminator(2, (7, 5), rng=source, dtype=dtype),
    )


def convolutional(dtype: Any = F64) -> tuple[Layer, Layer]:
    source = rng()
    return (
        conv_generator(3, (8, 12, 2), (4, 3), rng=source, dtype=dtype),
        conv_discriminator((8, 12, 2), (3, 4), rng=source, dtype=dtype),
    )


def tensors(network: Layer) -> list[torch.Tensor]:
    return [torch.tensor(value, requires_grad=True) for value in values(network)]


def grads(leaves: list[torch.Tensor]) -> list[np.ndarray]:
    assert all(leaf.grad is not None for leaf in leaves)
    return [leaf.grad.numpy() for leaf in leaves]  # type: ignore[union-attr]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "networks",
    [mlps(), mlps(batchnorm=True), convolutional()],
    ids=["mlp", "mlp, batch norm", "convolutional"],
)
def test_gradients_through_both_networks_are_pytorchs(
    networks: tuple[Layer, Layer], threads: int
) -> None:
    generator, discriminator = copy.deepcopy(networks)
    for layer in (*generator.modules(), *discriminator.modules()):
        layer.micro_batch = 4  # so that threads have something to share
    z, other = some((6, 3)), some((6, 3), 5)
    x = np.tanh(some(predict(generator, z).shape, 2))
    still = SGD(generator.parameters(), 0.0), SGD(discriminator.parameters(), 0.0)
    with Workers(threads) as workers:
        step = AdversarialStep(generator, discriminator, still, workers)
        d_loss, length = step.discriminate(x, z)
        d_grads = gradients(discriminator)
        g_loss = step.generate(other)

    g, d = tensors(generator), tensors(discriminator)
    fake = run(generator, torch.tensor(z), iter(g)).detach()
    logits = run(discriminator, torch.cat([torch.tensor(x), fake]), iter(d)).squeeze(1)
    target = torch.tensor([1.0] * 6 + [0.0] * 6, dtype=torch.float64)
    loss = F.binary_cross_entropy_with_logits(logits, target)
    loss.backward()
    assert d_loss == pytest.approx(loss.item(), abs=1e-12)
    for ours, theirs in zip(d_grads, grads(d)):
        assert_close(ours, theirs, 1e-10, "discriminator's gradient")
    norm = math.sqrt(sum((grad**2).sum() for grad in grads(d)))
    assert length == pytest.approx(norm, rel=1e-10)

    logits = run(discriminator, run(generator, torch.tensor(other), iter(g)), iter(d))
    loss = F.softplus(-logits).mean()
    loss.backward()
    assert g_loss == pytest.approx(loss.item(), abs=1e-12)
    assert all(np.abs(grad).max() > 0 for grad in grads(g))
    for ours, theirs in zip(gradients(generator), grads(g)):
        assert_close(ours, theirs, 1e-10, "generator's gradient")
    for ours, before in zip(gradients(discriminator), d_grads):  # its own stay as they were
        np.testing.assert_array_equal(ours, before)


@pytest.mark.parametrize("learner", [0, 1])
def test_each_step_changes_its_own_network_only(learner: int) -> None:
    networks = mlps(np.float32)
    optimizers: Any = tuple(Adam(network.parameters(), 0.1) for network in networks)
    z, x = some((4, 3)).astype(np.float32), some((4, 2)).astype(np.float32)
    before = [[value.copy() for value in values(network)] for network in networks]
    with Workers(1) as workers:
        step = AdversarialStep(*networks, optimizers, workers)
        _ = step.discriminate(x, z) if learner else step.generate(z)
    for side, network in enumerate(networks):
        same = [np.array_equal(a, b) for a, b in zip(before[side], values(network))]
        assert not any(same) if side == learner else all(same)


# --- the loop -------------------------------------------------------------------------------


def batches(source: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(5):
        yield RING.sample(64, source)[0]


class Run:
    """A generator and a discriminator, and what training needs."""

    def __init__(self, lr: float = 1e-2, batchnorm: bool = True):
        self.networks = mlps(np.float32, batchnorm)
        self.optimizers: Any = tuple(
            Adam(n.parameters(), lr, betas=(0.5, 0.9)) for n in self.networks
        )
        self.rng = rng(4)

    def fit(self, epochs: int = 2, **options: Any) -> History:
        data = options.pop("data", batches)
        return fit(
            *self.networks, self.optimizers, data, noise=3, epochs=epochs, rng=self.rng, **options
        )

    def state(self) -> list[np.ndarray]:
        return [a.copy() for n in self.networks for a in values(n) + n.buffers()]


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for mine, its in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, its)


def without_time(history: History) -> dict:
    return {name: series for name, series in vars(history).items() if name != "seconds"}


def test_history_has_a_number_for_every_step() -> None:
    run = Run()
    history = run.fit(3, measure=lambda g: {"mean": float(predict(g, some((9, 3))).mean())})
    assert len(history.generator_loss) == len(history.discriminator_loss) == 15
    assert len(history.gradient_norm) == 15 and min(history.gradient_norm) > 0
    assert len(history.seconds) == len(history.measured) == 3
    assert history.seconds == sorted(history.seconds)
    assert history.measured[0] != history.measured[2]
    assert history.discriminator_loss[0] == pytest.approx(math.log(2), abs=0.5)
    assert run.optimizers[0].steps == run.optimizers[1].steps == 15


def test_the_learning_rates_follow_the_schedule(tmp_path: Path) -> None:
    asked = list[int]()

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.1 / (1 + step)

    run = Run()
    run.fit(1, schedule=schedule, checkpoints=tmp_path)
    assert [optimizer.lr for optimizer in run.optimizers] == [0.1 / 5] * 2
    Run().fit(2, schedule=schedule, checkpoints=tmp_path, resume=True)
    assert asked[::2] == asked[1::2] == list(range(10))  # for both, as many


def test_any_number_of_threads_gives_the_same() -> None:
    results = []
    for threads in (1, 2, 3):
        run = Run()
        for layer in (layer for network in run.networks for layer in network.modules()):
            layer.micro_batch = 20
        results.append((without_time(run.fit(threads=threads)), run.state()))
    for history, state in results[1:]:
        assert history == results[0][0]
        assert_same(state, results[0][1])


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    measure = lambda g: {"first": float(values(g)[0][0, 0])}  # noqa: E731
    whole = Run()
    expected = whole.fit(4, measure=measure)
    Run().fit(2, measure=measure, checkpoints=tmp_path)
    again = Run()
    history = again.fit(4, measure=measure, checkpoints=tmp_path, resume=True)
    assert without_time(history) == without_time(expected)
    assert_same(again.state(), whole.state())
    assert len(history.seconds) == 4 and history.seconds == sorted(history.seconds)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    Run(batchnorm=True).fit(1, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="checkpoint of another model"):
        Run(batchnorm=False).fit(2, checkpoints=tmp_path, resume=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_is_reported_and_the_last_good_checkpoint_kept(tmp_path: Path) -> None:
    run = Run(batchnorm=False)
    run.fit(2, checkpoints=tmp_path)
    good = (tmp_path / "last.npz").read_bytes()

    def poisoned(source: np.random.Generator) -> Iterator[np.ndarray]:
        for number, x in enumerate(batches(source)):
            yield x if number != 1 else x * np.float32(np.nan)

    complaint = "diverged: the discriminator loss is no finite number in epoch 3, step 12"
    with pytest.raises(FloatingPointError, match=complaint):
        run.fit(4, data=poisoned, checkpoints=tmp_path, resume=True)
    assert (tmp_path / "last.npz").read_bytes() == good
    assert len(Run(batchnorm=False).fit(3, checkpoints=tmp_path, resume=True).seconds) == 3


def test_a_number_beyond_all_bounds_is_divergence() -> None:
    history = History(seconds=[1.0])
    history.add("generator_loss", -9.9e5)
    with pytest.raises(FloatingPointError, match=r"generator loss is -1e\+09 in epoch 2, step 2"):
        history.add("generator_loss", -1e9)
    assert history.generator_loss == [-9.9e5]


# --- what it makes --------------------------------------------------------------------------


def test_it_finds_the_data() -> None:
    source = rng(1)
    generator = mlp_generator(4, 2, (32,), bounded=False, rng=source)
    discriminator = mlp_discriminator(2, (32,), rng=source)
    networks = generator, discriminator
    optimizers: Any = tuple(Adam(n.parameters(), 1e-3, betas=(0.0, 0.9)) for n in networks)
    cloud = Mixture(np.array([[2.0, -1.0]]), 1.0)

    def data(source: np.random.Generator) -> Iterator[np.ndarray]:
        for _ in range(500):
            yield cloud.sample(64, source)[0]

    fit(generator, discriminator, optimizers, data, noise=4, epochs=1, rng=source)
    points = predict(generator, some((1000, 4)).astype(np.float32))
    np.testing.assert_allclose(points.mean(axis=0), cloud.centres[0], atol=0.5)
    assert 0.4 < points.std(axis=0).min() < points.std(axis=0).max() < 2


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)], ids=str)
def test_shapes_of_images(shape: tuple[int, int, int]) -> None:
    generator = conv_generator(5, shape, (4, 3), rng=rng())
    discriminator = conv_discriminator(shape, (3, 4), rng=rng())
    images = generator(some((2, 5)).astype(np.float32))
    assert images.shape == (2, *shape) and images.dtype == np.float32
    assert np.abs(images).max() < 1
    upward = [layer for layer in generator.layers if isinstance(layer, ConvTranspose2D)]
    assert [layer.bias is None for layer in upward] == [True, False]  # batch norm follows, or not
    assert discriminator(images).shape == (2, 1)
    flat = mlp_generator(5, 12, (4,), rng=rng())(10 * some((2, 5)).astype(np.float32))
    assert flat.shape == (2, 12) and np.abs(flat).max() <= 1


def test_images_that_cannot_be_halved_are_refused() -> None:
    for make in (
        lambda shape, widths: conv_generator(3, shape, widths, rng=rng()),
        lambda shape, widths: conv_discriminator(shape, widths, rng=rng()),
    ):
        with pytest.raises(ValueError, match="images of 28x28 cannot be halved 3 times evenly"):
            make((28, 28, 1), (4, 3, 2))
