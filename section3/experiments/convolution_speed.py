"""How much faster is a convolution as a matrix product than as loops, and how near the peak?

Four ways to compute the same, forward and backward: loops as in the definition (`naive.py`);
im2col and a matrix product, each written in a line; the layer `Conv2D`, which does that for a
few images at a time; and PyTorch, where it is installed. All run on one thread, in float32, and
all but the slow loops in turns: a round times everything, and the next one in the opposite order;
of a few blocks of calls the fastest counts, that in which nothing else kept the machine busy. The
peak is the highest speed at which NumPy multiplies two square matrices; it depends on which code
its library has for this processor. PyTorch works in a process of its own, which waits while others
are timed, with the layout of images in memory that suits it better. Loops are measured where they
take seconds; nothing is extrapolated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import timeit
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import counted
from section1.parallel import one_blas_thread
from section3 import naive
from section3.conv import Conv2D
from section3.im2col import col2im, im2col
from utils.errors import UserError
from utils.experiments import machine
from utils.experiments.registry import ROOT
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

METHODS = {"loops": "loops", "im2col": "im2col, matrix product", "conv2d": "Conv2D",
           "torch": "PyTorch"}  # fmt: skip
ONE_IMAGE = "one image"
SQUARES = (256, 512, 768)  # rows and columns of matrices; the fastest product is the peak
BLOCKS = 3
LOOP_CALLS = 3  # loops are slow, and their time hardly varies
SERVER = (sys.executable, "-m", "benchmarks.torch_conv")


@dataclass(frozen=True)
class Case:
    """A convolution of square images; padding keeps their size, or what the stride leaves of it."""

    name: str
    images: int
    size: int
    channels: int
    filters: int
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        across = f"{self.size}×{self.size}"
        text = f"{across}, {self.channels}→{self.filters}, {self.kernel}×{self.kernel}"
        return text + (f", stride {self.stride}" if self.stride > 1 else "")

    @property
    def gflop(self) -> float:
        """Additions and multiplications in 10^9; y, dW and dx take as many each."""
        places = self.images * (-(-self.size // self.stride)) ** 2
        return 3 * 2 * places * self.kernel**2 * self.channels * self.filters / 1e9


def layers(images: int) -> list[Case]:
    """Layers of this section's networks."""
    return [
        Case("mnist_cnn, first", images, 28, 1, 32),
        Case("mnist_cnn, second", images, 14, 32, 64),
        Case("three_layer_cnn", images, 32, 3, 32, kernel=7),
        Case("numpy_resnet, stride 2", images, 32, 32, 64, stride=2),
        Case("numpy_resnet, second", images, 16, 64, 64),
    ]


def calls(case: Case, rng: np.random.Generator) -> dict[str, Callable[[], tuple]]:
    """For each method a function that computes y, dx, dW and db."""
    conv = Conv2D(
        case.channels, case.filters, case.kernel, stride=case.stride, padding=case.kernel // 2,
        rng=rng,
    )  # fmt: skip
    parameters = conv.parameters()
    w, b = (parameter.value for parameter in parameters)
    options: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding}
    x = rng.standard_normal((case.images, case.size, case.size, case.channels), np.float32)
    dy = rng.standard_normal(conv.forward(x).shape, np.float32)

    def loops() -> tuple:
        return naive.conv2d(x, w, b, **options), *naive.conv2d_backward(dy, x, w, **options)

    def matrix_product() -> tuple:
        columns, matrix = im2col(x, conv.kernel, **options), w.reshape(-1, case.filters)
        y = (columns @ matrix + b).reshape(dy.shape)
        rows = dy.reshape(-1, case.filters)
        dx = col2im(rows @ matrix.T, x.shape, conv.kernel, **options)
        return y, dx, (columns.T @ rows).reshape(w.shape), rows.sum(axis=0)

    def layer() -> tuple:
        conv.zero_grad()
        return conv.forward(x), conv.backward(dy), *(parameter.grad for parameter in parameters)

    return {"loops": loops, "im2col": matrix_product, "conv2d": layer}


class TorchServer:
    """PyTorch in another process; `version` is empty where it could not be started."""

    def __init__(self, command: Sequence[str]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, cwd=ROOT,
        )  # fmt: skip
        self.version = self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def seconds(self, case: Case, count: int) -> float:
        """The time of so many calls."""
        _, *numbers = astuple(case)
        try:
            print(json.dumps([*numbers, count]), file=self.process.stdin, flush=True)
            return float(self._read())
        except (BrokenPipeError, ValueError):
            raise RuntimeError("the process that times PyTorch has ended") from None

    def __enter__(self) -> TorchServer:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(BrokenPipeError):
            self.process.__exit__(None, None, None)  # closes its input, at which it ends


def measure(run: Run, cases: Sequence[Case], server: TorchServer) -> tuple[dict, np.ndarray]:
    """Milliseconds by case and method, one for each round, and the peak in GFLOP/s."""
    budget = run.budget
    times: dict[Any, Any] = {}
    blocks: dict[Any, Callable[[int], float]] = {}  # the seconds of so many calls
    for number, case in enumerate(cases):
        functions = calls(case, run.rng(number))
        loops = functions.pop("loops")
        if case.name == ONE_IMAGE and case.size <= budget.loops_up_to:
            seconds = timeit.repeat(loops, number=1, repeat=LOOP_CALLS)
            times[case, "loops"] = 1e3 * np.array(seconds)
        blocks |= {(case, key): timeit.Timer(call).timeit for key, call in functions.items()}
        if server.version:
            blocks[case, "torch"] = partial(server.seconds, case)
    for size in SQUARES:
        a, b = run.rng(len(cases)).standard_normal((2, size, size), np.float32)
        blocks[size] = timeit.Timer(partial(np.matmul, a, b, np.empty_like(a))).timeit
    counts = {}
    for key, block in blocks.items():
        block(1)  # the first call is slower
        counts[key] = max(1, round(budget.block_ms / 1e3 / block(1)))
    times |= {key: np.empty(budget.rounds) for key in blocks}
    order = list(blocks)
    with run.progress(budget.rounds) as bar:
        for number in range(budget.rounds):
            for key in order:
                fastest = min(blocks[key](counts[key]) for _ in range(BLOCKS))
                times[key][number] = fastest / counts[key] * 1e3
            order.reverse()
            bar.advance()
    return times, np.max([2 * size**3 / times.pop(size) / 1e6 for size in SQUARES], axis=0)


def compute(run: Run) -> Result:
    budget = run.budget
    if min(budget.sizes) > budget.loops_up_to:
        raise UserError(
            f"the smallest of sizes must be at most {budget.loops_up_to}, loops_up_to, for loops "
            f"to be timed; got {min(budget.sizes)}"
        )
    run.note_data("random", "random numbers in float32")
    sizes = [Case(ONE_IMAGE, 1, size, 16, 32) for size in sorted(budget.sizes)]
    networks = layers(budget.images)
    with one_blas_thread(), TorchServer(SERVER) as server:
        times, peaks = measure(run, [*sizes, *networks], server)
    low, peak, high = np.percentile(peaks, (25, 50, 75))
    rows = []
    for (case, method), ms in times.items():
        first, middle, third = np.percentile(ms, (25, 50, 75))
        what = [case.name, str(case), case.size, METHODS[method], case.gflop / peak * 1e3]
        rows.append([*what, middle, first, third, len(ms)])

    def ratio(slow: str, fast: str, case: Case) -> float:
        return float(np.median(times[case, slow]) / np.median(times[case, fast]))

    last = next(case for case in reversed(sizes) if (case, "loops") in times)
    metrics = {
        "conv2d_times_faster_than_loops": ratio("loops", "conv2d", last),
        "im2col_times_faster_than_loops": ratio("loops", "im2col", last),
        "loops_size": last.size,
        "peak_gflops": peak,
    }
    for method in [key for key in METHODS if (networks[0], key) in times]:
        shares = [case.gflop / np.median(times[case, method]) * 1e3 / peak for case in networks]
        metrics |= {f"{method}_share_lowest": min(shares), f"{method}_share_highest": max(shares)}
    answer = (
        f"A convolution of one image ({last}), forward and backward, is "
        f"{metrics['im2col_times_faster_than_loops']:,.0f} times faster as a matrix product than "
        f"as loops, and {metrics['conv2d_times_faster_than_loops']:,.0f} times in Conv2D. NumPy "
        f"multiplies square matrices at {peak:.0f} GFLOP/s (quartiles {low:.0f} and {high:.0f}) on "
        f"one thread ({machine.blas()}). Layers of this section's networks, with "
        f"{counted(budget.images, 'image')}, reach {reached(metrics)} of that."
    )
    if server.version:
        against = [ratio("conv2d", "torch", case) for case in networks]
        answer += (
            f" Conv2D takes {min(against):.2f} to {max(against):.2f} times as long as PyTorch "
            f"{server.version}, whose products are its own."
        )
    else:
        answer += " PyTorch could not be started, so its times are missing."
    columns = ["layer", "convolution", "size", "method", "ms at the peak", "ms", "lower quartile",
               "upper quartile", "repeats"]  # fmt: skip
    tables = {"times": Table(columns, rows)}
    return Result(answer, "conv2d_times_faster_than_loops", metrics, tables=tables)


def reached(metrics: dict[str, float]) -> str:
    return ", ".join(
        f"{metrics[f'{key}_share_lowest']:.0%} to {metrics[f'{key}_share_highest']:.0%} ({method})"
        for key, method in METHODS.items()
        if f"{key}_share_lowest" in metrics
    )


def measured(rows: list[list], method: str) -> np.ndarray:
    """Size, ms at the peak, ms and its quartiles, each for all rows of a method."""
    return np.array([[row[2], *row[4:8]] for row in rows if row[3] == method]).T


def draw(result: Result) -> dict[str, Figure]:
    metrics, rows = result.metrics, result.tables["times"].rows
    one_image = [row for row in rows if row[0] == ONE_IMAGE]
    networks = [row for row in rows if row[0] != ONE_IMAGE]

    sizes, ((axes,),) = plots.grid(width=7.5, height=4.6)
    for number, method in enumerate(dict.fromkeys(row[3] for row in one_image)):
        size, at_peak, ms, low, high = measured(one_image, method)
        look: dict[str, Any] = {"label": method, "marker": plots.MARKERS[number], "ms": 5}
        axes.errorbar(size, ms, (ms - low, high - ms), capsize=3, **look)
    label = f"at {metrics['peak_gflops']:.0f} GFLOP/s, the peak"
    axes.plot(size, at_peak, color="black", ls="--", lw=1.2, label=label)
    axes.set(xscale="log", yscale="log", ylabel="milliseconds, forward and backward")
    axes.set_xlabel("height and width of one image (pixels); whiskers: quartiles")
    axes.set_xticks(size, [f"{pixels:.0f}" for pixels in size])
    axes.minorticks_off()
    axes.legend()
    sizes.suptitle(
        f"On a {metrics['loops_size']:.0f}×{metrics['loops_size']:.0f} image the matrix product is "
        f"{metrics['im2col_times_faster_than_loops']:,.0f} times faster than loops, Conv2D "
        f"{metrics['conv2d_times_faster_than_loops']:,.0f} times"
    )

    shares, ((axes,),) = plots.grid(width=7.5, height=4.8)
    names = list(dict.fromkeys(f"{row[0]}\n{row[1]}" for row in networks))
    for number, method in enumerate(dict.fromkeys(row[3] for row in networks)):
        _, at_peak, ms, low, high = measured(networks, method)
        share, least, most = 100 * at_peak / (ms, high, low)
        look = {"label": method, "color": f"C{number + 1}", "ecolor": "black", "capsize": 3}
        places = np.arange(len(names)) + 0.26 * (number - 1)
        axes.barh(places, share, 0.24, xerr=(share - least, most - share), **look)
    axes.axvline(100, color="black", ls="--", lw=1.2, label="peak of NumPy")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("speed (% of the peak); bars: medians; whiskers: quartiles")
    axes.grid(False, axis="y")
    shares.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    shares.suptitle(f"Of a peak of {metrics['peak_gflops']:.0f} GFLOP/s: {reached(metrics)}")
    return {"sizes": sizes, "layers": shares}
