"""Tables: statistics against numbers worked out by hand, order, and refusal of runs that are missing or mixed up."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import DENSE_BITS, vouch, write_labels, write_run, write_sweep

from flare.algorithms import _looks
from flare.analysis import claims, reached, tables
from flare.analysis.reading import expand
from flare.analysis.statistics import t_interval
from flare.analysis.trials import gather_trials
from flare.columns import IDENTITY, ROUNDS, TRIALS
from flare.config import Run
from flare.errors import ConfigError, DataError
from flare.figures.style import looks
from flare.runs.record import size

FILES = ("rounds.csv", "runs.csv", "costs.csv", "summary.csv", "summary.md", "summary.tex", "made_from.json")
FILES += ("settings.csv", "settings.md", "settings.tex")
EVALUATED = [0, 10]


def summary_of(folders: list[Path], output: Path) -> pd.DataFrame:
    tables.tabulate(folders, output)
    return tables.read(output)["summary"]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("runs/a", ["runs/a"]),
        ("keep-{dense}/seed-{1,2}", ["keep-dense/seed-1", "keep-dense/seed-2"]),
        ("k-{1e-2,1e-3}/e-{1}/s-{1,2}", ["k-1e-2/e-1/s-1", "k-1e-2/e-1/s-2", "k-1e-3/e-1/s-1", "k-1e-3/e-1/s-2"]),
        ("{b,a}{2,1}", ["b2", "b1", "a2", "a1"]),
        ("a{}b", ["a{}b"]),
        ("a{b", ["a{b"]),
    ],
)
def test_braces_expand_as_in_bash(pattern: str, paths: list[str]) -> None:
    assert expand(pattern) == paths


def test_interval_of_three_seeds_is_the_one_worked_out_by_hand(tmp_path: Path) -> None:
    # Deviations from the mean 0.83: -0.03, -0.01, 0.04. s^2 = 0.0026 / 2, s = 0.0360555; s / sqrt 3 = 0.0208167;
    # t(0.975, 2) = 4.302653, so the half-width is 0.0895669.
    folders = [
        write_run(tmp_path, seed=seed, evaluated=EVALUATED, accuracies=[0.1, final])
        for seed, final in ((1, 0.80), (2, 0.82), (3, 0.87))
    ]
    row = summary_of(folders, tmp_path / "tables").iloc[0]
    assert (row["n"], row["diverged"]) == (3, 0)
    assert row["final_accuracy"] == pytest.approx(0.83, abs=1e-12)
    assert row["final_accuracy_low"] == pytest.approx(0.83 - 0.0895669, abs=1e-7)
    assert row["final_accuracy_high"] == pytest.approx(0.83 + 0.0895669, abs=1e-7)
    # The made-up loss is 2.5 (1 - accuracy).
    assert row["final_loss"] == pytest.approx(0.425, abs=1e-12)
    assert "| 83.00 ± 8.96 |" in (tmp_path / "tables" / "summary.md").read_text()


def test_best_accuracy_has_its_own_interval(tmp_path: Path) -> None:
    # Best 0.6 and 0.8: mean 0.7, s = 0.1414214, s / sqrt 2 = 0.1, t(0.975, 1) = 12.706205. Not cut off at 0 and 1.
    folders = [
        write_run(tmp_path, seed=seed, evaluated=EVALUATED, accuracies=[best, 0.5])
        for seed, best in ((1, 0.6), (2, 0.8))
    ]
    row = summary_of(folders, tmp_path / "tables").iloc[0]
    assert row["best_accuracy"] == pytest.approx(0.7)
    assert row["best_accuracy_high"] - row["best_accuracy"] == pytest.approx(1.2706205, abs=1e-7)
    # Two equal runs: no spread.
    assert row["final_accuracy_low"] == row["final_accuracy_high"] == 0.5


def test_late_accuracy_is_the_mean_of_the_last_evaluations(tmp_path: Path) -> None:
    accuracies = [0.1, 0.2, 0.4, 0.6, 0.8, 0.9]
    folders = [
        write_run(tmp_path, seed=1, evaluated=range(6), accuracies=accuracies),
        write_run(tmp_path, seed=2, evaluated=range(2), accuracies=[0.5, 0.7]),
        write_run(tmp_path, seed=3, accuracies=[], diverged_round=0),
    ]
    tables.tabulate(folders, tmp_path / "five")
    tables.tabulate(folders, tmp_path / "two", late=2)
    five, two = (pd.read_csv(tmp_path / name / "runs.csv")["late_accuracy"] for name in ("five", "two"))
    assert five.fillna(-1).tolist() == pytest.approx([0.58, 0.6, -1])
    assert two.fillna(-1).tolist() == pytest.approx([0.85, 0.6, -1])
    summary = tables.read(tmp_path / "five")["summary"].iloc[0]
    # 0.58 and 0.6: s / sqrt 2 = 0.01.
    assert summary["late_accuracy"] == pytest.approx(0.59)
    assert summary["late_accuracy_high"] - summary["late_accuracy"] == pytest.approx(0.12706205)


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    folder = write_run(tmp_path, evaluated=EVALUATED, accuracies=[0.1, 0.8])
    row = summary_of([folder], tmp_path / "tables").iloc[0]
    assert row["n"] == 1
    assert row[["final_accuracy_low", "final_accuracy_high", "best_accuracy_low", "best_accuracy_high"]].isna().all()
    assert "| 80.00 |" in (tmp_path / "tables" / "summary.md").read_text()


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_interval_agrees_with_scipy(values: list[float]) -> None:
    from scipy.stats import sem, t

    found = t_interval(pd.DataFrame({"cell": "x", "value": values}), ["cell"], "value").loc["x"]
    error = float(sem(values))
    half = error * float(t.ppf(0.975, len(values) - 1))
    assert found["n"] == len(values)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-6, abs=1e-9)
    assert found["mean"] - found["low"] == pytest.approx(half, rel=1e-6, abs=1e-9)


def test_diverged_runs_are_counted_and_in_no_mean(tmp_path: Path) -> None:
    common = {"evaluated": EVALUATED, "method": "flare"}
    folders = [
        write_run(tmp_path, seed=1, accuracies=[0.1, 0.8], **common),
        write_run(tmp_path, seed=2, accuracies=[0.3], diverged_round=7, **common),
        write_run(tmp_path, seed=3, accuracies=[0.1, 0.9], **common),
        write_run(tmp_path, seed=1, keep="1e-3", accuracies=[], diverged_round=0, **common),
        write_run(tmp_path, seed=2, keep="1e-3", accuracies=[0.2], diverged_round=5, **common),
    ]
    summary = summary_of(folders, tmp_path / "tables").set_index("keep")
    some, none = summary.loc["1e-2"], summary.loc["1e-3"]
    assert (some["n"], some["diverged"]) == (2, 1)
    assert some["final_accuracy"] == pytest.approx(0.85)
    assert (none["n"], none["diverged"]) == (0, 2)
    assert none.loc["final_accuracy":"compression"].isna().all()

    row = (tmp_path / "tables" / "summary.md").read_text().splitlines()[-1].split(" | ")
    assert row[2:] == ["1e-3", "1", *["diverged"] * 3, "\N{EN DASH}", "\N{EN DASH}", "0 (2 diverged) |"]
    assert (
        "& 1e-3 & 1 & diverged & diverged & diverged & -- & -- & 0 (2 diverged) \\\\"
        in (tmp_path / "tables" / "summary.tex").read_text()
    )
    assert "2 (1 diverged)" in tables.show(tmp_path / "tables")

    runs = tables.read(tmp_path / "tables")["runs"]
    assert list(runs["status"]) == ["finished", "diverged", "finished", "diverged", "diverged"]
    assert list(runs["diverged_round"].dropna()) == [7, 0, 5]
    assert runs["final_accuracy"].isna().tolist() == [False, False, False, True, False]


def test_rows_are_in_the_order_of_the_folders_and_the_summary_in_its_own(tmp_path: Path) -> None:
    keeps = ("1e-3", "dense", "0.5", "1e-10")
    folders = [
        write_run(tmp_path, experiment=experiment, method=method, keep=keep, local_epochs=epochs, evaluated=EVALUATED)
        for experiment in ("zebra", "ant")
        for method in ("topk", "fedprox")
        for keep in keeps
        for epochs in (16, 4)
    ]
    tables.tabulate(folders, tmp_path / "tables")
    found = tables.read(tmp_path / "tables")
    as_given = [str(folder.relative_to(tmp_path / "runs")) for folder in folders]
    path = "{experiment}/{method}/keep-{keep}/epochs-{local_epochs}/seed-{seed}"
    assert [path.format(**row) for row in found["runs"].to_dict("records")] == as_given
    assert [path.format(**row) for row in found["rounds"].to_dict("records")] == [
        p for p in as_given for _ in EVALUATED
    ]
    assert found["rounds"]["round"].tolist() == EVALUATED * len(folders)
    assert [tuple(row) for row in found["summary"][["experiment", "method", "keep", "local_epochs"]].to_numpy()] == [
        (experiment, method, keep, epochs)
        for experiment in ("zebra", "ant")
        for method in ("topk", "fedprox")
        for keep in ("dense", "0.5", "1e-3", "1e-10")
        for epochs in (4, 16)
    ]


@given(accuracies=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_numbers_and_keep_come_back_as_they_were(
    accuracies: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    results = tmp_path_factory.mktemp("results")
    folder = write_run(results, keep="1e-2", evaluated=range(len(accuracies)), accuracies=accuracies)
    tables.tabulate([folder], results / "tables")
    found = tables.read(results / "tables")
    assert found["rounds"]["test_accuracy"].tolist() == accuracies
    assert found["runs"]["final_accuracy"].item() == accuracies[-1]
    assert all(table["keep"].unique().tolist() == ["1e-2"] for table in found.values())
    assert (results / "tables" / "rounds.csv").read_bytes() == (folder / "rounds.csv").read_bytes()


def test_the_same_runs_give_the_same_bytes_whatever_they_cost(tmp_path: Path) -> None:
    write_sweep(tmp_path, diverged={("flare", "1e-3", 2): 30})
    folders = sorted((tmp_path / "runs").rglob("seed-*"))
    tables.tabulate(folders, tmp_path / "first")
    for folder in folders:
        run = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**run, "wall_seconds": 99.5, "git_commit": "abc"}))
    tables.tabulate(folders, tmp_path / "second")
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted(FILES)
    same = {
        name: (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() for name in FILES
    }
    # costs.csv has the wall times, and made_from.json its checksum.
    assert same == {name: name not in ("costs.csv", "made_from.json") for name in FILES}
    assert pd.read_csv(tmp_path / "second" / "costs.csv")["wall_seconds"].eq(99.5).all()


def test_only_the_runs_given_are_in_the_tables(tmp_path: Path) -> None:
    folders = write_sweep(tmp_path, methods=["topk"])
    tables.tabulate(folders[1:3], tmp_path / "tables")
    found = tables.read(tmp_path / "tables")
    assert found["runs"]["seed"].tolist() == [2, 3]
    assert set(found["rounds"]["seed"]) == {2, 3}


def test_columns_that_only_some_runs_have_are_empty_in_the_others(tmp_path: Path) -> None:
    plain, measured = (write_run(tmp_path, seed=seed, evaluated=EVALUATED) for seed in (1, 2))
    lines = (measured / "rounds.csv").read_text().splitlines()
    more = ["staleness_mean,never_sent", "1.5,0.25", "2.5,"]
    (measured / "rounds.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(lines, more, strict=True)))
    vouch(measured)
    tables.tabulate([plain, measured], tmp_path / "tables")
    rounds = tables.read(tmp_path / "tables")["rounds"]
    assert rounds["staleness_mean"].fillna(-1).tolist() == [-1, -1, 1.5, 2.5]
    assert rounds["never_sent"].fillna(-1).tolist() == [-1, -1, 0.25, -1]
    assert rounds["test_accuracy"].notna().all()


@pytest.mark.parametrize("name", ["run.json", "rounds.csv"])
def test_a_missing_run_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    folders = write_sweep(tmp_path)
    (folders[4] / name).unlink()
    with pytest.raises(DataError, match=f"^{re.escape(str(folders[4]))}: {name} is missing.*$"):
        tables.tabulate(folders, tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_no_runs_and_a_run_given_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no runs given"):
        tables.tabulate([], tmp_path / "tables")
    folder = write_run(tmp_path)
    with pytest.raises(DataError, match="the same run"):
        tables.tabulate([folder, folder], tmp_path / "tables")


def replace(folder: Path, name: str, old: str, new: str, count: int = -1) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, count))


MIXED_UP = {
    "another seed's rows": ("rounds.csv", ",1e-2,1,1,", ",1e-2,1,2,", -1, "line 2: seed is '2', and '1' in run.json"),
    "one row of another keep": ("rounds.csv", "flare,1e-2,1,1,10,", "flare,1e-3,1,1,10,", 1, "line 3: keep is '1e-3'"),
    "keep spelt otherwise": ("rounds.csv", ",1e-2,", ",0.01,", -1, "line 2: keep is '0.01'"),
    "another run's run.json": ("run.json", '"seed": 1', '"seed": 2', 1, "seed: 2, and 1 in its settings"),
    "another experiment": ("run.json", '"experiment": "fashion-fc"', '"experiment": "x"', 1, "another run, x/flare"),
    "another data set": ("run.json", "fashion_mnist", "mnist", 1, "dataset is 'fashion_mnist', and 'mnist'"),
    "another result": ("run.json", '"final_accuracy": 0.8', '"final_accuracy": 0.7', 1, "last test_accuracy is 0.8"),
    "a row lost": ("rounds.csv", ",0.8\n", ",0.8", 1, "not whole"),
    "a column lost": ("rounds.csv", ",test_accuracy", "", 1, "first line does not start with"),
    "a value lost": ("rounds.csv", ",0.8\n", "\n", 1, "line 3: 13 values expected"),
    "rounds that do not ascend": ("rounds.csv", ",1e-2,1,1,10,", ",1e-2,1,1,0,", 1, "line 3: .* rounds that ascend"),
    "not JSON": ("run.json", "{", "<", 1, "not JSON"),
    "a key lost": ("run.json", '"status"', '"state"', 1, "status is missing"),
    "an unknown end": ("run.json", '"finished"', '"halted"', 1, "status: 'halted'; finished or diverged"),
}


@pytest.mark.parametrize("case", MIXED_UP)
def test_a_mixed_up_run_is_one_clear_line(tmp_path: Path, case: str) -> None:
    folder = write_run(tmp_path, evaluated=EVALUATED, accuracies=[0.1, 0.8])
    tables.tabulate([folder], tmp_path / "whole")
    name, old, new, count, message = MIXED_UP[case]
    replace(folder, name, old, new, count)
    with pytest.raises(DataError, match=message) as caught:
        tables.tabulate([folder], tmp_path / "tables")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tables").exists()


def test_a_run_in_another_runs_folder_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seed=1)
    moved = folder.rename(folder.with_name("seed-9"))
    with pytest.raises(DataError, match=r"another run, .*seed-1"):
        tables.tabulate([moved], tmp_path / "tables")


def test_what_the_engine_records_is_what_the_tables_read(tmp_path: Path) -> None:
    import torch

    from flare.config import Run
    from flare.engine.api import simulate_rows
    from flare.runs.record import write_run as record

    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 3, generator=generator), torch.arange(8) % 2) for _ in range(3)]
    history, weights = simulate_rows(
        torch.nn.Linear(3, 2),
        data[:2],
        test=data[2],
        method="flare",
        settings={},
        keep="0.5",
        rounds=3,
        local_epochs=1,
        batch_size=8,
        learning_rate=0.1,
        momentum=0.0,
        evaluate_every=2,
    )
    run = Run(
        experiment="tiny",
        dataset="digits",
        model="fc",
        method="flare",
        keep="0.5",
        local_epochs=1,
        seed=0,
        clients=2,
        rounds=3,
        batch_size=8,
        learning_rate=0.1,
    )
    folder = tmp_path / "runs" / run.folder
    made_from = {"code": "c", "data": "d", "device": "cpu", "threads": 1}
    record(folder, run, history, weights, wall_seconds=1.0, device="cpu", threads=1, made_from=made_from)
    tables.tabulate([folder], tmp_path / "tables")
    found = tables.read(tmp_path / "tables")
    pd.testing.assert_frame_equal(found["rounds"].drop(columns=list(IDENTITY)), history.frame(), check_exact=True)
    assert found["summary"]["final_accuracy"].item() == history.rows[-1]["test_accuracy"]
    # Two clients, three rounds, 6 + 2 weights: half of each tensor; an entry is 32 bits and its index, a weight 32.
    assert found["summary"]["uplink_bits"].item() == 6 * (3 * (32 + 3) + 1 * (32 + 1))
    assert found["summary"]["compression"].item() == pytest.approx(8 * 32 / 138)


def test_the_markdown_summary_is_for_people(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, experiment="exp_1", method="fedavg", keep="dense", evaluated=[99], accuracies=[0.9123]),
        write_run(tmp_path, experiment="exp_1", method="topk", keep="1e-3", evaluated=[99], accuracies=[0.5]),
    ]
    tables.tabulate(folders, tmp_path / "tables")
    # 100 rounds of 10 clients: 50,890 weights of 4 bytes; or 51 entries of 6 bytes.
    assert (tmp_path / "tables" / "summary.md").read_text().splitlines() == [
        "| experiment | method | keep | E | accuracy (%) | late (%) | best, optimistic (%) | uplink | compression"
        " | n |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: | :-- |",
        "| exp_1 | FedAvg | dense | 1 | 91.23 | 91.23 | 91.23 | 204 MB | 1\N{MULTIPLICATION SIGN} | 1 |",
        "| exp_1 | Top-K | 1e-3 | 1 | 50.00 | 50.00 | 50.00 | 306 kB | 665\N{MULTIPLICATION SIGN} | 1 |",
    ]


def test_tables_for_readers_call_methods_as_figures_do(tmp_path: Path) -> None:
    """And those for programs by their keys."""
    folder = tmp_path / "tables"
    tables.tabulate(write_sweep(tmp_path, methods=["fedavg", "topk", "ef21_sgdm", "flare"]), folder)
    claims.write(folder)
    reached.write(folder, [0.5])
    shown = looks.methods(pd.read_csv(folder / "runs.csv"))
    assert {name: look["label"] for name, look in shown.items()} == {
        **{"fedavg": "FedAvg", "topk": "Top-K", "ef21_sgdm": "EF21-SGDM", "flare": "FLARE"}
    }
    said = {path.name: path.read_text() for path in folder.glob("*.*")}
    readers = {name: text for name, text in said.items() if name.endswith((".md", ".tex"))}
    assert set(readers) == {
        f"{name}{end}" for name in ("summary", "settings", "claims", "overall", "reached") for end in (".md", ".tex")
    }
    for name, text in readers.items():
        assert not re.search(r"\b(fedavg|topk|ef21\\?_sgdm|flare)\b", text), name
        assert {"Top-K", "EF21-SGDM", "FLARE"} <= set(re.findall(r"Top-K|EF21-SGDM|FLARE|FedAvg", text)), name
    for name in ("summary", "settings", "overall", "reached", "runs"):
        assert set(pd.read_csv(folder / f"{name}.csv")["method"]) == set(shown)
    assert set(pd.read_csv(folder / "claims.csv")["baseline"]) == set(shown) - {"flare"}
    assert "Top-K" in tables.show(folder) and "topk" not in tables.show(folder)


def test_methods_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_looks, "look", lambda method: {"LABEL": "FLARE"} if method in ("flare", "topk") else {})
    assert _looks.label.__wrapped__("topk") == "FLARE (topk)" and _looks.label.__wrapped__("ffl") == "ffl"


def test_the_latex_summary_is_a_whole_booktabs_table(tmp_path: Path) -> None:
    folders = write_sweep(tmp_path, experiment="my_exp", methods=["fedavg", "topk", "own_method"])
    tables.tabulate(folders, tmp_path / "tables")
    lines = (tmp_path / "tables" / "summary.tex").read_text().splitlines()
    assert lines[0] == "% Needs \\usepackage{booktabs}."
    begin = re.fullmatch(r"\\begin\{tabular\}\{([lrc]+)\}", lines[1])
    assert begin and lines[-1] == "\\end{tabular}"
    assert (lines[2], lines[4], lines[-2]) == ("\\toprule", "\\midrule", "\\bottomrule")
    rows = [lines[3], *lines[5:-2]]
    assert len(rows) == 1 + 5
    for row in rows:
        assert row.endswith(" \\\\")
        assert row.count("&") == len(begin[1]) - 1
        # Nothing that LaTeX would take for a command, a comment or a subscript, and mathematics that ends.
        bare = re.sub(r"\\[%_]|\$\\(pm|times)\$|\\\\$|&", "", row)
        assert not re.search(r"[\\%_$#{}^~]", bare)
        assert row.isascii()
    assert rows[1].startswith("my\\_exp & FedAvg & dense & 1 & ")
    assert rows[-1].startswith("my\\_exp & own\\_method & 1e-3 & ")


def test_show_fits_a_terminal(tmp_path: Path) -> None:
    folders = write_sweep(tmp_path, experiment="fashion-fc", methods=["fedavg", "flare"], local_epochs=[1, 16])
    folders += write_sweep(tmp_path, experiment="e" * 150, methods=["m" * 60], diverged={("m" * 60, "1e-2", 1): 5})
    tables.tabulate(folders, tmp_path / "tables")
    lines = tables.show(tmp_path / "tables").splitlines()
    assert max(map(len, lines)) <= 110
    header, first = lines[0], lines[2]
    assert lines[1] == "fashion-fc (fashion_mnist, fc)"
    assert first.split()[:3] == ["FedAvg", "dense", "1"]
    # Aligned: the number of local epochs stands below its name.
    assert first[header.index(" E ") + 1] == "1"
    assert len(lines) == 1 + (1 + 6) + (1 + 2) + 2


def test_read_gives_one_experiment_or_all(tmp_path: Path) -> None:
    # Names that a CSV reader takes for missing or for numbers.
    folders = [f for name in ("NA", "1e-3", "007") for f in write_sweep(tmp_path, experiment=name, seeds=[1])]
    tables.tabulate(folders, tmp_path / "tables")
    write_labels(tmp_path / "tables", "NA")
    assert set(tables.read(tmp_path / "tables")["runs"]["experiment"]) == {"NA", "1e-3", "007"}
    of_one = tables.read(tmp_path / "tables", "NA")
    assert set(of_one) == {"runs", "summary", "rounds", "costs", "labels", "trials", "reached", "family"}
    assert of_one.pop("trials").empty and of_one.pop("reached").empty
    for table in of_one.values():
        assert set(table["experiment"]) == {"NA"}
        assert table.index.tolist() == list(range(len(table)))
    with pytest.raises(ConfigError, match=r"experiment: '1e-4' is unknown \(did you mean '1e-3'\?\)"):
        tables.read(tmp_path / "tables", "1e-4")


def test_tables_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"runs\.csv is missing; make the tables first"):
        tables.read(tmp_path)
    with pytest.raises(DataError, match=r"summary\.csv is missing"):
        tables.show(tmp_path)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "0 B"),
        (80, "10 B"),
        (7996, "1 kB"),
        (8 * 1234, "1.23 kB"),
        (8e6, "1 MB"),
        (8e9 * 999.6, "1 TB"),
        (8e16, "10,000 TB"),
    ],
)
def test_sizes_have_three_digits(bits: float, text: str) -> None:
    assert size(bits) == text


def test_a_thousand_runs_of_a_hundred_rows_take_seconds(tmp_path: Path) -> None:
    accuracies = [0.1 + 0.001 * i / 3 for i in range(100)]
    folders = [
        write_run(tmp_path, keep=keep, seed=seed, evaluated=range(100), accuracies=accuracies)
        for keep in ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5")
        for seed in range(200)
    ]
    started = time.process_time()
    tables.tabulate(folders, tmp_path / "tables")
    # A tenth of what 10,000 runs may take.
    assert time.process_time() - started < 12  # 1 to 2 here
    summary = tables.read(tmp_path / "tables")["summary"]
    assert summary["n"].tolist() == [200] * 5
    assert summary["uplink_bits"].tolist() == [DENSE_BITS * 100 // 50_890 // 32 * 48 * k for k in (5089, 509, 51, 5, 1)]
    assert math.isclose(summary["final_accuracy"].iloc[0], accuracies[-1])
    assert (tmp_path / "tables" / "rounds.csv").read_text().count("\n") == 1 + 100_000
    assert (tmp_path / "tables" / "rounds.csv").read_text().startswith(",".join(ROUNDS) + "\n")


def test_experiments_that_differ_in_available_alone_are_a_family(tmp_path: Path) -> None:
    def write(experiment: str, seed: int, method: str = "flare", **config: object) -> Path:
        settings = {
            "experiment": experiment,
            "method": method,
            "seed": seed,
            "clients": 10,
            "learning_rate": 0.1,
            "tuned": {},
        }
        settings |= {"method_settings": {"tau": 0.1}, "available": None, **config}
        answering = {"available": settings["available"], "change": {"config": settings}}
        return write_run(tmp_path, experiment=experiment, method=method, seed=seed, **answering)

    tau = {"tuned": {"tau": 0.3}, "method_settings": {"tau": 0.3}}
    folders = [
        *(write("all", seed) for seed in (1, 2)),
        write("five", 1, available=5),
        write("slow", 1, available=5, learning_rate=0.01),
        write("both", 1, available=3),
        write("both", 1, "topk", available=3),
        write("tuned", 1, **tau),
        write("tuned-five", 1, available=5, tuned={"tau": 0.7}, method_settings={"tau": 0.7}),
    ]
    tables.tabulate(folders, tmp_path / "tables")
    runs = tables.read(tmp_path / "tables")["runs"].drop_duplicates("experiment").set_index("experiment")
    assert runs["family"].to_dict() == {
        "all": "all",
        "five": "all",
        "slow": "slow",
        "both": "both",
        "tuned": "tuned",
        "tuned-five": "tuned",
    }
    assert runs["available"].tolist() == [10, 5, 5, 3, 10, 5]
    write_labels(tmp_path / "tables", "five")
    assert set(tables.read(tmp_path / "tables", "five")["family"]["experiment"]) == {"all", "five"}


# A run with another value in every field; what is left out tells apart the runs of one experiment, or families of it.
ALL = {
    **{"experiment": "all", "dataset": "digits", "model": "fc", "method": "flare", "keep": "1e-2", "local_epochs": 1},
    **{"seed": 1, "clients": 10, "rounds": 100, "batch_size": 20, "learning_rate": 0.1},
}
OF_TRIALS = ("trial", "validation")
OTHER: dict[str, object] = {
    **{"dataset": "mnist", "model": "cnn", "method": "topk", "keep": "1e-3", "local_epochs": 2, "clients": 11},
    **{"rounds": 101, "batch_size": 21, "learning_rate": 0.2, "momentum": 0.5, "evaluate_every": 5, "pad_to": 28},
    **{"fidelity": "authors", "double_softmax": True, "shuffle": True, "channels": 3, "sample_text": 7, "tf32": True},
    **{"staleness": True, "engine": "together", "schedule": {"name": "cosine"}, "probes": ["one"]},
    **{"partition": {"scheme": "shards"}, "model_settings": {"width": 7}, "method_settings": {"tau": 0.7}},
    **{"tuned": {"momentum": 0.5}, "server": {"momentum": 0.5}},
}


# A trial is in no table of runs.
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Run) if field.name not in OF_TRIALS])
def test_every_setting_but_who_answers_splits_a_family(field: str, tmp_path: Path) -> None:
    def write(experiment: str, **changes: object) -> Path:
        settings = dataclasses.asdict(Run(**ALL)) | {"experiment": experiment, **changes}
        return write_run(tmp_path, experiment=experiment, change={"config": settings})

    one_family = {"experiment": {}, "available": {"available": 5}, "seed": {"seed": 2}}
    changes = one_family.get(field, {field: OTHER.get(field)})
    folders = [write("all"), write("other", **changes)]
    tables.tabulate(folders, tmp_path / "tables")
    runs = tables.read(tmp_path / "tables")["runs"]
    # Keep, E and seeds are lists: an experiment of other runs is another one, except for the seeds.
    assert runs["family"].tolist() == ["all", "all" if field in one_family else "other"], field


def test_trials_of_studies_become_one_table(tmp_path: Path) -> None:
    from flare.config import Run
    from flare.tuning.conclude import conclude
    from flare.tuning.study import Study, Trial

    common = {"dataset": "digits", "model": "fc", "local_epochs": 4, "seed": 0, "clients": 2, "rounds": 3}
    folders = []
    for keep in ("1e-2", "1e-3"):
        run = Run(**common, experiment="x", method="flare", keep=keep, batch_size=8, learning_rate=0.1)
        space = {"tau": {"log": [1e-3, 1.0]}, "pull_steps": {"choices": [1, "all"]}}
        study = Study(run=run, space=space, seeds=[7], batches=1, trials=3)
        trials = [
            Trial(0, {"tau": 0.01, "pull_steps": 1}, "complete", {7: 0.5}),
            Trial(1, {"tau": 0.1, "pull_steps": "all"}, "complete", {7: 0.75}),
            Trial(2, {"tau": 0.5, "pull_steps": 1}, "diverged", {}),
        ]
        conclude(study, tmp_path / keep, trials)
        folders.append(tmp_path / keep)
    gather_trials(folders, tmp_path / "tables" / "trials" / "x.csv")
    found = tables.read_table(tmp_path / "tables" / "trials", "x")
    assert list(found) == list(TRIALS) and len(found) == 2 * 3 * 2
    assert found["keep"].tolist() == ["1e-2"] * 6 + ["1e-3"] * 6 and set(found["local_epochs"]) == {4}
    first = found[(found["keep"] == "1e-2") & (found["setting"] == "tau")]
    assert first["value"].tolist() == ["0.01", "0.1", "0.5"] and first["best"].tolist() == [False, True, False]
    assert first["result"].fillna(-1).tolist() == [0.5, 0.75, -1] and first["state"].iloc[2] == "diverged"
    assert set(found.loc[found["setting"] == "pull_steps", "value"]) == {"1", "all"}
    assert set(found["objective"]) == {"accuracy"}
    (folders[1] / "study.json").unlink()
    with pytest.raises(DataError, match=r"1e-3: not a study that is over: .*study\.json"):
        gather_trials(folders, tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("finals", "said"),
    [
        ([0.8], "80.00"),
        # 12.7 times half their distance says nothing of two: they stand there themselves.
        ([0.2, 0.8], "50.00 (20.00, 80.00)"),
        ([0.9, 0.9], "90.00 (90.00, 90.00)"),
        ([0.80, 0.82, 0.87], "83.00 ± 8.96"),
        # s = 0.0416333, times 4.302653 / sqrt(3): 0.1034219, so from 0.8532448 to beyond 1.
        ([0.91, 0.97, 0.99], "95.67 (85.32 to 100.00)"),
        ([0.01, 0.03, 0.09], "4.33 (0.00 to 14.68)"),
    ],
)
def test_no_interval_is_wider_than_what_can_be(finals: list[float], said: str, tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, seed=seed, evaluated=EVALUATED, accuracies=[0.0, final])
        for seed, final in enumerate(finals, 1)
    ]
    summary = summary_of(folders, tmp_path / "tables")
    for kind in ("md", "tex"):
        table = (tmp_path / "tables" / f"summary.{kind}").read_text()
        assert said.replace("±", r"$\pm$" if kind == "tex" else "±") in table
    assert f"  {said}  " in tables.show(tmp_path / "tables")
    if len(finals) == 3:  # the numbers themselves are not cut off
        assert summary["final_accuracy_high"][0] - summary["final_accuracy"][0] == pytest.approx(
            summary["final_accuracy"][0] - summary["final_accuracy_low"][0]
        )
