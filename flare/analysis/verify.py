"""Verification: finished runs are repeated and must give the same bits: `python -m flare verify`, `make verify`.

A run's record says everything that decides its result, so that no configuration is needed to repeat it.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flare.config import Run, check_run, with_defaults
from flare.errors import ConfigError, DataError
from flare.files import read_json


def verify(results: Path, data: Path, sample: int, seed: int = 0, among: Collection[str] | None = None) -> bool:
    """Repeat a random sample of the finished runs below results/runs in a temporary folder; True if all are equal.

    A run is equal if rounds.csv has the same bytes and `result_hash`, which is also of its final weights, is the
    same. Says so run by run, and names those that differ. Bits depend on the versions of torch and numpy and on the
    kind of device: a run that was made with others is named, too, with what is different. data: folder of the data
    sets. sample: how many runs; all, if there are fewer. seed: of the sample. among: folders of runs, as `Run.folder`
    has them: no others are drawn. Writes nothing below results. Raises DataError if there is no finished run.
    """
    from flare.runs.train import train

    found = sorted((Path(results) / "runs").glob("*/*/*/*/seed-*/run.json"))
    if among is not None:
        wanted = set(among)
        found = [path for path in found if path.parent.relative_to(Path(results) / "runs").as_posix() in wanted]
    if not found:
        of = "" if among is None else " of the configuration's"
        raise DataError(f"{Path(results) / 'runs'}: no finished run{of}; carry out a sweep first")
    chosen = sorted(random.Random(seed).sample(found, min(sample, len(found))))
    differ = []
    for path in chosen:
        record, run = _read(path)
        with tempfile.TemporaryDirectory(prefix="flare-verify-") as scratch:
            again = train(
                run,
                data=data,
                output=Path(scratch),
                device=record["device"].partition(":")[0],
                threads=record["threads"],
                wandb="disabled",
            )
            same = (Path(scratch) / "rounds.csv").read_bytes() == (path.parent / "rounds.csv").read_bytes()
        why = [] if same else ["other rounds.csv"]
        why += [f"other {key}" for key in ("status", "result_hash") if again[key] != record[key]]
        versions = [
            f"{name} {record['versions'].get(name)} then, {version} now"
            for name, version in again["versions"].items()
            if why and record["versions"].get(name) != version
        ]
        print(f"{run.folder}: {', '.join(why + versions) or 'the same'}", flush=True)
        differ += [run.folder] if why else []
    print(f"{len(chosen)} of {len(found)} runs repeated; different: {', '.join(differ) or 'none'}")
    return not differ


def _read(path: Path) -> tuple[dict[str, Any], Run]:
    """run.json and the run that it is of; DataError if it is not a record of this version."""
    try:
        record: dict[str, Any] = read_json(path)
        if not isinstance(record["result_hash"], str) or not isinstance(record["versions"], dict):
            raise TypeError("not the record of a run")
        if not isinstance(record["device"], str) or not 1 <= int(record["threads"]) <= 1024:
            raise TypeError("device or threads is none")
        run = Run(**record["config"])
        check_run(run)
        if Path(*path.parent.parts[-5:]) != Path(run.folder) or with_defaults(run) != run:
            raise TypeError(f"of another run, {run.folder}")
        if not (path.parent / "rounds.csv").is_file():
            raise TypeError("rounds.csv is missing beside it")
        return record, dataclasses.replace(run)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ConfigError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be repeated: {' '.join(str(error).split())[:300]}") from None
