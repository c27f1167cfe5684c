"""The one reader of what a run leaves, rounds.csv and run.json: of a reported run and of a trial alike.

Nothing is believed that the other file, the settings or the folder's name can confirm: who it is of, how it ended, its
rounds, accuracies, losses and bits. The rest run.json must vouch for: its block `made_from` has SHA-256 of the settings
and of rounds.csv. What contradicts is a DataError, one line.

Imports neither torch nor pandas: it is asked whenever Snakemake starts (`flare.runs.provenance`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.columns import COSTS, HISTORY, IDENTITY, ROUNDS, RUNS, STALENESS
from flare.errors import DataError, shown
from flare.files import LARGE, SMALL, parse_json, read_bytes
from flare.runs.record import whole_digest

# What a row of a table has that run.json does not: it follows from the run's settings, or from the other runs.
DERIVED = (
    *("available", "family", "late_accuracy", "steps_per_round", "effective_keep", "uplink_bits_golomb"),
    *("uplink_bits_entropy", "downlink_bits_delta", "total_bits", "compression_total", "compression_total_delta"),
)
# How a run may have ended.
ENDS = ("finished", "diverged")
_NUMBERS = list(HISTORY)
_NO_LESS = ("rounds", "uplink_bits", "downlink_bits", "parameters", "threads", "wall_seconds")


def read(folder: Path, *, trial: bool = False, place: bool = True) -> tuple[dict[str, Any], bytes]:
    """run.json and rounds.csv of a reported run's folder or, if told so, of a trial's; DataError if they do not agree.

    place: whether the folder must be called as the run is.
    """
    found, content = look(folder, trial=trial)
    if place:
        _check_place(folder, found, trial)
    try:
        rows = list(_rows(found, content))
        _check_order(found, rows)
        _check_ends(found, rows)
    except _Wrong as wrong:
        raise DataError(f"{folder / 'rounds.csv'}: {wrong}") from None
    if problem := broken_record(found, content):
        raise DataError(f"{folder}: {problem}; delete it, and it is run again")
    return found, content


def look(folder: Path, *, trial: bool | None = None) -> tuple[dict[str, Any], bytes]:
    """The same files, without a look at the rows: of thousands of runs `broken_record` says in seconds whether
    rounds.csv is the one that was written. trial: None if it may be of either.
    """
    found, content = _read_files(folder)
    try:
        _check_types(found)
        _check_settings(found, trial)
    except _Wrong as wrong:
        raise DataError(f"{folder}/run.json: {wrong}") from None
    return found, content


def broken_record(record: Mapping[str, Any], rounds: bytes) -> str:
    """Why a record does not vouch for its own settings and its rounds.csv; "" if it does."""
    made = record.get("made_from")
    if not isinstance(made, dict) or not all(isinstance(made.get(name), str) for name in ("settings", "code", "data")):
        return "of unknown origin, as run.json does not say what it was made from"
    if made.get("rounds") != hashlib.sha256(rounds).hexdigest():
        return "its rounds.csv is not the one that the run wrote"
    try:
        own = whole_digest(record["config"])
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        own = ""
    return "" if made["settings"] == own else "its settings in run.json are not those it was made with"


class _Wrong(Exception):
    """What is wrong with a file, without its name."""


def _read_files(folder: Path) -> tuple[dict[str, Any], bytes]:
    """run.json, which has all keys that are needed, and rounds.csv."""
    try:
        record = read_bytes(folder / "run.json", SMALL)
        rounds = read_bytes(folder / "rounds.csv", LARGE)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {Path(error.filename).name} is missing; this run is not finished") from None
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror}") from None
    try:
        found = parse_json(record)
    except ValueError as error:
        raise DataError(f"{folder}/run.json: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("config", {}), dict):
        raise DataError(f"{folder}/run.json: not the record of a run")
    missing = [name for name in ("config", *RUNS, *COSTS) if name not in found and name not in DERIVED]
    if missing:
        raise DataError(f"{folder}/run.json: {missing[0]} is missing")
    return found, rounds


def _check_types(found: Mapping[str, Any]) -> None:
    """Every value is of its column's type, and one that can be."""
    if found["status"] not in ENDS:
        raise _Wrong(f"status: {shown(found['status'])}; finished or diverged")
    for name, kind in {**RUNS, **COSTS}.items():
        value = found.get(name)
        if name not in ("status", "tuned") and not _fits(value, kind):
            raise _Wrong(f"{name}: {shown(value)} is no {'text' if kind is str else 'number'}")
        if name in _NO_LESS and value is not None and value < 0:
            raise _Wrong(f"{name}: {shown(value)}; 0 or more")
    if not isinstance(found["tuned"], bool):
        raise _Wrong(f"tuned: {shown(found['tuned'])}; true or false")
    needed = (*IDENTITY, "rounds", "uplink_bits", "downlink_bits", "parameters", "result_hash", "wall_seconds")
    if lacking := [name for name in needed if found[name] is None]:
        raise _Wrong(f"{lacking[0]}: null is not allowed")


def _fits(value: Any, kind: type) -> bool:
    """Whether a value of run.json is of a column's type, and not too large for it; or is not there."""
    if value is None:
        return True
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 2**63):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, str) and not (value.isprintable() and len(value) <= 1000):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _check_settings(found: Mapping[str, Any], trial: bool | None) -> None:
    """The settings are of this run, and of a trial or of a reported run, as it should be (None: of either)."""
    settings = found["config"]
    is_trial = settings.get("trial") is not None
    if is_trial != (settings.get("validation") is not None):
        raise _Wrong("config: trial, validation: one without the other")
    measured = "validation" if is_trial else "test"
    if found.get("evaluated_on", measured) != measured:
        raise _Wrong(f"evaluated_on: {shown(found['evaluated_on'])}, and {measured!r} by its settings")
    if trial not in (None, is_trial):
        what = ("a reported run", "a trial of a study, measured on held-out samples")
        raise _Wrong(f"of {what[is_trial]}, in the place of {what[not is_trial]}")
    for name in IDENTITY:
        if name in settings and settings[name] != found[name]:
            raise _Wrong(f"{name}: {shown(found[name])}, and {shown(settings[name])} in its settings")
    if "tuned" in settings and found["tuned"] != (bool(settings["tuned"]) and not is_trial):
        raise _Wrong(f"tuned: {found['tuned']}, and its settings say otherwise")
    for name in ("clients", "available", "rounds", "evaluate_every"):
        value = settings.get(name)
        if value is not None and not (type(value) is int and 1 <= value < 2**63):
            raise _Wrong(f"config: {name}: {shown(value)} is no such number")


def _check_place(folder: Path, found: Mapping[str, Any], trial: bool) -> None:
    """The folder is called as the run is."""
    cell = Path(str(found["experiment"]), str(found["method"]), f"keep-{found['keep']}")
    said = [*cell.parts, f"epochs-{found['local_epochs']}"]
    depth = 5
    named = folder.absolute().parts
    if trial:  # batch-B stands between the study and trial-T
        said, depth = [f"trial-{found['config']['trial']}"], 2
    said.append(f"seed-{found['seed']}")
    if list(named[-depth:]) != said:
        raise DataError(f"{folder}: run.json is of another run, {Path(*said)}")


def _rows(found: Mapping[str, Any], content: bytes) -> Iterator[list[float]]:
    """The numbers of HISTORY in every row of rounds.csv, all of which are of this run."""
    header, *lines = content.decode(errors="replace").split("\n")
    columns = header.split(",")
    if columns[: len(ROUNDS)] != list(ROUNDS) or not lines or lines.pop():
        raise _Wrong(f"not whole, or its first line does not start with {','.join(ROUNDS)}")
    if len(set(columns)) < len(columns) or not all(name.isidentifier() for name in columns):
        raise _Wrong("a column is there twice, or has no name")
    if found["config"].get("staleness") and not set(STALENESS) <= set(columns):
        raise _Wrong("no columns of staleness, which its settings ask for")
    identity = [str(found[name]) for name in IDENTITY]
    # Compared as text: one comparison instead of one a column.
    start = ",".join(identity) + ","
    width, more = len(columns) - len(IDENTITY), len(columns) > len(ROUNDS)
    # int and float take 1_0, " 1" and other alphabets' digits, which no run writes: looked for in all lines at once.
    text = "".join(lines)
    odd = not text.isascii() or any(text.count(mark) != len(lines) * start.count(mark) for mark in "_ ")
    for number, line in enumerate(lines, 2):
        if not line.startswith(start):
            for name, given, expected in zip(IDENTITY, line.split(","), identity, strict=False):
                if given != expected:
                    raise _Wrong(f"line {number}: {name} is {given!r}, and {expected!r} in run.json")
        own = line[len(start) :]
        values = own.split(",")
        try:
            if len(values) != width or (odd and (not own.isascii() or "_" in own or " " in own)):
                raise ValueError
            row = [*map(int, values[:3]), *map(float, values[3:6])]
            known = [*row, *(float(value) for value in values[6:] if value)] if more else row  # a probe may say nothing
        except ValueError:
            raise _Wrong(f"line {number}: {len(columns)} values expected, numbers, and rounds that ascend") from None
        if not all(map(math.isfinite, known)) or not 0 <= row[5] <= 1 or min(row[:3]) < 0:
            raise _Wrong(f"line {number}: numbers expected, an accuracy from 0 to 1, and nothing below 0 before it")
        yield row


def _check_order(found: Mapping[str, Any], rows: Sequence[Sequence[float]]) -> None:
    """Rounds ascend and are those that are evaluated; bits, sums over the rounds so far, do not fall."""
    last: Sequence[float] = (-1, 0, 0)
    for number, row in enumerate(rows, 2):
        if row[0] <= last[0]:
            raise _Wrong(f"line {number}: {len(ROUNDS)} or more values expected, and rounds that ascend")
        if row[1] < last[1] or row[2] < last[2]:
            raise _Wrong(f"line {number}: fewer bits than in the line before")
        last = row
    settings = found["config"]
    planned, every = settings.get("rounds"), settings.get("evaluate_every")
    if planned is None or every is None:
        return
    done = min(planned, found["rounds"])
    expected = [*range(0, done, every)]
    if done == planned and expected and expected[-1] != planned - 1:
        expected.append(planned - 1)
    if [row[0] for row in rows] != expected:
        raise _Wrong(f"{len(rows)} rows, and those of {len(expected)} rounds are expected: every {every} of {done}")


def _check_ends(found: Mapping[str, Any], rows: Sequence[Sequence[float]]) -> None:
    """What run.json says of the run's end is what its rows say."""
    last = dict(zip(_NUMBERS, rows[-1], strict=True)) if rows else {}
    said = {
        "final_accuracy": last.get("test_accuracy"),
        "best_accuracy": max((row[5] for row in rows), default=None),
        "final_loss": last.get("test_loss"),
    }
    for name, value in said.items():
        if found[name] != value:
            column = "test_loss" if name == "final_loss" else "test_accuracy"
            which = "largest" if name == "best_accuracy" else "last"
            raise _Wrong(f"its {which} {column} is {value}, and {name} is {found[name]} in run.json")
    finished = found["status"] == "finished"
    planned, rounds, diverged = found["config"].get("rounds"), found["rounds"], found["diverged_round"]
    if finished and (diverged is not None or not rows or rows[-1][0] != rounds - 1 or planned not in (None, rounds)):
        raise _Wrong(f"a finished run of {rounds} rounds in run.json, and it is not one by its rows or settings")
    after = bool(rows) and rows[-1][0] >= rounds
    if not finished and (diverged != rounds or after or (planned is not None and rounds >= planned)):
        raise _Wrong(f"diverged in round {diverged} of {rounds} in run.json, and not so by its rows or settings")
    for name in ("uplink_bits", "downlink_bits"):
        value, summed = found[name], last.get(name, 0)
        if value < summed or (finished and value != summed):
            raise _Wrong(f"its last {name} is {summed}, and {value} in run.json")
    _check_compression(found, rounds + (not finished))


def _check_compression(found: Mapping[str, Any], sent: int) -> None:
    """compression is how much more a dense uplink would have been in the rounds that were sent: 32 bits a weight."""
    compression, bits, settings = found["compression"], found["uplink_bits"], found["config"]
    if (compression is None) != (bits == 0):
        raise _Wrong(f"compression is {compression} in run.json, of {bits} bits")
    answering = settings.get("available") or settings.get("clients")
    if compression is not None and answering:
        dense = 32 * found["parameters"] * answering * sent
        if not math.isclose(compression * bits, dense, rel_tol=1e-9):
            raise _Wrong(f"compression is {compression} in run.json, and {dense / bits} by its bits and settings")
