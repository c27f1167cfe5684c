"""What the tables were made from, held against what is planned: made_from.json, beside them.

Imports no pandas: it is asked whenever Snakemake starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.algorithms._looks import label
from flare.config import Run
from flare.config import runs as expand_runs
from flare.errors import DataError
from flare.files import write_whole
from flare.runs import provenance
from flare.runs.identity import WHETHER, code_digest, reached
from flare.tuning.origin import Sweep

NAME = "made_from.json"
_AGAIN = "make the tables again: snakemake tables"


def code(methods: Iterable[str]) -> str:
    """SHA-256 of the code that makes the tables, and of what these methods are called in them."""
    names = {method: label(method) for method in sorted(methods)}
    said = f"{code_digest(reached(('analysis/tables',), WHETHER))}\n{names}"
    return hashlib.sha256(said.encode()).hexdigest()


def write(
    tables: Path, names: Iterable[str], runs: Mapping[str, Sequence[str]], notes: Sequence[str], late: int
) -> None:
    """Say of tables that were just made what they were made from: by run the digests of settings, code and rounds;
    and of how many evaluations late accuracies are.
    """
    own = {name: hashlib.sha256((tables / f"{name}.csv").read_bytes()).hexdigest() for name in names}
    methods = {place.split("/")[1] for place in runs}
    content = {"code": code(methods), "runs": runs, "tables": own, "notes": notes, "late": late}
    write_whole(tables / NAME, (json.dumps(content, separators=(",", ":")) + "\n").encode())


def read(tables: Path) -> dict[str, Any]:
    """What the tables of a folder were made from: "runs", "tables" (the digest of each), "notes" for readers, "code".

    DataError if that is not said, or if a table is not the one that was made.
    """
    path = tables / NAME
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        for name, digest in found["tables"].items():
            if hashlib.sha256((tables / f"{name}.csv").read_bytes()).hexdigest() != digest:
                raise DataError(f"{tables}/{name}.csv: not the table that was made of the runs; {_AGAIN}")
        if not all(isinstance(found[key], kind) for key, kind in (("runs", dict), ("notes", list), ("code", str))):
            raise TypeError
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; {_AGAIN}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{path}: does not say what the tables were made from; {_AGAIN}") from None
    return found


def tables_problem(
    tables: Path, sweep: Sweep, runs: Iterable[Run], *, rounds: bool = True, late: int | None = None
) -> str:
    """Why the tables of a folder are not those of what is planned: "" if they are.

    A run that is not there any more counts as the tables have it. rounds: hold the runs' own files against it, too,
    and their order, which is that of the rows. late: evaluations of which late accuracies are to be, if it is known.
    """
    if not (tables / NAME).exists() and not (tables / "runs.csv").exists():
        return provenance.ABSENT
    try:
        found = read(tables)
    except DataError as error:
        return str(error)
    if late not in (None, found.get("late")):
        return "made with another number of late evaluations"
    planned = {run.folder: run for run in runs}
    if list(found["runs"]) != list(planned) and (rounds or set(found["runs"]) != set(planned)):
        return "made from other runs"
    if found["code"] != code({run.method for run in planned.values()}):
        return "made by other code"
    for place, run in planned.items():
        wanted, made = sweep.planned(run), found["runs"][place]
        if wanted is None or made[:2] != [wanted.settings, wanted.code or made[1]]:
            return f"made from a run of other settings or code ({place})"
        if rounds:
            problem = sweep.run(run)
            if problem not in ("", provenance.ABSENT) or (not problem and sweep.rounds(run) != made[2]):
                return f"made from a run that is not what is planned ({place})"
    return ""


def of_configuration(config: Mapping[str, Any]) -> list[str]:
    """What to tell of the tables of a checked configuration: its experiments that are not in them, and their notes.

    DataError if the tables are not of the runs that the configuration asks for.
    """
    tables = Path(config.get("results", "results"), "tables")
    found, every = read(tables), expand_runs(config)
    there = {place.partition("/")[0] for place in found["runs"]}
    own = [run for run in every if run.experiment in there]
    if problem := tables_problem(tables, Sweep.of(config), own, rounds=False):
        raise DataError(f"{tables}: not of this configuration, {problem}; carry it out: snakemake --configfile FILE")
    out = dict.fromkeys(run.experiment for run in every if run.experiment not in there)
    return [*([f"not in the tables: {', '.join(out)}"] if out else []), *found["notes"]]
