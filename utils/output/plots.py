"""Plots for people: one look, one place that saves them.

Figures are made directly, not through pyplot: no window system is needed, and a figure
that nobody holds any more is gone. A figure's title (`figure.suptitle`) states what was
found; the data and settings that it rests on are put under it when it is saved.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.experiments.results import Curve, write_files

# Okabe and Ito (2008): told apart by readers with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
MARKERS = "osD^vPX*"
DPI = 130


def style() -> AbstractContextManager:
    """The settings under which figures are made: `with style(): ...`."""
    return matplotlib.rc_context(
        {
            "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "font.size": 10,
            "legend.frameon": False,
            "legend.fontsize": "small",
            "lines.linewidth": 1.8,
            "image.cmap": "viridis",
        }
    )


def grid(
    rows: int = 1, columns: int = 1, *, width: float = 4.6, height: float = 3.6, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns), each `width` x `height` inches."""
    figure = Figure(figsize=(max(width * columns, 5.0), height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def plot_curve(axes: Axes, curve: Curve, label: str, **options: Any) -> None:
    """A curve with the band of one standard deviation around it, and the axes' labels."""
    (line,) = axes.plot(curve.x, curve.y, label=label, **options)
    if curve.std is not None:
        y, std = np.asarray(curve.y), np.asarray(curve.std)
        axes.fill_between(curve.x, y - std, y + std, color=line.get_color(), alpha=0.2, lw=0)
    axes.set(xlabel=curve.x_label, ylabel=curve.y_label)


def show_images(axes: Sequence[Axes], images: np.ndarray, titles: Sequence[str]) -> None:
    """Images (N, H, W, 1 or 3) in [0, 1], each on axes of its own without ticks."""
    for place, image, title in zip(axes, images, titles):
        place.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
        place.set_title(title, fontsize="small")
    for place in axes:
        place.axis("off")


def show_confusion(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    """A confusion matrix (K, K): counts by true class (rows) and predicted class (columns)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    turn = 90 if max(map(len, classes)) > 2 else 0
    axes.set_xticks(range(len(classes)), classes, rotation=turn)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(False)


def save(figure: Figure, path: Path, subtitle: str) -> None:
    """Write a figure as PNG, its title wrapped to its width and `subtitle` under it."""
    width, height = figure.get_size_inches()
    title = textwrap.fill(figure.get_suptitle(), int(width * 11))
    small = textwrap.fill(subtitle, int(width * 15))
    title_height = 0.1 + 0.2 * (title.count("\n") + 1)  # inches
    band = title_height + 0.16 * (small.count("\n") + 1) + 0.06
    figure.suptitle("")
    figure.set_size_inches(width, height + band)
    total = height + band
    figure.set_layout_engine("constrained", rect=(0, 0, 1, height / total))
    figure.text(0.02, 1 - 0.08 / total, title, va="top", fontsize=12, fontweight="bold")
    figure.text(0.02, 1 - title_height / total, small, va="top", fontsize=8.5, color="#555555")
    write_files({path: lambda file: figure.savefig(file, format="png", dpi=DPI)})
