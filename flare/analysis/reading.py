"""Reading what runs left behind: every run's files are checked against each other, its folder and its settings."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.analysis import sending
from flare.columns import COSTS, IDENTITY, ROUNDS, RUNS
from flare.config.run import NESTED
from flare.errors import DataError, shown
from flare.runs.record import settings_digest

# What a row of a table has that run.json does not: it follows from the run's settings, or from the other runs.
_TRAFFIC = (
    *("effective_keep", "uplink_bits_golomb", "uplink_bits_entropy", "downlink_bits_delta", "total_bits"),
    *("compression_total", "compression_total_delta"),
)
_DERIVED = ("available", "family", "late_accuracy", "steps_per_round", *_TRAFFIC)
# The column of the probe that counts a downlink of changes alone.
_DELTA = b"downlink_delta_bits"
# The late accuracy of a run is the mean of so many last evaluations, unless it is said otherwise.
LATE = 5


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


def read_run(folder: Path, late: int = LATE) -> tuple[dict[str, Any], bytes]:
    """What the tables need of run.json, and rounds.csv; DataError, one line, if something is missing or mixed up.

    Beside the columns of RUNS and COSTS: "digest", that of the run's settings; "settings", those of them that a family
    of experiments shares; "versions", of what decides a run's bits. late: evaluations that its late accuracy is of.
    """
    found, rounds = _read_files(folder)
    settings = found["config"]
    record = {name: found[name] for name in {**RUNS, **COSTS} if name not in _DERIVED}
    try:
        record["available"] = settings.get("available") or settings.get("clients")
        record["digest"] = settings_digest(settings)
        record["settings"] = _without_availability(settings)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{folder}/run.json: config: not the settings of a run") from None
    record["steps_per_round"] = sending.steps(settings)
    _check_record(folder, record)
    last = _check_rounds(folder / "rounds.csv", record, rounds)[-late:]
    record["late_accuracy"] = math.fsum(last) / len(last) if last else None
    record |= _traffic(record, settings, _last(rounds, _DELTA) if record["status"] == "finished" else None)
    record["versions"] = found.get("versions")
    return record, rounds


def _traffic(record: Mapping[str, Any], settings: Mapping[str, Any], delta: float | None) -> dict[str, Any]:
    """The columns that follow from what a run sent: both ways together, and as other codes would have it."""
    up, down, times = record["uplink_bits"], record["downlink_bits"], record["compression"]
    out: dict[str, Any] = dict.fromkeys(_TRAFFIC) | {"total_bits": None if up is None or down is None else up + down}
    if not up or not times or not record["parameters"]:
        return out
    # Dense messages, and as much back.
    dense = 2 * round(times * up)
    out["compression_total"] = dense / (up + down) if down is not None else None
    if delta is not None:
        out |= {"downlink_bits_delta": int(delta), "compression_total_delta": dense / (up + int(delta))}
    held = sending.sent(settings, record["parameters"], times)
    if held:
        messages = times * up / (32 * record["parameters"])
        out["effective_keep"] = held.effective_keep
        out["uplink_bits_golomb"] = round(messages * held.golomb)
        out["uplink_bits_entropy"] = round(messages * held.entropy)
    return out


def _last(content: bytes, column: bytes) -> float | None:
    """The last value of a column of rounds.csv; None if it has no such column."""
    header = content[: content.index(b"\n")].split(b",")
    if column not in header:
        return None
    values = content[:-1].rpartition(b"\n")[2].split(b",")
    try:
        return float(values[header.index(column)])
    except ValueError:
        return None


def _read_files(folder: Path) -> tuple[dict[str, Any], bytes]:
    """run.json, which has all keys that are needed, and rounds.csv."""
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
    missing = [name for name in ("config", *RUNS, *COSTS) if name not in found and name not in _DERIVED]
    if missing:
        raise DataError(f"{folder}/run.json: {missing[0]} is missing")
    return found, rounds


def _check_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise DataError if run.json is of another run than its folder, or a value of it has another type."""
    if record["status"] not in ("finished", "diverged"):
        raise DataError(f"{folder}/run.json: status: {record['status']!r}; finished or diverged")
    named = Path(*folder.absolute().parts[-5:])
    said = Path(
        *(str(record["experiment"]), str(record["method"]), f"keep-{record['keep']}"),
        *(f"epochs-{record['local_epochs']}", f"seed-{record['seed']}"),
    )
    if named != said:
        raise DataError(f"{folder}: run.json is of another run, {said}")
    for name, kind in {**RUNS, **COSTS}.items():
        if name not in (*IDENTITY, "status", "tuned") and not _fits(record.get(name), kind):
            word = "text" if kind is str else "number"
            raise DataError(f"{folder}/run.json: {name}: {shown(record[name])} is no {word}")
    if not isinstance(record["tuned"], bool):
        raise DataError(f"{folder}/run.json: tuned: {shown(record['tuned'])}; true or false")


def _fits(value: Any, kind: type) -> bool:
    """Whether a value of run.json is of a column's type, and not too large for it; or is not there."""
    if value is None:
        return True
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 2**63):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _check_rounds(path: Path, record: Mapping[str, Any], content: bytes) -> list[float]:
    """The test accuracies of rounds.csv; DataError if it is not of the run in run.json."""
    header, *rows = content.decode(errors="replace").split("\n")
    columns = header.split(",")
    if columns[: len(ROUNDS)] != list(ROUNDS) or not rows or rows.pop():
        raise DataError(f"{path}: not whole, or its first line does not start with {','.join(ROUNDS)}")
    identity = [str(record[name]) for name in IDENTITY]
    # Compared as text: parsing a million rows for this would take most of the time.
    start = ",".join(identity) + ","
    last_round, place = -1, list(ROUNDS).index("test_accuracy") - len(IDENTITY)
    accuracies: list[float] = []
    for number, row in enumerate(rows, 2):
        if not row.startswith(start):
            for name, given, expected in zip(IDENTITY, row.split(","), identity, strict=False):
                if given != expected:
                    raise DataError(f"{path}: line {number}: {name} is {given!r}, and {expected!r} in run.json")
        values = row[len(start) :].split(",")
        try:
            if len(values) != len(columns) - len(IDENTITY) or int(values[0]) <= last_round:
                raise ValueError
            last_round = int(values[0])
            accuracies.append(float(values[place] or "nan"))
        except ValueError:
            raise DataError(f"{path}: line {number}: {len(columns)} values expected, and rounds that ascend") from None
    accuracy = accuracies[-1] if accuracies else math.nan
    final = math.nan if record["final_accuracy"] is None else record["final_accuracy"]
    if accuracy != final and not (math.isnan(accuracy) and math.isnan(final)):
        raise DataError(f"{path}: its last test_accuracy is {accuracy}, and final_accuracy is {final} in run.json")
    return accuracies


def _without_availability(settings: Mapping[str, Any]) -> str:
    """What decides the run's result, except its experiment's name, its seed and the clients that answer.

    Tuned settings count as tuned, whatever value was found.
    """
    tuned = sorted(settings.get("tuned") or ())
    others = {
        key: value
        for key, value in settings.items()
        if key not in ("experiment", "seed", "available", "tuned", "method_settings", *tuned)
    }
    inside = settings.get(NESTED) or {}
    others[NESTED] = {key: value for key, value in inside.items() if f"{NESTED}.{key}" not in tuned}
    own = {key: value for key, value in (settings.get("method_settings") or {}).items() if key not in tuned}
    return json.dumps([others, own, tuned], sort_keys=True)


def check_digest(folder: Path, found: str, expected: str | None) -> None:
    """Raise DataError if a run has other settings than is known of it."""
    if expected and found != expected:
        raise DataError(f"{folder}: made with other settings than the configuration's; delete it, and it is run again")


def check_versions(folders: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError if runs were made with different versions of what decides their bits."""
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
