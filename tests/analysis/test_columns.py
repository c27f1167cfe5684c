"""Columns: the tables that are written have exactly those of `flare.columns`, with values of their types."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest
from synthetic import vouch, write_labels, write_run, write_sweep, write_trials

from flare import columns
from flare.analysis import claims, reached, tables
from flare.columns import Columns

TABLES = {
    "rounds": {**columns.ROUNDS, **columns.STALENESS, "downlink_delta_bits": int},
    "runs": columns.RUNS,
    "costs": columns.COSTS,
    "summary": columns.SUMMARY,
    "claims": columns.CLAIMS,
    "overall": columns.OVERALL,
    "reached": columns.REACHED,
    "labels/few": columns.LABELS,
    "trials/few": columns.TRIALS,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a sweep with everything in it: diverged runs, staleness, clients that do not answer, studies."""
    results = tmp_path_factory.mktemp("results")
    runs = write_sweep(results, experiment="six", seeds=range(1, 7))
    # Messages whose entries can be counted, and a downlink of what changed.
    digits = {"model_settings": {"hidden_layers": 0}, "pad_to": None, "channels": None, "fidelity": "paper"}
    digits |= {"dataset": "digits", "model": "fc", "keep": "1e-2", "clients": 10, "schedule": {}, "batch_size": 8}
    digits |= {"partition": {"samples_per_client": 16}, "local_epochs": 1}
    for seed, method in itertools.product(range(1, 7), ("flare", "topk")):
        change = {"config": digits | {"method": method}}
        run = write_run(
            results, experiment="real", method=method, seed=seed, change=change, parameters=650, message_bits=288
        )
        rows = (run / "rounds.csv").read_text().splitlines()
        empty = "," * len(columns.STALENESS)
        header = ",".join([rows[0], *columns.STALENESS, "downlink_delta_bits"])
        (run / "rounds.csv").write_text("\n".join([header, *(f"{row}{empty},8" for row in rows[1:]), ""]))
        runs.append(vouch(run))
    runs += write_sweep(results, staleness=True, diverged={("topk", "1e-3", 1): 0, ("flare", "1e-3", 2): 30})
    runs += write_sweep(results, experiment="few", available=3, family="fashion-fc")
    runs.append(write_run(results, experiment="lost", diverged_round=0))
    tables.tabulate(runs, results / "tables")
    claims.write(results / "tables")
    reached.write(results / "tables", targets=[0.5])
    write_labels(results / "tables", "few")
    write_trials(results / "tables", "few", {"flare": {"tau": [0.1, 0.2, 0.3]}})
    return results / "tables"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_columns_that_stand_once(folder: Path, name: str) -> None:
    wanted: Columns = TABLES[name]
    table = pd.read_csv(folder / f"{name}.csv", dtype="str", keep_default_na=False)
    assert list(table) == list(wanted) and len(table)
    for column, kind in wanted.items():
        there = [text for text in table[column] if text]
        if kind is bool:
            assert set(there) <= {"True", "False"}, column
        elif kind is not str:
            assert there or column == "importance", column
            assert [kind(text) for text in there] or not there, column


def test_only_known_whole_numbers_are_left_empty(folder: Path) -> None:
    for name, wanted in TABLES.items():
        table = pd.read_csv(folder / f"{name}.csv", dtype="str", keep_default_na=False)
        empty = {column for column, kind in wanted.items() if kind is int and (table[column] == "").any()}
        assert empty <= {*columns.OPTIONAL.get(name, ()), "downlink_delta_bits"}, name


def test_the_columns_import_nothing_of_the_package() -> None:
    text = Path(columns.__file__).read_text(encoding="utf-8")
    assert "import flare" not in text and "from flare" not in text
