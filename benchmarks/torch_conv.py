"""PyTorch's convolution, timed in a process of its own, for programs that must do without PyTorch.

It is a server and no benchmark: `section3/experiments/convolution_speed.py` asks for one time
after another, in turns with its own, so that what slows the machine for a while slows both
sides alike. Its first line is PyTorch's version. Then it reads a JSON list a line, [images,
size, channels, filters, kernel, stride, calls], and answers with the seconds that so many
calls take, forward and backward, on one thread.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from timeit import Timer

import torch

from benchmarks.conv import Case, torch_pass


@cache
def faster_pass(case: Case) -> Timer:
    """Images lie in memory in that of PyTorch's two layouts which is faster."""
    layouts = [Timer(torch_pass(case, channels_last)) for channels_last in (False, True)]
    return min(layouts, key=lambda timer: min(timer.repeat(repeat=10, number=1)))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        *case, calls = json.loads(line)
        print(faster_pass(Case(*case)).timeit(calls), flush=True)


if __name__ == "__main__":
    main()
