"""PyTorch's convolution, timed in a process of its own, for programs that must do without PyTorch.

It is a server and no benchmark: `section3/experiments/convolution_speed.py` asks for one time
after another, in turns with its own, so that what slows the machine for a while slows both
sides alike. It reads a JSON list a line, [images, size, channels, filters, kernel, stride,
backward, calls, blocks], and answers with {"ms": ..., "layout": ...}; its first line is
{"version": ...}. float32, one thread, padding kernel // 2. Images lie in memory in that of two
layouts which is faster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

LAYOUTS = {
    "channels first": torch.contiguous_format,  # PyTorch's default
    "channels last": torch.channels_last,
}
Call = Callable[[], object]


def convolution(
    layout: str,
    images: int,
    size: int,
    channels: int,
    filters: int,
    kernel: int,
    stride: int,
    backward: bool,
) -> Call:
    """A forward pass without a graph, or forward and backward with dW, db and dx."""
    conv = torch.nn.Conv2d(channels, filters, kernel, stride=stride, padding=kernel // 2)
    conv = conv.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    x = torch.randn(images, channels, size, size).to(memory_format=LAYOUTS[layout])

    def forward() -> object:
        with torch.inference_mode():
            return conv(x)

    def both() -> object:
        conv.zero_grad()
        x.grad = None
        return conv(x).backward(dy)

    if not backward:
        return forward
    x.requires_grad_()
    dy = torch.randn_like(conv(x))
    return both


def milliseconds(call: Call, calls: int, blocks: int) -> float:
    """The time of a call, in the fastest of some blocks of calls."""
    call()  # what others have thrown out of the cache is there again
    times = []
    for _ in range(blocks):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append(time.perf_counter() - start)
    return min(times) / calls * 1e3


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(json.dumps({"version": torch.__version__}), flush=True)
    ready: dict[tuple, tuple[str, Call]] = {}
    for line in sys.stdin:
        *case, calls, blocks = json.loads(line)
        key = tuple(case)
        if key not in ready:
            found = []
            for layout in LAYOUTS:
                call = convolution(layout, *key)
                found.append((milliseconds(call, calls, 2 * blocks), layout, call))
            ready[key] = min(found, key=lambda entry: entry[0])[1:]
        layout, call = ready[key]
        print(json.dumps({"ms": milliseconds(call, calls, blocks), "layout": layout}), flush=True)


if __name__ == "__main__":
    main()
