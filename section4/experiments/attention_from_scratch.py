"""What does attention compute, step by step, and is it to the last digit what PyTorch computes?

One head looks at one sentence. Its queries, keys and values are the vectors of the words
themselves, so that a word agrees with itself; what heads learn to look at is shown by
`attention_maps`. Then the two things that the formula hides: why scores are divided by sqrt(d), and
how attention, which sees a set, is told of an order. At last every NumPy layer of the Transformer
is held against PyTorch in float64, and the causal mask is searched for leaks.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from section1.experiments._training import counted, of_runs
from section2.experiments._account import perturbed
from section2.experiments._checks import F64
from section4.experiments._against_torch import compare, largest
from section4.transformers.attention import MultiHeadAttention, causal_mask, softmax_rows
from section4.transformers.embedding import rotate, sinusoids
from section4.transformers.gpt import GPTConfig, NumpyGPT
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SENTENCE = "the cat saw the dog and the bird"
WIDTH = 16  # d of its words
PLACES, POSITION_WIDTH = 64, 64  # of the positions that are drawn
TOLERANCE, LEAST = 1e-10, 1e-18  # LEAST: where a difference of exactly 0 is drawn


def compute(run: Run) -> Result:
    run.note_data("sentence", f"“{SENTENCE}” and random numbers")
    arrays, metrics = one_sentence(run.rng(0))
    scaling, effect = scaled_and_not(run)
    for part in (scores_by_distance(run.rng(1)), leaks(run.rng(2))):
        arrays, metrics = arrays | part[0], metrics | part[1]
    rows = list(compare(run.rng(3)))
    metrics |= effect | {
        "layers": len(rows),
        "largest_difference": max(row[2] for row in rows),
        "largest_gradient_difference": max(row[3] for row in rows),
    }
    metrics["layers_that_agree"] = sum(max(row[2:]) < TOLERANCE for row in rows)
    d, keys, seeds = max(run.budget.sizes), run.budget.places, run.budget.seeds
    query = f"a query of {counted(d, 'feature')} among {counted(keys, 'random key')}"
    answer = (
        f"The steps and the layer give the same (largest difference {metrics['steps']:.1g}). "
        f"Without the division by √d {query} takes {metrics['taken_plain']:.0%} from a single "
        f"one, and its softmax has a slope of {metrics['slope_plain']:.2f}; with it "
        f"{metrics['taken_scaled']:.0%} and {metrics['slope_scaled']:.2f} (n = {seeds}). "
        f"{metrics['layers_that_agree']:.0f} of {len(rows)} layers and networks differ from "
        f"PyTorch by less than {TOLERANCE:.0e} in values and gradients (at most "
        f"{metrics['largest_difference']:.0e} and {metrics['largest_gradient_difference']:.0e}). "
        "A token changes the outputs before it by "
        f"{metrics['leak']:.2g} with a causal mask, by {metrics['leak_without_mask']:.2g} without; "
        f"rotary scores at one distance differ by {metrics['rotary_spread']:.0e}."
    )
    columns = ["layer", "PyTorch", "largest difference", "of gradients"]
    return Result(
        answer, "largest_gradient_difference", metrics, scaling, {"torch": Table(columns, rows)},
        arrays,
    )  # fmt: skip


# --- one sentence -----------------------------------------------------------------------------


def one_sentence(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Every step of a causal head, and how far the layer is from it."""
    words = SENTENCE.split()
    vocabulary = sorted(set(words))
    vectors = rng.standard_normal((len(vocabulary), WIDTH))
    vectors *= math.sqrt(WIDTH) / np.linalg.norm(vectors, axis=1, keepdims=True)
    x = vectors[[vocabulary.index(word) for word in words]]  # (T, d)
    scores = x @ x.T  # (T, T)
    scaled = scores / math.sqrt(WIDTH)
    masked = scaled + causal_mask(len(x), F64)
    weights = masked.copy()
    softmax_rows(weights)
    y = weights @ x  # (T, T) @ (T, d)

    head = MultiHeadAttention(WIDTH, 1, rng=rng, dtype=F64)
    head.qkv.weight.value[...] = np.tile(np.eye(WIDTH), 3)
    head.out.weight.value[...] = np.eye(WIDTH)
    order = rng.permutation(len(x))
    metrics = {"steps": largest(head(x[None])[0], y)}
    head.causal = False
    metrics["order_unseen"] = largest(head(x[None, order]), head(x[None])[:, order])
    steps = {"x": x, "scores": scores, "scaled": scaled, "weights": weights, "y": y}
    return steps, metrics


# --- why scores are divided by sqrt(d) --------------------------------------------------------


def scaled_and_not(run: Run) -> tuple[dict[str, Curve], dict[str, float]]:
    """Of random queries and keys, for every d: the entropy of the softmax, and its slope."""
    sizes, keys = sorted(run.budget.sizes), run.budget.places
    found = np.array(
        [[looks(d, keys, run.rng(4, seed, d)) for d in sizes] for seed in range(run.budget.seeds)]
    )  # (seeds, sizes, [scaled, plain], [entropy, slope, largest weight])
    curves, metrics = dict[str, Curve](), dict[str, float]()
    for k, arm in enumerate(("scaled", "plain")):
        for m, label in enumerate((f"entropy of the weights of {keys} keys (bits)",
                                   "slope of the softmax, $1 - \\Sigma p^2$")):  # fmt: skip
            key = f"{arm}, {('entropy', 'slope')[m]}"
            runs = found[:, :, k, m]
            curves[key] = Curve.over_runs(sizes, runs, "features of a head, d", label)
        entropy, slope, taken = found[:, -1, k].mean(0)
        metrics |= {f"entropy_{arm}": entropy, f"slope_{arm}": slope, f"taken_{arm}": taken}
    return curves, metrics


def looks(d: int, keys: int, rng: np.random.Generator, queries: int = 100) -> np.ndarray:
    """Entropy in bits, slope and largest weight of a softmax: a mean over queries (2, 3).

    A row for scores q.k / sqrt(d) and one for q.k, which has the standard deviation sqrt(d). The
    slopes dp/ds of a softmax are p (1 - p); 1 - sum p^2 is their sum.
    """
    scores = rng.standard_normal((queries, d)) @ rng.standard_normal((d, keys))
    p = np.stack([scores / math.sqrt(d), scores])  # (2, queries, keys)
    softmax_rows(p)
    surprise = -np.log2(np.maximum(p, np.finfo(p.dtype).tiny))
    each = (p * surprise).sum(-1), 1 - (p**2).sum(-1), p.max(-1)
    return np.stack(each, -1).mean(1)


# --- where a token stands ---------------------------------------------------------------------


def scores_by_distance(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """How scores depend on place and distance, where positions are added and where they turn.

    The same query and the same key stand at all places, so only positions make a difference.
    """
    table = sinusoids(PLACES, POSITION_WIDTH)
    q, k = rng.standard_normal((2, POSITION_WIDTH))
    rows = np.ones((PLACES, 1))
    arrays = {
        "sinusoids": table,
        "similarity": table @ table.T / (POSITION_WIDTH / 2),
        "added": (q + table) @ (k + table).T / math.sqrt(POSITION_WIDTH),
        "rotary": rotate(rows * q) @ rotate(rows * k).T / math.sqrt(POSITION_WIDTH),
    }
    spreads = {f"{name}_spread": spread(arrays[name]) for name in ("similarity", "added", "rotary")}
    return arrays, spreads


def spread(scores: np.ndarray) -> float:
    """The largest difference of two scores (T, T) at the same distance."""
    return max(float(np.ptp(each)) for each in by_distance(scores))


def by_distance(scores: np.ndarray) -> list[np.ndarray]:
    """The scores of all pairs whose key stands 0, 1, 2 ... places before the query."""
    return [np.diagonal(scores, -distance) for distance in range(len(scores))]


# --- leaks ------------------------------------------------------------------------------------


def leaks(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What each output of a GPT changes by when a token changes, with and without its mask."""
    config = GPTConfig(vocabulary=11, context=16, layers=2, heads=2, width=16)
    model = perturbed(NumpyGPT(config, rng=rng, dtype=F64), rng)
    tokens = rng.integers(config.vocabulary, size=config.context)
    changed = influence(model, tokens)
    for block in model.blocks:
        block.attention.causal = False
    seeing = influence(model, tokens)
    earlier = np.tril(np.ones_like(changed, bool), -1)  # outputs before the token
    metrics = {
        "leak": changed[earlier].max(),
        "leak_without_mask": seeing[earlier].max(),
        "smallest_change_after": changed[~earlier].min(),
    }
    return {"influence": changed, "influence_without_mask": seeing}, metrics


def influence(model: NumpyGPT, tokens: np.ndarray) -> np.ndarray:
    """The largest change of the logits at each place (columns) when token t (rows) is another."""
    before = model(tokens[None]).copy()
    others = np.tile(tokens, (len(tokens), 1))
    np.fill_diagonal(others, (tokens + 1) % model.config.vocabulary)
    after = np.concatenate([model(row[None]) for row in others])
    return np.abs(after - before).max(-1)


# --- figures ----------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    return {
        "steps": draw_steps(result),
        "scaling": draw_scaling(result),
        "positions": draw_positions(result),
        "against_pytorch": draw_comparison(result),
        "leaks": draw_leaks(result),
    }


def draw_steps(result: Result) -> Figure:
    arrays, words = result.arrays, SENTENCE.split()
    figure, axes = plots.grid(2, 3, width=3.9, height=3.6)
    masked = np.where(np.tri(len(words), dtype=bool), arrays["scaled"], np.nan)
    highest, scaled = arrays["scores"].max(), arrays["scaled"].max()
    panels = (
        (arrays["x"], "vectors of the words, $x = q = k = v$", 3, "feature"),
        (arrays["scores"], "scores $q \\cdot k$", highest, "key"),
        (arrays["scaled"], "scores $q \\cdot k / \\sqrt{d}$", scaled, "key"),
        (masked, "causal: no look at later words", scaled, "key"),
        (arrays["weights"], "weights: softmax of each row", 1, "key"),
        (arrays["y"], "results: means of the values", 3, "feature"),
    )
    for place, (values, title, limit, across) in zip(axes.flat, panels):
        look = {"cmap": "Blues", "vmin": 0} if limit == 1 else {"cmap": "RdBu_r", "vmin": -limit}
        image = place.imshow(values, vmax=limit, aspect="auto", **look)
        figure.colorbar(image, ax=place, shrink=0.8)
        place.set_yticks(range(len(words)), words)
        if across == "key":
            place.set_xticks(range(len(words)), words, rotation=90)
        place.set(title=title, xlabel=across, ylabel="query" if across == "key" else "word")
        place.grid(False)
    for (row, column), value in np.ndenumerate(arrays["weights"]):
        if column <= row:
            colour = "white" if value > 0.5 else "black"
            text = f"{value:.2f}".removeprefix("0")
            axes[1, 1].text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    last = arrays["weights"][[place for place, word in enumerate(words) if word == "the"][-1]]
    alike = sum(weight for word, weight in zip(words, last) if word == "the")
    figure.suptitle(
        f"A word takes from those whose keys agree with its query: the last “the” gives "
        f"{alike:.0%} of its weight to “the”"
    )
    return figure


def draw_scaling(result: Result) -> Figure:
    figure, axes = plots.grid(1, 2, width=4.8, height=3.8)
    for place, what in zip(axes[0], ("entropy", "slope")):
        for number, (arm, label) in enumerate({"scaled": "$q \\cdot k / \\sqrt{d}$",
                                               "plain": "$q \\cdot k$"}.items()):  # fmt: skip
            curve = result.curves[f"{arm}, {what}"]
            look = {"marker": plots.MARKERS[number], "ms": 5, "color": f"C{number}"}
            plots.plot_curve(place, curve, label, **look)
        place.set_xscale("log", base=2)
        place.set_ylim(bottom=0)
    axes[0, 0].legend(title="scores")
    metrics, curve = result.metrics, result.curves["plain, slope"]
    figure.suptitle(
        f"At d = {curve.x[-1]:.0f} a softmax of scores that are not divided has a slope of "
        f"{metrics['slope_plain']:.2f}, one of divided scores {metrics['slope_scaled']:.2f} "
        f"({of_runs(curve.n)})"
    )
    return figure


def draw_positions(result: Result) -> Figure:
    arrays = result.arrays
    figure, axes = plots.grid(2, 2, width=4.9, height=3.6)
    show(figure, axes[0, 0], arrays["sinusoids"], "sinusoids", "feature", "place")
    distances = np.arange(len(arrays["similarity"]))
    means = [each.mean() for each in by_distance(arrays["similarity"])]
    axes[0, 1].plot(distances, means, "o-", ms=3)
    axes[0, 1].set(title="two sinusoids", xlabel="distance of the places", ylabel="cosine")
    show(figure, axes[1, 0], arrays["rotary"], "rotary: one query, one key", "place of the key",
         "place of the query", np.abs(arrays["rotary"]).max())  # fmt: skip
    for number, (name, label) in enumerate(
        {"added": "sinusoids added", "rotary": "turned (rotary)"}.items()
    ):
        found = by_distance(arrays[name])
        mean = [each.mean() for each in found]
        (line,) = axes[1, 1].plot(distances, mean, ls=("--", "-")[number], label=label)
        low, high = [each.min() for each in found], [each.max() for each in found]
        axes[1, 1].fill_between(distances, low, high, color=line.get_color(), alpha=0.25, lw=0)
    axes[1, 1].set(title="mean and range over all places", ylabel="score $q \\cdot k / \\sqrt{d}$",
                   xlabel="distance: the key stands so many places before")  # fmt: skip
    axes[1, 1].legend()
    metrics = result.metrics
    figure.suptitle(
        "At one distance scores of turned queries and keys differ by at most "
        f"{metrics['rotary_spread']:.0e}, and by {metrics['added_spread']:.2f} where positions are "
        "added"
    )
    return figure


def show(
    figure: Figure, axes: Axes, values: np.ndarray, title: str, x: str, y: str, limit: float = 1.0
) -> None:
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(False)


def draw_comparison(result: Result) -> Figure:
    rows = result.tables["torch"].rows
    figure, axes = plots.grid(1, 1, width=9, height=4.4)
    places = np.arange(len(rows))[::-1]
    for number, label in enumerate(("values", "gradients")):
        found = np.maximum([row[2 + number] for row in rows], LEAST)
        look = {"marker": plots.MARKERS[number], "ls": "", "ms": 7, "color": f"C{number}"}
        axes[0, 0].plot(found, places + 0.15 - 0.3 * number, label=label, **look)
    axes[0, 0].axvline(TOLERANCE, color="black", ls="--", label="what is asked for")
    axes[0, 0].set_yticks(places, [f"{name}\n({twin})" for name, twin, *_ in rows], fontsize=8)
    axes[0, 0].set(
        xscale="log", xlabel=f"largest difference from PyTorch (0 is drawn at {LEAST:.0e})"
    )
    axes[0, 0].legend(loc="upper right")
    metrics = result.metrics
    figure.suptitle(
        f"{metrics['layers_that_agree']:.0f} of {len(rows)} layers and networks in NumPy give what "
        f"PyTorch gives to {TOLERANCE:.0e}: values to {metrics['largest_difference']:.0e}, "
        f"gradients to {metrics['largest_gradient_difference']:.0e}"
    )
    return figure


def draw_leaks(result: Result) -> Figure:
    figure, axes = plots.grid(1, 2, width=4.6, height=3.9)
    panels = {"influence": "causal", "influence_without_mask": "the same GPT without its mask"}
    changes = np.concatenate([result.arrays[name].ravel() for name in panels])
    lowest, highest = changes[changes > 0].min(), changes.max()
    for place, (name, title) in zip(axes[0], panels.items()):
        values = result.arrays[name]
        image = place.imshow(np.where(values > 0, values, np.nan), norm=LogNorm(lowest, highest))
        place.set(title=title, xlabel="place of the output", ylabel="place of the changed token")
        place.xaxis.set_major_locator(MultipleLocator(5))
        place.set_facecolor("lightgrey")
        place.grid(False)
    figure.colorbar(image, ax=axes[0, 1], label="largest change of a logit (grey: exactly 0)")
    figure.suptitle(
        f"A changed token changes the outputs before it by {result.metrics['leak']:.2g} with the "
        f"causal mask, by up to {result.metrics['leak_without_mask']:.2f} without"
    )
    return figure
