"""Plots for people: one look, one place that saves them.

Figures are made directly, not through pyplot: no window system is needed, and a figure
that nobody holds any more is gone. A figure's title (`figure.suptitle`) states what was
found; the data and settings that it rests on are put under it when it is saved.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.animation import Animation
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from utils.experiments.results import Curve, write_files

# Okabe and Ito (2008): told apart by readers with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
TICKS: dict[str, Any] = {"epoch": {"integer": True}, "step": {"nbins": 6}}  # steps are long
MARKERS = "osD^vPX*"
DPI, PRINT_DPI = 110, 200  # dots an inch; of pictures inside a figure that is printed
GIF_DPI, GIF_FRAME, GIF_PAUSE = 80, 130, 2000  # dots an inch; milliseconds


def style() -> AbstractContextManager:
    """The settings under which figures are made: `with style(): ...`."""
    return matplotlib.rc_context(
        {
            "axes.prop_cycle": cycler(color=COLOURS),
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
    if axes.get_xscale() == "linear" and curve.x_label in TICKS:
        axes.xaxis.get_major_locator().set_params(**TICKS[curve.x_label])


def show_runs(axes: Axes, runs: np.ndarray, names: Sequence[str]) -> None:
    """Repeated measurements (arms, n): every run as a dot, and mean ± standard deviation."""
    for place, values in enumerate(runs):
        mean, std = values.mean(), values.std(ddof=1) if len(values) > 1 else 0
        dots: dict[str, Any] = {"alpha": 0.5, "ms": 4, "color": f"C{place}"}
        axes.plot([place - 0.15] * len(values), values, "o", label="one run each", **dots)
        axes.errorbar(place, mean, std, fmt="D", capsize=5, ms=6, color=f"C{place}")
        axes.annotate(
            f"{mean:.2f} ± {std:.2f}" if len(values) > 1 else f"{mean:.2f}",
            (place, max(mean + std, values.max())), (0, 6), textcoords="offset points", ha="center",
            fontsize="small",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.12)
    axes.set_xlabel(
        f"dots: single runs; diamonds: mean ± one standard deviation (n = {runs.shape[1]})"
    )


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


def save(picture: Figure | Animation, place: Path, subtitle: str) -> Path:
    """Write a figure as `place`.png or an animation as `place`.gif; returns that path.

    The title is wrapped to the width of the figure, and `subtitle` stands under it. For print
    the figure, or the last frame of the animation, is also written as `place`.pdf.
    """
    files: dict[Path, Callable[[BinaryIO], object]] = {}
    if isinstance(picture, Animation):
        path, content = place.with_name(f"{place.name}.gif"), gif(picture, subtitle)
        files[path] = lambda file: file.write(content)
        figure: Figure = picture._fig  # type: ignore[attr-defined]
    else:
        path, figure = place.with_name(f"{place.name}.png"), picture
        title = {"Title": figure.get_suptitle()}
        entitle(figure, subtitle)
        files[path] = lambda file: figure.savefig(file, format="png", dpi=DPI, metadata=title)
    undated: dict[str, Any] = {"CreationDate": None}
    files[path.with_suffix(".pdf")] = lambda file: figure.savefig(
        file, format="pdf", dpi=PRINT_DPI, metadata=undated
    )
    write_files(files)
    return path


def gif(animation: Animation, subtitle: str) -> bytes:
    """All frames of an animation, again and again, with a pause on the last.

    Their colours are those of the last frame, so that only what moves takes space.
    """
    figure: Figure = animation._fig  # type: ignore[attr-defined]
    entitle(figure, subtitle)
    figure.set_dpi(GIF_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # everything stays where it is now
    frames = []
    for state in animation.new_frame_seq():
        animation._draw_frame(state)  # type: ignore[attr-defined]
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    colours = frames[-1].quantize(128, Image.Quantize.MAXCOVERAGE)
    first, *others = [f.quantize(palette=colours, dither=Image.Dither.NONE) for f in frames]
    content = io.BytesIO()
    times = [GIF_FRAME] * len(others) + [GIF_PAUSE]
    first.save(content, "gif", save_all=True, append_images=others, duration=times, loop=0)
    return content.getvalue()


def entitle(figure: Figure, subtitle: str) -> None:
    """Make the figure higher by a band that holds its title and, under it, `subtitle`."""
    width, height = figure.get_size_inches()
    words = figure.get_suptitle().replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    title = textwrap.fill(words, int(width * 9.2))
    small = textwrap.fill(subtitle, int(width * 15))
    title_height = 0.1 + 0.2 * (title.count("\n") + 1)  # inches
    band = title_height + 0.16 * (small.count("\n") + 1) + 0.06
    figure.suptitle("")
    figure.set_size_inches(width, height + band)
    total = height + band
    figure.set_layout_engine("constrained", rect=(0, 0, 1, height / total))
    figure.text(0.02, 1 - 0.08 / total, title, va="top", fontsize=12, fontweight="bold")
    figure.text(0.02, 1 - title_height / total, small, va="top", fontsize=8.5, color="#555555")
