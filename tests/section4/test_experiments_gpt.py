"""GPTs trained on text: in NumPy beside PyTorch, in PyTorch, kept in a file for others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from section1.experiments._training import counted, smoothed
from section4 import checkpoint
from section4.engine import PLAIN, cross_entropy
from section4.experiments import _text, gpt, numpy_gpt
from section4.experiments._text import Text, Trained, load_model, load_text, newest_model
from section4.training import evaluate
from section4.transformers.gpt import GPTConfig
from section4.transformers.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer
from section4.transformers.torch_gpt import TorchGPT, to_numpy
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.budget import Budget
from utils.experiments.progress import Progress
from utils.experiments.registry import Experiment
from utils.experiments.results import Result
from utils.experiments.run import Run

TINY = ("--mode", "quick", "--device", "cpu", "--precision", "float32", "--threads", "1")
LINE = "Das ist ein kurzer Text für $1,\tund noch einer. "


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(LINE[k % 7 :] for k in range(60)), encoding="utf-8")
    return path


def small(name: str, folder: Path, text: Path, **changes: Any) -> Run:
    sizes = {"layers": 1, "heads": 2, "width": 8, "context": 12, "batch_size": 4, "epochs": 3}
    sizes |= {"steps": 5, "written": 30}
    return small_run(name, folder, sizes | {"text": str(text)} | changes)


# --- numpy_gpt --------------------------------------------------------------------------------


def test_numpy_gpt(run_tiny: Callable[..., Result], own: Path) -> None:
    sizes = [
        f"--set={word}" for word in ("layers=1", "width=16", "steps=6", "seeds=2", "written=40")
    ]
    result = run_tiny("numpy_gpt", *TINY, "--epochs", "2", *sizes, f"--set=text={own}")
    metrics, curves = result.metrics, result.curves
    assert [row[0] for row in result.tables["models"].rows] == ["NumPy", "PyTorch"]
    for side in numpy_gpt.SIDES:
        assert result.arrays[f"{side}_step_loss"].shape == (2, 12)
        assert result.arrays[f"{side}_seconds"].shape == (2, 2)
        assert curves[f"{side}_validation"].n == 2
        assert list(curves[f"{side}_validation"].x) == [6, 12]
        loss = metrics[f"{side}_validation_loss"]
        assert curves[f"{side}_validation"].y[-1] == pytest.approx(loss)
        assert metrics[f"{side}_perplexity"] == pytest.approx(math.exp(loss))
        assert metrics[f"{side}_bits_per_character"] == pytest.approx(loss / math.log(2))
    ours, theirs = (result.arrays[f"{side}_step_loss"] for side in numpy_gpt.SIDES)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)  # the same batches, the same updates
    assert ours[0, -1] < ours[0, 0] and not np.allclose(ours[0], ours[1])
    assert metrics["first_loss_difference"] < 1e-5 and metrics["gradient_difference"] < 1e-12
    seconds = [result.arrays[f"{side}_seconds"] for side in numpy_gpt.SIDES]
    assert metrics["time_ratio"] == pytest.approx(np.median(seconds[0] / seconds[1]))
    assert "(n = 2;" in result.answer and "A short training" in result.answer
    assert result.info["engine"] == "NumPy on 1 thread, PyTorch on 1 thread"


def test_both_sides_decay_matrices_alone(tmp_path: Path, own: Path) -> None:
    """At a rate at which a decay of biases and norms, or none of matrices, would show."""
    run = small("numpy_gpt", tmp_path, own, lr=0.05, epochs=1, steps=8)
    text = load_text(run)
    shape = _text.config_of(run.budget, text)
    with run.progress(2) as bar:
        numpy_gpt.train_both(run, 0, text, shape, tmp_path / "kept", bar)
    kept = checkpoint.load(tmp_path / "kept" / "pytorch.pt")["model"]
    twin = TorchGPT(shape)
    twin.load_state_dict(kept)
    with np.load(tmp_path / "kept" / "last.npz") as file:
        ours = [
            file[f"weight {k}"]
            for k in range(sum(name.startswith("weight") for name in file.files))
        ]
    theirs = to_numpy(twin).parameters()
    for array, parameter in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(array, parameter.value, atol=1e-3)


def test_numpy_gpt_goes_on_where_it_was_stopped(
    tmp_path: Path, own: Path, stop_at: Callable[[int], list[str]]
) -> None:
    """In the second epoch of the second seed, between NumPy and PyTorch."""
    changes = {"seeds": 2, "epochs": 2}
    whole = runner.compute(small("numpy_gpt", tmp_path / "whole", own, **changes))
    notes = stop_at(7)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small("numpy_gpt", tmp_path / "cut", own, **changes))
    rest = runner.compute(small("numpy_gpt", tmp_path / "cut", own, **changes))
    assert len(notes) == 7 + 8
    assert_same_result(rest, whole)


# --- gpt --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_setting")
def test_gpt(run_tiny: Callable[..., Result], tmp_path: Path) -> None:
    sizes = [
        f"--set={word}"
        for word in ("layers=1", "width=16", "context=16", "steps=40", "written=60", "dropout=0.1")
    ]
    result = run_tiny("gpt", *TINY, "--data", "embedded", "--epochs", "2", *sizes)
    metrics, rows = result.metrics, result.tables["samples"].rows
    after = [f"after {step} steps" for step in (0, 2, 10, 26)]
    assert [row[0] for row in rows] == [*after, "after 80 steps", "validation text"]
    assert all(len(row[2]) == 61 for row in rows[:-1]) and rows[0][2] != rows[-2][2]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["validation_loss"]))
    assert metrics["tokens"] == 80 * 16 * 16 and "a short training" in result.answer
    assert list(result.curves["validation"].x) == [40, 80]
    assert metrics["validation_loss"] == min(result.curves["validation"].y)

    path = newest_model(tmp_path)
    assert path == tmp_path / "section4/gpt/checkpoints/quick/gpt/language_model.pt"
    model, tokenizer = load_model(path)
    assert sum(p.numel() for p in model.parameters()) == metrics["parameters"]
    data = load_text(small_run("gpt", tmp_path, {"context": 16}))
    assert isinstance(tokenizer, CharacterTokenizer) and not model.training
    validation = _text.side_by_side(data.validation, 16, PLAIN)
    loss = evaluate(model, cross_entropy(), validation)[0]
    assert loss == pytest.approx(metrics["validation_loss"], rel=1e-5)


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_gpt_goes_on_where_it_was_stopped(
    tmp_path: Path, own: Path, stop_at: Callable[[int], list[str]], tokens: str
) -> None:
    changes = {"tokens": tokens, "vocabulary": 280}
    whole = runner.compute(small("gpt", tmp_path / "whole", own, **changes))
    notes = stop_at(2)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small("gpt", tmp_path / "cut", own, **changes))
    rest = runner.compute(small("gpt", tmp_path / "cut", own, **changes))
    assert len(notes) == 3
    assert_same_result(rest, whole)
    assert whole.metrics["vocabulary"] == (280 if tokens == "bytes" else len(set(own.read_text())))


def trained(run: Run, experiment: str = "gpt") -> tuple[Trained, list[str]]:
    run = replace(run, experiment=Experiment(4, 1, experiment, "?"))
    notes = list[str]()

    class Bar(Progress):
        def advance(self, note: str = "") -> None:
            notes.append(note)

    with run.resumable() as folder:
        return _text.trained_gpt(run, load_text(run), folder, Bar("", 1)), notes


@pytest.mark.usefixtures("one_setting")
def test_what_gpt_has_trained_others_take(tmp_path: Path, own: Path) -> None:
    first, _ = trained(small("gpt", tmp_path, own))
    second, notes = trained(small("gpt", tmp_path, own, written=99), "another")
    assert notes == []  # no epoch was trained
    for a, b in zip(first.model.parameters(), second.model.parameters()):
        assert torch.equal(a, b)
    assert not list(tmp_path.glob("section4/another/**/*.pt"))

    own.write_text(own.read_text()[:-1] + "!")  # another text
    third, notes = trained(small("gpt", tmp_path, own), "another")
    assert len(notes) == 3 and third.loss != first.loss
    other, notes = trained(small("gpt", tmp_path, own, lr=0.01), "another")
    assert len(notes) == 3 and other.loss != third.loss
    assert newest_model(tmp_path).parts[-5] == "another"


def test_on_a_gpu_its_own_settings_hold(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small("gpt", tmp_path, own, width_on_gpu=96, epochs_on_gpu=7)
    assert _text.for_device(run).width == 8
    monkeypatch.setattr(_text, "find_device", lambda run: torch.device("cuda"))
    budget = _text.for_device(run)
    assert (budget.width, budget.epochs) == (96, 7)
    assert not [key for key in budget if key.endswith("_on_gpu")]


def test_only_matrices_decay() -> None:
    model = TorchGPT(GPTConfig(5, 4, layers=1, heads=1, width=4))
    decayed, others = _text.adamw(model, 0.1).param_groups
    assert {p.ndim for p in decayed["params"]} == {2} and decayed["weight_decay"] > 0
    assert {p.ndim for p in others["params"]} == {1} and others["weight_decay"] == 0
    count = len(decayed["params"]) + len(others["params"])
    assert count == len(list(model.parameters()))


# --- the text ---------------------------------------------------------------------------------


def test_a_text_of_ones_own(tmp_path: Path, own: Path) -> None:
    run = small("gpt", tmp_path, own)
    text, raw = load_text(run), own.read_text(encoding="utf-8")
    whole = np.concatenate([text.train, text.validation])
    assert text.tokenizer.decode(whole) == raw and text.opening == "\n"
    assert len(text.train) == int(0.9 * len(raw))
    assert run.data_used["text"]["provenance"] == "own file"
    assert "tinyshakespeare" not in run.data_used


def test_byte_pairs_learn_from_the_training_part_alone(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("ab" * 90 + "\U0001f98a" * 20, encoding="utf-8-sig")
    text = load_text(small("gpt", tmp_path, path, tokens="bytes", vocabulary=300))
    assert isinstance(text.tokenizer, BytePairTokenizer)
    assert text.tokenizer.bytes[256] == b"ab" and text.characters == 20
    assert len(text.validation) == 4 * 20  # bytes: no pair of them was learned
    assert text.bits_per_character(math.log(2)) == pytest.approx(4)


def test_unusable_texts_are_one_clear_sentence(tmp_path: Path, own: Path) -> None:
    run, path = small("gpt", tmp_path, own), tmp_path / "text.txt"

    def error(text: Path, **changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            load_text(replace(run, budget=Budget(run.budget | {"text": str(text)} | changes)))
        return str(caught.value)

    assert "text.txt cannot be read: No such file" in error(path)
    assert "cannot be read" in error(tmp_path)
    path.write_bytes("Grüße".encode("latin-1"))
    assert "text.txt is not a text in UTF-8: invalid" in error(path)
    path.write_bytes(LINE.encode("utf-16"))
    assert "is not a text in UTF-8" in error(path)
    for blank in ("", "\ufeff", " \n"):
        path.write_text(blank, encoding="utf-8")
        assert error(path).endswith("text.txt is empty")
    path.write_text("a" * 120)
    words = "has 12 tokens, and must have more than the context of 12"
    assert "text.txt is too short" in error(path) and words in error(path)
    path.write_text("a" * 130)
    load_text(small("gpt", tmp_path, path))
    assert error(own, tokens="words") == "tokens must be characters or bytes, got 'words'"
    assert "at least the 256 bytes" in error(own, tokens="bytes", vocabulary=255)


def test_unusable_sizes_are_one_clear_sentence(tmp_path: Path, own: Path) -> None:
    for name in ("gpt", "numpy_gpt"):
        with pytest.raises(UserError, match="a width of 10 cannot be cut into 4 heads"):
            runner.compute(small(name, tmp_path, own, width=10, heads=4))


def test_validation_takes_every_piece_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_text, "AT_ONCE", 3)
    tokens = np.random.default_rng(0).integers(7, size=8 * 4 + 3)
    model = TorchGPT(GPTConfig(7, 4, layers=1, heads=1, width=8)).eval()
    loss, _ = evaluate(model, cross_entropy(), _text.side_by_side(tokens, 4, PLAIN))
    x, y = (torch.from_numpy(tokens[k : 32 + k].reshape(8, 4)) for k in (0, 1))
    expected = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_table_of_pairs() -> None:
    train, validation = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 1, 0, 0])
    text = Text(CharacterTokenizer("ab"), train, validation, 4, "a")
    # after a: 3 times b, never a; after b: twice a; one more of each
    expected = -(math.log(4 / 5) + math.log(3 / 4) + math.log(1 / 5)) / 3
    assert gpt.loss_of_pairs(text) == pytest.approx(expected)
    same = Text(CharacterTokenizer("a"), np.zeros(9, int), np.zeros(3, int), 3, "a")
    assert f"{gpt.loss_of_pairs(same):.3f}" == "0.000"


def test_a_perplexity_beyond_all_numbers() -> None:
    assert gpt.perplexity(0.0) == 1
    with pytest.raises(UserError, match="diverged to a validation loss of 800 nats"):
        gpt.perplexity(800.0)


def test_lengths_of_training_and_times_in_words() -> None:
    assert [counted(count, "step") for count in (0, 1, 2000)] == [
        "0 steps",
        "1 step",
        "2,000 steps",
    ]
    found = [_text.times(number) for number in (0.0005, 0.1, 1.02, 9.94, 9.96, 1138.0)]
    assert [words.removesuffix(" times") for words in found] == [
        "0.00050", "0.10", "1.0", "9.9", "10", "1,138",
    ]  # fmt: skip


def test_a_loss_that_rises_is_learning_by_heart_only_where_that_of_training_is_low() -> None:
    metrics = dict.fromkeys(
        ("parameters", "best_step", "perplexity", "vocabulary", "bits_per_character", "pairs_loss",
         "words", "known_words", "known_words_validation", "steps", "seconds", "passes",
         "tokens"), 1.0
    )  # fmt: skip
    metrics |= {"validation_loss": 2.0, "last_validation_loss": 3.0}
    said = gpt.in_words(metrics | {"training_loss": 1.0}, 2)
    assert "it learns the text by heart: the loss rises to 3.000" in said
    assert "it gets worse: the loss rises to" in gpt.in_words(metrics | {"training_loss": 4.0}, 2)


@pytest.mark.usefixtures("one_setting")
def test_known_words_are_those_of_the_whole_validation_text(tmp_path: Path) -> None:
    """Not of the opening that is shown."""
    path = tmp_path / "own.txt"
    path.write_text("known " * 380 + "other " * 20, encoding="utf-8")  # the last tenth is for that
    result = runner.compute(small("gpt", tmp_path, path, epochs=1, steps=1))
    assert result.metrics["known_words_validation"] == 0.5
    assert "other" not in result.tables["samples"].rows[-1][2]


@pytest.mark.usefixtures("one_setting")
def test_the_sample_of_the_weights_that_are_kept_is_the_last(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another was taken after as many steps: here after one of eight."""
    monkeypatch.setattr(Trained, "steps", 1)
    run = small("gpt", tmp_path, own, epochs=1, steps=8)
    rows = runner.compute(run).tables["samples"].rows
    assert [row[0] for row in rows] == [
        "after 0 steps", "after 2 steps", "after 1 step", "validation text",
    ]  # fmt: skip


def test_smoothed_curves_keep_the_mean() -> None:
    series = np.random.default_rng(0).random((2, 1000))
    x, means = smoothed(series)
    assert x[0] == 5.5 and x[-1] == 995.5 and means.shape == (2, 100)
    np.testing.assert_allclose(means.mean(1), series.mean(1))
    assert smoothed(series[:, :3])[0] == [1, 2, 3]


def test_text_is_drawn_as_it_stands() -> None:
    figure = _text.show_texts({"a": "$x$ \\frac\n\n" + "word " * 30, "b": "\tz"}, columns=2)
    first, second = (axes.texts[0].get_text().split("\n") for axes in figure.axes)
    assert first[:2] == ["$x$ \\frac", ""] and max(map(len, first)) <= 56 and second == ["    z"]
    figure.draw_without_rendering()  # mathematics that is none would raise here


# --- a model in a file ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_a_saved_model_writes_as_before(tmp_path: Path, kind: str) -> None:
    characters, pairs = CharacterTokenizer(LINE), BytePairTokenizer.train(LINE * 3, 270)
    tokenizer: Tokenizer = characters if kind == "characters" else pairs
    model = TorchGPT(GPTConfig(tokenizer.vocabulary, 8, layers=2, heads=2, width=8))
    _text.save_model(tmp_path / "model.pt", model, tokenizer)
    twin, again = load_model(tmp_path / "model.pt")
    written = _text.write(model, tokenizer, "ist", 20, seed=3)
    assert _text.write(twin, again, "ist", 20, seed=3) == written and written.startswith("ist")


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def error() -> str:
        with pytest.raises(UserError) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    path, tokenizer = tmp_path / "model.pt", CharacterTokenizer("abc")
    assert "cannot be read: No such file" in error()
    model = TorchGPT(GPTConfig(3, 4, layers=1, heads=1, width=4))
    _text.save_model(path, model, tokenizer)
    whole, content = path.read_bytes(), checkpoint.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "is not a checkpoint that can be read" in error()
    path.write_bytes(b"no zip file")
    assert "is not a checkpoint that can be read" in error()
    checkpoint.save(path, {"model": content["model"]})
    assert "does not hold a language model" in error()
    del content["format"]
    checkpoint.save(path, content | {"tokenizer": {"characters": "ab"}})
    assert "its tokenizer is of another model" in error()
    checkpoint.save(path, content | {"tokenizer": {"merges": [[1, 999]]}})
    assert "does not hold a language model" in error()
    checkpoint.save(path, content | {"config": content["config"] | {"layers": 2}})
    assert "does not hold a language model" in error()
    checkpoint.save(path, content | {"config": [1]})
    assert "does not hold a language model" in error()


def test_before_anything_was_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trained model in .*: run python main\.py gpt --res"):
        newest_model(tmp_path)
