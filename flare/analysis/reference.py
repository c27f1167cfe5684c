"""Our cells beside the numbers that the FLARE authors published with their program.

config/reference.csv has one row per curve of theirs (GitHub repository SOURCE at `commit`): `test_accuracy` after
`rounds` rounds, the test set's, of one seed, and under the names of our configuration the settings it was made with;
empty if a setting does not apply. `parameters` is the number of weights of the model. `caveat` says what no setting
of ours makes equal.

A cell of ours (a run without its seed) meets the row of the same model, method, clients, available, keep and
local_epochs; of several, that with the fewest other differences. The two are comparable if there is no difference at
all, in data or settings, and no caveat.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flare.algorithms._looks import label
from flare.analysis import text
from flare.analysis.reading import check_alike, check_code, check_digest
from flare.analysis.statistics import t_interval
from flare.columns import CELL, REFERENCE
from flare.errors import DataError
from flare.files import read_bytes, write_whole
from flare.runs.reading import read as read_files
from flare.runs.record import settings_digest

SOURCE = "RanGreidi/FLARE-Federated-Learning-with-Accumulated-Regularized-Embeddings"
SAME = ("model", "method", "clients", "available", "keep", "local_epochs")
SETTINGS = (
    *("dataset", "parameters", "samples_per_client", "batch_size", "learning_rate", "momentum", "rounds", "tau"),
    *("tau_decay", "percentile", "pull_steps", "not_pulled", "double_softmax", "shuffle", "pad_to", "channels"),
    "fidelity",
)


def compare(
    folders: Sequence[Path],
    reference: Path,
    output: Path,
    settings: Sequence[str | None] | None = None,
    code: Sequence[str | None] | None = None,
) -> None:
    """Write `output`.csv and `output`.md: one row (REFERENCE) per cell of the run folders, in their order.

    n, final_accuracy, final_accuracy_low, final_accuracy_high: ours, over the finished seeds, with the t-interval;
    reference_dataset, reference_accuracy, curve: theirs; comparable: "yes", "no", or "" if they have no such cell;
    differs: why not, setting by setting, ours before theirs. settings, code: as for `tabulate`, with the same DataError
    if a run has others, or was made from other things than the others.
    """
    rows = _read(reference)
    records = [_read_record(*each) for each in itertools.zip_longest(folders, settings or (), code or ())]
    check_alike(folders, records)
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    finals = []
    for folder, record in zip(folders, records, strict=True):
        try:
            cells.setdefault(tuple(record[name] for name in CELL), _settings(record))
            if record["status"] == "finished":
                final = float(record["final_accuracy"])
                finals.append({name: record[name] for name in CELL} | {"final_accuracy": final})
        except (ValueError, KeyError, TypeError) as error:
            raise _no_record(folder, error) from None
    measured = t_interval(pd.DataFrame(finals, columns=[*CELL, "final_accuracy"]), list(CELL), "final_accuracy")
    table = []
    for cell, decided in cells.items():
        ours = measured.loc[cell].to_dict() if cell in measured.index else {"n": 0}
        row, differs = _nearest(decided, rows)
        table.append(dict(zip(CELL, cell, strict=True)) | _compared(ours, row, differs))
    frame = pd.DataFrame(table, columns=list(REFERENCE))
    write_whole(Path(f"{output}.csv"), text.csv(frame))
    write_whole(Path(f"{output}.md"), _markdown(frame).encode())


def _read_record(folder: Path, digest: str | None, code: str | None) -> dict[str, Any]:
    """run.json of a run that vouches for itself, and has the settings and the code of these digests, if given."""
    try:
        record, _ = read_files(folder, place=False)
        found = settings_digest(record["config"])
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_record(folder, error) from None
    check_digest(folder, found, digest)
    check_code(folder, record["made_from"]["code"], code)
    return record | {"versions": record.get("versions")}


def _compared(ours: Mapping[Any, Any], row: Mapping[str, str], differs: Sequence[str]) -> dict[str, Any]:
    """The columns of a cell's row behind its name: what was measured, the row of theirs, and what differs."""
    return {
        "n": int(ours["n"]),
        "final_accuracy": ours.get("mean"),
        "final_accuracy_low": ours.get("low"),
        "final_accuracy_high": ours.get("high"),
        "reference_dataset": row.get("dataset", ""),
        "reference_accuracy": row.get("test_accuracy", ""),
        "comparable": "" if not row else "no" if differs else "yes",
        "differs": "; ".join(differs),
        "curve": f"{row['curve']} at {row['commit']}" if row else "",
    }


def _no_record(folder: Path, error: Exception) -> DataError:
    return DataError(f"{folder}/run.json: not the record of a run: {' '.join(str(error).split())[:200]}")


def _read(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8"), newline="")))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from None
    needed = {*SAME, *SETTINGS, "curve", "commit", "test_accuracy", "caveat"}
    missing = needed - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"{path}: no column {', '.join(sorted(missing))}")
    for row in rows:
        try:
            float(row["test_accuracy"])
        except (TypeError, ValueError):
            raise DataError(f"{path}: test_accuracy: {row['test_accuracy']!r} is no number") from None
    return rows


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    """All that decided the run, by the names of config/reference.csv, as text."""
    config = record["config"]
    flat = {**config, **config["partition"], **config["method_settings"], "parameters": record["parameters"]}
    flat["available"] = config["available"] or config["clients"]
    return {name: _text(value) for name, value in flat.items()}


def _nearest(ours: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> tuple[Mapping[str, str], list[str]]:
    """The row of the same cell that differs least, and what differs; or nothing."""
    found = [(row, _differences(ours, row)) for row in rows if all(ours.get(name) == _text(row[name]) for name in SAME)]
    return min(found, key=lambda pair: len(pair[1]), default=({}, []))


def _differences(ours: Mapping[str, str], row: Mapping[str, str]) -> list[str]:
    out = [
        f"{name} {ours.get(name, 'none')}, not {row[name]}"
        for name in SETTINGS
        if row[name] and ours.get(name) != _text(row[name])
    ]
    return [*out, row["caveat"]] if row["caveat"] else out


def _text(value: Any) -> str:
    """One spelling of a value, whether from JSON or from CSV."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _markdown(table: pd.DataFrame) -> str:
    lines = [
        f"Theirs: one seed, published with the FLARE authors' program (GitHub {SOURCE}). Comparable: data and all"
        " settings agree.",
        "",
        "| experiment | method | keep | E | our data | our accuracy (%) | n | their data | theirs (%) | comparable |",
        "| :-- | :-- | :-- | --: | :-- | --: | --: | :-- | --: | :-- |",
    ]
    for row in table.to_dict("records"):
        names = ("n", "final_accuracy", "final_accuracy_low", "final_accuracy_high")
        ours = text.accuracy_in_words(*(row[name] for name in names))
        theirs = f"{100 * float(row['reference_accuracy']):.2f}" if row["reference_accuracy"] else ""
        verdict = f"{row['comparable']}: {row['differs']}" if row["differs"] else row["comparable"] or "no such cell"
        words = [row["experiment"], label(row["method"]), row["keep"], row["local_epochs"], row["dataset"], ours]
        lines.append(f"| {' | '.join(map(str, [*words, row['n'], row['reference_dataset'], theirs, verdict]))} |")
    return "\n".join([*lines, ""])
