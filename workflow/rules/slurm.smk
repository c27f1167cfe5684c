# Arrays of jobs, `--slurm-array-jobs`: what snakemake-executor-plugin-slurm 2.8 does not do for them.
import base64
import collections
import json
import os
import sys
import zlib

# A job of an array is submitted as its first one, and carries out its own from within; what it then checks for is the
# first one's output, which may take longer (issue 447 of the plugin). So it becomes its own command here.
for argument in sys.argv:
    if argument.startswith("--slurm-jobstep-array-execs="):
        commands = json.loads(base64.b64decode(argument.partition("=")[2]))
        own = commands.get(os.getenv("SLURM_ARRAY_TASK_ID"))  # none for the first one
        if own:
            os.execvp("sh", ["sh", "-c", zlib.decompress(bytes.fromhex(own)).decode()])


def in_arrays():
    """Whether Slurm is given arrays of jobs."""
    return bool(getattr(workflow.executor_settings, "array_jobs", None))


def check_arrays():
    """Refuse arrays with which Snakemake would wait for ever.

    Jobs that are ready while others of their rule find no place in the queue are dropped (issue 473 of the plugin).
    """
    size = config.get("runs_per_job", 1)
    seeds = collections.Counter(run.cell for run in RUNS.values())
    count = sum(-(-number // size) for number in seeds.values())
    count += sum(study.trials * len(study.seeds) for study in STUDIES.values() if study.mode == "batches")
    if in_arrays() and workflow.nodes < count:
        raise ConfigError(
            f"--jobs: {workflow.nodes} is not allowed with --slurm-array-jobs; at least {count}, the jobs that train: "
            "the others would be waited for in vain"
        )
