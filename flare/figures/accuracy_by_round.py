"""Test accuracy by communication round, a panel per fraction sent: the mean over seeds and its {level} t-interval;
dense methods, which send everything, are the reference in every panel.

See how far below the dense reference a method stays, and how soon it gets there. A run that diverged is a
dotted line to a cross at the round in which it did, and is in no mean.
"""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare.figures.style import curves, layout, looks

TABLES = ("runs", "rounds")


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs from top to bottom; within one, keep from the largest to the smallest."""
    runs = tables["runs"]
    look_of = looks.methods(runs)
    keeps = looks.keeps(runs) or ["dense"]
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = layout.panels(
        layout.wrap(len(keeps)) * len(epochs), height=1.7, x="communication round", y="test accuracy (%)"
    )
    legend = {}
    cells = {local_epochs: list(curves.cells(tables, local_epochs)) for local_epochs in epochs}
    for ax, (local_epochs, keep) in zip(axes, itertools.product(epochs, keeps), strict=True):
        ax.set_title(f"keep = {keep}" + (f", E = {local_epochs}" if len(epochs) > 1 else ""))
        shown = [cell for cell in cells[local_epochs] if cell.keep in (keep, "dense")]
        for order, cell in enumerate(shown):
            look = looks.hollow(look_of[cell.method], cell.keep)
            legend[look["label"]] = looks.handle(**look)
            curves.curve(ax, cell.finished, "round", order=order, **look)
            for run, rounds in cell.diverged:
                curves.lost(ax, rounds["round"], rounds["test_accuracy"], run["diverged_round"], look["color"])
    axes[0].xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    layout.percent(axes)
    return layout.finish(figure, [list(legend.values())], runs)
