"""Claims: differences, intervals and verdicts worked out by hand; p-values by hand and by scipy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_run, write_sweep

from flare.analysis import claims, tables
from flare.analysis.statistics import expected_best, holm, seeds_to_reach, signflip


def cell(
    method: str,
    keep: str,
    percents: Sequence[float | None],
    *,
    experiment: str = "x",
    available: int = 10,
    local_epochs: int = 1,
    tuned: bool = False,
    uplink: float | None = None,
) -> list[dict[str, Any]]:
    """Rows of runs.csv, one per seed from 1 on: late accuracies in percent, None where the run diverged.

    The uplink is `uplink` times that of dense messages, by default as the keep says.
    """
    share = uplink or (1.0 if keep == "dense" else float(keep))
    return [
        {
            "experiment": experiment,
            "dataset": "digits",
            "compression": 1 / share,
            "effective_keep": 2 * share,
            "family": "x",
            "available": available,
            "method": method,
            "keep": keep,
            "local_epochs": local_epochs,
            "seed": seed,
            "status": "diverged" if percent is None else "finished",
            "late_accuracy": math.nan if percent is None else percent / 100,
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


SIX = [80, 82, 87, 80, 82, 87]
FLARE = cell("flare", "1e-2", SIX)
# Student's t(0.975, 5) and t(0.8, 5).
T, T80 = 2.5705818, 0.9195438


def minus(*differences: float) -> list[float]:
    """FLARE's six accuracies less these three, twice."""
    return [accuracy - difference for accuracy, difference in zip(SIX, differences * 2, strict=True)]


def test_the_interval_is_students_and_the_verdict_follows_from_it() -> None:
    found = judged(
        FLARE,
        cell("topk", "1e-2", minus(1, 2, 3)),
        cell("fedprox", "1e-2", minus(-3, -4, -3)),
        cell("ef21", "1e-2", minus(0.5, -0.5, 0)),
        cell("ffl", "1e-2", minus(2, -2, 0)),
    )
    assert (found["claim"] == "better").all() and (found["n"] == 6).all()
    rows = {name: only(found, baseline=name) for name in ("topk", "fedprox", "ef21", "ffl")}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "topk": "supported",
        "fedprox": "refuted",
        "ef21": "equal",
        "ffl": "undecided",
    }
    # Squared deviations 4 of five degrees of freedom: s / sqrt 6 = sqrt(0.8 / 6).
    error = math.sqrt(0.8 / 6)
    topk = rows["topk"]
    assert numbers(topk) == pytest.approx([2, 2 - T * error, 2 + T * error], abs=1e-6)
    assert topk["detectable"] == pytest.approx((T + T80) * error, abs=1e-6)
    # Of 64 choices of signs two are as far from 0. Wilson's limit of 6 of 6: 6 / (6 + 1.959964^2).
    assert topk["p_signflip"] == 2 / 64
    assert (topk["won"], topk["won_high"]) == (1, 1) and topk["won_low"] == pytest.approx(6 / (6 + 1.959964**2))
    # t = 2 / error = 5.477; with five degrees of freedom the tail's integral is elementary.
    t, root = 2 / error, math.sqrt(5)
    angle = math.atan(t / root)
    exact = 1 - 2 / math.pi * (angle + math.sin(angle) * (math.cos(angle) + 2 / 3 * math.cos(angle) ** 3))
    assert topk["p"] == pytest.approx(exact, rel=1e-9)
    # Holm: the second smallest of four p-values times 3.
    assert topk["p_holm"] == pytest.approx(3 * exact) and rows["fedprox"]["p_holm"] == 4 * rows["fedprox"]["p"]
    # s = 2 sqrt(0.8) = 1.789 and a mean of 0: within a point where t s / sqrt n < 1, which n = 15 is the first for.
    assert rows["ffl"]["reason"] == "0 lies in the interval, about 15 seeds would decide" and topk["reason"] == ""


def test_signs_are_flipped_as_scipy_flips_them() -> None:
    from scipy.stats import permutation_test

    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.5, 1, 9)
        both = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert signflip(values) == pytest.approx(both.pvalue)
    # 1 and -2 of four sums: |-1| is reached by all of 3, 1, -1, -3. Of (3, 1): by 2 of 4.
    assert signflip(np.array([1.0, -2.0])) == 1 and signflip(np.array([3.0, 1.0])) == 0.5
    assert signflip(np.ones(20)) == 2 / 2**20 and math.isnan(signflip(np.ones(41)))


def test_holms_correction_is_the_one_worked_out_by_hand() -> None:
    # 4 * 0.01; 3 * 0.02; 2 * 0.04 = 0.08; then 1 * 0.03 would be less than the one before it.
    assert holm([0.04, 0.01, 0.02, 0.2]) == pytest.approx([0.08, 0.04, 0.06, 0.2])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04]) and holm([0.7, 0.9]) == [1, 1] and holm([]) == []


def test_what_is_supported_alone_may_not_be_among_many() -> None:
    # p = 0.039: alone it is enough, of two rows of one claim the other's being larger it is not.
    differences = (2.0, -0.1, 1.4)
    alone = only(judged(FLARE, cell("topk", "1e-2", minus(*differences))), claim="better")
    assert alone["verdict"] == "supported" and 0.025 < alone["p"] == alone["p_holm"] < 0.05
    found = judged(FLARE, cell("topk", "1e-2", minus(*differences)), cell("ef21", "1e-2", minus(9, -9, 0)))
    row = only(found, baseline="topk")
    assert (row["verdict"], row["p_holm"]) == ("undecided", pytest.approx(2 * alone["p"]))
    assert (
        row["reason"]
        == "not after Holm's correction over 2 comparisons: would be supported, about 7 seeds would decide"
    )
    # t = 2.77 of six is 2.99 of seven such seeds, and half of 5 % asks for 2.97.
    assert row["seeds_to_decide"] == 7 and math.isnan(alone["seeds_to_decide"])
    # A row that too few seeds, or a diverged run, leave undecided is none of the comparisons.
    few = judged(FLARE, cell("topk", "1e-2", minus(*differences)), cell("ef21", "1e-2", [1, 2, 3]))
    assert only(few, baseline="topk")["verdict"] == "supported" and math.isnan(only(few, baseline="ef21")["p_holm"])


def test_seeds_are_paired_and_those_without_a_partner_left_out() -> None:
    # Seed by seed the difference is 1, though the seeds spread over 40 points; seed 7 has no partner.
    rows = cell("topk", "1e-2", [49, 69, 89, 49, 69, 89])
    row = only(judged(cell("flare", "1e-2", [50, 70, 90, 50, 70, 90, 10]), rows[::-1]), claim="better")
    assert [*numbers(row), row["n"], row["verdict"], row["p"]] == [1, 1, 1, 6, "supported", 0]


@pytest.mark.parametrize(
    ("count", "reason"), [(1, "1 seed, 6 needed"), (2, "2 seeds, 6 needed"), (5, "5 seeds, 6 needed")]
)
def test_too_few_seeds_decide_nothing(count: int, reason: str) -> None:
    found = judged(
        cell("fedavg", "dense", [99] * count), cell("flare", "1e-2", [99] * count), cell("topk", "1e-2", [1] * count)
    )
    assert list(found["claim"]) == ["better", "dense", "gain"]
    assert (found["verdict"] == "undecided").all() and found["reason"].str.startswith(reason).all()
    assert found["low"].isna().all() == (count == 1)
    assert found["p_holm"].isna().all()


def test_a_diverged_run_leaves_the_claim_undecided() -> None:
    found = judged(
        cell("flare", "1e-2", [80, 82, 87, 80, 82, 87, None]),
        cell("topk", "1e-2", [10, 20, 30, 10, 20, 30, 40]),
        cell("ef21", "1e-2", [None] * 7),
    )
    topk, ef21 = (only(found, baseline=name) for name in ("topk", "ef21"))
    assert (topk["n"], topk["verdict"], topk["reason"]) == (6, "undecided", "flare: 1 diverged")
    assert (ef21["n"], ef21["reason"]) == (0, "flare: 1 diverged; ef21: 7 diverged")
    assert math.isnan(ef21["difference"]) and topk["difference"] == pytest.approx((70 + 62 + 57) / 3)
    assert (topk["diverged"], ef21["diverged"]) == (1, 8)
    # As guesses of ten classes: 70, 62, 57 twice and 10 - 40 = -30; FLARE against ef21: 70, 72, 77 twice and 0.
    assert (topk["verdict_if_chance"], ef21["verdict_if_chance"]) == ("supported", "supported")
    row = only(judged(FLARE, cell("topk", "1e-2", [*minus(5, 5, 4)[:5], None])), claim="better")
    assert (row["verdict"], row["verdict_if_chance"]) == ("undecided", "undecided")  # 5 5 4 5 5 and 77


def test_ten_times_sparser_is_compared_at_ten_times_the_keep_and_within_a_point() -> None:
    found = judged(
        cell("flare", "1e-3", [79.5, 79.8, 79.2] * 2),
        cell("flare", "5e-3", [80] * 6),
        cell("topk", "1e-2", [80] * 6),  # -0.5, -0.2, -0.8: as good
        cell("ef21", "1e-2", [80.5, 80.8, 80.2] * 2),  # -1
        cell("ffl", "1e-2", [82] * 6),
        cell("topk", "0.1", [80] * 6),
    )
    assert set(found["claim"]) == {"sparser"} and set(found["keep"]) == {"1e-3"}
    assert [*found["baseline"]] == ["topk", "ef21", "ffl"] and [*found["verdict"]] == [
        "supported",
        "undecided",
        "refuted",
    ]
    error = math.sqrt(4 * 0.09 / 5 / 6)
    assert numbers(only(found, baseline="topk")) == pytest.approx([-0.5, -0.5 - T * error, -0.5 + T * error])
    assert only(found, baseline="ef21")["reason"] == "-1 lies in the interval, more than 1,000 seeds would decide"


def test_ten_times_sparser_is_by_what_was_sent() -> None:
    # At a hundredth of the keep flare sends 0.002, not 0.001: topk is compared at 0.02, halfway from 0.01 to 0.04.
    flare = cell("flare", "1e-3", [80] * 6, uplink=0.002)
    topk = [cell("topk", keep, [a] * 6, uplink=u) for keep, a, u in (("1e-2", 70, 0.01), ("0.1", 81, 0.04))]
    row = only(judged(flare, *topk), claim="sparser")
    assert (row["difference"], row["verdict"]) == (pytest.approx(80 - 75.5), "supported")
    assert (row["effective_keep"], row["baseline_effective_keep"]) == (0.004, 0.02)
    assert row["reason"] == "topk between 1e-2 and 0.1, where it sends 10 times as much"
    # Within 5 % it is that keep itself; and where no keep sends so much, nothing is said.
    near = only(judged(flare, cell("topk", "1e-2", [70] * 6, uplink=0.0195)), claim="sparser")
    assert (near["difference"], near["verdict"]) == (pytest.approx(10), "supported")
    short = only(judged(flare, topk[0]), claim="sparser")
    assert (
        short["verdict"] == "undecided"
        and short["reason"] == "topk 1e-2 sends 5 times as much, and no other keep 10 times"
    )


def test_near_dense_is_within_a_point_of_fedavg_at_every_keep() -> None:
    found = judged(
        cell("fedavg", "dense", [90] * 6),
        cell("flare", "0.1", [89.5, 89.9, 91] * 2),
        cell("flare", "1e-2", [88] * 6),
    )
    assert dict(zip(found["keep"], found["verdict"], strict=True)) == {"0.1": "supported", "1e-2": "refuted"}
    assert numbers(only(found, keep="1e-2")) == [-2, -2, -2]


def test_sparsity_gain_is_the_ratio_of_the_uplinks_that_reach_95_percent_of_dense() -> None:
    dense = cell("fedavg", "dense", [90] * 6)
    found = judged(
        dense,
        *(cell("flare", keep, [percent] * 6) for keep, percent in (("1e-2", 89), ("1e-3", 87), ("1e-4", 84))),
        # What a smaller keep reaches counts whatever a larger one did.
        *(cell("topk", keep, [percent] * 6) for keep, percent in (("0.1", 70), ("1e-2", 86), ("1e-3", 85))),
        cell("ef21", "1e-2", [85.4] * 6),
        cell("ffl", "1e-5", [88] * 6),
    )
    gains = {row["baseline"]: row for _, row in found[found["claim"] == "gain"].iterrows()}
    # 85.5 is halfway from 84 to 87 and from 85 to 86: 10^-3.5 and 10^-2.5.
    assert numbers(gains["topk"]) == pytest.approx([10, 10, 10]) and gains["topk"]["verdict"] == "supported"
    assert (gains["topk"]["keep"], gains["topk"]["baseline_keep"], gains["topk"]["unit"]) == ("1e-3", "1e-2", "ratio")
    # Reached at no keep, so more than at 1e-2; and at the smallest, so less than at 1e-5.
    assert numbers(gains["ef21"]) == pytest.approx([10**1.5] * 3, rel=1e-6) and gains["ef21"]["baseline_keep"] == "none"
    assert gains["ef21"]["reason"] == "a bound in 6 of 6 seeds" and gains["ef21"]["verdict"] == "supported"
    assert numbers(gains["ffl"]) == pytest.approx([10**-1.5] * 3, rel=1e-6) and gains["ffl"]["verdict"] == "refuted"
    neither = judged(dense, cell("flare", "1e-2", [50] * 6), cell("topk", "1e-2", [60] * 6))
    row = only(neither, claim="gain")
    assert math.isnan(row["difference"]) and row["verdict"] == "undecided" and "neither reaches" in row["reason"]


def test_a_sparsity_gain_that_the_keeps_cannot_show_is_none() -> None:
    # Both reach it at their smallest keep: either could need less.
    dense = cell("fedavg", "dense", [90] * 6)
    row = only(judged(dense, cell("flare", "1e-3", [89] * 6), cell("topk", "1e-2", [89] * 6)), claim="gain")
    assert (numbers(row), row["verdict"]) == ([1, 1, 1], "undecided") and "a bound in 6 of 6 seeds" in row["reason"]


def test_a_keep_at_which_a_run_diverged_is_not_reached() -> None:
    found = judged(
        cell("fedavg", "dense", [90] * 6),
        *(cell("flare", keep, [89] * 5 + [last]) for keep, last in (("1e-2", 89), ("1e-3", None))),
        *(cell("topk", keep, [percent] * 6) for keep, percent in (("1e-2", 89), ("1e-3", 89), ("1e-4", 82))),
    )
    row = only(found, claim="gain")
    assert (row["keep"], row["baseline_keep"], row["n"]) == ("1e-2", "1e-3", 6)
    # It might have reached it: a run that diverged decides nothing. At a larger keep it would change nothing.
    assert (row["verdict"], row["diverged"]) == ("undecided", 1) and row["reason"] == "flare 1e-3: 1 diverged"
    larger = judged(
        cell("fedavg", "dense", [90] * 6),
        cell("flare", "1e-3", [89] * 6),
        *(cell("topk", keep, [percent] * 6) for keep, percent in (("1e-2", 89), ("5e-3", 82))),
        cell("topk", "0.1", [89] * 5 + [None]),
        cell("ef21", "1e-2", [None] * 6),
    )
    assert only(larger, claim="gain", baseline="topk")["verdict"] == "supported"
    never = only(larger, claim="gain", baseline="ef21")
    assert (never["verdict"], never["reason"]) == ("undecided", "ef21 1e-2: 6 diverged")


def test_what_was_tuned_alone_is_said() -> None:
    flare = cell("flare", "1e-2", SIX, tuned=True)
    dense = cell("fedavg", "dense", [81] * 6)
    topk = minus(1, 2, 3)
    found = judged(flare, dense, cell("topk", "1e-2", topk), cell("ef21", "1e-2", topk, tuned=True))
    said = {(row["claim"], row["baseline"]): row["reason"] for _, row in found.iterrows()}
    assert (said["better", "topk"], said["better", "ef21"]) == ("tuned: only flare", "")
    assert said["dense", "fedavg"].startswith("-1 lies in the interval, about ")
    assert said["dense", "fedavg"].endswith(" seeds would decide; tuned: only flare")
    assert said["gain", "topk"].endswith("; tuned: only flare") and "tuned" not in said["gain", "ef21"]


def test_less_loss_under_unavailability_compares_losses_within_a_family() -> None:
    # FLARE loses 2, 1, 2; Top-K 5, 5, 4, so 3, 4, 2 more; dense FedAvg 1, 0, 1.
    full = [
        cell("flare", "1e-2", [90, 91, 92] * 2),
        cell("topk", "1e-2", [88] * 6),
        cell("fedavg", "dense", [95] * 6),
    ]
    fewer = {"experiment": "y", "available": 5}
    few = [
        cell("flare", "1e-2", [88, 90, 90] * 2, **fewer),
        cell("topk", "1e-2", [83, 83, 84] * 2, **fewer),
        cell("fedavg", "dense", [94, 95, 94] * 2, **fewer),
    ]
    found = judged(*few, *full)
    found = found[found["claim"] == "unavailable"]
    assert set(found["experiment"]) == {"y"} and set(found["reference"]) == {"x"}
    topk, dense = only(found, baseline="topk"), only(found, baseline="fedavg")
    half = T * math.sqrt(0.8 / 6)
    assert numbers(topk) == pytest.approx([3, 3 - half, 3 + half], abs=1e-6) and topk["verdict"] == "supported"
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
    half = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2), of the differences 2, 3 and 4
    assert numbers(row) == pytest.approx([3, 3 - half, 3 + half], abs=1e-8) and row["n"] == 3
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
@settings(max_examples=40, deadline=None)
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
    assert first_row[:4] == ["better", "fashion-fc", "1", "FLARE 1e-2, Top-K"]
    body = latex.split("\\midrule\n")[1].split("\\bottomrule\n")
    assert len(body[0].splitlines()) == len(table) and "few\\_answer" in body[0]
    assert body[1].count("\\multicolumn{9}") == len(claims.CLAIMS) + 2 and body[1].endswith("\\end{tabular}\n")
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
    assert time.process_time() - started < 40  # 3 here
    assert len(found) == 4 * 4 * (45 + 36)


def test_the_expected_best_of_some_of_the_trials() -> None:
    nan = float("nan")
    # Of 1, 2, 3, 4: of one the mean; of two 2, 3, 3, 4, 4, 4 are the best.
    assert expected_best(np.array([3.0, 1.0, 4.0, 2.0])) == pytest.approx([2.5, 20 / 6, 3.75, 4])
    assert expected_best(np.array([3.0, 1.0, 4.0, 2.0]), least=True) == pytest.approx([2.5, 10 / 6, 1.25, 1])
    # A trial without a result is as bad as the worst; with none there is nothing to say.
    assert expected_best(np.array([2.0, nan, 1.0])) == pytest.approx([4 / 3, 5 / 3, 2])
    assert expected_best(np.array([2.0, nan, 1.0]), least=True) == pytest.approx([5 / 3, 4 / 3, 1])
    assert np.isnan(expected_best(np.array([nan, nan]))).all()
    # By all choices of three of seven.
    values = np.array([0.3, 0.7, 0.1, 0.9, 0.4, 0.4, 0.2])
    every = [max(chosen) for chosen in itertools.combinations(values, 3)]
    assert expected_best(values)[2] == pytest.approx(sum(every) / len(every))


def test_how_many_seeds_would_bring_p_below_a_level() -> None:
    # Six differences of mean 1 and standard deviation 1: t is 6 ** 0.5, p 0.058; of n such it is n ** 0.5.
    p = 2 * float(scipy.stats.t.sf(6**0.5, 5))
    for level in (0.95, 1 - 0.05 / 6):
        found = seeds_to_reach(p, 6, level)
        assert found is not None
        below = [2 * scipy.stats.t.sf(n**0.5, n - 1) < 1 - level for n in (found - 1, found)]
        assert below == [False, True]
    assert seeds_to_reach(0.01, 6, 0.95) == 6
    assert seeds_to_reach(0.99, 6, 0.95) is None
