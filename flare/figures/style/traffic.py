"""What figures of the best accuracy so far by what was sent share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from flare.figures.style import curves, layout, looks

_BITS_PER_MEGABYTE = 8e6
_FRONT: dict[str, Any] = {"color": "#b0b0b0", "linewidth": 3.5, "alpha": 0.6, "zorder": 1.5, "solid_capstyle": "butt"}
_FRONT |= {"drawstyle": "steps-post", "solid_joinstyle": "miter"}  # between two points nothing better was seen


def draw(tables: dict[str, pd.DataFrame], columns: Sequence[str], x: str) -> Figure:
    """Panels: local_epochs. Colour and marker are the method, the line style is the keep.

    columns: of rounds.csv and of runs.csv, whose sum is the traffic that is labelled x.
    """
    runs, rounds = tables["runs"], tables["rounds"].copy()
    rounds["traffic"] = rounds[list(columns)].sum(axis=1) / _BITS_PER_MEGABYTE
    run = ["method", "keep", "local_epochs", "seed"]
    rounds["test_accuracy"] = rounds.sort_values("round").groupby(run)["test_accuracy"].cummax()
    look_of, dashes = looks.methods(runs), looks.keep_dashes(runs)
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = layout.panels(
        layout.wrap(len(epochs)),
        height=2.3,
        x=x,
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
            curves.curve(ax, cell.finished, "traffic", order=order, **look)
            for lost, own in cell.diverged:
                end = lost[list(columns)].sum() / _BITS_PER_MEGABYTE
                curves.lost(ax, own["traffic"], own["test_accuracy"], end, look["color"])
    layout.percent(axes)
    layout.logarithmic(axes[0])
    return layout.finish(figure, [list(by_method.values()), [*by_keep.values(), front]], runs)


def _pareto(cells: Sequence[curves.Cell]) -> tuple[list[float], list[float]]:
    """Traffic and accuracy (%) of the means that no cell's mean betters with as little traffic, in ascending order."""
    means = [cell.finished.groupby("round")[["traffic", "test_accuracy"]].mean() for cell in cells]
    points = pd.concat(means).sort_values(["traffic", "test_accuracy"], ascending=[True, False])
    best = points["test_accuracy"].cummax()
    front = points[best > best.shift(fill_value=-1.0)]
    return front["traffic"].tolist(), (100 * front["test_accuracy"]).tolist()
