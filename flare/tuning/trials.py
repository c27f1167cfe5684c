"""The files of a study's trials: what was proposed, what their runs measured, what best.yaml says."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare.config.run import Run
from flare.errors import DataError, shown
from flare.files import read_json
from flare.runs.reading import read
from flare.tuning.conclude import read as read_study
from flare.tuning.conclude import read_best
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
    if not all(map(math.isfinite, measured.values())):
        raise DataError(f"study {study.name}: trial {number}: a final {study.objective} is no number; run it again")
    return Trial(number, values, "diverged" if lost else "complete", measured)


def read_values(path: Path, study: str, trial: int | None = None) -> dict[str, Any]:
    """The values in a study's best.yaml, which its trials must bear out, or those of a trial in proposals.json.

    DataError if they are not there.
    """
    if trial is None:
        found = read_best(path)
        if found["study"] != study:
            raise DataError(f"{path}: of the study {found['study']}, and {study} is meant")
        read_study(path.parent)
        return dict(found["values"])
    try:
        proposed = read_json(path)
        if proposed["study"] != study:
            raise DataError(f"{path}: of the study {shown(proposed['study'])}, and {study} is meant")
        return next(dict(entry["values"]) for entry in proposed["trials"] if entry["trial"] == trial)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
        raise DataError(f"{path}: not a proposals.json with trial {trial}; delete it and run again") from None


def _read_record(folder: Path, run: Run) -> dict[str, Any]:
    """run.json of the folder, which must be of exactly this run, and its rounds.csv as well."""
    if not (folder / "run.json").exists():
        raise DataError(f"{folder}/run.json: missing; this run of trial {run.trial} is not finished")
    record, _ = read(folder, trial=True)
    if record["config"] != json.loads(json.dumps(dataclasses.asdict(run))):
        raise DataError(
            f"{folder}/run.json: of another run than trial {run.trial}, seed {run.seed}; delete it, run again"
        )
    return record
