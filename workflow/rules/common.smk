# Paths, wildcard constraints and checks: everything the rules share.
import os
import sys

ROOT = workflow.basedir
sys.path.insert(0, ROOT)

from flare import figures
from flare.config import ConfigError, check, runs

try:
    check(config)
except ConfigError as error:
    print(f"flare: {error}", file=sys.stderr)
    sys.exit(2)

DATA = config.get("data", "data")
RESULTS = config.get("results", "results")
THREADS = config.get("threads", 1)
WANDB = config.get("wandb", {})
# What does not decide a result is in no rule's params, so that changing it re-runs nothing: jobs inherit it. And rules
# call `python -m flare` of this checkout, from whatever working directory and environment.
os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, (ROOT, os.getenv("PYTHONPATH")))),
    FLARE_DEVICE=config.get("device", "cpu"),
    WANDB_MODE=WANDB.get("mode", "offline"),
    WANDB_PROJECT=WANDB.get("project", "flare-sweeps"),
    WANDB_ENTITY=WANDB.get("entity") or "",
)

TABLES = f"{RESULTS}/tables"
ENV = f"{ROOT}/workflow/envs/flare.yaml"
RUN = "{experiment}/{method}/keep-{keep}/epochs-{local_epochs}/seed-{seed}"
RUNS = {run.folder: run for run in runs(config)}
FIGURES = [
    f"{RESULTS}/figures/{name}/{figure}.{format}"
    for name, experiment in config["experiments"].items()
    for figure in figures.of(experiment)
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
    """The run that a job is for."""
    return RUNS[RUN.format(**wildcards)]


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
    for run in RUNS.values():
        axes = grid.setdefault((run.experiment, run.method), ({}, {}, {}))
        for axis, value in zip(axes, (run.keep, run.local_epochs, run.seed)):
            axis[value] = None
    for (experiment, method), axes in grid.items():
        keep, epochs, seed = ("{" + ",".join(map(str, axis)) + "}" for axis in axes)
        yield f"{RESULTS}/runs/{experiment}/{method}/keep-{keep}/epochs-{epochs}/seed-{seed}"
