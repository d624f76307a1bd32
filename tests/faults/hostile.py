"""What is done to good files to make them bad, and how a reader is watched while it reads them."""

from __future__ import annotations

import io
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATIENCE = 5.0  # seconds of the processor that a reader may take
LONGEST_SENTENCE = 2000  # characters
HUGE = (2**31 - 1, 2**32 - 1, 2**31, 2**24, 0x7FFF, 0xFFFF)


class Hang(BaseException):
    """A reader took longer than it may. No reader catches this."""


class Reader(NamedTuple):
    """path: the file that is damaged. read: reads what it belongs to. refusal: the error that says
    no. check: looks at what was read; it is told whether the file is the good one.
    """

    path: Path
    read: Callable[[], Any]
    refusal: type[Exception]
    check: Callable[[Any, bool], None]


def attack(
    reader: Reader,
    damage: Callable[[bytes, np.random.Generator], bytes],
    seed: int,
    tries: int,
    count: Callable[[str, int], None],
) -> int:
    """Read so many damaged files; how many were refused. Whatever else happens, fails the test."""
    good, failures, refused = reader.path.read_bytes(), list[str](), 0
    reader.check(reader.read(), True)
    for number in range(tries):
        content = damage(good, np.random.default_rng([seed, number]))
        reader.path.write_bytes(content)
        try:
            with limited(PATIENCE):
                found = reader.read()
            reader.check(found, content == good)
        except reader.refusal as error:
            refused += 1
            said = str(error)
            if not 10 < len(said) < LONGEST_SENTENCE or reader.path.parent.name not in said:
                failures.append(f"file {number}: said {said[:200]!r}")
        except (Exception, Hang) as error:
            failures.append(f"file {number}: {type(error).__name__}: {str(error)[:300]}")
    reader.path.write_bytes(good)
    count("inputs tried", tries)
    count("failures", len(failures))
    assert not failures, "\n".join(failures[:10])
    return refused


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Hang is raised after so many seconds of the processor, where the system can tell."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """One to three things that happen to files, or that somebody does to them."""
    content = good
    for _ in range(rng.integers(1, 4)):
        content = CHANGES[rng.integers(len(CHANGES))](content, rng)
    return content


def place(content: bytes, rng: np.random.Generator) -> int:
    """Anywhere, or as often near one of the ends, where headers and directories are."""
    length = max(len(content), 1)
    return int((rng.integers(length), rng.integers(min(length, 64)),
                length - 1 - rng.integers(min(length, 200)))[rng.integers(3)])  # fmt: skip


def blocks(content: bytes, rng: np.random.Generator) -> tuple[bytes, bytes, bytes]:
    """A file in three parts, of which the middle one may be long or short."""
    first = place(content, rng)
    last = first + int((rng.integers(1, 9), rng.integers(1, len(content) + 2))[rng.integers(2)])
    return content[:first], content[first:last], content[last:]


def cut_short(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: place(content, rng)]


def flip_bit(content: bytes, rng: np.random.Generator) -> bytes:
    before, block, after = blocks(content, rng)
    return before + bytes([b ^ 1 << int(rng.integers(8)) for b in block[:1]]) + block[1:] + after


def overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    before, block, after = blocks(content, rng)
    return before + rng.bytes(len(block)) + after


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    before, block, after = blocks(content, rng)
    return before + rng.bytes(int(rng.integers(1, 20))) + block + after


def delete(content: bytes, rng: np.random.Generator) -> bytes:
    before, _, after = blocks(content, rng)
    return before + after


def duplicate(content: bytes, rng: np.random.Generator) -> bytes:
    before, block, after = blocks(content, rng)
    return before + block * 2 + after


def swap(content: bytes, rng: np.random.Generator) -> bytes:
    before, block, after = blocks(content, rng)
    return before + after[: len(block)] + block + after[len(block) :]


def huge_number(content: bytes, rng: np.random.Generator) -> bytes:
    before, block, after = blocks(content, rng)
    number = struct.pack("<>"[rng.integers(2)] + "I", HUGE[rng.integers(len(HUGE))])
    return before + number + (block + after)[4:]


def zeros(content: bytes, rng: np.random.Generator) -> bytes:
    before, block, after = blocks(content, rng)
    return before + bytes(len(block)) + after


CHANGES = (cut_short, flip_bit, overwrite, insert, delete, duplicate, swap, huge_number, zeros)


def members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def zipped(parts: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, raw in parts.items():
            archive.writestr(name, raw)
    return file.getvalue()


def mutated_within(good: bytes, rng: np.random.Generator) -> bytes:
    """A zip archive of which one part was changed, and the check sums made to fit."""
    parts = members(good)
    name = list(parts)[rng.integers(len(parts))]
    return zipped(parts | {name: mutated(parts[name], rng)})
