# Paths, wildcard constraints and checks: everything the rules share.
import csv
import dataclasses
import functools
import os
import re
import sys
from pathlib import Path

ROOT = workflow.basedir
sys.path.insert(0, ROOT)

from flare import figures, tuning
from flare.checkpoint import code_digest, sources
from flare.config import ConfigError, Run, check, runs
from flare.lease import clear_stale

try:
    check(config)
except ConfigError as error:
    print(f"flare: {error}", file=sys.stderr)
    sys.exit(2)

if workflow.is_main_process:
    clear_stale(Path(".snakemake"))

DATA = config.get("data", "data")
RESULTS = config.get("results", "results")
THREADS = config.get("threads", 1)
WANDB = config.get("wandb", {})
# What does not decide a result is in no rule's params, so that changing it re-runs nothing: jobs inherit it. And rules
# call `python -m flare` of this checkout, from whatever working directory and environment.
os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, (ROOT, os.getenv("PYTHONPATH")))),
    FLARE_LOCK=f"{ROOT}/requirements.lock",
    FLARE_DEVICE=config.get("device", "cpu"),
    FLARE_JOBS_PER_GPU=str(config.get("jobs_per_gpu", 1)),
    FLARE_CHECKPOINT_SECONDS=str(config.get("checkpoint", {}).get("seconds", "")),
    FLARE_CHECKPOINT_ROUNDS=str(config.get("checkpoint", {}).get("rounds", "")),
    FLARE_STORAGE=config.get("storage") or os.getenv("FLARE_STORAGE", ""),
    WANDB_MODE=WANDB.get("mode", "offline"),
    WANDB_PROJECT=WANDB.get("project", "flare-sweeps"),
    WANDB_ENTITY=WANDB.get("entity") or "",
)

TABLES = f"{RESULTS}/tables"
ENV = f"{ROOT}/workflow/envs/flare.yaml"
CELL = "{experiment}/{method}/keep-{keep}/epochs-{local_epochs}"
RUN = f"{CELL}/seed-{{seed}}"
RUNS = {run.folder: run for run in runs(config)}
CELLS = {run.cell: run for run in reversed(RUNS.values())}
WITHOUT_SEED = [field.name for field in dataclasses.fields(Run) if field.name != "seed"]
FIGURES = [
    f"{RESULTS}/figures/{name}/{figure}.{format}"
    for name in config["experiments"]
    for figure in figures.of(config, name)
    for format in ("pdf", "png")
]


wildcard_constraints:
    experiment=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    dataset=r"\w+",
    method=r"\w+",
    keep=r"dense|1|0\.\d+|[1-9]e-\d+",
    local_epochs=r"\d+",
    seed=r"\d+",
    figure=r"\w+",


def run_of(wildcards):
    """The first run of the cell that a job is for; the cell's runs differ in the seed only."""
    return CELLS[CELL.format(**wildcards)]


@functools.cache
def arguments(cell):
    """What decides the results of the cell's runs, but for the seed."""
    return CELLS[cell].flags(*WITHOUT_SEED)


@functools.cache
def code_of(cell):
    """What the code that decides the cell's results does."""
    return code_digest(sources(CELLS[cell]))


def jobs():
    """The rules that train: name, seeds of a job's runs, pattern of the experiments that have them."""
    size = config.get("runs_per_job", 1)
    if size == 1:
        return [("train", ["{seed}"], ".+")]
    names = {}
    for name, experiment in config["experiments"].items():
        seeds = experiment["seeds"]
        for start in range(0, len(seeds), size):
            names.setdefault(tuple(seeds[start : start + size]), []).append(re.escape(name))
    return [(f"train_{number}", seeds, "|".join(found)) for number, (seeds, found) in enumerate(names.items(), 1)]


def needs(experiment):
    """Memory (MB) and time (minutes) that a scheduler is asked for: by the plan, if there is one (`snakemake plan`)."""
    try:
        with open(f"{TABLES}/plan.csv", encoding="utf-8") as file:
            row = next(row for row in csv.DictReader(file) if row["experiment"] == experiment)
        hours = float(row["hours"]) / int(row["runs"]) * config.get("runs_per_job", 1)
        # Twice the time and half as much memory again: the plan was made on another machine, perhaps.
        return {"mem_mb": 1000 + int(1.5e-6 * float(row["memory_bytes"])), "runtime": 10 + int(120 * hours)}
    except (OSError, StopIteration, KeyError, ValueError, ZeroDivisionError):
        return {"mem_mb": 4000, "runtime": 60}


def dealt(experiment):
    """What decides the split of an experiment's data, as arguments of `python -m flare count_labels`."""
    run = next(run for run in RUNS.values() if run.experiment == experiment)
    return run.flags("experiment", "dataset", "clients", "seed", "partition")


def code(*names):
    """Files of the package whose change makes a job's results stale."""
    return [f"{ROOT}/flare/{name}.py" for name in names]


def patterns():
    """All runs as a few patterns with braces, since thousands of paths do not fit on a command line."""
    grid = {}
    for run in at_hand().values():
        axes = grid.setdefault((run.experiment, run.method), ({}, {}, {}))
        for axis, value in zip(axes, (run.keep, run.local_epochs, run.seed)):
            axis[value] = None
    for (experiment, method), axes in grid.items():
        keep, epochs, seed = ("{" + ",".join(map(str, axis)) + "}" for axis in axes)
        yield f"{RESULTS}/runs/{experiment}/{method}/keep-{keep}/epochs-{epochs}/seed-{seed}"
