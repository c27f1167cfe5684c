"""Statistics over seeds: Student's interval of a mean, paired differences against a threshold, order of the keeps."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
from numpy.typing import NDArray
from scipy.special import stdtrit

from flare.analysis.level import LEVEL

# Of fewer than so many seeds people are shown the seeds themselves.
FEWEST = 3
# What is nearer than this, in points, differs by how numbers are rounded.
NOISE = 1e-9
# Of the smallest detectable difference.
POWER = 0.8
MOST_SEEDS = 1000


def t_interval(frame: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """n, mean, low and high of a column in every group, indexed by the group, in order of appearance.

    low and high are the limits of the two-sided t-interval mean ± t((1 + LEVEL) / 2, n - 1) s / sqrt(n), with s the
    sample's standard deviation (Student, "The Probable Error of a Mean", Biometrika 1908); empty (NaN) if n = 1.
    """
    groups = frame.groupby(list(by), sort=False)[column]
    n, mean = groups.count(), groups.mean()
    half = stdtrit(n - 1.0, (1 + LEVEL) / 2) * groups.std() / n**0.5
    return pd.DataFrame({"n": n, "mean": mean, "low": mean - half, "high": mean + half})


def shown_interval(frame: pd.DataFrame, by: Sequence[str], column: str, most: float = math.inf) -> pd.DataFrame:
    """`t_interval` as a figure shows it: none of fewer than FEWEST, whose t is 12.7, and none beyond 0 and `most`."""
    found = t_interval(frame, by, column)
    limits = found[["low", "high"]].clip(0, most).where(found["n"] >= FEWEST)
    return found.assign(low=limits["low"], high=limits["high"])


class Paired(NamedTuple):
    """What differences by seed say of a threshold; NaN if there are too few of them."""

    n: int
    mean: float
    # Student's interval of the mean.
    low: float
    high: float
    # Two-sided, of "the mean is the threshold": by Student's t, and by flipping the signs.
    p: float
    p_signflip: float
    # The share of the seeds above the threshold, with Wilson's interval.
    won: float
    won_low: float
    won_high: float
    # The distance from the threshold that so many seeds of such a spread would find with the power POWER.
    detectable: float
    spread: float


def paired(differences: NDArray[np.floating[Any]], threshold: float) -> Paired:
    """Student's paired t-test and interval ("The Probable Error of a Mean", Biometrika 1908) and what goes with them.

    Without any spread the interval is the mean alone, and p is 0, or 1 if the mean is the threshold.
    """
    above = differences - threshold
    n, nan = len(above), math.nan
    if not n:
        return Paired(0, *(nan,) * 10)
    mean = float(above.mean())
    wins = int((above > NOISE).sum())
    won = (wins / n, *_wilson(wins, n))
    if n == 1:
        return Paired(1, mean + threshold, nan, nan, nan, 1.0, *won, nan, nan)
    spread = float(above.std(ddof=1))
    if np.ptp(above) < NOISE:
        flat = mean + threshold
        p = 1.0 if abs(mean) < NOISE else 0.0
        return Paired(n, flat, flat, flat, p, signflip(above), *won, 0.0, 0.0)
    test = scipy.stats.ttest_1samp(above, 0.0)
    low, high = (float(limit) + threshold for limit in test.confidence_interval(LEVEL))
    error = spread / n**0.5
    detectable = float(stdtrit(n - 1.0, (1 + LEVEL) / 2) + stdtrit(n - 1.0, POWER)) * error
    return Paired(n, mean + threshold, low, high, float(test.pvalue), signflip(above), *won, detectable, spread)


@functools.cache
def _wilson(wins: int, n: int) -> tuple[float, float]:
    """Wilson's interval of the share of n."""
    found = scipy.stats.binomtest(wins, n).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


@functools.cache
def _critical(level: float) -> NDArray[np.float64]:
    """Student's t of 2, 3, ... MOST_SEEDS numbers at this level."""
    t: NDArray[np.float64] = stdtrit(np.arange(2, MOST_SEEDS + 1) - 1.0, (1 + level) / 2)
    return t


def signflip(differences: NDArray[np.floating[Any]]) -> float:
    """The exact two-sided p of Fisher's test of a mean of 0: the share of all 2^n choices of signs whose sum is as far
    from 0 as the given one ("The Design of Experiments", 1935). NaN of more than 40 differences.

    scipy.stats.permutation_test lists all 2^n; here those of two halves are, sorted, so that 20 seeds take no time.
    """
    n, total = len(differences), abs(float(differences.sum()))
    if n > 40:
        return math.nan
    if total < NOISE:
        return 1.0
    first, second = (_signed_sums(half) for half in (differences[: n // 2], differences[n // 2 :]))
    as_far = len(second) - np.searchsorted(np.sort(second), total - NOISE - first)
    return 2 * int(as_far.sum()) / 2**n


def _signed_sums(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The sums of the values with all choices of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def holm(p: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction ("A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian
    Journal of Statistics 1979): the i-th smallest of m times m - i + 1, none below the one before it, at most 1.
    """
    order, out, least = sorted(range(len(p)), key=p.__getitem__), [1.0] * len(p), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - place) * p[index]))
        out[index] = least
    return out


def seeds_to_decide(found: Paired, threshold: float, margin: float | None) -> int | None:
    """How many seeds of the same mean and spread would give an interval without the threshold, or within the margin.

    None: more than MOST_SEEDS.
    """
    gaps = [abs(found.mean - threshold)] + ([margin - abs(found.mean)] if margin is not None else [])
    n = np.arange(2, MOST_SEEDS + 1)
    half = _critical(LEVEL) * found.spread / np.sqrt(n)
    enough = n[half < max(gaps) - NOISE]
    return int(enough[0]) if len(enough) else None


def seeds_to_reach(p: float, n: int, level: float) -> int | None:
    """How many seeds of the same mean and spread would bring Student's two-sided p of n seeds below 1 - level.

    None: more than MOST_SEEDS.
    """
    t = stdtrit(n - 1.0, 1 - p / 2)
    more = np.arange(n, MOST_SEEDS + 1)
    enough = more[t * np.sqrt(more / n) > _critical(level)[n - 2 :]]
    return int(enough[0]) if len(enough) else None


def expected_best(results: NDArray[np.float64], least: bool = False) -> list[float]:
    """The mean of the best of 1, 2, … of the results over all choices of so many; least: the smallest is the best.

    With v_1 <= … <= v_N the best of B is v_i in C(i - 1, B - 1) of C(N, B) choices: the closed form of Dodge et al.,
    arXiv 1909.03004, section 3.1, without replacement. NaN, a trial without a result, counts as the worst there is.
    """
    sign = -1 if least else 1
    known = sign * results[~np.isnan(results)]
    n, worst = len(results), float(known.min()) if len(known) else math.nan
    ordered = np.sort(np.append(known, [worst] * (n - len(known))))
    shares = [scipy.special.comb(np.arange(n), b - 1) / scipy.special.comb(n, b) for b in range(1, n + 1)]
    return [sign * float(share @ ordered) for share in shares]


def fraction(keep: str) -> float:
    """The number of a keep, for sorting: infinite for "dense"."""
    return math.inf if keep == "dense" else float(keep)
