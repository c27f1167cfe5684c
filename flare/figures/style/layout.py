"""A figure's layout: as wide as a column or one and a half, panels in rows, the legend below them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from flare.figures.style.looks import cross, handle

# One and one and a half columns, inches.
WIDTHS = (3.5, 5.5)


def wrap(count: int) -> list[int]:
    """How many panels each row has: one row of at most three, two rows of two, else rows of three."""
    columns = count if count <= 3 else 2 if count == 4 else 3
    return [min(columns, count - start) for start in range(0, count, columns)]


def panels(
    rows: Sequence[int],
    *,
    height: float,
    x: str,
    y: str | Sequence[str],
    wide: bool = False,
    share_x: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure with `rows[i]` axes in row i; `height` of one row in inches, labels x and y.

    All share x, if `share_x`, and y too; where y are several labels, the rows take them in turn and those of one label
    share y. One column of panels is as wide as a column of text; more, or a `wide` one, are as wide as one and a half.
    """
    columns, labels = max(rows), [y] if isinstance(y, str) else y
    figure = Figure(figsize=(WIDTHS[wide or columns > 1], height * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), columns, sharex=share_x, sharey="row", squeeze=False)
    for row, count in enumerate(rows):
        grid[row, 0].set_ylabel(labels[row % len(labels)])
        if row >= len(labels):
            grid[row, 0].sharey(grid[row % len(labels), 0])
        for column, ax in enumerate(grid[row]):
            if column >= count:
                ax.remove()
            elif all(column >= below for below in rows[row + 1 :]):
                ax.set_xlabel(x)
                ax.tick_params(labelbottom=True)
    return figure, [ax for row, count in enumerate(rows) for ax in grid[row, :count]]


def percent(axes: Sequence[Axes]) -> None:
    """Cut the shared axis of percentages at 0 and 100: an interval may reach beyond, an accuracy does not."""
    low, high = axes[0].get_ylim()
    drawn = any(math.isfinite(ax.dataLim.y0) for ax in axes)
    axes[0].set_ylim((max(low, 0), min(high, 100)) if drawn else (0, 100))


def logarithmic(ax: Axes) -> None:
    """A logarithmic x axis with plain numbers; the exponents of 10 to a power would be smaller than 7 pt."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    if high < 30 * low:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def finish(figure: Figure, groups: Iterable[Sequence[Line2D]], runs: pd.DataFrame) -> Figure:
    """Put the legend below the panels, each group of entries from a new row on, in as many columns as fit; and settle.

    An entry for diverged runs is added where there are any.
    """
    entries = [list(group) for group in groups if group]
    if (runs["status"] == "diverged").any():
        entries[0].append(handle(label="diverged run", **cross("#404040")))
    renderer = FigureCanvasAgg(figure).get_renderer()
    for columns in range(max(map(len, entries), default=0), 0, -1):
        rows = [group[start : start + columns] for group in entries for start in range(0, len(group), columns)]
        padded = [[*row, *(handle(label=" ", linestyle="none") for _ in range(columns - len(row)))] for row in rows]
        # A legend is filled column by column.
        legend = figure.legend(
            handles=[row[column] for column in range(columns) for row in padded],
            loc="outside lower center",
            ncols=columns,
        )
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            break
        legend.remove()
    # Ticks are made when they are first drawn, with the settings of that moment: now.
    figure.draw_without_rendering()
    return figure
