"""Memory: no training takes more of it the longer it lasts, and no figure outlives its saving.

How batches are cut to fit into it is in tests/section1/test_memory.py.
"""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.animation import FuncAnimation
from torch import nn

import main
from section1.losses import SoftmaxCrossEntropy
from section1.network import Sequential
from section1.training import fit
from section2.optimizers import Adam
from section4 import training
from section4.engine import cross_entropy
from tests.faults import TIMES
from tests.section1 import test_memory as cnns
from tests.section4.gans import test_adversarial as adversarial
from tests.section4.gans import test_numpy_gan as numpy_gan
from utils.output import plots

EPOCHS, STEPS = 10, 100 * TIMES  # steps of an epoch: 1,000 in all
WARM = 2  # epochs after which everything has been allocated
BLOCKS = 400  # that may come and go: less than one for every other step
RESIDENT = 8_000_000  # bytes that a process may grow by: 10 kB a step


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Growth:
    """How much memory has grown since the end of the warm-up; an instance is an `on_epoch`.

    Counted are tensors, blocks of memory that Python has given to objects (but for the numbers
    that the history keeps of every step), and what the whole process holds.
    """

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int, int]] = []

    def __call__(self, history: Any) -> None:
        if len(history.seconds) not in (WARM, EPOCHS):
            return
        gc.collect()
        kept = sum(len(series) for series in vars(history).values() if isinstance(series, list))
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        self.sizes.append((tensors, sys.getallocatedblocks() - kept, resident()))

    def check(self) -> None:
        before, after = self.sizes
        tensors, blocks, held = np.subtract(after, before)
        assert tensors == 0, f"{tensors} tensors"
        assert blocks < BLOCKS, f"{blocks:,} blocks"
        assert held < RESIDENT, f"{held:,} bytes"


@pytest.mark.parametrize("make", [cnns.dropout_cnn, cnns.batchnorm_cnn])
def test_numpy_training_does_not_grow(make: Callable[..., Sequential]) -> None:
    """On two threads, with batches that are cut where they can be."""
    model = make(np.float32)
    x, y = cnns.images(6, dtype=np.float32), np.arange(6)

    growth = Growth()
    fit(
        model, SoftmaxCrossEntropy(), Adam(model.parameters(), 1e-3), lambda _: [(x, y)] * STEPS,
        epochs=EPOCHS, batch_size=6, rng=np.random.default_rng(0), validation=(x, y),
        threads=2, micro_batch=2, on_epoch=growth,
    )  # fmt: skip
    growth.check()


def torch_fit(growth: Growth) -> None:
    objective, batch = cross_entropy(), [torch.ones(8, 3, 8, 8), torch.arange(8)]
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
        nn.Linear(8 * 6 * 6, 10),
    )  # fmt: skip
    training.fit(
        model, objective, torch.optim.AdamW(model.parameters(), 1e-3), lambda _: [batch] * STEPS,
        epochs=EPOCHS, seed=0, average=training.averaged(model, 0.9), clip=1.0,
        validate=lambda judged: training.evaluate(judged, objective, lambda _: [batch]),
        on_epoch=growth,
    )  # fmt: skip


def test_pytorch_training_does_not_grow() -> None:
    torch_fit(growth := Growth())
    growth.check()


def test_what_is_kept_of_a_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test itself: a loss that is kept, as `total += loss` does with all of its graph."""
    monkeypatch.setattr(sys.modules[__name__], "STEPS", 5)
    kept, add = list[torch.Tensor](), training._Sums.add

    def keep(sums: Any, loss: torch.Tensor, *rest: Any) -> None:
        kept.append(loss)
        add(sums, loss, *rest)

    monkeypatch.setattr(training._Sums, "add", keep)
    torch_fit(growth := Growth())
    with pytest.raises(AssertionError, match=r"^\d\d tensors"):
        growth.check()


def test_adversarial_training_does_not_grow() -> None:
    run = adversarial.Run()
    growth = Growth()
    run.fit(EPOCHS, lambda _: iter([(torch.ones(32, 2),)] * STEPS), on_epoch=growth)
    growth.check()


def test_numpy_adversarial_training_does_not_grow() -> None:
    x = np.ones((32, 2), np.float32)
    run = numpy_gan.Run()
    growth = Growth()
    run.fit(EPOCHS, data=lambda _: iter([x] * STEPS), threads=2, on_epoch=growth)
    growth.check()


# --- figures --------------------------------------------------------------------------------


def test_figures_are_gone_once_they_are_saved(tmp_path: Path) -> None:
    def drawn() -> Iterator[Any]:
        for number in range(3):
            figure, axes = plots.grid(1, 2)
            (line,) = axes[0, 0].plot([0, 1], [number, 1])
            axes[0, 1].imshow(np.ones((50, 50)))
            figure.suptitle("a finding")
            yield figure
        yield FuncAnimation(figure, lambda k: line.set_ydata([k, 1]), frames=3)

    alive = weakref.WeakSet[Any]()
    for number, picture in enumerate(drawn()):
        alive.add(picture)
        alive.add(getattr(picture, "_fig", picture))
        plots.save(picture, tmp_path / str(number), "data")
        del picture
    gc.collect()
    assert len(list(tmp_path.glob("*.pdf"))) == 4
    assert not list(alive)


def test_no_figure_of_a_run_outlives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, alive, seen = plots.save, weakref.WeakSet[Any](), list[str]()

    def watch(picture: Any, place: Path, subtitle: str) -> Path:
        alive.add(picture)
        seen.append(place.name)
        return save(picture, place, subtitle)

    monkeypatch.setattr(plots, "save", watch)
    words = ["activation_functions", "--set", "seeds=1", "--samples", "50"]
    monkeypatch.setattr(sys, "argv", ["main.py", *words, "--results", str(tmp_path)])
    assert main.main() == 0 and seen
    gc.collect()
    assert not list(alive)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
