"""Tokenizers: text as a row of whole numbers, and back.

Characters make long texts of a small vocabulary; words make short ones of a vast vocabulary that
still lacks the next new word. Byte-pair encoding stands between: it starts from single bytes and
gives the pairs that are met most often a number of their own, again and again, so that common
words become one token and no text is impossible to write.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

Pair = tuple[int, int]

WORDS = re.compile(r" ?\w+| ?[^\w\s]+|\s+")  # no token reaches across two of these


class Tokenizer(Protocol):
    """`vocabulary` is how many tokens there are; `decode(encode(text))` is `text`."""

    vocabulary: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, tokens: Iterable[int]) -> str: ...


class CharacterTokenizer:
    """A token for each different character of a text.

    `encode` raises ValueError for a character that was not in that text, and `decode` for a
    number that is no token; an empty text has no characters (ValueError).
    """

    def __init__(self, text: str):
        if not text:
            raise ValueError("the text is empty: there are no characters to make tokens of")
        self.characters = sorted(set(text))
        self.vocabulary = len(self.characters)
        self.numbers = {character: number for number, character in enumerate(self.characters)}

    def encode(self, text: str) -> np.ndarray:
        unknown = sorted(set(text) - self.numbers.keys())
        if unknown:
            raise ValueError(
                f"unknown characters {''.join(unknown[:10])!r}: not one of the "
                f"{self.vocabulary} that this tokenizer was made for"
            )
        return np.array([self.numbers[character] for character in text], np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.characters[token] for token in checked(tokens, self.vocabulary))


class BytePairTokenizer:
    """Tokens 0 to 255 are bytes, and token 256 + k stands for the pair `merges[k]`.

    `encode` cuts a text into words, and joins in each the pair that was learned first, until
    none is left. Any text can be encoded. `decode` raises ValueError for a number that is no
    token, and writes the sign U+FFFD for bytes that are no text, which a model may well produce.

    Source: Sennrich, Haddow, Birch, Neural machine translation of rare words with subword units,
    arXiv:1508.07909; on bytes: Radford et al., GPT-2 (2019).
    """

    def __init__(self, merges: Sequence[Pair]):
        self.merges = list(merges)
        self.vocabulary = 256 + len(self.merges)
        self.numbers = {pair: 256 + k for k, pair in enumerate(self.merges)}
        self.bytes = [bytes([k]) for k in range(256)]
        for a, b in self.merges:
            self.bytes.append(self.bytes[a] + self.bytes[b])
        self.known: dict[str, list[int]] = {}  # words that were encoded before

    @classmethod
    def train(cls, text: str, vocabulary: int) -> BytePairTokenizer:
        """Learn merges from a text until there are `vocabulary` tokens, or no pair comes twice.

        Raises ValueError for an empty text, and a vocabulary of less than the 256 bytes.
        """
        if not text:
            raise ValueError("the text is empty: there are no pairs to learn from")
        if vocabulary < 256:
            raise ValueError(f"the vocabulary has at least the 256 bytes, got {vocabulary}")
        often = Counter(WORDS.findall(text))
        words = [list(word.encode()) for word in often]
        times = list(often.values())
        counts: Counter[Pair] = Counter()
        places: defaultdict[Pair, set[int]] = defaultdict(set)  # the words that a pair is in

        def count(place: int, sign: int) -> None:
            for pair in zip(words[place], words[place][1:]):
                counts[pair] += sign * times[place]
                places[pair].add(place)

        for place in range(len(words)):
            count(place, 1)
        merges = list[Pair]()
        while 256 + len(merges) < vocabulary and counts:
            best = max(counts, key=lambda pair: (counts[pair], pair))
            if counts[best] < 2:
                break
            for place in places[best]:
                count(place, -1)
                words[place] = merged(words[place], best, 256 + len(merges))
                count(place, 1)
            merges.append(best)
        return cls(merges)

    def encode(self, text: str) -> np.ndarray:
        return np.array([t for word in WORDS.findall(text) for t in self.word(word)], np.int64)

    def word(self, word: str) -> list[int]:
        if word not in self.known:
            tokens = list(word.encode())
            while pairs := self.numbers.keys() & set(zip(tokens, tokens[1:])):
                first = min(pairs, key=self.numbers.__getitem__)
                tokens = merged(tokens, first, self.numbers[first])
            self.known[word] = tokens
        return self.known[word]

    def decode(self, tokens: Iterable[int]) -> str:
        pieces = (self.bytes[token] for token in checked(tokens, self.vocabulary))
        return b"".join(pieces).decode(errors="replace")


def merged(tokens: list[int], pair: Pair, number: int) -> list[int]:
    """`tokens` with every `pair`, from the left, replaced by `number`."""
    result = list[int]()
    for token in tokens:
        if result and (result[-1], token) == pair:
            result[-1] = number
        else:
            result.append(token)
    return result


def checked(tokens: Iterable[int], vocabulary: int) -> list[int]:
    numbers = [int(token) for token in tokens]
    wrong = [number for number in numbers if not 0 <= number < vocabulary]
    if wrong:
        raise ValueError(f"tokens are numbers from 0 to {vocabulary - 1}, got {wrong[0]}")
    return numbers
