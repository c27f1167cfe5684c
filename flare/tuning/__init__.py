"""Tuning: a study looks for the best values of some settings of one cell (a run without its seed), with Optuna's TPE.

A setting is tuned where the configuration gives a range instead of a value, `tau: {log: [1e-4, 1]}`. A trial is a
proposal of values and one run per tuning seed, evaluated on samples held out from the clients' own training data. The
runs are the only state: before every proposal the study is built anew, in memory, from the results of the trials
before, in their order, and the sampler is seeded by the study's seed and the number of the trial. So the proposals, and
with them the best value, do not depend on how many runs there are at once, on their order or on interruptions.

    results/tuning/{study}/batch-{b}/proposals.json          the values of the batch's trials
    results/tuning/{study}/batch-{b}/trial-{t}/seed-{s}/     rounds.csv and run.json, as of any run
    results/tuning/{study}/best.yaml                         the values that the reported runs take
    results/tuning/{study}/trials.csv, study.json            every trial; the study's own settings

The first trials, at least four, are a Latin hypercube (McKay, Beckman & Conover, Technometrics 1979), which leaves no
part of a range unseen as random ones can; all others are TPE's (Bergstra et al., NeurIPS 2011; `optuna.samplers`). A
trial of which a run diverged has no objective: it counts, and for the sampler it is worse than every other.

Importing this does not import Optuna: Snakemake does it every time it starts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flare.config import OVERRIDES, SCHEMA, Run, Validator, yaml_scalar
from flare.errors import ConfigError, DataError, choose, shown
from flare.runs import checkpoint
from flare.runs.record import settings_digest, write_whole
from flare.settings import check_settings

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SCALES = ("log", "linear", "choices")
OBJECTIVES = ("accuracy", "loss")
MODES = ("batches", "single")
# Trials before the sampler's model takes over: whole batches with at least so many.
FIRST = 4
# Runs of a study; Snakemake lists them all.
MOST = 100_000
# A best value nearer than this to an end of its range, as a share of the range, may have its optimum beyond.
EDGE = 0.05

Range = dict[str, list[Any]]


@dataclass(frozen=True)
class Study:
    """What decides the outcome of a study.

    run: the cell's run with the tuned settings open, and without meaning in its seed. space: ranges by key. batches,
    trials: how many batches, of how many trials each. seeds: of the runs of every trial. validation: share of every
    client's samples that is held out. objective: "accuracy" or "loss" on them after the last round, the mean over the
    seeds. mode: "batches" of jobs, or "single" for one process that prunes. seed: of the sampler.
    """

    run: Run
    space: Mapping[str, Range]
    seeds: Sequence[int]
    batches: int = 4
    trials: int = 6
    validation: float = 0.2
    objective: str = "accuracy"
    mode: str = "batches"
    seed: int = 0

    @property
    def name(self) -> str:
        """Where the study lies below results/tuning."""
        return self.run.cell

    @property
    def digest(self) -> str:
        """Of all that the study is, so that what another one of its name left is told from it."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "run"}
        said = json.dumps([self.name, settings_digest(dataclasses.asdict(self.run)), own], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def batch(self, number: int) -> range:
        """The trials of a batch."""
        return range(number * self.trials, (number + 1) * self.trials)

    def runs(self, trial: int, values: Mapping[str, Any] | None = None) -> list[Run]:
        """The runs of a trial, one per seed; with its values, where they are known."""
        common = dataclasses.replace(self.run, trial=trial, validation=self.validation)
        runs = [dataclasses.replace(common, seed=seed) for seed in self.seeds]
        return [fill(run, values) for run in runs] if values is not None else runs

    def place(self, run: Run) -> str:
        """Where a run of a trial lies below the study's folder."""
        assert run.trial is not None
        return f"batch-{run.trial // self.trials}/trial-{run.trial}/seed-{run.seed}"

    def flags(self, *, whole: bool = True) -> str:
        """The study as arguments of `python -m flare tune`, quoted for a shell.

        Not whole: as those of `propose`, which are the same however many batches there are.
        """
        words = ["--space", *(f"{key}={json.dumps(range_)}" for key, range_ in self.space.items())]
        words += ["--seeds", *map(str, self.seeds), "--study-seed", str(self.seed)]
        for name in ("trials", "validation", "objective", *(("batches", "mode") if whole else ())):
            words += [f"--{name}", yaml_scalar(getattr(self, name))]
        own = {"seed", "tuned", "trial", "validation"}
        run = self.run.flags(*(field.name for field in dataclasses.fields(Run) if field.name not in own))
        return f"{run} {shlex.join(words)}"


@dataclass(frozen=True)
class Trial:
    """A trial that is over. measured: the objective per seed, up to where it ended. state: "complete"; "diverged": a
    run did; "pruned": hopeless, so not carried on, with the objective so far by step in `reports`.
    """

    number: int
    values: Mapping[str, Any]
    state: str
    measured: Mapping[int, float]
    reports: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def objective(self) -> float | None:
        """The mean over the seeds; None where the trial is not complete."""
        return math.fsum(self.measured.values()) / len(self.measured) if self.state == "complete" else None


# ---- the configuration ----------------------------------------------------------------------------------------------


def split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A method's settings in the configuration: those with a value, and those with a range to be tuned in."""
    literal = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    return literal, {key: value for key, value in settings.items() if key not in literal}


def check_ranges(where: str, given: Mapping[str, Any], settings: type) -> dict[str, Range]:
    """The ranges with their ends as numbers; ConfigError for one that is not allowed.

    settings: the method's settings dataclass. Every end and choice must be allowed as a value. `1e-4`, which YAML reads
    as text, is a number here.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    return {
        choose(where, key, (*fields, *OVERRIDES)): _check_range(
            f"{where}.{key}", range_, functools.partial(_check_end, where, key, settings=settings)
        )
        for key, range_ in given.items()
    }


def _check_end(where: str, key: str, value: Any, *, settings: type) -> Any:
    """An end of a range, or a choice, as the setting takes it; ConfigError where it would not be allowed as a value."""
    try:
        number = float(value) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        number = value
    if key not in OVERRIDES:
        return getattr(check_settings(settings, {key: number}, where), key)
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))["$defs"]["experiment"]["properties"][key]
    if not Validator(schema).is_valid(number):
        raise ConfigError(f"{where}.{key}: {shown(value)} is not allowed; {schema['description']}")
    return float(number)


def _check_range(where: str, given: Mapping[str, Any], check_end: Callable[[Any], Any]) -> Range:
    scale, ends = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (None, None)
    if scale not in SCALES or not isinstance(ends, list):
        raise ConfigError(
            f"{where}: {shown(given)} is not allowed; a value, or a range to tune it in: {{log: [low, high]}},"
            " {linear: [low, high]} or {choices: [one, another]}"
        )
    values = [check_end(end) for end in ends]
    if scale == "choices":
        if len(values) < 2 or len(set(map(repr, values))) < len(values):
            raise ConfigError(f"{where}.choices: {shown(ends)} is not allowed; two different values or more")
    elif (
        len(values) != 2
        or any(isinstance(value, (str, bool)) for value in values)
        or not values[0] < values[1]
        or (scale == "log" and values[0] <= 0)
    ):
        positive = ", above 0" if scale == "log" else ""
        raise ConfigError(
            f"{where}.{scale}: {shown(ends)} is not allowed; [low, high], two ascending numbers{positive}"
        )
    return {scale: values}


def check(where: str, experiment: Mapping[str, Any]) -> None:
    """Raise ConfigError where an experiment of the configuration, right but for its tuning, has that wrong."""
    ranges = {name: split(settings or {})[1] for name, settings in experiment["methods"].items()}
    settings = experiment.get("tuning")
    for name, keys in ranges.items():
        if keys and settings is None:
            raise ConfigError(
                f"{where}.methods.{name}.{next(iter(keys))}: {shown(next(iter(keys.values())))} is a range, so"
                f" {where}.tuning is needed: at least {{seeds: [...]}}, other than the experiment's"
            )
    settings = settings or {}
    for name in ("", *settings.get("methods", {})):
        budget = {"batches": 4, "trials": 6} | settings | settings.get("methods", {}).get(name, {})
        count = budget["batches"] * budget["trials"] * len(budget.get("seeds", ()))
        if count > MOST:
            place = f"{where}.tuning" + (f".methods.{name}" if name else "")
            raise ConfigError(f"{place}: batches x trials x seeds are {count} runs of a study; at most {MOST}")
    for seed in settings.get("seeds", []):
        if seed in experiment["seeds"]:
            raise ConfigError(
                f"{where}.tuning.seeds: {seed} is not allowed; other seeds than the experiment's,"
                f" {experiment['seeds']}, which report what was tuned"
            )
    for name in settings.get("methods", {}):
        choose(f"{where}.tuning.methods", name, [name for name, keys in ranges.items() if keys])


def leave_open(run: Run, ranges: Mapping[str, Any]) -> Run:
    """The run with these settings open: a study chooses them."""
    own = {key: value for key, value in run.method_settings.items() if key not in ranges}
    return dataclasses.replace(run, method_settings=own, tuned=dict.fromkeys(ranges))


def fill(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with its open settings filled in."""
    if set(values) != set(run.tuned):
        raise DataError(f"{run.cell}: values of {sorted(values)}, and {sorted(run.tuned)} are to be tuned")
    own = {key: value for key, value in values.items() if key not in OVERRIDES}
    overrides = {key: value for key, value in values.items() if key in OVERRIDES}
    settings = {**run.method_settings, **own}
    return dataclasses.replace(run, **overrides, method_settings=settings, tuned=dict(values))


def studies(config: Mapping[str, Any]) -> list[Study]:
    """Every study that a checked configuration asks for, in the order of its runs."""
    from flare import algorithms
    from flare.config import runs

    out: dict[str, Study] = {}
    for run in runs(config):
        if run.tuned and run.cell not in out:
            experiment = config["experiments"][run.experiment]
            settings = dict(experiment["tuning"])
            settings |= settings.pop("methods", {}).get(run.method, {})
            ranges = split(experiment["methods"][run.method])[1]
            space = check_ranges(run.cell, ranges, algorithms.load(run.method).settings)
            out[run.cell] = Study(run=run, space=space, **settings)
    return list(out.values())


# ---- proposing ------------------------------------------------------------------------------------------------------


def propose(study: Study, done: Sequence[Trial], count: int) -> list[dict[str, Any]]:
    """The values of the next `count` trials, after those that are done, all of them and in order.

    Depends on nothing but the arguments and Optuna's version.
    """
    start = len(done)
    first = study.trials * math.ceil(FIRST / study.trials)
    if start < first:
        return _latin_hypercube(study, first)[start : start + count]
    import numpy as np
    import optuna

    # Without the startup of its own the sampler would draw at random until ten trials are done.
    seed = int(np.random.SeedSequence([study.seed, start]).generate_state(1)[0])
    rebuilt = rebuild(study, done, optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
    space = distributions(study.space)
    return [_tidy(study, rebuilt.ask(space).params) for _ in range(count)]


def rebuild(study: Study, done: Sequence[Trial], sampler: Any = None) -> OptunaStudy:
    """The study in memory, with all trials that are done."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = optuna.study.StudyDirection(2 if study.objective == "accuracy" else 1)  # maximize, minimize
    rebuilt = optuna.create_study(study_name=study.name, direction=direction, sampler=sampler)
    for trial in done:
        rebuilt.add_trial(to_optuna(study.space, trial))
    return rebuilt


def to_optuna(space: Mapping[str, Range], trial: Trial) -> FrozenTrial:
    """The trial as Optuna keeps it."""
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.COMPLETE if trial.state == "complete" else TrialState.PRUNED,
        value=trial.objective,
        params=dict(trial.values),
        distributions=distributions(space),
        intermediate_values=dict(trial.reports),
        user_attrs={"state": trial.state} | {f"seed-{seed}": value for seed, value in trial.measured.items()},
    )


def distributions(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """The space as Optuna says it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    out: dict[str, BaseDistribution] = {}
    for key, range_ in space.items():
        ((scale, values),) = range_.items()
        if scale == "choices":
            out[key] = CategoricalDistribution(values)
        else:
            whole = all(isinstance(value, int) for value in values)
            low, high = values
            log = scale == "log"
            out[key] = IntDistribution(low, high, log) if whole else FloatDistribution(low, high, log)
    return out


def _latin_hypercube(study: Study, count: int) -> list[dict[str, Any]]:
    """Every range is cut into `count` parts, and each part has one of the points."""
    import numpy as np

    points: list[dict[str, Any]] = [{} for _ in range(count)]
    for place, (key, range_) in enumerate(study.space.items()):
        rng = np.random.default_rng([study.seed, place])
        ((scale, values),) = range_.items()
        for point, share in zip(points, (rng.permutation(count) + rng.random(count)) / count, strict=True):
            if scale == "choices":
                point[key] = values[int(share * len(values))]
                continue
            low, high = values
            whole = isinstance(low, int)
            end = high + 1 if whole else high
            at = low * (end / low) ** share if scale == "log" else low + (end - low) * share
            point[key] = min(int(at), high) if whole else float(at)
    return [_tidy(study, point) for point in points]


def _tidy(study: Study, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in the order of the space, numbers to four digits, so that a person can copy them."""
    out = {}
    for key, range_ in study.space.items():
        value = values[key]
        if isinstance(value, float) and "choices" not in range_:
            low, high = next(iter(range_.values()))
            value = min(max(float(f"{value:.4g}"), low), high)
        out[key] = value
    return out


# ---- reading and choosing -------------------------------------------------------------------------------------------


def write_proposals(study: Study, folder: Path, batch: int) -> None:
    """Write proposals.json of a batch, from the results of all batches before it, into the study's folder."""
    done = [trial for earlier in range(batch) for trial in read_batch(study, folder, earlier)]
    proposals = propose(study, done, study.trials)
    content = {
        "study": study.name,
        "batch": batch,
        "trials": [
            {"trial": number, "values": values} for number, values in zip(study.batch(batch), proposals, strict=True)
        ],
    }
    write_whole(folder / f"batch-{batch}" / "proposals.json", _json(content))


def read_batch(study: Study, folder: Path, batch: int) -> list[Trial]:
    """The trials of a batch from its proposals and its runs; DataError where one is missing or of another trial."""
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
    """The values in a study's best.yaml, or those of a trial in proposals.json; DataError where they are not there."""
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


def best(study: Study, trials: Sequence[Trial]) -> Trial:
    """The complete trial with the best objective, the earliest of several; DataError where there is none."""
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
    """What to say where a best value lies at the edge of its range; else nothing."""
    found = edges(study, values)
    said = [
        f"{key} = {yaml_scalar(values[key])} lies at the {end} end of its range {next(iter(study.space[key].values()))}"
        for key, end in found.items()
    ]
    return f"{'; '.join(said)}: the best may lie beyond, so widen the range" if said else ""


def conclude(study: Study, folder: Path, trials: Sequence[Trial]) -> None:
    """Write trials.csv, study.json and, last, best.yaml of a study that is over into its folder; says what is best."""
    chosen = best(study, trials)
    said = warning(study, chosen.values)
    keys = list(study.space)
    header = ["trial", "batch", *keys, "state", "objective", *(f"seed_{seed}" for seed in study.seeds)]
    lines = [",".join(header)]
    for trial in trials:
        row = [trial.number, trial.number // study.trials, *(trial.values[key] for key in keys), trial.state]
        row += [trial.objective, *(trial.measured.get(seed) for seed in study.seeds)]
        lines.append(",".join("" if value is None else yaml_scalar(value) for value in row))
    write_whole(folder / "trials.csv", "\n".join([*lines, ""]).encode())
    settings = {f.name: getattr(study, f.name) for f in dataclasses.fields(study) if f.name != "run"}
    version = importlib.metadata.version("optuna")
    content = {"study": study.name, **settings, "digest": study.digest, "best_trial": chosen.number, "warning": said}
    content["optuna"] = version
    write_whole(folder / "study.json", _json(content))
    # Only what the reported runs depend on: they are not repeated where a longer study finds nothing better.
    found = {
        "study": study.name,
        "values": dict(chosen.values),
        "trial": chosen.number,
        "objective": study.objective,
        "value": chosen.objective,
        "seeds": list(study.seeds),
    }
    write_whole(folder / "best.yaml", yaml.safe_dump(found, sort_keys=False).encode())
    counts = {state: sum(trial.state == state for trial in trials) for state in ("diverged", "pruned")}
    values = ", ".join(f"{key} = {yaml_scalar(value)}" for key, value in chosen.values.items())
    print(
        f"{study.name}: best of {len(trials)} trials is {values} with a validation {study.objective} of"
        f" {chosen.objective:.4f}; " + ", ".join(f"{count} {state}" for state, count in counts.items())
    )
    if said:
        print(f"WARNING: {study.name}: {said}", file=sys.stderr)


def read(folder: Path) -> tuple[dict[str, Any], list[Trial]]:
    """study.json and the trials of a study that is over, from its folder; DataError where they are not whole."""
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
    direction = optuna.study.StudyDirection(2 if study["objective"] == "accuracy" else 1)
    rebuilt = optuna.create_study(direction=direction)
    for trial in complete:
        rebuilt.add_trial(to_optuna(study["space"], trial))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(rebuilt, evaluator=evaluator)
    return {key: found[key] for key in study["space"]}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


# ---- carrying out ---------------------------------------------------------------------------------------------------


def tune(
    study: Study,
    folder: Path,
    train: Callable[..., dict[str, Any]] | None = None,
    key: Callable[[Run], dict[str, Any]] = dataclasses.asdict,
) -> None:
    """Conclude a study: from the runs of all its batches or, in mode "single", after carrying out all its trials here.

    train(run, output=, on_evaluate=) carries out a run and returns its run.json; `on_evaluate` may end it by an
    exception. key(run): what decides its result. A trial that an interrupted call has finished is not repeated while
    that and the objective are the same.
    """
    if study.mode == "batches":
        conclude(study, folder, [trial for batch in range(study.batches) for trial in read_batch(study, folder, batch)])
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
            trial = _carry_out(study, folder, done, number, values, train)
            write_whole(kept, _json({"of": of, **dataclasses.asdict(trial)}))
        done.append(trial)
        said = "" if trial.objective is None else f" {trial.objective:.4f}"
        print(f"{study.name}: trial {number}: {values}: {trial.state}{said}", flush=True)
    conclude(study, folder, done)


def _kept(path: Path, of: Mapping[str, Any]) -> Trial | None:
    """The trial that trial.json tells of, if it is one of that objective and of runs with these keys."""
    try:
        found = json.loads(path.read_bytes())
        if found.pop("of") == json.loads(json.dumps(of)):
            measured, reports = (
                {int(key): value for key, value in found.pop(name).items()} for name in ("measured", "reports")
            )
            return Trial(**found, measured=measured, reports=reports)
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
