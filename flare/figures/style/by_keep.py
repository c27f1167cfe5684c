"""What figures of one number per run by the fraction sent share."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from flare.analysis.statistics import fraction
from flare.figures.style import layout, looks, points

# From a method's place to the next one's, as a part of the axis between the smallest and the largest keep.
_STEP = 0.025


def panels(runs: pd.DataFrame, value: str, y: str) -> tuple[Figure, list[Axes], list[dict[str, Any]]]:
    """A panel per local_epochs, methods side by side at a keep, dense ones as lines; and the legend's looks.

    runs: rows of runs.csv with the column `value`, labelled y.
    """
    look_of, keeps = looks.methods(runs), looks.keeps(runs)
    runs = runs.assign(x=runs["keep"].map(fraction).astype("float64"))
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = layout.panels(layout.wrap(len(epochs)), height=2.1, x="keep (fraction sent)", y=y)
    span = max(1.0, math.log10(fraction(keeps[0]) / fraction(keeps[-1]))) if keeps else 1.0
    place = points.places([m for m in look_of if (runs.loc[runs["method"] == m, "keep"] != "dense").any()])
    legend = {}
    for ax, local_epochs in zip(axes, epochs, strict=True):
        if len(epochs) > 1:
            ax.set_title(f"E = {local_epochs}")
        for method, look in look_of.items():
            own = runs[(runs["local_epochs"] == local_epochs) & (runs["method"] == method)]
            dense, sparse = own[own["keep"] == "dense"], own[own["keep"] != "dense"]
            if len(dense):
                line = {**looks.hollow(look, "dense"), "marker": "none"}
                legend[line["label"]] = line
                points.reference(ax, dense, value, line)
            if len(sparse):
                legend[look["label"]] = look
                points.series(ax, sparse, value, points.factor(10 ** (_STEP * span), place[method]), look)
    _keep_axis(axes[0], keeps, span, max(place.values(), default=0.0))
    return figure, axes, list(legend.values())


def _keep_axis(ax: Axes, keeps: list[str], span: float, places: float) -> None:
    """Logarithmic, with the keeps as they are spelt in the configuration as ticks, as far as there is room.

    places: of the methods that stand beside a keep, the number on either side.
    """
    layout.logarithmic(ax)
    ax.xaxis.set_minor_locator(NullLocator())
    if not keeps:
        ax.xaxis.set_major_locator(NullLocator())
        return
    values = [fraction(keep) for keep in keeps]
    beside = 10 ** (max(0.13, _STEP * (places + 1)) * span)
    ax.set_xlim(values[-1] / beside, values[0] * beside)
    gaps = [math.log10(more / less) / span for more, less in itertools.pairwise(values)]
    if not gaps or min(gaps) > 0.1:
        ax.xaxis.set_major_locator(FixedLocator(values))
        ax.xaxis.set_major_formatter(FixedFormatter(keeps))
