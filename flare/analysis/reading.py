"""What the tables take from the runs' files, which `flare.runs.reading` holds to each other and to their folder."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.analysis import sending
from flare.columns import COSTS, RUNS
from flare.config.run import NESTED
from flare.errors import DataError, shown
from flare.runs.reading import DERIVED, read
from flare.runs.record import settings_digest

# What a row of a table has that run.json does not: it follows from the run's settings, or from the other runs.
_TRAFFIC = (
    *("effective_keep", "uplink_bits_golomb", "uplink_bits_entropy", "downlink_bits_delta", "total_bits"),
    *("compression_total", "compression_total_delta"),
)
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

    Beside the columns of RUNS and COSTS: "config", the run's settings, and "digest", theirs; "settings", those of them
    that a family of experiments shares; "versions", of what decides a run's bits; "made_from", what it was made from.
    late: evaluations that its late accuracy is of.
    """
    found, rounds = read(folder)
    settings = found["config"]
    record = {name: found[name] for name in {**RUNS, **COSTS} if name not in DERIVED}
    try:
        record["available"] = settings.get("available") or settings.get("clients")
        record["digest"] = settings_digest(settings)
        record["settings"] = _without_availability(settings)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{folder}/run.json: config: not the settings of a run") from None
    record["steps_per_round"] = sending.steps(settings)
    last = _last(rounds, b"test_accuracy", late)
    record["late_accuracy"] = math.fsum(last) / len(last) if last else None
    delta = _last(rounds, _DELTA, 1) if record["status"] == "finished" else []
    record |= _traffic(record, settings, delta[0] if delta else None)
    record |= {"config": settings, "versions": found.get("versions")}
    record["made_from"] = found["made_from"] | {"engine": found.get("engine"), "commit": found.get("git_commit")}
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


def _last(content: bytes, column: bytes, count: int) -> list[float]:
    """The values that a column of rounds.csv has in its last rows, so many; none if it has no such column."""
    names = content.partition(b"\n")[0].split(b",")
    if column not in names:
        return []
    place, rows = names.index(column), content.rstrip(b"\n").rsplit(b"\n", count)[1:]
    return [float(value) for value in (row.split(b",")[place] for row in rows) if value]


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
