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
    that a family of experiments shares; "versions", of what decides a run's bits. late: evaluations that its late
    accuracy is of.
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
    last = [value for value in _values(rounds, b"test_accuracy") if value is not None][-late:]
    record["late_accuracy"] = math.fsum(last) / len(last) if last else None
    delta = _values(rounds, _DELTA)
    record |= _traffic(record, settings, delta[-1] if delta and record["status"] == "finished" else None)
    record |= {"config": settings, "versions": found.get("versions")}
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


def _values(content: bytes, column: bytes) -> list[float | None]:
    """The values of a column of rounds.csv, None if one is empty; none at all if it has no such column."""
    header, *rows = content.splitlines()
    names = header.split(b",")
    if column not in names:
        return []
    place = names.index(column)
    return [float(value) if value else None for value in (row.split(b",")[place] for row in rows)]


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
