"""Over experiments: interquartile means, probabilities and profiles worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import write_sweep

from flare.analysis import claims, overall, tables
from flare.analysis.overall import improvement, interquartile_mean, stratified_interval


def rows(experiment: str, method: str, keep: str, accuracies: list[float | None]) -> list[dict[str, Any]]:
    common = {"experiment": experiment, "dataset": "digits", "local_epochs": 1, "method": method, "keep": keep}
    return [
        common
        | {
            "seed": seed,
            "status": "diverged" if a is None else "finished",
            "late_accuracy": math.nan if a is None else a,
        }
        for seed, a in enumerate(accuracies)
    ]


RUNS = pd.DataFrame(
    [
        *rows("x", "fedavg", "dense", [0.7, 0.9]),
        *rows("x", "flare", "1e-2", [0.8, 0.72, 0.4]),
        *rows("x", "topk", "1e-2", [0.8, 0.4, None]),
        *rows("y", "fedavg", "dense", [0.5]),
        *rows("y", "flare", "1e-2", [0.5]),
        *rows("z", "flare", "1e-2", [0.1]),
    ]
)


def test_by_hand() -> None:
    assert interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -9])) == 3.5
    assert improvement([(np.array([2.0, 3]), np.array([1.0, 2]))]) == (0.75 + 0.125)
    assert math.isnan(improvement([]))
    found = overall.overall(RUNS).set_index(["method", "keep"])
    # Of dense: x 1, 0.9, 0.5 and y 1; without the least and the greatest of four 0.95. z has no dense to compare with.
    flare, topk = found.loc["flare", "1e-2"], found.loc["topk", "1e-2"]
    assert (flare["experiments"], flare["n"]) == (2, 4) and flare["share"] == pytest.approx(0.95)
    assert [flare[f"at_least_{x}"] for x in (80, 90, 95, 99)] == [0.75, 0.75, 0.5, 0.5]
    # topk: 1, 0.5 and a guess of ten classes, 0.125; no quarter of three is a whole run.
    assert topk["share"] == pytest.approx((1 + 0.5 + 0.125) / 3)
    # 0.8 against 0.8, 0.4, 0.1: 2.5 of 3; 0.72: 2; 0.4: 1.5. Of dense FedAvg flare has no cell.
    assert topk["improves"] == pytest.approx(6 / 9)
    assert math.isnan(flare["improves"]) and math.isnan(found.loc["fedavg", "dense"]["improves"])


def test_the_bootstrap_draws_within_experiments() -> None:
    # Each experiment has one value only, so nothing varies however far the experiments are apart.
    assert stratified_interval([np.full(4, 0.2), np.full(4, 0.8)]) == (0.5, 0.5)
    low, high = stratified_interval([np.array([0.0, 1.0] * 4)])
    assert 0 <= low < 0.5 < high <= 1


def test_in_how_many_experiments_a_claim_is_supported() -> None:
    said = [("x", "supported"), ("x", "undecided"), ("y", "supported"), ("z", "refuted"), ("z", "undecided")]
    judged = pd.DataFrame(said, columns=["experiment", "verdict"]).assign(claim="better", baseline="topk")
    [line] = overall.support(judged)
    assert line.startswith("better, Top-K: supported in 1 of 3 experiments; 1 refuted; 1 undecided.")


def test_the_tables_are_the_same_bytes_again(tmp_path: Path) -> None:
    runs = write_sweep(tmp_path) + write_sweep(tmp_path, experiment="other", seeds=[1, 2])
    tables.tabulate(runs, tmp_path / "tables")
    found = []
    for _ in range(2):
        claims.write(tmp_path / "tables")
        found.append({path.name: path.read_bytes() for path in (tmp_path / "tables").glob("overall.*")})
    assert found[0] == found[1] and set(found[0]) == {"overall.csv", "overall.md", "overall.tex"}
    assert b"better, Top-K: supported in 0 of 2 experiments; 2 undecided." in found[0]["overall.md"]
