"""All answers on one page of Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.utils.output.saved import save_result
from utils.errors import UserError
from utils.experiments import registry
from utils.output import markdown

XOR = registry.select(["xor"])[0]


def save_xor(folder: Path, answer: str = "Yes.", **info: object) -> None:
    settings = {"mode": "quick", "seed": 0, "budget": XOR.settings("quick")} | info.pop("set", {})  # type: ignore[operator]
    save_result(folder / "section1" / "xor", answer=answer, info={"settings": settings, **info})


def test_a_question_comes_with_its_answer_and_what_it_rests_on(tmp_path: Path) -> None:
    save_xor(tmp_path, "Two units are enough.", seconds=12.0)
    text = markdown.document([tmp_path])
    assert "## QUICK, seed 0, commit 0123456 with changes\n" in text
    assert "A processor, 2 cores; python 3.11.7, numpy 2.4.6.\n" in text
    assert "\n12 s in all.\n" in text
    assert "### 1. Foundations (NumPy)\n" in text
    assert f"**[1.2 xor](../section1/experiments/xor.py)** *{XOR.question}*\n" in text
    assert text.endswith("\n\nTwo units are enough.\n\n*12 s on MNIST (official files)*\n")


def test_a_budget_that_is_not_that_of_config_is_stated(tmp_path: Path) -> None:
    save_xor(tmp_path, set={"budget": XOR.settings("quick") | {"epochs": 7}})
    assert "(official files); epochs=7*\n" in markdown.document([tmp_path])


def test_the_time_of_a_run_that_was_resumed_is_said_to_be_that_of_its_end(tmp_path: Path) -> None:
    save_xor(tmp_path, seconds=12.0, resumed=True)
    assert "*12 s since it was resumed on MNIST (official files)*" in markdown.document([tmp_path])


def test_results_of_one_run_stand_together(tmp_path: Path) -> None:
    save_xor(tmp_path / "a")
    save_result(tmp_path / "a" / "section3" / "mnist_cnn")
    save_xor(tmp_path / "b", set={"mode": "full", "budget": XOR.settings("full")})
    text = markdown.document([tmp_path / "a", tmp_path / "b"])
    assert text.count("## QUICK, seed 0") == text.count("## FULL, seed 0") == 1
    assert text.index("1.2 xor") < text.index("3.3 mnist") < text.index("## FULL")


@pytest.mark.parametrize(
    "words",
    ["|dL/dW| / |W|", "a_b_c *d*", "<img src=x>", "[a](b) `c`", "costs $1, and $2", "1 ~ 2~"],
)
def test_no_sign_of_an_answer_means_anything(words: str) -> None:
    escaped = markdown.escape(words)
    plain = escaped.replace("\\", "")
    assert plain == words
    assert all(escaped[i - 1] == "\\" for i, sign in enumerate(escaped) if sign in "|_*<>[]`$~")


def test_an_answer_stays_one_paragraph(tmp_path: Path) -> None:
    save_xor(tmp_path, "One.\n\n# Two")
    assert "\n\nOne. \\# Two\n\n" in markdown.document([tmp_path])


def test_where_there_is_no_result_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no result in"):
        markdown.document([tmp_path])
