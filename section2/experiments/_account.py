"""How every gradient of some sections is checked, right and with faults planted in it.

The classes are found through the packages, so none can be forgotten: one that the tables in
`_checks.py` do not know is an error.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from section1.layer import Layer
from section1.losses import Loss
from section2.experiments._checks import Example, Model, Random
from section2.faults import FAULTS, Fault, Faulty, FaultyLoss, Mistake, Miswritten
from section2.gradient_check import TOLERANCE, Report, check_layer, check_loss, check_model
from utils.experiments.registry import ROOT
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

LEAST = 1e-15  # where an error of exactly zero is drawn
DRAWS = 5  # at most, of the numbers of a model; a kink needs bad luck


# --- what there is to check --------------------------------------------------------------


def classes(section: int) -> list[type]:
    """Every layer and loss that the library of a section defines, by import of its modules."""
    name, found = f"section{section}", list[type]()
    if not (ROOT / name / "__init__.py").is_file():
        return found
    modules = pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}.")
    for module_name in sorted(module.name for module in modules):
        if "experiments" in module_name.split("."):
            continue
        for item in vars(importlib.import_module(module_name)).values():
            if isinstance(item, type) and issubclass(item, (Layer, Loss)):
                found += [item] if item.__module__ == module_name else []
    return found


def tables(sections: Iterable[int]) -> Iterator[ModuleType]:
    """The files `_checks.py` of these sections; that of section 1 is this one."""
    for section in sorted({max(section, 2) for section in sections}):
        if (ROOT / f"section{section}" / "experiments" / "_checks.py").is_file():
            yield importlib.import_module(f"section{section}.experiments._checks")


def without_check(sections: Iterable[int]) -> list[str]:
    """The classes of these sections that have neither an example nor a reason for none."""
    known = {cls for file in tables(sections) for cls in (*file.EXAMPLES, *file.ABSTRACT)}
    found = [cls for section in sections for cls in classes(section)]
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in found if cls not in known]


# --- checking it -------------------------------------------------------------------------


def perturbed(thing: Any, rng: Random) -> Any:
    """With other parameters than the first, where a scale of 1 or a bias of 0 hides faults."""
    if isinstance(thing, Layer):
        for parameter in thing.parameters():
            parameter.value += 0.1 * rng.standard_normal(parameter.value.shape)
    return thing


def check(
    example: Example, rng: Random, fault: Fault | None = None, number: int | None = None
) -> Report:
    """Check one example, with a fault in dx or in the gradient of parameter `number`, if given."""
    thing, x = perturbed(example.make(rng), rng), example.x(rng)
    if isinstance(thing, Loss):
        assert example.target is not None
        wrong = FaultyLoss(thing, fault) if fault else thing
        return check_loss(wrong, x, example.target(rng), rng=rng)
    return check_layer(Faulty(thing, fault, number) if fault else thing, x, rng=rng)


def places(example: Example, rng: Random) -> list[tuple[int | None, np.ndarray]]:
    """Where a fault can sit, and the right gradient there: dx (None), or a parameter's number.

    Of a layer with many parameters the first two: the others belong to layers inside it.
    """
    thing, x = perturbed(example.make(rng), rng), example.x(rng)
    if isinstance(thing, Loss):
        assert example.target is not None
        thing.forward(x, example.target(rng))
        return [(None, thing.backward())]
    dx = thing.backward(rng.standard_normal(thing.forward(x).shape))
    found: list[tuple[int | None, np.ndarray]] = [] if dx is None else [(None, dx)]
    return found + [(k, parameter.grad) for k, parameter in enumerate(thing.parameters()[:2])]


def changes(fault: Fault, gradient: np.ndarray) -> bool:
    """Whether a fault is one here: transposing a vector, say, leaves it as it is."""
    return bool(np.abs(fault(gradient) - gradient).max() > 1e-6 * np.abs(gradient).max())


def check_mistake(example: Example, rng: Random, mistake: Mistake) -> Report | None:
    """Check an example of a layer with a mistake; None where it is none, for this example.

    So it is with filters that are not turned, if they are 1x1.
    """
    thing, x = perturbed(example.make(rng), rng), example.x(rng)
    dy, outcomes = rng.standard_normal(thing.forward(x).shape), []
    wrong = Miswritten(thing, mistake)
    for layer in (thing, wrong):
        layer.zero_grad()
        layer.reseed(0)
        layer.forward(x)
        dx = layer.backward(dy)
        gradients = [parameter.grad for parameter in thing.parameters()]
        outcomes.append([array.copy() for array in (dx, *gradients) if array is not None])
    if all(np.allclose(a, b, rtol=1e-6, atol=1e-12) for a, b in zip(*outcomes)):
        return None
    return check_layer(wrong, x, rng=rng)


def check_whole(model: Model, rng: Random, fault: Fault | None = None) -> Report:
    """Check a model, with a fault in the gradient of its first weights, if given.

    Where most slopes of an array lie on kinks, nothing has been shown: other numbers are drawn.
    """
    options: dict[str, Any] = {"sample": model.sample} if fault else {}
    for _ in range(DRAWS):
        network = perturbed(model.make(rng), rng)
        if fault:
            network.layers[0] = Faulty(network.layers[0], fault, 0)
        x, target = model.x(rng), model.target(rng)
        report = check_model(network, model.loss, x, target, rng=rng, **options)
        if all(row.checked >= row.kinks for row in report.rows):
            break
    return report


@dataclass
class Tally:
    """What the checks of one class or model found."""

    kind: str
    checked: int = 0
    kinks: int = 0
    worst: float = 0.0
    passed: bool = True
    planted: int = 0
    refused: int = 0
    least: dict[str, float] = field(default_factory=dict)  # fault: the smallest error it made

    def right(self, report: Report) -> None:
        self.checked += sum(row.checked for row in report.rows)
        self.kinks += sum(row.kinks for row in report.rows)
        self.worst = max(self.worst, report.worst)
        self.passed &= report.passed

    def wrong(self, fault: str, report: Report) -> None:
        self.planted += 1
        self.refused += not report.passed
        self.least[fault] = min(self.least.get(fault, math.inf), report.worst)


def account(run: Run, sections: Iterable[int]) -> Result:
    """Check all of these sections, right and with every fault, and say what was found.

    The budget gives `seeds`, how often each is checked with other random numbers.
    Raises RuntimeError where a class has no check.
    """
    sections = list(sections)
    if missing := without_check(sections):
        raise RuntimeError(f"no gradient check for {', '.join(missing)}: add it to EXAMPLES")
    run.note_data("random", "random numbers in float64")
    files = list(tables(sections))
    found = [cls for section in sections for cls in classes(section)]
    examples = {cls: file.EXAMPLES[cls] for cls in found for file in files if cls in file.EXAMPLES}
    models = {name: model for file in files for name, model in file.MODELS.items()}
    mistakes = {name: entry for file in files for name, entry in file.MISTAKES.items()}
    tallies: dict[str, Tally] = {}
    faults = {name: Tally("fault") for name in (*FAULTS, *mistakes)}
    with run.progress(run.budget.seeds * (len(examples) + len(models))) as bar:
        for seed in range(run.budget.seeds):
            for cls, cases in examples.items():
                kind = "loss" if issubclass(cls, Loss) else "layer"
                tally = tallies.setdefault(cls.__name__, Tally(kind))
                for case in cases:
                    tally.right(check(case, run.rng(seed)))
                    for number, gradient in places(case, run.rng(seed)):
                        for name, fault in FAULTS.items():
                            if changes(fault, gradient):
                                report = check(case, run.rng(seed), fault, number)
                                tally.wrong(name, report)
                                faults[name].wrong(name, report)
                    for name, (layers, mistake) in mistakes.items():
                        if not issubclass(cls, layers):
                            continue
                        if found_wrong := check_mistake(case, run.rng(seed), mistake):
                            tally.wrong(name, found_wrong)
                            faults[name].wrong(name, found_wrong)
                bar.advance(cls.__name__)
            for title, model in models.items():
                tally = tallies.setdefault(title, Tally("whole model"))
                tally.right(check_whole(model, run.rng(seed)))
                for name, fault in FAULTS.items():
                    report = check_whole(model, run.rng(seed), fault)
                    tally.wrong(name, report)
                    faults[name].wrong(name, report)
                bar.advance(title)

    worst = max(tallies, key=lambda name: tallies[name].worst)
    planted, refused = (
        sum(getattr(t, key) for t in faults.values()) for key in ("planted", "refused")
    )
    checked, kinks = (
        sum(getattr(t, key) for t in tallies.values()) for key in ("checked", "kinks")
    )
    passed = sum(tally.passed for tally in tallies.values())
    least = min(min(tally.least.values(), default=math.inf) for tally in faults.values())
    metrics = {
        "worst_error": tallies[worst].worst, "passed": passed, "checks": len(tallies),
        "numbers_checked": checked, "kinks": kinks, "faults_planted": planted,
        "faults_refused": refused, "least_fault_error": least,
    }  # fmt: skip
    where = " and ".join(str(section) for section in sections)
    answer = (
        f"{passed} of the {len(tallies)} layers, losses and whole models of section"
        f"{'s' if sections[1:] else ''} {where} pass: the worst relative error of {checked:,} "
        f"slopes is {tallies[worst].worst:.0e} ({worst}; at most {TOLERANCE:.0e} is allowed), and "
        f"{kinks} that lie on kinks were set aside. {refused} of {planted} planted faults were "
        f"refused, the smallest of which made an error of {least:.0e}."
    )
    columns = ["what", "kind", "slopes checked", "kinks set aside", "worst error", "passed",
               "faults planted", "faults refused"]  # fmt: skip
    rows = [
        [name, t.kind, t.checked, t.kinks, t.worst, t.passed, t.planted, t.refused]
        for name, t in tallies.items()
    ]
    fault_rows = [
        [name, t.planted, t.refused, t.least.get(name, math.nan)] for name, t in faults.items()
    ]
    errors = [[t.least.get(name, math.nan) for name in faults] for t in tallies.values()]
    tables_ = {
        "checks": Table(columns, rows),
        "faults": Table(["fault", "planted", "refused", "smallest error"], fault_rows),
    }
    arrays = {"fault_errors": np.array(errors)}  # (checks, faults), NaN where none was planted
    return Result(answer, "worst_error", metrics, {}, tables_, arrays)


def draw_account(result: Result) -> Figure:
    """The worst error of everything that is right, and the smallest of each fault in it."""
    rows, metrics = result.tables["checks"].rows, result.metrics
    figure, axes = plots.grid(width=8, height=1.2 + 0.21 * len(rows))
    place, height = axes[0, 0], range(len(rows))
    right = [max(row[4], LEAST) for row in rows]
    place.plot(right, height, "o", color="C0", ms=7, label="worst error of the right gradient")
    wrong = {"color": "C1", "ms": 6, "mew": 1.5, "alpha": 0.7}
    for number, errors in enumerate(result.arrays["fault_errors"].T):
        label = "smallest error of each planted fault" if number == 0 else None
        place.plot(errors, height, "x", label=label, **wrong)
    place.axvline(TOLERANCE, color="black", ls="--", lw=1.2, label=f"limit: {TOLERANCE:.0e}")
    place.set_yticks(height, [row[0] for row in rows])
    place.set(
        xscale="log", xlim=(LEAST / 3, 10), xlabel=f"relative error ({LEAST:.0e} stands for 0)"
    )
    place.set_ylim(len(rows) - 0.3, -0.7)
    figure.legend(*place.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Right gradients agree to {metrics['worst_error']:.0e} or better; "
        f"{metrics['faults_refused']:.0f} of {metrics['faults_planted']:.0f} planted faults are "
        f"refused, errors from {metrics['least_fault_error']:.0e}"
    )
    return figure
