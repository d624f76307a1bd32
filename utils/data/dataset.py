"""What a data set is: arrays for training, arrays for testing, and where they came from.

The test set may be looked at only once, at the very end. Everything that is *chosen* (a
learning rate, the epoch to stop at) is chosen on a validation set, and the only place
that may come from is the training data. So `Dataset` has no validation arrays; they
exist on the `SplitDataset` that `split_validation` returns, cut from `train_x`.

`provenance` travels with the arrays into every result, so no number can be mistaken for
one that was measured on other data.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import numpy as np

from utils.data.errors import DataError

Provenance = Literal["official", "unverified copy", "embedded stand-in", "generated"]
AnyDataset = TypeVar("AnyDataset", bound="Dataset")


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    train_x, test_x: (N, H, W, C) float32 in [0, 1]; train_y, test_y: (N,) int64.
    classes: the name of each label, or () where labels have none.
    provenance: "official" (the files' checksums are the published ones), "unverified copy",
    "embedded stand-in" or "generated". description: a short phrase for titles and tables.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]
    provenance: Provenance
    description: str

    def subset(self: AnyDataset, n: int | None, rng: np.random.Generator) -> AnyDataset:
        """The same with `n` training samples, drawn without replacement.

        None, or more than there are, keeps all of them in their order.
        Raises DataError if n is below 1.
        """
        if n is None or n >= len(self.train_x):
            return self
        if n < 1:
            raise DataError(f"Asked for {n} samples: ask for at least 1.")
        chosen = rng.permutation(len(self.train_x))[:n]
        return replace(self, train_x=self.train_x[chosen], train_y=self.train_y[chosen])

    def split_validation(self, n: int, rng: np.random.Generator) -> SplitDataset:
        """Move `n` random training samples into a validation set; the test set stays as it is.

        Raises DataError unless 1 <= n < number of training samples.
        """
        total = len(self.train_x)
        if not 1 <= n < total:
            raise DataError(
                f"Cannot cut {n} validation samples from {total} training samples of "
                f"{self.name}: ask for 1 to {total - 1}."
            )
        order = rng.permutation(total)
        held_out, kept = order[:n], order[n:]
        values = {field.name: getattr(self, field.name) for field in fields(Dataset)}
        values.update(train_x=self.train_x[kept], train_y=self.train_y[kept])
        return SplitDataset(**values, val_x=self.train_x[held_out], val_y=self.train_y[held_out])


@dataclass(frozen=True)
class SplitDataset(Dataset):
    """A `Dataset` part of whose training samples were set aside as val_x and val_y."""

    val_x: np.ndarray
    val_y: np.ndarray


@dataclass(frozen=True)
class TextData:
    """One long text; provenance and description as in `Dataset`."""

    name: str
    text: str
    provenance: Provenance
    description: str
