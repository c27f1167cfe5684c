"""Reading what runs left behind: every run's files are checked against each other, its folder and its settings."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.columns import COSTS, IDENTITY, ROUNDS, RUNS
from flare.errors import DataError, shown
from flare.runs.provenance import broken_record
from flare.runs.record import settings_digest

# What a row of a table has that run.json does not: it follows from the run's settings, or from the other runs.
_DERIVED = ("available", "family")


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


def read_run(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What the tables need of run.json, and rounds.csv; DataError, one line, if something is missing or mixed up.

    Beside the columns of RUNS and COSTS: "digest", that of the run's settings; "settings", those of them that a family
    of experiments shares; "versions", of what decides a run's bits; "made_from", what it was made from.
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
    _check_record(folder, record)
    _check_rounds(folder / "rounds.csv", record, rounds)
    if problem := broken_record(found, rounds):
        raise DataError(f"{folder}: {problem}; delete it, and it is run again")
    record["versions"] = found.get("versions")
    record["made_from"] = found["made_from"] | {"engine": found.get("engine"), "commit": found.get("git_commit")}
    return record, rounds


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


def _check_rounds(path: Path, record: Mapping[str, Any], content: bytes) -> None:
    """Raise DataError if rounds.csv is not of the run in run.json."""
    header, *rows = content.decode(errors="replace").split("\n")
    columns = header.split(",")
    if columns[: len(ROUNDS)] != list(ROUNDS) or not rows or rows.pop():
        raise DataError(f"{path}: not whole, or its first line does not start with {','.join(ROUNDS)}")
    identity = [str(record[name]) for name in IDENTITY]
    # Compared as text: parsing a million rows for this would take most of the time.
    start = ",".join(identity) + ","
    last_round, accuracy, place = -1, math.nan, list(ROUNDS).index("test_accuracy") - len(IDENTITY)
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
    own = {key: value for key, value in (settings.get("method_settings") or {}).items() if key not in tuned}
    return json.dumps([others, own, tuned], sort_keys=True)


def check_digest(folder: Path, found: str, expected: str | None) -> None:
    """Raise DataError if a run has other settings than is known of it."""
    if expected and found != expected:
        raise DataError(f"{folder}: made with other settings than the configuration's; delete it, and it is run again")


def check_code(folder: Path, found: str, expected: str | None) -> None:
    """Raise DataError if a run was made by other code than is known of it."""
    if expected and found != expected:
        raise DataError(f"{folder}: made by other code than this; delete it, and it is run again")


def check_alike(folders: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError if runs that stand in one table differ in what decides their bits and is no setting of theirs.

    All are of one version of flare, torch and numpy; those of a method by one code; those of a data set of one content;
    those of an experiment on one kind of device, with one number of threads. Told, not refused: other processors,
    cards, engines, and code that was in no commit.
    """
    seen: dict[tuple[Any, ...], tuple[Path, Any]] = {}
    for folder, record in zip(folders, records, strict=True):
        versions = record["versions"] if isinstance(record["versions"], dict) else {}
        made = record["made_from"]
        for name in ("flare", "torch", "numpy"):
            _hold(seen, (name,), folder, versions.get(name), f"{name} {{}}", "version, so delete the older runs")
        for name, scope in (
            ("code", ("experiment", "method")),
            ("data", ("dataset",)),
            ("device", ("experiment",)),
            ("threads", ("experiment",) if made.get("device") == "cpu" else ()),
        ):
            if scope:
                key = (name, *(record[of] for of in scope))
                _hold(seen, key, folder, made.get(name), _DIFFERS[name], f"{name}, so delete those of another")


_DIFFERS = {"code": "other code", "data": "other data", "device": "device {}", "threads": "{} torch threads"}


def _hold(seen: dict[Any, tuple[Path, Any]], key: Any, folder: Path, value: Any, words: str, remedy: str) -> None:
    first, known = seen.setdefault(key, (folder, value))
    if value != known:
        than = f", and {first} with {words.format(known)}" if "{}" in words else f" than {first}"
        raise DataError(f"{folder}: made with {words.format(value)}{than}; a table is of one {remedy} and run again")


def told(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of a table is told of its runs: that they are of several machines or engines, or of code that is in
    no commit. A line each, nothing if there is nothing to tell."""
    lines = []
    for name in ("processor", "instructions", "variables", "card", "engine"):
        found: dict[str, int] = {}
        for record in records:
            value = record["made_from"].get(name)
            word = ", ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
            found[word or "none"] = found.get(word or "none", 0) + 1
        if len(found) > 1:
            counts = "; ".join(f"{word} ({count})" for word, count in found.items())
            lines.append(f"runs of more than one {_TOLD[name]}, whose last bits may differ: {counts}")
    changed = sum(str(record["made_from"].get("commit")).endswith("-dirty") for record in records)
    resumed = sum(bool(record["made_from"].get("resumed_from")) for record in records)
    lines += [f"{changed} of {len(records)} runs are of code with changes that are in no commit"] if changed else []
    lines += [f"{resumed} of {len(records)} runs went on from a checkpoint of another machine"] if resumed else []
    return lines


_TOLD = {
    **{"processor": "processor", "instructions": "set of instructions", "card": "card", "engine": "engine"},
    "variables": "setting of the variables that change how torch computes",
}
