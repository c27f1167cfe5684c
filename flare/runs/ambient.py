"""What a user, a machine or a working folder has lying around, kept from jobs: no byte of a result depends on it.

The Snakefile takes `SHUT_OUT` out of the environment that jobs inherit and sets `SET`. What stays is what a user says
on purpose: where packages are (absolute folders of PYTHONPATH), W&B's key, server and mode, a proxy, which GPUs.
Variables that lower the processor's instructions stay, too; run.json has them (`flare.runs.machine`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from flare.errors import ConfigError
from flare.settings import WANDB_MODES

SHUT_OUT = (
    # Python: code that is run at its start, warnings that become errors, other rules.
    *("PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONBREAKPOINT", "PYTHONIOENCODING"),
    *("PYTHONHASHSEED", "PYTHONPLATLIBDIR", "PYTHONVERBOSE", "PYTHONDEBUG", "PYTHONPROFILEIMPORTTIME"),
    # The shell: files it runs first, its options, options of the programs that rules call.
    *("BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "CDPATH", "GLOBIGNORE", "GREP_OPTIONS", "POSIXLY_CORRECT"),
    # Threads: as many as configured, and no library decides otherwise.
    *("OMP_THREAD_LIMIT", "OMP_DYNAMIC", "MKL_DYNAMIC", "MKL_NUM_THREADS", "MKL_DOMAIN_NUM_THREADS"),
    *("OPENBLAS_NUM_THREADS", "KMP_ALL_THREADS", "KMP_DYNAMIC_MODE"),
    # Precision.
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE"),
    "DNNL_DEFAULT_FPMATH_MODE",
    # W&B: what is of one run, and would be every run's.
    *("WANDB_RUN_ID", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_NOTES", "WANDB_TAGS"),
    *("WANDB_JOB_TYPE", "WANDB_CONFIG_PATHS", "WANDB_RUN_NAME", "WANDB_SWEEP_PARAM_PATH"),
    # Figures and notebooks.
    *("MATPLOTLIBRC", "MPLSTYLE", "JUPYTER_CONFIG_PATH", "JUPYTER_CONFIG_DIR", "SOURCE_DATE_EPOCH"),
    # Snakemake, which the report calls again; another repository.
    *("SNAKEMAKE_PROFILE", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),
)
SET: Mapping[str, str] = {
    "PYTHONSAFEPATH": "1",  # the working folder is no place to import from
    "PYTHONUTF8": "1",  # whatever the locale
    "MPLBACKEND": "Agg",
    "JUPYTER_NO_CONFIG": "1",
}
# A function of the user's shell that is exported, called `python` say.
_FUNCTION = "BASH_FUNC_"
# The SDK's older words.
_MODES = {"dryrun": "offline", "run": "online"}


def shut_out(environment: Mapping[str, str]) -> list[str]:
    """The variables of an environment that jobs are not given."""
    return [name for name in environment if name in SHUT_OUT or name.startswith(_FUNCTION)]


def matplotlibrc() -> str:
    """matplotlib's own settings, before those of a user's folder; "" if there is no matplotlib."""
    found = importlib.util.find_spec("matplotlib")
    places = [Path(folder, "mpl-data", "matplotlibrc") for folder in (found and found.submodule_search_locations) or ()]
    return next((str(path) for path in places if path.is_file()), "")


def packages(root: str, environment: Mapping[str, str]) -> str:
    """PYTHONPATH of jobs: this checkout, and the user's absolute folders; an empty one would be the working folder."""
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([root, *(folder for folder in given if os.path.isabs(folder))]))


def mode_of_wandb(configured: str, environment: Mapping[str, str] = os.environ) -> str:
    """W&B's mode: the SDK's own switches, WANDB_DISABLED and WANDB_MODE, win over the configuration."""
    if environment.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    said = environment.get("WANDB_MODE", "")
    mode = _MODES.get(said, said) or configured
    if mode not in WANDB_MODES:
        raise ConfigError(f"WANDB_MODE: {said[:60]!r} is not allowed; one of {', '.join(WANDB_MODES)}")
    return mode
