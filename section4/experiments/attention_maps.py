"""What do the heads of a trained GPT look at?

The weights P of every head are read out of the NumPy twin of the model that the experiment `gpt`
trains, on texts that it has not seen: how far back a head looks, at how many places, and how much
of its weight goes to the token itself, to the one before, to the first one of all, to the blank
before a word, its first letter, the end of the last line, to earlier tokens of the same kind, and
to what came after those ("induction": where "th" stood before, "t" looks at that "h"). Random
tokens that come twice tell induction from a liking for tokens that are frequent anyway (Olsson et
al., In-context learning and induction heads, arXiv:2209.11895).

Held against it: weights that are the same for all tokens that may be looked at ("even"), and the
same model before training.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from section1.experiments._training import counted, of_runs
from section4.experiments._against_torch import largest
from section4.experiments._engine import seeded
from section4.experiments._text import WEIGHTS, for_device, load_text, trained_gpt
from section4.images import device_seed
from section4.transformers.torch_gpt import TorchGPT, to_numpy
from section4.transformers.windows import windows
from utils.errors import UserError
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

SHARES = {  # of the weight, by the places that get it
    "itself": "the token itself",
    "previous": "the token before",
    "first": "the first token of all",
    "blank": "the last blank",
    "letter": "what came after the last blank",
    "line": "the last end of a line",
    "same": "earlier tokens of its kind",
    "after_same": "what came after earlier ones",
    "induction": "the same in random tokens",
}
ON_TEXTS = {key: name for key, name in SHARES.items() if key != "induction"}
OTHERS = {"distance": "mean distance (tokens)", "entropy": "entropy (bits)"}
MEASURES = [*SHARES, *OTHERS]
STANDS_OUT = 2.0  # times the share that even weights would give
SHORTEST = 4  # tokens, of a text that can come twice
SHOWN, SHOWN_OF_ALL = 40, 28  # tokens of a map: of a large one, and of those of all heads
AT_ONCE = 8  # texts


def compute(run: Run) -> Result:
    text = load_text(run)
    with run.resumable() as folder, run.progress(for_device(run).epochs) as bar:
        model = trained_gpt(run, text, folder, bar).model
    config, rng = model.config, run.rng(0)
    if config.context < SHORTEST:
        raise UserError(f"maps need a context of at least {SHORTEST}, got {config.context}")
    pieces, _ = windows(text.validation, config.context, stride=config.context)
    count = min(run.budget.texts, len(pieces))
    texts = pieces[rng.choice(len(pieces), count, replace=False)]
    twice = np.tile(rng.integers(config.vocabulary, size=(count, config.context // 2)), 2)

    before = seeded(device_seed(run.settings.seed, WEIGHTS), lambda: TorchGPT(config))
    signs = [text.tokenizer.decode([token]) for token in range(config.vocabulary)]
    kinds = {
        "blank": np.array([sign[:1].isspace() for sign in signs]),
        "line": np.array(["\n" in sign for sign in signs]),
    }
    trained, untrained = (measured(each, texts, twice, kinds) for each in (model, before))
    even = account(even_weights(texts), texts, even_weights(twice), twice, kinds).mean(0)  # (M,)
    means = trained.mean(0)  # (L, H, M)
    maps, rounding = maps_of(model, texts[:1])

    metrics: dict[str, float] = {"texts": count, "rounding": rounding}
    for m, key in enumerate(MEASURES):
        metrics |= {f"{key}_most": means[..., m].max(), f"{key}_least": means[..., m].min()}
        metrics |= {f"{key}_even": even[m], f"{key}_before": untrained[..., m].mean()}
    told = [
        f"“{name}”: {metrics[f'{key}_most']:.0%} of head {head_of(means, key)}, "
        f"{metrics[f'{key}_even']:.0%} if even"
        for key, name in ON_TEXTS.items()
        if metrics[f"{key}_most"] > STANDS_OUT * metrics[f"{key}_even"]
    ]
    answer = (
        f"On {counted(count, 'text')} of {config.context} tokens that the model has not seen (one "
        f"training) these get more than {STANDS_OUT:g} times the weight that they would get if "
        f"all were looked at alike: {'; '.join(told) or 'none'}. Induction in random tokens: at "
        f"most {metrics['induction_most']:.0%}, {metrics['induction_even']:.0%} if even. Heads "
        f"look {metrics['distance_least']:.1f} "
        f"({head_of(-means, 'distance')}) to {metrics['distance_most']:.1f} tokens back "
        f"({head_of(means, 'distance')}); even weights {metrics['distance_even']:.1f}."
    )
    names = [name for row in head_names(means) for name in row]
    rows = [[name, *row] for name, row in zip(names, means.reshape(-1, len(MEASURES)))]
    rows += [["before training", *untrained.mean((0, 1, 2))], ["even", *even]]
    tables = {"heads": Table(["layer.head", *(SHARES | OTHERS).values()], rows)}
    arrays = {
        "tokens": np.array([signs[token] for token in texts[0, :SHOWN]]),
        "maps": maps[0, :, :, :SHOWN, :SHOWN],
        "means": means,
        "stds": trained.std(0, ddof=min(1, count - 1)),
        "before": untrained.mean((0, 1, 2)),
        "even": even,
    }
    for key, places in places_of(texts[:1], kinds).items():
        arrays[f"{key}_places"] = places[0, :SHOWN, :SHOWN]
    return Result(answer, "previous_most", metrics, {}, tables, arrays)


def head_names(means: np.ndarray) -> list[list[str]]:
    """For (L, H, ...): "layer.head", from 1."""
    layers, heads = means.shape[:2]
    return [[f"{layer + 1}.{head + 1}" for head in range(heads)] for layer in range(layers)]


def head_of(means: np.ndarray, key: str) -> str:
    """The name of the head with the most of a measure; means (L, H, M)."""
    layer, head = np.unravel_index(means[..., MEASURES.index(key)].argmax(), means.shape[:2])
    return head_names(means)[layer][head]


# --- measuring --------------------------------------------------------------------------------


Kinds = dict[str, np.ndarray]  # (V,), whether a token is a blank, or ends a line


def measured(model: TorchGPT, texts: np.ndarray, twice: np.ndarray, kinds: Kinds) -> np.ndarray:
    """What every head does, (N, L, H, M), on texts (N, T) and random ones that come twice."""
    found = []
    for start in range(0, len(texts), AT_ONCE):
        some, random = texts[start : start + AT_ONCE], twice[start : start + AT_ONCE]
        p, p_random = maps_of(model, some)[0], maps_of(model, random)[0]
        found.append(account(p, some, p_random, random, kinds))
    return np.concatenate(found)


def maps_of(model: TorchGPT, tokens: np.ndarray) -> tuple[np.ndarray, float]:
    """P of every head (N, L, H, T, T), and how far the logits are from those of PyTorch."""
    twin = to_numpy(model.eval())
    twin.eval()
    for block in twin.blocks:
        block.attention.training = True  # it remembers, and nothing is dropped
    ours = twin(tokens)
    with torch.inference_mode():
        theirs = model(torch.tensor(tokens, device=model.tokens.weight.device)).cpu().numpy()
    maps = np.stack([block.attention.recall()[3] for block in twin.blocks], axis=1)
    return maps, largest(ours, theirs)


def even_weights(tokens: np.ndarray) -> np.ndarray:
    """P (N, T, T) of a head that looks at all tokens that it may look at, and at all alike."""
    n, t = tokens.shape
    return np.broadcast_to(np.tri(t) / np.arange(1, t + 1)[:, None], (n, t, t))


def account(
    p: np.ndarray, texts: np.ndarray, p_twice: np.ndarray, twice: np.ndarray, kinds: Kinds
) -> np.ndarray:
    """All MEASURES of weights p (N, ..., T, T): (N, ..., M)."""
    found = measures(p, texts, kinds, start=1)  # the first token has no choice
    second_time = measures(p_twice, twice, kinds, start=twice.shape[1] // 2)
    found["induction"] = second_time["after_same"]
    return np.stack([found[key] for key in MEASURES], axis=-1)


def measures(p: np.ndarray, tokens: np.ndarray, kinds: Kinds, start: int) -> dict[str, np.ndarray]:
    """Of weights p (N, ..., T, T), means over the queries from `start` on: (N, ...) each."""
    rows = p[..., start:, :]
    surprise = -np.log2(np.maximum(rows, np.finfo(p.dtype).tiny))
    sums = {"entropy": (rows * surprise).sum((-1, -2))}
    for key, places in places_of(tokens, kinds).items():
        sums[key] = np.einsum("n...ts,nts->n...", rows, places[:, start:])
    return {key: each / rows.shape[-2] for key, each in sums.items()}


def places_of(tokens: np.ndarray, kinds: Kinds) -> dict[str, np.ndarray]:
    """For texts (N, T), by query and key (N, T, T): 1 for a key that a share counts, else 0.

    For "distance": how many tokens the key stands before the query.
    """
    n, t = tokens.shape
    place, earlier = np.arange(t), np.tri(t, k=-1)
    found = {
        "itself": np.eye(t),
        "previous": np.eye(t, k=-1),
        "first": np.eye(1, t) * np.ones((t, 1)),
        "distance": np.maximum(place[:, None] - place, 0.0),
    }
    found = {key: np.broadcast_to(each, (n, t, t)) for key, each in found.items()}
    for key, kind in kinds.items():
        last = np.maximum.accumulate(np.where(kind[tokens], place, -1), axis=1)  # (N, T)
        found[key] = 1.0 * (last[..., None] == place)
    found["same"] = (tokens[:, :, None] == tokens[:, None]) * earlier
    for key, before in (("letter", "blank"), ("after_same", "same")):
        found[key] = np.zeros((n, t, t))
        found[key][..., 1:] = found[before][..., :-1]
    found["letter"] *= np.tri(t)
    found["after_same"] *= earlier
    return found


# --- figures ----------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    return {
        "heads": draw_heads(result),
        "examples": draw_examples(result),
        "maps": draw_maps(result),
    }


def draw_heads(result: Result) -> Figure:
    arrays = result.arrays
    means, stds = arrays["means"], arrays["stds"]
    layers, heads = means.shape[:2]
    figure, axes = plots.grid(3, 4, width=3.3, height=2.9)
    places = np.arange(layers * heads)
    for m, (place, key) in enumerate(zip(axes.flat, MEASURES)):
        for layer in range(layers):
            look = {"fmt": plots.MARKERS[layer % len(plots.MARKERS)], "ms": 5, "capsize": 2}
            where = places[layer * heads : (layer + 1) * heads]
            place.errorbar(
                where, means[layer, :, m], stds[layer, :, m], color=f"C{layer % 8}", **look
            )
        place.axhline(arrays["even"][m], color="black", ls="--", label="even weights")
        place.axhline(arrays["before"][m], color="grey", ls=":", label="before training")
        place.set_xticks(places, np.ravel(head_names(means)), fontsize=7, rotation=90)
        place.set(title=(SHARES | OTHERS)[key], xlabel="layer.head", ylim=(0, None))
        if key in SHARES:
            place.set_ylabel("share of the weight")
    axes[-1, -1].axis("off")
    axes[-1, -1].legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
    metrics = result.metrics
    best = max(ON_TEXTS, key=lambda key: metrics[f"{key}_most"])
    figure.suptitle(
        f"Head {head_of(means, best)} gives {metrics[f'{best}_most']:.0%} of its weight to "
        f"“{SHARES[best]}” (even weights {metrics[f'{best}_even']:.0%}; "
        f"{of_runs(int(metrics['texts']))}, texts of one training)"
    )
    return figure


def draw_examples(result: Result) -> Figure:
    """Of the shares those most above even weights, each with its head, and where they lie."""
    metrics, means = result.metrics, result.arrays["means"]
    drawn = [key for key in ON_TEXTS if metrics[f"{key}_even"]]
    drawn.sort(key=lambda key: metrics[f"{key}_most"] / metrics[f"{key}_even"], reverse=True)
    keys = drawn[:4]
    figure, axes = plots.grid(2, 2, width=5.4, height=5.2)
    for place, key in zip(axes.flat, keys):
        layer, head = (int(part) - 1 for part in head_of(means, key).split("."))
        show_map(place, result.arrays["maps"][layer, head], signs_of(result), 6)
        rows, columns = np.nonzero(result.arrays[f"{key}_places"])
        place.plot(columns, rows, "s", ms=4, mfc="none", mec="C1", mew=0.6)
        share = means[layer, head, MEASURES.index(key)]
        place.set_title(f"{layer + 1}.{head + 1}: {share:.0%} to “{SHARES[key]}”", fontsize="small")
    names = [f"{head_of(means, key)} ({SHARES[key]})" for key in keys]
    figure.suptitle(
        "The heads that look most at one kind of place, which is framed: " + ", ".join(names)
    )
    return figure


def draw_maps(result: Result) -> Figure:
    maps, means = result.arrays["maps"], result.arrays["means"]
    figure, axes = plots.grid(*maps.shape[:2], width=3.2, height=3.1)
    for index, place in np.ndenumerate(axes):
        shown = maps[index][:SHOWN_OF_ALL, :SHOWN_OF_ALL]
        show_map(place, shown, signs_of(result)[:SHOWN_OF_ALL], 5)
        place.set_title(head_names(means)[index[0]][index[1]], fontsize="small", loc="left")
    metrics = result.metrics
    figure.suptitle(
        f"{counted(maps.shape[0] * maps.shape[1], 'head')} on one text; on all they look "
        f"{metrics['distance_least']:.1f} to {metrics['distance_most']:.1f} tokens back and spread "
        f"their weight over {metrics['entropy_least']:.1f} to {metrics['entropy_most']:.1f} bits"
    )
    return figure


def signs_of(result: Result) -> list[str]:
    """The tokens of the text that is drawn, with blanks and ends of lines to be seen."""
    signs = result.arrays["tokens"].tolist()
    signs = [sign.replace(" ", "␣").replace("\n", "↵").replace("$", r"\$") for sign in signs]
    return [sign if sign.isprintable() else "·" for sign in signs]


def show_map(axes: Axes, weights: np.ndarray, signs: list[str], size: float) -> None:
    """P (T, T) of one head: rows are queries, columns keys; the square root, to see small ones."""
    axes.imshow(np.sqrt(weights), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(signs)), signs, fontsize=size)
    axes.set_yticks(range(len(signs)), signs, fontsize=size)
    axes.tick_params(length=0, pad=1)
    axes.set_xlabel("key", fontsize="small", labelpad=1)
    axes.set_ylabel("query", fontsize="small", labelpad=1)
    axes.grid(False)
