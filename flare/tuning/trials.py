"""The files of a study's trials: what was proposed, what their runs measured, what best.yaml says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flare.config.run import Run
from flare.errors import DataError
from flare.tuning.study import Study, Trial


def read_batch(study: Study, folder: Path, batch: int) -> list[Trial]:
    """The trials of a batch from its proposals and its runs; DataError if one is missing or of another trial."""
    out = []
    for number in study.batch(batch):
        values = read_values(folder / f"batch-{batch}" / "proposals.json", study.name, number)
        records = {run.seed: _read_record(folder / study.place(run), run) for run in study.runs(number, values)}
        out.append(judge(study, number, values, records))
    return out


def judge(study: Study, number: int, values: Mapping[str, Any], records: Mapping[int, Mapping[str, Any]]) -> Trial:
    """The trial of these runs, given as their run.json by seed."""
    lost = any(record["status"] == "diverged" for record in records.values())
    measured = {
        seed: float(record[f"final_{study.objective}"])
        for seed, record in records.items()
        if record["status"] != "diverged"
    }
    return Trial(number, values, "diverged" if lost else "complete", measured)


def read_values(path: Path, study: str, trial: int | None = None) -> dict[str, Any]:
    """The values in a study's best.yaml, or those of a trial in proposals.json; DataError if they are not there."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if found["study"] != study:
            raise DataError(f"{path}: of the study {found['study']}, and {study} is meant")
        if trial is None:
            return dict(found["values"])
        return next(dict(entry["values"]) for entry in found["trials"] if entry["trial"] == trial)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except DataError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
        what = "best.yaml of a study" if trial is None else f"proposals.json with trial {trial}"
        raise DataError(f"{path}: not a {what}; delete it and run again") from None


def _read_record(folder: Path, run: Run) -> dict[str, Any]:
    """run.json of the folder, which must be of exactly this run."""
    try:
        record: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
        same = record["config"] == json.loads(json.dumps(dataclasses.asdict(run)))
    except OSError as error:
        raise DataError(f"{folder}/run.json: {error.strerror}; this run of trial {run.trial} is not finished") from None
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise DataError(
            f"{folder}/run.json: of another run than trial {run.trial}, seed {run.seed}; delete it, run again"
        )
    return record


def to_json(content: Any) -> bytes:
    """The content of a JSON file."""
    return (json.dumps(content, indent=2) + "\n").encode()
