"""How well does a GPT learn to guess the next character, and when does what it writes make sense?

A stack of Transformer blocks (`transformers/torch_gpt.py`) is trained on one text. How surprised
it is by the rest of it is told in three ways: the loss in nats a token; the perplexity exp(loss),
out of how many tokens it would have to guess blindly to do as badly; and bits a character, which
can be compared across tokenizers. A table of which token follows which shows what is to be had
without any network. The weights that are kept are those of the lowest validation loss.

A text of one's own: `--set text=PATH`; byte pairs in place of characters: `--set tokens=bytes`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.experiments._training import counted, smoothed
from section4.engine import count_parameters
from section4.experiments._kept import Kept
from section4.experiments._text import (
    Text,
    for_device,
    load_text,
    show_texts,
    times,
    trained_gpt,
    write,
)
from section4.transformers.torch_gpt import TorchGPT
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SHARES = (0, 1 / 32, 1 / 8, 1 / 3)  # of the training, after which there is a sample
PUBLISHED_TOKENS = 5000 * 64 * 256  # that nanoGPT learns from
PUBLISHED = [  # as stated by their author; not measured here
    ["nanoGPT, 4 layers on a CPU", "1.88", "github.com/karpathy/nanoGPT"],
    ["nanoGPT, 6 layers on a GPU", "1.4697", "github.com/karpathy/nanoGPT"],
]


class Samples:
    """What the model writes after some of its steps: `Samples.texts[step]`."""

    def __init__(self, run: Run, text: Text, steps: int, file: Path):
        self.text, self.texts = text, Kept[str](file)
        self.count, self.seed = run.budget.written, run.seed()
        self.steps = {int(share * steps) for share in SHARES}

    def __call__(self, model: TorchGPT, step: int) -> None:
        if step in self.steps:
            self.texts[step] = self.written_by(model)

    def written_by(self, model: TorchGPT) -> str:
        text = self.text
        return write(model, text.tokenizer, text.opening, self.count, self.seed)


def words(text: str) -> list[str]:
    """Those of three letters or more: of shorter ones chance writes many."""
    return re.findall(r"[^\W\d_]{3,}", text)


def loss_of_pairs(text: Text) -> float:
    """The validation loss of a table: how often each token came after each other in training."""
    size = text.tokenizer.vocabulary
    counts = np.bincount(text.train[:-1] * size + text.train[1:], minlength=size**2)
    chances = counts.reshape(size, size) + 1.0  # nothing is impossible
    chances /= chances.sum(axis=1, keepdims=True)
    surprise = -np.log(chances[text.validation[:-1], text.validation[1:]])
    return float(surprise.mean()) + 0.0  # never -0.0


def perplexity(loss: float) -> float:
    """exp(loss). Raises UserError where no number is as large."""
    try:
        return math.exp(loss)
    except OverflowError:
        raise UserError(
            f"the training diverged to a validation loss of {loss:.0f} nats a token: take a "
            "smaller learning rate (--lr)"
        ) from None


def compute(run: Run) -> Result:
    text, budget = load_text(run), for_device(run)
    steps = budget.epochs * budget.steps
    with run.resumable() as folder, run.progress(budget.epochs) as bar:
        samples = Samples(run, text, steps, folder / "samples.pt")
        trained = trained_gpt(run, text, folder, bar, samples)
    shape, history = trained.model.config, trained.history
    texts = {step: sample for step, sample in samples.texts.items() if step != trained.steps}
    texts[trained.steps] = samples.written_by(trained.model)  # the last one
    shown = {f"after {counted(step, 'step')}": sample for step, sample in texts.items()}
    known = set(words(text.tokenizer.decode(text.train)))

    def share(sample: str) -> float:
        return float(np.mean([word in known for word in words(sample)] or [False]))

    rows: list[list[Any]] = [[who, share(sample), sample] for who, sample in shown.items()]
    whole = text.tokenizer.decode(text.validation)
    rows.append(["validation text", share(whole), whole[: len(rows[-1][2])]])
    tokens = steps * budget.batch_size * shape.context
    metrics: dict[str, float] = {
        "validation_loss": trained.loss,
        "perplexity": perplexity(trained.loss),
        "bits_per_character": text.bits_per_character(trained.loss),
        "last_validation_loss": history.val_loss[-1],
        "training_loss": history.loss[-1],
        "pairs_loss": loss_of_pairs(text),
        "steps": steps,
        "best_step": trained.steps,
        "tokens": tokens,
        "passes": tokens / len(text.train),
        "vocabulary": shape.vocabulary,
        "parameters": count_parameters(trained.model),
        "known_words": rows[-2][1],
        "known_words_validation": rows[-1][1],
        "words": len(words(rows[-2][2])),
        "seconds": history.seconds[-1],
    }
    label = "loss (nats a token)"
    x, means = smoothed(np.array([history.step_loss]))
    ends = range(budget.steps, steps + 1, budget.steps)
    perplexities = [perplexity(loss) for loss in history.val_loss]
    curves = {
        "training": Curve.over_runs(x, means, "step", label),
        "validation": Curve.over_runs(ends, [history.val_loss], "step", label),
        "perplexity": Curve.over_runs(
            ends, [perplexities], "step", "validation perplexity (tokens)"
        ),
    }
    tables = {
        "samples": Table(["who", "share of words that the training text has", "text"], rows),
        "published": Table(["who", "validation loss, tiny Shakespeare", "source"], PUBLISHED),
    }
    return Result(in_words(metrics, shape.layers), "validation_loss", metrics, curves, tables)


def in_words(metrics: dict[str, float], layers: int) -> str:
    answer = (
        f"A GPT of {counted(layers, 'layer')} ({metrics['parameters']:,} parameters) has "
        f"a validation loss of {metrics['validation_loss']:.3f} nats a token after "
        f"{counted(metrics['best_step'], 'step')}: perplexity {metrics['perplexity']:,.2f} of "
        f"{metrics['vocabulary']} tokens, {metrics['bits_per_character']:.2f} bits a character "
        f"(n = 1). A table of pairs of tokens gets {metrics['pairs_loss']:.3f}. Of "
        f"{counted(metrics['words'], 'word')} that it writes, three letters or more, "
        f"{metrics['known_words']:.0%} stand in the training text; of the validation text's "
        f"{metrics['known_words_validation']:.0%}."
    )
    if metrics["last_validation_loss"] > metrics["validation_loss"] + 0.01:
        by_heart = metrics["training_loss"] < metrics["validation_loss"]
        answer += (
            f" Trained on, it {'learns the text by heart' if by_heart else 'gets worse'}: the loss "
            f"rises to {metrics['last_validation_loss']:.3f}."
        )
    answer += (
        f" The whole training, {counted(metrics['steps'], 'step')}, took "
        f"{metrics['seconds']:.0f} s and shows it the text {times(metrics['passes'])}"
    )
    if metrics["tokens"] < PUBLISHED_TOKENS:
        share = PUBLISHED_TOKENS / metrics["tokens"]
        answer += f", a short training: nanoGPT's on a GPU has {times(share)} as many tokens"
    return f"{answer}."


def draw(result: Result) -> dict[str, Figure]:
    metrics, curves = result.metrics, result.curves
    learning, axes = plots.grid(1, 2, width=5.0, height=3.8)
    plots.plot_curve(axes[0, 0], curves["training"], "training", lw=1)
    look: dict[str, Any] = {"color": "C1", "marker": "s", "ms": 4}
    plots.plot_curve(axes[0, 0], curves["validation"], "validation", **look)
    plots.plot_curve(axes[0, 1], curves["perplexity"], "GPT", **look)
    pairs = metrics["pairs_loss"]
    for place, level in zip(axes[0], (pairs, math.exp(pairs))):
        place.axhline(level, color="C6", ls=":", label="table of pairs, validation")
        place.legend(title="n = 1", title_fontsize="small")
    learning.suptitle(
        f"Validation loss {metrics['validation_loss']:.3f} nats a token after "
        f"{counted(metrics['best_step'], 'step')}: perplexity {metrics['perplexity']:,.2f}, "
        f"{metrics['bits_per_character']:.2f} bits a character"
    )
    rows = result.tables["samples"].rows
    text = show_texts({f"{who}: {share:.0%} known words": shown for who, share, shown in rows})
    text.suptitle(
        f"Of the words that the model writes {rows[0][1]:.0%} stand in the training text "
        f"{rows[0][0]}, {rows[-2][1]:.0%} {rows[-2][0]}; of the validation text's {rows[-1][1]:.0%}"
    )
    return {"learning": learning, "text": text}
