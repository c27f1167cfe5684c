"""Tables: the runs' files become tidy tables, statistics over seeds, and a summary that people read.

`tabulate` writes, for exactly the run folders it is given and in their order:

    rounds.csv   every evaluation of every run: the runs' own rounds.csv, row for row, digit for digit; columns that
                 only some runs have (staleness) are empty in the others
    runs.csv     one row per run; nothing that changes when a run is repeated, so the file is byte-identical then.
                 available: clients that answer a round. family: the first experiment that differs from the run's own
                 in nothing but `available`, so the own one if there is no other. tuned: whether a study chose
                 some of its settings. late_accuracy: the mean of its last evaluations. effective_keep and
                 the bits under other codes: `flare.analysis.sending`; the downlink of changes: its probe
    costs.csv    wall time, device and threads per run
    summary.csv  one row per cell (a run without its seed): see `summarise`
    summary.md, summary.tex   the same for people; the LaTeX table needs \\usepackage{booktabs}

`keep` is a string in all of them. Floats are the shortest decimals that read back as the same number. The columns are
those of `flare.columns`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flare.analysis import origin, text
from flare.analysis.reading import LATE, check_alike, check_code, check_digest, read_run, told
from flare.analysis.statistics import fraction, t_interval
from flare.columns import CELL, COSTS, IDENTITY, LABELS, OPTIONAL, ROUNDS, RUNS, SUMMARY, TRIALS, Columns
from flare.errors import DataError, choose
from flare.files import opened, write_whole
from flare.settings import check_keep

# Those that are read again, by name; the last two are of one experiment each.
_TABLES = {"rounds": ROUNDS, "runs": RUNS, "costs": COSTS, "summary": SUMMARY}
_OF_ONE = {"labels": LABELS, "trials": TRIALS}
_TEXT = {name for table in (_TABLES | _OF_ONE).values() for name, kind in table.items() if kind is str}


def tabulate(
    folders: Sequence[Path],
    output: Path,
    settings: Sequence[str | None] | None = None,
    code: Sequence[str | None] | None = None,
    late: int = LATE,
) -> None:
    """Write all tables (see above) of the run folders into `output`, each file whole or not at all.

    settings, code: per folder, if they are known, the `settings_digest` and the digest of the code that its run must
    have. Nothing is written if a run is missing, given twice, is not the one its folder names, has other settings, does
    not say what it was made from, or was made from other things than the others (`check_alike`): DataError, one line.
    late: evaluations at the end of a run whose mean is its late_accuracy.
    """
    if not folders:
        raise DataError("tabulate: no runs given; at least one run folder")
    records, rounds = [], []
    seen: dict[tuple[Any, ...], Path] = {}
    for folder, digest, by in itertools.zip_longest(map(Path, folders), settings or (), code or ()):
        record, content = read_run(folder, late)
        check_digest(folder, record["digest"], digest)
        check_code(folder, record["made_from"]["code"], by)
        key = tuple(record[name] for name in IDENTITY)
        if key in seen:
            raise DataError(f"{folder}: the same run as {seen[key]}; give every run once")
        seen[key] = folder
        records.append(record)
        rounds.append(content)

    check_alike(list(seen.values()), records)
    for line in told(records):
        print(f"WARNING: {line}", file=sys.stderr)
    everything = pd.DataFrame(records)
    everything["family"] = _families(everything)
    everything = everything.astype(_types_of_runs())
    summary = summarise(everything)
    write_whole(output / "rounds.csv", _join(rounds))
    write_whole(output / "runs.csv", text.csv(everything[list(RUNS)]))
    write_whole(output / "costs.csv", text.csv(everything[list(COSTS)]))
    write_whole(output / "summary.csv", text.csv(summary))
    write_whole(output / "summary.md", text.summary_in_markdown(summary).encode())
    write_whole(output / "summary.tex", text.summary_in_latex(summary).encode())
    made = {
        _place(record): [record["made_from"][name] for name in ("settings", "code", "rounds")] for record in records
    }
    origin.write(output, _TABLES, made, told(records), late)


def _place(record: Mapping[str, Any]) -> str:
    """Where a run lies below results/runs."""
    return "{experiment}/{method}/keep-{keep}/epochs-{local_epochs}/seed-{seed}".format(**record)


def _types_of_runs() -> dict[str, str]:
    """What pandas is to make of the numbers of runs.csv and costs.csv, any of which may be missing."""
    kinds = {int: "Int64", float: "float64"}
    numbers = {name: kind for name, kind in {**RUNS, **COSTS}.items() if name not in IDENTITY}
    return {name: kinds[kind] for name, kind in numbers.items() if kind in kinds}


def _families(runs: pd.DataFrame) -> list[str]:
    """Per run the first experiment with the same settings except `available`, from columns experiment, settings."""
    first: dict[frozenset[str], str] = {}
    family = {
        str(experiment): first.setdefault(frozenset(settings), str(experiment))
        for experiment, settings in runs.groupby("experiment", sort=False)["settings"]
    }
    return [family[str(experiment)] for experiment in runs["experiment"]]


def _join(files: Sequence[bytes]) -> bytes:
    """CSV files one after the other under one header, the longest; the others' columns must be its first ones."""
    headers = [content[: content.index(b"\n")] for content in files]
    longest = max(headers, key=len)
    parts: list[bytes | memoryview] = [longest, b"\n"]
    for header, content in zip(headers, files, strict=True):
        if not (longest + b",").startswith(header + b","):
            raise DataError(f"rounds.csv: runs with different columns, {header.decode()} and {longest.decode()}")
        missing = longest.count(b",") - header.count(b",")
        body = memoryview(content)[len(header) + 1 :]  # not a copy: all runs are in memory
        parts.append(bytes(body).replace(b"\n", b"," * missing + b"\n") if missing else body)
    return b"".join(parts)


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, from one row per run (columns of runs.csv).

    n: finished runs. diverged: runs that diverged. Everything else is over the finished runs and empty if there are
    none: final_accuracy, best_accuracy (a maximum over the test set, so optimistic) and late_accuracy are means, in
    0..1, with the limits _low and _high of their t-interval (empty if n = 1; not cut off at 0 and 1); final_loss,
    compression (dense bits / uplink bits), effective_keep (entries sent / entries there are) and compression_total
    (both ways) are means; uplink_bits and total_bits are the means in whole bits.

    Order: experiments and, within one, methods as they first appear; keep descending, dense first; local_epochs.
    """
    finished = runs[runs["status"] == "finished"]
    cell = list(CELL)
    counted = runs.assign(n=runs["status"] == "finished", diverged=runs["status"] == "diverged")
    out = counted.groupby(cell, sort=False)[["n", "diverged"]].sum()
    for name in ("final_accuracy", "best_accuracy", "late_accuracy"):
        interval = t_interval(finished, cell, name)
        out[[name, f"{name}_low", f"{name}_high"]] = interval[["mean", "low", "high"]]
    averaged = ["final_loss", "uplink_bits", "compression", "effective_keep", "total_bits", "compression_total"]
    out[averaged] = finished.groupby(cell, sort=False)[averaged].mean()
    for name in ("uplink_bits", "total_bits"):
        out[name] = out[name].round().astype("Int64")
    out = out.reset_index()
    # Rows are in order of first appearance here, so ngroup numbers experiments and methods in that order.
    order = pd.DataFrame(
        {
            "experiment": out.groupby("experiment", sort=False).ngroup(),
            "method": out.groupby(["experiment", "method"], sort=False).ngroup(),
            "keep": [-fraction(keep) for keep in out["keep"]],
            "local_epochs": out["local_epochs"],
        }
    )
    order = order.sort_values(list(order.columns))
    return out.loc[order.index, list(SUMMARY)].reset_index(drop=True)


def read(tables: Path, experiment: str | None = None, names: Collection[str] | None = None) -> dict[str, pd.DataFrame]:
    """The tables "rounds", "runs", "summary" and "costs" of a folder; of one experiment, if it is named, with its
    "labels", its "trials" (no rows if nothing was tuned) and the "family", runs of all experiments of its family.

    names: those that are wanted, instead of all. Raises DataError if a table is missing, ConfigError for an unknown
    experiment.
    """
    tables = Path(tables)
    wanted = (*_TABLES, *_OF_ONE, "family") if names is None else names
    out = {name: read_table(tables, name) for name in ("runs", "summary", "rounds", "costs") if name in wanted}
    if experiment is None:
        return out
    runs = out["runs"] if "runs" in out else read_table(tables, "runs")
    choose("experiment", experiment, runs["experiment"].unique())
    out = {name: table[table["experiment"] == experiment].reset_index(drop=True) for name, table in out.items()}
    if "labels" in wanted:
        out["labels"] = read_table(tables, f"labels/{experiment}")
    if "trials" in wanted:
        there = (tables / "trials" / f"{experiment}.csv").exists()
        out["trials"] = read_table(tables / "trials", experiment) if there else pd.DataFrame(columns=list(TRIALS))
    if "family" in wanted:
        family = runs.loc[runs["experiment"] == experiment, "family"].iloc[0]
        out["family"] = runs[runs["family"] == family].reset_index(drop=True)
    return out


def read_table(tables: Path, name: str) -> pd.DataFrame:
    """One table of a folder by its name without .csv; DataError if it is missing or is not that table."""
    path = tables / f"{name}.csv"
    needed = TRIALS if tables.name == "trials" else LABELS if name.startswith("labels/") else _TABLES.get(name, {})
    try:
        with opened(path) as file:
            table = pd.read_csv(
                file,
                # A column with empty fields is not int64.
                dtype=dict.fromkeys(_TEXT, "str") | dict.fromkeys(OPTIONAL.get(name, ()), "Int64"),
                # An experiment may be called "NA"; only an empty field is a missing number.
                keep_default_na=False,
                na_values=[""],
            )
        _check_columns(table, needed)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; make the tables first: python -m flare tabulate") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, OverflowError) as error:  # also what pandas makes of bytes that are no CSV file
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a table of this version ({said}); make it again: snakemake tables") from None
    return table


def _check_columns(table: pd.DataFrame, needed: Columns) -> None:
    """Raise DataError, a ValueError, if the table is not one with these columns."""
    for column, kind in needed.items():
        if column not in table:
            raise DataError(f"no column {column}")
        if kind is not str and not pd.api.types.is_numeric_dtype(table[column]):
            raise DataError(f"column {column} holds something else than numbers")
        if column in CELL and table[column].isna().any():
            raise DataError(f"column {column} has empty fields")
    for keep in table["keep"].unique() if "keep" in needed else ():
        check_keep(keep)
    if needed is LABELS and (table[["client", "label", "samples"]].isna().any(axis=None) or table.empty):
        raise DataError("empty fields, or no rows")


def show(tables: Path) -> str:
    """The summary of a folder of tables, for a terminal."""
    return text.show(read_table(Path(tables), "summary"))
