"""PyTorch's convolution in a process of its own, for programs that must do without PyTorch.

It is a server, not a benchmark of its own: `section3/experiments/convolution_speed.py` asks for
one measurement after another, in turns with its own, so that what slows the machine for a while
slows both alike. It reads a JSON list a line, [images, size, channels, filters, kernel, stride,
padding, backward, calls], and answers with {"ms": the time of a call, "layout": ...}. The first
line that it writes is {"version": ...}. One thread, float32; the layout of the images in memory
is the one of two that is faster: channels first, PyTorch's default, or last.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

LAYOUTS = {
    "channels first": torch.contiguous_format,
    "channels last": torch.channels_last,
}


def function(
    layout: str,
    images: int,
    size: int,
    channels: int,
    filters: int,
    kernel: int,
    stride: int,
    padding: int,
    backward: bool,
) -> Callable[[], object]:
    """A call of the convolution: forward without a graph, or forward and backward, dx too."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(channels, filters, kernel, stride=stride, padding=padding)
    conv = conv.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    x = torch.randn(images, channels, size, size).to(memory_format=LAYOUTS[layout])
    if not backward:

        def forward() -> object:
            with torch.inference_mode():
                return conv(x)

        return forward
    x.requires_grad_()
    dy = torch.randn_like(conv(x))

    def step() -> None:
        conv.zero_grad()
        x.grad = None
        conv(x).backward(dy)

    return step


def milliseconds(call: Callable[[], object], calls: int) -> float:
    call()  # what the others have thrown out of the cache is back in it
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e3


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps({"version": torch.__version__}), flush=True)
    ready: dict[tuple, tuple[str, Callable[[], object]]] = {}
    for line in sys.stdin:
        *case, calls = json.loads(line)
        key = tuple(case)
        if key not in ready:
            choices = {layout: function(layout, *key) for layout in LAYOUTS}
            best = min(
                choices, key=lambda name: min(milliseconds(choices[name], calls) for _ in range(3))
            )
            ready[key] = best, choices[best]
        layout, call = ready[key]
        print(json.dumps({"ms": milliseconds(call, calls), "layout": layout}), flush=True)


if __name__ == "__main__":
    main()
