"""Shapes, classes and sizes of generators and discriminators."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from section4.engine import count_parameters
from section4.gans.models import (
    dcgan_discriminator,
    dcgan_generator,
    mlp_discriminator,
    mlp_generator,
)
from section4.gans.spectral_norm import spectrally_normalised

Shape = tuple[int, int, int]
CLASSES = pytest.mark.parametrize("classes", [0, 4])
SHAPES = pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24)], ids=str)


def labels(classes: int, rows: int = 5) -> torch.Tensor | None:
    return torch.arange(rows) % classes if classes else None


@CLASSES
@SHAPES
def test_images_come_out_and_scores(shape: Shape, classes: int) -> None:
    y = labels(classes)
    for generator, discriminator in (
        (
            mlp_generator(7, shape, (8, 6), classes=classes, batchnorm=True),
            mlp_discriminator(shape, (8, 6), classes=classes),
        ),
        (
            dcgan_generator(7, shape, (6, 4), classes=classes),
            dcgan_discriminator(shape, (4, 6), classes=classes),
        ),
    ):
        assert generator.noise == 7
        images = generator(torch.randn(5, 7), y)
        assert images.shape == (5, *shape) and images.abs().max() < 1
        scores = discriminator(images, y)
        assert scores.shape == (5,)
        scores.sum().backward()
        assert all(
            p.grad is not None for p in (*generator.parameters(), *discriminator.parameters())
        )


def test_points_have_no_bounds() -> None:
    generator = mlp_generator(3, (2,), (16,), bounded=False)
    assert generator(100 * torch.randn(50, 3)).abs().max() > 1
    assert mlp_discriminator((2,), (16,))(torch.randn(50, 2)).shape == (50,)


def test_the_class_makes_a_difference() -> None:
    torch.manual_seed(0)
    generator = mlp_generator(3, (1, 4, 4), (8,), classes=3)
    discriminator = mlp_discriminator((1, 4, 4), (8,), classes=3)
    z, x = torch.randn(1, 3).expand(3, 3), torch.randn(1, 1, 4, 4).expand(3, 1, 4, 4)
    y = torch.arange(3)
    assert len({tuple(image.flatten().tolist()) for image in generator(z, y)}) == 3
    assert len(set(discriminator(x, y).tolist())) == 3


def test_the_score_of_a_class_is_a_projection() -> None:
    discriminator = mlp_discriminator((2,), (5,), classes=3)
    assert discriminator.of_class is not None
    x, y = torch.randn(4, 2), torch.tensor([0, 2, 1, 2])
    h = discriminator.body(x)
    weight, rows = discriminator.score.weight, discriminator.of_class.weight[y]
    expected = ((weight + rows) * h).sum(1) + discriminator.score.bias
    torch.testing.assert_close(discriminator(x, y), expected)


def test_classes_that_are_missing_are_asked_for() -> None:
    for network, x in (
        (mlp_generator(3, (2,), classes=2), torch.randn(1, 3)),
        (mlp_discriminator((2,), classes=2), torch.randn(1, 2)),
    ):
        with pytest.raises(ValueError, match="needs the class of every sample"):
            network(x)


def test_parameters_as_counted_by_hand() -> None:
    z, c, (a, b) = 5, 2, (6, 4)
    generator = (z + c) * a * 49 + 2 * a + a * b * 16 + 2 * b + b * 16 + 1
    assert count_parameters(dcgan_generator(z, widths=(a, b), classes=c)) == generator
    discriminator = (16 + 1) * b + (b * 16 + 1) * a + (1 + c) * a * 49 + 1
    assert count_parameters(dcgan_discriminator(widths=(b, a), classes=c)) == discriminator


def test_a_dcgan_starts_with_small_weights() -> None:
    network = dcgan_generator(16, widths=(32, 16))
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("make", [lambda s, w: dcgan_generator(3, s, w), dcgan_discriminator])
def test_images_that_cannot_be_halved_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="images of 28x20 cannot be halved 3 times"):
        make((1, 28, 20), (4, 4, 4))  # type: ignore[operator]


@CLASSES
def test_a_normalised_discriminator_does_not_stretch(classes: int) -> None:
    """The score moves no more than the image; of a class, no more than twice as much."""
    torch.manual_seed(1)
    discriminator = spectrally_normalised(mlp_discriminator((1, 4, 4), (8, 8), classes=classes))
    x = torch.randn(2, 200, 1, 4, 4)
    y = labels(classes, 200)
    for _ in range(30):
        discriminator(x[0], y).sum().backward()
    twin = copy.deepcopy(discriminator).eval()
    moved = (twin(x[0], y) - twin(x[1], y)).abs()
    most = 2 if classes else 1  # w and e_y stretch by 1 each
    assert (moved / (x[0] - x[1]).flatten(1).norm(dim=1)).max().item() <= most + 1e-3
