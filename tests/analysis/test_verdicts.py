"""Verdicts on simulated sweeps whose truth is known, at a small size; benchmarks/verdicts.py has all of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import ROOT
from scipy.stats import binom

from flare.analysis import claims, tables

EXPERIMENTS = 150


@pytest.fixture(scope="module")
def verdicts() -> Any:
    """benchmarks/verdicts.py as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("verdicts")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def at_most(share: float, bar: float) -> bool:
    """Whether so many of the experiments are no sign, at 1 in 1,000, that the rate is above the bar."""
    return bool(binom.sf(round(share * EXPERIMENTS) - 1, EXPERIMENTS, bar) > 0.001)


@pytest.mark.parametrize(("shape", "uncovered"), [("normal", 0.06), ("skewed", 0.1), ("heavy-tailed", 0.1)])
def test_intervals_hold_the_truth_and_verdicts_are_seldom_wrong(verdicts: Any, shape: str, uncovered: float) -> None:
    for difference, seeds in ((0.0, 6), (1.0, 10)):
        found = verdicts.rates(claims.judge(verdicts.sweep(shape, difference, seeds, EXPERIMENTS)), difference)
        assert at_most(1 - found["coverage"], uncovered), found
        assert max(found["supported"], found["refuted"]) <= 0.025 or difference
        assert at_most(max(found["supported alone"], found["refuted alone"]), 0.05) or difference
        assert at_most(found["equal"], 0.05) or not difference


def test_too_few_seeds_say_nothing_and_a_clear_difference_is_seen(verdicts: Any, tmp_path: Path) -> None:
    five = claims.judge(verdicts.sweep("normal", 4.0, 5, 50))
    assert set(five["verdict"]) == {"undecided"}
    verdicts.sweep("normal", 4.0, 10, 50).to_csv(tmp_path / "runs.csv", index=False)
    claims.write(tmp_path)
    ten = pd.read_csv(tmp_path / "claims.csv")
    assert (ten["verdict"] == "supported").mean() > 0.8
    assert len(tables.read_table(tmp_path, "runs")) == 1000


def test_the_bars_are_checked_from_the_rows(verdicts: Any) -> None:
    names = ("coverage", "supported", "refuted", "equal", "supported alone", "refuted alone")

    def row(difference: float, *shares: float, seeds: int = 6) -> dict[str, Any]:
        return {"shape": "normal", "difference": difference, "seeds": seeds} | dict(zip(names, shares, strict=True))

    none = row(0.0, 0.96, 0.01, 0.02, 0.3, 0.02, 0.04)
    margin = row(1.0, 0.92, 0.5, 0.0, 0.05, 0.6, 0.01)
    clear = row(4.0, 0.94, 0.9, 0.0, 0.0, 1.0, 0.0)
    five = row(0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, seeds=5)
    [found] = verdicts.bars([five, none, margin, clear])
    # coverage: the mean; false: 2 % refuted of no difference; equal, wrong: at the margin; then power.
    assert found == ["normal", "6", "94.0", "2.0", "4.0", "5.0", "90.0", "60.0", "30.0", "yes"]
    for worse in ({"coverage": 0.91}, {"refuted": 0.026}, {"equal": 0.051}):
        assert verdicts.bars([none, margin | worse, clear])[0][-1] == "no", worse
