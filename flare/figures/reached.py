"""What it costs to get to shares of dense FedAvg's accuracy, and to given accuracies: the median over all runs of a
cell of rounds, uplink, traffic both ways, local steps of all clients and modelled seconds on the wire.

A row is a method at a fraction sent; its dots are the targets, the least ambitious the smallest. An arrow at the right
edge: half of the cell's runs or more never reach one of the targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, StrMethodFormatter

from flare.algorithms._looks import label
from flare.analysis.rules import DENSE
from flare.figures.style import layout, looks

TABLES = ("reached",)

_BITS_PER_MEGABYTE = 8e6
# Columns of reached.csv, what stands above their panel, and what they are divided by.
_COSTS: Mapping[str, tuple[str, float]] = {
    "rounds": ("rounds", 1),
    "uplink_bits": ("uplink\n(MB)", _BITS_PER_MEGABYTE),
    "total_bits": ("both ways\n(MB)", _BITS_PER_MEGABYTE),
    "client_steps": ("client\nsteps", 1),
    "seconds": ("seconds", 1),
}
_MOST_LABELS = 52
_ARROW: dict[str, Any] = {"marker": ">", "linestyle": "none", "markersize": 3, "clip_on": False}


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: the costs. Rows: the cells, in their order."""
    found = tables["reached"]
    look_of, several = looks.methods(found), found["local_epochs"].nunique() > 1
    cells = list(dict.fromkeys(found[["method", "keep", "local_epochs"]].itertuples(index=False, name=None)))
    targets = list(dict.fromkeys(found.sort_values("accuracy", kind="stable")["target"]))
    sizes = {target: 2 + 3 * (place + 1) / len(targets) for place, target in enumerate(targets)}
    figure = Figure(figsize=(layout.WIDTHS[1], min(8.0, 1.3 + 0.14 * max(3, len(cells)))), layout="constrained")
    axes = figure.subplots(1, len(_COSTS), sharey=True)
    rows = {cell: own.sort_values("accuracy") for cell, own in found.groupby(["method", "keep", "local_epochs"])}
    for ax, (column, (title, unit)) in zip(axes, _COSTS.items(), strict=True):
        ax.set_xlabel(title)
        for place, cell in enumerate(cells):
            own, look = rows[cell], look_of[str(cell[0])]
            x = own[column] / unit
            ax.plot(x, [place] * len(x), color=look["color"], linewidth=0.7)
            for target, value in zip(own["target"], x, strict=True):
                if not math.isnan(value):
                    ax.plot(value, place, color=look["color"], marker="o", linestyle="none", markersize=sizes[target])
            if own["rounds"].isna().any():
                ax.plot(0.99, place, color=look["color"], transform=ax.get_yaxis_transform(), **_ARROW)
        if not ax.lines:  # no dense FedAvg, and no targets given
            ax.text(0.5, 0.5, "nothing to show", fontsize=7, ha="center", va="center", transform=ax.transAxes)
        ax.set_xscale("log")
        if not found[column].notna().any():
            ax.set_xlim(1, 10)
        ax.margins(x=0.2)
        low, high = ax.get_xlim()
        if high < 5 * low:  # so that there is a tick
            low, high = (low * high / 5) ** 0.5, (low * high * 5) ** 0.5
            ax.set_xlim(low, high)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 3) if low <= digit * 10.0**decade <= high]
        ax.xaxis.set_major_locator(FixedLocator(ticks[:: math.ceil(len(ticks) / 6)]))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.tick_params(axis="x", rotation=90)
    step = math.ceil(max(1, len(cells)) / _MOST_LABELS)
    names = [_name(look_of[method]["label"], keep, epochs if several else None) for method, keep, epochs in cells]
    axes[0].yaxis.set_major_locator(FixedLocator(list(range(0, len(cells), step))))
    axes[0].yaxis.set_major_formatter(FixedFormatter(names[::step]))
    axes[0].set_ylim(max(len(cells), 1) - 0.4, -0.6)
    axes[0].set_ylabel("cell")
    dots = [
        looks.handle(
            label=target.replace(DENSE, label(DENSE)),
            color="#404040",
            marker="o",
            linestyle="none",
            markersize=sizes[target],
        )
        for target in targets
    ]
    dots.append(looks.handle(label="not reached", color="#404040", **_ARROW))
    return layout.finish(figure, [dots], found.assign(status=""))


def _name(label: str, keep: str, epochs: int | None) -> str:
    short = label if len(label) <= 16 else label[:15] + "…"
    return f"{short} {keep}" + (f", E = {epochs}" if epochs is not None else "")
