"""`python main.py generate`: what it writes, and what it says when it cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import main
from section4.experiments._engine import seeded
from section4.experiments._text import FILE, save_model
from section4.transformers.gpt import GPTConfig
from section4.transformers.tokenizers import CharacterTokenizer
from section4.transformers.torch_gpt import TorchGPT

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run the command on results in a folder of its own: its exit code, and what it printed."""

    def run(*words: str) -> tuple[int, str, str]:
        argv = ["main.py", "generate", "--results", str(tmp_path), *words]
        monkeypatch.setattr(sys, "argv", argv)
        return main.main(), *capsys.readouterr()

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file of a model that knows the letters of a sentence, and was not trained."""
    tokenizer = CharacterTokenizer("so it goes.\n")
    config = GPTConfig(tokenizer.vocabulary, context=8, layers=1, heads=1, width=8)
    path = tmp_path / "section4" / "gpt" / "checkpoints" / "quick" / "gpt" / FILE
    save_model(path, seeded(0, lambda: TorchGPT(config)), tokenizer)
    return path


@pytest.mark.usefixtures("model")
def test_it_goes_on_with_the_prompt(call: Call) -> None:
    code, out, err = call("--prompt", "so it", "--count", "30")
    assert code == 0 and out.startswith("so it") and len(out) == 5 + 30 + 1
    assert FILE in err and "1 layers, width 8" in err
    assert call("--prompt", "so it", "--count", "30")[1] == out
    assert call("--prompt", "so it", "--count", "30", "--seed", "1")[1] != out
    assert len(call("--prompt", "s")[1]) == 1 + 500 + 1


@pytest.mark.usefixtures("model")
def test_narrower_choices(call: Call) -> None:
    short = ("--prompt", "so", "--count", "40")
    greedy = call(*short, "--top-k", "1", "--seed", "1")[1]
    assert greedy == call(*short, "--top-k", "1", "--seed", "2")[1]
    assert greedy == call(*short, "--top-p", "1e-6")[1]
    assert greedy == call(*short, "--temperature", "1e-4")[1]
    assert greedy != call(*short, "--top-k", "3")[1]
    for words in (("--temperature", "1e-40"), ("--temperature", "1e-46"), ("--top-p", "1e-46")):
        assert call(*short, *words)[:2] == (0, greedy), "float32 takes it for 0"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--prompt", ""], "--prompt is empty"),
        ([], "required: --prompt"),
        (["--prompt", "so xy"], "unknown characters 'xy'"),
        (["--prompt", "s", "--count", "0"], "--count must be a whole number of at least 1, got 0"),
        (["--prompt", "s", "--count", "-3"], "--count must be a whole number"),
        (["--prompt", "s", "--temperature", "0"], "--temperature must be a number above 0"),
        (["--prompt", "s", "--temperature", "nan"], "--temperature must be a number"),
        (["--prompt", "s", "--top-k", "1.5"], "--top-k must be a whole number"),
        (["--prompt", "s", "--top-p", "1.5"], "--top-p must be a number above 0 and at most 1"),
        (["--prompt", "s", "--seed", "x"], "--seed must be a whole number of at least 0"),
    ],
)
def test_bad_input_is_one_sentence(call: Call, words: list[str], complaint: str) -> None:
    code, out, err = call(*words)
    assert code == 2 and not out
    assert complaint in err and err.count("\n") == 1


def test_without_a_model_it_says_what_trains_one(call: Call) -> None:
    code, out, err = call("--prompt", "so")
    assert code == 2 and not out
    assert "no trained model" in err and "python main.py gpt" in err and err.count("\n") == 1


def test_a_damaged_model_is_one_sentence(call: Call, model: Path) -> None:
    whole = model.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a model"):
        model.write_bytes(content)
        code, out, err = call("--prompt", "so")
        assert code == 2 and not out
        assert FILE in err and err.count("\n") == 1
