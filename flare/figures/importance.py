"""Importance of every tuned setting: its share in how the objective varies over a study's complete trials, by fANOVA
(Hutter, Hoos & Leyton-Brown, ICML 2014), for methods of which several settings were tuned.

A setting near 0 did not need its tuning; what a share leaves to the others is theirs. Studies with fewer than ten
complete trials are left out, as chance would decide their shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from flare.figures.style import layout, looks

TABLES = ("trials",)

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def needs(experiments: Mapping[str, Any], name: str) -> bool:
    """Several settings of one method are tuned."""
    from flare.config.ranges import split

    return any(len(split(settings or {})[1]) > 1 for settings in experiments[name]["methods"].values())


def possible(tables: dict[str, pd.DataFrame]) -> bool:
    """The same, in the tables."""
    return bool(tables["trials"]["importance"].notna().any())


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """One panel: a row per method and setting, a marker per keep and local_epochs."""
    trials = tables["trials"].dropna(subset="importance")
    shares = trials.drop_duplicates(["method", "setting", "keep", "local_epochs"])
    look_of = looks.methods(shares)
    rows = list(dict.fromkeys(zip(shares["method"], shares["setting"], strict=True)))
    several = shares["local_epochs"].nunique() > 1
    figure = Figure(figsize=(layout.WIDTHS[0], min(9.0, 1.0 + 0.25 * len(rows))), layout="constrained")
    ax = figure.subplots()
    legend = []
    for place, ((keep, epochs), cell) in enumerate(shares.groupby(["keep", "local_epochs"], sort=False)):
        look: dict[str, Any] = {"marker": _MARKERS[place % len(_MARKERS)], "linestyle": "none"}
        legend.append(
            looks.handle(label=f"keep = {keep}" + (f", E = {epochs}" if several else ""), color="#404040", **look)
        )
        for method, setting, share in zip(cell["method"], cell["setting"], cell["importance"], strict=True):
            ax.plot(share, rows.index((method, setting)), color=look_of[method]["color"], alpha=0.8, **look)
    if not rows:
        said = "no study with ten complete trials that differ"
        ax.text(0.5, 0.5, said, fontsize=7, ha="center", va="center", transform=ax.transAxes)
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [f"{look_of[method]['label']}: {setting}" for method, setting in rows])
    ax.set_xlabel("share in the objective's variance")
    ax.set_ylabel("setting")
    return layout.finish(figure, [legend], shares.assign(status=""))
