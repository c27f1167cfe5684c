"""Samples of each class that each client holds, as the experiment's partition dealt them for its first seed.

A row of even shades is a client whose data look like everybody's; a few dark cells in a row are a client that knows few
classes. For text, a sample is a character.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from flare.figures.style import layout

TABLES = ("labels",)


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """One panel: clients from top to bottom, classes from left to right, shaded by the number of samples."""
    counts = tables["labels"].pivot(index="client", columns="label", values="samples").to_numpy()
    clients, classes = counts.shape
    height = min(max(0.17 * clients, 0.7), 3.4)
    figure = Figure(figsize=(layout.WIDTHS[classes > 20], height + 0.5), layout="constrained")
    ax = figure.subplots()
    ax.grid(False)
    ax.spines[:].set_visible(True)  # a client without a sample of a class is white
    image = ax.imshow(counts, cmap="Blues", norm=PowerNorm(0.5, 0, max(counts.max(), 1)), aspect="auto")
    ax.set_xlabel("class")
    ax.set_ylabel("client")
    bar = figure.colorbar(image, ax=ax, label="samples", aspect=height / 0.1, pad=0.02)
    bar.outline.set_linewidth(0.6)
    for axis, most in ((ax.xaxis, 10), (ax.yaxis, 10), (bar.ax.yaxis, 5)):
        axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    figure.draw_without_rendering()
    return figure
