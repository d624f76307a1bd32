"""Does a small GPT learn to reverse, sort and add from examples, and do longer inputs fail?

Each task is a text "input=output." (`transformers/tasks.py`), learnt by a GPT of its own from
inputs of few digits; only what stands after "=" counts in the loss. It is then asked for inputs
that were never trained on, of the lengths it has learnt and of longer ones, and an answer is right
if all of it is, down to the "." that ends it: written token by token, each time the likeliest.
An algorithm would do with one digit more what it does with fewer. How a token is told its place is
what differs: a vector learnt for each (of places further on than any in training it is as it was
drawn, but for weight decay), sines and cosines, or queries and keys turned ("rotary"). Addition is
learnt twice, with the sum as one writes it and with its digits reversed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from section1.experiments._training import counted, mean_in_words, mean_std, of_runs
from section2.experiments._optimizers import listed
from section3.experiments._learning import up_and_down
from section4.engine import IGNORED, Batch, Setting, cross_entropy
from section4.experiments._engine import choose, seeded
from section4.experiments._letters import GIVEN, RIGHT, WRONG, write_letters
from section4.experiments._text import LONGEST_GRADIENT, adamw, placed
from section4.training import History, evaluation, fit
from section4.transformers.generate import generate
from section4.transformers.gpt import POSITIONS, GPTConfig
from section4.transformers.tasks import (
    END,
    TASKS,
    TOKENIZER,
    Example,
    encoded,
    held_out_examples,
    training_examples,
)
from section4.transformers.torch_gpt import TorchGPT
from utils.errors import UserError
from utils.experiments.progress import Progress
from utils.experiments.results import Curve, Result, Table
from utils.experiments.run import Run
from utils.output import plots

SUMS = ("add", "add_reversed")
LOOKS: dict[str, dict[str, Any]] = {
    place: {"color": f"C{k}", "marker": plots.MARKERS[k]} for k, place in enumerate(POSITIONS)
}
SHOWN = 2  # examples of a length
Arm = tuple[str, str]  # a task, and how places are told


def arms(run: Run) -> list[Arm]:
    """The trainings of one seed. Raises UserError for tasks and positions that there are not."""
    budget = run.budget
    for name, chosen, known in (
        ("tasks", budget.tasks, TASKS),
        ("positions", budget.positions, POSITIONS),
        ("positions_of_sums", budget.positions_of_sums, POSITIONS),
    ):
        if wrong := [word for word in chosen if word not in known]:
            raise UserError(f"{name}: there is no {wrong[0]!r}; choose from {', '.join(known)}")
    return [
        (task, place)
        for task in dict.fromkeys(budget.tasks)
        for place in dict.fromkeys(budget.positions_of_sums if task in SUMS else budget.positions)
    ]


def trained_lengths(run: Run, task: str) -> range:
    """Digits of the inputs (for a sum: of each number) that are trained on."""
    if task in SUMS:
        return range(1, run.budget.longest_of_sums + 1)
    if run.budget.longest < 2:
        raise UserError("longest must be at least 2 digits: one has no order")
    return range(2, run.budget.longest + 1)


def new_model(run: Run, arm: Arm, seed: int) -> TorchGPT:
    budget, (task, place) = run.budget, arm
    context = 6 * trained_lengths(run, task)[-1] + 3  # of a sum of numbers twice as long
    try:
        shape = GPTConfig(
            TOKENIZER.vocabulary, context, budget.layers, budget.heads, budget.width, place,
            tied=False,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from error
    return seeded(run.seed(0, seed), lambda: TorchGPT(shape))


def learnt(
    run: Run, arm: Arm, seed: int, setting: Setting, folder: Path, tests: list[Example],
    bar: Progress,
) -> tuple[TorchGPT, History]:  # fmt: skip
    """A model trained on one task; `tests` are looked at after every epoch."""
    budget, lengths, model = run.budget, trained_lengths(run, arm[0]), new_model(run, arm, seed)

    def batches(epoch: int) -> Iterator[Batch]:
        rng = run.rng(1, seed, epoch)
        for _ in range(budget.steps):
            examples = training_examples(arm[0], lengths, budget.batch_size, rng)
            yield placed(setting, *encoded(examples, IGNORED))

    history = fit(
        model,
        cross_entropy(),
        adamw(model, budget.lr),
        batches,
        epochs=budget.epochs,
        seed=run.seed(2, seed),
        setting=setting,
        schedule=up_and_down(budget.lr, budget.epochs * budget.steps),
        validate=lambda judged: (math.nan, guessed(judged, tests, setting)),
        clip=LONGEST_GRADIENT,
        on_epoch=lambda history: bar.advance(f"{arm[0]} {history.val_metric[-1]:.0%}"),
        checkpoints=folder,
        resume=True,
        on_resume=bar.skip,
    )
    return model, history


def guessed(model: torch.nn.Module, examples: list[Example], setting: Setting) -> float:
    """The share of answers of which every token is the likeliest after those before it.

    As long as that is so, to write the likeliest token each time is to write the answer: this is
    the share that `answers` gets right, in one pass.
    """
    x, y = (torch.from_numpy(array).to(setting.device) for array in encoded(examples, IGNORED))
    with evaluation(model, setting):
        right = (model(x).argmax(-1) == y) | (y == IGNORED)
    return right.all(1).float().mean().item()


def answers(model: TorchGPT, examples: list[Example], setting: Setting) -> list[str]:
    """What a model writes after inputs of one length, as many tokens as the right answer has."""
    prompts = np.stack([TOKENIZER.encode(f"{text}=") for text, _ in examples])
    count = len(examples[0][1]) + len(END)
    with evaluation(model, setting):
        tokens = torch.from_numpy(prompts).to(setting.device)
        written = generate(model, tokens, count, top_k=1)[:, prompts.shape[1] :]
    return [TOKENIZER.decode(row) for row in written.tolist()]


def compute(run: Run) -> Result:
    budget, chosen = run.budget, arms(run)
    trained = {task: trained_lengths(run, task) for task, _ in chosen}
    tests: dict[str, dict[int, list[Example]]] = {
        task: {
            length: held_out_examples(task, length, budget.tested, run.rng(3, length))
            for length in range(lengths[0], 2 * lengths[-1] + 1)
        }
        for task, lengths in trained.items()
    }
    run.note_data("tasks", f"digits drawn at random; at most {budget.tested} test inputs a length")
    right: dict[Arm, list[list[float]]] = {arm: [] for arm in chosen}  # (seeds, lengths)
    histories: dict[Arm, list[History]] = {arm: [] for arm in chosen}
    shown = list[list[str]]()
    with run.resumable() as folder, run.progress(len(chosen) * budget.seeds * budget.epochs) as bar:
        first = chosen[0][0]
        some = training_examples(first, trained[first], budget.batch_size, run.rng(4))
        batch = [torch.from_numpy(array) for array in encoded(some, IGNORED)]
        setting = choose(run, new_model(run, chosen[0], 0), batch, folder=folder)
        for seed in range(budget.seeds):
            for arm in chosen:
                inside = [
                    example
                    for length, examples in tests[arm[0]].items()
                    for example in examples
                    if length in trained[arm[0]]
                ]
                place = folder / f"{'_'.join(arm)}_{seed}"
                model, history = learnt(run, arm, seed, setting, place, inside, bar)
                shares = list[float]()
                for length, examples in tests[arm[0]].items():
                    written = answers(model, examples, setting)
                    wanted = [output + END for _, output in examples]
                    shares.append(float(np.mean([a == b for a, b in zip(written, wanted)])))
                    if seed == 0 and length - trained[arm[0]][-1] in (0, 1):
                        both = zip(examples[:SHOWN], written)
                        shown += [[*arm, text, output, said] for (text, output), said in both]
                right[arm].append(shares)
                histories[arm].append(history)

    curves, rows = dict[str, Curve](), list[list[Any]]()
    metrics: dict[str, float] = {"seeds": budget.seeds, "steps": budget.epochs * budget.steps}
    ends = range(budget.steps, budget.epochs * budget.steps + 1, budget.steps)
    for arm in chosen:
        name, lengths = "_".join(arm), list(tests[arm[0]])
        least, most = trained[arm[0]][0], trained[arm[0]][-1]
        counts = np.array([len(examples) for examples in tests[arm[0]].values()])
        table = np.array(right[arm])
        percent, label = 100 * table, "whole answers right (%)"
        digits = "digits of a number" if arm[0] in SUMS else "digits"
        curves[f"{name}_lengths"] = Curve.over_runs(
            lengths, percent, f"{digits} (trained: {least} to {most})", label
        )
        scores = [[100 * share for share in history.val_metric] for history in histories[arm]]
        curves[f"{name}_learning"] = Curve.over_runs(ends, scores, "step", label)
        metrics[f"{arm[0]}_shortest"], metrics[f"{arm[0]}_longest"] = least, most
        inner = most - least + 1
        for kind, part in (("inside", slice(0, inner)), ("beyond", slice(inner, None))):
            each = table[:, part] @ counts[part] / counts[part].sum()
            metrics[f"{name}_{kind}"], metrics[f"{name}_{kind}_std"] = mean_std(each)
        metrics[f"{name}_one_more"] = float(table[:, inner].mean())
        rows += [
            [*arm, length, length <= most, *mean_std(shares), count, budget.seeds]
            for length, count, shares in zip(lengths, counts.tolist(), table.T)
        ]
    for kind in ("inside", "beyond"):
        metrics[kind] = float(np.mean([metrics[f"{'_'.join(arm)}_{kind}"] for arm in chosen]))
    columns = ["task", "positions", "digits", "trained", "whole answers right", "std"]
    columns += ["test inputs", "n"]
    tables = {
        "accuracy": Table(columns, rows),
        "examples": Table(["task", "positions", "input", "output", "written"], shown),
    }
    return Result(in_words(metrics, chosen), "inside", metrics, curves, tables)


# --- in words -----------------------------------------------------------------------------------


def spoken(task: str) -> str:
    return task.replace("_", ", ")


def share(metrics: dict[str, float], task: str, place: str, kind: str) -> str:
    return mean_in_words(metrics, f"{task}_{place}_{kind}", ".1%", int(metrics["seeds"]))


def in_words(metrics: dict[str, float], chosen: Sequence[Arm]) -> str:
    sentences = [
        f"Inputs never trained on, whole answers right, models of "
        f"{counted(metrics['steps'], 'step')}: {of_runs(int(metrics['seeds']))}."
    ]
    for task in dict.fromkeys(task for task, _ in chosen):
        places = [place for name, place in chosen if name == task]
        inside = [f"{share(metrics, task, place, 'inside')} ({place})" for place in places]
        least, most = (int(metrics[f"{task}_{end}"]) for end in ("shortest", "longest"))
        one_more = listed([f"{metrics[f'{task}_{p}_one_more']:.1%} ({p})" for p in places])
        digits = f"{least} to {most} digits" if least < most else counted(most, "digit")
        sentences.append(
            f"{spoken(task).capitalize()}: {listed(inside)} with the {digits} of "
            f"the training; {one_more} with {most + 1}."
        )
    return " ".join([*sentences, verdict(metrics, chosen)])


def verdict(metrics: dict[str, float], chosen: Sequence[Arm]) -> str:
    """Whether what was learnt is an algorithm: then it would do as well with one digit more."""
    names = {arm: "_".join(arm) for arm in chosen}
    learnt = [arm for arm in chosen if metrics[f"{names[arm]}_inside"] >= 0.99]
    kept = [" ".join(arm) for arm in learnt if metrics[f"{names[arm]}_one_more"] >= 0.99]
    if not learnt:
        return "None has learnt its task to 99%."
    carried = (
        f"of these {listed(kept)} do{'es' * (len(kept) == 1)}" if kept else "none of these does"
    )
    return (
        f"{len(learnt)} of {counted(len(chosen), 'kind')} of model get{'s' * (len(learnt) == 1)} "
        f"at least 99% right at the lengths of the training; {carried} so with one digit more."
    )


# --- drawn ------------------------------------------------------------------------------------


def draw(result: Result) -> dict[str, Figure]:
    metrics = result.metrics
    chosen = list(dict.fromkeys((row[0], row[1]) for row in result.tables["accuracy"].rows))
    tasks = list(dict.fromkeys(task for task, _ in chosen))
    figures = {}
    for kind in ("lengths", "learning"):
        figure, axes = plots.grid(1, len(tasks), width=3.4, height=3.4, sharey=True)
        for place, task in zip(axes[0], tasks):
            for positions in (name for arm, name in chosen if arm == task):
                curve, look = result.curves[f"{task}_{positions}_{kind}"], LOOKS[positions]
                place.errorbar(curve.x, curve.y, curve.std, capsize=3, ms=5, **look)
            place.set(title=spoken(task), xlabel=curve.x_label, ylim=(-5, 105))
            place.xaxis.get_major_locator().set_params(integer=True)
            if kind == "lengths":
                place.axvspan(metrics[f"{task}_longest"] + 0.5, curve.x[-1] + 0.5, color="0.92")
        axes[0, 0].set_ylabel(curve.y_label)
        used = [name for name in LOOKS if name in {place for _, place in chosen}]
        handles = [Line2D([], [], label=name, **LOOKS[name]) for name in used]
        title = f"positions, {of_runs(curve.n)}"
        figure.legend(handles=handles, loc="outside lower center", ncols=3, title=title)
        figures[kind] = figure
    tops = [max(metrics[f"{'_'.join(arm)}_inside"] for arm in chosen if arm[0] == task)
            for task in tasks]  # fmt: skip
    inside = listed([f"{spoken(task)} {top:.1%}" for task, top in zip(tasks, tops)])
    figures["lengths"].suptitle(f"{verdict(metrics, chosen)} Longer inputs are shaded")
    figures["learning"].suptitle(
        f"Whole answers right after {counted(metrics['steps'], 'step')}, inputs never "
        f"trained on, with the best positions: {inside}"
    )
    return figures | {"answers": draw_answers(result, tasks)}


def draw_answers(result: Result, tasks: Sequence[str]) -> Figure:
    """What the models of the first seed write, digits that are wrong in colour and underlined."""
    lines: dict[str, list[list[tuple[str, str]]]] = {task: [] for task in tasks}
    wrong = longer = 0
    rows = result.tables["examples"].rows
    for task, positions, text, output, written in rows:
        wanted = output + END
        wrong += written != wanted
        longer += len(text.split("+")[0]) > result.metrics[f"{task}_longest"]
        marked = [(a, RIGHT if a == b else WRONG) for a, b in zip(written, wanted)]
        lines[task].append([(f"{positions:<11}{text}=", GIVEN), *marked])
    high = max(map(len, lines.values()))
    figure, axes = plots.grid(1, len(tasks), width=3.2, height=0.5 + 0.19 * high)
    for place, task in zip(axes[0], tasks):
        place.set_title(spoken(task), loc="left")
        write_letters(place, lines[task])
    figure.suptitle(
        f"Of {len(rows)} answers, {longer} of them to inputs of one digit more than was ever "
        f"trained, {wrong} {'is' if wrong == 1 else 'are'} wrong somewhere (underlined)"
    )
    return figure
