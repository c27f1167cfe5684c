"""Claims: what the paper says of FLARE, judged from the runs.

`flare.analysis.rules` has the claims and their rules, `flare.analysis.comparing` compares the cells that each claim is
about, seed by seed; here the judgement becomes claims.csv, claims.md and claims.tex.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from flare.algorithms._looks import label
from flare.analysis import overall, registered
from flare.analysis.comparing import cells_of, gains, losses, pairs
from flare.analysis.level import LEVEL, percent
from flare.analysis.rules import CLAIMS, DENSE, GENERAL, METHOD, SEEDS
from flare.analysis.statistics import MOST_SEEDS, holm, seeds_to_reach
from flare.analysis.tables import read_table
from flare.analysis.text import NONE, TIMES, csv, latex, markdown
from flare.columns import CLAIMS as COLUMNS
from flare.files import write_whole


def judge(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per comparison that the runs (rows of runs.csv) allow, by claim and in their order.

    Differences are percentage points of late test accuracy or, for the sparsity gain, a ratio. n: seeds compared.
    reference: of "unavailable", the experiment of the family in which the most clients answer; else empty. diverged:
    runs of the compared that did; verdict_if_chance: the verdict if they count as guessing a class.
    """
    rows = _rows(runs)
    guessed = rows
    if (runs["status"] == "diverged").any():
        guessed = _rows(_as_chance(runs))
    otherwise = {_compared_cells(row): row["verdict"] for row in guessed}
    for row in rows:
        row["verdict_if_chance"] = otherwise.get(_compared_cells(row), "")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the table, after Holm's correction over those of one claim that the seeds allow to decide."""
    cells = cells_of(runs)
    rows = list(itertools.chain(pairs(cells), gains(cells), losses(cells, runs)))
    order = {name: place for place, name in enumerate(CLAIMS)}
    rows.sort(key=lambda row: order[row["claim"]])
    for row in rows:
        for side, method, keep in (("", "method", "keep"), ("baseline_", "baseline", "baseline_keep")):
            cell = cells.get((row["experiment"], row["local_epochs"], row[method], row[keep]))
            row[f"{side}effective_keep"] = cell.effective_keep if cell else math.nan
    for name in CLAIMS:
        family = [row for row in rows if row["claim"] == name and _can_be_decided(row)]
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
            if row["verdict"] in ("supported", "refuted") and p >= 1 - LEVEL:
                # The least that the correction can leave to a row is its share of 1 - LEVEL.
                seeds = seeds_to_reach(row["p"], row["n"], 1 - (1 - LEVEL) / len(family))
                would = f"more than {MOST_SEEDS:,}" if seeds is None else f"about {seeds}"
                said = f"not after Holm's correction over {len(family)} comparisons: would be {row['verdict']},"
                said += f" {would} seeds would decide"
                row |= {"verdict": "undecided", "reason": "; ".join(filter(None, (said, row["reason"])))}
                row["seeds_to_decide"] = math.nan if seeds is None else seeds
    return rows


def _can_be_decided(row: Mapping[str, Any]) -> bool:
    return bool(row["n"] >= SEEDS and not row["diverged"] and not math.isnan(row["p"]))


def _compared_cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a row the same one: of a gain, the keeps are what was found."""
    names = ("claim", "experiment", "reference", "local_epochs", "method", "baseline")
    keeps = () if row["claim"] == "gain" else (row["keep"], row["baseline_keep"])
    return (*(row[name] for name in names), *keeps)


def _as_chance(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, those that diverged as finished ones that guess one of the data set's classes."""
    lost = runs["status"] == "diverged"
    chance = {name: overall.chance(str(name)) for name in runs.loc[lost, "dataset"].unique()}
    out = runs.copy()
    out.loc[lost, "late_accuracy"] = runs.loc[lost, "dataset"].map(chance)
    out.loc[lost, "status"] = "finished"
    return out[out["late_accuracy"].notna()]


def write(folder: Path, register: Path | None = None, configuration: str | None = None) -> None:
    """Write claims and overall, each as .csv, .md and .tex, into the folder of tables, from its runs.csv.

    register, configuration: as `flare.analysis.registered.said` has them. If plan.csv is there, too, an undecided row
    says what the seeds that would decide it cost.
    """
    runs = read_table(folder, "runs")
    judged = judge(runs)
    overall.write(folder, runs, judged)
    people = _as_text(judged, _hours(folder))
    rules = [f"{name}: {claim.statement}. Rule: {claim.rule} ({claim.unit})." for name, claim in CLAIMS.items()]
    lines = [*rules, GENERAL, registered.said(register, configuration)]
    table = markdown(people, left=("claim", "experiment", "compared", "verdict"))
    write_whole(folder / "claims.csv", csv(judged))
    write_whole(folder / "claims.md", "\n".join([table, *(f"- {line}" for line in lines), ""]).encode())
    write_whole(folder / "claims.tex", latex(people, "llrlrrrrl", notes=lines).encode())


def _hours(folder: Path) -> dict[str, float]:
    """By experiment the hours of a run, by the plan of the sweep; none without a plan."""
    if not (folder / "plan.csv").exists():
        return {}
    plan = read_table(folder, "plan").dropna(subset=["hours", "runs"])
    return dict(zip(plan["experiment"], plan["hours"] / plan["runs"], strict=True))


def _as_text(judged: pd.DataFrame, hours: Mapping[str, float]) -> pd.DataFrame:
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
            "p (Holm)": [NONE if math.isnan(row.p_holm) else f"{row.p_holm:.2g}" for row in rows],
            "n": judged["n"].astype("str"),
            "verdict": [_verdict(row, hours) for row in rows],
        },
        dtype="str",
    )


def _verdict(row: Any, hours: Mapping[str, float]) -> str:
    """The verdict with its reason, what more seeds cost, and what it would be if diverged runs counted."""
    otherwise = f"{row.verdict_if_chance} if they count as chance" if row.diverged and row.verdict_if_chance else ""
    cost = ""
    # Of a sparsity gain every keep of both methods would be run again.
    if row.claim != "gain" and row.experiment in hours and row.seeds_to_decide > row.n:
        more = int(row.seeds_to_decide) - row.n
        runs = (4 if row.claim == "unavailable" else 2) * more
        cost = f"{more} more: {runs} runs, {runs * hours[row.experiment]:.3g} hours"
    said = "; ".join(filter(None, (_named(row), cost, otherwise)))
    return f"{row.verdict} ({said})" if said else str(row.verdict)


def _named(row: Any) -> str:
    """The reason, in which claims.csv has the methods' keys, as people are told it."""
    keys = "|".join({row.method, row.baseline, METHOD, DENSE})
    return re.sub(rf"(?<![\w.-])(?:{keys})(?![\w.-])", lambda found: label(found[0]), row.reason)


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "inf"
    return f"{round(value, 2) + 0.0:+.2f}" if unit == "points" else f"{value:.3g}{TIMES}"


def _compared(row: Any) -> str:
    at = "" if row.keep == row.baseline_keep and row.claim != "gain" else f" {row.baseline_keep}"
    under = f" (from {row.reference})" if row.reference else ""
    return f"{label(row.method)} {row.keep}, {label(row.baseline)}{at}{under}"
