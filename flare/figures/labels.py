"""Samples of each class that each client holds, as the experiment's partition dealt them for its first seed.

A row of even shades is a client whose data look like everybody's; a few dark cells in a row are a client that knows few
classes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare.figures import _style


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """One panel: clients from top to bottom, classes from left to right, shaded by the number of samples."""
    labels = tables["labels"]
    counts = labels.pivot(index="client", columns="label", values="samples").to_numpy()
    clients, classes = counts.shape
    figure = Figure(figsize=(_style.WIDTHS[classes > 20], 0.9 + min(0.17 * clients, 5.0)), layout="constrained")
    ax = figure.subplots()
    ax.grid(False)
    image = ax.imshow(counts, cmap="cividis_r", vmin=0, vmax=max(int(np.max(counts)), 1), aspect="auto")
    ax.set_xlabel("class")
    ax.set_ylabel("client")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    bar = figure.colorbar(image, ax=ax, label="samples")
    bar.ax.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    bar.outline.set_linewidth(0.6)
    figure.draw_without_rendering()
    return figure
