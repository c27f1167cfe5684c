"""Best test accuracy so far by uplink, what all clients have sent: the mean over seeds and its 95 % t-interval.

See what a bit buys: of two curves, the one further left reaches the same accuracy with less uplink (the axis
is logarithmic). A run that diverged is a dotted line to a cross at what it had sent, and is in no mean.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from flare.figures import _style

_BITS_PER_MEGABYTE = 8e6


@_style.paper()
def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """Panels: local_epochs. Colour and marker are the method, the line style is the keep."""
    runs, rounds = tables["runs"], tables["rounds"].copy()
    rounds["uplink"] = rounds["uplink_bits"] / _BITS_PER_MEGABYTE
    run = ["method", "keep", "local_epochs", "seed"]
    rounds["test_accuracy"] = rounds.sort_values("round").groupby(run)["test_accuracy"].cummax()
    looks, dashes = _style.methods(runs), _style.keep_dashes(runs)
    epochs = sorted(set(runs["local_epochs"]))
    figure, axes = _style.panels(
        _style.wrap(len(epochs)),
        height=2.3,
        x="uplink, all clients (MB)",
        y="best test accuracy so far (%)",
        wide=len(looks) * len(dashes) > 10,
    )
    by_method, by_keep = {}, {}
    for ax, local_epochs in zip(axes, epochs, strict=True):
        if len(epochs) > 1:
            ax.set_title(f"E = {local_epochs}")
        for order, cell in enumerate(_style.cells({"runs": runs, "rounds": rounds}, local_epochs)):
            look = {**_style.hollow(looks[cell.method], cell.keep), "linestyle": dashes[cell.keep]}
            by_method[look["label"]] = _style.handle(**{**look, "linestyle": "none"})
            if cell.keep != "dense":
                name = f"keep = {cell.keep}"
                by_keep[name] = _style.handle(label=name, color="black", linestyle=dashes[cell.keep])
            _style.curve(ax, cell.finished, "uplink", order=order, **look)
            for lost, own in cell.diverged:
                end = lost["uplink_bits"] / _BITS_PER_MEGABYTE
                _style.lost(ax, own["uplink"], own["test_accuracy"], end, look["color"])
    _style.percent(axes)
    _style.logarithmic(axes[0])
    return _style.finish(figure, [list(by_method.values()), list(by_keep.values())], runs)
