"""Final test accuracy by the fraction sent: the mean over seeds with its 95 % t-interval, and faintly the single seeds;
dense methods, which send everything, are horizontal lines with their interval as a band.

See how much accuracy a method gives up as it sends less. A cross at the bottom is a cell in which a run diverged; such
runs are in no mean.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from flare.figures import _style


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Methods stand side by side at a keep."""
    runs, summary = tables["runs"], tables["summary"]
    looks, keeps = _style.methods(runs), _style.keeps(runs)
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = _style.panels(
        _style.wrap(len(epochs)), height=2.1, x="keep (fraction sent)", y="final test accuracy (%)"
    )
    span = max(1.0, math.log10(_style.fraction(keeps[0]) / _style.fraction(keeps[-1]))) if keeps else 1.0
    compressing = [method for method in looks if (runs.loc[runs["method"] == method, "keep"] != "dense").any()]
    legend = {}
    for ax, local_epochs in zip(axes, epochs, strict=True):
        if len(epochs) > 1:
            ax.set_title(f"E = {local_epochs}")
        for method, look in looks.items():
            cells = summary[(summary["local_epochs"] == local_epochs) & (summary["method"] == method)]
            dense, sparse = (cells[(cells["keep"] == "dense") == is_dense] for is_dense in (True, False))
            if len(dense):
                line = {**_style.hollow(look, "dense"), "marker": "none"}
                legend[line["label"]] = _style.handle(**line)
                _reference(ax, dense.iloc[0], line)
            if len(sparse):
                legend[look["label"]] = _style.handle(**look)
                place = compressing.index(method) - (len(compressing) - 1) / 2
                places = [10 ** ((place + more) * 0.025 * span) for more in (0, 0.4)]
                single = runs[(runs["local_epochs"] == local_epochs) & (runs["method"] == method)]
                _points(ax, sparse, single[single["status"] == "finished"], places, look)
    _style.percent(axes)
    _keep_axis(axes[0], keeps, span)
    return _style.finish(figure, [list(legend.values())], runs)


def _reference(ax: Axes, cell: pd.Series[Any], look: dict[str, Any]) -> None:
    """A dense method: a line right across, and its interval."""
    if cell["n"]:
        ax.axhline(100 * cell["final_accuracy"], color=look["color"], linestyle=look["linestyle"])
    if cell["n"] > 1:
        limits = 100 * cell["final_accuracy_low"], 100 * cell["final_accuracy_high"]
        ax.axhspan(*limits, color=look["color"], alpha=0.12, linewidth=0)
    if cell["diverged"]:
        ax.plot([0.97], [0.04], transform=ax.transAxes, **_style.cross(look["color"]))


def _points(ax: Axes, cells: pd.DataFrame, runs: pd.DataFrame, places: list[float], look: dict[str, Any]) -> None:
    """A compressing method: mean and interval at every keep, the single seeds beside it, a cross where a run diverged.

    places: factors of keep at which the mean and the seeds are drawn.
    """
    aside, beside = places
    x = cells["keep"].map(_style.fraction).astype("float64") * aside
    mean, low, high = (100 * cells[f"final_accuracy{limit}"] for limit in ("", "_low", "_high"))
    ax.errorbar(x, mean, [mean - low, high - mean], capsize=2, capthick=0.8, elinewidth=0.8, **look)
    seeds = runs[runs["keep"].isin(cells["keep"])]
    dots = seeds["keep"].map(_style.fraction).astype("float64") * beside
    ax.plot(dots, 100 * seeds["final_accuracy"], "o", color=look["color"], alpha=0.45, markersize=2, markeredgewidth=0)
    for at in x[cells["diverged"] > 0]:
        ax.plot([at], [0.04], transform=ax.get_xaxis_transform(), **_style.cross(look["color"]))


def _keep_axis(ax: Axes, keeps: list[str], span: float) -> None:
    """Logarithmic, with the keeps as they are spelt in the configuration as ticks, as far as there is room."""
    _style.logarithmic(ax)
    ax.xaxis.set_minor_locator(NullLocator())
    if not keeps:
        ax.xaxis.set_major_locator(NullLocator())
        return
    values = [_style.fraction(keep) for keep in keeps]
    ax.set_xlim(values[-1] / 10 ** (0.13 * span), values[0] * 10 ** (0.13 * span))
    gaps = [math.log10(more / less) / span for more, less in itertools.pairwise(values)]
    if not gaps or min(gaps) > 0.1:
        ax.xaxis.set_major_locator(FixedLocator(values))
        ax.xaxis.set_major_formatter(FixedFormatter(keeps))
