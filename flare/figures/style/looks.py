"""How methods and fractions sent look: one look per method for the whole paper, the marks, the legend's entries."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from flare import algorithms
from flare.algorithms._looks import label, look
from flare.analysis.statistics import fraction

# For methods whose file says none, with marker and dashes that tell them apart in grey, too. The colours are of
# seaborn's palette "colorblind".
_COLOURS = ("#56B4E9", "#CA9161", "#949494", "#FBAFE4", "#ECE133")
_MARKERS = ("X", "<", ">", "p", "h", "*", "d")
_DASHES: tuple[Any, ...] = ((0, (3, 1)), (0, (3, 1, 1, 1)), (0, (1.5, 1)), (0, (8, 2)), (0, (8, 2, 2, 2)))

# Line styles of the fractions sent, where a figure's colours are the methods.
_KEEP_DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (4, 1, 1, 1)),
    (0, (1, 1)),
    (0, (7, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
)

# Around the value that a study chose.
RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 7.5,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "linestyle": "none",
}


def methods(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Per method of the frame, in its order: label, color, marker and linestyle for matplotlib.

    They are the constants LABEL, COLOUR, MARKER and DASHES of the method's file. A method that lacks one gets it by its
    place among all such methods, sorted by name: those of the folder of methods and of this frame. So it looks the same
    in all experiments.
    """
    present = list(dict.fromkeys(frame["method"]))
    every = sorted({*algorithms.names(), *present})
    out: dict[str, dict[str, Any]] = {name: {"label": label(name)} for name in present}
    for key, constant, others in (
        ("color", "COLOUR", _COLOURS),
        ("marker", "MARKER", _MARKERS),
        ("linestyle", "DASHES", _DASHES),
    ):
        own = {name: look(name).get(constant) for name in every}
        lacking = [name for name in every if own[name] is None]
        for name in present:
            out[name][key] = others[lacking.index(name) % len(others)] if own[name] is None else own[name]
    return out


def hollow(look: dict[str, Any], keep: str) -> dict[str, Any]:
    """The look of a method at a keep: a run that sends everything has hollow markers."""
    return {**look, "label": f"{look['label']} (dense)", "markerfacecolor": "white"} if keep == "dense" else look


def keeps(frame: pd.DataFrame) -> list[str]:
    """The fractions sent, descending, without "dense"."""
    return sorted(set(frame["keep"]) - {"dense"}, key=fraction, reverse=True)


def keep_dashes(frame: pd.DataFrame) -> dict[str, Any]:
    """A line style per fraction sent; "dense" and the largest fraction have a whole line."""
    return {"dense": "-"} | {keep: _KEEP_DASHES[i % len(_KEEP_DASHES)] for i, keep in enumerate(keeps(frame))}


def cross(color: str) -> dict[str, Any]:
    """The mark of a diverged run."""
    return {
        "color": color,
        "marker": "x",
        "markersize": 5,
        "markeredgewidth": 1.3,
        "linestyle": "none",
        "clip_on": False,
    }


def handle(**look: Any) -> Line2D:
    """A legend's entry."""
    return Line2D([], [], **look)
