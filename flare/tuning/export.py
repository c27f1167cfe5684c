"""Finished studies as Optuna keeps them: one file that optuna-dashboard shows, and any database that Optuna can use."""

from __future__ import annotations

import math
import tempfile
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare.errors import DataError, hide
from flare.files import read_bytes, read_json, write_whole
from flare.tuning.conclude import read
from flare.tuning.space import direction, to_optuna

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

# The attribute of a study in a database that says whose it is.
_OWNER = "flare_sweep"


def export(folders: Sequence[Path], output: Path, url: str | None = None) -> None:
    """Write the studies into one new file of Optuna's JournalFileBackend and, if a URL is given, into that database.

    There a study of the same name is replaced if it is this sweep's own, made by an earlier call for the same output,
    or has the very same trials, so that nothing is lost. DataError, without a password, if a study is somebody else's,
    before anything is changed, or if the database cannot be used.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        file = Path(folder) / "journal"
        _fill(JournalStorage(JournalFileBackend(str(file))), folders, "")
        write_whole(output, file.read_bytes())
    if url:
        try:
            _fill(RDBStorage(url), folders, _owner(output))
        except DataError as error:
            raise DataError(hide(str(error), url)) from None
        except Exception as error:
            why = " ".join(str(error).partition("(Background")[0].split())
            said = hide(f"storage: {url}: {why.replace(url, 'it')[:300]}", url)
            raise DataError(f"{said}; sqlite:///file.db needs no server") from None


def _owner(output: Path) -> str:
    """What a database knows this sweep by, wherever its results are moved to: a random name beside the output."""
    path = output.with_name(".storage-owner")
    try:
        return read_bytes(path, 100).decode("ascii").strip()
    except FileNotFoundError:
        write_whole(path, f"{uuid.uuid4().hex}\n".encode())
        return read_bytes(path, 100).decode("ascii").strip()


def _fill(storage: BaseStorage, folders: Sequence[Path], owner: str) -> None:
    """Write the studies into the storage, in the place of the owner's of their names."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for folder in map(Path, folders):
        about, trials = read(folder)
        if about["study"] in found:
            raise DataError(f"{folder}: the study {about['study']} a second time; each once")
        frozen = [to_optuna(about["space"], trial) for trial in trials]
        for trial, made in zip(trials, frozen, strict=True):
            if trial.state == "diverged":  # nobody stopped it; to the sampler, which ignores failures, it is pruned
                made.state = optuna.trial.TrialState.FAIL
            made.datetime_start, made.datetime_complete = _when(folder, about, trial.number)
        found[about["study"]] = (about, frozen)
    known = {study.study_name: study for study in optuna.get_all_study_summaries(storage)}
    for name, (_, frozen) in found.items():
        if name in known and known[name].user_attrs.get(_OWNER) != owner and not _same(storage, name, frozen):
            raise DataError(
                f"storage: a study {name} is there that this sweep did not make; it stays as it is: delete it there, or"
                " name another storage, or another experiment"
            )
    for name, (about, frozen) in found.items():
        if name in known:
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(storage=storage, study_name=name, direction=direction(about["objective"]))
        study.set_user_attr(_OWNER, owner)
        for attribute in ("objective", "seeds", "validation", "warning"):
            study.set_user_attr(attribute, about[attribute])
        study.add_trials(frozen)


def _same(storage: BaseStorage, name: str, trials: Sequence[FrozenTrial]) -> bool:
    """Whether the study of that name has these very trials, so that nothing is lost if they take its place."""
    import optuna

    there = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    return [(trial.params, trial.value, trial.state) for trial in there] == [
        (trial.params, trial.value, trial.state) for trial in trials
    ]


def _when(folder: Path, about: dict[str, Any], trial: int) -> tuple[datetime, datetime]:
    """When the first run of the trial began and the last ended, as far as the runs' files tell."""
    began, ended = math.inf, -math.inf
    for seed in about["seeds"]:
        file = folder / f"batch-{trial // about['trials']}" / f"trial-{trial}" / f"seed-{seed}" / "run.json"
        try:
            end = file.stat().st_mtime
            began, ended = min(began, end - read_json(file)["wall_seconds"]), max(ended, end)
        except (OSError, ValueError, LookupError, TypeError):
            continue
    if ended < began:  # pruned in its first run
        began = ended = (folder / "study.json").stat().st_mtime
    start = datetime.fromtimestamp(began)
    return start, start + timedelta(seconds=max(ended - began, 0))
