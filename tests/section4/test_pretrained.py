"""Weights from a file, the task of turning images, and classifiers on features."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from section4.compat import models
from section4.engine import PLAIN, cross_entropy
from section4.images import Batches
from section4.training import fit, predict
from section4.vision import pretrained
from section4.vision.augment import windows
from section4.vision.pretrained import (
    TURNS,
    Features,
    classifier,
    linear_classifier,
    parameter_groups,
    rotation_task,
    rotations,
)
from section4.vision.resnet import resnet18


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision's file belongs, in a folder of PyTorch's that is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = pretrained.official_file()
    assert path == tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    return path


def body(groups: tuple[int, ...] = (2, 3, 4), seed: int = 0) -> Features:
    torch.manual_seed(seed)
    return Features(resnet18(4, width=4), groups)


def images(count: int = 23) -> Batches:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    half = torch.full((3,), 0.5)
    return Batches(pixels, torch.arange(count) % 3, half, half, 5)


# --- torchvision's file ---------------------------------------------------------------------


def test_a_file_of_torchvision_gives_torchvision_s_scores(hub: Path) -> None:
    torch.manual_seed(0)
    theirs = models.resnet18().eval()
    torch.save(theirs.state_dict(), hub)
    ours = pretrained.load_official(hub).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))
    assert not pretrained.is_official(hub)


def test_a_file_is_official_if_its_hash_begins_as_its_name_says(tmp_path: Path) -> None:
    path = tmp_path / "resnet18-2cf24dba.pth"  # SHA-256 of "hello"
    path.write_bytes(b"hello")
    assert pretrained.is_official(path)
    path.write_bytes(b"hallo")
    assert not pretrained.is_official(path)


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def test_files_that_are_damaged_or_of_another_kind_are_refused(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hub.parent)
    with pytest.raises(FileNotFoundError):
        pretrained.load_official(hub)
    torch.save(resnet18(1000, stem="large").state_dict(), hub)
    whole = hub.read_bytes()
    middle = len(whole) // 2
    for content in (
        whole[:middle],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        b"",
        b"<html>not found</html>",
        pickle.dumps({"conv1.weight": Code()}),
    ):
        hub.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or holds more than weights"):
            pretrained.load_official(hub)
    torch.save({"conv1.weight": Code()}, hub)
    with pytest.raises(ValueError, match="damaged or holds more than weights"):
        pretrained.load_official(hub)
    assert not Path("ran").exists()
    for other in (models.squeezenet1_1().state_dict(), resnet18(10).state_dict(), [1, 2], {"a": 1}):
        torch.save(other, hub)
        with pytest.raises(ValueError, match="does not hold the weights of a ResNet-18"):
            pretrained.load_official(hub)


def test_without_a_network_the_download_says_so_and_leaves_no_file(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    def no_network(*_: object, **options: object) -> None:
        waited.append(pretrained.socket.getdefaulttimeout())
        assert options["check_hash"] and options["weights_only"]
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    assert pretrained.download_official() == "no route to host"
    assert waited == [pretrained.PATIENCE] and pretrained.socket.getdefaulttimeout() is None
    assert not hub.exists()


def test_a_download_with_another_hash_is_not_kept(
    hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PyTorch's own download, from a file in place of the server."""
    served = tmp_path / hub.name
    torch.save(models.resnet18().state_dict(), served)
    monkeypatch.setattr(pretrained, "URL", served.as_uri())
    assert "hash" in pretrained.download_official()
    assert not hub.exists()


# --- turns ----------------------------------------------------------------------------------


def test_turns_by_the_definition() -> None:
    x = torch.randn(2, 3, 5, 5)
    turned = rotations(x)
    assert turned.shape == (8, 3, 5, 5)
    for n in range(2):
        for k in range(4):
            torch.testing.assert_close(turned[4 * n + k], torch.rot90(x[n], k, (1, 2)))
    for i in range(5):
        for j in range(5):
            assert turned[1, 0, 4 - j, i] == x[0, 0, i, j]
    # Four quarter turns are a whole one, two of them undo two others.
    torch.testing.assert_close(rotations(turned[3:4])[1], x[0])
    torch.testing.assert_close(rotations(turned[2:3])[2], x[0])


def test_batches_of_turned_images_have_the_turns_as_labels() -> None:
    plain = images(6)
    plain.change = rotation_task
    (x, y), _ = plain(0)
    assert x.shape == (20, 3, 16, 16) and y.tolist() == [0, 1, 2, 3] * 5
    upright = images(6)
    torch.testing.assert_close(x[::4], next(iter(upright(0)))[0])
    assert len(TURNS) == 4


def test_the_labels_of_the_images_are_not_looked_at() -> None:
    x = torch.randn(3, 1, 4, 4)
    first, second = (rotation_task(x, torch.full((3,), label))[1] for label in (0, 9))
    assert torch.equal(first, second)


def test_windows_are_squares_of_their_images_in_all_places() -> None:
    places = torch.arange(20.0).reshape(1, 1, 4, 5).expand(300, 1, 4, 5)
    x = places + 100 * torch.arange(300.0)[:, None, None, None]
    y = torch.arange(300)
    cut, labels = windows(3, 3)(x, y)
    assert cut.shape == (300, 1, 3, 3) and torch.equal(labels, y)
    corner = cut[:, 0, 0, 0] - 100 * y
    assert set(corner.tolist()) == {0, 1, 2, 5, 6, 7}
    offsets = torch.tensor([[0, 1, 2], [5, 6, 7], [10, 11, 12]])
    torch.testing.assert_close(cut[:, 0], cut[:, 0, :1, :1] + offsets)
    assert torch.equal(windows(4, 4)(x[..., :4], y)[0], x[..., :4])


# --- features -------------------------------------------------------------------------------


def test_features_are_the_means_of_the_groups_side_by_side() -> None:
    features = body().eval()
    x = torch.randn(2, 3, 16, 16)
    assert features.width == 8 + 16 + 32 and features(x).shape == (2, 56)
    net = features.net
    y = net.layer1(torch.relu(net.bn1(net.conv1(x))))  # type: ignore[operator]
    second = net.layer2(y)  # type: ignore[operator]
    torch.testing.assert_close(features(x)[:, :8], second.mean((2, 3)))
    torch.testing.assert_close(features(x)[:, -32:], net.features(x))


def test_features_batch_by_batch_equal_those_of_all_at_once_and_change_nothing() -> None:
    features, data = body(), images()
    before = copy.deepcopy(features.state_dict())
    found = predict(features, data)
    assert features.training  # as it was
    at_once = features.eval()(torch.cat([x for x, _ in data(0)]))
    torch.testing.assert_close(found, at_once.detach())
    for name, value in features.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_images_are_resized_where_a_side_is_given() -> None:
    torch.manual_seed(0)
    net = resnet18(4, stem="large", width=4)
    x = torch.randn(2, 3, 16, 16)
    large = nn.functional.interpolate(x, (40, 40), mode="bilinear")
    resized, plain = Features(net, [4], 40).eval(), Features(net, [4]).eval()
    torch.testing.assert_close(resized(x), plain(large))
    assert not torch.allclose(resized(x), plain(x))


@pytest.mark.parametrize("groups", [(), (2, 3), (0, 4), (4, 5)])
def test_groups_that_are_not_there_are_refused(groups: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="groups must be of 1 to 4, the last among them"):
        body(groups)


# --- classifiers ----------------------------------------------------------------------------


def test_the_linear_classifier_is_at_the_minimum() -> None:
    """The gradient is zero in the standardised features, by PyTorch in float64."""
    torch.manual_seed(0)
    x = (torch.randn(60, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]) + 2).double()
    y = torch.randint(0, 3, (60,))
    head = linear_classifier(x.float(), y, 3, decay=2.0).double()
    mean, std = x.mean(0), x.std(0, correction=0)
    z = (x - mean) / std
    v = (head.weight * std).detach().requires_grad_()
    c = (head.bias + head.weight @ mean).detach().requires_grad_()
    loss = nn.functional.cross_entropy(z @ v.T + c, y, reduction="sum") + v.square().sum()
    loss.backward()
    assert v.grad is not None and c.grad is not None
    assert v.grad.abs().max() < 0.02 and c.grad.abs().max() < 0.02


def test_a_feature_that_never_changes_does_no_harm() -> None:
    x = torch.cat([torch.ones(8, 1), torch.arange(8.0)[:, None]], 1)
    y = (torch.arange(8) > 3).long()
    head = linear_classifier(x, y, 2, decay=0.1)
    assert torch.equal(head(x).argmax(1), y)


def test_the_body_learns_at_its_share_of_the_rate() -> None:
    model = classifier(body(), nn.Linear(56, 3))
    groups = parameter_groups(model, 0.25)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer = torch.optim.SGD(groups, 1.0)
    fit(model, cross_entropy(), optimizer, images(), epochs=1, seed=0, schedule=lambda _: 0.04)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.04]


def test_a_body_with_scale_zero_stays_as_it_is_and_the_head_learns() -> None:
    features, head = body(), nn.Linear(56, 3)
    model = classifier(features, head)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(parameter_groups(model, 0.0), 1.0)
    fit(model, cross_entropy(), optimizer, images(), epochs=1, seed=0, schedule=lambda _: 0.1)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("body"), name


def test_fine_tuning_starts_from_what_the_linear_classifier_says() -> None:
    features, data = body(), images()
    found = predict(features, data)
    head = linear_classifier(found, data.labels, 3, decay=1.0)
    scores = predict(classifier(features, head), data, PLAIN)
    torch.testing.assert_close(scores, found @ head.weight.T.detach() + head.bias.detach())
