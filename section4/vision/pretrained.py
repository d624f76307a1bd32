"""Pretrained networks: what was learned on one task, put to work on another.

The first layers of a network that tells photographs apart look for edges, colours and textures,
whatever the classes are. So a network that has learned from many images of another task needs few
labelled ones of its own. There are two ways to use it: leave the body as it is and train a linear
classifier on its features, or go on training all of it, the body more slowly than the new head.

The weights are torchvision's, learned from 1.3 million labelled photographs, where that file can
be had. Where not, a task that needs no labels will do: turn each image by 0, 90, 180 or 270
degrees and ask by how much. Who sees that a horse lies on its back has learned what horses look
like.

Sources: Yosinski et al., How transferable are features in deep neural networks?, arXiv:1411.1792;
Gidaris, Singh, Komodakis, Unsupervised representation learning by predicting image rotations,
arXiv:1803.07728.
"""

from __future__ import annotations

import hashlib
import socket
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from section4.checkpoint import check_sums
from section4.compat import models
from section4.images import Pair
from section4.vision.resnet import ResNet, resnet18

URL = models.ResNet18_Weights.DEFAULT.url  # of ImageNet weights for ResNet-18, 45 MB
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pixels these have learned from
PATIENCE = 3.0  # seconds to wait for a server that says nothing

TURNS = (0, 90, 180, 270)  # degrees, against the clock


# --- torchvision's weights --------------------------------------------------------------------


def official_file() -> Path:
    """Where PyTorch keeps torchvision's weights for ResNet-18 once it has downloaded them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def download_official() -> str:
    """Fetch that file and check its hash. Returns what went wrong, in a few words, or ""."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # PyTorch itself would wait for ever
    try:
        torch.hub.load_state_dict_from_url(URL, progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, no room on the disk; another hash
        return str(getattr(error, "reason", error)).strip().split("\n")[0]
    finally:
        socket.setdefaulttimeout(patience)
    return ""


def is_official(path: Path) -> bool:
    """Whether the file's SHA-256 begins as its name says: resnet18-f37072fd.pth."""
    return hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])


def load_official(path: Path) -> ResNet:
    """A ResNet-18 for large images and 1,000 classes with the weights of a file of torchvision's.

    Raises FileNotFoundError, and ValueError for a file that is damaged, that holds more than
    tensors (reading it never runs code), or the weights of another network.
    """
    try:
        if zipfile.is_zipfile(path):  # older files of torchvision's are none
            check_sums(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can lead an unpickler anywhere
        raise ValueError(
            f"{path} is damaged or holds more than weights: delete it and start again"
        ) from error
    net = resnet18(1000, stem="large")
    try:
        net.load_state_dict(weights)
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold the weights of a ResNet-18: delete it and start again"
        ) from error
    return net


# --- a task without labels ----------------------------------------------------------------------


def rotations(x: torch.Tensor) -> torch.Tensor:
    """Square images (n, C, H, H), each in all four turns: (4 n, C, H, H).

    The turns of one image follow one another. A turn by 90 degrees, against the clock, puts pixel
    (i, j) at (H - 1 - j, i): no pixel is made up, so nothing but the content tells the turn.
    """
    turned = torch.stack([torch.rot90(x, k, (2, 3)) for k in range(len(TURNS))], 1)
    return turned.flatten(0, 1)  # (n, 4, C, H, H) -> (4 n, C, H, H)


def rotation_task(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """A change of batches (see `augment`): which turn is it? The labels y are not looked at."""
    turns = torch.arange(len(TURNS), device=x.device)
    return rotations(x), turns.repeat(len(x))


# --- features, and a classifier on them ---------------------------------------------------------


class Features(nn.Module):
    """The means over places of what some groups of a ResNet give: (N, C, H, W) -> (N, D).

    groups: their numbers from 1; D is the sum of their filters. What comes early is more general,
    what comes late more of the task that the network has learned. side: images are first brought
    to side x side pixels; None leaves them as they are.
    """

    def __init__(self, net: ResNet, groups: Sequence[int], side: int | None = None):
        super().__init__()
        if not groups or max(groups) != net.groups or min(groups) < 1:
            raise ValueError(f"groups must be of 1 to {net.groups}, the last among them: {groups}")
        self.net, self.groups, self.side = net, sorted(set(groups)), side
        net.fc = nn.Identity()  # type: ignore[assignment]  # the old task's answers
        last = [net.get_parameter(f"layer{group}.0.conv2.weight") for group in self.groups]
        self.width = sum(len(filters) for filters in last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.side is not None and x.shape[-1] != self.side:
            x = nn.functional.interpolate(x, (self.side, self.side), mode="bilinear")
        maps = self.net.maps(x)
        means = [maps[group - 1].mean((2, 3)) for group in self.groups]  # (N, F, H, W) -> (N, F)
        return torch.cat(means, 1)


def classifier(body: Features, head: nn.Linear) -> nn.Sequential:
    """Scores of images: first the body's features, then the head, to be trained together."""
    return nn.Sequential(OrderedDict(body=body, head=head))


def parameter_groups(model: nn.Sequential, body_scale: float) -> list[dict]:
    """For an optimizer: the body learns at `body_scale` times the rate of the head."""
    body, head = model
    return [
        {"params": list(body.parameters()), "scale": body_scale},
        {"params": list(head.parameters()), "scale": 1.0},
    ]


def linear_classifier(
    features: torch.Tensor, labels: torch.Tensor, classes: int, decay: float
) -> nn.Linear:
    """The linear layer that tells the classes apart by their features (N, D), on the CPU.

    With z = (x - mean) / std it makes sum_i -log softmax(V z_i + c)[y_i] + decay / 2 |V|^2 small,
    a convex task, by L-BFGS. What comes back takes x itself: W = V / std, b = c - W mean.
    """
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    z = (features - mean) / std
    layer = nn.Linear(z.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        misfit = nn.functional.cross_entropy(layer(z), labels)
        total = misfit + decay / (2 * len(z)) * layer.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        layer.weight.div_(std)
        layer.bias.sub_(layer.weight @ mean)
    return layer
