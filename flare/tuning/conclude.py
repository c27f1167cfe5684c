"""The end of a study: the best of its trials, a warning if that lies at the edge, the files that say so, and reading
them again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flare.config.run import yaml_scalar
from flare.errors import DataError
from flare.files import write_whole
from flare.tuning.space import direction, to_optuna
from flare.tuning.study import Study, Trial
from flare.tuning.trials import to_json

# A best value nearer than this to an end of its range, as a share of the range, may have its optimum beyond.
EDGE = 0.05


def best(study: Study, trials: Sequence[Trial]) -> Trial:
    """The complete trial with the best objective, the earliest of several; DataError if there is none."""
    complete = [(trial.objective, trial) for trial in trials if trial.objective is not None]
    if not complete:
        raise DataError(
            f"study {study.name}: none of its {len(trials)} trials has a result, as a run of each diverged;"
            " try other ranges"
        )
    sign = -1 if study.objective == "accuracy" else 1
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
    if said:
        print(f"WARNING: {study.name}: {said}", file=sys.stderr)


def read(folder: Path) -> tuple[dict[str, Any], list[Trial]]:
    """study.json and the trials of a study that is over, from its folder; DataError if they are not whole."""
    try:
        study: dict[str, Any] = json.loads((folder / "study.json").read_bytes())
        header, *lines = (folder / "trials.csv").read_text(encoding="utf-8").splitlines()
        trials = []
        for line in lines:
            row = dict(zip(header.split(","), line.split(","), strict=True))
            measured = {seed: float(row[f"seed_{seed}"]) for seed in study["seeds"] if row[f"seed_{seed}"]}
            values = {key: yaml.safe_load(row[key]) for key in study["space"]}
            for key, range_ in study["space"].items():  # YAML reads 1e-05 as text
                kind = type(next(iter(range_.values()))[0])
                values[key] = float(values[key]) if kind is float and "choices" not in range_ else values[key]
            trials.append(Trial(int(row["trial"]), values, row["state"], measured))
        if study["study"].count("/") != 3 or study["best_trial"] not in [trial.number for trial in trials]:
            raise ValueError("no study of four parts, or no best trial")
        missing = {"batches", "trials", "validation", "objective", "digest", "warning"} - set(study)
        if missing:
            raise ValueError(f"study.json: no {', '.join(sorted(missing))}")
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; the study is not over") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{folder}: not a study that is over: {' '.join(str(error).split())[:200]}") from None
    return study, trials


def importances(study: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, float]:
    """fANOVA's share of each setting in the objective, over the complete trials; none for fewer than four of them, one
    setting, or an objective that is the same in all.
    """
    complete = [trial for trial in trials if trial.objective is not None]
    if len(study["space"]) < 2 or len(complete) < 4 or len({trial.objective for trial in complete}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rebuilt = optuna.create_study(direction=direction(study["objective"]))
    for trial in complete:
        rebuilt.add_trial(to_optuna(study["space"], trial))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(rebuilt, evaluator=evaluator)
    return {key: found[key] for key in study["space"]}
