"""Best test accuracy so far by uplink, what all clients have sent: the mean over seeds and its {level} t-interval.

See what a bit buys: of two curves, the one further left reaches the same accuracy with less uplink (the axis
is logarithmic). The grey staircase is the Pareto front: no mean of any cell reaches as much with less uplink, so what
lies below it is bettered by something else. A run that diverged is a dotted line to a cross at what it had sent, and
is in no mean.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from flare.figures.style import traffic

TABLES = ("runs", "rounds")


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Colour and marker are the method, the line style is the keep."""
    return traffic.draw(tables, ["uplink_bits"], "uplink, all clients (MB)")
