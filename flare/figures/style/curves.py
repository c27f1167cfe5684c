"""Curves over rounds or uplink: the mean of a cell's finished runs with its band, and each diverged run to its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flare.analysis.statistics import FEWEST, shown_interval
from flare.figures.style.looks import cross


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
    """Mean test accuracy over the runs of a cell, over their mean x, as a line, with its t-interval as a band; of two
    runs, whose interval says nothing, the two as thin lines instead.

    rounds: rows of rounds.csv. x: one of its columns. order: the curve's place, which staggers the markers of
    curves that meet.
    """
    if rounds.empty:
        return
    found = shown_interval(rounds, ["round"], "test_accuracy", 1).sort_index()
    at = rounds.groupby(rounds["round"])[x].mean()
    # A marker about every tenth of the panel's diagonal: a logarithmic axis crowds the later points.
    ax.plot(at, 100 * found["mean"], markevery=(0.02 * (order % 5), 0.1), **look)
    if found["n"].max() >= FEWEST:
        ax.fill_between(at, 100 * found["low"], 100 * found["high"], color=look["color"], alpha=0.18, linewidth=0)
    elif found["n"].max() > 1:
        for _, run in rounds.groupby("seed"):
            thin = {"color": look["color"], "alpha": 0.45, "linewidth": 0.6, "linestyle": (0, (4, 1))}
            ax.plot(run[x], 100 * run["test_accuracy"], **thin)


def lost(ax: Axes, x: Iterable[float], y: Iterable[float], end: float, color: str) -> None:
    """A diverged run: its points (y in 0..1) as a thin line to a cross at x = end; at the bottom where it has none."""
    points = [(at, 100 * value) for at, value in zip(x, y, strict=True)]
    if points:
        ax.plot(*zip(*points, (end, points[-1][1]), strict=True), ":", color=color, linewidth=0.8)
        ax.plot(end, points[-1][1], **cross(color))
    else:
        ax.plot(end, 0.04, transform=ax.get_xaxis_transform(), **cross(color))
