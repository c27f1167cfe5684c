"""What it costs to get there: rounds, bits, local steps and modelled seconds until a run first has an accuracy.

The accuracies are shares of dense FedAvg's mean late accuracy in the same experiment with as many local epochs, and
those that are asked for. A run that never has it, or diverged before, is censored: it counts as longer than all others,
so that a number is the median over all runs of a cell, empty where half of them or more never get there. Between two
evaluations nothing is guessed: what counts is the first evaluation with that accuracy.

seconds are those of the wire alone, by a link as `Link` describes it; clients send side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flare.algorithms._looks import label
from flare.analysis.level import percent
from flare.analysis.rules import DENSE
from flare.analysis.tables import read_table
from flare.analysis.text import NONE, csv, latex, markdown
from flare.columns import CELL, IDENTITY, REACHED
from flare.files import write_whole
from flare.runs.record import size

SHARES = (0.9, 0.95, 0.99)
_COSTS = ("rounds", "uplink_bits", "total_bits", "client_steps", "seconds")


@dataclass(frozen=True)
class Link:
    """A client's connection: megabits a second up and down, and the seconds until an answer begins."""

    uplink_mbps: float = 10.0
    downlink_mbps: float = 50.0
    latency_ms: float = 50.0

    def seconds(self, rounds: Any, uplink: Any, downlink: Any) -> Any:
        """Of so many rounds in which a client sends and is sent so many bits, all of the rounds together."""
        wire = uplink / (1e6 * self.uplink_mbps) + downlink / (1e6 * self.downlink_mbps)
        return wire + rounds * 2 * self.latency_ms / 1000


def reached(
    runs: pd.DataFrame, rounds: pd.DataFrame, targets: Sequence[float] = (), link: Link | None = None
) -> pd.DataFrame:
    """One row (REACHED) per cell and target, from runs.csv and rounds.csv; targets: accuracies in 0..1."""
    costs = _costs(runs, rounds, link or Link())
    own = dict(iter(costs.groupby(list(IDENTITY), sort=False)))
    rows = []
    for cell, members in runs.groupby(list(CELL), sort=False):
        for name, accuracy in _targets(runs, members, targets):
            first = [_first(own.get(tuple(key)), accuracy) for key in members[list(IDENTITY)].itertuples(index=False)]
            found = np.array(first, dtype="float64")
            # Infinity, of what is never reached, sorts last; what is not known (NaN) stays unknown.
            medians = [math.nan if math.isinf(m) else float(m) for m in np.median(found, axis=0)]
            there = int(np.isfinite(found[:, 0]).sum())
            row = dict(zip(CELL, cell, strict=True)) | {"target": name, "accuracy": accuracy, "n": len(found)}
            rows.append(row | {"reached": there} | dict(zip(_COSTS, medians, strict=True)))
    return pd.DataFrame(rows, columns=list(REACHED))


def _targets(runs: pd.DataFrame, cell: pd.DataFrame, given: Sequence[float]) -> Iterator[tuple[str, float]]:
    """The names and accuracies of the cell's targets: shares of dense FedAvg's, if it is there, and those given."""
    first = cell.iloc[0]
    dense = runs[(runs["method"] == DENSE) & (runs["keep"] == "dense") & (runs["status"] == "finished")]
    dense = dense[(dense["experiment"] == first["experiment"]) & (dense["local_epochs"] == first["local_epochs"])]
    if len(dense):
        mean = float(dense["late_accuracy"].mean())
        yield from ((f"{percent(share)} of {DENSE}", share * mean) for share in SHARES)
    yield from ((f"{accuracy:g}", float(accuracy)) for accuracy in given)


def _costs(runs: pd.DataFrame, rounds: pd.DataFrame, link: Link) -> pd.DataFrame:
    """What every evaluation had cost: the columns of _COSTS, beside the run and its test accuracy."""
    known = rounds.merge(runs[[*IDENTITY, "available", "steps_per_round"]], on=list(IDENTITY), how="left")
    done = known["round"] + 1
    per_client = known["available"].astype("float64")
    total = known["uplink_bits"] + known["downlink_bits"]
    seconds = link.seconds(done, known["uplink_bits"] / per_client, known["downlink_bits"] / per_client)
    columns = [done, known["uplink_bits"], total, done * known["steps_per_round"].astype("float64"), seconds]
    return known[[*IDENTITY, "test_accuracy"]].assign(**dict(zip(_COSTS, columns, strict=True)))


def _first(evaluations: pd.DataFrame | None, accuracy: float) -> list[float]:
    """The costs at the first evaluation with that accuracy; infinite if there is none."""
    if evaluations is None:
        return [math.inf] * len(_COSTS)
    enough = np.flatnonzero(evaluations["test_accuracy"].to_numpy() >= accuracy)
    if not len(enough):
        return [math.inf] * len(_COSTS)
    return [float(value) for value in evaluations[list(_COSTS)].to_numpy(dtype="float64")[enough[0]]]


def write(folder: Path, targets: Sequence[float] = (), link: Link | None = None) -> None:
    """Write reached.csv, reached.md and reached.tex into the folder of tables, from its runs.csv and rounds.csv."""
    link = link or Link()
    found = reached(read_table(folder, "runs"), read_table(folder, "rounds"), targets, link)
    people = _as_text(found)
    note = (
        "Medians over all runs of a cell up to the first evaluation with that accuracy; a run that never has it counts"
        f" as longer than all others. Seconds are the wire's: {link.uplink_mbps:g} Mbit/s up and {link.downlink_mbps:g}"
        f" down for each client, {link.latency_ms:g} ms each way; no computation."
    )
    write_whole(folder / "reached.csv", csv(found))
    table = markdown(people, left=("experiment", "method", "keep", "target"))
    write_whole(folder / "reached.md", f"{table}- {note}\n".encode())
    write_whole(folder / "reached.tex", latex(people, "lllrlrrrrrr", notes=[note]).encode())


def _as_text(found: pd.DataFrame) -> pd.DataFrame:
    rows: Sequence[Mapping[Any, Any]] = found.to_dict("records")

    def column(name: str, shown: Any) -> list[str]:
        return [NONE if pd.isna(row[name]) else shown(row[name]) for row in rows]

    return pd.DataFrame(
        {
            "experiment": found["experiment"],
            "method": found["method"].map(label),
            "keep": found["keep"],
            "E": found["local_epochs"].astype("str"),
            "target": [f"{row['target'].replace(DENSE, label(DENSE))} ({100 * row['accuracy']:.2f} %)" for row in rows],
            "reached": [f"{row['reached']} of {row['n']}" for row in rows],
            "rounds": column("rounds", "{:,.0f}".format),
            "uplink": column("uplink_bits", size),
            "both ways": column("total_bits", size),
            "client steps": column("client_steps", "{:,.0f}".format),
            "seconds": column("seconds", "{:.3g}".format),
        },
        dtype="str",
    )
