"""What becomes of finished studies: a table of what each may cost and found, and a file that optuna-dashboard shows."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare.errors import DataError
from flare.runs.record import write_whole
from flare.tuning import importances, read, to_optuna

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

COLUMNS = (
    *("study", "experiment", "method", "keep", "local_epochs", "batches", "trials", "seeds", "runs"),
    *("diverged", "pruned", "objective", "value", "best", "importance", "warning"),
)


def tabulate(folders: Sequence[Path], output: Path, digests: Sequence[str] | None = None) -> None:
    """Write `output`.csv and `output`.md, a row per study: its budget, what it found, what to be wary of.

    batches, trials: of the budget, trials in all. seeds: of every trial; runs: trials x seeds. diverged, pruned: trials
    that were. value: the best trial's mean objective on held-out samples; best: its values. importance: fANOVA's share
    of each setting in the objective, over the complete trials (Hutter, Hoos & Leyton-Brown, ICML 2014); empty where
    there are fewer than four or a single setting. warning: a best value at the edge of its range.
    digests: of the studies (`Study.digest`), where they are known; DataError where a folder has another one.
    """
    rows = []
    for folder, digest in itertools.zip_longest(map(Path, folders), digests or ()):
        study, trials = read(folder)
        if digest and study["digest"] != digest:
            raise DataError(
                f"{folder}: a study of other settings than the configuration's; delete it, and it is run again"
            )
        best = next(trial for trial in trials if trial.number == study["best_trial"])
        experiment, method, keep, epochs = study["study"].split("/")
        shares = importances(study, trials)
        row = {
            "study": study["study"],
            "experiment": experiment,
            "method": method,
            "keep": keep.removeprefix("keep-"),
            "local_epochs": epochs.removeprefix("epochs-"),
            "batches": study["batches"],
            "trials": len(trials),
            "seeds": len(study["seeds"]),
            "runs": len(trials) * len(study["seeds"]),
            **{state: sum(trial.state == state for trial in trials) for state in ("diverged", "pruned")},
            "objective": study["objective"],
            "value": best.objective,
            "best": _words(best.values),
            "importance": _words({key: round(share, 3) for key, share in shares.items()}),
            "warning": study["warning"],
        }
        rows.append([str(row[name]) for name in COLUMNS])
        if study["warning"]:
            print(f"WARNING: {study['study']}: {study['warning']}")
    with tempfile.TemporaryFile("w+", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        file.seek(0)
        write_whole(output.with_suffix(".csv"), file.read().encode())
    people = [name for name in COLUMNS if name not in ("study", "batches")]
    shown = [[_short(row[COLUMNS.index(name)]) for name in people] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (people, ["---"] * len(people), *shown)]
    write_whole(output.with_suffix(".md"), "\n".join([*lines, ""]).encode())


def show(table: Path) -> str:
    """What the studies of studies.csv found, for a terminal: a line each, and its warning."""
    try:
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = ("study", "best", "value", "objective", "runs", "warning")
        rows = [{name: row[name] or "" for name in wanted} for row in rows]
    except (ValueError, KeyError, csv.Error) as error:
        raise DataError(f"{table}: not a table of studies: {' '.join(str(error).split())[:200]}") from None
    lines = []
    for row in rows:
        where = "validation accuracy" if row["objective"] == "accuracy" else "validation loss"
        lines.append(f"{row['study']}: {_short(row['best'])} ({where} {_short(row['value'])}; {row['runs']} runs)")
        lines += [f"  WARNING: {row['warning']}"] if row["warning"] else []
    return "\n".join(lines)


def _short(text: str) -> str:
    """The same with at most four digits of every number that has a fraction."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", text)


def _words(values: dict[str, Any] | Any) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def export(folders: Sequence[Path], output: Path, url: str | None = None) -> None:
    """Write the studies into one new file of Optuna's JournalFileBackend and, where a URL is given, into that database.

    There a study of the same name is replaced. DataError, without a password, where the database cannot be used.
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
            direction=optuna.study.StudyDirection(2 if about["objective"] == "accuracy" else 1),
        )
        for name in ("objective", "seeds", "validation", "warning"):
            study.set_user_attr(name, about[name])
        for trial in trials:
            frozen = to_optuna(about["space"], trial)
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
