"""Staleness, the rounds since a client last sent a coordinate, by communication round: its 50th, 90th and 99th percentile
over all coordinates of all clients, as means over seeds; and below, the norm of what clients keep, their memory, with its
95 % t-interval.

One round per round is the steepest rise: that share of the coordinates was never sent. A memory whose norm keeps growing
is not being emptied. Of experiments with `staleness: true`, finished runs; dense runs, which keep nothing, are left out.
"""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare.figures import _style
from flare.tables import statistics

NEEDS = ("staleness",)

_PAGE = 9.0
_PERCENTILES = {99: "-", 90: (0, (4, 1.5)), 50: (0, (1, 1.2))}


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Two panels, staleness above memory, per keep and, from top to bottom, per local_epochs."""
    runs = tables["runs"]
    looks = _style.methods(runs)
    keeps = _style.keeps(runs) or ["dense"]
    epochs = sorted(set(runs["local_epochs"]))
    rows = [count for count in _style.wrap(len(keeps)) * len(epochs) for _ in "two"[:2]]
    figure, axes = _style.panels(
        rows,
        height=max(0.7, min(1.3, (_PAGE - 0.4) / len(rows))),
        x="communication round",
        y=("staleness\n(rounds)", "memory\nnorm"),
    )
