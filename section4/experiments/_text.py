"""What the experiments on text share: a text as tokens, and one GPT trained on it, kept for all.

The first nine tenths of the text are for training, the rest is for validation. Losses are in nats
a token, their mean over the whole validation text: pieces of it as long as the context stand side
by side, and what is left over at the end, less than one piece, is left out.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import config
from section3.experiments._learning import up_and_down
from section4 import checkpoint, distributed, transformers
from section4.engine import Batch, Setting, cross_entropy
from section4.experiments._engine import choose, find_device, seeded
from section4.experiments._recipes import is_of, recipe_of, sign
from section4.images import device_seed
from section4.training import Data, History, evaluate, fit, load_weights
from section4.transformers.generate import generate
from section4.transformers.gpt import GPTConfig
from section4.transformers.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer
from section4.transformers.torch_gpt import TorchGPT
from section4.transformers.windows import random_windows, windows
from utils.errors import UserError
from utils.experiments.budget import Budget
from utils.experiments.progress import Progress
from utils.experiments.results import command
from utils.experiments.run import Run
from utils.output import plots

TRAINING_SHARE = 0.9
WEIGHTS, ORDER = 1, 2  # what is drawn at random, the same in all of these experiments
AT_ONCE = 64  # pieces of text, where nothing is learned
BETAS, DECAY, LONGEST_GRADIENT = (0.9, 0.99), 0.1, 1.0
FILE = "language_model.pt"
LINE = 56  # letters, in a figure


# --- the text ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A text as tokens (n,), for training and for validation."""

    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    characters: int  # of the validation text
    opening: str  # what a model writes after: a line break, where the text has any

    def bits_per_character(self, loss: float) -> float:
        """What a loss in nats a token is in bits a character: the same for every tokenizer."""
        return loss / math.log(2) * len(self.validation) / self.characters


def load_text(run: Run) -> Text:
    """The file that the budget names as `text`, else Shakespeare; tokens as the budget says.

    Raises UserError for a file that is missing, empty, not UTF-8, or too short for the context.
    """
    budget = for_device(run)
    text, name = budget.text and read(Path(budget.text)), budget.text or "the text"
    if text:
        run.note_data("text", f"{len(text):,} characters of {budget.text}", "own file")
    else:
        text = run.load("tinyshakespeare").text
    cut = int(TRAINING_SHARE * len(text))
    try:
        tokenizer = tokenizer_for(text, cut, budget)
    except ValueError as error:
        raise UserError(str(error)) from error
    train, validation = tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:])
    if len(validation) <= budget.context:
        raise UserError(
            f"{name} is too short: its last tenth, for validation, has {len(validation)} tokens, "
            f"and must have more than the context of {budget.context}"
        )
    opening = "\n" if "\n" in text else text[0]
    return Text(tokenizer, train, validation, len(text) - cut, opening)


def read(path: Path) -> str:
    """A text of one's own. Raises UserError where it is missing, empty or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text in UTF-8: {error.reason} at {error.start}") from None
    except OSError as error:
        raise UserError(f"the text {path} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise UserError(f"the text {path} is empty")
    return text


def tokenizer_for(text: str, cut: int, budget: Budget) -> Tokenizer:
    """Every character of the text, or byte pairs that are frequent in what is for training."""
    if budget.tokens == "characters":
        return CharacterTokenizer(text)
    if budget.tokens == "bytes":
        return BytePairTokenizer.train(text[:cut], budget.vocabulary)
    raise UserError(f"tokens must be characters or bytes, got {budget.tokens!r}")


def side_by_side(tokens: np.ndarray, context: int, setting: Setting) -> Data:
    """All pieces of a text that do not overlap, in batches of which each process has its share."""
    x, y = windows(tokens, context, stride=context)

    def batches(_: int = 0) -> Iterator[Batch]:
        for start in range(0, len(x), AT_ONCE):
            yield placed(setting, x[start : start + AT_ONCE], y[start : start + AT_ONCE])

    return batches


def placed(setting: Setting, *arrays: np.ndarray) -> Batch:
    """This process's share of the rows of a batch, on the device."""
    return setting.place([torch.from_numpy(np.array(distributed.share(a))) for a in arrays])


# --- training ---------------------------------------------------------------------------------


@dataclass
class Trained:
    """A GPT with the weights of its lowest validation loss, and how it came about."""

    model: TorchGPT
    setting: Setting
    history: History
    loss: float  # on the validation text

    @property
    def steps(self) -> int:
        """How many steps it took to the weights that were kept."""
        epochs = self.history.val_loss
        return len(self.history.step_loss) * (1 + epochs.index(min(epochs))) // len(epochs)


def for_device(run: Run) -> Budget:
    """The budget of a run; on a GPU, `width_on_gpu` takes the place of `width`, and so on."""
    suffix = "_on_gpu"
    other = {key: value for key, value in run.budget.items() if key.endswith(suffix)}
    budget = Budget((key, value) for key, value in run.budget.items() if key not in other)
    if other and find_device(run).type != "cpu":
        budget |= {key.removesuffix(suffix): value for key, value in other.items()}
    return budget


def config_of(budget: Budget, text: Text) -> GPTConfig:
    parts = ("context", "layers", "heads", "width", "dropout")
    try:
        return GPTConfig(text.tokenizer.vocabulary, **{part: budget[part] for part in parts})
    except ValueError as error:
        raise UserError(str(error)) from error


def trained_gpt(
    run: Run,
    text: Text,
    folder: Path,
    bar: Progress,
    on_gradients: Callable[[TorchGPT, int], object] | None = None,
) -> Trained:
    """Train a GPT, or take it from the experiment `gpt` where that has trained the very same.

    folder: for checkpoints; where it has some, training goes on from there. on_gradients: called
    with the model and the number of each step, before the update. `bar` advances `epochs` of
    `for_device(run)` times.
    """
    find_device(run)  # where several processes meet
    budget = for_device(run)
    shape = config_of(budget, text)
    needs = {key: budget[key] for key in config.TEXT if key in budget}
    sources = [Path(transformers.__file__).parent, Path(__file__)]
    tokens = zlib.crc32(np.concatenate([text.train, text.validation]).tobytes())
    recipe = recipe_of(run, needs, sources, tokens)
    elsewhere = run.checkpoints_of("gpt") / "gpt"
    done = is_of(elsewhere, recipe)
    place = elsewhere if done else folder / "gpt"

    seed = device_seed(run.settings.seed, ORDER)
    draw = random_windows(
        text.train, shape.context, batch_size=budget.batch_size, batches=budget.steps
    )

    def batches(epoch: int, setting: Setting) -> Iterator[Batch]:
        for pair in draw(np.random.default_rng([seed, epoch])):
            yield placed(setting, *pair)

    model = seeded(device_seed(run.settings.seed, WEIGHTS), lambda: TorchGPT(shape))
    some = next(batches(0, Setting(torch.device("cpu"))))
    setting = choose(run, model, some, folder=place, steps=budget.epochs * budget.steps)
    setting.prepare(model)
    validation = side_by_side(text.validation, shape.context, setting)
    objective = cross_entropy()
    history = fit(
        model,
        objective,
        adamw(model, budget.lr),
        lambda epoch: batches(epoch, setting),
        epochs=budget.epochs,
        seed=seed,
        setting=setting,
        schedule=up_and_down(budget.lr, budget.epochs * budget.steps),
        validate=lambda judged: (evaluate(judged, objective, validation, setting)[0], math.nan),
        clip=LONGEST_GRADIENT,
        on_gradients=None if on_gradients is None else lambda step: on_gradients(model, step),
        on_epoch=lambda history: bar.advance(f"validation loss {history.val_loss[-1]:.3f}"),
        checkpoints=place,
        resume=True,
        on_resume=bar.skip,
    )
    if distributed.rank() == 0:
        load_weights(place / "best.pt", model)
        if not done:
            save_model(place / FILE, model, text.tokenizer)
            sign(place, recipe)
    distributed.same_weights(model)
    return Trained(model, setting, history, min(history.val_loss))


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Weight decay for matrices alone: it would pull norms and biases from where they belong."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, BETAS)


# --- a language model in a file ---------------------------------------------------------------


def save_model(path: Path, model: TorchGPT, tokenizer: Tokenizer) -> None:
    """A model, what it is made of, and its tokenizer: all that is needed to write with it."""
    if isinstance(tokenizer, CharacterTokenizer):
        kept: dict[str, Any] = {"characters": "".join(tokenizer.characters)}
    elif isinstance(tokenizer, BytePairTokenizer):
        kept = {"merges": [list(pair) for pair in tokenizer.merges]}
    else:
        raise TypeError(f"a {type(tokenizer).__name__} cannot be kept in a file")
    content = {"config": asdict(model.config), "tokenizer": kept, "model": model.state_dict()}
    checkpoint.save(path, content)


def load_model(path: Path) -> tuple[TorchGPT, Tokenizer]:
    """What `save_model` wrote, on the CPU, in evaluation mode.

    Raises UserError for a file that is missing, damaged, or something else.
    """
    try:
        content = checkpoint.load(path)
    except OSError as error:
        raise UserError(f"the model {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        kept = content["tokenizer"]
        tokenizer: Tokenizer
        if "characters" in kept:
            tokenizer = CharacterTokenizer(kept["characters"])
        else:
            tokenizer = BytePairTokenizer([(a, b) for a, b in kept["merges"]])
        model = TorchGPT(GPTConfig(**content["config"]))
        model.load_state_dict(content["model"])
        if tokenizer.vocabulary != model.config.vocabulary:
            raise ValueError("its tokenizer is of another model")
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not hold a language model ({reason})") from error
    return model.eval(), tokenizer


def newest_model(results: Path) -> Path:
    """The language model that was trained last, in any mode.

    results: the folder of all results. Raises UserError where there is none.
    """
    found = sorted(
        results.glob(f"section4/*/checkpoints/*/gpt/{FILE}"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        raise UserError(
            f"there is no trained model in {results}: run {command('gpt', results)} first"
        )
    return found[-1]


# --- writing, and drawing ---------------------------------------------------------------------


def times(number: float) -> str:
    """How many times, to two digits where it is few: "0.10 times", "1.0 times", "1,138 times"."""
    return f"{number:#.2g} times" if number < 9.95 else f"{number:,.0f} times"


def write(model: TorchGPT, tokenizer: Tokenizer, prompt: str, count: int, seed: int) -> str:
    """`prompt` and `count` tokens that the model writes after it."""
    device = model.tokens.weight.device
    tokens = torch.from_numpy(tokenizer.encode(prompt))[None].to(device)  # (1, T)
    generator = torch.Generator(device).manual_seed(seed)
    return tokenizer.decode(generate(model, tokens, count, generator=generator)[0].tolist())


def show_texts(texts: dict[str, str], columns: int = 3, most: int = 22) -> Figure:
    """Texts (of each so many lines) under their titles, in the letters of a typewriter."""
    lines = {title: wrapped(text)[:most] for title, text in texts.items()}
    rows, height = math.ceil(len(texts) / columns), 0.4 + 0.135 * max(map(len, lines.values()))
    figure, axes = plots.grid(rows, columns, width=4.2, height=height)
    for place in axes.flat:
        place.axis("off")
    for place, (title, shown) in zip(axes.flat, lines.items()):
        place.set_title(title, loc="left")
        place.text(
            0, 1, "\n".join(shown), va="top", family="monospace", fontsize=7.5,
            transform=place.transAxes, parse_math=False,
        )  # fmt: skip
    return figure


def wrapped(text: str) -> list[str]:
    lines = text.strip("\n").expandtabs(4).split("\n")
    return [part for line in lines for part in wrap(line, LINE) or [""]]
