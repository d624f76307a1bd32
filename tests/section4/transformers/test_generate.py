"""Drawing tokens, and the cache that must not change what is drawn."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from section4.transformers.generate import generate, probabilities
from section4.transformers.gpt import POSITIONS, GPTConfig
from section4.transformers.torch_gpt import Cache, TorchGPT

CONFIG = GPTConfig(vocabulary=11, context=8, layers=2, heads=2, width=16)


def model(**changes: object) -> TorchGPT:
    torch.manual_seed(0)
    twin = TorchGPT(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return twin


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])


# --- the cache ----------------------------------------------------------------------------


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("padding", [None, 2])
def test_a_text_in_pieces_gives_the_same_logits(positions: str, padding: int | None) -> None:
    gpt = model(positions=positions, padding=padding).double().eval()
    x = torch.arange(16).reshape(2, 8) % 11
    whole, cache = gpt(x), Cache()
    parts = [gpt(part, cache) for part in x.split([3, 1, 2, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-12, rtol=0)
    assert cache.length == 8
    with pytest.raises(ValueError, match=r"1 to 8 tokens .* got 9"):
        gpt(x[:, :1], cache)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("length", [1, 3, 8, 12])  # the last is longer than the context
def test_with_and_without_cache_write_the_same(positions: str, length: int) -> None:
    gpt = model(positions=positions)
    prompt = torch.arange(2 * length).reshape(2, length) % 11
    texts = [generate(gpt, prompt, 30, generator=seeded(), cache=cache) for cache in (True, False)]
    assert texts[0].shape == (2, length + 30)
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0][:, :length], prompt)
    assert len(texts[0][:, length:].unique()) > 3


def test_a_token_costs_one_token_with_the_cache() -> None:
    gpt, lengths = model(), list[int]()
    gpt.tokens.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    generate(gpt, PROMPT, 9)
    assert lengths == [3, 1, 1, 1, 1, 1, 4, 1, 1]  # the context is full: from half of it again
    lengths.clear()
    generate(gpt, PROMPT, 4, cache=False)
    assert lengths == [3, 4, 5, 6]


# --- the draw -----------------------------------------------------------------------------


def test_the_same_seed_writes_the_same() -> None:
    one, same, other = (generate(model(), PROMPT, 20, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_generation_is_in_evaluation_mode_and_leaves_the_mode_alone() -> None:
    gpt = model(dropout=0.5)
    texts = [generate(gpt, PROMPT, 10, top_k=1) for _ in range(2)]
    assert torch.equal(*texts) and gpt.training
    gpt.eval()
    generate(gpt, PROMPT, 1)
    assert not gpt.training


def test_top_k_of_one_is_greedy() -> None:
    gpt = model().eval()
    text = PROMPT
    for _ in range(5):
        text = torch.cat([text, gpt(text)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(gpt, PROMPT, 5, top_k=1), text)
    assert torch.equal(generate(gpt, PROMPT, 5, temperature=1e-4), text)
    assert torch.equal(generate(gpt, PROMPT, 5, top_p=1e-6), text)


LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]]))


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.71}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0]),  # of what top-k left
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"temperature": 1e-40}, [0, 1, 0, 0]),
        ({"temperature": 1e300}, [0.25, 0.25, 0.25, 0.25]),
        ({"top_p": 1e-46}, [0, 1, 0, 0]),
    ],
)
def test_probabilities(settings: dict, first: list[float]) -> None:
    chances = probabilities(LOGITS, **settings)
    torch.testing.assert_close(chances[0], torch.tensor(first, dtype=torch.float32))
    torch.testing.assert_close(chances.sum(-1), torch.ones(2))


def test_a_tie_leaves_no_more_than_was_asked_for() -> None:
    assert (probabilities(LOGITS, top_k=2)[1] > 0).sum() == 2
    assert (probabilities(LOGITS, top_p=0.5)[1] > 0).sum() == 2


def test_temperature_flattens() -> None:
    cold, warm, hot = (probabilities(LOGITS, t)[0].max() for t in (0.1, 1, 10))
    assert cold > 0.9 > warm > hot > 0.25


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"temperature": 0}, "above 0, got 0: .* top_k=1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "at most 1, got 1.5"),
    ],
)
def test_refused_settings(settings: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        generate(model(), PROMPT, 1, **settings)


@pytest.mark.parametrize("shape", [(3,), (1, 0), (0, 4)])
def test_a_prompt_is_needed(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a prompt \(N, T\) needs at least one token"):
        generate(model(), torch.zeros(shape, dtype=torch.long), 1)
