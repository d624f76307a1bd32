"""Residual networks against torchvision's and their own definition; the plain classifiers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from section4.compat import models
from section4.engine import count_parameters
from section4.vision.classifiers import cnn, mlp
from section4.vision.resnet import BasicBlock, ResNet, resnet18, thin_resnet


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_resnet18_agrees_with_torchvision(dtype: torch.dtype) -> None:
    """With the same weights: scores, every gradient and every running statistic."""
    theirs = models.resnet18(num_classes=1000).to(dtype)
    ours = resnet18(1000, stem="large").to(dtype)
    ours.load_state_dict(theirs.state_dict())
    x, y = random(3, 3, 72, 56, dtype=dtype), torch.tensor([5, 999, 0])
    scores = []
    for model in (ours, theirs):
        scores.append(model.train()(x))
        nn.functional.cross_entropy(scores[-1], y).backward()
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters()):
        assert mine.grad is not None and other.grad is not None
        apart = (mine.grad - other.grad).norm() / other.grad.norm()
        assert apart < (1e-5 if dtype == torch.float32 else 1e-12), name
    other_buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, other_buffers[name], rtol=1e-5, atol=1e-5, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (resnet18(), 11_173_962),
        (resnet18(1000, stem="large"), 11_689_512),
        (thin_resnet(20), 269_722),
        (thin_resnet(56), 853_018),
        (thin_resnet(20, skip=False), 269_722),
        (thin_resnet(56, skip=False), 853_018),
        (mlp((3, 32, 32)), 3073 * 512 + 513 * 256 + 257 * 10),
        (cnn(), 9 * (3 * 64 + 64 * 128 + 128 * 256) + 2 * (64 + 128 + 256) + 257 * 10),
    ],
)
def test_parameters_are_as_many_as_stated(model: nn.Module, parameters: int) -> None:
    assert count_parameters(model) == parameters


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_a_thin_network_has_as_many_layers_as_its_depth_says(depth: int) -> None:
    """Convolutions on the way from the image to the scores, and the layer of scores."""
    for skip in (True, False):
        model = thin_resnet(depth, skip=skip)
        layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(layers) == depth
        assert len(model.blocks()) == (depth - 2) / 2
        assert [block.conv1.out_channels for block in model.blocks()][-1] == 64


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_option_a_takes_every_other_pixel_and_adds_channels_of_zeros(
    height: int, width: int
) -> None:
    block = BasicBlock(3, 5, stride=2, projection=False)
    assert block.downsample is None
    x = random(2, 3, height, width)
    passed = block.shortcut(x)
    assert passed.shape == (2, 5, math.ceil(height / 2), math.ceil(width / 2))
    for row in range(passed.shape[2]):
        for column in range(passed.shape[3]):
            assert torch.equal(passed[:, :3, row, column], x[:, :, 2 * row, 2 * column])
    assert not passed[:, 3:].any()
    nn.init.zeros_(block.bn2.weight)  # a block that adds nothing
    assert torch.equal(block(x), passed.relu())


def test_option_b_is_a_convolution_where_shapes_differ_and_the_identity_elsewhere() -> None:
    same, wider, smaller = BasicBlock(4, 4), BasicBlock(4, 6), BasicBlock(4, 4, stride=2)
    x = random(2, 4, 6, 6)
    assert same.downsample is None and same.shortcut(x) is x
    for block in (wider, smaller):
        assert block.downsample is not None
        by_hand = block.downsample[1](block.downsample[0](x))
        torch.testing.assert_close(block.shortcut(x), by_hand)
        assert block(x).shape == block.shortcut(x).shape


def test_without_skips_all_else_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same initial weights; and a residual network whose shortcuts are cut is a plain one."""
    networks = dict[bool, ResNet]()
    for skip in (True, False):
        torch.manual_seed(3)
        networks[skip] = thin_resnet(14, skip=skip)
    plain, residual = networks[False].state_dict(), networks[True].state_dict()
    assert plain.keys() == residual.keys()
    assert all(torch.equal(plain[name], residual[name]) for name in plain)
    x = random(4, 3, 16, 16)
    assert not torch.allclose(networks[True](x), networks[False](x))
    monkeypatch.setattr(BasicBlock, "shortcut", lambda block, x: torch.zeros(()))
    assert torch.equal(networks[True](x), networks[False](x))


def test_a_plain_block_is_its_two_layers() -> None:
    block, x = BasicBlock(3, 4, stride=2, skip=False), random(2, 3, 8, 8)
    assert block.downsample is None
    y = block.bn1(nn.functional.conv2d(x, block.conv1.weight, stride=2, padding=1)).relu()
    y = block.bn2(nn.functional.conv2d(y, block.conv2.weight, padding=1)).relu()
    torch.testing.assert_close(block(x), y)


def test_convolutions_start_as_he_says() -> None:
    torch.manual_seed(0)
    weight = resnet18().blocks()[-1].conv2.weight  # 512 filters of 512 x 3 x 3
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


@pytest.mark.parametrize("depth", [2, 7, 9, 19, 57])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be 8, 14, 20 .* got {depth}"):
        thin_resnet(depth)


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(ValueError, match="stem must be small or large, got 'huge'"):
        resnet18(stem="huge")


def test_features_are_what_the_scores_are_made_from() -> None:
    model, x = resnet18(7, width=4).eval(), random(2, 3, 20, 12)
    assert model.features(x).shape == (2, 32)
    torch.testing.assert_close(model(x), model.fc(model.features(x)))


def test_the_mlp_is_matrix_products_and_relu() -> None:
    model, x = mlp((2, 3, 4), 5, [7, 6]), random(3, 2, 3, 4)
    y = x.reshape(3, 24)
    *hidden, last = [module for module in model if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in (*hidden, last)] == [7, 6, 5]
    for layer in hidden:
        y = (y @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model(x), y @ last.weight.T + last.bias)
    assert torch.equal(model(x.contiguous(memory_format=torch.channels_last)), model(x))


def test_the_cnn_does_not_mind_where_things_lie() -> None:
    """What moves by as much as all its pools together halve, 4 pixels, gets the same scores."""
    model = cnn(2, 5, [4, 6]).eval()
    x = torch.zeros(1, 2, 32, 32)
    x[:, :, 10:16, 12:18] = random(1, 2, 6, 6)
    moved = x.roll((4, -4), (2, 3))
    torch.testing.assert_close(model(moved), model(x))
    assert not torch.allclose(model(x.roll(1, 2)), model(x))  # but the pools do, a little
    assert model(random(2, 2, 17, 9)).shape == (2, 5)
