"""Final test accuracy by the number of clients that answer a round, a panel per fraction sent, over experiments that
differ in nothing else: the mean over seeds with its {level} t-interval, and faintly the single seeds; dense methods,
which send everything, are in every panel.

See who loses least where clients are unavailable: the flattest curve. A cross at the bottom is a cell in which a run
diverged; such runs are in no mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from flare.figures.style import layout, looks, points

TABLES = ("family",)


def needs(experiments: Mapping[str, Any], name: str) -> bool:
    """The experiment is the first of several that differ in nothing but `available`."""
    asked = {other: {**experiment, "available": None} for other, experiment in experiments.items()}
    family = [other for other in asked if asked[other] == asked[name]]
    return len(family) > 1 and family[0] == name


def possible(tables: dict[str, pd.DataFrame]) -> bool:
    """The same, in the tables."""
    runs, family = tables["runs"], tables["family"]
    return family["available"].nunique() > 1 and bool(family["experiment"].iloc[0] == runs["experiment"].iloc[0])


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs from top to bottom; within one, keep from the largest to the smallest."""
    runs = tables["family"].drop_duplicates(["available", "method", "keep", "local_epochs", "seed"])
    runs = runs.assign(percent=100 * runs["final_accuracy"], x=runs["available"].astype("float64"))
    look_of, keeps = looks.methods(runs), looks.keeps(runs) or ["dense"]
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = layout.panels(
        layout.wrap(len(keeps)) * len(epochs), height=1.8, x="clients that answer", y="final test accuracy (%)"
    )
    answering = sorted(set(runs["x"]))
    span = max(1.0, answering[-1] - answering[0])
    place = points.places(list(look_of))
    legend = {}
    for ax, (local_epochs, keep) in zip(axes, itertools.product(epochs, keeps), strict=True):
        ax.set_title(f"keep = {keep}" + (f", E = {local_epochs}" if len(epochs) > 1 else ""))
        shown = runs[(runs["local_epochs"] == local_epochs) & runs["keep"].isin([keep, "dense"])]
        for (method, own_keep), own in shown.groupby(["method", "keep"], sort=False):
            look = looks.hollow(look_of[str(method)], str(own_keep))
            legend[look["label"]] = looks.handle(**look)
            points.series(ax, own, "percent", points.shift(0.012 * span, place[str(method)]), look)
    axes[0].set_xlim(answering[0] - 0.12 * span, answering[-1] + 0.12 * span)
    few = len(answering) <= 6
    axes[0].xaxis.set_major_locator(FixedLocator(answering) if few else MaxNLocator("auto", integer=True))
    axes[0].xaxis.set_major_formatter("{x:g}")
    layout.percent(axes)
    return layout.finish(figure, [list(legend.values())], runs)
