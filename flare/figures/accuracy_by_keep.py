"""Final test accuracy by the fraction sent: the mean over seeds with its {level} t-interval, and faintly the single
seeds; dense methods, which send everything, are horizontal lines with their interval as a band.

See how much accuracy a method gives up as it sends less. A cross at the bottom is a cell in which a run diverged; such
runs are in no mean.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from flare.figures.style import by_keep, layout, looks

TABLES = ("runs",)


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Methods stand side by side at a keep."""
    runs = tables["runs"].assign(percent=100 * tables["runs"]["final_accuracy"])
    figure, axes, legend = by_keep.panels(runs, "percent", "final test accuracy (%)")
    layout.percent(axes)
    return layout.finish(figure, [[looks.handle(**look) for look in legend]], runs)
