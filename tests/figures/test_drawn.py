"""Every figure against numbers worked out by hand: its curves, bands, error bars, ranges and axis labels."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from drawn import flat, read
from matplotlib.axes import Axes
from synthetic import DENSE_BITS, write_labels, write_run, write_trials

from flare import figures
from flare.analysis import tables

# t(0.975, 2) / sqrt(3): the interval of a number and those as far below and above it is this times that distance.
T = 4.302652729911275 / math.sqrt(3)
# 509 of 50,890 entries of 48 bits from 10 clients, in megabytes; and all of them, of 32.
SPARSE, DENSE = 10 * 509 * 48 / 8e6, DENSE_BITS / 8e6


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of two experiments, of one family. In percent, two seeds in rounds 0 and 10, and a
    third in the middle between them:

    full: fedavg 20, 24 then 90, 92; flare 10, 12 then 80, 84, and at E = 4 20, 22 then 85, 86. A fourth run of flare at
    E = 1 diverged in round 7. few, in which 5 answer: flare at E = 1 30, 30 then 70, 73.
    """
    folder = tmp_path_factory.mktemp("hand")
    runs = []
    for experiment, method, keep, epochs, first, last in (
        ("full", "fedavg", "dense", 1, (20, 24), (90, 92)),
        ("full", "flare", "1e-2", 1, (10, 12), (80, 84)),
        ("full", "flare", "1e-2", 4, (20, 22), (85, 86)),
        ("few", "flare", "1e-2", 1, (30, 30), (70, 73)),
    ):
        common = {"experiment": experiment, "family": "full", "method": method, "keep": keep, "local_epochs": epochs}
        for seed in (1, 2, 3):
            given = [(*two, sum(two) / 2)[seed - 1] / 100 for two in (first, last)]
            more = {"evaluated": [0, 10], "available": 5 if experiment == "few" else None, "accuracies": given}
            runs.append(write_run(folder, **common, seed=seed, staleness=experiment == "full", **more))
    lost = {"method": "flare", "keep": "1e-2", "evaluated": [0, 10], "accuracies": [0.6], "diverged_round": 7}
    runs.append(write_run(folder, experiment="full", family="full", seed=4, staleness=True, **lost))
    tables.tabulate(runs, folder / "tables")
    write_labels(folder / "tables", "full", clients=3, classes=4)
    write_trials(folder / "tables", "full", {"flare": {"tau": [1, 2, 3, 4], "percentile": [10, 20, 30, 40]}})
    return folder / "tables"


def panels(hand: Path, name: str, experiment: str = "full") -> list[Axes]:
    found = tables.read(hand, experiment)
    if name == "staleness":  # of two seeds and the one between them, in rounds 0 and 10
        rounds = found["rounds"]
        others = {1: 0.0, 2: 1.0, 3: 0.5, 4: 0.5}
        at = {(seed, number): (number / 10, other) for seed, other in others.items() for number in (0, 10)}
        late = [at[key] for key in zip(rounds["seed"], rounds["round"], strict=True)]
        rounds["staleness_mean"] = [2.0 + late_ + 2 * other for late_, other in late]
        rounds["staleness_p50"] = [1.0 + late_ + other for late_, other in late]
        rounds["staleness_p99"] = [6.0 + late_ + 2 * other for late_, other in late]
        rounds["memory_norm"] = [
            math.nan if method == "fedavg" else 3.0 + late_ + 2 * other
            for method, (late_, other) in zip(rounds["method"], late, strict=True)
        ]
    if name == "importance":
        found["trials"]["importance"] = found["trials"]["setting"].map({"tau": 0.7, "percentile": 0.2})
    return figures.draw(name, found).axes


def around(mean: float, half: float) -> tuple[float, float]:
    return mean - T * half, mean + T * half


def check(ax: Axes, **expected: list[list[tuple[float, ...]]]) -> None:
    found = read(ax)
    assert set(found) == set(expected)
    for kind, things in expected.items():
        assert flat(found[kind]) == pytest.approx(flat(things), rel=1e-6, abs=1e-9, nan_ok=True), kind


# The dots of single seeds stand beside their mean: at 1.0583 and so on, worked out from `factor` and `shift`.
BESIDE = 10 ** (0.025 * 0.4)
BESIDE_E = 1.05**0.4


def test_accuracy_by_keep(hand: Path) -> None:
    first, second = panels(hand, "accuracy_by_keep")
    check(
        first,
        curves=[[(0, 91), (1, 91)]],
        spans=[[around(91, 1)]],
        bars=[[(0.01, 82, *around(82, 2))]],
        faint=[[(0.01 * BESIDE, 80), (0.01 * BESIDE, 84), (0.01 * BESIDE, 82)]],
        crosses=[[(0.01, 0.04)]],
    )
    check(
        second,
        bars=[[(0.01, 85.5, *around(85.5, 0.5))]],
        faint=[[(0.01 * BESIDE, 85), (0.01 * BESIDE, 86), (0.01 * BESIDE, 85.5)]],
    )
    low, high = first.get_ylim()
    assert 0 <= low < around(82, 2)[0] and around(91, 1)[1] < high <= 100


def test_compute_cost(hand: Path) -> None:
    """Wall times of 2.5, 3.5 and 4.5 s for 11 rounds; the diverged run's 5.5 s are in no mean."""
    first, second = panels(hand, "compute_cost")
    middle, half = 3.5 / 11, 1 / 11
    seeds = [(0.01 * BESIDE, seconds / 11) for seconds in (2.5, 3.5, 4.5)]
    bars = [[(0.01, middle, *around(middle, half))]]
    check(
        first,
        curves=[[(0, middle), (1, middle)]],
        spans=[[around(middle, half)]],
        bars=bars,
        faint=[seeds],
        crosses=[[(0.01, 0.04)]],
    )
    check(second, bars=bars, faint=[seeds])
    assert first.get_ylim()[0] == 0


def test_accuracy_by_local_epochs(hand: Path) -> None:
    (ax,) = panels(hand, "accuracy_by_local_epochs")
    left, right = 1.05**-0.5, 1.05**0.5  # two methods stand side by side
    check(
        ax,
        bars=[
            [(left, 91, *around(91, 1))],
            [(right, 82, *around(82, 2)), (4 * right, 85.5, *around(85.5, 0.5))],
        ],
        faint=[
            [(left * BESIDE_E, accuracy) for accuracy in (90, 92, 91)],
            [
                *((right * BESIDE_E, accuracy) for accuracy in (80, 84, 82)),
                *((4 * right * BESIDE_E, accuracy) for accuracy in (85, 86, 85.5)),
            ],
        ],
        crosses=[[(right, 0.04)]],
    )


def test_accuracy_by_available(hand: Path) -> None:
    """From 5 to 10 clients: a place is 0.012 of the 5 between them."""
    first, second = panels(hand, "accuracy_by_available")
    step = 0.012 * 5
    left, right, more = -step / 2, step / 2, 0.4 * step
    check(
        first,
        bars=[
            [(10 + left, 91, *around(91, 1))],
            [(5 + right, 71.5, *around(71.5, 1.5)), (10 + right, 82, *around(82, 2))],
        ],
        faint=[
            [(10 + left + more, accuracy) for accuracy in (90, 92, 91)],
            [
                *((10 + right + more, accuracy) for accuracy in (80, 84, 82)),
                *((5 + right + more, accuracy) for accuracy in (70, 73, 71.5)),
            ],
        ],
        crosses=[[(10 + right, 0.04)]],
    )
    check(
        second,
        bars=[[(10 + right, 85.5, *around(85.5, 0.5))]],
        faint=[[(10 + right + more, accuracy) for accuracy in (85, 86, 85.5)]],
    )


def test_accuracy_by_round(hand: Path) -> None:
    first, second = panels(hand, "accuracy_by_round")
    check(
        first,
        curves=[[(0, 22), (10, 91)], [(0, 11), (10, 82)], [(0, 60), (7, 60)]],
        bands=[
            [(0, *around(22, 2)), (10, *around(91, 1))],
            [(0, *around(11, 1)), (10, *around(82, 2))],
        ],
        crosses=[[(7, 60)]],
    )
    check(
        second,
        curves=[[(0, 21), (10, 85.5)]],
        bands=[[(0, *around(21, 1)), (10, *around(85.5, 0.5))]],
    )


def test_accuracy_by_uplink(hand: Path) -> None:
    """The round in which a run diverged, the eighth, was sent, too."""
    first, second = panels(hand, "accuracy_by_uplink")
    check(
        first,
        curves=[
            [(SPARSE, 11), (11 * SPARSE, 82), (11 * DENSE, 91)],  # the front: 22 with DENSE is less than 82 with less
            [(DENSE, 22), (11 * DENSE, 91)],
            [(SPARSE, 11), (11 * SPARSE, 82)],
            [(SPARSE, 60), (8 * SPARSE, 60)],
        ],
        bands=[
            [(DENSE, *around(22, 2)), (11 * DENSE, *around(91, 1))],
            [(SPARSE, *around(11, 1)), (11 * SPARSE, *around(82, 2))],
        ],
        crosses=[[(8 * SPARSE, 60)]],
    )
    check(
        second,
        curves=[[(SPARSE, 21), (11 * SPARSE, 85.5)]] * 2,  # the front is the only curve
        bands=[[(SPARSE, *around(21, 1)), (11 * SPARSE, *around(85.5, 0.5))]],
    )


def test_accuracy_by_total(hand: Path) -> None:
    """The round in which a run diverged, the eighth, was sent, too. What is sent down is dense."""
    up, both = SPARSE + DENSE, 2 * DENSE
    first, second = panels(hand, "accuracy_by_total")
    check(
        first,
        curves=[
            [(up, 11), (both, 22), (11 * up, 82), (11 * both, 91)],  # the front
            [(both, 22), (11 * both, 91)],
            [(up, 11), (11 * up, 82)],
            [(up, 60), (8 * up, 60)],
        ],
        bands=[
            [(both, *around(22, 2)), (11 * both, *around(91, 1))],
            [(up, *around(11, 1)), (11 * up, *around(82, 2))],
        ],
        crosses=[[(8 * up, 60)]],
    )
    check(
        second,
        curves=[[(up, 21), (11 * up, 85.5)]] * 2,  # the front is the only curve
        bands=[[(up, *around(21, 1)), (11 * up, *around(85.5, 0.5))]],
    )


def test_staleness(hand: Path) -> None:
    """Dense methods are left out. Above: mean 3 and 4, 99th percentile 7 and 8, median 1.5 and 2.5; below: 4 and 5."""
    above, below, above_4, below_4 = (panels(hand, "staleness")[place] for place in ((0, 1, 2, 3)))
    for upper, lower in ((above, below), (above_4, below_4)):
        check(upper, curves=[[(0, 3), (10, 4)], [(0, 7), (10, 8)], [(0, 1.5), (10, 2.5)]])
        check(lower, curves=[[(0, 4), (10, 5)]], bands=[[(0, *around(4, 1)), (10, *around(5, 1))]])
    assert above.get_ylim()[0] == below.get_ylim()[0] == 0


def test_tuning(hand: Path) -> None:
    """Trials 0 and 3 are complete, 50 and 65 percent, from 3 below to 2 above; 1 diverged, 2 was given up."""
    axes = panels(hand, "tuning")
    for ax, values in zip(axes, ((1, 2, 3, 4), (10, 20, 30, 40)), strict=True):
        found = read(ax)
        first, lost, given_up, last = values
        assert found["ranges"] == [[pytest.approx((first, 47, 52)), pytest.approx((last, 62, 67))]] * 2  # two keeps
        assert found["faint"] == [[pytest.approx((first, 50)), pytest.approx((last, 65))]] * 2
        assert found["crosses"] == [[(lost, 0.04)]] * 2
        rings, bars = found["points"][::2], found["points"][1::2]
        assert rings == [[pytest.approx((last, 65))]] * 2 and bars == [[(given_up, 0.04)]] * 2


def test_importance(hand: Path) -> None:
    """Two settings of flare at two keeps, 0.7 and 0.2."""
    (ax,) = panels(hand, "importance")
    check(ax, faint=[[(0.7, 0)], [(0.2, 1)]] * 2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["FLARE: tau", "FLARE: percentile"]


def test_labels(hand: Path) -> None:
    ax, bar = panels(hand, "labels")
    expected = [
        [(7 * client + 13 * label) % 40 * ((client + label) % 3 != 0) for label in range(4)] for client in range(3)
    ]
    (image,) = ax.images
    assert image.get_array().tolist() == expected and image.origin == "upper"
    assert bar.get_ylabel() == "samples" and image.get_clim() == (0, max(map(max, expected)))


ROUND, ACCURACY = "communication round", "final test accuracy (%)"
LABELS = {
    "accuracy_by_available": ({"clients that answer"}, {ACCURACY}),
    "accuracy_by_keep": ({"keep (fraction sent)"}, {ACCURACY}),
    "accuracy_by_local_epochs": ({"local epochs E"}, {ACCURACY}),
    "accuracy_by_round": ({ROUND}, {"test accuracy (%)"}),
    "accuracy_by_total": ({"total, all clients (MB)"}, {"best test accuracy so far (%)"}),
    "accuracy_by_uplink": ({"uplink, all clients (MB)"}, {"best test accuracy so far (%)"}),
    "compute_cost": ({"keep (fraction sent)"}, {"wall time (s / round)"}),
    "importance": ({"share in the objective's variance"}, {"setting"}),
    "labels": ({"class"}, {"client", "samples"}),
    "staleness": ({ROUND}, {"staleness\n(rounds)", "memory\nnorm"}),
    "tuning": ({"value of the setting"}, {"validation accuracy (%)"}),
}


@pytest.mark.parametrize("name", figures.names())
def test_axes_say_what_they_are(hand: Path, name: str) -> None:
    axes = panels(hand, name)
    found = tuple(
        {label for label in labels if label}
        for labels in zip(*((ax.get_xlabel(), ax.get_ylabel()) for ax in axes), strict=True)
    )
    assert found == LABELS[name]


def test_an_objective_that_is_a_loss_is_no_percentage(hand: Path) -> None:
    found = tables.read(hand, "full")
    found["trials"]["objective"] = "loss"
    ax = figures.draw("tuning", found).axes[0]
    assert ax.get_ylabel() == "validation loss"
    assert read(ax)["ranges"][0] == [pytest.approx((1, 0.47, 0.52)), pytest.approx((4, 0.62, 0.67))]


def test_the_order_of_the_rows_changes_nothing_that_is_drawn(hand: Path) -> None:
    """Rows of a table come in any order: only the order of methods in a legend follows it."""
    found = tables.read(hand, "full")
    for name in ("accuracy_by_round", "accuracy_by_uplink", "accuracy_by_keep", "staleness"):
        mixed = {key: table.iloc[::-1] if key == "rounds" else table for key, table in found.items()}
        assert isinstance(mixed["rounds"], pd.DataFrame)
        one, two = (figures.draw(name, given).axes for given in (found, mixed))
        for ax, other in zip(one, two, strict=True):
            before, after = read(ax), read(other)
            for kind in set(before) - {"faint"}:
                assert flat(before[kind]) == pytest.approx(flat(after[kind]), nan_ok=True), (name, kind)
