"""Claims: differences, intervals and verdicts worked out by hand, or by drawing every possible resample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import write_run, write_sweep

from flare.analysis import claims, tables


def cell(
    method: str,
    keep: str,
    percents: Sequence[float | None],
    *,
    experiment: str = "x",
    available: int = 10,
    local_epochs: int = 1,
    tuned: bool = False,
) -> list[dict[str, Any]]:
    """Rows of runs.csv, one per seed from 1 on: final accuracies in percent, None where the run diverged."""
    return [
        {
            "experiment": experiment,
            "family": "x",
            "available": available,
            "method": method,
            "keep": keep,
            "local_epochs": local_epochs,
            "seed": seed,
            "status": "diverged" if percent is None else "finished",
            "final_accuracy": math.nan if percent is None else percent / 100,
            "tuned": tuned,
        }
        for seed, percent in enumerate(percents, 1)
    ]


def judged(*cells: list[dict[str, Any]]) -> pd.DataFrame:
    return claims.judge(pd.DataFrame([row for rows in cells for row in rows]))


def only(frame: pd.DataFrame, **which: Any) -> pd.Series:
    """The one row that it is about."""
    for column, value in which.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def numbers(row: pd.Series) -> list[float]:
    return [row["difference"], row["low"], row["high"]]


FLARE = cell("flare", "1e-2", [80, 82, 87])


def test_of_three_seeds_the_interval_is_the_range_and_the_verdict_follows_from_it() -> None:
    # All three resampled seeds are the lowest one in 1 of 27 resamples, more than 2.5 %.
    found = judged(
        FLARE,
        cell("topk", "1e-2", [79, 80, 84]),  # 1, 2, 3
        cell("fedprox", "1e-2", [83, 86, 90]),  # -3, -4, -3
        cell("ef21", "1e-2", [81, 81, 86]),  # -1, 1, 1
        cell("ffl", "1e-2", [79, 81, 87]),  # 1, 1, 0
    )
    assert (found["claim"] == "better").all() and (found["n"] == 3).all()
    rows = {name: only(found, baseline=name) for name in ("topk", "fedprox", "ef21", "ffl")}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "topk": "supported",
        "fedprox": "refuted",
        "ef21": "undecided",
        "ffl": "undecided",  # 0 is not above 0
    }
    assert numbers(rows["topk"]) == [2, 1, 3]
    assert numbers(rows["fedprox"]) == pytest.approx([-10 / 3, -4, -3], abs=1e-8)
    assert numbers(rows["ef21"]) == pytest.approx([1 / 3, -1, 1], abs=1e-8)
    assert rows["ef21"]["reason"] == "0 lies in the interval" and rows["topk"]["reason"] == ""


def test_the_interval_is_that_of_all_resamples_there_are() -> None:
    differences = [1.0, -2.0, 4.0, 0.5, 3.0, 2.0]
    row = only(
        judged(cell("flare", "1e-2", [50 + d for d in differences]), cell("topk", "1e-2", [50.0] * 6)), claim="better"
    )
    means = np.sort([np.mean(drawn) for drawn in itertools.product(differences, repeat=6)])
    low, high = means[round(0.025 * len(means))], means[-round(0.025 * len(means)) - 1]
    # 10,000 draws from 46,656: the quantile lies between the exact 2.2 % and 2.8 %, with room to spare.
    around = [means[round(share * len(means))] for share in (0.018, 0.032, 0.968, 0.982)]
    assert around[0] - 1e-6 <= row["low"] <= around[1] + 1e-6
    assert around[2] - 1e-6 <= row["high"] <= around[3] + 1e-6
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.2), pytest.approx(high, abs=0.2))


def test_seeds_are_paired_and_those_without_a_partner_left_out() -> None:
    # Seed by seed the difference is 1, though the seeds spread over 40 points; seed 4 has no partner.
    rows = cell("topk", "1e-2", [49, 69, 89])
    row = only(judged(cell("flare", "1e-2", [50, 70, 90, 10]), rows[::-1]), claim="better")
    assert [*numbers(row), row["n"], row["verdict"]] == [1, 1, 1, 3, "supported"]


@pytest.mark.parametrize(("count", "reason"), [(1, "1 seed, 3 needed"), (2, "2 seeds, 3 needed")])
def test_too_few_seeds_decide_nothing(count: int, reason: str) -> None:
    found = judged(
        cell("fedavg", "dense", [99] * count), cell("flare", "1e-2", [99] * count), cell("topk", "1e-2", [1] * count)
    )
    assert list(found["claim"]) == ["better", "dense", "gain"]
    assert (found["verdict"] == "undecided").all() and (found["reason"] == reason).all()
    assert found["low"].isna().all() == (count == 1)


def test_a_diverged_run_leaves_the_claim_undecided() -> None:
    found = judged(
        cell("flare", "1e-2", [80, 82, 87, None]),
        cell("topk", "1e-2", [10, 20, 30, 40]),
        cell("ef21", "1e-2", [None] * 4),
    )
    topk, ef21 = (only(found, baseline=name) for name in ("topk", "ef21"))
    assert (topk["n"], topk["verdict"], topk["reason"]) == (3, "undecided", "flare: 1 diverged")
    assert (ef21["n"], ef21["reason"]) == (0, "flare: 1 diverged; ef21: 4 diverged")
    assert math.isnan(ef21["difference"]) and topk["difference"] == pytest.approx((70 + 62 + 57) / 3)


def test_ten_times_sparser_is_compared_at_ten_times_the_keep_and_within_a_point() -> None:
    found = judged(
        cell("flare", "1e-3", [79.5, 79.8, 79.2]),
        cell("flare", "5e-3", [80, 80, 80]),
        cell("topk", "1e-2", [80, 80, 80]),  # -0.5, -0.2, -0.8: as good
        cell("ef21", "1e-2", [80.9, 80.8, 80.5]),  # -1.4, -1.0, -1.3: -1 is not above -1
        cell("ffl", "1e-2", [82, 82, 82]),
        cell("topk", "0.1", [80, 80, 80]),
    )
    assert set(found["claim"]) == {"sparser"} and set(found["keep"]) == {"1e-3"}
    assert [*found["baseline"]] == ["topk", "ef21", "ffl"] and [*found["verdict"]] == [
        "supported",
        "undecided",
        "refuted",
    ]
    assert numbers(only(found, baseline="topk")) == pytest.approx([-0.5, -0.8, -0.2])


def test_near_dense_is_within_a_point_of_fedavg_at_every_keep() -> None:
    found = judged(
        cell("fedavg", "dense", [90, 90, 90]), cell("flare", "0.1", [89.5, 89.9, 91]), cell("flare", "1e-2", [88] * 3)
    )
    assert dict(zip(found["keep"], found["verdict"], strict=True)) == {"0.1": "supported", "1e-2": "refuted"}
    assert numbers(only(found, keep="1e-2")) == [-2, -2, -2]


def test_sparsity_gain_is_the_ratio_of_the_smallest_keeps_that_reach_95_percent_of_dense() -> None:
    dense = cell("fedavg", "dense", [90, 90, 90])
    found = judged(
        dense,
        *(cell("flare", keep, [percent] * 3) for keep, percent in (("1e-2", 89), ("1e-3", 87), ("1e-4", 80))),
        # 85.5 is enough, and what a smaller keep reaches counts whatever a larger one did.
        *(cell("topk", keep, [percent] * 3) for keep, percent in (("0.1", 70), ("1e-2", 85.5), ("1e-3", 85.4))),
        cell("ef21", "1e-2", [85.4] * 3),
        cell("ffl", "1e-4", [88] * 3),
    )
    gains = {row["baseline"]: row for _, row in found[found["claim"] == "gain"].iterrows()}
    assert numbers(gains["topk"]) == [10, 10, 10] and gains["topk"]["verdict"] == "supported"
    assert (gains["topk"]["keep"], gains["topk"]["baseline_keep"], gains["topk"]["unit"]) == ("1e-3", "1e-2", "ratio")
    assert numbers(gains["ef21"]) == [math.inf] * 3 and gains["ef21"]["baseline_keep"] == "none"
    assert numbers(gains["ffl"]) == pytest.approx([0.1] * 3) and gains["ffl"]["verdict"] == "refuted"
    neither = judged(dense, cell("flare", "1e-2", [50] * 3), cell("topk", "1e-2", [60] * 3))
    row = only(neither, claim="gain")
    assert math.isnan(row["difference"]) and row["verdict"] == "undecided" and "neither reaches" in row["reason"]


def test_a_keep_at_which_a_run_diverged_is_not_reached() -> None:
    found = judged(
        cell("fedavg", "dense", [90, 90, 90]),
        *(cell("flare", keep, [89, 89, last]) for keep, last in (("1e-2", 89), ("1e-3", None))),
        *(cell("topk", keep, [89] * 3) for keep in ("1e-2", "1e-3")),
    )
    row = only(found, claim="gain")
    assert (row["keep"], row["baseline_keep"], row["n"]) == ("1e-2", "1e-3", 3)
    assert row["difference"] == pytest.approx(0.1)
    # It might have reached it: a run that diverged decides nothing. At a larger keep it would change nothing.
    assert (row["verdict"], row["reason"]) == ("undecided", "flare 1e-3: 1 diverged")
    larger = judged(
        cell("fedavg", "dense", [90] * 3),
        cell("flare", "1e-3", [89] * 3),
        cell("topk", "1e-2", [89] * 3),
        cell("topk", "0.1", [89, 89, None]),
        cell("ef21", "1e-2", [None] * 3),
    )
    assert only(larger, claim="gain", baseline="topk")["verdict"] == "supported"
    never = only(larger, claim="gain", baseline="ef21")
    assert (never["difference"], never["verdict"], never["reason"]) == (math.inf, "undecided", "ef21 1e-2: 3 diverged")


def test_what_was_tuned_alone_is_said() -> None:
    flare = cell("flare", "1e-2", [80, 82, 87], tuned=True)
    dense = cell("fedavg", "dense", [81, 81, 81])
    found = judged(flare, dense, cell("topk", "1e-2", [79, 80, 84]), cell("ef21", "1e-2", [79, 80, 84], tuned=True))
    assert {(row["claim"], row["baseline"]): (row["verdict"], row["reason"]) for _, row in found.iterrows()} == {
        ("better", "topk"): ("supported", "tuned: only flare"),
        ("better", "ef21"): ("supported", ""),
        ("dense", "fedavg"): ("undecided", "-1 lies in the interval; tuned: only flare"),
        ("gain", "topk"): ("undecided", "1 lies in the interval; tuned: only flare"),
        ("gain", "ef21"): ("undecided", "1 lies in the interval"),
    }


def test_less_loss_under_unavailability_compares_losses_within_a_family() -> None:
    # FLARE loses 2, 1, 2; Top-K 5, 5, 4, so 3, 4, 2 more; dense FedAvg 1, 0, 1.
    full = [cell("flare", "1e-2", [90, 91, 92]), cell("topk", "1e-2", [88] * 3), cell("fedavg", "dense", [95] * 3)]
    fewer = {"experiment": "y", "available": 5}
    few = [
        cell("flare", "1e-2", [88, 90, 90], **fewer),
        cell("topk", "1e-2", [83, 83, 84], **fewer),
        cell("fedavg", "dense", [94, 95, 94], **fewer),
    ]
    found = judged(*few, *full)
    found = found[found["claim"] == "unavailable"]
    assert set(found["experiment"]) == {"y"} and set(found["reference"]) == {"x"}
    topk, dense = only(found, baseline="topk"), only(found, baseline="fedavg")
    assert numbers(topk) == pytest.approx([3, 2, 4], abs=1e-8) and topk["verdict"] == "supported"
    assert numbers(dense) == [-1, -1, -1] and dense["verdict"] == "refuted"
    # Of another family, or with as many clients: nothing to compare.
    assert "unavailable" not in set(judged(*full, *[[{**r, "family": "y"} for r in rows] for rows in few])["claim"])
    assert "unavailable" not in set(judged(*full, *[[{**r, "available": 10} for r in rows] for rows in few])["claim"])


@pytest.mark.parametrize("place", range(4))
def test_a_diverged_run_on_any_side_of_a_loss_leaves_it_undecided(place: int) -> None:
    fewer = {"experiment": "y", "available": 5}
    accuracies: list[list[float | None]] = [[90, 91, 92, 91], [88, 90, 90, 89], [88, 88, 88, 88], [83, 83, 84, 82]]
    accuracies[place][3] = None
    found = judged(
        cell("flare", "1e-2", accuracies[0]),
        cell("flare", "1e-2", accuracies[1], **fewer),
        cell("topk", "1e-2", accuracies[2]),
        cell("topk", "1e-2", accuracies[3], **fewer),
    )
    row = only(found, claim="unavailable")
    assert numbers(row) == pytest.approx([3, 2, 4], abs=1e-8) and row["n"] == 3
    lost = ("flare in x", "flare", "topk in x", "topk")[place]
    assert (row["verdict"], row["reason"]) == ("undecided", f"{lost}: 1 diverged")


def test_the_order_of_the_runs_changes_no_verdict() -> None:
    fewer = {"experiment": "y", "available": 5}
    rows = [
        *(cell("fedavg", "dense", [95, 94, 96]) + FLARE + cell("topk", "1e-2", [79, 80, 84])),
        *(cell("topk", "0.1", [83, 84, 87]) + cell("flare", "1e-2", [78, 81, 85], **fewer)),
        *cell("topk", "1e-2", [70, 72, 74], **fewer),
    ]
    columns = ["claim", "experiment", "baseline", "baseline_keep"]
    one, two = (judged(order).sort_values(columns, ignore_index=True) for order in (rows, rows[::-1]))
    assert sorted(one["claim"]) == ["better", "better", "dense", "gain", "sparser", "unavailable"]
    pd.testing.assert_frame_equal(one, two, check_exact=False, atol=1e-8)


@given(
    accuracies=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=3, max_size=8),
    more=st.integers(0, 500),
)
def test_what_all_methods_of_a_seed_share_changes_nothing(accuracies: list[tuple[int, int]], more: int) -> None:
    def found(shift: list[int]) -> list[float]:
        both = [
            [a / 10 + s / 10 for a, s in zip(column, shift, strict=True)] for column in zip(*accuracies, strict=True)
        ]
        row = only(judged(cell("flare", "1e-2", both[0]), cell("topk", "1e-2", both[1])), claim="better")
        assert row["low"] <= row["difference"] <= row["high"]
        return numbers(row)

    assert found([0] * len(accuracies)) == pytest.approx(found([more * i for i in range(len(accuracies))]), abs=1e-6)


def test_what_is_no_comparison_gives_no_row() -> None:
    assert judged(cell("fedavg", "dense", [90] * 3), cell("topk", "1e-2", [80] * 3)).empty
    assert judged(FLARE, cell("topk", "1e-2", [80] * 3, experiment="y")).empty
    assert judged(FLARE, cell("topk", "1e-2", [80] * 3, local_epochs=4)).empty


def test_the_tables_state_their_rules_and_are_the_same_bytes_again(tmp_path: Path) -> None:
    folders = write_sweep(tmp_path, keeps=["1e-2", "1e-3"])
    folders += write_sweep(tmp_path, experiment="few_answer", available=3, family="fashion-fc", seeds=[1, 2])
    folders.append(write_run(tmp_path, experiment="alone", method="flare"))
    tables.tabulate(folders, tmp_path / "tables")
    claims.write(tmp_path / "tables")
    first = {path.name: path.read_bytes() for path in (tmp_path / "tables").glob("claims.*")}
    assert set(first) == {"claims.csv", "claims.md", "claims.tex"}
    claims.write(tmp_path / "tables")
    assert all((tmp_path / "tables" / name).read_bytes() == content for name, content in first.items())

    table = pd.read_csv(tmp_path / "tables/claims.csv")
    assert set(table["claim"]) == set(claims.CLAIMS) and "alone" not in set(table["experiment"])
    assert all(rule == claims.CLAIMS[name].rule for name, rule in zip(table["claim"], table["rule"], strict=True))
    text, latex = first["claims.md"].decode(), first["claims.tex"].decode()
    for name, claim in claims.CLAIMS.items():
        assert f"- {name}: {claim.statement}. Rule: {claim.rule}" in text
    rows = [row for row in text.splitlines() if row.startswith("|")][2:]
    assert len(rows) == len(table)
    first_row = [field.strip() for field in rows[0].strip("|").split("|")]
    assert first_row[:4] == ["better", "fashion-fc", "1", "flare 1e-2, topk"]
    body = latex.split("\\midrule\n")[1].split("\\bottomrule\n")
    assert len(body[0].splitlines()) == len(table) and "few\\_answer" in body[0]
    assert body[1].count("\\multicolumn{8}") == len(claims.CLAIMS) + 1 and body[1].endswith("\\end{tabular}\n")
    assert latex.count("{") == latex.count("}") and latex.isascii()


def test_a_thousand_cells_take_seconds() -> None:
    import time

    keeps = [f"{digit}e-{exponent}" for digit in range(1, 10) for exponent in range(2, 7)]
    rows = [
        cell(method, keep, [80 + place, 81, 82], local_epochs=epochs)
        for place, method in enumerate(("flare", "topk", "ef21", "ffl", "fedprox"))
        for keep in keeps
        for epochs in (1, 2, 4, 8)
    ]
    started = time.process_time()
    found = judged(*rows)
    assert time.process_time() - started < 10
    assert len(found) == 4 * 4 * (45 + 36)
