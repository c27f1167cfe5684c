"""Best test accuracy so far by uplink, what all clients have sent: the mean over seeds and its {level} t-interval.

See what a bit buys: of two curves, the one further left reaches the same accuracy with less uplink (the axis
is logarithmic). The grey staircase is the Pareto front: no mean of any cell reaches as much with less uplink, so what
lies below it is bettered by something else. A run that diverged is a dotted line to a cross at what it had sent, and
is in no mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from flare.figures.style import curves, layout, looks

TABLES = ("runs", "rounds")

_BITS_PER_MEGABYTE = 8e6
_FRONT: dict[str, Any] = {"color": "#b0b0b0", "linewidth": 3.5, "alpha": 0.6, "zorder": 1.5, "solid_capstyle": "butt"}
_FRONT |= {"drawstyle": "steps-post", "solid_joinstyle": "miter"}  # between two points nothing better was seen


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Colour and marker are the method, the line style is the keep."""
    runs, rounds = tables["runs"], tables["rounds"].copy()
    rounds["uplink"] = rounds["uplink_bits"] / _BITS_PER_MEGABYTE
    run = ["method", "keep", "local_epochs", "seed"]
    rounds["test_accuracy"] = rounds.sort_values("round").groupby(run)["test_accuracy"].cummax()
    look_of, dashes = looks.methods(runs), looks.keep_dashes(runs)
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = layout.panels(
        layout.wrap(len(epochs)),
        height=2.3,
        x="uplink, all clients (MB)",
        y="best test accuracy so far (%)",
        wide=len(look_of) * len(dashes) > 10,
    )
    by_method, by_keep, front = {}, {}, looks.handle(label="Pareto front", **_FRONT)
    for ax, local_epochs in zip(axes, epochs, strict=True):
        if len(epochs) > 1:
            ax.set_title(f"E = {local_epochs}")
        cells = list(curves.cells({"runs": runs, "rounds": rounds}, local_epochs))
        ax.plot(*_pareto(cells), **_FRONT)
        for order, cell in enumerate(cells):
            look = {**looks.hollow(look_of[cell.method], cell.keep), "linestyle": dashes[cell.keep]}
            by_method[look["label"]] = looks.handle(**{**look, "linestyle": "none"})
            if cell.keep != "dense":
                name = f"keep = {cell.keep}"
                by_keep[name] = looks.handle(label=name, color="black", linestyle=dashes[cell.keep])
            curves.curve(ax, cell.finished, "uplink", order=order, **look)
            for lost, own in cell.diverged:
                end = lost["uplink_bits"] / _BITS_PER_MEGABYTE
                curves.lost(ax, own["uplink"], own["test_accuracy"], end, look["color"])
    layout.percent(axes)
    layout.logarithmic(axes[0])
    return layout.finish(figure, [list(by_method.values()), [*by_keep.values(), front]], runs)


def _pareto(cells: Sequence[curves.Cell]) -> tuple[list[float], list[float]]:
    """Uplink and accuracy (%) of the means that no cell's mean betters with as little uplink, by ascending uplink."""
    means = [cell.finished.groupby("round")[["uplink", "test_accuracy"]].mean() for cell in cells]
    points = pd.concat(means).sort_values(["uplink", "test_accuracy"], ascending=[True, False])
    best = points["test_accuracy"].cummax()
    front = points[best > best.shift(fill_value=-1.0)]
    return front["uplink"].tolist(), (100 * front["test_accuracy"]).tolist()
