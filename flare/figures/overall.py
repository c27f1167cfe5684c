"""Over all experiments, accuracy as a share of dense FedAvg's in the same experiment: above, the share of the runs that
have at least so much (performance profile); below, the interquartile mean with its {level} bootstrap interval,
stratified by experiment.

See who is seldom bad and not only good on average: of two profiles, the higher one is better, and where they cross it
depends on how much accuracy must be kept. Diverged runs count as guessing. As numbers: overall.csv.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from flare.analysis.overall import overall, scores
from flare.figures.style import layout, looks, points

TABLES = ("runs",)
# It is drawn once, of all experiments, not of each.
WHOLE = True


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: profiles, and means by keep. Colour: method; line style: keep."""
    runs = tables["runs"]
    scored = scores(runs).dropna(subset="score")
    look_of, dashes = looks.methods(runs), looks.keep_dashes(runs)
    figure, (profile, means) = layout.panels(
        [1, 1],
        height=2.2,
        x="keep (fraction sent)",
        y=["runs with at\nleast as much (%)", "accuracy, share of\ndense fedavg's (%)"],
        share_x=False,
        wide=len(look_of) * len(dashes) > 10,
    )
    profile.set_xlabel("accuracy, share of dense fedavg's (%)")
    by_method, by_keep = {}, {}
    for (method, keep), cell in scored.groupby(["method", "keep"], sort=False):
        look = {**looks.hollow(look_of[str(method)], str(keep)), "linestyle": dashes[str(keep)]}
        by_method[look["label"]] = looks.handle(**{**look, "linestyle": "none"})
        if keep != "dense":
            by_keep[f"keep = {keep}"] = looks.handle(label=f"keep = {keep}", color="black", linestyle=dashes[str(keep)])
        x = np.sort(cell["score"].to_numpy())
        # From all runs, at the lowest score, down to the share of one at the highest.
        share = 100 * np.arange(len(x), 0, -1) / len(x)
        line = {"color": look["color"], "linestyle": dashes[str(keep)]}
        profile.step(100 * np.append(x, x[-1]), np.append(share, 0.0), where="pre", **line)
    _means(means, overall(runs), look_of)
    for ax in (profile, means):
        if not (ax.lines or ax.collections):
            ax.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=ax.transAxes)
    profile.set_ylim(-2, 102)
    return layout.finish(figure, [list(by_method.values()), list(by_keep.values())], scored.assign(status=""))


def _means(ax: Axes, found: pd.DataFrame, look_of: Mapping[str, dict[str, Any]]) -> None:
    """The interquartile means, methods side by side at a keep."""
    keeps = [keep for keep in ("dense", *looks.keeps(found)) if keep in set(found["keep"])]
    place = points.places(list(look_of))
    width = 0.8 / max(1, len(place))
    rows: list[Any] = list(found.itertuples(index=False))
    for row in rows:
        look = {**looks.hollow(look_of[row.method], row.keep), "linestyle": "none"}
        x = keeps.index(row.keep) + width * place[row.method]
        limits = [[100 * (row.share - row.share_low)], [100 * (row.share_high - row.share)]]
        ax.errorbar([x], [100 * row.share], limits, capsize=2, capthick=0.8, elinewidth=0.8, **look)
    ax.xaxis.set_major_locator(FixedLocator(list(range(len(keeps)))))
    ax.xaxis.set_major_formatter(FixedFormatter(keeps))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(-0.6, max(len(keeps), 1) - 0.4)
