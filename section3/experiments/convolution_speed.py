"""How much faster is a convolution as a matrix product than as loops, and how near the peak?

Four ways to compute the same: loops as in the definition (`naive.py`); im2col and a matrix
product, each written in a line, for a whole batch at once; the layer `Conv2D`, which does that
for a few images at a time, in memory that it uses again; and PyTorch, where it is installed.
All run on one thread, in float32, in turns: a round times everything, and the next one in the
opposite order; of a few blocks of calls the fastest counts, that in which nothing else kept the
machine busy. The peak is the highest speed at which NumPy multiplies two square matrices; it
depends on which code its library has for this processor. PyTorch works in a process of its
own, which waits while others are timed, with the layout of images in memory that suits it
better. Loops are measured where they take seconds at most; nothing is extrapolated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from section1.parallel import one_blas_thread
from section3 import naive
from section3.conv import Conv2D
from section3.im2col import col2im, im2col
from utils.experiments import machine
from utils.experiments.registry import ROOT
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

METHODS = {"loops": "loops", "im2col": "im2col, matrix product", "conv2d": "Conv2D",
           "torch": "PyTorch"}  # fmt: skip
PASSES = {False: "forward", True: "forward and backward"}
SQUARES = (256, 512, 768)  # rows and columns of matrices; the fastest product is the peak
BLOCKS = 3
LOOP_ROUNDS = 3  # loops are slow, and their time hardly varies
SERVER = (sys.executable, "-m", "benchmarks.torch_conv")

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A convolution of square images; padding keeps their size, or what the stride leaves of it."""

    images: int
    size: int
    channels: int
    filters: int
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        text = (
            f"{self.size}×{self.size}, {self.channels}→{self.filters}, {self.kernel}×{self.kernel}"
        )
        return text + (f", stride {self.stride}" if self.stride > 1 else "")

    def gflop(self, backward: bool) -> float:
        """Additions and multiplications in 10^9; dW and dx each take as many as y."""
        places = self.images * (-(-self.size // self.stride)) ** 2
        each = self.kernel**2 * self.channels * self.filters
        return (3 if backward else 1) * 2 * places * each / 1e9


def sweep(sizes: Sequence[int]) -> list[Case]:
    """One image of growing size."""
    return [Case(1, size, 16, 32) for size in sizes]


def layers(images: int) -> dict[str, Case]:
    """Layers of this section's networks."""
    return {
        "mnist_cnn, first": Case(images, 28, 1, 32),
        "mnist_cnn, second": Case(images, 14, 32, 64),
        "three_layer_cnn": Case(images, 32, 3, 32, kernel=7),
        "numpy_resnet, stride 2": Case(images, 32, 32, 64, stride=2),
        "numpy_resnet, second": Case(images, 16, 64, 64),
    }


# --- the ways to compute it --------------------------------------------------------------


def calls(case: Case, rng: np.random.Generator) -> dict[tuple[str, bool], Call]:
    """For each method and pass a function; forward gives y, and backward dx, dW and db."""
    conv = Conv2D(
        case.channels, case.filters, case.kernel, stride=case.stride, padding=case.kernel // 2,
        rng=rng,
    )  # fmt: skip
    assert conv.bias is not None
    w, b = conv.weight.value, conv.bias.value
    b[...] = rng.standard_normal(b.shape)
    options: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding}
    x = rng.standard_normal((case.images, case.size, case.size, case.channels), np.float32)
    dy = rng.standard_normal(conv.forward(x).shape, np.float32)
    worker, reader = conv.replica(), conv.replica()
    reader.eval()

    def columns_forward() -> tuple[np.ndarray, np.ndarray]:
        columns = im2col(x, conv.kernel, **options)
        return (columns @ w.reshape(-1, case.filters) + b).reshape(dy.shape), columns

    def columns_backward() -> tuple[np.ndarray, ...]:
        _, columns = columns_forward()
        rows = dy.reshape(-1, case.filters)
        dx = col2im(rows @ w.reshape(-1, case.filters).T, x.shape, conv.kernel, **options)
        return dx, (columns.T @ rows).reshape(w.shape), rows.sum(axis=0)

    def loops_backward() -> tuple[np.ndarray, ...]:
        naive.conv2d(x, w, b, **options)
        return naive.conv2d_backward(dy, x, w, **options)

    def layer_backward() -> tuple[np.ndarray | None, ...]:
        for parameter in parameters:
            parameter.zero_grad()
        worker.forward(x)
        return worker.backward(dy), *(parameter.grad for parameter in parameters)

    parameters = worker.parameters()
    return {
        ("loops", False): lambda: naive.conv2d(x, w, b, **options),
        ("loops", True): loops_backward,
        ("im2col", False): lambda: columns_forward()[0],
        ("im2col", True): columns_backward,
        ("conv2d", False): lambda: reader.forward(x),
        ("conv2d", True): layer_backward,
    }


def disagreement(functions: dict[tuple[str, bool], Call]) -> float:
    """The largest difference between the methods, relative to the largest number."""
    worst = 0.0
    for backward in PASSES:
        results = [call() for (_, both), call in functions.items() if both == backward]
        for arrays in zip(*(r if isinstance(r, tuple) else (r,) for r in results)):
            scale = np.abs(arrays[0]).max()
            worst = max(worst, *(float(np.abs(a - arrays[0]).max() / scale) for a in arrays))
    return worst


class TorchServer:
    """PyTorch in another process; `version` is None where it is not installed."""

    def __init__(self, command: Sequence[str]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, cwd=ROOT,
        )  # fmt: skip
        self.version: str | None = self._read().get("version")
        self.layouts: dict[tuple[Case, bool], str] = {}

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def milliseconds(self, case: Case, backward: bool, count: int) -> float:
        assert self.process.stdin is not None
        request = json.dumps([*astuple(case), backward, count, BLOCKS])
        print(request, file=self.process.stdin, flush=True)
        answer = self._read()
        if not answer:
            raise RuntimeError("the process that times PyTorch has ended")
        self.layouts[case, backward] = answer["layout"]
        return answer["ms"]

    def __enter__(self) -> TorchServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.__exit__(None, None, None)  # closes its input, at which it ends


# --- timing ------------------------------------------------------------------------------


def milliseconds(call: Call, count: int, blocks: int = BLOCKS) -> float:
    """The time of a call, in the fastest of some blocks of `count` calls.

    If there are several, a call comes before them that brings its data back into the cache.
    """
    if blocks > 1:
        call()
    times = []
    for _ in range(blocks):
        start = time.perf_counter()
        for _ in range(count):
            call()
        times.append(time.perf_counter() - start)
    return min(times) / count * 1e3


def squares(size: int, rng: np.random.Generator) -> Callable[[], float]:
    """A function that measures GFLOP/s, in the product of two matrices of size x size."""
    a, b = rng.standard_normal((2, size, size), np.float32)
    out = np.empty_like(a)
    count = max(1, 512**3 // size**3)
    return lambda: 2 * size**3 / milliseconds(lambda: np.matmul(a, b, out=out), count) / 1e6


Key = tuple[Case, bool, str]


def measure(
    run: Run, cases: Sequence[Case], loops_for: Sequence[Case], server: TorchServer
) -> tuple[dict[Key, np.ndarray], np.ndarray, float]:
    """In every round milliseconds by case, pass and method, and the peak; the disagreement.

    What the methods give is compared for all cases; that of the loops for the first one.
    """
    budget, timers = run.budget, dict[Key, Callable[[], float]]()
    worst = 0.0
    for number, case in enumerate(cases):
        functions = calls(case, run.rng(number))
        fast = {key: call for key, call in functions.items() if key[0] != "loops"}
        worst = max(worst, disagreement(functions if case == cases[0] else fast))
        for (method, backward), call in functions.items():
            if method == "loops":
                if case in loops_for:
                    timers[case, backward, method] = partial(milliseconds, call, 1, blocks=1)
                continue
            count = max(1, round(budget.block_ms / milliseconds(call, 2)))
            timers[case, backward, method] = partial(milliseconds, call, count)
            if method == "conv2d" and server.version:
                timers[case, backward, "torch"] = partial(
                    server.milliseconds, case, backward, count
                )
    times: dict[Key, list[float]] = {key: [] for key in timers}
    products = [squares(size, run.rng(len(cases))) for size in SQUARES]
    peaks = []
    with run.progress(budget.rounds) as bar:
        for number in range(budget.rounds):
            speeds = [product() for product in products]
            for key in list(timers) if number % 2 else list(timers)[::-1]:
                if key[2] != "loops" or number < LOOP_ROUNDS:
                    times[key].append(timers[key]())
            speeds += [product() for product in products]
            peaks.append(max(speeds))
            bar.advance()
    return {key: np.array(row) for key, row in times.items()}, np.array(peaks), worst


def compute(run: Run) -> Result:
    budget = run.budget
    run.note_data("random", "random numbers in float32")
    by_size, by_layer = sweep(budget.sizes), layers(budget.images)
    looped = [case for case in by_size if case.size <= budget.loops_up_to]
    cases = [*by_size, *by_layer.values()]
    with one_blas_thread(), TorchServer(SERVER) as server:
        times, peak, worst = measure(run, cases, looped, server)
    names = dict.fromkeys(by_size, "one image") | {case: k for k, case in by_layer.items()}
    rows = []
    for (case, backward, method), ms in times.items():
        low, middle, high = np.percentile(ms, (25, 50, 75))
        speeds = case.gflop(backward) / ms * 1e3
        shares = np.percentile(speeds / peak[: len(ms)], (25, 50, 75))
        rows.append([
            names[case], str(case), case.images, case.size, PASSES[backward], METHODS[method],
            case.gflop(backward), middle, low, high, np.median(speeds), shares[1], shares[0],
            shares[2], len(ms), server.layouts.get((case, backward), "") * (method == "torch"),
        ])  # fmt: skip
    columns = ["layer", "convolution", "images", "size", "pass", "method", "GFLOP", "ms",
               "lower quartile", "upper quartile", "GFLOP/s", "share of the peak",
               "share, lower quartile", "share, upper quartile", "repeats", "layout"]  # fmt: skip

    def ratio(case: Case, slow: str, fast: str, backward: bool = True) -> float:
        slower, faster = times[case, backward, slow], times[case, backward, fast]
        rounds = min(len(slower), len(faster))
        return float(np.median(slower[:rounds] / faster[:rounds]))

    last = looped[-1]
    share = {
        (method, backward): [r[11] for r in rows
                             if r[0] in by_layer and r[4:6] == [PASSES[backward], METHODS[method]]]
        for method, backward in product(METHODS, PASSES)
    }  # fmt: skip
    low, high = np.percentile(peak, (25, 75))
    metrics = {
        "conv2d_times_faster_than_loops": ratio(last, "loops", "conv2d"),
        "im2col_times_faster_than_loops": ratio(last, "loops", "im2col"),
        "loops_size": last.size,
        "peak_gflops": float(np.median(peak)),
        "peak_lower_quartile": float(low),
        "peak_upper_quartile": float(high),
        "largest_difference": worst,
    }
    for method in ("im2col", "conv2d"):
        metrics[f"{method}_share_lowest"] = min(share[method, True])
        metrics[f"{method}_share_highest"] = max(share[method, True])
    metrics["conv2d_times_faster_than_im2col"] = float(
        np.median([ratio(case, "im2col", "conv2d") for case in by_layer.values()])
    )
    library = machine.blas()
    answer = (
        f"A {last.kernel}×{last.kernel} convolution from {last.channels} to {last.filters} "
        f"channels of one {last.size}×{last.size} image, forward and backward, is "
        f"{metrics['im2col_times_faster_than_loops']:,.0f} times faster as a matrix product than "
        f"as loops, and {metrics['conv2d_times_faster_than_loops']:,.0f} times in Conv2D. NumPy "
        f"multiplies square matrices at {metrics['peak_gflops']:.0f} GFLOP/s on one thread "
        f"({library}). Of that, layers of this section's networks, with {budget.images} images, "
        f"reach {metrics['im2col_share_lowest']:.0%} to {metrics['im2col_share_highest']:.0%} with "
        f"im2col and a matrix product, {metrics['conv2d_share_lowest']:.0%} to "
        f"{metrics['conv2d_share_highest']:.0%} in Conv2D."
    )
    if server.version:
        against = [ratio(case, "conv2d", "torch") for case in by_layer.values()]
        metrics["conv2d_time_in_torch_times"] = float(np.median(against))
        metrics["torch_share_lowest"] = min(share["torch", True])
        metrics["torch_share_highest"] = max(share["torch", True])
        answer += (
            f" PyTorch {server.version}, whose products are its own, reaches "
            f"{metrics['torch_share_lowest']:.0%} to {metrics['torch_share_highest']:.0%}; Conv2D "
            f"takes {min(against):.2f} to {max(against):.2f} times as long."
        )
    else:
        answer += " PyTorch is not installed, so its times are missing."
    tables = {
        "times": Table(columns, rows),
        "peak": Table(
            ["library", "product", "GFLOP/s", "lower quartile", "upper quartile", "repeats"],
            [[library, "square, float32, one thread", np.median(peak), low, high, len(peak)]],
        ),
    }
    return Result(answer, "conv2d_times_faster_than_loops", metrics, {}, tables, {})


# --- figures -----------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    metrics = result.metrics
    table = result.tables["times"]
    rows = [dict(zip(table.columns, row)) for row in table.rows]
    used = [name for name in METHODS.values() if any(row["method"] == name for row in rows)]

    sizes, axes = plots.grid(1, 2, width=4.6, height=4.2, sharey=True)
    for place, name in zip(axes[0], PASSES.values()):
        chosen = [row for row in rows if row["pass"] == name and row["layer"] == "one image"]
        show_sizes(place, chosen, used, metrics["peak_gflops"])
        place.set_title(name)
    axes[0, 0].set_ylabel("milliseconds a call")
    sizes.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    sizes.suptitle(
        f"On a {metrics['loops_size']:.0f}×{metrics['loops_size']:.0f} image the matrix product is "
        f"{metrics['im2col_times_faster_than_loops']:,.0f} times faster than loops, Conv2D "
        f"{metrics['conv2d_times_faster_than_loops']:,.0f} times (forward and backward)"
    )

    shares, axes = plots.grid(1, 2, width=4.6, height=4.6, sharex=True, sharey=True)
    for place, name in zip(axes[0], PASSES.values()):
        chosen = [row for row in rows if row["pass"] == name and row["layer"] != "one image"]
        show_layers(place, chosen, [name for name in used if name != METHODS["loops"]])
        place.set_title(f"{name}, {chosen[0]['images']} images")
    shares.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    title = (
        f"Forward and backward, Conv2D reaches {metrics['conv2d_share_lowest']:.0%} to "
        f"{metrics['conv2d_share_highest']:.0%} of a peak of {metrics['peak_gflops']:.0f} GFLOP/s "
        f"and is {metrics['conv2d_times_faster_than_im2col']:.2f} times as fast as plain im2col"
    )
    if "conv2d_time_in_torch_times" in metrics:
        title += f"; it takes {metrics['conv2d_time_in_torch_times']:.2f} times as long as PyTorch"
    title += " (medians over layers)"
    shares.suptitle(title)
    return {"sizes": sizes, "layers": shares}


def spread(rows: list[dict], middle: str, low: str, high: str) -> tuple[list, list]:
    """Medians, and the distances of the quartiles from them."""
    values = [row[middle] for row in rows]
    return values, [
        [row[middle] - row[low] for row in rows],
        [row[high] - row[middle] for row in rows],
    ]


def show_sizes(axes: Axes, rows: list[dict], methods: list[str], peak: float) -> None:
    """Time over the size of the image, and the time that it would take at the peak."""
    for number, name in enumerate(METHODS.values()):
        if name not in methods:
            continue
        mine = [row for row in rows if row["method"] == name]
        ms, errors = spread(mine, "ms", "lower quartile", "upper quartile")
        axes.errorbar(
            [row["size"] for row in mine], ms, errors, label=name, color=f"C{number}", capsize=3,
            marker=plots.MARKERS[number], ms=5,
        )  # fmt: skip
    least = {row["size"]: row["GFLOP"] / peak * 1e3 for row in rows}
    axes.plot(
        list(least), list(least.values()), color="black", ls="--", lw=1.2,
        label=f"at {peak:.0f} GFLOP/s, the peak",
    )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("height and width of the image (pixels)\nwhiskers: quartiles")
    axes.set_xticks(list(least), list(map(str, least)))
    axes.xaxis.set_minor_locator(NullLocator())


def show_layers(axes: Axes, rows: list[dict], methods: list[str]) -> None:
    """Speed as a share of the peak: a group of bars for each layer."""
    names = list(dict.fromkeys(row["layer"] for row in rows))
    labels = [
        f"{name}\n{next(row['convolution'] for row in rows if row['layer'] == name)}"
        for name in names
    ]
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        mine = [row for row in rows if row["method"] == method]
        keys = "share of the peak", "share, lower quartile", "share, upper quartile"
        shares, errors = (100 * np.array(numbers) for numbers in spread(mine, *keys))
        heights = np.arange(len(names)) + width * (place - (len(methods) - 1) / 2)
        colour = f"C{list(METHODS.values()).index(method)}"
        look: dict[str, Any] = {"color": colour, "label": method, "ecolor": "black", "capsize": 2}
        axes.barh(heights, shares, width * 0.92, xerr=errors, error_kw={"lw": 1}, **look)
    axes.axvline(100, color="black", ls="--", lw=1.2, label="peak of NumPy")
    axes.set_yticks(range(len(names)), labels, fontsize="small")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("speed (% of the peak)\nbars: medians; whiskers: quartiles")
    axes.grid(False, axis="y")
