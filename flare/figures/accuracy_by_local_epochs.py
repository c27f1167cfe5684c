"""Final test accuracy by local epochs, a panel per fraction sent: the mean over seeds with its 95 % t-interval, and
faintly the single seeds; dense methods, which send everything, are in every panel.

See whether more local work makes up for sending less: a method whose memory goes stale gains less from it than the
dense reference. A cross at the bottom is a cell in which a run diverged; such runs are in no mean.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from flare.figures import _points, _style

NEEDS = "local_epochs"


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: keep from the largest to the smallest. Methods stand side by side at a number of local epochs."""
    runs = tables["runs"].assign(percent=100 * tables["runs"]["final_accuracy"], x=tables["runs"]["local_epochs"])
    looks, keeps = _style.methods(runs), _style.keeps(runs) or ["dense"]
    figure, axes = _style.panels(_style.wrap(len(keeps)), height=1.8, x="local epochs E", y="final test accuracy (%)")
    place = _points.places(list(looks))
    legend = {}
    for ax, keep in zip(axes, keeps, strict=True):
        ax.set_title(f"keep = {keep}")
        for (method, own_keep), own in runs[runs["keep"].isin([keep, "dense"])].groupby(["method", "keep"], sort=False):
            look = _style.hollow(looks[str(method)], str(own_keep))
            legend[look["label"]] = _style.handle(**look)
            _points.series(ax, own, "percent", _points.factor(1.05, place[str(method)]), look)
    axes[0].set_xscale("log", base=2)
    epochs = sorted(set(runs["local_epochs"]))
    axes[0].set_xlim(epochs[0] / 1.5, epochs[-1] * 1.5)
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].xaxis.set_major_locator(FixedLocator(epochs))
    axes[0].xaxis.set_major_formatter(FixedFormatter([str(local_epochs) for local_epochs in epochs]))
    _style.percent(axes)
    return _style.finish(figure, [list(legend.values())], runs)
