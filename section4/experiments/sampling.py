"""How should the next token be drawn, so that a text neither goes in circles nor falls to pieces?

The GPT of the experiment `gpt` goes on with texts that it has not seen: at several temperatures,
with the k likeliest tokens only, and with the likeliest that have the probability p together. What
it writes is judged like the text that really follows: by the share of its words that stand in the
training text, by how much of it repeats what was written before, by circles (a piece that comes
three times on end), and by the loss of the model itself, at temperature 1. Last, what keeping keys
and values saves, and whether the same is written.
"""

from __future__ import annotations

import re
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from section1.experiments._training import counted, of_runs
from section4.engine import seconds
from section4.experiments._text import Text, for_device, load_text, show_texts, trained_gpt
from section4.transformers.generate import generate, probabilities
from section4.transformers.torch_gpt import TorchGPT
from section4.transformers.windows import windows
from utils.errors import UserError
from utils.experiments.budget import Budget
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

PROMPT = 16  # tokens
WORD = re.compile(r"(?<=\W)\w+(?=\W)")  # whole ones: the first and the last may be cut
IN_A_ROW = 8  # characters
MEASURES = {
    "known": "words of the training text (share)",
    "repeated": f"{IN_A_ROW} characters as before (share)",
    "loss": "loss (nats a token)",
    "circle": "texts in a circle (share)",
}
KNOBS = {"temperature": "temperatures", "top_k": "top_k", "top_p": "top_p"}  # and their settings
LABELS = {
    "temperature": "temperature",
    "top_k": "top-k: so many tokens to choose from",
    "top_p": "top-p: the probability that they have",
}
REAL, GREEDY = "the real text", "greedy"
ROUNDS, COMPARED = 3, 8  # of timing; texts that are written with and without a cache


def compute(run: Run) -> Result:
    text, settings = load_text(run), settings_of(run.budget)
    with run.resumable() as folder, run.progress(for_device(run).epochs + len(settings)) as bar:
        model = trained_gpt(run, text, folder, bar).model.eval()
        device = model.tokens.weight.device
        real = real_texts(run, text)
        prompts = torch.from_numpy(real[:, :PROMPT]).to(device)
        known = set(WORD.findall(text.tokenizer.decode(text.train)))
        written = {REAL: real}
        for number, (name, options) in enumerate(settings.items()):
            random = torch.Generator(device).manual_seed(run.seed(1, number))
            drawn = generate(model, prompts, run.budget.length, generator=random, **options)
            written[name] = drawn.cpu().numpy()
            bar.advance(name)
        found = {name: judge(model, text, tokens, known) for name, tokens in written.items()}
        times, metrics = what_a_cache_saves(model, prompts, run.budget.length, run.seed(2))

    best = closest(found)
    for key, name in {"real": REAL, "greedy": GREEDY, "closest": best}.items():
        means = found[name].mean(0)
        metrics |= {f"{measure}_{key}": mean for measure, mean in zip(MEASURES, means)}
    hottest = f"temperature {max(run.budget.temperatures):g}"
    answer = (
        f"Greedy writing goes in a circle in {metrics['circle_greedy']:.0%} of "
        f"{counted(len(real), 'text')} (the real text in {metrics['circle_real']:.0%}) and repeats "
        f"{metrics['repeated_greedy']:.0%} of itself ({metrics['repeated_real']:.0%}); of the "
        f"words at {hottest} {found[hottest][:, 0].mean():.0%} stand in the training text "
        f"({metrics['known_real']:.0%}). Closest to the real text is {best}: "
        f"{metrics['known_closest']:.0%} of such words, {metrics['repeated_closest']:.0%} "
        f"repeated, a loss of {metrics['loss_closest']:.2f} nats a token "
        f"({metrics['loss_real']:.2f}; one training). With keys and values kept a token takes "
        f"{1e3 * metrics['seconds_a_token_with_cache']:.1f} ms and without "
        f"{1e3 * metrics['seconds_a_token_without']:.1f}, up to the context of "
        f"{model.config.context} tokens; {metrics['differing_tokens']:.0f} of "
        f"{metrics['compared_tokens']:,.0f} tokens are not the same."
    )
    decode = text.tokenizer.decode
    texts = [[name, decode(tokens[0, :PROMPT]), decode(tokens[0, PROMPT:])]
             for name, tokens in written.items()]  # fmt: skip
    rows = [[name, *numbers.mean(0), *deviation(numbers)] for name, numbers in found.items()]
    columns = ["setting", *MEASURES.values(), *(f"{label}, std" for label in MEASURES.values())]
    tables = {
        "settings": Table(columns, rows),
        "texts": Table(["setting", "prompt", "continuation"], texts),
    }
    metrics |= {"texts": len(real)}
    curves = times | curves_of(found, settings)
    return Result(answer, "repeated_greedy", metrics, curves, tables)


def settings_of(budget: Budget) -> dict[str, dict[str, Any]]:
    """The arguments of `generate` by a name for people. Raises UserError for what is no setting."""
    found: dict[str, dict[str, Any]] = {GREEDY: {"top_k": 1}}
    for knob, key in KNOBS.items():
        for value in sorted(set(budget[key])):
            name = f"{knob.replace('_', '-')} {value:g}"
            found[name if (knob, value) != ("top_k", 1) else GREEDY] = {knob: value}
    try:
        for options in found.values():
            probabilities(torch.zeros(1, 1), **options)
    except ValueError as error:
        raise UserError(str(error)) from error
    return found


def real_texts(run: Run, text: Text) -> np.ndarray:
    """Pieces of the validation text (N, PROMPT + length) that do not overlap."""
    length = PROMPT + run.budget.length
    try:
        pieces, _ = windows(text.validation, length, stride=length)
    except ValueError as error:
        raise UserError(f"a continuation of {run.budget.length} is too long: {error}") from error
    rows = run.rng(0).permutation(len(pieces))[: run.budget.prompts]
    return pieces[rows]


# --- judging ----------------------------------------------------------------------------------


def judge(model: TorchGPT, text: Text, tokens: np.ndarray, known: set[str]) -> np.ndarray:
    """MEASURES of what stands after the prompts: (N, M)."""
    texts = [text.tokenizer.decode(row[PROMPT:]) for row in tokens]
    words = [WORD.findall(each) for each in texts]
    share = [sum(word in known for word in each) / max(1, len(each)) for each in words]
    circles = [float(in_a_circle(row[PROMPT:])) for row in tokens]
    return np.stack(
        [share, [repetition(each) for each in texts], losses(model, tokens), circles], 1
    )


def repetition(text: str) -> float:
    """The share of the pieces of IN_A_ROW characters that the text has before.

    Source: Welleck et al., Neural text generation with unlikelihood training, arXiv:1908.04319.
    """
    pieces = [text[place : place + IN_A_ROW] for place in range(len(text) - IN_A_ROW + 1)]
    return (len(pieces) - len(set(pieces))) / max(1, len(pieces))


def in_a_circle(tokens: np.ndarray) -> bool:
    """Whether a piece comes three times on end: at least IN_A_ROW tokens, and two pieces, are
    those that stand a piece before."""
    for period in range(1, len(tokens) // 3 + 1):
        others = np.flatnonzero(tokens[period:] != tokens[:-period])
        runs = np.diff([-1, *others, len(tokens) - period]) - 1
        if runs.max() >= max(2 * period, IN_A_ROW):
            return True
    return False


def losses(model: TorchGPT, tokens: np.ndarray) -> np.ndarray:
    """The loss (N,) of what follows the prompts of texts (N, T), in nats a token.

    Pieces of the length of the context overlap by half, so that every token is judged by at least
    half a context before it, or all that there is.
    """
    context = model.config.context
    x = torch.from_numpy(tokens).to(model.tokens.weight.device)
    found = list[torch.Tensor]()
    judged = 1  # tokens so far; the first has none before it
    with torch.inference_mode():
        while judged < x.shape[1]:
            start = max(0, judged - (context + 1) // 2)
            piece = x[:, start : start + context + 1]
            each = F.cross_entropy(model(piece[:, :-1]).mT, piece[:, 1:], reduction="none")
            found.append(each[:, judged - 1 - start :])
            judged = start + piece.shape[1]
    return torch.cat(found, dim=1)[:, PROMPT - 1 :].mean(1).cpu().numpy()


def closest(found: dict[str, np.ndarray]) -> str:
    """The setting whose texts are most like the real ones.

    By the mean of the differences of all measures, each in standard deviations of real texts, or
    hundredths where these are less.
    """
    real = found[REAL]
    scale = np.maximum(real.std(0), 0.01)
    apart = {
        name: float(np.abs((numbers.mean(0) - real.mean(0)) / scale).mean())
        for name, numbers in found.items()
        if name != REAL
    }
    return min(apart, key=lambda name: apart[name])


def deviation(numbers: np.ndarray) -> np.ndarray:
    return numbers.std(0, ddof=min(1, len(numbers) - 1))


def curves_of(
    found: dict[str, np.ndarray], settings: dict[str, dict[str, Any]]
) -> dict[str, Curve]:
    """Every measure over every knob; over top-k from greedy writing, which is k = 1."""
    curves = {}
    for knob, label in LABELS.items():
        chosen = {name: options[knob] for name, options in settings.items() if knob in options}
        for m, (measure, what) in enumerate(MEASURES.items()):
            runs = np.stack([found[name][:, m] for name in chosen], axis=1)  # (N, settings)
            curve = Curve.over_runs(list(chosen.values()), runs, label, what)
            if measure == "circle":  # it is 0 or 1: a mean says it all
                curve.std = None
            curves[f"{measure}, {knob}"] = curve
    return curves


# --- keys and values that are kept ------------------------------------------------------------


def what_a_cache_saves(
    model: TorchGPT, prompts: torch.Tensor, length: int, seed: int
) -> tuple[dict[str, Curve], dict[str, float]]:
    """The time of a token by the length of the text, and how many tokens are others."""
    device, context = prompts.device, model.config.context

    def write(start: torch.Tensor, count: int, cache: bool, **options: Any) -> torch.Tensor:
        random = torch.Generator(device).manual_seed(seed)
        return generate(model, start, count, generator=random, cache=cache, **options)

    def time_of(count: int, cache: bool) -> float:
        whole = seconds(lambda: write(prompts[:1, :1], count - 1, cache), device)
        return whole / (count - 1)

    lengths = sorted({max(2, context >> k) for k in range(4)})
    times: dict[bool, list[list[float]]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for cache, rounds in times.items():
            rounds.append([time_of(count, cache) for count in lengths])
    curves = {
        f"time, {'with' if cache else 'without'} cache": Curve.over_runs(
            lengths, 1e3 * np.array(rounds), "length of the text (tokens)", "time for a token (ms)"
        )
        for cache, rounds in times.items()
    }
    kept, again = (median(row[-1] for row in times[cache]) for cache in (True, False))
    compared = [
        [write(prompts[:COMPARED], length, cache, **options) for cache in (True, False)]
        for options in ({"top_k": 1}, {})
    ]
    return curves, {
        "seconds_a_token_with_cache": kept,
        "seconds_a_token_without": again,
        "times_faster_with_cache": again / kept,
        "differing_tokens": float(sum((one != other).sum() for one, other in compared)),
        "compared_tokens": float(sum(one[:, prompts.shape[1] :].numel() for one, _ in compared)),
    }


# --- figures ----------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    return {
        "settings": draw_settings(result),
        "trade_off": draw_trade_off(result),
        "texts": draw_texts(result),
        "cache": draw_cache(result),
    }


def draw_settings(result: Result) -> Figure:
    figure, axes = plots.grid(len(MEASURES), len(KNOBS), width=3.9, height=2.6, sharey="row")
    rows = {name: numbers for name, *numbers in result.tables["settings"].rows}
    for (m, k), place in np.ndenumerate(axes):
        measure, knob = list(MEASURES)[m], list(KNOBS)[k]
        curve = result.curves[f"{measure}, {knob}"]
        look = {"marker": plots.MARKERS[k], "ms": 5, "color": f"C{k}"}
        plots.plot_curve(place, curve, "written", **look)
        mean, std = rows[REAL][m], rows[REAL][len(MEASURES) + m]
        place.axhline(mean, color="black", ls="--", label=REAL)
        place.axhspan(mean - std, mean + std, color="black", alpha=0.08, lw=0)
        if knob == "top_k":
            place.set_xscale("log", base=2)
            place.set_xticks(curve.x, [f"{value:g}" for value in curve.x])
        if k:
            place.set_ylabel("")
        if m < len(MEASURES) - 1:
            place.set_xlabel("")
        if measure == "known":
            place.set_ylim(0, 1.03)
    axes[0, 0].legend()
    metrics = result.metrics
    figure.suptitle(
        f"Greedy writing goes in a circle in {metrics['circle_greedy']:.0%} of the texts, the real "
        f"text in {metrics['circle_real']:.0%} ({of_runs(int(metrics['texts']))}, texts of one "
        "training)"
    )
    return figure


def draw_trade_off(result: Result) -> Figure:
    figure, axes = plots.grid(1, 1, width=7.2, height=4.6)
    place, metrics = axes[0, 0], result.metrics
    for k, (knob, label) in enumerate(LABELS.items()):
        x, y = (result.curves[f"{measure}, {knob}"] for measure in ("loss", "known"))
        look = {"marker": plots.MARKERS[k], "ms": 6, "color": f"C{k}"}
        place.plot(x.y, y.y, label=label, **look)
        side = (5, 4) if knob == "temperature" else (-8, -12)
        for value, *spot in zip(x.x, x.y, y.y):
            place.annotate(f"{value:g}", spot, side, textcoords="offset points", fontsize=7)
    star = metrics["loss_real"], metrics["known_real"]
    place.plot(*star, "*", ms=16, color="black", ls="", label=REAL)
    place.set(xlabel=MEASURES["loss"], ylabel=MEASURES["known"])
    place.legend()
    figure.suptitle(
        f"The real text has {metrics['known_real']:.0%} known words at a loss of "
        f"{metrics['loss_real']:.2f}, the setting that is closest in all measures "
        f"{metrics['known_closest']:.0%} at {metrics['loss_closest']:.2f} "
        f"(n = {counted(int(metrics['texts']), 'text')})"
    )
    return figure


def draw_texts(result: Result) -> Figure:
    rows = result.tables["texts"].rows
    knobs = [[row for row in rows if row[0].startswith(k.replace("_", "-"))] for k in KNOBS]
    chosen = [  # of top-k none, where it is 1 alone: that is greedy
        each[place] for each in filter(None, knobs)
        for place in sorted({0, len(each) // 2, len(each) - 1})
    ]  # fmt: skip
    first = [row for row in rows if row[0] in (REAL, GREEDY)]
    figure = show_texts({name: f"{prompt}|{end}" for name, prompt, end in first + chosen})
    figure.suptitle(
        "One prompt, and what is written after it (from the line | on): greedy writing repeats "
        f"{result.metrics['repeated_greedy']:.0%} in the mean of all texts, the real text "
        f"{result.metrics['repeated_real']:.0%}"
    )
    return figure


def draw_cache(result: Result) -> Figure:
    figure, axes = plots.grid(1, 1, width=6.4, height=3.8)
    for number, key in enumerate(("with", "without")):
        curve = result.curves[f"time, {key} cache"]
        look = {"marker": plots.MARKERS[number], "ms": 6}
        plots.plot_curve(axes[0, 0], curve, f"{key} keys and values kept", **look)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].legend()
    metrics = result.metrics
    figure.suptitle(
        f"With keys and values kept {metrics['times_faster_with_cache']:.1f} times as fast at the "
        f"length of the context, and {metrics['differing_tokens']:.0f} of "
        f"{metrics['compared_tokens']:,.0f} tokens are not the same ({of_runs(curve.n)})"
    )
    return figure
