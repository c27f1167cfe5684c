"""The table of finished studies: what each was allowed, what it found, what to be wary of."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.algorithms._looks import label
from flare.columns import STUDIES
from flare.errors import DataError
from flare.files import read_bytes, write_whole
from flare.tuning.conclude import ENOUGH, importances, read
from flare.tuning.study import Trial


def tabulate(folders: Sequence[Path], output: Path, digests: Sequence[str] | None = None) -> None:
    """Write `output`.csv and `output`.md, a row per study: its budget, what it found, what to be wary of.

    batches, trials: of the budget, trials in all. seeds: of every trial; runs: trials x seeds. diverged, pruned: trials
    that were. value: the best trial's mean objective on held-out samples; best: its values. importance: fANOVA's share
    of each setting in the objective, over the complete trials (Hutter, Hoos & Leyton-Brown, ICML 2014); empty for fewer
    than ENOUGH of them, which the text below the table says, or a single setting. warning: a best value at the edge of
    its range.
    digests: of the studies (`Study.digest`), if they are known; DataError if a folder has another one.
    """
    rows = []
    for folder, digest in itertools.zip_longest(map(Path, folders), digests or ()):
        study, trials = read(folder)
        if digest and study["digest"] != digest:
            raise DataError(
                f"{folder}: a study of other settings than the configuration's; delete it, and it is run again"
            )
        row = _row(study, trials)
        rows.append([str(row[name]) for name in STUDIES])
        if study["warning"]:
            print(f"WARNING: {study['study']}: {study['warning']}")
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([STUDIES, *rows])
    write_whole(output.with_suffix(".csv"), table.getvalue().encode())
    names = list(STUDIES)
    people = [name for name in names if name not in ("study", "batches")]
    shown = [[(label if name == "method" else _short)(row[names.index(name)]) for name in people] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (people, ["---"] * len(people), *shown)]
    note = (
        "- importance: fANOVA's share of a setting in how the objective varies over the complete trials, those that"
        f" diverged or were pruned left out. Not said of one setting, nor of fewer than {ENOUGH} complete trials: the"
        " forest that it takes is drawn at random, and another program's drawing would say something else."
    )
    write_whole(output.with_suffix(".md"), "\n".join([*lines, "", note, ""]).encode())


def _row(study: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    """The columns of one study."""
    best = next(trial for trial in trials if trial.number == study["best_trial"])
    experiment, method, keep, epochs = study["study"].split("/")
    shares = importances(study, trials)
    return {
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


def show(table: Path) -> str:
    """What the studies of studies.csv found, for a terminal: a line each, and its warning."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_bytes(table).decode("utf-8"), newline="")))
        wanted = ("study", "best", "value", "objective", "runs", "warning")
        rows = [{name: row[name] or "" for name in wanted} for row in rows]
    except OSError as error:
        raise DataError(f"{table}: {error.strerror}") from None
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


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())
