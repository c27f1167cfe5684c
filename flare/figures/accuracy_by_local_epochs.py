"""Final test accuracy by local epochs, a panel per fraction sent: the mean over seeds with its {level} t-interval, and
faintly the single seeds; dense methods, which send everything, are in every panel.

See whether more local work makes up for sending less: a method whose memory goes stale gains less from it than the
dense reference. A cross at the bottom is a cell in which a run diverged; such runs are in no mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from flare.figures.style import layout, looks, points

TABLES = ("runs",)


def needs(experiments: Mapping[str, Any], name: str) -> bool:
    """Several numbers of local epochs."""
    return len(experiments[name].get("local_epochs", ())) > 1


def possible(tables: dict[str, pd.DataFrame]) -> bool:
    """The same, in the tables."""
    return tables["runs"]["local_epochs"].nunique() > 1


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: keep from the largest to the smallest. Methods stand side by side at a number of local epochs."""
    runs = tables["runs"].assign(percent=100 * tables["runs"]["final_accuracy"], x=tables["runs"]["local_epochs"])
    look_of, keeps = looks.methods(runs), looks.keeps(runs) or ["dense"]
    figure, axes = layout.panels(layout.wrap(len(keeps)), height=1.8, x="local epochs E", y="final test accuracy (%)")
    place = points.places(list(look_of))
    legend = {}
    for ax, keep in zip(axes, keeps, strict=True):
        ax.set_title(f"keep = {keep}")
        for (method, own_keep), own in runs[runs["keep"].isin([keep, "dense"])].groupby(["method", "keep"], sort=False):
            look = looks.hollow(look_of[str(method)], str(own_keep))
            legend[look["label"]] = looks.handle(**look)
            points.series(ax, own, "percent", points.factor(1.05, place[str(method)]), look)
    axes[0].set_xscale("log", base=2)
    epochs = sorted(set(runs["local_epochs"]))
    axes[0].set_xlim(epochs[0] / 1.5, epochs[-1] * 1.5)
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].xaxis.set_major_locator(FixedLocator(epochs))
    axes[0].xaxis.set_major_formatter(FixedFormatter([str(local_epochs) for local_epochs in epochs]))
    layout.percent(axes)
    return layout.finish(figure, [list(legend.values())], runs)
