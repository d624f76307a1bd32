"""How far an experiment is: a bar on a terminal, now and then a line in a file or a pipe."""

from __future__ import annotations

import sys
import time
from typing import Any

from utils.experiments.machine import writes

LINE_EVERY = 10.0  # seconds between plain lines


class Progress:
    """Counts `total` steps of work: `with Progress("xor", 20) as bar: bar.advance("97%")`."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.done, self.skipped = label, total, 0, 0
        self.start = self.last_line = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty() and writes():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=label, leave=False, file=sys.stderr)

    def skip(self, steps: int) -> None:
        """So many steps were done by a run that this one goes on with: they took no time here."""
        self.done += steps
        self.skipped += steps
        if self.bar is not None:
            self.bar.initial += steps  # which tqdm leaves out of the pace
            self.bar.n += steps
            self.bar.last_print_n += steps

    def advance(self, note: str = "") -> None:
        """One more step is done; `note` is a word about it, such as the accuracy so far."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update()
            return
        now = time.monotonic()
        if now - self.last_line >= LINE_EVERY and writes():
            self.last_line = now
            pace = (now - self.start) / (self.done - self.skipped)
            left = pace * (self.total - self.done)
            parts = [f"{self.label}: {self.done} of {self.total}", f"about {left:.0f} s left", note]
            print("  " + ", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()
