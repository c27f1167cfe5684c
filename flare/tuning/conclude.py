"""The end of a study: the best of its trials, a warning if that lies at the edge, the files that say so, and reading
them again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flare.config.reading import read_own
from flare.config.run import yaml_scalar
from flare.errors import DataError, shown
from flare.files import read_bytes, read_json, to_json, write_whole
from flare.tuning.space import direction, to_optuna
from flare.tuning.study import Study, Trial

# A best value nearer than this to an end of its range, as a share of the range, may have its optimum beyond.
EDGE = 0.05
# How a trial may have ended.
STATES = ("complete", "diverged", "pruned")
# Complete trials that a setting's importance is said of. fANOVA's forest is drawn at random: of a study of two settings
# with 5 to 8 such trials two of five drawings were up to 0.2 apart, with 12 up to 0.13, with 24 up to 0.07.
ENOUGH = 10


def best(study: Study, trials: Sequence[Trial]) -> Trial:
    """The complete trial with the best objective, the earliest of several; DataError if there is none."""
    if all(trial.objective is None for trial in trials):
        raise DataError(
            f"study {study.name}: none of its {len(trials)} trials has a result, as a run of each diverged;"
            " try other ranges"
        )
    return _best(study.objective, trials)


def _best(objective: str, trials: Sequence[Trial]) -> Trial:
    """The complete trial with the best objective, the earliest of several; ValueError if there is none."""
    complete = [(trial.objective, trial) for trial in trials if trial.objective is not None]
    sign = -1 if objective == "accuracy" else 1
    return min(complete, key=lambda pair: sign * pair[0])[1]


def edges(study: Study, values: Mapping[str, Any]) -> dict[str, str]:
    """The keys whose value lies within 5 % of its range, on the range's scale, from an end: "lower" or "upper"."""
    out = {}
    for key, range_ in study.space.items():
        ((scale, ends),) = range_.items()
        if scale == "choices":
            continue
        low, high, value = ((math.log(number) if scale == "log" else number) for number in (*ends, values[key]))
        share = (value - low) / (high - low)
        if min(share, 1 - share) <= EDGE:
            out[key] = "lower" if share < 0.5 else "upper"
    return out


def warning(study: Study, values: Mapping[str, Any]) -> str:
    """What to say if a best value lies at the edge of its range; else nothing."""
    found = edges(study, values)
    said = [
        f"{key} = {yaml_scalar(values[key])} lies at the {end} end of its range {next(iter(study.space[key].values()))}"
        for key, end in found.items()
    ]
    return f"{'; '.join(said)}: the best may lie beyond, so widen the range" if said else ""


def conclude(study: Study, folder: Path, trials: Sequence[Trial], made_from: Mapping[str, Any] | None = None) -> None:
    """Write trials.csv, study.json and, last, best.yaml of a study that is over into its folder; says what is best.

    made_from: what `flare.tuning.origin` holds against what is planned.
    """
    chosen = best(study, trials)
    said = warning(study, chosen.values)
    keys = list(study.space)
    header = ["trial", "batch", *keys, "state", "objective", *(f"seed_{seed}" for seed in study.seeds)]
    lines = [",".join(header)]
    for trial in trials:
        row = [trial.number, trial.number // study.trials, *(trial.values[key] for key in keys), trial.state]
        row += [trial.objective, *(trial.measured.get(seed) for seed in study.seeds)]
        lines.append(",".join("" if value is None else yaml_scalar(value) for value in row))
    table = "\n".join([*lines, ""]).encode()
    settings = {f.name: getattr(study, f.name) for f in dataclasses.fields(study) if f.name != "run"}
    version = importlib.metadata.version("optuna")
    content = {"study": study.name, **settings, "digest": study.digest, "best_trial": chosen.number, "warning": said}
    content["optuna"] = version
    # Only what the reported runs depend on: they are not repeated if a longer study finds nothing better.
    found = {
        "study": study.name,
        "values": dict(chosen.values),
        "trial": chosen.number,
        "objective": study.objective,
        "value": chosen.objective,
        "seeds": list(study.seeds),
    }
    values_found = yaml.safe_dump(found, sort_keys=False).encode()
    own = {"trials.csv": hashlib.sha256(table).hexdigest(), "best.yaml": hashlib.sha256(values_found).hexdigest()}
    content["made_from"] = {**(made_from or {}), **own}
    write_whole(folder / "trials.csv", table)
    write_whole(folder / "study.json", to_json(content))
    write_whole(folder / "best.yaml", values_found)
    counts = {state: sum(trial.state == state for trial in trials) for state in ("diverged", "pruned")}
    values = ", ".join(f"{key} = {yaml_scalar(value)}" for key, value in chosen.values.items())
    print(
        f"{study.name}: best of {len(trials)} trials is {values} with a validation {study.objective} of"
        f" {chosen.objective:.4f}; " + ", ".join(f"{count} {state}" for state, count in counts.items())
    )
    different = len({repr(sorted(trial.values.items())) for trial in trials})
    if different < len(trials):
        print(
            f"WARNING: {study.name}: {len(trials) - different} of {len(trials)} trials have the values of an earlier"
            f" one, whose runs were taken for theirs: {different} different trials would have done",
            file=sys.stderr,
        )
    if said:
        print(f"WARNING: {study.name}: {said}", file=sys.stderr)


def read_best(path: Path) -> dict[str, Any]:
    """best.yaml of a study; DataError if it is none."""
    try:
        found = read_own(path)
        if not isinstance(found, dict) or not isinstance(found["values"], dict):
            raise ValueError("no values")
        named = {"study": str, "trial": int, "objective": str, "value": float, "seeds": list}
        if wrong := [name for name, kind in named.items() if not isinstance(found[name], kind)]:
            raise ValueError(f"{wrong[0]}: {shown(found[wrong[0]])}")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, LookupError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a best.yaml of a study ({said}); delete it and run again") from None
    return found


def read(folder: Path) -> tuple[dict[str, Any], list[Trial]]:
    """study.json and the trials of a study that is over, from its folder; DataError if they are not whole, or if its
    files do not say the same: the best of trials.csv is that of study.json and of best.yaml."""
    try:
        study = read_json(folder / "study.json")
        trials = _read_trials(folder, study)
        if study["study"].count("/") != 3 or study["best_trial"] not in [trial.number for trial in trials]:
            raise ValueError("no study of four parts, or no best trial")
        missing = {"batches", "trials", "validation", "objective", "digest", "warning"} - set(study)
        if missing:
            raise ValueError(f"study.json: no {', '.join(sorted(missing))}")
        chosen = _best(study["objective"], trials)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; the study is not over") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{folder}: not a study that is over: {' '.join(str(error).split())[:200]}") from None
    said = {
        "study": study["study"],
        "values": dict(chosen.values),
        "trial": chosen.number,
        "objective": study["objective"],
        "value": chosen.objective,
        "seeds": list(study["seeds"]),
    }
    found = read_best(folder / "best.yaml")
    if study["best_trial"] != chosen.number:
        other = f"study.json: best_trial is {study['best_trial']}, and {chosen.number}"
    elif differing := [name for name, value in said.items() if found.get(name) != value]:
        name = differing[0]
        other = f"best.yaml: {name} is {shown(found.get(name))}, and {shown(said[name])}"
    else:
        return study, trials
    raise DataError(f"{folder}: {other} by trials.csv; delete best.yaml, and it is made again")


def _read_trials(folder: Path, study: Mapping[str, Any]) -> list[Trial]:
    """The trials of trials.csv; ValueError and its like if it is none, OSError if it is not there."""
    header, *lines = read_bytes(folder / "trials.csv").decode("utf-8").splitlines()
    trials = []
    for line in lines:
        row = dict(zip(header.split(","), line.split(","), strict=True))
        measured = {seed: float(row[f"seed_{seed}"]) for seed in study["seeds"] if row[f"seed_{seed}"]}
        values = {key: yaml.safe_load(row[key]) for key in study["space"]}
        for key, range_ in study["space"].items():  # YAML reads 1e-05 as text
            kind = type(next(iter(range_.values()))[0])
            values[key] = float(values[key]) if kind is float and "choices" not in range_ else values[key]
        trial = Trial(int(row["trial"]), values, row["state"], measured)
        if trial.state not in STATES or not all(map(math.isfinite, measured.values())):
            raise ValueError(f"trials.csv: trial {trial.number}: a state or a number that is none")
        if trial.objective != (float(row["objective"]) if row["objective"] else None):
            raise ValueError(f"trials.csv: trial {trial.number}: objective is not the mean of its seeds")
        trials.append(trial)
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise ValueError("trials.csv: trials are missing, or there twice")
    return trials


def importances(study: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, float]:
    """fANOVA's share of each setting in the objective, over the complete trials; none for fewer than ENOUGH of them,
    one setting, or an objective that is the same in all.
    """
    complete = [trial for trial in trials if trial.objective is not None]
    if len(study["space"]) < 2 or len(complete) < ENOUGH or len({trial.objective for trial in complete}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rebuilt = optuna.create_study(direction=direction(study["objective"]))
    for trial in complete:
        rebuilt.add_trial(to_optuna(study["space"], trial))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(rebuilt, evaluator=evaluator)
    return {key: found[key] for key in study["space"]}
