# Paths, wildcard constraints and checks: everything the rules share.
import os
import sys

ROOT = workflow.basedir
# Rules call `python -m flare` of this checkout, from whatever working directory and environment.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
sys.path.insert(0, ROOT)

from flare import figures
from flare.config import ConfigError, check, runs

try:
    check(config)
except ConfigError as error:
    print(f"flare: {error}", file=sys.stderr)
    sys.exit(2)

# What does not decide a result stays out of `params`: a change of it re-runs nothing. Shell commands read it from config.
for key, value in {"data": "data", "results": "results", "device": "cpu", "threads": 1, "wandb": {}}.items():
    config.setdefault(key, value)
config["wandb"] = {"mode": "offline", "project": "flare-sweeps", "entity": ""} | {
    key: value for key, value in config["wandb"].items() if value is not None
}

DATA = config["data"]
RESULTS = config["results"]
TABLES = f"{RESULTS}/tables"
ENV = f"{ROOT}/workflow/envs/flare.yaml"
RUN = "{experiment}/{method}/keep-{keep}/epochs-{local_epochs}/seed-{seed}"
RUNS = {run.folder: run for run in runs(config)}
FIGURES = expand(
    f"{RESULTS}/figures/{{experiment}}/{{figure}}.{{format}}",
    experiment=config["experiments"],
    figure=figures.names(),
    format=("pdf", "png"),
)


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
