"""How much the result on held-out samples depends on a setting: the best trial in each eighth of the values that were
tried, the study's other settings being free, with the range over its seeds as a band. A ring is the value that was
chosen.

See whether one value would do for all methods: curves that peak at other values are compared unfairly at a shared one,
and a narrow peak needs its tuning. What lies between two points was not tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flare.figures.style import layout, looks

TABLES = ("trials",)

_PARTS = 8


def needs(experiments: Mapping[str, Any], name: str) -> bool:
    """A number of a method is tuned over a range."""
    from flare.config.ranges import split

    ranges = [range_ for own in experiments[name]["methods"].values() for range_ in split(own or {})[1].values()]
    return any("choices" not in range_ for range_ in ranges)


def possible(tables: dict[str, pd.DataFrame]) -> bool:
    """The same, in the tables."""
    trials = tables["trials"]
    numbers = pd.to_numeric(trials["value"], errors="coerce").notna()
    return bool(numbers.groupby(trials["setting"]).all().any())


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: the settings that are numbers, those of most methods first. Colour: method; line style: keep."""
    trials = tables["trials"].assign(x=pd.to_numeric(tables["trials"]["value"], errors="coerce"))
    trials = trials[trials.groupby("setting")["x"].transform(lambda x: x.notna().all())]
    look_of, dashes = looks.methods(trials), looks.keep_dashes(trials)
    epochs = sorted(set(trials["local_epochs"]))
    common = trials.groupby("setting", sort=False)["method"].nunique().sort_values(ascending=False, kind="stable")
    panels = [(setting, local_epochs) for local_epochs in epochs for setting in common.index]
    loss = bool((trials["objective"] == "loss").any())
    figure, axes = layout.panels(
        layout.wrap(len(panels)),
        height=1.9,
        x="value of the setting",
        share_x=False,
        y="validation loss" if loss else "validation accuracy (%)",
    )
    by_method, by_keep = {}, {}
    for ax, (setting, local_epochs) in zip(axes, panels, strict=True):
        ax.set_title(str(setting) + (f", E = {local_epochs}" if len(epochs) > 1 else ""))
        shown = trials[(trials["setting"] == setting) & (trials["local_epochs"] == local_epochs)]
        wide = bool(shown["x"].min() > 0 and shown["x"].max() > 20 * shown["x"].min())
        for (method, keep), own in shown.groupby(["method", "keep"], sort=False):
            look = {**looks.hollow(look_of[str(method)], str(keep)), "linestyle": dashes[str(keep)]}
            by_method[look["label"]] = looks.handle(**{**look, "linestyle": "none"})
            if keep != "dense":
                name = f"keep = {keep}"
                by_keep[name] = looks.handle(label=name, color="black", linestyle=dashes[str(keep)])
            _curve(ax, own, wide, loss, look)
        if not ax.lines:
            ax.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=ax.transAxes)
        elif wide:
            ax.set_xlim(shown["x"].min() / 1.5, shown["x"].max() * 1.5)
            layout.logarithmic(ax)
            ax.xaxis.set_minor_locator(NullLocator())
    ring = looks.handle(label="chosen", **looks.RING)
    return layout.finish(figure, [list(by_method.values()), [*by_keep.values(), ring]], trials.assign(status=""))


def _curve(ax: Axes, study: pd.DataFrame, wide: bool, loss: bool, look: dict[str, Any]) -> None:
    """One study's trials in the panel of one setting."""
    factor, done = 1 if loss else 100, study[study["state"] == "complete"]
    if done.empty:
        return
    place = np.log(done["x"]) if wide else done["x"]
    span = float(place.max() - place.min()) or 1.0
    part = np.minimum((_PARTS * (place - place.min()) / span).astype("int64"), _PARTS - 1)
    groups = done["result"].groupby(part)
    best = done.loc[groups.idxmin() if loss else groups.idxmax()].sort_values("x")
    ax.plot(best["x"], factor * best["result"], **look)
    band = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
    ax.fill_between(best["x"], factor * best["lowest"], factor * best["highest"], **band)
    chosen = done[done["best"]]
    ax.plot(chosen["x"], factor * chosen["result"], **looks.RING)
