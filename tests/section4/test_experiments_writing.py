"""Attention taken apart, the maps of a trained GPT, and ways to draw the next token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from section4.experiments import _against_torch, attention_from_scratch, attention_maps, sampling
from section4.experiments._engine import seeded
from section4.experiments._text import load_text
from section4.transformers.gpt import GPTConfig
from section4.transformers.tokenizers import CharacterTokenizer
from section4.transformers.torch_gpt import TorchGPT
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Result, Table

SMALL: dict[str, Any] = {
    "layers": 1, "heads": 2, "width": 16, "context": 16, "batch_size": 4, "epochs": 2, "steps": 5,
}  # fmt: skip
FEW: dict[str, Any] = {
    "prompts": 3, "length": 24, "temperatures": [0.5, 1.0], "top_k": [1, 4], "top_p": [0.9],
}  # fmt: skip
WORDS = ("--mode", "quick", "--data", "embedded", "--device", "cpu", "--threads", "1")


def options(budget: dict[str, Any]) -> list[str]:
    return [
        word
        for key, value in budget.items()
        for word in ("--set", f"{key}={str(value).strip('[]')}")
    ]


def tiny_gpt(context: int = 8, **changes: Any) -> TorchGPT:
    config = GPTConfig(vocabulary=5, context=context, layers=2, heads=2, width=8, **changes)
    model = seeded(0, lambda: TorchGPT(config))
    with torch.no_grad():
        for parameter in model.parameters():  # else all tokens are almost equally likely
            parameter.mul_(10)
    return model.eval()


# --- attention from scratch ------------------------------------------------------------------


def test_attention_from_scratch(run_tiny: Callable[..., Result]) -> None:
    metrics = run_tiny("attention_from_scratch", *WORDS, *options({"seeds": 2})).metrics
    assert metrics["steps"] < 1e-12 and metrics["order_unseen"] < 1e-12
    assert metrics["layers_that_agree"] == metrics["layers"] == 12
    assert metrics["leak"] == 0 and metrics["smallest_change_after"] > 0
    assert metrics["leak_without_mask"] > 1e-3
    assert metrics["rotary_spread"] < 1e-12 and metrics["similarity_spread"] < 1e-12
    assert metrics["added_spread"] > 0.1
    assert metrics["slope_plain"] < 0.2 < 0.9 < metrics["slope_scaled"]


@pytest.mark.parametrize("kind", ["MultiHeadAttention, causal", "MultiHeadAttention, rotary"])
def test_a_layer_that_is_wrong_differs_from_that_of_pytorch(kind: str) -> None:
    rng = np.random.default_rng(0)
    config = GPTConfig(11, 7, layers=2, heads=3, width=12)
    x, tokens = rng.standard_normal((2, 7, 12)), rng.integers(11, size=(2, 7))
    cases = {case.name: case for case in _against_torch.cases(config, x, tokens, rng)}
    layer: Any = cases[kind].layer
    assert max(_against_torch.differences(cases[kind], rng)) < 1e-12
    layer.causal = not layer.causal
    assert min(_against_torch.differences(cases[kind], rng)) > 1e-3


def test_entropy_slope_and_largest_weight() -> None:
    for d in (1, 50):
        scaled, plain = attention_from_scratch.looks(d, 8, np.random.default_rng(0))
        assert 0 < plain[0] <= scaled[0] < 3 and 0 < plain[1] <= scaled[1] < 7 / 8
        assert 1 > plain[2] >= scaled[2] > 1 / 8
        assert (scaled == plain).all() == (d == 1)


# --- attention maps --------------------------------------------------------------------------


def test_attention_maps(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("attention_maps", *WORDS, *options(SMALL | {"texts": 3}))
    metrics, maps = result.metrics, result.arrays["maps"]
    assert metrics["rounding"] < 1e-4, "NumPy's twin and PyTorch's model say the same"
    assert maps.shape == (1, 2, 16, 16) and not np.triu(maps, 1).any()
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    assert metrics["itself_even"] == pytest.approx(np.mean(1 / np.arange(2, 17)))
    assert len(result.tables["heads"].rows) == 2 + 2 and result.arrays["tokens"].shape == (16,)


def test_where_heads_may_look() -> None:
    tokens = CharacterTokenizer("ab \n").encode("ab\nab ab")[None]
    blank = np.array([True, True, False, False])  # "\n", " ", "a", "b"
    kinds = {"blank": blank, "line": np.array([True, False, False, False])}
    places = attention_maps.places_of(tokens, kinds)
    found = {key: each[0, 6].nonzero()[0].tolist() for key, each in places.items()}  # the last "a"
    assert found.pop("distance") == list(range(6))
    assert found == {
        "itself": [6], "previous": [5], "first": [0], "blank": [5], "letter": [6], "line": [2],
        "same": [0, 3], "after_same": [1, 4],
    }  # fmt: skip
    assert not places["line"][0, :2].any() and not places["blank"][0, :2].any()
    assert places["blank"][0, 5, 5] and not places["letter"][0, 5].any()
    np.testing.assert_array_equal(places["distance"][0, 6], [6, 5, 4, 3, 2, 1, 0, 0])
    assert all(not np.triu(each, 1).any() for each in places.values())


def test_measures_of_weights_that_are_known() -> None:
    tokens = np.array([[0, 1, 0, 1]])
    kinds = {"blank": np.zeros(2, bool), "line": np.zeros(2, bool)}
    before = np.eye(4, k=-1)
    before[0, 0] = 1
    found = attention_maps.measures(np.stack([before, np.eye(4)])[None], tokens, kinds, start=1)
    expected: dict[str, Any] = {
        "previous": [1, 0], "itself": [0, 1], "first": [1 / 3, 0], "after_same": [2 / 3, 0],
        "blank": [0, 0], "distance": [1, 0], "entropy": [0, 0],
    }  # fmt: skip
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], [values], atol=1e-12, err_msg=key)
    even = attention_maps.measures(attention_maps.even_weights(tokens), tokens, kinds, start=3)
    assert even["entropy"] == pytest.approx(2) and even["distance"] == pytest.approx(1.5)


def test_heads_that_never_look_at_a_place_are_drawn() -> None:
    keys = attention_maps.SHARES
    metrics = {f"{key}_even": 0.1 for key in keys} | {f"{key}_most": 0.0 for key in keys}
    metrics |= {"itself_most": 1.0, "previous_most": 0.5}
    for key in attention_maps.OTHERS:
        metrics |= {f"{key}_least": 0.0, f"{key}_most": 1.0}
    arrays = {f"{key}_places": np.eye(4) for key in keys}
    arrays |= {"means": np.ones((1, 1, 11)), "maps": np.eye(4)[None, None]}
    arrays |= {"tokens": np.array(list("abcd"))}
    result = Result("", "itself_most", metrics, arrays=arrays)
    title = attention_maps.draw_examples(result).get_suptitle()
    assert "framed: 1.1 (the token itself), 1.1 (the token before)" in title
    assert attention_maps.draw_maps(result).get_suptitle().startswith("1 head on one text")


def test_maps_are_those_of_the_model_without_dropout() -> None:
    tokens = np.random.default_rng(0).integers(5, size=(3, 8))
    maps, rounding = attention_maps.maps_of(tiny_gpt(dropout=0.5), tokens)
    assert maps.shape == (3, 2, 2, 8, 8) and rounding < 1e-4
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    assert np.abs(maps[:, 0] - attention_maps.even_weights(tokens)[:, None]).max() > 0.05


def test_a_context_too_short_for_maps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a context of at least 4, got 3"):
        runner.compute(small_run("attention_maps", tmp_path, SMALL | {"context": 3, "epochs": 1}))


# --- sampling --------------------------------------------------------------------------------


def test_sampling(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("sampling", *WORDS, *options(SMALL | FEW), "--precision", "float32")
    metrics = result.metrics
    names = [row[0] for row in result.tables["settings"].rows]
    assert names == ["the real text", "greedy", "temperature 0.5", "temperature 1", "top-k 4",
                     "top-p 0.9"]  # fmt: skip
    assert result.curves["known, top_k"].x == [1, 4]
    assert metrics["differing_tokens"] == 0 and metrics["compared_tokens"] == 2 * 3 * 24
    assert metrics["loss_greedy"] < metrics["loss_real"]
    assert metrics["repeated_greedy"] > metrics["repeated_real"]
    texts = result.tables["texts"].rows
    assert all(len(prompt) == 16 and len(end) == 24 for _, prompt, end in texts)


@pytest.mark.usefixtures("one_setting")
def test_a_model_trained_half_way_leads_to_the_same_texts(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    whole = runner.compute(small_run("sampling", tmp_path / "whole", SMALL | FEW))
    stop_at(2)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small_run("sampling", tmp_path / "cut", SMALL | FEW))
    assert_same_result(runner.compute(small_run("sampling", tmp_path / "cut", SMALL | FEW)), whole)


def test_circles_and_repetitions() -> None:
    def circle(text: str) -> bool:
        return sampling.in_a_circle(np.array([ord(sign) for sign in text]))

    assert circle("and so the end the end the end") and circle("x" * 12)
    assert not circle("and so the end the end") and not circle("no, no, no!")
    assert not circle("abcdefghijkl") and not circle("ab") and not circle("")
    assert sampling.repetition("abcdefgh" * 2) == pytest.approx(1 / 9)
    assert sampling.repetition("abcdefghij") == 0 == sampling.repetition("short")


@pytest.mark.parametrize("length", [20, 25, 60])
def test_every_token_is_judged_by_half_a_context_or_more(length: int) -> None:
    model = tiny_gpt(context=24)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(5, size=(2, length)))
    each = list[torch.Tensor]()
    for place in range(sampling.PROMPT, length):
        start = 0 if place <= 24 else 13 + (place - 25) // 13 * 13  # 12 to 24 tokens before
        with torch.inference_mode():
            logits = model(tokens[:, start:place])[:, -1]
        each.append(F.cross_entropy(logits, tokens[:, place], reduction="none"))
    found = sampling.losses(model, tokens.numpy())
    np.testing.assert_allclose(found, torch.stack(each, 1).mean(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"temperatures": [0.0]}, "temperature must be above 0, got 0"),
        ({"top_p": [1.5]}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"length": 10**6}, "a continuation of 1000000 is too long: a text of"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        runner.compute(small_run("sampling", tmp_path, SMALL | {"epochs": 1} | FEW | changes))


def test_texts_are_drawn_where_top_k_is_greedy_alone() -> None:
    names = [sampling.REAL, sampling.GREEDY, "temperature 1", "top-p 0.9"]
    rows = [[name, "prompt", "rest"] for name in names]
    tables = {"texts": Table(["setting", "prompt", "continuation"], rows)}
    metrics = {"repeated_greedy": 0.5, "repeated_real": 0.0}
    figure = sampling.draw_texts(Result("", "repeated_greedy", metrics, tables=tables))
    assert [axes.get_title(loc="left") for axes in figure.axes][:4] == names


def test_the_real_text_is_most_like_itself(tmp_path: Path) -> None:
    run = small_run("sampling", tmp_path, SMALL | FEW)
    text = load_text(run)
    real = sampling.real_texts(run, text)
    assert real.shape == (3, 16 + 24)
    numbers = np.random.default_rng(0).random((3, 4))
    found = {sampling.REAL: numbers, "far": numbers + 1, "near": numbers + 0.1}
    assert sampling.closest(found) == "near"
