"""Tokenizers: every text comes back, and what a pair is worth; windows on the tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from section4.transformers.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer
from section4.transformers.windows import random_windows, windows

TEXT = "low lower lowest, new newer newest; slow slower slowest.\n" * 5


@given(st.text(min_size=1))
def test_characters_come_back(text: str) -> None:
    tokenizer = CharacterTokenizer(text)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int64 and tokens.shape == (len(text),)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.vocabulary == len(set(text)) == tokens.max() + 1


BYTE_PAIRS = BytePairTokenizer.train(TEXT, 300)


@given(st.text())
def test_any_text_comes_back_from_byte_pairs(text: str) -> None:
    assert BYTE_PAIRS.decode(BYTE_PAIRS.encode(text)) == text


@given(st.text(alphabet="ab \n", min_size=1, max_size=60), st.integers(256, 280))
def test_any_training_text_comes_back(text: str, vocabulary: int) -> None:
    tokenizer = BytePairTokenizer.train(text, vocabulary)
    assert tokenizer.vocabulary <= vocabulary
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert len(tokens) <= len(text.encode())


def test_pairs_are_joined_most_frequent_first() -> None:
    """By hand: "abab" 3 times has ab 6 times and ba 3 times; then (ab)(ab) 3 times."""
    tokenizer = BytePairTokenizer.train("abab abab\nabab", 300)
    a, b, space = b"ab "
    assert tokenizer.merges[:2] == [(a, b), (256, 256)]
    assert tokenizer.merges[2:] == []  # a space before a word, and a new line, come once
    np.testing.assert_array_equal(tokenizer.encode("abab aba"), [257, space, 256, a])


def test_merges_equal_those_of_counting_everything_anew() -> None:
    """The slow way: after each merge all pairs of all words are counted again."""
    from section4.transformers.tokenizers import WORDS, merged

    words = [list(word.encode()) for word in WORDS.findall(TEXT)]
    for k, learned in enumerate(BYTE_PAIRS.merges):
        pairs = [pair for word in words for pair in zip(word, word[1:])]
        best = max(set(pairs), key=lambda pair: (pairs.count(pair), pair))
        assert learned == best
        words = [merged(word, best, 256 + k) for word in words]


def test_words_of_the_training_text_become_short() -> None:
    assert 256 < BYTE_PAIRS.vocabulary <= 300
    assert len(BYTE_PAIRS.encode(TEXT)) < len(TEXT) / 3
    assert len(BYTE_PAIRS.encode(" lowest")) == 1
    np.testing.assert_array_equal(BYTE_PAIRS.encode("ä"), list("ä".encode()))
    assert BYTE_PAIRS.encode("").shape == (0,)


def test_an_overlapping_pair_counts_as_it_is_joined() -> None:
    tokenizer = BytePairTokenizer([(97, 97)])
    np.testing.assert_array_equal(tokenizer.encode("aaaaa"), [256, 256, 97])


def test_half_a_character_is_shown_as_such() -> None:
    assert BYTE_PAIRS.decode("ä".encode()[:1]) == "�"


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer("abc"), BytePairTokenizer([(97, 98)])])
def test_numbers_that_are_no_tokens(tokenizer: Tokenizer) -> None:
    for wrong in (-1, tokenizer.vocabulary):
        expected = f"from 0 to {tokenizer.vocabulary - 1}, got {wrong}"
        with pytest.raises(ValueError, match=expected):
            tokenizer.decode([0, wrong])


def test_what_tokenizers_refuse() -> None:
    with pytest.raises(ValueError, match=r"unknown characters 'xy'.* 3 that"):
        CharacterTokenizer("abc").encode("axbyb")
    with pytest.raises(ValueError, match="the text is empty"):
        CharacterTokenizer("")
    with pytest.raises(ValueError, match="the text is empty"):
        BytePairTokenizer.train("", 300)
    with pytest.raises(ValueError, match="at least the 256 bytes, got 255"):
        BytePairTokenizer.train("abc", 255)


# --- windows ------------------------------------------------------------------------------


def test_windows_are_all_pieces_and_what_follows() -> None:
    tokens = np.arange(10, 17)
    x, y = windows(tokens, 3)
    np.testing.assert_array_equal(x, [[10, 11, 12], [11, 12, 13], [12, 13, 14], [13, 14, 15]])
    np.testing.assert_array_equal(y, x + 1)
    x, y = windows(tokens, 3, stride=3)
    np.testing.assert_array_equal(x, [[10, 11, 12], [13, 14, 15]])
    np.testing.assert_array_equal(y, x + 1)
    assert np.shares_memory(x, tokens)
    assert [len(part) for part in windows(tokens, 6)] == [1, 1]


@pytest.mark.parametrize("context", [0, 7, 9])
def test_windows_that_do_not_fit(context: int) -> None:
    with pytest.raises(ValueError, match=f"7 tokens has no piece of {context}"):
        windows(np.arange(7), context)


def test_random_windows_reach_everywhere_and_repeat_with_the_seed() -> None:
    epoch = random_windows(np.arange(20), 4, batch_size=8, batches=30)
    first, same = (list(epoch(np.random.default_rng(0))) for _ in range(2))
    assert len(first) == 30
    for (x, y), (x2, _) in zip(first, same):
        assert x.shape == y.shape == (8, 4)
        np.testing.assert_array_equal(y, x + 1)
        np.testing.assert_array_equal(x, x2)
    assert {*np.concatenate([x[:, 0] for x, _ in first]).tolist()} == set(range(16))
