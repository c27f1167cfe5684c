"""What all figures share: one look per method for the whole paper, column widths, panels, the legend.

Figures are matplotlib `Figure`s without pyplot, so drawing one needs no display, chooses no backend and keeps no state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from flare import algorithms
from flare.analysis.tables import fraction, statistics

# One and one and a half columns, inches.
WIDTHS = (3.5, 5.5)

_RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "axes.unicode_minus": False,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same on every machine
    "font.size": 8,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.5,
    "legend.columnspacing": 1.0,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.3,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.2,
    "lines.markeredgewidth": 0.8,
    "lines.markersize": 3.5,
    "path.simplify": False,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "savefig.dpi": 300,
    "xtick.labelsize": 7,
    "xtick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.6,
}

# Colours of seaborn's palette "colorblind"; marker and dashes tell the methods apart without them.
_KNOWN: dict[str, tuple[str, str, str, Any]] = {
    "fedavg": ("FedAvg", "#404040", "s", (0, (5, 1.5))),
    "topk": ("Top-K", "#0173B2", "^", (0, (4, 1, 1, 1))),
    "flare": ("FLARE", "#D55E00", "o", "-"),
    "fedprox": ("FedProx", "#029E73", "D", (0, (2, 1))),
    "ef21": ("EF21", "#CC78BC", "v", (0, (6, 1, 1, 1, 1, 1))),
    "ffl": ("FFL", "#DE8F05", "P", (0, (1, 1))),
}
_COLOURS = ("#56B4E9", "#CA9161", "#949494", "#FBAFE4", "#ECE133")
_MARKERS = ("X", "<", ">", "p", "h", "*", "d")
_DASHES: tuple[Any, ...] = ((0, (3, 1)), (0, (3, 1, 1, 1)), (0, (1.5, 1)), (0, (8, 2)), (0, (8, 2, 2, 2)))

# Line styles of the fractions sent, where a figure's colours are the methods.
_KEEP_DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (4, 1, 1, 1)),
    (0, (1, 1)),
    (0, (7, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
)


@contextmanager
def paper() -> Iterator[None]:
    """The settings of every figure, as a context or as the decorator of `draw`."""
    with rc_context(_RC):
        yield


def methods(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Per method of the frame, in its order: label, color, marker and linestyle for matplotlib.

    A method without a look of its own gets one by its place among all such methods, sorted by name: those of the folder
    of methods and of this frame. So it looks the same in all experiments.
    """
    present = list(dict.fromkeys(frame["method"]))
    unknown = sorted({*algorithms.names(), *present} - set(_KNOWN))
    out = {}
    for method in present:
        look = _KNOWN.get(method)
        if look is None:
            place = unknown.index(method)
            look = (method, *(all_[place % len(all_)] for all_ in (_COLOURS, _MARKERS, _DASHES)))
        out[method] = dict(zip(("label", "color", "marker", "linestyle"), look, strict=True))
    return out


def hollow(look: dict[str, Any], keep: str) -> dict[str, Any]:
    """The look of a method at a keep: a run that sends everything has hollow markers."""
    return {**look, "label": f"{look['label']} (dense)", "markerfacecolor": "white"} if keep == "dense" else look


def keeps(frame: pd.DataFrame) -> list[str]:
    """The fractions sent, descending, without "dense"."""
    return sorted(set(frame["keep"]) - {"dense"}, key=fraction, reverse=True)


def keep_dashes(frame: pd.DataFrame) -> dict[str, Any]:
    """A line style per fraction sent; "dense" and the largest fraction have a whole line."""
    return {"dense": "-"} | {keep: _KEEP_DASHES[i % len(_KEEP_DASHES)] for i, keep in enumerate(keeps(frame))}


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


@dataclass(frozen=True)
class Cell:
    """The runs of one method at one keep and local_epochs: rows of runs.csv, and of rounds.csv, by their end."""

    method: str
    keep: str
    finished: pd.DataFrame
    diverged: list[tuple[pd.Series[Any], pd.DataFrame]]


def cells(tables: dict[str, pd.DataFrame], local_epochs: int) -> Iterator[Cell]:
    """All cells of that local_epochs, methods in order."""
    runs, rounds = (table[table["local_epochs"] == local_epochs] for table in (tables["runs"], tables["rounds"]))
    rounds = rounds.dropna(subset="test_accuracy")
    own_rounds = dict(iter(rounds.groupby(["method", "keep"])))
    for (method, keep), cell in runs.groupby(["method", "keep"], sort=False):
        own = own_rounds.get((method, keep), rounds.iloc[:0])
        done = cell["status"] == "finished"
        yield Cell(
            str(method),
            str(keep),
            own[own["seed"].isin(cell.loc[done, "seed"])],
            [(run, own[own["seed"] == run["seed"]]) for _, run in cell[~done].iterrows()],
        )


def curve(ax: Axes, rounds: pd.DataFrame, x: str, *, order: int, **look: Any) -> None:
    """Mean test accuracy over the runs of a cell, over their mean x, as a line, with its 95 % interval as a band.

    rounds: rows of rounds.csv. x: one of its columns. order: the curve's place, which staggers the markers of
    curves that meet.
    """
    if rounds.empty:
        return
    found = statistics(rounds, ["round"], "test_accuracy").sort_index()
    at = rounds.groupby(rounds["round"])[x].mean()
    # A marker about every tenth of the panel's diagonal: a logarithmic axis crowds the later points.
    ax.plot(at, 100 * found["mean"], markevery=(0.02 * (order % 5), 0.1), **look)
    ax.fill_between(at, 100 * found["low"], 100 * found["high"], color=look["color"], alpha=0.18, linewidth=0)


def lost(ax: Axes, x: Iterable[float], y: Iterable[float], end: float, color: str) -> None:
    """A diverged run: its points (y in 0..1) as a thin line to a cross at x = end; at the bottom where it has none."""
    points = [(at, 100 * value) for at, value in zip(x, y, strict=True)]
    if points:
        ax.plot(*zip(*points, (end, points[-1][1]), strict=True), ":", color=color, linewidth=0.8)
        ax.plot(end, points[-1][1], **cross(color))
    else:
        ax.plot(end, 0.04, transform=ax.get_xaxis_transform(), **cross(color))


def cross(color: str) -> dict[str, Any]:
    """The mark of a diverged run."""
    return {
        "color": color,
        "marker": "x",
        "markersize": 5,
        "markeredgewidth": 1.3,
        "linestyle": "none",
        "clip_on": False,
    }


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


def handle(**look: Any) -> Line2D:
    """A legend's entry."""
    return Line2D([], [], **look)


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
