"""Wall time of a communication round by the fraction sent, evaluation included: the mean over seeds with its {level}
t-interval, and faintly the single seeds; dense methods, which send everything, are horizontal lines.

See what a method's own work, choosing what to send and pulling, adds to the training. Jobs that ran side by side slow
one another, so compare what ran under the same conditions; `costs.csv` says on which device, with how many threads.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from flare.columns import IDENTITY
from flare.figures.style import by_keep, layout, looks

TABLES = ("runs", "costs")


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Methods stand side by side at a keep."""
    runs = tables["runs"].merge(tables["costs"], on=list(IDENTITY), validate="one_to_one")
    runs["seconds"] = runs["wall_seconds"] / runs["rounds"].where(runs["rounds"] > 0).astype("float64")
    figure, axes, legend = by_keep.panels(runs, "seconds", "wall time (s / round)")
    axes[0].set_ylim(bottom=0)
    return layout.finish(figure, [[looks.handle(**look) for look in legend]], runs)
