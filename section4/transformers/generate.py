"""Writing: draw the next token from what the model expects, add it to the text, and again.

The most likely token every time makes dull text that goes in circles; drawing from all of them
makes nonsense, as the many unlikely ones are drawn now and then. So the choice is narrowed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from section4.transformers.torch_gpt import Cache, TorchGPT

COLDEST = 1e-30  # the least temperature that float32 can divide by; to it all lower ones are alike


def generate(
    model: TorchGPT,
    prompt: Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> Tensor:
    """`prompt` (N, T) and `count` tokens after it: (N, T + count). Drawn in evaluation mode.

    When a text no longer fits into the context, the model goes on with the newer half of what it
    had before it.

    Args:
        temperature, top_k, top_p: see `probabilities`.
        generator: the random numbers, on the device of the prompt.
        cache: whether keys and values are kept, so that a token costs the pass of one token and
            not of the whole text. The result is the same.

    Raises ValueError for an empty prompt, and settings out of range.
    """
    if prompt.ndim != 2 or not prompt.numel():
        raise ValueError(f"a prompt (N, T) needs at least one token, got {tuple(prompt.shape)}")
    context, was_training = model.config.context, model.training
    text, start, past = prompt, max(0, prompt.shape[1] - context), Cache()
    model.eval()
    try:
        with torch.inference_mode():
            for _ in range(count):
                if text.shape[1] - start > context:
                    start, past = text.shape[1] - (context + 1) // 2, Cache()
                if cache:
                    logits = model(text[:, start + past.length :], past)[:, -1]
                else:
                    logits = model(text[:, start:])[:, -1]  # (N, V)
                chances = probabilities(logits, temperature, top_k, top_p)
                following = torch.multinomial(chances, 1, generator=generator)  # (N, 1)
                text = torch.cat([text, following], dim=1)
    finally:
        model.train(was_training)
    return text


def probabilities(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """softmax(logits / temperature) (N, V), of the tokens that are left to choose from.

    Args:
        temperature: below 1 likely tokens become likelier, above 1 all more alike.
        top_k: only so many, the likeliest ones; with 1 there is no choice ("greedy").
        top_p: only as many of the likeliest as it takes to reach this probability together.

    Raises ValueError unless temperature > 0, top_k >= 1 and 0 < top_p <= 1.
    Sources: Fan, Lewis, Dauphin, arXiv:1805.04833 (top-k); Holtzman et al., The curious case of
    neural text degeneration, arXiv:1904.09751 (top-p).
    """
    if not temperature > 0:
        raise ValueError(
            f"the temperature must be above 0, got {temperature}: for the likeliest token every "
            "time take top_k=1"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    logits = logits.float()
    behind = logits - logits.amax(dim=-1, keepdim=True)  # 0 for the likeliest
    chances = torch.softmax(behind / max(temperature, COLDEST), dim=-1)
    chances, order = chances.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        chances[:, top_k:] = 0
    if top_p is not None:
        total = chances.sum(dim=-1, keepdim=True)
        before = chances.cumsum(dim=-1) - chances  # the probability of all likelier ones
        kept = before < top_p * total
        kept[:, 0] = True  # also for a top_p that float32 rounds to 0
        chances = torch.where(kept, chances, 0)
    chances /= chances.sum(dim=-1, keepdim=True)
    return torch.zeros_like(chances).scatter(-1, order, chances)
