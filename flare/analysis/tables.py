"""Tables: the runs' files become tidy tables, statistics over seeds, and a summary that people read.

`tabulate` writes, for exactly the run folders it is given and in their order:

    rounds.csv   every evaluation of every run: the runs' own rounds.csv, row for row, digit for digit; columns that
                 only some runs have (staleness) are empty in the others
    runs.csv     one row per run; nothing that changes when a run is repeated, so the file is byte-identical then.
                 available: clients that answer a round. family: the first experiment that differs from the run's own
                 in nothing but `available`, so the own one where there is no other. tuned: whether a study chose
                 some of its settings
    costs.csv    wall time, device and threads per run
    summary.csv  one row per cell (a run without its seed): see `summarise`
    summary.md, summary.tex   the same for people; the LaTeX table needs \\usepackage{booktabs}

`keep` is a string in all of them. Floats are the shortest decimals that read back as the same number.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from flare import tuning
from flare.errors import DataError, choose, shown
from flare.runs.record import IDENTITY, settings_digest, size, write_whole
from flare.settings import check_keep

CELL = IDENTITY[:-1]
ROUNDS = (*IDENTITY, "round", "uplink_bits", "downlink_bits", "train_loss", "test_loss", "test_accuracy")
RUNS = (
    *(*IDENTITY, "status", "diverged_round", "rounds", "final_accuracy", "best_accuracy", "final_loss"),
    *("uplink_bits", "downlink_bits", "compression", "parameters", "result_hash", "available", "family", "tuned"),
)
COSTS = (*IDENTITY, "wall_seconds", "device", "threads")
TRIALS = (
    *("experiment", "method", "keep", "local_epochs", "trial", "setting", "value", "state"),
    *("objective", "result", "best", "lowest", "highest", "importance"),
)

LABELS = ("experiment", "client", "label", "samples")

_TEXT = (
    "experiment",
    "dataset",
    "model",
    "method",
    "keep",
    "status",
    "result_hash",
    "device",
    "family",
    "setting",
    "value",
    "state",
    "objective",
)
_WHOLE = ("diverged_round", "rounds", "uplink_bits", "downlink_bits", "parameters", "available")
_REAL = ("final_accuracy", "best_accuracy", "final_loss", "compression", "wall_seconds")
_WIDTH = 110
TIMES, NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def expand(pattern: str) -> list[str]:
    """The paths that a pattern with comma lists in braces stands for, in bash's order: the last brace varies fastest.

    Thousands of run folders do not fit on a command line; `keep-{1e-2,1e-3}/epochs-1/seed-{1,2,3}` does. Unlike in bash
    a brace may hold a single item: `{dense}` is `dense`. Braces do not nest.
    """
    parts = re.split(r"\{([^{}]+)\}", pattern)
    choices = [part.split(",") if place % 2 else [part] for place, part in enumerate(parts)]
    if (count := math.prod(map(len, choices))) > 1_000_000:
        raise DataError(f"{shown(pattern)}: stands for {count} paths; at most 1000000")
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def tabulate(folders: Sequence[Path], output: Path, settings: Sequence[str | None] | None = None) -> None:
    """Write all tables (see above) of the run folders into `output`, each file whole or not at all.

    settings: per folder, where it is known, the `settings_digest` that its run must have. Nothing is written where a
    run is missing, given twice, is not the one its folder names, has other settings, or was made with other versions
    than the others: DataError, one line.
    """
    if not folders:
        raise DataError("tabulate: no runs given; at least one run folder")
    records, rounds = [], []
    seen: dict[tuple[Any, ...], Path] = {}
    for folder, digest in itertools.zip_longest(map(Path, folders), settings or ()):
        record, content = _read_run(folder)
        check_digest(folder, record["digest"], digest)
        key = tuple(record[name] for name in IDENTITY)
        if key in seen:
            raise DataError(f"{folder}: the same run as {seen[key]}; give every run once")
        seen[key] = folder
        records.append(record)
        rounds.append(content)

    check_versions(list(seen.values()), records)
    everything = pd.DataFrame(records)
    everything["family"] = _families(everything)
    everything = everything.astype(dict.fromkeys(_WHOLE, "Int64") | dict.fromkeys(_REAL, "float64"))
    summary = summarise(everything)
    write_whole(output / "rounds.csv", _join(rounds))
    write_whole(output / "runs.csv", csv(everything[list(RUNS)]))
    write_whole(output / "costs.csv", csv(everything[list(COSTS)]))
    write_whole(output / "summary.csv", csv(summary))
    write_whole(
        output / "summary.md", markdown(_for_people(summary), left=("experiment", "method", "keep", "n")).encode()
    )
    write_whole(output / "summary.tex", latex(_for_people(summary), "lllrrrrrl").encode())


def read(tables: Path, experiment: str | None = None) -> dict[str, pd.DataFrame]:
    """The tables "rounds", "runs", "summary" and "costs" of a folder; of one experiment, where it is named, with its
    "labels", its "trials" (no rows where nothing was tuned) and the "family", runs of all experiments of its family.

    Raises DataError where a table is missing, ConfigError for an unknown experiment.
    """
    out = {name: read_table(Path(tables), name) for name in ("runs", "summary", "rounds", "costs")}
    if experiment is not None:
        choose("experiment", experiment, out["runs"]["experiment"].unique())
        family = out["runs"].loc[out["runs"]["experiment"] == experiment, "family"].iloc[0]
        whole_family = out["runs"][out["runs"]["family"] == family].reset_index(drop=True)
        out = {name: table[table["experiment"] == experiment].reset_index(drop=True) for name, table in out.items()}
        out["labels"] = read_table(Path(tables), f"labels/{experiment}")
        trials = Path(tables) / "trials" / f"{experiment}.csv"
        out["trials"] = read_table(trials.parent, experiment) if trials.exists() else pd.DataFrame(columns=TRIALS)
        out["family"] = whole_family
    return out


def gather_trials(studies: Sequence[Path], output: Path) -> None:
    """Write the trials of an experiment's studies (folders with trials.csv and study.json) as one table, TRIALS.

    A row per trial and tuned setting, with the setting's value; state: complete, diverged or pruned; result: the mean
    over the study's seeds of its objective (accuracy in 0..1, or loss) on held-out samples, empty where not complete;
    best: whether the reported runs take its values; lowest, highest: over its seeds; importance: of the setting in its
    study (flare.tuning.importances; empty where that says nothing). DataError where a study is not whole.
    """
    parts = []
    for folder in map(Path, studies):
        try:
            study, trials = tuning.read(folder)
            shares = tuning.importances(study, trials)
            found = pd.read_csv(folder / "trials.csv", dtype="str", keep_default_na=False)
            seeds = found[[f"seed_{seed}" for seed in study["seeds"]]].apply(pd.to_numeric)
            found["lowest"], found["highest"] = seeds.min(axis=1), seeds.max(axis=1)
            experiment, method, keep, epochs = study["study"].split("/")
            long = found.melt(
                ["trial", "state", "objective", "lowest", "highest"], list(study["space"]), "setting", "value"
            )
            long = long.rename(columns={"objective": "result"}).assign(
                experiment=experiment,
                method=method,
                keep=keep.removeprefix("keep-"),
                local_epochs=epochs.removeprefix("epochs-"),
                objective=study["objective"],
                best=long["trial"] == str(study["best_trial"]),
                importance=long["setting"].map(shares).astype("float64"),
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: not a study that is over: {' '.join(str(error).split())}") from None
        parts.append(long[list(TRIALS)])
    write_whole(output, csv(pd.concat(parts)))


def show(tables: Path) -> str:
    """The summary for a terminal: aligned, at most 110 columns wide, a heading line per experiment."""
    summary = read_table(Path(tables), "summary")
    people = _for_people(summary)
    cells = people.drop(columns="experiment")
    cells["method"] = [_shorten(method, 28) for method in cells["method"]]
    widths = [max(map(len, (name, *cells[name]))) for name in cells]
    align = [str.ljust if name in ("method", "keep", "n") else str.rjust for name in cells]

    def line(texts: Iterable[str]) -> str:
        padded = (put(text, width) for put, text, width in zip(align, texts, widths, strict=True))
        return ("  " + "  ".join(padded)).rstrip()

    lines = [line(cells.columns)]
    for experiment, group in cells.groupby(people["experiment"], sort=False):
        first = summary.loc[group.index[0]]
        lines.append(_shorten(f"{experiment} ({first['dataset']}, {first['model']})", _WIDTH))
        lines.extend(line(row) for row in group.itertuples(index=False))
    lines.append(
        "accuracy: final and best on the test set, mean ± half-width of the 95 % t-interval over the n finished runs"
    )
    return "\n".join(lines)


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, from one row per run (columns of runs.csv).

    n: finished runs. diverged: runs that diverged. Everything else is over the finished runs and empty where there are
    none: final_accuracy and best_accuracy are means, in 0..1, with the limits _low and _high of their 95 % t-interval
    (empty where n = 1; not cut off at 0 and 1); final_loss and compression (dense bits / uplink bits) are means;
    uplink_bits is the mean in whole bits.

    Order: experiments and, within one, methods as they first appear; keep descending, dense first; local_epochs.
    """
    finished = runs[runs["status"] == "finished"]
    cell = list(CELL)
    counted = runs.assign(n=runs["status"] == "finished", diverged=runs["status"] == "diverged")
    out = counted.groupby(cell, sort=False)[["n", "diverged"]].sum()
    for name in ("final_accuracy", "best_accuracy"):
        interval = statistics(finished, cell, name)
        out[[name, f"{name}_low", f"{name}_high"]] = interval[["mean", "low", "high"]]
    means = finished.groupby(cell, sort=False)[["final_loss", "uplink_bits", "compression"]].mean()
    out[["final_loss", "uplink_bits", "compression"]] = means
    out["uplink_bits"] = out["uplink_bits"].round().astype("Int64")
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
    return out.loc[order.index, _summary_columns()].reset_index(drop=True)


def statistics(frame: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """n, mean, low and high of a column in every group, indexed by the group, in order of appearance.

    low and high are the limits of the two-sided 95 % t-interval mean ± t(0.975, n - 1) s / sqrt(n), with s the sample's
    standard deviation (Student, "The Probable Error of a Mean", Biometrika 1908); empty (NaN) where n = 1.
    """
    groups = frame.groupby(list(by), sort=False)[column]
    n, mean = groups.count(), groups.mean()
    half = stdtrit(n - 1.0, 0.975) * groups.std() / n**0.5
    return pd.DataFrame({"n": n, "mean": mean, "low": mean - half, "high": mean + half})


def fraction(keep: str) -> float:
    """The number of a keep, for sorting: infinite for "dense"."""
    return math.inf if keep == "dense" else float(keep)


def read_table(tables: Path, name: str) -> pd.DataFrame:
    """One table of a folder by its name without .csv; DataError where it is missing or is not that table."""
    path = tables / f"{name}.csv"
    columns = {"rounds": ROUNDS, "runs": RUNS, "costs": COSTS, "summary": _summary_columns()}
    needed = TRIALS if tables.name == "trials" else LABELS if name.startswith("labels/") else columns.get(name, ())
    # With empty fields, so not int64.
    whole = ("uplink_bits",) if name == "summary" else ("diverged_round", "available")
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT, "str") | dict.fromkeys(whole, "Int64"),
            # An experiment may be called "NA"; only an empty field is a missing number.
            keep_default_na=False,
            na_values=[""],
        )
        for column in needed:
            if column not in table:
                raise DataError(f"no column {column}")
            if column not in _TEXT and not pd.api.types.is_numeric_dtype(table[column]):
                raise DataError(f"column {column} holds something else than numbers")
            if column in CELL and table[column].isna().any():
                raise DataError(f"column {column} has empty fields")
        for keep in table["keep"].unique() if "keep" in needed else ():
            check_keep(keep)
        if needed is LABELS and (table[["client", "label", "samples"]].isna().any(axis=None) or table.empty):
            raise DataError("empty fields, or no rows")
    except FileNotFoundError:
        raise DataError(f"{path} is missing; make the tables first: python -m flare tabulate") from None
    except (ValueError, TypeError, OverflowError) as error:  # also what pandas makes of bytes that are no CSV file
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a table of this version ({said}); make it again: snakemake tables") from None
    return table


def _read_run(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What the tables need of run.json, and rounds.csv, checked against each other and the folder."""
    try:
        found = json.loads((folder / "run.json").read_bytes())
        rounds = (folder / "rounds.csv").read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {Path(error.filename).name} is missing; this run is not finished") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder}/run.json: not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("config", {}), dict):
        raise DataError(f"{folder}/run.json: not the record of a run")
    try:
        settings = found["config"]
        record = {name: found[name] for name in dict.fromkeys((*RUNS, *COSTS)) if name not in ("available", "family")}
    except KeyError as error:
        raise DataError(f"{folder}/run.json: {error.args[0]} is missing") from None

    try:
        record["available"] = settings.get("available") or settings.get("clients")
        record["digest"] = settings_digest(settings)
        record["settings"] = _without_availability(settings)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{folder}/run.json: config: not the settings of a run") from None
    if record["status"] not in ("finished", "diverged"):
        raise DataError(f"{folder}/run.json: status: {record['status']!r}; finished or diverged")
    named = Path(*folder.absolute().parts[-5:])
    said = Path(
        *(str(record["experiment"]), str(record["method"]), f"keep-{record['keep']}"),
        *(f"epochs-{record['local_epochs']}", f"seed-{record['seed']}"),
    )
    if named != said:
        raise DataError(f"{folder}: run.json is of another run, {said}")
    for names, kind in ((_WHOLE, int), (_REAL, (int, float)), (("result_hash", "device"), str), (("threads",), int)):
        for name in names:
            value = record.get(name)
            large = isinstance(value, int) and abs(value) >= 2**63
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or large):
                raise DataError(
                    f"{folder}/run.json: {name}: {shown(value)} is no {'text' if kind is str else 'number'}"
                )
    if not isinstance(record["tuned"], bool):
        raise DataError(f"{folder}/run.json: tuned: {shown(record['tuned'])}; true or false")
    _check_rounds(folder / "rounds.csv", record, rounds)
    record["versions"] = found.get("versions")
    return record, rounds


def check_digest(folder: Path, found: str, expected: str | None) -> None:
    """Raise DataError where a run has other settings than is known of it."""
    if expected and found != expected:
        raise DataError(f"{folder}: made with other settings than the configuration's; delete it, and it is run again")


def check_versions(folders: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError where runs were made with different versions of what decides their bits."""
    first: tuple[Path, dict[str, Any]] | None = None
    for folder, record in zip(folders, records, strict=True):
        given = record["versions"] if isinstance(record["versions"], dict) else {}
        versions = {name: given.get(name) for name in ("flare", "torch", "numpy")}
        first = first or (folder, versions)
        for name, version in versions.items():
            if version != first[1][name]:
                raise DataError(
                    f"{folder}: made with {name} {version}, and {first[0]} with {first[1][name]}; a table is of one"
                    " version, so delete the older runs and run again"
                )


def _without_availability(settings: Mapping[str, Any]) -> str:
    """What decides the run's result but for its experiment's name, its seed and the clients that answer.

    Tuned settings count as tuned, whatever value was found.
    """
    tuned = sorted(settings.get("tuned") or ())
    others = {
        key: value
        for key, value in settings.items()
        if key not in ("experiment", "seed", "available", "tuned", "method_settings", *tuned)
    }
    own = {key: value for key, value in (settings.get("method_settings") or {}).items() if key not in tuned}
    return json.dumps([others, own, tuned], sort_keys=True)


def _families(runs: pd.DataFrame) -> list[str]:
    """Per run the first experiment with the same settings but for `available`, from columns experiment, settings."""
    first: dict[frozenset[str], str] = {}
    family = {
        str(experiment): first.setdefault(frozenset(settings), str(experiment))
        for experiment, settings in runs.groupby("experiment", sort=False)["settings"]
    }
    return [family[str(experiment)] for experiment in runs["experiment"]]


def _check_rounds(path: Path, record: dict[str, Any], content: bytes) -> None:
    """Raise DataError where rounds.csv is not of the run in run.json."""
    header, *rows = content.decode(errors="replace").split("\n")
    columns = header.split(",")
    if tuple(columns[: len(ROUNDS)]) != ROUNDS or not rows or rows.pop():
        raise DataError(f"{path}: not whole, or its first line does not start with {','.join(ROUNDS)}")
    identity = [str(record[name]) for name in IDENTITY]
    # Compared as text: parsing a million rows for this would take most of the time.
    start = ",".join(identity) + ","
    last_round, accuracy, place = -1, math.nan, ROUNDS.index("test_accuracy") - len(IDENTITY)
    for number, row in enumerate(rows, 2):
        if not row.startswith(start):
            for name, given, expected in zip(IDENTITY, row.split(","), identity, strict=False):
                if given != expected:
                    raise DataError(f"{path}: line {number}: {name} is {given!r}, and {expected!r} in run.json")
        values = row[len(start) :].split(",")
        try:
            if len(values) != len(columns) - len(IDENTITY) or int(values[0]) <= last_round:
                raise ValueError
            last_round, accuracy = int(values[0]), float(values[place] or "nan")
        except ValueError:
            raise DataError(f"{path}: line {number}: {len(columns)} values expected, and rounds that ascend") from None
    final = math.nan if record["final_accuracy"] is None else record["final_accuracy"]
    if accuracy != final and not (math.isnan(accuracy) and math.isnan(final)):
        raise DataError(f"{path}: its last test_accuracy is {accuracy}, and final_accuracy is {final} in run.json")


def _summary_columns() -> list[str]:
    accuracies = [f"{name}{limit}" for name in ("final_accuracy", "best_accuracy") for limit in ("", "_low", "_high")]
    return [*CELL, "n", "diverged", *accuracies, "final_loss", "uplink_bits", "compression"]


def _for_people(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as text: accuracies in percent, sizes in bytes; "diverged" where no run finished."""

    def accuracy(name: str) -> list[str]:
        texts = []
        for n, mean, high in zip(summary["n"], summary[name], summary[f"{name}_high"], strict=True):
            half = f" ± {100 * (high - mean):.2f}" if n > 1 else ""
            texts.append(f"{100 * mean:.2f}{half}" if n else "diverged")
        return texts

    def times(value: float) -> str:
        return NONE if pd.isna(value) else f"{value:,.0f}{TIMES}" if value >= 99.95 else f"{value:.3g}{TIMES}"

    return pd.DataFrame(
        {
            "experiment": summary["experiment"],
            "method": summary["method"],
            "keep": summary["keep"],
            "E": summary["local_epochs"].astype("str"),
            "accuracy (%)": accuracy("final_accuracy"),
            "best (%)": accuracy("best_accuracy"),
            "uplink": [NONE if pd.isna(bits) else size(bits) for bits in summary["uplink_bits"]],
            "compression": [times(value) for value in summary["compression"]],
            "n": [
                f"{n} ({lost} diverged)" if lost else str(n)
                for n, lost in zip(summary["n"], summary["diverged"], strict=True)
            ],
        },
        dtype="str",
    )


def markdown(people: pd.DataFrame, left: Sequence[str]) -> str:
    """A table of text in Markdown; the columns `left` are aligned to the left, others to the right."""
    rule = [" :-- " if name in left else " --: " for name in people]
    rows = [[f" {text} " for text in row] for row in (people.columns, *people.to_numpy())]
    return "\n".join(f"|{'|'.join(row)}|" for row in (rows[0], rule, *rows[1:])) + "\n"


def latex(people: pd.DataFrame, columns: str, notes: Sequence[str] = ()) -> str:
    """A table of text in LaTeX for the package booktabs, columns aligned as LaTeX spells it, with notes below it."""
    styler = people.style.format(escape="latex").format_index(escape="latex", axis=1).hide(axis="index")
    table = styler.to_latex(hrules=True, column_format=columns)
    span = f"\\multicolumn{{{len(columns)}}}{{p{{\\linewidth}}}}"
    escaped = [re.sub(r"([%_&#$])", r"\\\1", note) for note in notes]
    below = "".join(f"{span}{{\\footnotesize {note}}} \\\\\n" for note in escaped)
    table = table.replace("\\end{tabular}", below + "\\end{tabular}")
    for sign, command in (("±", r"$\pm$"), (TIMES, r"$\times$"), (NONE, "--"), ("<", "$<$"), (">", "$>$")):
        table = table.replace(sign, command)
    return "% Needs \\usepackage{booktabs}.\n" + table


def csv(table: pd.DataFrame) -> bytes:
    """The table as CSV: floats are the shortest decimals that read back as the same number."""
    return table.to_csv(index=False, lineterminator="\n").encode()


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


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
