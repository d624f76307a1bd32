"""Go on with a text, as the language model would that was trained last (python main.py gpt)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import config
from utils.errors import UserError
from utils.experiments.budget import parse, whole_number


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="what to go on with")
    parser.add_argument("--count", metavar="N", default="500", help="tokens to write (500)")
    parser.add_argument(
        "--temperature", metavar="X", default="0.8", help="below 1 safer, above 1 wilder (0.8)"
    )
    parser.add_argument("--top-k", metavar="N", help="only the N likeliest tokens; 1: no choice")
    parser.add_argument(
        "--top-p", metavar="X", help="only the likeliest, of probability X together"
    )
    parser.add_argument(
        "--seed", metavar="N", default=str(config.SEED), help="other random numbers"
    )
    parser.add_argument("--results", metavar="DIR", default=config.RESULTS_DIR)


def run(parsed: argparse.Namespace) -> int:
    """Write the prompt and what comes after it; on the error channel, which model that was."""
    count = parse("--count", parsed.count, 1)
    temperature = parse("--temperature", parsed.temperature, 1.0)
    top_k = None if parsed.top_k is None else parse("--top-k", parsed.top_k, 1)
    top_p = None if parsed.top_p is None else parse("--top-p", parsed.top_p, 1.0)
    seed = whole_number("--seed", parsed.seed, 0)
    if not parsed.prompt:
        raise UserError("--prompt is empty: give at least one character to go on with")

    # Only now what takes time to import.
    import torch

    from section4.experiments._text import load_model, newest_model
    from section4.images import device_seed
    from section4.transformers.generate import generate

    path = newest_model(Path(parsed.results))
    model, tokenizer = load_model(path)
    try:
        prompt = torch.from_numpy(tokenizer.encode(parsed.prompt))[None]  # (1, T)
        generator = torch.Generator().manual_seed(device_seed(seed))
        text = generate(
            model, prompt, count, temperature=temperature, top_k=top_k, top_p=top_p,
            generator=generator,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"({path}, {model.config.layers} layers, width {model.config.width})", file=sys.stderr)
    print(tokenizer.decode(text[0].tolist()))
    return 0
