"""Labelled images as batches: all of them in memory, changed and standardised on the device.

Sets of this size fit into memory, as bytes even on a small GPU. So there are no files to read
and no worker processes: a batch is an index, a change and a multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from section4 import distributed
from section4.engine import PLAIN, Setting

Pair = tuple[torch.Tensor, torch.Tensor]
# Augmentation: (x (n, C, H, W) in [0, 1], y (n,)) -> (x, y), y (n,) or, mixed, shares (n, K).
Change = Callable[[torch.Tensor, torch.Tensor], Pair]


def as_bytes(images: np.ndarray) -> torch.Tensor:
    """Images (N, H, W, C) in [0, 1] as bytes (N, C, H, W)."""
    return torch.from_numpy(np.rint(images * 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def device_seed(*numbers: int) -> int:
    """A seed for PyTorch made of several numbers, such as (seed, epoch, rank)."""
    key = len(numbers), *numbers  # NumPy pads with zeros: (1,) and (1, 0) would be alike
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@dataclass
class Batches:
    """The batches (x, y) of an epoch, `batches(epoch)`; x (n, C, H, W) standardised float32.

    images: bytes (N, C, H, W); labels: (N,). mean, std: (C,), of the training images.
    change: what is done to each training batch; first: in so many epochs at first something else.
    seed: the order of the rows depends on it and the epoch; None keeps them in their order.
    shared: of several processes each gets its share of the rows of every batch, with `batch_size`
    128 and two processes 64; else each gets all.

    A last batch that is smaller is part of the epoch, unless it is one row for a process: with
    batch norm that would divide by zero.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    batch_size: int
    setting: Setting = PLAIN
    change: Change | None = None
    first: tuple[int, Change | None] = (0, None)
    seed: int | None = None
    shared: bool = True

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) > 0:
            raise ValueError(f"{len(self.images)} images do not go with {len(self.labels)} labels")
        device = self.setting.device
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        scale = 1 / self.std.to(device).float()
        self.scale = scale[:, None, None]
        self.offset = (-self.mean.to(device).float() * scale)[:, None, None]

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._cuts())

    def __call__(self, epoch: int = 0) -> Iterator[Pair]:
        order = torch.arange(len(self.images))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(device_seed(self.seed, epoch))
            order = torch.randperm(len(self.images), generator=generator)
        order = order.to(self.setting.device)
        epochs, early = self.first
        change = early if epoch < epochs else self.change
        for cut in self._cuts():
            rows = distributed.share(order[cut]) if self.shared else order[cut]
            x, y = self.images[rows].float() / 255, self.labels[rows]
            if change is not None:
                x, y = change(x, y)
            yield self.setting.place(x * self.scale + self.offset), y

    def _cuts(self) -> list[slice]:
        n, least = len(self.images), 2 * distributed.count() if self.seed is not None else 1
        cuts = [slice(k, min(k + self.batch_size, n)) for k in range(0, n, self.batch_size)]
        if len(cuts) > 1 and cuts[-1].stop - cuts[-1].start < least:
            cuts.pop()
        return cuts
