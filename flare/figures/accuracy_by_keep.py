"""Final test accuracy by the fraction sent: the mean over seeds with its 95 % t-interval, and faintly the single seeds;
dense methods, which send everything, are horizontal lines with their interval as a band.

See how much accuracy a method gives up as it sends less. A cross at the bottom is a cell in which a run diverged; such
runs are in no mean.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from flare.figures import _by_keep, _style


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Methods stand side by side at a keep."""
    runs = tables["runs"].assign(percent=100 * tables["runs"]["final_accuracy"])
    figure, axes, legend = _by_keep.panels(runs, "percent", "final test accuracy (%)")
    _style.percent(axes)
    return _style.finish(figure, [[_style.handle(**look) for look in legend]], runs)
