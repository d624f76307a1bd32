"""Toy tasks: small algorithms shown as texts "input=output.", to be learnt from examples.

A GPT that has read "352=" goes on with "253.": it has been shown how to reverse, and never told.
What it is tested on must not be what it was trained on, also where there are few inputs in all;
so it is the input itself that decides, by a checksum, which of the two it is for: of a sum both
numbers, in whichever order.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from section4.transformers.tokenizers import CharacterTokenizer

Example = tuple[str, str]  # input and output
END = "."
TOKENIZER = CharacterTokenizer("0123456789+=" + END)
HELD_OUT = 10  # one input of so many, about, is not for training


def digits(length: int, rng: np.random.Generator) -> str:
    return "".join(map(str, rng.integers(10, size=length)))


def reverse(length: int, rng: np.random.Generator) -> Example:
    """The digits backwards: 3525 gives 5253."""
    text = digits(length, rng)
    return text, text[::-1]


def sort(length: int, rng: np.random.Generator) -> Example:
    """The digits in rising order: 3525 gives 2355."""
    text = digits(length, rng)
    return text, "".join(sorted(text))


def add(length: int, rng: np.random.Generator) -> Example:
    """Two numbers of `length` digits, and their sum in one digit more: 27+05 gives 032."""
    a, b = digits(length, rng), digits(length, rng)
    return f"{a}+{b}", str(int(a) + int(b)).zfill(length + 1)


def add_reversed(length: int, rng: np.random.Generator) -> Example:
    """The sum from its last digit on, in the order in which one adds by hand: 27+05 gives 230.

    Source: Lee et al., Teaching arithmetic to small transformers, arXiv:2307.03381.
    """
    text, total = add(length, rng)
    return text, total[::-1]


TASKS: dict[str, Callable[[int, np.random.Generator], Example]] = {
    "reverse": reverse,
    "sort": sort,
    "add": add,
    "add_reversed": add_reversed,
}


def is_held_out(text: str) -> bool:
    """Whether an input is for testing and never for training."""
    key = "+".join(sorted(text.split("+")))  # 27+05 and 05+27 are for the same
    return zlib.crc32(key.encode()) % HELD_OUT == 0


def training_examples(
    task: str, lengths: Sequence[int], count: int, rng: np.random.Generator
) -> list[Example]:
    """So many examples of inputs of these lengths in digits (of a number, for a sum)."""
    examples = list[Example]()
    while len(examples) < count:
        example = TASKS[task](lengths[int(rng.integers(len(lengths)))], rng)
        if not is_held_out(example[0]):
            examples.append(example)
    return examples


def held_out_examples(
    task: str, length: int, count: int, rng: np.random.Generator
) -> list[Example]:
    """At most so many different examples of one length, none of them for training; at least one.

    Fewer where the length has fewer: of the 100 inputs of two digits about ten are held out.
    """
    found = dict[str, str]()
    tries = 0
    while len(found) < count and (tries < 2 * HELD_OUT * count or not found):
        text, output = TASKS[task](length, rng)
        tries += 1
        if is_held_out(text):
            found[text] = output
    return list(found.items())


def encoded(examples: Iterable[Example], ignored: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y (N, T): the texts, shorter ones filled up with END, and the token after each.

    y is `ignored` where the next token belongs to the input or to what fills up: there is nothing
    to learn. Filling up needs no mask, as no token sees a later one.
    """
    pairs = [(f"{text}=", f"{output}{END}") for text, output in examples]
    tokens = max(len(text) + len(output) for text, output in pairs)
    rows = TOKENIZER.encode("".join((text + output).ljust(tokens, END) for text, output in pairs))
    rows = rows.reshape(len(pairs), tokens)
    place = np.arange(1, tokens)  # of the next token
    starts = np.array([len(text) for text, _ in pairs])[:, None]
    ends = starts + np.array([len(output) for _, output in pairs])[:, None]
    return rows[:, :-1], np.where((place >= starts) & (place < ends), rows[:, 1:], ignored)
