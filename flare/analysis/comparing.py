"""Comparing cells for the claims: which cells each claim is about, their differences by seed, the verdict.

A cell is the runs of one experiment, local_epochs, method and keep. What two methods of one seed have in common (data,
initial weights, clients that answer) cancels out in their difference. A claim that the interval cannot decide stays
undecided. How sparse a cell is, is measured: what its runs sent, as a share of what dense messages would have taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flare.analysis.level import percent
from flare.analysis.rules import CLAIMS, DENSE, METHOD, NEAR, SEEDS, SHARE, SPARSER
from flare.analysis.statistics import MOST_SEEDS, NOISE, Paired, fraction, paired, seeds_to_decide

# Experiment, local_epochs, method, keep.
Key = tuple[str, int, str, str]


@dataclass(frozen=True)
class Cell:
    """Late accuracy in percent of the finished runs, by seed; how many diverged; whether a study chose settings.

    uplink: the mean share of dense messages' bits that its runs sent; effective_keep: of their entries.
    """

    accuracy: pd.Series[float]
    diverged: int
    tuned: bool
    uplink: float
    effective_keep: float


Cells = dict[Any, Cell]  # by Key
# What is not known of a gain that neither side has.
_NUMBERS = ("difference", "low", "high", "p", "p_signflip", "seeds_to_decide")


def cells_of(runs: pd.DataFrame) -> Cells:
    """The cells of the runs (rows of runs.csv), in their order."""
    of_runs = {name: runs[name].to_numpy() for name in ("seed", "status", "tuned")}
    numbers = {name: runs[name].to_numpy("float64") for name in ("late_accuracy", "compression", "effective_keep")}
    out = {}
    found = runs.groupby(["experiment", "local_epochs", "method", "keep"], sort=False).indices
    for key, rows in sorted(found.items(), key=lambda item: item[1][0]):
        status = of_runs["status"][rows]
        done = rows[status == "finished"]
        out[key] = Cell(
            pd.Series(100 * numbers["late_accuracy"][done], index=of_runs["seed"][done]),
            int((status == "diverged").sum()),
            bool(of_runs["tuned"][rows].any()),
            _mean(1 / numbers["compression"][rows]),
            _mean(numbers["effective_keep"][rows]),
        )
    return out


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of those that are known; NaN if none is."""
    known = ~np.isnan(values)
    return float(np.where(known, values, 0.0).sum() / known.sum()) if known.any() else math.nan


def pairs(cells: Cells) -> Iterator[dict[str, Any]]:
    """The claims that compare FLARE at a keep with one other cell of its experiment."""
    for key, own in _of_flare(cells):
        for (*place, method, keep), other in cells.items():
            claim = _claim_of_pair(key[3], method, keep) if tuple(place) == key[:2] else None
            if claim == "sparser":
                yield _sparser(key, own, method, {k[3]: cell for k, cell in _keeps_of(cells, key, method)}, keep)
            elif claim:
                common = _common(own, other)
                yield _row(claim, key, method, keep) | _decide(
                    claim, common[0] - common[1], {METHOD: own, method: other}
                )


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


def _keeps_of(cells: Cells, key: Key, method: str) -> list[tuple[Key, Cell]]:
    """The sparse cells of a method beside the cell of that key."""
    return [(k, cell) for k, cell in cells.items() if k[:3] == (*key[:2], method) and k[3] != "dense"]


def _sparser(key: Key, own: Cell, method: str, keeps: Mapping[str, Cell], nominal: str) -> dict[str, Any]:
    """FLARE at a keep against a baseline that sends SPARSER times as much, whatever keep that is."""
    row = _row("sparser", key, method, nominal)
    wanted = SPARSER * own.uplink
    nearest = min(keeps, key=lambda keep: abs(math.log(keeps[keep].uplink / wanted)))
    below = max((k for k in keeps if keeps[k].uplink < wanted), key=lambda k: keeps[k].uplink, default=None)
    above = min((k for k in keeps if keeps[k].uplink >= wanted), key=lambda k: keeps[k].uplink, default=None)
    if abs(keeps[nearest].uplink / wanted - 1) <= NEAR:
        common = _common(own, keeps[nearest])
        return row | _decide("sparser", common[0] - common[1], {METHOD: own, method: keeps[nearest]})
    if below is None or above is None:
        times = keeps[nominal].uplink / own.uplink
        common = _common(own, keeps[nominal])
        row |= _decide("sparser", common[0] - common[1], {METHOD: own, method: keeps[nominal]})
        reason = f"{method} {nominal} sends {times:.3g} times as much, and no other keep {SPARSER:g} times"
        return row | {"verdict": "undecided", "reason": reason, "seeds_to_decide": math.nan}
    common = _common(own, keeps[below], keeps[above])
    low, high = (math.log(keeps[keep].uplink) for keep in (below, above))
    share = (math.log(wanted) - low) / (high - low)
    between = (1 - share) * common[1] + share * common[2]
    compared = {METHOD: own, f"{method} {below}": keeps[below], f"{method} {above}": keeps[above]}
    note = f"{method} between {below} and {above}, where it sends {SPARSER:g} times as much"
    return row | _decide("sparser", common[0] - between, compared, notes=[note])


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
    """The sparsity gain of the first method over the second: how many times less uplink suffices."""
    method, baseline = keeps
    whole = {
        (name, keep): cell.accuracy for name, own in keeps.items() for keep, cell in own.items() if not cell.diverged
    }
    accuracy = pd.DataFrame({("dense", "dense"): dense.accuracy, **whole}).dropna()
    goal = SHARE * accuracy["dense", "dense"] - NOISE
    smallest = {name: _smallest_keep(accuracy, goal, name, keeps[name]) for name in keeps}
    ranges = {name: _reached(accuracy, goal, name, keeps[name]) for name in keeps}
    least, most = ranges[baseline][0] - ranges[method][1], ranges[baseline][1] - ranges[method][0]
    # Where the keeps of the sweep end, a ratio is known to lie between two: the one nearest to 1 counts.
    bounded = int((least < most).sum())
    notes = [f"a bound in {bounded} of {len(accuracy)} seeds"] if bounded else []
    row = _row("gain", (experiment, epochs, method, smallest[method]), baseline, smallest[baseline])
    sides = {name: next(iter(keeps[name].values())) for name in keeps}
    values = np.clip(0.0, least, most)
    row |= _decide("gain", np.asarray(values, dtype="float64"), {DENSE: dense}, tuned=sides, notes=notes)
    # Such a run might have reached it, and so decides nothing, as in the other claims.
    gone = {
        f"{name} {keep}": cell.diverged
        for name in keeps
        for keep, cell in keeps[name].items()
        if cell.diverged and (smallest[name] == "none" or fraction(keep) < fraction(smallest[name]))
    }
    row["diverged"] += sum(gone.values())
    lost = [f"{name}: {count} diverged" for name, count in gone.items()]
    decided = len(accuracy) >= SEEDS and not dense.diverged
    if lost and decided:
        row |= {"verdict": "undecided", "reason": "; ".join(lost), "seeds_to_decide": math.nan}
    if set(smallest.values()) == {"none"}:
        row |= {"verdict": "undecided"} | dict.fromkeys(_NUMBERS, math.nan)
        if decided:
            said = f"neither reaches {percent(SHARE)} of dense FedAvg at a keep of the sweep"
            row["reason"] = "; ".join([said, *lost])
    return row


def _smallest_keep(accuracy: pd.DataFrame, goal: pd.Series[float], name: str, cells: Mapping[str, Cell]) -> str:
    """The smallest keep of a method at which the mean reaches that of the goal; "none" if there is none."""
    there = [keep for keep in cells if (name, keep) in accuracy]
    enough = [keep for keep in there if len(goal) and accuracy[name, keep].mean() >= goal.mean()]
    return min(enough, key=fraction, default="none")


def _reached(
    accuracy: pd.DataFrame, goal: pd.Series[float], name: str, cells: Mapping[str, Cell]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which logarithms to base 10 of its uplink a method reaches the goal in each seed: the two are one where
    it does so between two keeps; infinite where the keeps end.
    """
    there = sorted((keep for keep in cells if (name, keep) in accuracy), key=lambda keep: cells[keep].uplink)
    least, most = np.full(len(goal), -math.inf), np.full(len(goal), math.inf)
    if not there:
        return least, most
    uplink = np.log10([cells[keep].uplink for keep in there])
    table = accuracy[[(name, keep) for keep in there]].to_numpy()
    for place, (row, wanted) in enumerate(zip(table, goal, strict=True)):
        enough = np.flatnonzero(row >= wanted)
        if not len(enough):
            least[place] = uplink[-1]
        elif enough[0] == 0:
            most[place] = uplink[0]
        else:
            i = enough[0]
            share = (wanted - row[i - 1]) / (row[i] - row[i - 1])
            least[place] = most[place] = uplink[i - 1] + share * (uplink[i] - uplink[i - 1])
    return least, most


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
        common = _common(own_full, own, full, other)
        values = (common[2] - common[3]) - (common[0] - common[1])
        compared = {METHOD: own, method: other}
        compared |= {f"{METHOD} in {reference}": own_full, f"{method} in {reference}": full}
        row = _row("unavailable", key, method, keep) | {"reference": reference}
        yield row | _decide("unavailable", values, compared)


def _of_flare(cells: Cells) -> list[tuple[Key, Cell]]:
    return [(key, cell) for key, cell in cells.items() if key[2] == METHOD and key[3] != "dense"]


def _common(*cells: Cell) -> list[NDArray[np.float64]]:
    """The accuracies of each cell, in the seeds that all of them finished."""
    accuracies: list[dict[Any, float]] = [dict(cell.accuracy.items()) for cell in cells]
    seeds = sorted(set.intersection(*map(set, accuracies)))
    return [np.array([own[seed] for seed in seeds], dtype="float64") for own in accuracies]


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
    values: NDArray[np.floating[Any]],
    compared: Mapping[str, Cell],
    tuned: Mapping[str, Cell] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The rest of a row, from the differences by seed (of a ratio: its logarithms): numbers and verdict.

    tuned: the cells that are to be tuned alike, if they are not the compared. notes: what else there is to say.
    """
    rule = CLAIMS[claim]
    ratio = rule.unit == "ratio"
    threshold = math.log10(rule.threshold) if ratio else rule.threshold
    found = paired(values, threshold)
    verdict, reason, seeds = _verdict(found, rule.threshold, threshold, rule.margin, compared)
    chosen = {name: cell.tuned for name, cell in (tuned or compared).items()}
    only = ", ".join(name for name, cell in chosen.items() if cell) if not all(chosen.values()) else ""
    said = [reason, *notes, f"tuned: only {only}" if only else ""]

    def shown(value: float) -> float:
        return _plain(10**value if ratio else value)

    return {
        "difference": shown(found.mean),
        "low": shown(found.low),
        "high": shown(found.high),
        "unit": rule.unit,
        "n": found.n,
        "verdict": verdict,
        "reason": "; ".join(filter(None, said)),
        "rule": rule.rule,
        "p": found.p,
        "p_signflip": found.p_signflip,
        "won": found.won,
        "won_low": found.won_low,
        "won_high": found.won_high,
        "detectable": shown(found.detectable),
        "diverged": sum(cell.diverged for cell in compared.values()),
        "seeds_to_decide": math.nan if seeds is None else seeds,
    }


def _verdict(
    found: Paired, asked: float, threshold: float, margin: float | None, compared: Mapping[str, Cell]
) -> tuple[str, str, int | None]:
    """What the interval decides; if nothing, why, and how many seeds would, if that is known.

    asked: the threshold as the rule has it.
    """
    lost = [f"{name}: {cell.diverged} diverged" for name, cell in compared.items() if cell.diverged]
    if lost:
        return "undecided", "; ".join(lost), None
    seeds = seeds_to_decide(found, threshold, margin) if found.n > 1 else SEEDS
    would = f"more than {MOST_SEEDS:,}" if seeds is None else f"about {seeds}"
    if found.n < SEEDS:
        more = "" if seeds is not None and seeds <= SEEDS else f", {would} by their spread"
        return "undecided", f"{found.n} seed{'s' * (found.n != 1)}, {SEEDS} needed{more}", seeds and max(seeds, SEEDS)
    if found.low > threshold:
        return "supported", "", None
    if found.high < threshold:
        return "refuted", "", None
    if margin is not None and -margin < found.low and found.high < margin:
        return "equal", "", None
    return "undecided", f"{asked:g} lies in the interval, {would} seeds would decide", seeds


def _plain(value: float) -> float:
    """Without the noise of its last digits, and no negative zero: a difference of nothing is 0."""
    return round(float(value), 9) + 0.0
