"""Claims: what the paper says of FLARE, judged from the runs.

`flare.analysis.rules` has the claims and their rules, `flare.analysis.comparing` compares the cells that each claim is
about, seed by seed; here the judgement becomes claims.csv, claims.md and claims.tex.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pandas as pd

from flare.analysis.comparing import cells_of, gains, losses, pairs
from flare.analysis.level import LEVEL, percent
from flare.analysis.rules import CLAIMS, GENERAL
from flare.analysis.tables import read_table
from flare.analysis.text import NONE, TIMES, csv, latex, markdown
from flare.columns import CLAIMS as COLUMNS
from flare.files import write_whole


def judge(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per comparison that the runs (rows of runs.csv) allow, by claim and in their order.

    Differences are percentage points of final test accuracy or, for the sparsity gain, a ratio. n: seeds compared.
    reference: of "unavailable", the experiment of the family in which the most clients answer; else empty.
    """
    cells = cells_of(runs)
    rows = list(itertools.chain(pairs(cells), gains(cells), losses(cells, runs)))
    order = {name: place for place, name in enumerate(CLAIMS)}
    rows.sort(key=lambda row: order[row["claim"]])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(folder: Path) -> None:
    """Write claims.csv, claims.md and claims.tex into the folder of tables, from its runs.csv."""
    judged = judge(read_table(folder, "runs"))
    people = _as_text(judged)
    rules = [f"{name}: {claim.statement}. Rule: {claim.rule} ({claim.unit})." for name, claim in CLAIMS.items()]
    lines = [*rules, GENERAL]
    table = markdown(people, left=("claim", "experiment", "compared", "verdict"))
    write_whole(folder / "claims.csv", csv(judged))
    write_whole(folder / "claims.md", "\n".join([table, *(f"- {line}" for line in lines), ""]).encode())
    write_whole(folder / "claims.tex", latex(people, "llrlrrrl", notes=lines).encode())


def _as_text(judged: pd.DataFrame) -> pd.DataFrame:
    """The judgement for people: what is compared in one column, the interval in one, the verdict with its reason."""
    rows: list[Any] = list(judged.itertuples(index=False))
    return pd.DataFrame(
        {
            "claim": judged["claim"],
            "experiment": judged["experiment"],
            "E": judged["local_epochs"].astype("str"),
            "compared": [_compared(row) for row in rows],
            "difference": [_number(row.difference, row.unit) for row in rows],
            f"{percent(LEVEL)} interval": [
                NONE if math.isnan(row.low) else f"{_number(row.low, row.unit)} to {_number(row.high, row.unit)}"
                for row in rows
            ],
            "n": judged["n"].astype("str"),
            "verdict": [f"{row.verdict} ({row.reason})" if row.reason else row.verdict for row in rows],
        },
        dtype="str",
    )


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "inf"
    return f"{round(value, 2) + 0.0:+.2f}" if unit == "points" else f"{value:.3g}{TIMES}"


def _compared(row: Any) -> str:
    at = "" if row.keep == row.baseline_keep and row.claim != "gain" else f" {row.baseline_keep}"
    under = f" (from {row.reference})" if row.reference else ""
    return f"{row.method} {row.keep}, {row.baseline}{at}{under}"
