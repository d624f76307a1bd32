"""Toy tasks and masked language modelling: what they say follows from the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from section4.engine import PLAIN
from section4.experiments import masked_language_model as mlm
from section4.experiments import toy_tasks
from section4.experiments._text import Text
from section4.transformers.gpt import GPTConfig
from section4.transformers.masking import Neighbours
from section4.transformers.tasks import END, TOKENIZER, held_out_examples
from section4.transformers.tokenizers import CharacterTokenizer
from section4.transformers.torch_gpt import TorchGPT
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Result, Table
from utils.experiments.run import Run

TINY = ("--mode", "quick", "--device", "cpu", "--precision", "float32", "--threads", "1")
LINE = "Das ist ein kurzer Text für $1,\tund noch einer. "


# --- toy tasks --------------------------------------------------------------------------------


def toys(folder: Path, **changes: Any) -> Run:
    sizes: dict[str, Any] = {"tasks": ["sort", "add"], "positions": ["learned", "rotary"]}
    sizes |= {"seeds": 1, "width": 8, "epochs": 2, "steps": 2, "tested": 5, "batch_size": 4}
    return small_run("toy_tasks", folder, sizes | changes)


def test_toy_tasks(run_tiny: Callable[..., Result]) -> None:
    sizes = ("tasks=reverse,add", "positions=learned,rotary", "width=8", "steps=3", "tested=12")
    result = run_tiny("toy_tasks", *TINY, "--epochs", "2", *(f"--set={word}" for word in sizes))
    rows = result.tables["accuracy"].rows
    assert {(row[0], row[1]) for row in rows} == {
        ("reverse", "learned"), ("reverse", "rotary"), ("add", "learned"),
    }  # fmt: skip
    assert [row[2:4] for row in rows[:3]] == [[2, True], [3, False], [4, False]]
    for row in rows:
        assert 0 <= row[4] <= 1 and row[7] == 2
    inside = [row for row in rows if row[3] and row[:2] == ["reverse", "learned"]]
    assert result.metrics["reverse_learned_inside"] == pytest.approx(inside[0][4])
    curve = result.curves["add_learned_lengths"]
    assert list(curve.x) == [1, 2] and curve.n == 2
    for task, _, text, output, written in result.tables["examples"].rows:
        assert len(written) == len(output) + 1
        assert output == (text[::-1] if task == "reverse" else f"{sum_of(text):0{len(output)}d}")
    assert "n = 2" in result.answer and "None has learnt its task" in result.answer


def sum_of(text: str) -> int:
    return sum(map(int, text.split("+")))


@pytest.mark.usefixtures("one_setting")
def test_toys_that_are_stopped_go_on_and_end_with_the_same_numbers(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    whole = runner.compute(toys(tmp_path / "whole"))
    notes = stop_at(3)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(toys(tmp_path / "cut"))
    rest = runner.compute(toys(tmp_path / "cut"))
    assert len(notes) == 6  # three models of two epochs each, of which three epochs were left
    assert_same_result(rest, whole)


def test_answers_are_written_as_they_are_guessed() -> None:
    """Token by token, or all at once after the right ones: a whole answer is right in both."""
    torch.manual_seed(0)
    model = TorchGPT(GPTConfig(TOKENIZER.vocabulary, 20, 1, 2, 16, tied=False))
    examples = held_out_examples("sort", 3, 40, np.random.default_rng(0))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x, y = map(torch.from_numpy, toy_tasks.encoded(examples[:20], toy_tasks.IGNORED))
    for _ in range(150):  # by heart
        optimizer.zero_grad()
        toy_tasks.cross_entropy()(model, (x, y))[0].backward()
        optimizer.step()
    written = toy_tasks.answers(model, examples, PLAIN)
    right = [a == output + END for a, (_, output) in zip(written, examples)]
    assert 0.4 < np.mean(right) < 1
    assert toy_tasks.guessed(model, examples, PLAIN) == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tasks": ["dance"]}, "tasks: there is no 'dance'; choose from reverse, sort"),
        ({"positions": ["none"]}, "positions: there is no 'none'; choose from learned"),
        ({"longest": 1}, "longest must be at least 2 digits"),
        ({"width": 9}, "a width of 9 cannot be cut into 4 heads"),
    ],
)
def test_toys_that_cannot_be(tmp_path: Path, changes: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        runner.compute(toys(tmp_path, **changes))


@pytest.mark.parametrize(
    ("inside", "one_more", "said"),
    [
        ((0.5, 0.98), (0.5, 0.5), "None has learnt its task"),
        ((0.99, 0.98), (0.5, 1.0), "1 of 2 kinds of model gets .* none of these does so"),
        ((1.0, 1.0), (0.5, 0.995), "2 of 2 kinds of model get .* of these sort rotary does so"),
        ((1.0, 1.0), (1.0, 1.0), "of these sort learned and sort rotary do so"),
    ],
)
def test_the_verdict_on_toys(inside: tuple, one_more: tuple, said: str) -> None:
    arms = [("sort", "learned"), ("sort", "rotary")]
    metrics = {f"{'_'.join(arm)}_inside": value for arm, value in zip(arms, inside)}
    metrics |= {f"{'_'.join(arm)}_one_more": value for arm, value in zip(arms, one_more)}
    assert re.search(said, toy_tasks.verdict(metrics, arms))


def test_single_toys_in_words() -> None:
    metrics: dict[str, float] = {"seeds": 1, "steps": 1, "add_shortest": 1, "add_longest": 1}
    metrics |= {"add_learned_inside": 1.0, "add_learned_inside_std": 0, "add_learned_one_more": 0}
    assert toy_tasks.in_words(metrics, [("add", "learned")]) == (
        "Inputs never trained on, whole answers right, models of 1 step: n = 1. Add: 100.0% "
        "(learned) with the 1 digit of the training; 0.0% (learned) with 2. 1 of 1 kind of model "
        "gets at least 99% right at the lengths of the training; none of these does so with one "
        "digit more."
    )


def test_longer_inputs_are_counted() -> None:
    """Also where fewer of one length could be held out than of another."""
    shown = [["add", "learned", *rest] for rest in (("1+2", "03", "03."), ("10+20", "030", "999."),
                                                    ("11+20", "031", "031."))]  # fmt: skip
    tables = {"examples": Table(["task", "positions", "input", "output", "written"], shown)}
    result = Result("", "add_longest", {"add_longest": 1}, tables=tables)
    title = toy_tasks.draw_answers(result, ["add"]).get_suptitle()
    assert title.startswith("Of 3 answers, 2 of them to") and "1 is wrong somewhere" in title


# --- masked language model --------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(LINE[k % 7 :] for k in range(90)), encoding="utf-8")
    return path


def blanks(folder: Path, text: Path, **changes: Any) -> Run:
    sizes: dict[str, Any] = {"layers": 1, "heads": 2, "width": 8, "context": 16, "batch_size": 4}
    sizes |= {"epochs": 3, "steps": 4, "text": str(text)}
    return small_run("masked_language_model", folder, sizes | changes)


def test_masked_language_model(run_tiny: Callable[..., Result], own: Path) -> None:
    sizes = ("layers=1", "width=16", "context=24", "steps=8", f"text={own}")
    words = [f"--set={word}" for word in sizes]
    result = run_tiny("masked_language_model", *TINY, "--epochs", "2", *words)
    rows = {row[0]: row for row in result.tables["accuracy"].rows}
    assert len(rows) == 8 and next(iter(rows)) == "model"
    assert result.metrics["accuracy"] == rows["model"][1] == result.curves["validation"].y[-1] / 100
    assert rows["trigram"][1] > rows["unigram"][1]
    assert rows["five-gram, no blanks"][1] >= rows["five-gram"][1]
    counts = [row[1] for row in result.tables["hidden"].rows]
    assert sum(counts) == result.metrics["blanks"] == rows["model"][-1]
    for row in rows.values():
        parts = [(share or 0) * count for share, count in zip(row[3:6], counts)]
        assert row[1] == pytest.approx(sum(parts) / sum(counts))
    shown = {who for who, _ in result.tables["examples"].rows}
    assert shown == {"text", "truth", "model", "trigram"}
    for k in range(0, len(result.tables["examples"].rows), 4):
        text, truth, *filled = [text for _, text in result.tables["examples"].rows[k : k + 4]]
        for letters in filled:
            assert len(letters) == len(text)
            assert all(a == b for a, b, gap in zip(letters, truth, text) if gap != mlm.BLANK)
    assert "n = 1" in result.answer and "training was short" in result.answer


@pytest.mark.usefixtures("one_setting")
def test_masking_that_is_stopped_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, own: Path, stop_at: Callable[[int], list[str]]
) -> None:
    whole = runner.compute(blanks(tmp_path / "whole", own))
    notes = stop_at(2)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(blanks(tmp_path / "cut", own))
    rest = runner.compute(blanks(tmp_path / "cut", own))
    assert len(notes) == 3
    assert_same_result(rest, whole)


def exercise() -> mlm.Exercise:
    text = np.random.default_rng(0).integers(5, size=2001)
    letters = CharacterTokenizer("abcde")
    return mlm.Exercise.of(Text(letters, text, text, 2001, "a"), 20, np.random.default_rng(1))


def test_the_exercise_is_the_whole_text_with_fixed_blanks() -> None:
    one, same = exercise(), exercise()
    np.testing.assert_array_equal(one.shown, same.shown)
    assert one.truth.shape == (100, 20)
    assert one.blank.mean() == pytest.approx(mlm.SHARE, abs=0.03)
    assert (one.shown[one.blank] == 5).all()
    np.testing.assert_array_equal(one.shown[~one.blank], one.truth[~one.blank])
    assert one.right(one.truth).all() and not one.right(one.truth + 1).any()
    places = list(zip(*np.nonzero(one.blank)))  # of two pieces none are neighbours
    expected = [((p, k - 1) in places) + ((p, k + 1) in places) for p, k in places]
    assert one.hidden_neighbours().tolist() == expected
    table = Neighbours(one.truth.ravel(), 5, 2, 2)
    alone = np.stack([table.predict(piece) for piece in one.shown])
    np.testing.assert_array_equal(mlm.piece_by_piece(table, one.shown), alone)
    assert (table.predict(one.shown.ravel()) != alone.ravel()).any()


def test_the_model_never_fills_in_a_blank() -> None:
    torch.manual_seed(0)
    model = TorchGPT(GPTConfig(6, 20, 1, 1, 8, causal=False, tied=False))
    with torch.no_grad():
        model.norm.bias.fill_(1.0)
        model.head.weight[5] = 100.0
    assert mlm.filled(model, exercise(), PLAIN).max() < 5


def test_the_verdict_on_tables() -> None:
    def said(*shares: float) -> str:
        names = ("model", "a", "b", f"b{mlm.CLEAN}")
        return mlm.verdict([[name, share, 0.01] for name, share in zip(names, shares)])

    assert "2 of 2 tables of the text that it sees, and than 1 of 1" in said(0.6, 0.5, 0.5, 0.58)
    assert "2 of 2 tables of the text that it sees, and than 0 of 1" in said(0.6, 0.5, 0.5, 0.59)
    assert "0 of 2 tables of the text that it sees, and than 0 of 1" in said(0.5, 0.5, 0.6, 0.7)


def test_a_text_of_few_pieces_is_shown_once() -> None:
    whole, letters = exercise(), CharacterTokenizer("abcde")
    two = mlm.Exercise(whole.truth[:2], whole.shown[:2])
    text = Text(letters, whole.truth[0], whole.truth[0], 20, "a")
    shown = mlm.examples(text, two, dict.fromkeys(("model", "trigram"), two.truth))
    assert [who for who, _ in shown] == ["text", "truth", "model", "trigram"] * 2


def test_too_many_characters_for_tables_are_refused_before_training(tmp_path: Path) -> None:
    path = tmp_path / "signs.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 7000))), encoding="utf-8")
    with pytest.raises(UserError, match="neighbours of 7000 tokens are too many"):
        runner.compute(blanks(tmp_path, path, epochs=10**6))


def test_byte_pairs_are_refused(tmp_path: Path, own: Path) -> None:
    with pytest.raises(UserError, match="tokens must be characters here, got 'bytes'"):
        runner.compute(blanks(tmp_path, own, tokens="bytes"))
