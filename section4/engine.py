"""The engine: which device, which precision and which order of memory a model trains fastest in.

None of it can be known beforehand. A GPU may be there and its driver not; numbers of 16 bits make
one network four times faster on a processor and another twenty times slower on the same one. So
a device is trusted when a small training step on it has given the right numbers, and the rest is
settled by timing a few steps of the model that is to be trained.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from section4 import distributed

Batch = Sequence[Any]  # tensors, or lists with an item for each row
# What training makes small: (model, batch) -> the mean over the batch, and a score to show.
Objective = Callable[[nn.Module, Batch], tuple[torch.Tensor, torch.Tensor]]

DEVICES = ("cuda", "mps", "cpu")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HOPELESS = 1.3  # times slower than the fastest after one step: not timed again
ROUNDS = 3
IGNORED = -100  # the class of what does not count, as PyTorch has it
COMPILING_PAYS = 120.0  # seconds of training, below which compiling costs more than it saves


# --- the device -----------------------------------------------------------------------------


def find_device(wanted: str = "auto") -> tuple[torch.device, str]:
    """The device to use, and why no better one: the first of CUDA, MPS, CPU that computes.

    wanted: "auto", or one of DEVICES. Raises ValueError for another word, or where the wanted
    device does not work. From then on float32 is float32 on it: by themselves convolutions on
    recent GPUs take it for TF32, with the ten bits of float16.
    """
    torch.backends.cudnn.allow_tf32 = False
    if wanted not in ("auto", *DEVICES):
        raise ValueError(f"device must be auto, {' or '.join(DEVICES)}, got {wanted!r}")
    reasons = list[str]()
    for name in DEVICES if wanted == "auto" else (wanted,):
        device = torch.device(name)
        if name == "cuda" and distributed.count() > 1:
            device = torch.device(name, distributed.local_rank())  # a GPU for each process
        fault = fault_of(device)
        if not fault:
            return device, "; ".join(reasons)
        reasons.append(f"no {name}: {fault}")
    raise ValueError(f"the device {wanted} cannot be used: {reasons[0]}")


def fault_of(device: torch.device) -> str:
    """What is wrong with a device, in one line: "" where a training step comes out right."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "no GPU that this PyTorch can use"
    if device.type == "mps" and not torch.backends.mps.is_available():
        return "not on this system"
    if distributed.count() > 1 and device.type == "mps":
        return "one process alone can train on it"
    if distributed.count() > 1 and device.type == "cuda":
        count, processes = torch.cuda.device_count(), distributed.local_count()
        if count < processes:
            return f"{processes} processes need a GPU each, and {count} can be used"
    try:
        image = torch.linspace(-1, 2, 64, device=device).reshape(1, 1, 8, 8)
        weight = torch.linspace(-1, 2, 9, device=device).reshape(1, 1, 3, 3).requires_grad_()
        nn.functional.conv2d(image, weight).square().sum().backward()
        here, there = weight.grad, _expected_gradient()
        if here is None or not torch.allclose(here.cpu(), there, rtol=1e-2):
            return "a small convolution came out wrong"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def _expected_gradient() -> torch.Tensor:
    """The gradient that `fault_of` asks for, in float64 by the definition of a convolution."""
    image = torch.linspace(-1, 2, 64, dtype=torch.float64).reshape(8, 8)
    weight = torch.linspace(-1, 2, 9, dtype=torch.float64)
    windows = image.unfold(0, 3, 1).unfold(1, 3, 1).reshape(36, 9)  # a row for each place
    return (2 * windows.T @ (windows @ weight)).float().reshape(1, 1, 3, 3)


# --- precision and memory format ------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How a model is computed; the weights themselves are float32 in all of them."""

    device: torch.device
    dtype: torch.dtype = torch.float32  # of convolutions and matrix products
    channels_last: bool = False  # images in memory as N, H, W, C; their shape stays N, C, H, W
    compiled: bool = False

    def __str__(self) -> str:
        words = [self.device.type, str(self.dtype).removeprefix("torch.")]
        words += ["channels last"] * self.channels_last + ["compiled"] * self.compiled
        return ", ".join(words)

    def prepare(self, model: nn.Module) -> nn.Module:
        """The same model, moved to the device and with its filters in this order of memory."""
        form = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=form)  # type: ignore[call-overload]

    def place(self, item: Any) -> Any:
        """A tensor, or a list of them, on the device; images in this order of memory."""
        if isinstance(item, (list, tuple)):
            return type(item)(self.place(part) for part in item)
        if not isinstance(item, torch.Tensor):
            return item
        item = item.to(self.device, non_blocking=True)
        if item.ndim == 4 and item.is_floating_point() and self.channels_last:
            item = item.contiguous(memory_format=torch.channels_last)
        return item

    def autocast(self) -> AbstractContextManager:
        """Within it, operations that gain by it and lose little compute in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps gradients of float16 from becoming 0; for other types it does nothing.

        It multiplies the loss and doubles the factor while that goes well. PyTorch's own first
        factor, 2^16, is too large for the first gradients of a deep network: those above 1 become
        infinite, and steps are skipped.
        """
        half = self.dtype == torch.float16
        return torch.amp.GradScaler(self.device.type, init_scale=2.0**8, enabled=half)


PLAIN = Setting(torch.device("cpu"))


def settings(device: torch.device, precision: str = "auto", images: bool = True) -> list[Setting]:
    """All that `choose` picks from: both orders of memory, and the precisions of the device.

    images: False for models of rows or texts, which have but one order of memory. Raises
    ValueError for an unknown precision.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision must be auto, {' or '.join(PRECISIONS)}, got {precision!r}")
    if precision != "auto":
        dtypes = [PRECISIONS[precision]]
    elif device.type == "cuda":
        half = torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
        dtypes = [torch.float32, half]
    else:
        dtypes = [torch.float32] + [torch.bfloat16] * (device.type == "cpu")
    orders = (False, True) if images else (False,)
    return [Setting(device, dtype, order) for dtype in dtypes for order in orders]


def choose(
    model: nn.Module, batch: Batch, objective: Objective, choices: Sequence[Setting]
) -> tuple[Setting, dict[Setting, float]]:
    """The fastest of the choices for this model, and the seconds that a step took in each.

    Each is timed on a copy of the model; those left far behind after one step are not timed
    again. Of several processes each times its own and all take what is fastest for the slowest.
    """
    if len(choices) == 1:
        return choices[0], {}
    steps = {choice: training_step(model, batch, objective, choice) for choice in choices}
    times: dict[Setting, list[float]] = {choice: [] for choice in choices}
    with torch.random.fork_rng(gpus(choices[0].device)):  # dropout draws, and not always as often
        for step in steps.values():
            step()  # warm up: memory is taken, kernels are chosen
        for turn in range(ROUNDS):
            for choice in choices:
                best = min((min(t) for t in times.values() if t), default=float("inf"))
                if turn == 0 or min(times[choice]) <= HOPELESS * best:
                    times[choice].append(seconds(steps[choice], choice.device))
    slowest = distributed.highest([min(times[choice]) for choice in choices])
    measured = dict(zip(choices, slowest))
    return min(choices, key=lambda choice: measured[choice]), measured


def best_threads(model: nn.Module, batch: Batch, objective: Objective, setting: Setting) -> int:
    """How many threads of a CPU train this model fastest: all, half of them, a quarter ...

    After every operation threads wait for each other, and where other programs keep a core busy
    that can take longer than the operation: two threads then are slower than one, up to fifty
    times so for a small network.
    """
    step, count = training_step(model, batch, objective, setting), torch.get_num_threads()
    times = {}
    with torch.random.fork_rng(gpus(setting.device)):
        for threads in (count >> k for k in range(count.bit_length())):
            torch.set_num_threads(threads)
            step()
            times[threads] = min(seconds(step, setting.device) for _ in range(ROUNDS))
            if times[threads] > min(times.values()):
                break
    torch.set_num_threads(count)
    return min(times, key=lambda threads: times[threads])


def training_step(
    model: nn.Module, batch: Batch, objective: Objective, setting: Setting
) -> Callable[[], None]:
    """One step of SGD on a copy of the model, to be timed."""
    twin = setting.prepare(copy.deepcopy(model)).train()
    network = torch.compile(twin) if setting.compiled else twin
    placed = setting.place(batch)
    optimizer = torch.optim.SGD(twin.parameters(), 1e-3)

    def step() -> None:
        with setting.autocast():
            loss, _ = objective(network, placed)  # type: ignore[arg-type]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """The time that a call takes until the device is done with it."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a device is done with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def gpus(device: torch.device) -> list[int]:
    """The GPUs whose random numbers are drawn from, when a model trains on `device`."""
    return list(range(torch.cuda.device_count())) if device.type == "cuda" else []


def with_compiler(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    setting: Setting,
    expected_seconds: float,
) -> tuple[Setting, str]:
    """The same setting, compiled where that pays and works; and why not, where it was tried.

    It pays on a GPU, for a training that takes long. One step is tried, by all processes: a
    compiler needs programs that are not everywhere.
    """
    if setting.device.type != "cuda" or expected_seconds <= COMPILING_PAYS:
        return setting, ""
    compiled, fault = replace(setting, compiled=True), ""
    with torch.random.fork_rng(gpus(setting.device)):
        try:
            training_step(model, batch, objective, compiled)()
        except Exception as error:  # it can fail in any way at all
            fault = " ".join(str(error).split())[:200] or type(error).__name__
    if distributed.highest([bool(fault)])[0]:
        return setting, fault or "another process cannot"
    return compiled, ""


def no_memory(rows: int) -> MemoryError:
    """The error to raise where a GPU has no memory for so many rows of a batch."""
    return MemoryError(
        f"the GPU has no memory for {rows} row{'s' * (rows > 1)} at once: "
        "take smaller batches (--batch-size) or a smaller model"
    )


# --- objectives -----------------------------------------------------------------------------


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """Of a classifier with batches (x, y): softmax cross-entropy, and the share that is right.

    y are classes (N,), or shares of classes (N, K) as Mixup makes them; then right is who
    finds the larger share. Of texts, scores (N, T, K) and y (N, T), every token of a batch counts
    alike; where y is IGNORED it does not count, and where no token does, both numbers are 0.
    """

    def objective(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch
        scores = model(x).float()  # (N, K); the loss needs float32's digits
        if scores.ndim == 3:
            scores, y = scores.flatten(0, 1), y.flatten()  # (N, T, K) -> (N T, K)
        loss = nn.functional.cross_entropy(scores, y, label_smoothing=label_smoothing)
        target = y if y.ndim == 1 else y.argmax(1)
        right = (scores.detach().argmax(1) == target).sum()
        counted = (target != IGNORED).sum()
        return torch.where(counted > 0, loss, 0.0), right / counted.clamp(min=1)

    return objective


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """The length of the gradients of all these parameters, as one vector."""
    norms = [p.grad.detach().float().norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm()
