"""Carrying a study out to its end: from its batches' runs or, in mode "single", trial after trial in this process."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flare.config.run import Run
from flare.files import read_json, to_json, write_whole
from flare.runs import checkpoint
from flare.tuning.conclude import STATES, conclude
from flare.tuning.propose import FIRST, propose, rebuild
from flare.tuning.space import distributions
from flare.tuning.study import Study, Trial
from flare.tuning.trials import judge, read_batch


def tune(
    study: Study,
    folder: Path,
    train: Callable[..., dict[str, Any]] | None = None,
    key: Callable[[Run], dict[str, Any]] = dataclasses.asdict,
    made_from: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Conclude a study: from the runs of all its batches or, in mode "single", after carrying out all its trials here.

    train(run, output=, on_evaluate=) carries out a run and returns its run.json; `on_evaluate` may end it by an
    exception. key(run): what decides its result. A trial that an interrupted call has finished is not repeated while
    that and the objective are the same. made_from(): what the study is made from, asked once it is over.
    """
    if study.mode == "batches":
        trials = [trial for batch in range(study.batches) for trial in read_batch(study, folder, batch)]
        conclude(study, folder, trials, made_from())
        return
    assert train is not None
    done: list[Trial] = []
    for number in range(study.batches * study.trials):
        (values,) = propose(study, done, 1)
        runs = study.runs(number, values)
        kept = (folder / study.place(runs[0])).with_name("trial.json")
        of = {"objective": study.objective, "runs": [key(run) for run in runs]}
        trial = _kept(kept, of)
        if trial is None:
            # With the values of an earlier one it would be the same to the last bit.
            same = next((one for one in done if json.dumps(one.values) == json.dumps(values)), None)
            if same is None:
                trial = _carry_out(study, folder, done, number, values, train)
            else:
                trial = dataclasses.replace(same, number=number)
            write_whole(kept, to_json({"of": of, **dataclasses.asdict(trial)}))
        done.append(trial)
        said = "" if trial.objective is None else f" {trial.objective:.4f}"
        print(f"{study.name}: trial {number}: {values}: {trial.state}{said}", flush=True)
    conclude(study, folder, done, made_from())


def _kept(path: Path, of: Mapping[str, Any]) -> Trial | None:
    """The trial that trial.json tells of, if it is one of that objective and of runs with these keys."""
    try:
        found = read_json(path)
        if found.pop("of") == json.loads(json.dumps(of)):
            measured, reports = (
                {int(key): value for key, value in found.pop(name).items()} for name in ("measured", "reports")
            )
            trial = Trial(**found, measured=measured, reports=reports)
            numbers = (*measured.values(), *reports.values())
            if trial.state in STATES and all(type(number) is float and math.isfinite(number) for number in numbers):
                return trial
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


class _Hopeless(Exception):
    """The pruner ends the trial."""


def _carry_out(
    study: Study,
    folder: Path,
    done: Sequence[Trial],
    number: int,
    values: Mapping[str, Any],
    train: Callable[..., dict[str, Any]],
) -> Trial:
    """One trial, seed after seed. Optuna's MedianPruner may end it: where, at an evaluation, the best of its objective
    so far is worse than the median that earlier complete trials had there.

    The objective so far is the mean over the finished seeds and the one that is running.
    """
    import optuna

    rebuilt = rebuild(study, done)
    rebuilt.pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST)
    running = rebuilt.ask(distributions(study.space))
    reports: dict[int, float] = {}
    records: dict[int, dict[str, Any]] = {}
    for place, run in enumerate(study.runs(number, values)):
        finished = [float(record[f"final_{study.objective}"]) for record in records.values()]

        def report(row: Mapping[str, Any], finished: list[float] = finished, before: int = place * run.rounds) -> None:
            so_far = [*finished, float(row[f"test_{study.objective}"])]
            step = before + row["round"]
            reports[step] = math.fsum(so_far) / len(so_far)
            running.report(reports[step], step)
            if running.should_prune():
                raise _Hopeless

        try:
            records[run.seed] = train(run, output=folder / study.place(run), on_evaluate=report)
        except _Hopeless:
            checkpoint.remove(folder / study.place(run))
            return Trial(number, values, "pruned", judge(study, number, values, records).measured, reports)
        if records[run.seed]["status"] == "diverged":
            # Without reports, so that the sampler puts it behind all that were pruned.
            return judge(study, number, values, records)
    return dataclasses.replace(judge(study, number, values, records), reports=reports)
