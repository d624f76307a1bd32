"""Does a GPT written in NumPy learn what PyTorch's does, and in what time?

The same model twice, forward and backward pass written out by hand on one side: from the same
initial weights, on the same batches in the same order, in float32 on the CPU. Both train in turns,
an epoch here and an epoch there, so that what slows the machine for a while slows both alike.
PyTorch runs the plain loop that its manual shows, on as many threads as suited it best just before
each epoch. Both are judged by the same code on the whole validation text. Beyond QUICK, network,
context and batch are those that nanoGPT has for a CPU; the learning rate is three times as high.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from section1.experiments._training import counted, mean_in_words, mean_std, of_runs, smoothed
from section1.losses import SoftmaxCrossEntropy
from section1.parallel import available_threads
from section1.training import Batch, History, evaluate, fit
from section2.optimizers import Adam, clip_gradient_norm
from section2.schedules import Schedule
from section3.experiments._learning import up_and_down
from section4 import checkpoint
from section4.engine import PLAIN, best_threads, count_parameters, cross_entropy
from section4.experiments._against_torch import differences_of_loss
from section4.experiments._text import (
    BETAS,
    DECAY,
    LONGEST_GRADIENT,
    Text,
    adamw,
    config_of,
    load_text,
    show_texts,
    write,
)
from section4.transformers.gpt import GPTConfig, NumpyGPT
from section4.transformers.torch_gpt import TorchGPT, to_numpy, to_torch
from section4.transformers.windows import random_windows, windows
from utils.experiments import machine
from utils.experiments.progress import Progress
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SIDES = {"numpy": "NumPy", "pytorch": "PyTorch"}
PUBLISHED_STEPS = 2000
PUBLISHED = ["nanoGPT", f"1.88 after {PUBLISHED_STEPS:,} steps", "github.com/karpathy/nanoGPT"]
PROBED = 2  # pieces of text, for the gradients in float64

Draw = Callable[[np.random.Generator], Iterator[Batch]]  # the batches of an epoch


class Twin:
    """A model in PyTorch and the loop that trains it, kept in a file after every epoch."""

    def __init__(self, model: TorchGPT, schedule: Schedule, file: Path):
        self.model, self.schedule, self.file = model, schedule, file
        self.optimizer, self.history = adamw(model, 0.0), History()
        self.threads: list[int] = []  # of each epoch
        if file.exists():
            kept = checkpoint.load(file)
            model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.history, self.threads = History(**kept["history"]), kept["threads"]

    def epoch(self, batches: list[Batch], validation: Batch, threads: int) -> None:
        """Train; validate on `threads` of NumPy's, the most that PyTorch may take as well."""
        history, model = self.history, self.model
        torch.set_num_threads(threads)
        some = [torch.from_numpy(item) for item in batches[0]]
        self.threads.append(best_threads(model, some, cross_entropy(), PLAIN))
        torch.set_num_threads(self.threads[-1])
        losses, start = list[float](), time.perf_counter()
        for x, y in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(len(history.step_loss) + len(losses))
            self.optimizer.zero_grad()
            logits = model(torch.from_numpy(x))
            loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(y).flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
            self.optimizer.step()
            losses.append(loss.item())
        history.seconds.append(sum(history.seconds[-1:]) + time.perf_counter() - start)
        history.step_loss += losses
        history.loss.append(float(np.mean(losses)))
        history.val_loss.append(judged(to_numpy(model), validation, threads))
        content: dict[str, Any] = {"history": asdict(history), "threads": self.threads}
        content |= {"model": model.state_dict(), "optimizer": self.optimizer.state_dict()}
        checkpoint.save(self.file, content)


def judged(model: NumpyGPT, validation: Batch, threads: int) -> float:
    """The loss on all of the validation text."""
    return evaluate(model, SoftmaxCrossEntropy(), validation, metric=None, threads=threads)[0]


@dataclass
class Pair:
    """The two sides after training."""

    numpy: NumpyGPT
    histories: dict[str, History]
    threads: list[int]  # of PyTorch, in each epoch


def train_both(
    run: Run, seed: int, text: Text, shape: GPTConfig, folder: Path, bar: Progress
) -> Pair:
    budget, threads = run.budget, run.threads or available_threads()
    ours = NumpyGPT(shape, rng=run.rng(seed, 0))
    parameters = ours.parameters()
    matrices = [parameter for parameter in parameters if parameter.value.ndim > 1]
    optimizer, order = Adam(parameters, 0.0, BETAS), run.rng(seed, 1)
    schedule = up_and_down(budget.lr, budget.epochs * budget.steps)
    draw = drawn(run, text, shape)
    validation = windows(text.validation, shape.context, stride=shape.context)
    twin = Twin(to_torch(ours), schedule, folder / "pytorch.pt")

    def on_gradients() -> None:
        clip_gradient_norm(parameters, LONGEST_GRADIENT)
        for matrix in matrices:  # AdamW's decay, but not of biases and norms
            matrix.value *= 1 - optimizer.lr * DECAY

    for epoch in range(1, budget.epochs + 1):
        history = fit(
            ours,
            SoftmaxCrossEntropy(),
            optimizer,
            draw,
            epochs=epoch,  # so: one more than there are in the checkpoint
            batch_size=budget.batch_size,
            rng=order,
            validation=validation,
            metric=None,
            schedule=schedule,
            threads=threads,
            on_gradients=on_gradients,
            checkpoints=folder,
            resume=True,
        )
        bar.advance(f"NumPy: validation loss {history.val_loss[-1]:.3f}")
        if len(twin.history.loss) < epoch:
            twin.epoch(replayed(draw, run.rng(seed, 1), epoch), validation, threads)
        bar.advance(f"PyTorch: validation loss {twin.history.val_loss[-1]:.3f}")
    return Pair(ours, dict(zip(SIDES, (history, twin.history))), twin.threads)


def drawn(run: Run, text: Text, shape: GPTConfig) -> Draw:
    budget = run.budget
    return random_windows(
        text.train, shape.context, batch_size=budget.batch_size, batches=budget.steps
    )


def replayed(draw: Draw, rng: np.random.Generator, epoch: int) -> list[Batch]:
    """The batches of the epoch of this number, from 1, as `fit` draws them one after the other."""
    for _ in range(1, epoch):
        for _ in draw(rng):
            pass
    return list(draw(rng))


def compute(run: Run) -> Result:
    if not machine.writes():  # of several processes the first one does it all
        return Result("Measured by the first process.", "time_ratio", {"time_ratio": 1.0})
    budget, text = run.budget, load_text(run)
    shape = config_of(budget, text)
    with run.resumable() as folder, run.progress(2 * budget.seeds * budget.epochs) as bar:
        pairs = [
            train_both(run, seed, text, shape, folder / str(seed), bar)
            for seed in range(budget.seeds)
        ]
    return account(run, text, shape, pairs)


def in_threads(counts: set[int]) -> str:
    few, most = min(counts), max(counts)
    return f"{few} to {most} threads" if few < most else counted(few, "thread")


def account(run: Run, text: Text, shape: GPTConfig, pairs: list[Pair]) -> Result:
    budget, steps = run.budget, run.budget.epochs * run.budget.steps
    threads = {
        "numpy": in_threads({run.threads or available_threads()}),
        "pytorch": in_threads({count for pair in pairs for count in pair.threads}),
    }
    run.engine = f"NumPy on {threads['numpy']}, PyTorch on {threads['pytorch']}"
    metrics: dict[str, float] = {"steps": steps, "seeds": budget.seeds}
    curves, arrays, rows = dict[str, Curve](), dict[str, np.ndarray](), list[list[Any]]()
    for side, name in SIDES.items():
        histories = [pair.histories[side] for pair in pairs]
        losses = np.array([history.step_loss for history in histories])  # (seeds, steps)
        seconds = np.array([np.diff([0, *history.seconds]) for history in histories])
        arrays |= {f"{side}_step_loss": losses, f"{side}_seconds": seconds}
        x, means = smoothed(losses)
        label = "loss (nats a token)"
        curves[f"{side}_training"] = Curve.over_runs(x, means, "step", label)
        ends = range(budget.steps, steps + 1, budget.steps)
        values = [history.val_loss for history in histories]
        curves[f"{side}_validation"] = Curve.over_runs(ends, values, "step", label)
        ms = float(seconds.mean() / budget.steps * 1e3)
        loss, std = mean_std(history.val_loss[-1] for history in histories)
        perplexity, bits = float(np.exp(loss)), text.bits_per_character(loss)
        metrics |= {f"{side}_validation_loss": loss, f"{side}_validation_loss_std": std}
        metrics |= {f"{side}_perplexity": perplexity, f"{side}_bits_per_character": bits}
        metrics |= {f"{side}_step_time_ms": ms, f"{side}_training_time": 1e-3 * ms * steps}
        rows.append([name, threads[side], loss, std, perplexity, bits, ms, budget.seeds])
    ratios = arrays["numpy_seconds"] / arrays["pytorch_seconds"]  # (seeds, epochs)
    low, ratio, high = np.percentile(ratios, (25, 50, 75)).tolist()
    apart = np.abs(arrays["numpy_step_loss"] - arrays["pytorch_step_loss"])
    x, means = smoothed(apart)
    curves["apart"] = Curve.over_runs(x, means, "step", "difference of the losses (nats a token)")
    probe = NumpyGPT(shape, rng=run.rng(0, 0), dtype=np.float64)
    batch = (item[:PROBED] for item in next(drawn(run, text, shape)(run.rng(0, 1))))
    _, gradients = differences_of_loss(probe, *batch)
    metrics |= {"time_ratio": ratio, "time_ratio_low": low, "time_ratio_high": high}
    first, last = float(apart[:, 0].max()), float(apart[:, -budget.steps :].mean())
    metrics |= {"first_loss_difference": first, "last_loss_difference": last}
    metrics |= {"gradient_difference": gradients}
    metrics |= {"parameters": count_parameters(TorchGPT(shape))}
    model = to_torch(pairs[0].numpy)
    sample = write(model, text.tokenizer, text.opening, budget.written, run.seed(0, 2))
    columns = ["model", "threads", "validation loss", "std", "perplexity", "bits per character"]
    tables = {
        "models": Table([*columns, "time of a step (ms)", "n"], rows),
        "samples": Table(["written by", "text"], [["NumPy's GPT", sample]]),
        "published": Table(["who", "what they state for tiny Shakespeare", "source"], [PUBLISHED]),
    }
    answer = (
        f"After {counted(steps, 'step')} of {counted(budget.batch_size, 'piece')} of "
        f"{counted(shape.context, 'token')} the validation loss is "
        f"{loss_of(metrics, 'numpy')} in NumPy and {loss_of(metrics, 'pytorch')} in PyTorch, from "
        f"the same weights on the same batches (n = {budget.seeds}; "
        f"{metrics['numpy_bits_per_character']:.2f} bits a character in NumPy). "
        f"In float64 no element of the first gradient differs by more than {gradients:.0e}; the "
        f"losses, in float32, differ by {first:.1g} at first and by {last:.1g} in the last epoch. "
        f"{time_in_words(metrics)}; a whole training takes "
        f"{metrics['numpy_training_time']:.3g} s on {threads['numpy']} against "
        f"{metrics['pytorch_training_time']:.3g} s on {threads['pytorch']}."
    )
    if steps < PUBLISHED_STEPS:
        answer += f" A short training: nanoGPT's for a CPU has {PUBLISHED_STEPS:,} steps."
    return Result(answer, "numpy_validation_loss", metrics, curves, tables, arrays)


def loss_of(metrics: dict[str, float], side: str) -> str:
    return mean_in_words(metrics, f"{side}_validation_loss", ".3f", int(metrics["seeds"]))


def time_in_words(metrics: dict[str, float]) -> str:
    ratio = metrics["time_ratio"]
    return (
        f"A step takes NumPy {ratio:.2f} times as long as PyTorch (median of epochs in turns, "
        f"quartiles {metrics['time_ratio_low']:.2f} to {metrics['time_ratio_high']:.2f})"
    )


def draw(result: Result) -> dict[str, Figure]:
    metrics, curves = result.metrics, result.curves
    learning, axes = plots.grid(1, 3, width=4.4, height=3.8)
    n = curves["numpy_validation"].n
    for number, (side, name) in enumerate(SIDES.items()):
        look: dict[str, Any] = {"color": f"C{number}", "ls": ("-", "--")[number]}
        plots.plot_curve(axes[0, 0], curves[f"{side}_training"], f"{name}, training", **look, lw=1)
        validation = curves[f"{side}_validation"]
        look |= {"marker": plots.MARKERS[number], "ms": 8 - 4 * number}
        plots.plot_curve(axes[0, 0], validation, f"{name}, validation", **look)
        seconds = result.arrays[f"{side}_seconds"]
        epochs = np.arange(1, seconds.shape[1] + 1)
        steps = metrics["steps"] / len(epochs)
        axes[0, 2].plot(epochs, 1e3 * seconds.T / steps, label=name, **look | {"ms": 5})
        axes[0, 2].margins(y=0.1)
    axes[0, 0].legend(title=of_runs(n), title_fontsize="small")
    plots.plot_curve(axes[0, 1], curves["apart"], "", color="C2")
    axes[0, 1].set(yscale="log", title="NumPy and PyTorch: what rounding makes of it")
    handles, labels = axes[0, 2].get_legend_handles_labels()
    axes[0, 2].legend(*zip(*dict(zip(labels, zip(handles, labels))).values()))
    axes[0, 2].set(xlabel="epoch", ylabel="time of a step (ms)")
    axes[0, 2].set_ylim(bottom=0)
    axes[0, 2].xaxis.get_major_locator().set_params(integer=True)
    learning.suptitle(
        f"Validation loss {loss_of(metrics, 'numpy')} in NumPy, {loss_of(metrics, 'pytorch')} in "
        f"PyTorch; a step takes NumPy {metrics['time_ratio']:.2f} times as long"
    )
    ((who, sample),) = result.tables["samples"].rows
    cut = len(sample) // 2
    text = show_texts({f"written by {who}": sample[:cut], "": sample[cut:]}, columns=2)
    text.suptitle(
        f"What the GPT in NumPy writes after {counted(metrics['steps'], 'step')}, at "
        f"{metrics['numpy_bits_per_character']:.2f} bits a character"
    )
    return {"learning": learning, "text": text}
