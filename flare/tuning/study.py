"""A study: what is tuned, of which cell, at what cost; its trials; and the studies that a configuration asks for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flare import algorithms
from flare.config.expand import runs
from flare.config.levels import Tuning
from flare.config.ranges import Range, check_ranges, overrides, split
from flare.config.run import NESTED, Run, yaml_scalar
from flare.errors import DataError
from flare.runs.record import settings_digest


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
    batches: int = Tuning.batches
    trials: int = Tuning.trials
    validation: float = Tuning.validation
    objective: str = Tuning.objective
    mode: str = Tuning.mode
    seed: int = Tuning.seed

    @property
    def name(self) -> str:
        """Where the study lies below results/tuning."""
        return self.run.cell

    @property
    def digest(self) -> str:
        """Hash of the study's definition: it detects what another study of the same name left."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "run"}
        said = json.dumps([self.name, settings_digest(dataclasses.asdict(self.run)), own], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def batch(self, number: int) -> range:
        """The trials of a batch."""
        return range(number * self.trials, (number + 1) * self.trials)

    def runs(self, trial: int, values: Mapping[str, Any] | None = None) -> list[Run]:
        """The runs of a trial, one per seed; with its values, if they are known."""
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
    """A trial that is over.

    measured: the objective per seed, up to its end. state: "complete"; "diverged": a run did; "pruned": hopeless, so
    not carried on, with the objective so far by step in `reports`.
    """

    number: int
    values: Mapping[str, Any]
    state: str
    measured: Mapping[int, float]
    reports: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def objective(self) -> float | None:
        """The mean over the seeds; None if the trial is not complete."""
        return math.fsum(self.measured.values()) / len(self.measured) if self.state == "complete" else None


def fill(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with its open settings filled in."""
    if set(values) != set(run.tuned):
        raise DataError(f"{run.cell}: values of {sorted(values)}, and {sorted(run.tuned)} are to be tuned")
    instead = {key: value for key, value in values.items() if key in overrides(run.method)}
    inside = {key: value for key, value in values.items() if key.startswith(f"{NESTED}.")}
    own = {key: value for key, value in values.items() if key not in instead and key not in inside}
    if inside:
        instead[NESTED] = {**run.server, **{key.removeprefix(f"{NESTED}."): value for key, value in inside.items()}}
    settings = {**run.method_settings, **own}
    return dataclasses.replace(run, **instead, method_settings=settings, tuned=dict(values))


def studies(config: Mapping[str, Any]) -> list[Study]:
    """Every study that a checked configuration asks for, in the order of its runs."""
    out: dict[str, Study] = {}
    for run in runs(config):
        if run.tuned and run.cell not in out:
            experiment = config["experiments"][run.experiment]
            settings = dict(experiment["tuning"])
            settings |= settings.pop("methods", {}).get(run.method, {})
            literal, ranges = split(experiment["methods"][run.method])
            space = check_ranges(run.cell, ranges, algorithms.load(run.method).settings, literal.get(NESTED))
            out[run.cell] = Study(run=run, space=space, **settings)
    return list(out.values())
