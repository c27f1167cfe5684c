"""What it costs to get to an accuracy: medians by hand, runs that never do, and the seconds of the wire."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from synthetic import DENSE_BITS, write_run, write_sweep

from flare import cli
from flare.analysis import reached, tables
from flare.analysis.reached import Link

# Bits of a round at keep 1e-2: ten clients, 509 entries of 48.
SPARSE = 10 * 509 * 48


def folder_of(results: Path) -> Path:
    evaluated = [0, 9, 19]
    folders = [write_run(results, method="fedavg", keep="dense", evaluated=evaluated, accuracies=[0.2, 0.7, 0.9])]
    for seed, accuracies in ((1, [0.2, 0.6, 0.8]), (2, [0.1, 0.2, 0.3]), (3, [0.58, 0.5, 0.5])):
        folders.append(write_run(results, seed=seed, evaluated=evaluated, accuracies=accuracies))
    folders.append(
        write_run(results, seed=1, keep="1e-3", evaluated=evaluated, accuracies=[0.2, 0.3], diverged_round=15)
    )
    folders.append(write_run(results, seed=2, keep="1e-3", evaluated=evaluated, accuracies=[], diverged_round=0))
    tables.tabulate(folders, results / "tables")
    return results / "tables"


def test_medians_in_which_what_never_gets_there_is_longest(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    reached.write(folder, targets=[0.25], link=Link(1, 2, 100))
    found = pd.read_csv(folder / "reached.csv").set_index(["method", "keep", "target"])
    # Dense FedAvg's late accuracy is the mean of all three evaluations, 0.6: 90 % of it are 0.54.
    row = found.loc["flare", "1e-2", "90 % of fedavg"]
    assert row["accuracy"] == pytest.approx(0.54)
    # In rounds: 10, never and 1, so 10 in the middle.
    assert (row["n"], row["reached"], row["rounds"], row["uplink_bits"]) == (3, 2, 10, 10 * SPARSE)
    assert row["total_bits"] == 10 * (SPARSE + DENSE_BITS)
    # A client sends a tenth of it at 1 Mbit/s and is sent as much of the downlink at 2; ten rounds of 2 * 0.1 s.
    assert row["seconds"] == pytest.approx(SPARSE / 1e6 + DENSE_BITS / 2e6 + 2)
    # 0.25: in 10, 20 and 1 rounds.
    assert found.loc["flare", "1e-2", "0.25"]["rounds"] == 10 and found.loc["flare", "1e-2", "0.25"]["reached"] == 3
    # 99 %, 0.594: in 10 rounds by one of three, so by no median.
    row = found.loc["flare", "1e-2", "99 % of fedavg"]
    assert row["reached"] == 1 and math.isnan(row["rounds"]) and math.isnan(row["seconds"])
    # One of the diverged runs got as far as that before.
    row = found.loc["flare", "1e-3", "0.25"]
    assert (row["n"], row["reached"]) == (2, 1) and math.isnan(row["rounds"])
    assert found.loc["fedavg", "dense", "90 % of fedavg"]["rounds"] == 10


def test_the_command_writes_the_same_bytes_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path)
    arguments = ["reach", "--tables", str(folder), "--targets", "0.5", "--link", "10", "50", "20"]
    assert cli.main(arguments) == 0
    first = {path.name: path.read_bytes() for path in folder.glob("reached.*")}
    assert set(first) == {"reached.csv", "reached.md", "reached.tex"} and cli.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("reached.*")} == first
    assert b"| fashion-fc | FLARE | 1e-2 | 1 | 0.5 (50.00 %) | 2 of 3 | 10 |" in first["reached.md"]
    for bad in (["--targets", "1.5"], ["--link", "0", "1", "1"]):
        assert cli.main(["reach", "--tables", str(folder), *bad]) == 2
        assert "is not allowed; " in capsys.readouterr().err


def test_without_dense_fedavg_there_are_the_given_targets_alone(tmp_path: Path) -> None:
    tables.tabulate(write_sweep(tmp_path, methods=["topk"]), tmp_path / "tables")
    runs, rounds = (tables.read_table(tmp_path / "tables", name) for name in ("runs", "rounds"))
    assert reached.reached(runs, rounds).empty and set(reached.reached(runs, rounds, [0.3])["target"]) == {"0.3"}
