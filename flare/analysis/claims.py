"""Claims: what the paper says of FLARE, judged from the runs.

Greidi & Cohen (arXiv 2312.13795) say that FLARE is better than each baseline at the same keep, as good as one at ten
times its sparsity, near dense FedAvg, and loses less where clients are unavailable. `judge` compares the cells that
each claim is about, seed by seed, so that what two methods of one seed have in common (data, initial weights, clients
that answer) cancels out. The interval is the percentile bootstrap's (Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, ch. 13) over seeds. A claim that it cannot decide stays undecided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flare.analysis import tables
from flare.runs.record import write_whole

METHOD, DENSE = "flare", "fedavg"
# Accuracies this near, in points, are as good as each other.
MARGIN = 1.0
# Of dense FedAvg's accuracy: what a method must reach for its keep to count.
SHARE = 0.95
SPARSER = 10.0
# Seeds below which nothing is decided.
SEEDS = 3
RESAMPLES = 10_000
# What is nearer than this, in points, differs by how numbers are rounded.
_NOISE = 1e-9

COLUMNS = (
    *("claim", "experiment", "reference", "local_epochs", "method", "keep", "baseline", "baseline_keep"),
    *("difference", "low", "high", "unit", "n", "verdict", "reason", "rule"),
)


@dataclass(frozen=True)
class Claim:
    """A claim: what it says, what is measured, and the number that the interval must lie above."""

    statement: str
    measure: str
    threshold: float
    unit: str = "points"

    @property
    def rule(self) -> str:
        """The rule by which it is judged, as the tables state it."""
        return f"{self.measure}: supported where low > {self.threshold:g}, refuted where high < {self.threshold:g}"


CLAIMS = {
    "better": Claim(
        "FLARE is better than a baseline at the same keep", "final accuracy of flare minus that of the baseline", 0
    ),
    "sparser": Claim(
        "FLARE is as good as a baseline at 10 times its sparsity",
        "final accuracy of flare minus that of the baseline at 10 times the keep",
        -MARGIN,
    ),
    "dense": Claim(
        "FLARE is within 1 point of dense FedAvg", "final accuracy of flare minus that of dense fedavg", -MARGIN
    ),
    "gain": Claim(
        "FLARE reaches 95 % of dense FedAvg at a smaller keep than a baseline (sparsity gain)",
        "the baseline's smallest keep with a mean final accuracy of at least 95 % of dense fedavg's, over that of flare"
        " (inf: the baseline reaches it at no keep of the sweep, 0: flare does not)",
        1,
        "ratio",
    ),
    "unavailable": Claim(
        "FLARE loses less than a baseline where clients are unavailable",
        "what the baseline's final accuracy loses from the reference, in which more clients answer, minus what flare's"
        " loses",
        0,
    ),
}
GENERAL = (
    f"Every interval is a 95 % percentile bootstrap over seeds, paired by seed, of {RESAMPLES:,} resamples drawn with a"
    f" fixed seed. Undecided: an interval on both sides, fewer than {SEEDS} seeds, or a diverged run among the compared"
    " (for the sparsity gain: dense fedavg's, or one of a method at a smaller keep than it reaches; a keep with a"
    " diverged run does not count as reached). Of 3 seeds the interval spans the smallest to the largest difference;"
    " below 6 no such interval covers 95 %. Where a study chose the settings of some of the compared only, the verdict"
    " says so: what was tuned has the advantage."
)


def judge(runs: pd.DataFrame) -> pd.DataFrame:
    """One row (COLUMNS) per comparison that the runs (rows of runs.csv) allow, by claim and in their order.

    Differences are percentage points of final test accuracy or, for the sparsity gain, a ratio. n: seeds compared.
    reference: of "unavailable", the experiment of the family in which the most clients answer; else empty.
    """
    cells = {
        key: _Cell(
            pd.Series(100 * done["final_accuracy"].to_numpy(), index=done["seed"].to_numpy()),
            int((cell["status"] == "diverged").sum()),
            bool(cell["tuned"].any()),
        )
        for key, cell in runs.groupby(["experiment", "local_epochs", "method", "keep"], sort=False)
        for done in [cell[cell["status"] == "finished"]]
    }
    rows = list(itertools.chain(_pairs(cells), _gains(cells), _losses(cells, runs)))
    order = {name: place for place, name in enumerate(CLAIMS)}
    rows.sort(key=lambda row: order[row["claim"]])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(folder: Path) -> None:
    """Write claims.csv, claims.md and claims.tex into the folder of tables, from its runs.csv."""
    judged = judge(tables.read_table(folder, "runs"))
    people = _for_people(judged)
    rules = [f"{name}: {claim.statement}. Rule: {claim.rule} ({claim.unit})." for name, claim in CLAIMS.items()]
    lines = [*rules, GENERAL]
    markdown = tables.markdown(people, left=("claim", "experiment", "compared", "verdict"))
    write_whole(folder / "claims.csv", tables.csv(judged))
    write_whole(folder / "claims.md", "\n".join([markdown, *(f"- {line}" for line in lines), ""]).encode())
    write_whole(folder / "claims.tex", tables.latex(people, "llrlrrrl", notes=lines).encode())


@dataclass(frozen=True)
class _Cell:
    """Final accuracy in percent of the finished runs, by seed; how many diverged; whether a study chose settings."""

    accuracy: pd.Series[float]
    diverged: int
    tuned: bool


_Key = tuple[str, int, str, str]
_Cells = dict[Any, _Cell]


def _pairs(cells: _Cells) -> Iterator[dict[str, Any]]:
    """The claims that compare FLARE at a keep with one other cell of its experiment."""
    for key, own in _of_flare(cells):
        experiment, epochs, _, keep = key
        for (e, ep, method, other_keep), other in cells.items():
            if (e, ep) != (experiment, epochs) or method == METHOD:
                continue
            if method == DENSE and other_keep == "dense":
                claim = "dense"
            elif other_keep == keep:
                claim = "better"
            elif math.isclose(tables.fraction(other_keep), SPARSER * tables.fraction(keep), rel_tol=1e-9):
                claim = "sparser"
            else:
                continue
            frame = _common(own, other)
            means = _means(frame[0] - frame[1])
            yield _row(claim, key, method, other_keep) | _decide(claim, means, len(frame), {METHOD: own, method: other})


def _gains(cells: _Cells) -> Iterator[dict[str, Any]]:
    """The sparsity gain of FLARE over every baseline."""
    for experiment, epochs in dict.fromkeys(key[:2] for key, _ in _of_flare(cells)):
        dense = cells.get((experiment, epochs, DENSE, "dense"))
        if dense is None:
            continue
        keeps: dict[str, dict[str, _Cell]] = {}
        for (e, ep, method, keep), cell in cells.items():
            if (e, ep) == (experiment, epochs) and keep != "dense":
                keeps.setdefault(method, {})[keep] = cell
        for baseline in keeps:
            if baseline == METHOD:
                continue
            whole = {
                (method, keep): cell.accuracy
                for method in (METHOD, baseline)
                for keep, cell in keeps[method].items()
                if not cell.diverged
            }
            accuracy = pd.DataFrame({("dense", "dense"): dense.accuracy, **whole}).dropna()
            n = len(accuracy)
            means = {key: _means(accuracy[key]) for key in accuracy}
            reached = {method: np.full(1 + RESAMPLES, math.inf) for method in (METHOD, baseline)}
            for method, keep in whole:
                enough = means[method, keep] >= SHARE * means["dense", "dense"] - _NOISE
                smaller = np.minimum(reached[method], tables.fraction(keep))
                reached[method] = np.where(enough, smaller, reached[method])
            # Where neither reaches it, a resample shows no gain.
            neither = np.isinf(reached[METHOD]) & np.isinf(reached[baseline])
            with np.errstate(invalid="ignore"):
                ratio = np.where(neither, 1.0, reached[baseline] / reached[METHOD])
            smallest = {method: _spelt(keeps[method], float(found[0])) for method, found in reached.items()}
            row = _row("gain", (experiment, epochs, METHOD, smallest[METHOD]), baseline, smallest[baseline])
            sides = {name: next(iter(keeps[name].values())) for name in (METHOD, baseline)}
            row |= _decide("gain", ratio, n, {DENSE: dense}, tuned=sides)
            # Such a run might have reached it, and so decides nothing, as in the other claims.
            lost = [
                f"{method} {keep}: {cell.diverged} diverged"
                for method in (METHOD, baseline)
                for keep, cell in keeps[method].items()
                if cell.diverged and tables.fraction(keep) < reached[method][0]
            ]
            if lost and n >= SEEDS and not dense.diverged:
                row |= {"verdict": "undecided", "reason": "; ".join(lost)}
            if neither[0]:
                row |= {"difference": math.nan, "low": math.nan, "high": math.nan, "verdict": "undecided"}
                if n >= SEEDS and not dense.diverged:
                    row["reason"] = "; ".join(["neither reaches 95 % of dense fedavg at a keep of the sweep", *lost])
            yield row


def _losses(cells: _Cells, runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Less loss under unavailability: between experiments of one family."""
    asked = runs.drop_duplicates("experiment").set_index("experiment")[["family", "available"]]
    for _, family in asked.groupby("family", sort=False):
        answering = {str(name): int(count) for name, count in family["available"].dropna().items()}
        reference = max(answering, key=answering.__getitem__, default="")
        for experiment in (name for name, count in answering.items() if count < answering[reference]):
            for key, own in _of_flare(cells):
                if key[0] != experiment:
                    continue
                _, epochs, _, keep = key
                own_full = cells.get((reference, *key[1:]))
                for (e, ep, method, other_keep), other in cells.items():
                    full = cells.get((reference, epochs, method, other_keep))
                    same = (e, ep) == (experiment, epochs) and other_keep in (keep, "dense")
                    if not same or method == METHOD or own_full is None or full is None:
                        continue
                    frame = _common(own_full, own, full, other)
                    means = _means((frame[2] - frame[3]) - (frame[0] - frame[1]))
                    row = _row("unavailable", key, method, other_keep) | {"reference": reference}
                    compared = {METHOD: own, method: other}
                    compared |= {f"{METHOD} in {reference}": own_full, f"{method} in {reference}": full}
                    yield row | _decide("unavailable", means, len(frame), compared)


def _of_flare(cells: _Cells) -> list[tuple[_Key, _Cell]]:
    return [(key, cell) for key, cell in cells.items() if key[2] == METHOD and key[3] != "dense"]


def _common(*cells: _Cell) -> pd.DataFrame:
    """The accuracies of the cells as columns 0, 1, …, in the seeds that all of them finished."""
    return pd.concat([cell.accuracy for cell in cells], axis=1, join="inner", keys=range(len(cells))).sort_index()


def _draws(n: int) -> NDArray[np.int64]:
    """The n seeds themselves, then RESAMPLES draws of n with replacement, (1 + RESAMPLES, n); the same for every n."""
    return np.concatenate([np.arange(n)[None], np.random.default_rng(n).integers(0, max(n, 1), (RESAMPLES, n))])


def _means(values: pd.Series[float]) -> NDArray[np.float64]:
    """The mean of the values, then those of the resamples, (1 + RESAMPLES,); NaN of nothing."""
    found: NDArray[np.float64] = values.to_numpy()[_draws(len(values))].sum(axis=1)
    return found / len(values) if len(values) else np.full(1 + RESAMPLES, math.nan)


def _row(claim: str, key: _Key, baseline: str, baseline_keep: str) -> dict[str, Any]:
    experiment, epochs, method, keep = key
    return {
        "claim": claim,
        "experiment": experiment,
        "reference": "",
        "local_epochs": epochs,
        "method": method,
        "keep": keep,
        "baseline": baseline,
        "baseline_keep": baseline_keep,
    }


def _decide(
    claim: str,
    values: NDArray[np.float64],
    n: int,
    compared: dict[str, _Cell],
    tuned: dict[str, _Cell] | None = None,
) -> dict[str, Any]:
    """The rest of a row, from the difference in n seeds and, behind it, in their resamples: interval and verdict.

    tuned: the cells that are to be tuned alike, where they are not the compared.
    """
    low = high = math.nan
    if n > 1:
        cut = RESAMPLES // 40
        ordered = np.sort(values[1:])
        low, high = _plain(ordered[cut]), _plain(ordered[-cut - 1])
    threshold = CLAIMS[claim].threshold
    lost = [f"{name}: {cell.diverged} diverged" for name, cell in compared.items() if cell.diverged]
    verdict, reason = "undecided", ""
    if lost:
        reason = "; ".join(lost)
    elif n < SEEDS:
        reason = f"{n} seed{'s' * (n != 1)}, {SEEDS} needed"
    elif low > threshold:
        verdict = "supported"
    elif high < threshold:
        verdict = "refuted"
    else:
        reason = f"{threshold:g} lies in the interval"
    chosen = {name: cell.tuned for name, cell in (tuned or compared).items()}
    if any(chosen.values()) and not all(chosen.values()):
        only = ", ".join(name for name, cell in chosen.items() if cell)
        reason = "; ".join(filter(None, (reason, f"tuned: only {only}")))
    return {
        "difference": _plain(values[0]),
        "low": low,
        "high": high,
        "unit": CLAIMS[claim].unit,
        "n": n,
        "verdict": verdict,
        "reason": reason,
        "rule": CLAIMS[claim].rule,
    }


def _plain(value: np.float64) -> float:
    """Without the noise of its last digits, and no negative zero: a difference of nothing is 0."""
    return round(float(value), 9) + 0.0


def _spelt(keeps: dict[str, _Cell], value: float) -> str:
    """The keep as the configuration spells it; "none" where none was reached."""
    return next((keep for keep in keeps if tables.fraction(keep) == value), "none")


def _for_people(judged: pd.DataFrame) -> pd.DataFrame:
    def number(value: float, unit: str) -> str:
        if math.isnan(value):
            return tables.NONE
        if math.isinf(value):
            return "inf"
        return f"{round(value, 2) + 0.0:+.2f}" if unit == "points" else f"{value:.3g}{tables.TIMES}"

    def compared(row: Any) -> str:
        at = "" if row.keep == row.baseline_keep and row.claim != "gain" else f" {row.baseline_keep}"
        under = f" (from {row.reference})" if row.reference else ""
        return f"{row.method} {row.keep}, {row.baseline}{at}{under}"

    rows: list[Any] = list(judged.itertuples(index=False))
    return pd.DataFrame(
        {
            "claim": judged["claim"],
            "experiment": judged["experiment"],
            "E": judged["local_epochs"].astype("str"),
            "compared": [compared(row) for row in rows],
            "difference": [number(row.difference, row.unit) for row in rows],
            "95 % interval": [
                tables.NONE if math.isnan(row.low) else f"{number(row.low, row.unit)} to {number(row.high, row.unit)}"
                for row in rows
            ],
            "n": judged["n"].astype("str"),
            "verdict": [f"{row.verdict} ({row.reason})" if row.reason else row.verdict for row in rows],
        },
        dtype="str",
    )
