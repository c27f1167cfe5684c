# Paths, wildcard constraints and checks: everything the rules share.
import dataclasses
import gc
import json
import os
import sys
from pathlib import Path

from flare import algorithms, figures, status
from flare.algorithms._looks import CONSTANTS, label, look
from flare.analysis import registered
from flare.runs.identity import WHETHER, code_digest, digest_of as code_of_run, reached
from flare.runs import ambient, provenance
from flare.config import Run, check_folders, runs, settle
from flare.runs.lease import clear_stale
from flare.runs.record import settings_digest
from flare.settings import EXPERIMENT_PATTERN, KEEP_PATTERN, WANDB_PROJECT
from flare.tuning.origin import Sweep, code as code_of_tuning
from flare.tuning.study import studies

# Of thousands of jobs all is kept until the end: looking for garbage as often as Python does takes a tenth of the time.
gc.set_threshold(100_000, 20, 100)

# As Snakemake has it, which takes the last of a key's values and adds those of --config, numbers as they are meant.
SOURCE = refuse(settle, config, [Path(file) for file in workflow.configfiles], workflow.config_settings.config)
refuse(check, config, SOURCE)
refuse(check_folders, config, SOURCE)

if workflow.is_main_process:
    refuse(clear_stale, Path(".snakemake"), asking=workflow.output_settings.dryrun)

DATA = os.path.normpath(config.get("data", "data"))
RESULTS = os.path.normpath(config.get("results", "results"))
THREADS = config.get("threads", 1)
WANDB = config.get("wandb", {})
STORAGE = config.get("storage") or os.getenv("FLARE_STORAGE", "")
# What does not decide a result is in no rule's params, so that changing it re-runs nothing: jobs inherit it. And rules
# call `python -m flare` of this checkout, with the Python that runs this, from whatever working directory and
# environment: what else lies there is not imported, and no variable of the user's changes what is computed or drawn.
for name in ambient.shut_out(os.environ):
    del os.environ[name]
os.environ.update(
    ambient.SET,
    MATPLOTLIBRC=ambient.matplotlibrc(),
    PATH=os.pathsep.join((os.path.dirname(os.path.abspath(sys.executable)), os.getenv("PATH", os.defpath))),
    PYTHONPATH=ambient.packages(str(ROOT), os.environ),
    FLARE_LOCK=os.path.abspath(os.getenv("FLARE_LOCK") or f"{ROOT}/requirements.lock"),
    FLARE_DEVICE=config.get("device", "cpu"),
    FLARE_JOBS_PER_GPU=str(config.get("jobs_per_gpu", 1)),
    FLARE_CHECKPOINT_SECONDS=str(config.get("checkpoint", {}).get("seconds", "")),
    FLARE_CHECKPOINT_ROUNDS=str(config.get("checkpoint", {}).get("rounds", "")),
    FLARE_STORAGE=STORAGE,
    # The SDK's own switches, set by the user, win over the configuration.
    WANDB_MODE=refuse(ambient.mode_of_wandb, WANDB.get("mode", "offline")),
    WANDB_PROJECT=WANDB.get("project", WANDB_PROJECT),
    WANDB_ENTITY=WANDB.get("entity") or "",
    FLARE_SYSTEM_METRICS=str(WANDB.get("system_metrics", False)).lower(),
)
# In a conda environment Snakemake takes PYTHONPATH away, by which jobs find this checkout.
workflow.deployment_settings.conda_not_block_search_path_envvars = True

TABLES = f"{RESULTS}/tables"
ENV = f"{ROOT}/workflow/envs/flare.yaml"
CELL = "{experiment}/{method}/keep-{keep}/epochs-{local_epochs}"
RUN = f"{CELL}/seed-{{seed}}"
RUNS = {run.folder: run for run in runs(config)}
CELLS = {run.cell: run for run in reversed(RUNS.values())}
STUDIES = {
    study.name: study
    for study in studies(config)
    if not config.get("record") or os.path.exists(f"{RESULTS}/tuning/{study.name}/best.yaml")
}
STUDY = f"{RESULTS}/tuning/{CELL}"
TRIAL = f"{STUDY}/batch-{{batch}}/trial-{{trial}}/seed-{{seed}}"
WITHOUT_SEED = [field.name for field in dataclasses.fields(Run) if field.name != "seed"]
FIGURES = [
    f"{RESULTS}/figures/{name}/{figure}.{format}"
    for name in config["experiments"]
    for figure in figures.of(config, name)
    for format in ("pdf", "png")
]
# The record that the results were restored from, if they were: its runs are taken as they are, and none is trained.
RECORD = config.get("record")
# What lies in results/, held against what is planned: file times and what Snakemake remembers say nothing of it.
SWEEP = Sweep.of(config)
WHOLE_FIGURES = [f"{RESULTS}/figures/{figure}.{format}" for figure in figures.whole() for format in ("pdf", "png")]
TABLE_PAGES = expand(
    f"{TABLES}/pages/{{table}}.html",
    table=(
        "reproduction",
        "checklist",
        "claims",
        "summary",
        "overall",
        "reached",
        "reference",
        "settings",
        *(["studies"] if STUDIES else []),
    ),
)
NOTEBOOKS = expand(f"{RESULTS}/notebooks/{{notebook}}.html", notebook=("paper_figures", "explore"))


wildcard_constraints:
    experiment=EXPERIMENT_PATTERN,
    dataset=r"\w+",
    method=r"\w+",
    keep=KEEP_PATTERN,
    local_epochs=r"\d+",
    seed=r"\d+",
    figure=r"\w+",
    batch=r"\d+",
    trial=r"\d+",
    table=r"\w+",
