"""What `test_distributed.py` runs in one process and in two: `python -m ... FOLDER [fail]`.

Every process writes what it found to FOLDER/rank<number>.pt.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from section2.schedules import cosine
from section4 import distributed, engine
from section4.engine import Setting, cross_entropy
from section4.gans.adversarial import fit as adversarial_fit
from section4.gans.losses import wasserstein
from section4.gans.models import mlp_discriminator, mlp_generator
from section4.images import Batches
from section4.training import averaged, evaluate, fit

CPU = torch.device("cpu")
OBJECTIVE = cross_entropy()
FIRST_SLOWER, SECOND_SLOWER = Setting(CPU), Setting(CPU, channels_last=True)


def net(norm: bool = False, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(),
            nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4),
        )  # fmt: skip


def batches(rows: int, size: int, seed: int | None = None) -> Batches:
    """Batches of 16, 16, 16 and 4 of 52 rows; the last of 21 rows is one row for both processes."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randint(0, 256, (rows, 3, 7, 7), dtype=torch.uint8, generator=generator)
    y = (x.float().mean((2, 3)).argmax(1) + x[:, 0, 0, 0] % 2) % 4
    return Batches(x, y, torch.full((3,), 0.5), torch.full((3,), 0.3), size, seed=seed)


def learn(model: nn.Module, epochs: int = 2, average: Any = None, **options: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return fit(
        model, options.pop("objective", OBJECTIVE), optimizer, batches(52, 16, seed=3),
        epochs=epochs, seed=1, schedule=cosine(0.1, 8), clip=2.0, average=average,
        validate=lambda judged: evaluate(judged, OBJECTIVE, batches(21, 20)), **options,
    )  # fmt: skip


def first_gradients() -> list[torch.Tensor]:
    """Of the first batch, as they are when the update begins."""
    model, found = net(), list[torch.Tensor]()

    def keep(step: int) -> None:
        if step == 0:
            found.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)

    learn(model, epochs=1, on_gradients=keep)
    return found


def trained(folder: Path) -> dict[str, Any]:
    model = net(seed=distributed.rank())  # both start from the weights of the first
    mean = averaged(model, 0.5)
    history = learn(model, average=mean, checkpoints=folder / f"files of {distributed.rank()}")
    columns = {name: numbers for name, numbers in vars(history).items() if name != "seconds"}
    return {"weights": model.state_dict(), "mean": mean.module.state_dict(), "history": columns}


def resumed(folder: Path) -> dict[str, Any]:
    """A training in one go, and one that is begun anew after its first epoch."""
    for norm in (False, True):
        model, other = net(norm), net(norm)
        learn(model)
        place = folder / f"common {norm}"
        learn(other, epochs=1, checkpoints=place)
        distributed.total([0])  # the first process has written when all have come here
        other = net(norm, seed=7)
        learn(other, checkpoints=place, resume=True)
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), f"{name}, norm {norm}"
    return {"buffers": [buffer.clone() for buffer in model.buffers()]}


def twice() -> dict[str, torch.Tensor]:
    """The same model trained twice, and in between without the others."""
    model = net()
    learn(model, epochs=1)
    x, y = next(batches(52, 16)())
    OBJECTIVE(model, (x[:2], y[:2]))[0].backward()
    learn(model, epochs=1)
    return model.state_dict()


def adversarial() -> dict[str, Any]:
    """A game of two networks, whose noise is not the same for all processes."""
    with torch.random.fork_rng():
        torch.manual_seed(distributed.rank())  # both start from the weights of the first
        players = mlp_generator(2, (2,), (4,), batchnorm=True), mlp_discriminator((2,), (4,))
    optimizers: Any = tuple(torch.optim.Adam(player.parameters(), 0.01) for player in players)

    def data(epoch: int) -> Iterator[tuple[torch.Tensor]]:
        rows = torch.linspace(-1, 1, 24).reshape(12, 2)
        yield from [(distributed.share(rows),)] * 3

    history = adversarial_fit(*players, wasserstein(), optimizers, data, epochs=2, seed=0)
    weights = [player.state_dict() for player in players]
    return {"weights": weights, "loss": history.discriminator_loss}


def drawn() -> float:
    """A random number during training: dropout must not be the same for all processes."""
    numbers = list[float]()
    learn(net(), epochs=1, on_gradients=lambda step: numbers.append(torch.rand(1).item()))
    return numbers[0]


def chosen() -> str:
    """The first process is slower in one setting, the second in the other, and by more."""
    times = {FIRST_SLOWER: (5, 1), SECOND_SLOWER: (2, 6)}

    class Step:
        def __init__(self, model: Any, batch: Any, objective: Any, setting: Setting):
            self.setting = setting

        def __call__(self) -> None:
            pass

    def seconds(step: Step, device: torch.device) -> float:
        return times[step.setting][distributed.rank()]

    engine.training_step, engine.seconds = Step, seconds  # type: ignore[assignment]
    setting, _ = engine.choose(net(), next(batches(8, 8)()), OBJECTIVE, list(times))
    return str(setting)


def out_of_memory() -> str:
    def objective(model: nn.Module, batch: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    try:
        learn(net(), objective=objective)
    except MemoryError as error:
        return str(error)
    return ""


def fail() -> None:
    """One process meets an error, while the other waits for its gradients."""

    def stumble(step: int) -> None:
        if step == 2 and distributed.rank() == 1:
            raise ZeroDivisionError("a planted fault")

    learn(net(), on_gradients=stumble)


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if "fail" in sys.argv:
        fail()
        return
    distributed.join(CPU)
    rank = distributed.rank()
    marked = net(norm=True)
    for buffer in marked.buffers():
        buffer.fill_(5 + rank)
    distributed.same_buffers(marked)
    found = {
        "count": distributed.count(),
        "share": distributed.share(list(range(7))),
        "total": distributed.total([1.5, rank]),
        "highest": distributed.highest([rank, -rank]),
        "of first": [distributed.of_first(rank == k) for k in (0, 1)],
        "same buffers": [buffer.float().mean().item() for buffer in marked.buffers()],
        "gradients": first_gradients(),
        **trained(folder),
        **resumed(folder),
        "twice": twice(),
        "adversarial": adversarial(),
        "drawn": drawn(),
        "out of memory": out_of_memory(),
    }
    if distributed.count() > 1:
        found["chosen"] = chosen()
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main()
