"""Best test accuracy so far by total traffic, what all clients have sent and were sent: the mean over seeds and its
{level} t-interval.

See what is left of a sparse uplink's advantage once the downlink counts, which is dense unless a method compresses it:
then no method needs less than half of dense FedAvg's traffic for as many rounds. The grey staircase is the Pareto
front: no mean of any cell reaches as much with less traffic. A run that diverged is a dotted line to a cross at what it
had cost, and is in no mean.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from flare.figures.style import traffic

TABLES = ("runs", "rounds")


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Colour and marker are the method, the line style is the keep."""
    return traffic.draw(tables, ["uplink_bits", "downlink_bits"], "total, all clients (MB)")
