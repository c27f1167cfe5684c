"""Staleness, the rounds since a client last sent a coordinate, by communication round: its mean, 50th and 99th
percentile over all coordinates of all clients, as means over seeds; below it, the norm of the memory, what clients
have yet to send, with its {level} t-interval.

A percentile that rises by one a round says that the rest was never sent; nothing rises faster. A memory whose norm
keeps growing is not being emptied. Only finished runs; dense ones, which send everything, are left out, and so is the
memory of a method that has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare.analysis.statistics import FEWEST, shown_interval
from flare.errors import DataError
from flare.figures.style import curves, layout, looks

TABLES = ("runs", "rounds")

_PAGE = 9.0
_KINDS = {"mean": ("-", "mean"), "p99": ((0, (4, 1.5)), "99th percentile"), "p50": ((0, (1, 1.2)), "50th percentile")}


def needs(experiments: Mapping[str, Any], name: str) -> bool:
    """Staleness is measured."""
    return bool(experiments[name].get("staleness"))


def possible(tables: dict[str, pd.DataFrame]) -> bool:
    """The same, in the tables."""
    rounds = tables["rounds"]
    return "staleness_mean" in rounds and bool(rounds["staleness_mean"].notna().any())


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Two panels, staleness above memory, per cell: local_epochs from top to bottom, keep from the largest on."""
    runs = tables["runs"]
    if "staleness_mean" not in tables["rounds"]:
        experiment = runs["experiment"].iloc[0]
        raise DataError(f"rounds.csv: no column staleness_mean; {experiment} was run without staleness: true")
    look_of = looks.methods(runs)
    keeps = looks.keeps(runs) or ["dense"]
    epochs = sorted(set(runs["local_epochs"]))
    pairs = layout.wrap(len(keeps)) * len(epochs)
    figure, axes = layout.panels(
        [count for count in pairs for _ in range(2)],
        height=max(0.7, min(1.3, (_PAGE - 0.4) / (2 * len(pairs)))),
        x="communication round",
        y=("staleness\n(rounds)", "memory\nnorm"),
    )
    uppers: list[Axes] = []
    lowers: list[Axes] = []
    rest = iter(axes)
    for count in pairs:
        uppers += itertools.islice(rest, count)
        lowers += itertools.islice(rest, count)
    legend = {}
    places = iter(zip(uppers, lowers, strict=True))
    for local_epochs in epochs:
        cells = [cell for cell in curves.cells(tables, local_epochs) if len(cell.finished)]
        for keep in keeps:
            above, below = next(places)
            above.set_title(f"keep = {keep}" + (f", E = {local_epochs}" if len(epochs) > 1 else ""))
            for order, cell in enumerate(cell for cell in cells if cell.keep == keep != "dense"):
                # Curves often meet where nothing was sent yet: staggered markers show whose they are.
                look = {**look_of[cell.method], "linestyle": "-", "markevery": (0.05 * (order % 5), 0.25)}
                legend[look["label"]] = looks.handle(**{**look, "markevery": None})
                _draw_cell(above, below, cell.finished, look)
            for ax in (above, below):
                if not ax.lines:
                    ax.text(0.5, 0.5, "nothing to show", fontsize=7, ha="center", va="center", transform=ax.transAxes)
    for ax in (uppers[0], lowers[0]):
        ax.set_ylim(bottom=0)
    axes[0].xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    kinds = [looks.handle(label=name, color="#404040", linestyle=dashes) for dashes, name in _KINDS.values()]
    return layout.finish(figure, [list(legend.values()), kinds], runs[runs["status"] == "finished"])


def _draw_cell(above: Axes, below: Axes, rounds: pd.DataFrame, look: dict[str, Any]) -> None:
    """The staleness of a method at a keep, and the norm of its memory, if it has one."""
    for kind, (dashes, _) in _KINDS.items():
        above.plot(rounds.groupby("round")[f"staleness_{kind}"].mean(), **{**look, "linestyle": dashes})
    norm = shown_interval(rounds.dropna(subset="memory_norm"), ["round"], "memory_norm").sort_index()
    if len(norm):
        below.plot(norm["mean"], **look)
    if len(norm) and norm["n"].max() >= FEWEST:
        below.fill_between(norm.index, norm["low"], norm["high"], color=look["color"], alpha=0.18, linewidth=0)
