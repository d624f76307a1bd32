"""Is every gradient of the CNN layers right, and would the check notice the mistakes people make?

Each layer of this section, and some small networks, are held against centred differences in
float64, as in section 2; then faults are planted, among them mistakes that only convolutions
and pools allow: filters that are not turned for dx, `=` where windows overlap and `+=` is
needed, a border that is not cut off. In some geometry each of these is no mistake at all, so
the second figure asks in which geometries they would have shown.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from section2.experiments._account import account, check_mistake, draw_account
from section3.conv import Conv2D
from section3.experiments._checks import CONVOLUTIONS, MISTAKES, POOLS
from section3.pooling import MaxPool2D
from utils.experiments.results import Result, Table
from utils.experiments.run import Run
from utils.output import plots

FAMILIES = {  # what mistakes are tried on: its name, its class, its geometries
    "convolution": (Conv2D, CONVOLUTIONS),
    "max-pool": (MaxPool2D, POOLS),
}


def compute(run: Run) -> Result:
    result = account(run, [3])
    rows: list[list] = []
    for family, (cls, geometries) in FAMILIES.items():
        for name, (layers, mistake) in MISTAKES.items():
            if cls not in layers:
                continue
            for geometry, example in geometries.items():
                seeds = range(run.budget.seeds)
                reports = [check_mistake(example, run.rng(seed), mistake) for seed in seeds]
                seen = [report for report in reports if report is not None]
                error = min((report.worst for report in seen), default=0.0)
                refused = bool(seen) and not any(report.passed for report in seen)
                rows.append([family, name, geometry, bool(seen), refused, error])
    columns = ["layer", "mistake", "geometry", "changes a gradient", "refused", "error"]
    result.tables["geometries"] = Table([*columns[:-1], "smallest error"], rows)
    shown = dict.fromkeys(CONVOLUTIONS, 0)
    for row in rows:
        if row[0] == "convolution":
            shown[row[2]] += row[3]
    total = sum(Conv2D in layers for layers, _ in MISTAKES.values())
    hidden = [row for row in rows if not row[3]]
    most, least = (choose(shown, key=lambda name: shown[name]) for choose in (max, min))
    result.metrics |= {
        "mistakes_of_convolutions": total,
        "shown_at_best": shown[most],
        "shown_at_worst": shown[least],
        "cases_hidden": len(hidden),
        "cases": len(rows),
    }
    result.answer += (
        f" Geometry decides what can be seen: of the {total} mistakes that only convolutions "
        f"allow, “{least}” shows {shown[least]} and “{most}” {shown[most]}; in {len(hidden)} of "
        f"{len(rows)} cases a mistake changes no gradient."
    )
    return result


def draw(result: Result) -> dict[str, Figure]:
    rows, metrics = result.tables["geometries"].rows, result.metrics
    widths = {"width_ratios": [len({r[1] for r in rows if r[0] == name}) for name in FAMILIES]}
    figure, axes = plots.grid(1, 2, width=4.4, height=4.0, gridspec_kw=widths)
    for place, family in zip(axes[0], FAMILIES):
        show_family(place, [row[1:] for row in rows if row[0] == family])
        place.set_title(family)
    axes[0, 0].set(ylabel="geometry", xlabel="mistake in the backward pass")
    axes[0, 1].set_xlabel("mistake")
    figure.suptitle(
        f"In {metrics['cases_hidden']:.0f} of {metrics['cases']:.0f} cases a mistake changes no "
        f"gradient; a geometry shows {metrics['shown_at_worst']:.0f} to "
        f"{metrics['shown_at_best']:.0f} of the {metrics['mistakes_of_convolutions']:.0f} "
        "mistakes in a convolution"
    )
    return {"checks": draw_account(result), "geometries": figure}


def show_family(axes: Axes, rows: list[list]) -> None:
    """A cell for each (mistake, geometry, changes, refused, error): what the check said."""
    mistakes, geometries = (list(dict.fromkeys(column)) for column in list(zip(*rows))[:2])
    cells = np.zeros((len(geometries), len(mistakes)))
    for mistake, geometry, changes, refused, error in rows:
        spot = mistakes.index(mistake), geometries.index(geometry)
        cells[spot[::-1]] = changes
        text = f"refused,\nerror {error:.1g}" if refused else "PASSED" if changes else "no effect"
        axes.text(*spot, text, ha="center", va="center", color="black", fontsize="small")
    axes.imshow(cells, cmap="Blues", vmin=0, vmax=2.5, aspect="auto")
    axes.set_xticks(
        range(len(mistakes)), [name.replace(" ", "\n", 1).replace("=\n", "= ") for name in mistakes]
    )
    axes.set_yticks(range(len(geometries)), [name.replace(", ", ",\n") for name in geometries])
    axes.tick_params(labelsize="small")
    for edge in range(1, len(geometries)):
        axes.axhline(edge - 0.5, color="white", lw=2)
    for edge in range(1, len(mistakes)):
        axes.axvline(edge - 0.5, color="white", lw=2)
    axes.grid(False)
