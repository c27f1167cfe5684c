"""What figures of one number per run share: over some x, the mean of the finished runs with its interval, the single
seeds faintly beside it, and a cross where a run diverged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flare.analysis.statistics import shown_interval
from flare.figures.style.looks import cross

# Where the number of an x stands: the second argument is how far beside it, in units of a method's place.
At = Callable[["pd.Series[Any]", float], "pd.Series[float]"]

# What a number cannot exceed.
_MOST = {"percent": 100.0}


def series(ax: Axes, runs: pd.DataFrame, value: str, at: At, look: dict[str, Any]) -> None:
    """A method: its runs, with columns x, status and value."""
    finished = runs[runs["status"] == "finished"]
    if len(finished):
        found = shown_interval(finished, ["x"], value, _MOST.get(value, math.inf)).sort_index()
        mean, low, high = (found[name] for name in ("mean", "low", "high"))
        x = at(found.index.to_series(), 0)
        ax.errorbar(x, mean, [mean - low, high - mean], capsize=2, capthick=0.8, elinewidth=0.8, **look)
        dots = {"color": look["color"], "alpha": 0.45, "markersize": 2, "markeredgewidth": 0}
        ax.plot(at(finished["x"], 0.4), finished[value], "o", **dots)
    for lost in sorted(set(at(runs.loc[runs["status"] == "diverged", "x"], 0))):
        ax.plot([lost], [0.04], transform=ax.get_xaxis_transform(), **cross(look["color"]))


def reference(ax: Axes, runs: pd.DataFrame, value: str, look: dict[str, Any]) -> None:
    """A method whose number does not depend on x: a line right across, and its interval."""
    finished = runs[runs["status"] == "finished"]
    if len(finished):
        found = shown_interval(finished, ["method"], value, _MOST.get(value, math.inf)).iloc[0]
        ax.axhline(found["mean"], color=look["color"], linestyle=look["linestyle"])
        if not math.isnan(found["low"]):
            ax.axhspan(found["low"], found["high"], color=look["color"], alpha=0.12, linewidth=0)
    if (runs["status"] == "diverged").any():
        ax.plot([0.97], [0.04], transform=ax.transAxes, **cross(look["color"]))


def factor(base: float, place: float) -> At:
    """On a logarithmic axis, beside it by that factor per unit."""
    return lambda x, more: x * base ** (place + more)


def shift(step: float, place: float) -> At:
    """On a linear axis, beside it by that step per unit."""
    return lambda x, more: x + step * (place + more)


def places(methods: Sequence[str]) -> dict[str, float]:
    """Methods side by side around their x."""
    return {method: place - (len(methods) - 1) / 2 for place, method in enumerate(methods)}
