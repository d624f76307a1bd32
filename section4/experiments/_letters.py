"""Texts in figures, letter by letter in colours: what is right, what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

RIGHT, WRONG, GIVEN = "C2", "C1", "black"  # colours: wrong ones are also underlined
SIGNS = str.maketrans("\n\t", "⏎→")
SIZE, WIDTH = 9, 0.602 * 9  # points: of the letters, and from one to the next in DejaVu Sans Mono


def letters_at_most(inches: float) -> int:
    """How many letters stand side by side on so many inches."""
    return int(inches * 72 / WIDTH)


def write_letters(axes: Axes, lines: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Lines of (text, colour), from top to bottom, in letters of one width; ⏎ ends a line, → is a
    tab. What has the colour of WRONG is underlined.
    """
    axes.axis("off")
    for row, line in enumerate(lines):
        place = 0
        for text, colour in line:
            at = (place * WIDTH, -(row + 1) * 1.5 * SIZE)
            axes.annotate(
                text.translate(SIGNS), (0, 1), at, xycoords="axes fraction",
                textcoords="offset points", family="monospace", size=SIZE, color=colour,
                parse_math=False,
            )  # fmt: skip
            if colour == WRONG:
                under = "_" * len(text)
                axes.annotate(
                    under, (0, 1), (at[0], at[1] - 1), xycoords="axes fraction",
                    textcoords="offset points", family="monospace", size=SIZE, color=colour,
                )  # fmt: skip
            place += len(text)
