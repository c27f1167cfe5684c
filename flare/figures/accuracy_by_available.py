"""Final test accuracy by the number of clients that answer a round, a panel per fraction sent, over experiments that
differ in nothing else: the mean over seeds with its 95 % t-interval, and faintly the single seeds; dense methods,
which send everything, are in every panel.

See who loses least where clients are unavailable: the flattest curve. A cross at the bottom is a cell in which a run
diverged; such runs are in no mean.
"""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from flare.figures import _points, _style

NEEDS = "available"


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs from top to bottom; within one, keep from the largest to the smallest."""
    runs = tables["family"].drop_duplicates(["available", "method", "keep", "local_epochs", "seed"])
    runs = runs.assign(percent=100 * runs["final_accuracy"], x=runs["available"].astype("float64"))
    looks, keeps = _style.methods(runs), _style.keeps(runs) or ["dense"]
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = _style.panels(
        _style.wrap(len(keeps)) * len(epochs), height=1.8, x="clients that answer", y="final test accuracy (%)"
    )
    answering = sorted(set(runs["x"]))
    span = max(1.0, answering[-1] - answering[0])
    place = _points.places(list(looks))
    legend = {}
    for ax, (local_epochs, keep) in zip(axes, itertools.product(epochs, keeps), strict=True):
        ax.set_title(f"keep = {keep}" + (f", E = {local_epochs}" if len(epochs) > 1 else ""))
        shown = runs[(runs["local_epochs"] == local_epochs) & runs["keep"].isin([keep, "dense"])]
        for (method, own_keep), own in shown.groupby(["method", "keep"], sort=False):
            look = _style.hollow(looks[str(method)], str(own_keep))
            legend[look["label"]] = _style.handle(**look)
            _points.series(ax, own, "percent", _points.shift(0.012 * span, place[str(method)]), look)
    axes[0].set_xlim(answering[0] - 0.12 * span, answering[-1] + 0.12 * span)
    few = len(answering) <= 6
    axes[0].xaxis.set_major_locator(FixedLocator(answering) if few else MaxNLocator("auto", integer=True))
    axes[0].xaxis.set_major_formatter("{x:g}")
    _style.percent(axes)
    return _style.finish(figure, [list(legend.values())], runs)
