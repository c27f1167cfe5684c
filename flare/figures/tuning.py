"""Every trial of the tuning: its objective on samples held out from the clients' training data by the value of each
setting that was tuned. The trial with a ring is the best of its study, whose values the reported runs take.

See how much a method depends on being tuned: a flat cloud does not, a narrow peak does, and a best trial at an end of
its range may have a better one beyond. A line spans a trial's seeds. A cross at the bottom is a trial of which a run
diverged, a bar one that was given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from flare.figures.style import layout, looks

TABLES = ("trials",)

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def needs(experiments: Mapping[str, Any], name: str) -> bool:
    """A setting of a method is tuned."""
    from flare.config.ranges import split

    return any(split(settings or {})[1] for settings in experiments[name]["methods"].values())


def possible(tables: dict[str, pd.DataFrame]) -> bool:
    """The same, in the tables."""
    return len(tables["trials"]) > 0


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: the settings of a method, one method after the other. Marker: the cell; colour: the method."""
    trials = tables["trials"]
    look_of = looks.methods(trials)
    pairs = list(dict.fromkeys(zip(trials["method"], trials["setting"], strict=True)))
    cells = trials[["keep", "local_epochs"]].drop_duplicates().sort_values(["local_epochs"], kind="stable")
    names = {
        (keep, epochs): f"keep = {keep}" + (f", E = {epochs}" if cells["local_epochs"].nunique() > 1 else "")
        for keep, epochs in cells.itertuples(index=False)
    }
    markers = {cell: _MARKERS[place % len(_MARKERS)] for place, cell in enumerate(names)}
    loss = (trials["objective"] == "loss").any()
    figure, axes = layout.panels(
        layout.wrap(len(pairs)),
        height=1.9,
        x="value of the setting",
        share_x=False,
        y="validation loss" if loss else "validation accuracy (%)",
    )
    for ax, (method, setting) in zip(axes, pairs, strict=True):
        own = trials[(trials["method"] == method) & (trials["setting"] == setting)]
        look = look_of[method]
        ax.set_title(f"{look['label']}: {setting}")
        for (keep, epochs), cell in own.assign(x=_axis(ax, own["value"])).groupby(["keep", "local_epochs"], sort=False):
            _trials(ax, cell, 1 if loss else 100, {"color": look["color"], "marker": markers[str(keep), int(epochs)]})
    ends = [looks.handle(label="best of its study", **looks.RING)]
    for state, mark in (("diverged", looks.cross("#404040")), ("pruned", _pruned("#404040"))):
        if (trials["state"] == state).any():
            ends.append(looks.handle(label=f"{state} trial", **mark))
    shapes = [
        looks.handle(label=name, color="#404040", marker=markers[cell], linestyle="none")
        for cell, name in names.items()
    ]
    return layout.finish(figure, [shapes, ends], trials.assign(status=""))


def _trials(ax: Axes, cell: pd.DataFrame, factor: float, look: dict[str, Any]) -> None:
    """The trials of one study in the panel of one setting."""
    complete = cell[cell["state"] == "complete"]
    spread = factor * complete["lowest"], factor * complete["highest"]
    ax.vlines(complete["x"], *spread, color=look["color"], alpha=0.4, linewidth=0.8)
    ax.plot(complete["x"], factor * complete["result"], linestyle="none", alpha=0.8, **look)
    best = complete[complete["best"]]
    ax.plot(best["x"], factor * best["result"], **looks.RING)
    for state, mark in (("diverged", looks.cross(look["color"])), ("pruned", _pruned(look["color"]))):
        x = cell.loc[cell["state"] == state, "x"]
        if len(x):  # an empty line that is not clipped would take room
            ax.plot(x, [0.04] * len(x), transform=ax.get_xaxis_transform(), **mark)


def _pruned(color: str) -> dict[str, Any]:
    return {"color": color, "marker": "|", "markersize": 6, "linestyle": "none", "clip_on": False}


def _axis(ax: Axes, values: pd.Series[str]) -> pd.Series[float]:
    """Where the values stand on x, and the axis for them: numbers, on a logarithmic scale if wide, or words."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        words = sorted(set(values), key=lambda word: (pd.isna(pd.to_numeric(word, errors="coerce")), word))
        ax.xaxis.set_major_locator(FixedLocator(list(range(len(words)))))
        ax.xaxis.set_major_formatter(FixedFormatter(words))
        ax.set_xlim(-0.5, len(words) - 0.5)
        return values.map(words.index).astype("float64")
    if numbers.min() > 0 and numbers.max() > 20 * numbers.min():
        ax.set_xlim(numbers.min() / 1.5, numbers.max() * 1.5)
        layout.logarithmic(ax)
        ax.xaxis.set_minor_locator(NullLocator())
    return numbers.astype("float64")
