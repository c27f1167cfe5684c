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
    same. Says so run by run, and names those that differ, with what may be why: versions, commit, code, data, threads,
    processor and the variables that change how torch computes. data: folder of the data sets. sample: how many runs;
    all, if there are fewer. seed: of the sample. among: folders of runs, as `Run.folder` has them: no others are drawn.
    Writes nothing below results. Raises DataError if there is no finished run.
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
        reasons = _reasons(record, again) if why else []
        print(f"{run.folder}: {', '.join(why + reasons) or 'the same'}", flush=True)
        differ += [run.folder] if why else []
    print(f"{len(chosen)} of {len(found)} runs repeated; different: {', '.join(differ) or 'none'}")
    return not differ


def _reasons(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two records of a run that decides its bits, or may decide the last of them."""
    found = then.get("made_from")
    made: dict[str, Any] = found if isinstance(found, dict) else {}
    before = {**then["versions"], "commit": then.get("git_commit"), "threads": then["threads"]}
    after = {**now["versions"], "commit": now["git_commit"], "threads": now["threads"]}
    said = [
        f"{name} {before.get(name)} then, {value} now" for name, value in after.items() if before.get(name) != value
    ]
    for name in ("code", "data"):
        said += [f"other {name}"] if made and made.get(name) != now["made_from"][name] else []
    for name in ("processor", "instructions", "variables", "card"):
        if made and made.get(name) != now["made_from"][name]:
            said.append(f"{name} {_plain(made.get(name))} then, {_plain(now['made_from'][name])} now")
    if made.get("resumed_from"):
        said.append("it went on from a checkpoint of another machine")
    return said or ([] if made else ["of unknown origin: it does not say what it was made from"])


def _plain(value: Any) -> str:
    """A value of a record in one short line."""
    text = ", ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
    return " ".join((text or "none").split())[:100]


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
