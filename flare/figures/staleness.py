"""Staleness of what clients keep, by communication round: the 50th, 90th and 99th percentile, over all coordinates of
all clients, of the rounds since a client last sent a coordinate; below it, the norm of the memory. Means over seeds.

The steepest possible rise, one round per round, is a coordinate that is never sent. A memory whose norm keeps growing
is not being emptied. Of experiments with `staleness: true`; dense runs, which keep nothing, are left out.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare.figures import _style
from flare.tables import statistics

NEEDS = ("staleness",)
_PERCENTILES = {"p50": ":", "p90": (0, (4, 1.5)), "p99": "-"}


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """A column of two panels per keep (and local_epochs): percentiles above, memory norm below."""
    runs = tables["runs"]
    looks = _style.methods(runs)
    columns = [(epochs, keep) for epochs in sorted(set(runs["local_epochs"])) for keep in _style.keeps(runs)]
    rows = _style.wrap(max(len(columns), 1))
    height = min(1.5, 8.0 / (2 * len(rows)))
    size = (_style.WIDTHS[max(rows) > 1], 2 * len(rows) * height + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(2 * len(rows), max(rows), sharex=True, squeeze=False)
    uppers, lowers = (grid[half::2].ravel() for half in (0, 1))
    for place, (above, below) in enumerate(zip(uppers, lowers, strict=True)):
        above.sharey(uppers[0])
        below.sharey(lowers[0])
        if place % max(rows) == 0:
            above.set_ylabel("staleness\n(rounds)")
            below.set_ylabel("norm of\nthe memory")
        else:
            above.tick_params(labelleft=False)
            below.tick_params(labelleft=False)
        if place >= len(columns) and place:
            above.remove()
            below.remove()
    figure.supxlabel("communication round", fontsize=8)
    methods = {}
    for (epochs, keep), above, below in zip(columns, uppers, lowers, strict=False):
        above.set_title(f"keep = {keep}" + (f", E = {epochs}" if len({e for e, _ in columns}) > 1 else ""))
        for cell in _style.cells(tables, epochs):
            if cell.keep != keep or cell.finished.empty:
                continue
            look = looks[cell.method]
            methods[look["label"]] = _style.handle(**{**look, "linestyle": "-"})
            for percentile, dashes in _PERCENTILES.items():
                mean = statistics(cell.finished, ["round"], f"staleness_{percentile}")["mean"].sort_index()
                above.plot(mean, color=look["color"], linestyle=dashes)
            norm = statistics(cell.finished, ["round"], "memory_norm").sort_index().dropna(subset="mean")
            if norm.empty:  # the method has no memory of what it has not sent
                continue
            below.plot(norm["mean"], **{**look, "linestyle": "-", "markevery": 0.2})
            below.fill_between(norm.index, norm["low"], norm["high"], color=look["color"], alpha=0.18, linewidth=0)
    uppers[0].set_ylim(bottom=0)
    lowers[0].set_ylim(bottom=0)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    kinds = [
        _style.handle(label=f"{name[1:]}th percentile", color="#404040", linestyle=dashes)
        for name, dashes in _PERCENTILES.items()
    ]
    return _style.finish(figure, [list(methods.values()), kinds], runs)
