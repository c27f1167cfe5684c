"""Statistics over seeds: Student's interval of a mean, the bootstrap's of any number, and the order of the keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from flare.analysis.level import LEVEL

RESAMPLES = 10_000
# Of fewer than so many seeds people are shown the seeds themselves.
FEWEST = 3


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


def resampled_means(values: pd.Series[float]) -> NDArray[np.float64]:
    """The mean of n values, then those of RESAMPLES draws of n of them with replacement, (1 + RESAMPLES,).

    The draws depend on n alone, so that what is compared is drawn alike. NaN if there are no values.
    """
    n = len(values)
    if not n:
        return np.full(1 + RESAMPLES, math.nan)
    draws = np.random.default_rng(n).integers(0, n, (RESAMPLES, n))
    found: NDArray[np.float64] = values.to_numpy()[np.concatenate([np.arange(n)[None], draws])].sum(axis=1)
    return found / n


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[np.float64, np.float64]:
    """The limits between which LEVEL of the resampled values lie (Efron & Tibshirani, "An Introduction to the
    Bootstrap", 1993, ch. 13).
    """
    cut = round(len(resampled) * (1 - LEVEL) / 2)
    ordered = np.sort(resampled)
    return ordered[cut], ordered[-cut - 1]


def fraction(keep: str) -> float:
    """The number of a keep, for sorting: infinite for "dense"."""
    return math.inf if keep == "dense" else float(keep)
