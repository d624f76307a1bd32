"""How well does a Transformer fill in what is missing from a text, when it may read both ways?

The GPT of the course without its causal mask learns as BERT does (`transformers/masking.py`): of
the characters of a text 15% are chosen and mostly hidden, and only these count in the loss. It is
then asked for characters of text it has never seen, hidden at places drawn once and the same for
all: 15% of the whole validation text, each replaced by a blank, so that what stood there cannot be
copied. Places are told by turning queries and keys ("rotary"): what stands beside a blank matters
most, wherever in the text that is.

What it must beat are tables (`Neighbours`): of all characters, which was met most often in the
training text between the same neighbours? With fewer neighbours where the combination is new. A
trigram has one on either side, or two on the left; a five-gram two on either side. Each is asked
twice: of the text with its blanks, as the model is, and of the text without, which gives the table
more than the model has, as neighbours are hidden too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from section1.experiments._training import counted, smoothed
from section2.experiments._optimizers import listed
from section3.experiments._learning import up_and_down
from section4.engine import IGNORED, Batch, Setting, count_parameters, cross_entropy
from section4.experiments._engine import choose, seeded
from section4.experiments._letters import GIVEN, RIGHT, WRONG, letters_at_most, write_letters
from section4.experiments._text import (
    AT_ONCE,
    LONGEST_GRADIENT,
    Text,
    adamw,
    config_of,
    for_device,
    load_text,
    placed,
    times,
)
from section4.training import evaluation, fit
from section4.transformers.masking import Neighbours, masked
from section4.transformers.tokenizers import CharacterTokenizer
from section4.transformers.torch_gpt import TorchGPT
from section4.transformers.windows import random_windows, windows
from utils.errors import UserError
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SHARE = 0.15  # of the characters
TABLES = {  # neighbours on the left and on the right
    "unigram": (0, 0),
    "left trigram": (2, 0),
    "trigram": (1, 1),
    "five-gram": (2, 2),
}
CLEAN = ", no blanks"  # after the name of a table that is asked of the text as it was
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
PALE, NAME = "0.6", "C0"  # the colours of what was not to be filled in, and of who did
SHOWN, WIDE = 6, 6.4  # pieces of text in a figure, and its width in inches
ENOUGH = 40  # times to go through the text, as BERT did (arXiv:1810.04805, appendix A.2)
HIDDEN = ("none", "one", "both")  # of the two neighbours of a blank


@dataclass(frozen=True)
class Exercise:
    """A text with blanks: tokens as they were, and as they are shown; (pieces, T) each."""

    truth: np.ndarray
    shown: np.ndarray

    @classmethod
    def of(cls, text: Text, context: int, rng: np.random.Generator) -> Exercise:
        """The validation text, cut into pieces side by side, each place a blank by chance."""
        truth = windows(text.validation, context, stride=context)[0]
        blank = rng.random(truth.shape) < SHARE
        blank[0, 0] = True  # so that there is one
        return cls(truth, np.where(blank, text.tokenizer.vocabulary, truth))

    @property
    def blank(self) -> np.ndarray:
        return self.shown != self.truth

    def right(self, guess: np.ndarray) -> np.ndarray:
        """Of a guess for every place, whether it is right: for the blanks alone, in order."""
        return (guess.reshape(self.truth.shape) == self.truth)[self.blank]

    def hidden_neighbours(self) -> np.ndarray:
        """How many of the characters before and after each blank are blanks themselves."""
        blank = np.pad(self.blank, ((0, 0), (1, 1))).astype(int)
        return (blank[:, :-2] + blank[:, 2:])[self.blank]


def filled(model: nn.Module, exercise: Exercise, setting: Setting) -> np.ndarray:
    """The character that the model finds likeliest for every place (pieces, T)."""
    guesses = []
    with evaluation(model, setting):
        for start in range(0, len(exercise.shown), AT_ONCE):
            x = torch.from_numpy(exercise.shown[start : start + AT_ONCE]).to(setting.device)
            guesses.append(model(x)[..., :-1].argmax(-1).cpu().numpy())  # the last is the blank
    return np.concatenate(guesses)


def piece_by_piece(table: Neighbours, tokens: np.ndarray) -> np.ndarray:
    """What a table guesses for every place (pieces, T): like the model it sees one piece alone."""
    gap = max(map(max, TABLES.values()))
    apart = np.pad(tokens, ((0, 0), (0, gap)), constant_values=-1)
    return table.predict(apart.ravel()).reshape(apart.shape)[:, : tokens.shape[1]]


def compute(run: Run) -> Result:
    text, budget = load_text(run), for_device(run)
    if not isinstance(text.tokenizer, CharacterTokenizer):
        raise UserError(f"tokens must be characters here, got {budget.tokens!r}")
    hidden = text.tokenizer.vocabulary  # the token that stands for a blank
    try:
        known = {name: Neighbours(text.train, hidden, *sides) for name, sides in TABLES.items()}
    except ValueError as error:
        raise UserError(str(error)) from error
    shape = replace(
        config_of(budget, text),
        vocabulary=hidden + 1, positions="rotary", causal=False, tied=False,
    )  # fmt: skip
    exercise = Exercise.of(text, shape.context, run.rng(0))
    draw = random_windows(
        text.train, shape.context, batch_size=budget.batch_size, batches=budget.steps
    )

    def batches(epoch: int, setting: Setting) -> Iterator[Batch]:
        rng = run.rng(1, epoch)
        for x, _ in draw(rng):
            yield placed(setting, *masked(x, hidden, IGNORED, rng, SHARE))

    def validate(judged: nn.Module) -> tuple[float, float]:
        return math.nan, float(exercise.right(filled(judged, exercise, setting)).mean())

    model = seeded(run.seed(2), lambda: TorchGPT(shape))
    with run.resumable() as folder, run.progress(budget.epochs) as bar:
        some = next(batches(0, Setting(torch.device("cpu"))))
        setting = choose(run, model, some, folder=folder)
        history = fit(
            model,
            cross_entropy(),
            adamw(model, budget.lr),
            lambda epoch: batches(epoch, setting),
            epochs=budget.epochs,
            seed=run.seed(3),
            setting=setting,
            schedule=up_and_down(budget.lr, budget.epochs * budget.steps),
            validate=validate,
            clip=LONGEST_GRADIENT,
            on_epoch=lambda history: bar.advance(f"{history.val_metric[-1]:.1%} filled in"),
            checkpoints=folder,
            resume=True,
            on_resume=bar.skip,
        )
        guesses = {"model": filled(model, exercise, setting)}
    for name, table in known.items():
        for asked, tokens in (("", exercise.shown), (CLEAN, exercise.truth)):
            if any(TABLES[name]) or not asked:
                guesses[name + asked] = piece_by_piece(table, tokens)

    scores = {name: exercise.right(guess) for name, guess in guesses.items()}
    crowded = exercise.hidden_neighbours()
    rows = list[list[Any]]()
    for name, hits in scores.items():
        each = [hits[crowded == count] for count in range(len(HIDDEN))]
        parts = [float(part.mean()) if len(part) else None for part in each]
        rows.append([name, float(hits.mean()), margin(hits), *parts, len(hits)])
    counts = [int((crowded == count).sum()) for count in range(len(HIDDEN))]
    steps = budget.epochs * budget.steps
    metrics: dict[str, float] = {
        "accuracy": rows[0][1],
        "blanks": len(crowded),
        "steps": steps,
        "parameters": count_parameters(model),
        "seconds": history.seconds[-1],
        "passes": steps * budget.batch_size * shape.context / len(text.train),
    }
    x, means = smoothed(np.array([history.step_loss]))
    ends = range(budget.steps, steps + 1, budget.steps)
    percent = [[100 * share for share in history.val_metric]]
    curves = {
        "training": Curve.over_runs(x, means, "step", "training loss (nats a chosen character)"),
        "validation": Curve.over_runs(ends, percent, "step", "blanks filled in right (%)"),
    }
    columns = ["who", "blanks filled in right", "95% interval (±)"]
    columns += [f"of those with {word} of the neighbours hidden" for word in HIDDEN]
    tables = {
        "accuracy": Table([*columns, "blanks"], rows),
        "hidden": Table(["neighbours hidden", "blanks"], [*map(list, zip(HIDDEN, counts))]),
        "examples": Table(["who", "text"], examples(text, exercise, guesses)),
    }
    return Result(in_words(metrics, rows), "accuracy", metrics, curves, tables)


def margin(right: np.ndarray) -> float:
    """Half of the 95% interval of a share, as if every blank were drawn on its own."""
    share = right.mean()
    return float(1.96 * math.sqrt(share * (1 - share) / len(right)))


def examples(text: Text, exercise: Exercise, guesses: dict[str, np.ndarray]) -> list[list[str]]:
    """Pieces from all over the text: with blanks, as it was, and as it was filled in."""
    width, rows = letters_at_most(WIDE - 1), list[list[str]]()
    for piece in np.unique(np.linspace(0, len(exercise.truth) - 1, SHOWN).astype(int)):
        truth, blank = exercise.truth[piece, :width], exercise.blank[piece, :width]
        letters = text.tokenizer.decode(truth)
        shown = "".join(BLANK if gap else letter for letter, gap in zip(letters, blank))
        rows += [["text", shown], ["truth", letters]]
        for who in ("model", "trigram"):
            guess = np.where(blank, guesses[who][piece, :width], truth)
            rows.append([who, text.tokenizer.decode(guess)])
    return rows


def in_words(metrics: dict[str, float], rows: list[list[Any]]) -> str:
    told = [f"{name} {share:.1%}" for name, share, *_ in rows[1:] if CLEAN not in name]
    clean = {name: share for name, share, *_ in rows if CLEAN in name}
    more = [f"{name.removesuffix(CLEAN)} {share:.1%}" for name, share in clean.items()]
    answer = (
        f"Of {counted(metrics['blanks'], 'blank')} in the validation text a "
        f"Transformer that reads both ways ({metrics['parameters']:,} parameters, "
        f"{counted(metrics['steps'], 'step')}, n = 1) fills {rows[0][1]:.1%} ± {rows[0][2]:.1%} in "
        f"right (95% interval). Tables of the same text with blanks: {listed(told)}; of the text "
        f"without, more than the model has: {listed(more)}. {verdict(rows)}."
    )
    if metrics["passes"] < ENOUGH:
        answer += (
            f" Its training was short: it saw the text {times(metrics['passes'])}, of which "
            f"{SHARE:.0%} count."
        )
    return answer


def verdict(rows: list[list[Any]]) -> str:
    """How many of the tables the model beats by more than both intervals."""
    _, share, interval, *_ = rows[0]
    beaten: dict[bool, list[bool]] = {True: [], False: []}
    for name, other, margin, *_ in rows[1:]:
        beaten[CLEAN in name].append(share - other > math.hypot(interval, margin))
    same, clean = beaten[False], beaten[True]
    return (
        f"The model is better than {sum(same)} of {len(same)} tables of the text that it sees, and "
        f"than {sum(clean)} of {len(clean)} of the text without blanks"
    )


# --- drawn ------------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    rows = result.tables["accuracy"].rows
    pieces = {who: [text for name, text in result.tables["examples"].rows if name == who]
              for who in ("text", "truth", "model", "trigram")}  # fmt: skip
    return {
        "learning": draw_learning(result, rows),
        "accuracy": draw_accuracy(result, rows),
        "blanks": draw_blanks(pieces),
    }


def draw_learning(result: Result, rows: list[list[Any]]) -> Figure:
    figure, axes = plots.grid(1, 2, width=5.0, height=3.8)
    plots.plot_curve(axes[0, 0], result.curves["training"], "model", lw=1)
    curve = result.curves["validation"]
    plots.plot_curve(axes[0, 1], curve, "model (n = 1)", marker="o", ms=4)
    levels = [row for row in rows[1:] if row[0] in ("unigram", "trigram", "trigram" + CLEAN)]
    for (name, share, *_), line in zip(levels, (":", "--", "-.")):
        axes[0, 1].axhline(100 * share, color="C6", ls=line, lw=1.2, label=name)
    axes[0, 1].set_ylim(0)
    axes[0, 1].legend()
    figure.suptitle(
        f"After {counted(result.metrics['steps'], 'step')} the model fills in "
        f"{rows[0][1]:.1%} of the blanks, a trigram of the text without blanks "
        f"{dict_of(rows)['trigram, no blanks']:.1%}"
    )
    return figure


def dict_of(rows: list[list[Any]]) -> dict[str, float]:
    return {row[0]: row[1] for row in rows}


def draw_accuracy(result: Result, rows: list[list[Any]]) -> Figure:
    figure, axes = plots.grid(1, 2, width=5.4, height=3.8)
    names = [row[0].replace(CLEAN, "\n(text without blanks)") for row in rows]
    places = np.arange(len(rows))
    shares, intervals = (100 * np.array([row[k] for row in rows]) for k in (1, 2))
    colours = ["C0" if k == 0 else "C4" if CLEAN in row[0] else "C1"
               for k, row in enumerate(rows)]  # fmt: skip
    axes[0, 0].barh(places, shares, xerr=intervals, color=colours, capsize=3)
    axes[0, 0].set_yticks(places, names, fontsize="small")
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlabel("blanks filled in right (%), bars: 95% intervals")
    counts = [row[1] for row in result.tables["hidden"].rows]
    fair = [row for row in rows if CLEAN not in row[0]]
    for marker, row in zip(plots.MARKERS, fair):
        each = [math.nan if share is None else share for share in row[3:6]]
        spread = [196 * math.sqrt(share * (1 - share) / max(count, 1))
                  for share, count in zip(each, counts)]  # fmt: skip
        axes[0, 1].errorbar(
            range(len(HIDDEN)), [100 * share for share in each], spread, marker=marker, ms=5,
            capsize=3, label=row[0],
        )  # fmt: skip
    labels = [f"{word}\n({count:,} blanks)" for word, count in zip(HIDDEN, counts)]
    axes[0, 1].set_xticks(range(len(HIDDEN)), labels)
    axes[0, 1].set(xlabel="neighbours that are blanks too", ylabel="filled in right (%)", ylim=0)
    axes[0, 1].legend()
    figure.suptitle(f"{verdict(rows)}: it fills in {rows[0][1]:.1%}")
    return figure


def draw_blanks(pieces: dict[str, list[str]]) -> Figure:
    """Pieces of the text with blanks, and beneath them what the model and the trigram put there."""
    lines, right, count = list[list[tuple[str, str]]](), dict.fromkeys(("model", "trigram"), 0), 0
    for number, (shown, truth) in enumerate(zip(pieces["text"], pieces["truth"])):
        blank = [letter == BLANK for letter in shown]
        count += sum(blank)
        lines.append([(f"{'text':<9}", NAME), *((letter, GIVEN) for letter in shown)])
        for who in right:
            guess = pieces[who][number]
            right[who] += sum(a == b for a, b, gap in zip(guess, truth, blank) if gap)
            marked = [
                (a, (RIGHT if a == b else WRONG) if gap else PALE)
                for a, b, gap in zip(guess, truth, blank)
            ]
            lines.append([(f"{who:<9}", NAME), *marked])
        lines.append([])
    figure, axes = plots.grid(width=WIDE, height=0.3 + 0.19 * len(lines))
    write_letters(axes[0, 0], lines)
    figure.suptitle(
        f"Of {counted(count, 'blank')} in {counted(len(pieces['text']), 'piece')} of "
        f"validation text the model fills in {right['model']} right, the trigram "
        f"{right['trigram']} (wrong ones are underlined)"
    )
    return figure
