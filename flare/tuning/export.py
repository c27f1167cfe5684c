"""Finished studies as Optuna keeps them: one file that optuna-dashboard shows, and any database that Optuna can use."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare.errors import DataError
from flare.files import write_whole
from flare.tuning.conclude import read
from flare.tuning.space import direction, to_optuna

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def export(folders: Sequence[Path], output: Path, url: str | None = None) -> None:
    """Write the studies into one new file of Optuna's JournalFileBackend and, if a URL is given, into that database.

    There a study of the same name is replaced. DataError, without a password, if the database cannot be used.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        file = Path(folder) / "journal"
        _fill(JournalStorage(JournalFileBackend(str(file))), folders)
        write_whole(output, file.read_bytes())
    if url:
        try:
            _fill(RDBStorage(url), folders)
        except DataError:
            raise
        except Exception as error:
            why = " ".join(str(error).partition("(Background")[0].split()).replace(url, "it")[:200]
            raise DataError(f"storage: {_without_password(url)}: {why}; sqlite:///file.db needs no server") from None


def _without_password(url: str) -> str:
    return re.sub(r"(//[^:@/]*):.*@", r"\1:***@", url)


def _fill(storage: BaseStorage, folders: Sequence[Path]) -> None:
    """Write the studies into the storage, in the place of those of their names."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = {study.study_name for study in optuna.get_all_study_summaries(storage)}
    filled: set[str] = set()
    for folder in map(Path, folders):
        about, trials = read(folder)
        if about["study"] in filled:
            raise DataError(f"{folder}: the study {about['study']} a second time; each once")
        filled.add(about["study"])
        if about["study"] in known:
            optuna.delete_study(study_name=about["study"], storage=storage)
        study = optuna.create_study(
            storage=storage,
            study_name=about["study"],
            direction=direction(about["objective"]),
        )
        for name in ("objective", "seeds", "validation", "warning"):
            study.set_user_attr(name, about[name])
        for trial in trials:
            frozen = to_optuna(about["space"], trial)
            if trial.state == "diverged":  # nobody stopped it; to the sampler, which ignores failures, it is pruned
                frozen.state = optuna.trial.TrialState.FAIL
            frozen.datetime_start, frozen.datetime_complete = _when(folder, about, trial.number)
            study.add_trial(frozen)


def _when(folder: Path, about: dict[str, Any], trial: int) -> tuple[datetime, datetime]:
    """When the first run of the trial began and the last ended, as far as the runs' files tell."""
    began, ended = math.inf, -math.inf
    for seed in about["seeds"]:
        file = folder / f"batch-{trial // about['trials']}" / f"trial-{trial}" / f"seed-{seed}" / "run.json"
        try:
            end = file.stat().st_mtime
            began, ended = min(began, end - json.loads(file.read_bytes())["wall_seconds"]), max(ended, end)
        except (OSError, ValueError, KeyError):
            continue
    if ended < began:  # pruned in its first run
        began = ended = (folder / "study.json").stat().st_mtime
    start = datetime.fromtimestamp(began)
    return start, start + timedelta(seconds=max(ended - began, 0))
