"""What tuning buys: the expected best result on held-out samples of a study's first trials, by how many they are.

See what a method owes to a large budget: a curve that still rises at its end wants more trials, and where curves cross,
who is better depends on the budget. It is the mean of the best over all choices of so many of the trials (Dodge et al.,
arXiv 1909.03004, without replacement), so of trials in any order; those that were proposed from others' results are
better than a random search's. A trial without a result counts as the worst that has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare.analysis.statistics import expected_best
from flare.figures.style import layout, looks

TABLES = ("trials",)


def needs(experiments: Mapping[str, Any], name: str) -> bool:
    """A setting of a method is tuned."""
    from flare.config.ranges import split

    return any(split(settings or {})[1] for settings in experiments[name]["methods"].values())


def possible(tables: dict[str, pd.DataFrame]) -> bool:
    """The same, in the tables."""
    return len(tables["trials"]) > 0


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs from top to bottom; within one, keep from the largest to the smallest."""
    trials = tables["trials"].drop_duplicates(["method", "keep", "local_epochs", "trial"])
    look_of, keeps = looks.methods(trials), looks.keeps(trials) or ["dense"]
    epochs = sorted(set(trials["local_epochs"]))
    loss = bool((trials["objective"] == "loss").any())
    what = "expected best validation loss" if loss else "expected best\nvalidation accuracy (%)"
    figure, axes = layout.panels(layout.wrap(len(keeps)) * len(epochs), height=1.8, x="trials", y=what)
    legend = {}
    for ax, (local_epochs, keep) in zip(axes, itertools.product(epochs, keeps), strict=True):
        ax.set_title(f"keep = {keep}" + (f", E = {local_epochs}" if len(epochs) > 1 else ""))
        shown = trials[(trials["local_epochs"] == local_epochs) & trials["keep"].isin([keep, "dense"])]
        for (method, own_keep), own in shown.groupby(["method", "keep"], sort=False):
            look = looks.hollow(look_of[str(method)], str(own_keep))
            legend[look["label"]] = looks.handle(**look)
            _curve(ax, own, loss, look)
        if not ax.lines:
            ax.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=ax.transAxes)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return layout.finish(figure, [list(legend.values())], trials.assign(status=""))


def _curve(ax: Axes, study: pd.DataFrame, loss: bool, look: dict[str, Any]) -> None:
    """One study's."""
    results = study["result"].where(study["state"] == "complete").to_numpy(dtype="float64")
    best = expected_best(results, least=loss)
    ax.plot(range(1, len(best) + 1), [value if loss else 100 * value for value in best], markevery=0.2, **look)
