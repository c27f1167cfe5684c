"""Comparing cells for the claims: which cells each claim is about, their differences by seed, the verdict.

A cell is the runs of one experiment, local_epochs, method and keep. What two methods of one seed have in common (data,
initial weights, clients that answer) cancels out in their difference. A claim that the interval cannot decide stays
undecided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flare.analysis.level import percent
from flare.analysis.rules import CLAIMS, DENSE, METHOD, SEEDS, SHARE, SPARSER
from flare.analysis.statistics import RESAMPLES, fraction, percentile_interval, resampled_means

# What is nearer than this, in points, differs by how numbers are rounded.
_NOISE = 1e-9

# Experiment, local_epochs, method, keep.
Key = tuple[str, int, str, str]


@dataclass(frozen=True)
class Cell:
    """Final accuracy in percent of the finished runs, by seed; how many diverged; whether a study chose settings."""

    accuracy: pd.Series[float]
    diverged: int
    tuned: bool


Cells = dict[Any, Cell]  # by Key


def cells_of(runs: pd.DataFrame) -> Cells:
    """The cells of the runs (rows of runs.csv), in their order."""
    return {
        key: Cell(
            pd.Series(100 * done["final_accuracy"].to_numpy(), index=done["seed"].to_numpy()),
            int((cell["status"] == "diverged").sum()),
            bool(cell["tuned"].any()),
        )
        for key, cell in runs.groupby(["experiment", "local_epochs", "method", "keep"], sort=False)
        for done in [cell[cell["status"] == "finished"]]
    }


def pairs(cells: Cells) -> Iterator[dict[str, Any]]:
    """The claims that compare FLARE at a keep with one other cell of its experiment."""
    for key, own in _of_flare(cells):
        for (*place, method, keep), other in cells.items():
            claim = _claim_of_pair(key[3], method, keep) if tuple(place) == key[:2] else None
            if claim:
                frame = _common(own, other)
                means = resampled_means(frame[0] - frame[1])
                yield _row(claim, key, method, keep) | _decide(claim, means, len(frame), {METHOD: own, method: other})


def _claim_of_pair(keep: str, method: str, other_keep: str) -> str | None:
    """The claim that compares FLARE at a keep with another method's cell of the same experiment."""
    if method == METHOD:
        return None
    if method == DENSE and other_keep == "dense":
        return "dense"
    if other_keep == keep:
        return "better"
    sparser = math.isclose(fraction(other_keep), SPARSER * fraction(keep), rel_tol=1e-9)
    return "sparser" if sparser else None


def gains(cells: Cells) -> Iterator[dict[str, Any]]:
    """The sparsity gain of FLARE over every baseline."""
    for experiment, epochs in dict.fromkeys(key[:2] for key, _ in _of_flare(cells)):
        dense = cells.get((experiment, epochs, DENSE, "dense"))
        if dense is None:
            continue
        keeps: dict[str, dict[str, Cell]] = {}
        for (e, ep, method, keep), cell in cells.items():
            if (e, ep) == (experiment, epochs) and keep != "dense":
                keeps.setdefault(method, {})[keep] = cell
        for baseline in keeps:
            if baseline != METHOD:
                yield _gain(experiment, epochs, dense, {name: keeps[name] for name in (METHOD, baseline)})


def _gain(experiment: str, epochs: int, dense: Cell, keeps: Mapping[str, dict[str, Cell]]) -> dict[str, Any]:
    """The sparsity gain of the first method over the second: how many times smaller a keep suffices."""
    method, baseline = keeps
    reached, n = _smallest_keeps(dense, keeps)
    # If neither reaches it, a resample shows no gain.
    neither = np.isinf(reached[method]) & np.isinf(reached[baseline])
    with np.errstate(invalid="ignore"):
        ratio = np.where(neither, 1.0, reached[baseline] / reached[method])
    smallest = {name: _spelt(keeps[name], float(found[0])) for name, found in reached.items()}
    row = _row("gain", (experiment, epochs, method, smallest[method]), baseline, smallest[baseline])
    sides = {name: next(iter(keeps[name].values())) for name in keeps}
    row |= _decide("gain", ratio, n, {DENSE: dense}, tuned=sides)
    # Such a run might have reached it, and so decides nothing, as in the other claims.
    lost = [
        f"{name} {keep}: {cell.diverged} diverged"
        for name in keeps
        for keep, cell in keeps[name].items()
        if cell.diverged and fraction(keep) < reached[name][0]
    ]
    decided = n >= SEEDS and not dense.diverged
    if lost and decided:
        row |= {"verdict": "undecided", "reason": "; ".join(lost)}
    if neither[0]:
        row |= {"difference": math.nan, "low": math.nan, "high": math.nan, "verdict": "undecided"}
        if decided:
            said = f"neither reaches {percent(SHARE)} of dense fedavg at a keep of the sweep"
            row["reason"] = "; ".join([said, *lost])
    return row


def _smallest_keeps(dense: Cell, keeps: Mapping[str, dict[str, Cell]]) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Per method its smallest keep, of those without a diverged run, that reaches SHARE of dense FedAvg's accuracy
    (inf: none does), in the seeds that all finished and in their resamples; and the number of those seeds.
    """
    whole = {
        (method, keep): cell.accuracy
        for method, own in keeps.items()
        for keep, cell in own.items()
        if not cell.diverged
    }
    accuracy = pd.DataFrame({("dense", "dense"): dense.accuracy, **whole}).dropna()
    means = {key: resampled_means(accuracy[key]) for key in accuracy}
    reached = {method: np.full(1 + RESAMPLES, math.inf) for method in keeps}
    for method, keep in whole:
        enough = means[method, keep] >= SHARE * means["dense", "dense"] - _NOISE
        smaller = np.minimum(reached[method], fraction(keep))
        reached[method] = np.where(enough, smaller, reached[method])
    return reached, len(accuracy)


def losses(cells: Cells, runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Less loss under unavailability: between experiments of one family."""
    asked = runs.drop_duplicates("experiment").set_index("experiment")[["family", "available"]]
    for _, family in asked.groupby("family", sort=False):
        answering = {str(name): int(count) for name, count in family["available"].dropna().items()}
        reference = max(answering, key=answering.__getitem__, default="")
        for experiment in (name for name, count in answering.items() if count < answering[reference]):
            for key, own in _of_flare(cells):
                if key[0] == experiment:
                    yield from _losses_of(cells, key, own, reference)


def _losses_of(cells: Cells, key: Key, own: Cell, reference: str) -> Iterator[dict[str, Any]]:
    """FLARE at a keep against the other methods at the same, or dense: what each loses from the reference."""
    own_full = cells.get((reference, *key[1:]))
    for (experiment, epochs, method, keep), other in cells.items():
        full = cells.get((reference, epochs, method, keep))
        same = (experiment, epochs) == key[:2] and keep in (key[3], "dense")
        if not same or method == METHOD or own_full is None or full is None:
            continue
        frame = _common(own_full, own, full, other)
        means = resampled_means((frame[2] - frame[3]) - (frame[0] - frame[1]))
        compared = {METHOD: own, method: other}
        compared |= {f"{METHOD} in {reference}": own_full, f"{method} in {reference}": full}
        row = _row("unavailable", key, method, keep) | {"reference": reference}
        yield row | _decide("unavailable", means, len(frame), compared)


def _of_flare(cells: Cells) -> list[tuple[Key, Cell]]:
    return [(key, cell) for key, cell in cells.items() if key[2] == METHOD and key[3] != "dense"]


def _common(*cells: Cell) -> pd.DataFrame:
    """The accuracies of the cells as columns 0, 1, …, in the seeds that all of them finished."""
    return pd.concat([cell.accuracy for cell in cells], axis=1, join="inner", keys=range(len(cells))).sort_index()


def _row(claim: str, key: Key, baseline: str, baseline_keep: str) -> dict[str, Any]:
    """What is compared: the first columns of claims.csv."""
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
    compared: Mapping[str, Cell],
    tuned: Mapping[str, Cell] | None = None,
) -> dict[str, Any]:
    """The rest of a row, from the difference in n seeds and, behind it, in their resamples: interval and verdict.

    tuned: the cells that are to be tuned alike, if they are not the compared.
    """
    low = high = math.nan
    if n > 1:
        low, high = map(_plain, percentile_interval(values[1:]))
    verdict, reason = _verdict(CLAIMS[claim].threshold, low, high, n, compared)
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


def _verdict(threshold: float, low: float, high: float, n: int, compared: Mapping[str, Cell]) -> tuple[str, str]:
    """What the interval decides, and why if it is nothing."""
    lost = [f"{name}: {cell.diverged} diverged" for name, cell in compared.items() if cell.diverged]
    if lost:
        return "undecided", "; ".join(lost)
    if n < SEEDS:
        return "undecided", f"{n} seed{'s' * (n != 1)}, {SEEDS} needed"
    if low > threshold:
        return "supported", ""
    if high < threshold:
        return "refuted", ""
    return "undecided", f"{threshold:g} lies in the interval"


def _plain(value: np.float64) -> float:
    """Without the noise of its last digits, and no negative zero: a difference of nothing is 0."""
    return round(float(value), 9) + 0.0


def _spelt(keeps: Mapping[str, Cell], value: float) -> str:
    """The keep as the configuration spells it; "none" if none was reached."""
    return next((keep for keep in keeps if fraction(keep) == value), "none")
