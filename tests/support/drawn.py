"""What a figure shows, read back from what was drawn: curves, points, bands, spans, error bars, ranges."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D

Row = tuple[float, ...]
# Kinds of what is read, in the order in which they are returned.
KINDS = ("curves", "points", "faint", "crosses", "bands", "spans", "bars", "ranges")


def read(ax: Axes) -> dict[str, list[list[Row]]]:
    """By kind a list of what was drawn, each as its rows; empty kinds are left out.

    curves: (x, y) of lines; points: of markers without a line; faint: of those that are see-through; crosses: of what
    diverged, y in the panel's height if it is no number of the data. bands: (x, low, high); spans: (low, high) right
    across; bars: (x, middle, low, high) of error bars; ranges: (x, low, high) of upright lines.
    """
    found: dict[str, list[list[Row]]] = {kind: [] for kind in KINDS}
    of_bars = {id(line) for bar in ax.containers if isinstance(bar, ErrorbarContainer) for line in (bar[0], *bar[1])}
    own = {id(c) for bar in ax.containers if isinstance(bar, ErrorbarContainer) for c in bar[2]}
    for line in ax.lines:
        if id(line) not in of_bars and len(line.get_xdata()):
            found[_kind(line)].append([(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)])
    for collection in ax.collections:
        if isinstance(collection, PolyCollection):
            found["bands"].append(_band(collection))
        elif isinstance(collection, LineCollection) and id(collection) not in own:
            found["ranges"].append(_upright(collection))
    for patch in ax.patches:
        low, high = patch.get_extents().transformed(ax.transData.inverted()).intervaly
        found["spans"].append([(float(low), float(high))])
    for bar in ax.containers:
        if isinstance(bar, ErrorbarContainer):
            middles = [(float(x), float(y)) for x, y in zip(*bar[0].get_data(), strict=True)]
            ends = _upright(bar[2][0]) if bar[2] else []
            assert [x for x, _ in middles] == [x for x, _, _ in ends]
            found["bars"].append([(x, y, low, high) for (x, y), (_, low, high) in zip(middles, ends, strict=True)])
    return {kind: things for kind, things in found.items() if things}


def flat(things: list[list[Row]]) -> list[float]:
    """As one list of numbers, which pytest.approx compares: how many rows, then the rows, thing after thing."""
    return [number for thing in things for number in (len(thing), *(number for row in thing for number in row))]


def _kind(line: Line2D) -> str:
    if line.get_marker() == "x":
        return "crosses"
    if line.get_linestyle() != "None":
        return "curves"
    return "faint" if line.get_alpha() else "points"


def _band(collection: PolyCollection) -> list[Row]:
    """By x the lowest and the highest of the outline; (x, nan, nan) is not drawn."""
    corners = np.concatenate([path.vertices for path in collection.get_paths()] or [np.empty((0, 2))])
    return [
        (float(x), float(corners[corners[:, 0] == x, 1].min()), float(corners[corners[:, 0] == x, 1].max()))
        for x in sorted(set(corners[:, 0]))
    ]


def _upright(collection: LineCollection) -> list[Row]:
    return [(float(low[0]), float(low[1]), float(high[1])) for low, high in collection.get_segments()]
