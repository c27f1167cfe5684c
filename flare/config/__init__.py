"""The configuration: what is allowed, said in one line if something is not, and the runs it asks for.

Imports neither torch nor pandas: Snakemake reads this every time it starts. The modules of this folder import each
other by name, never this one.
"""

from flare.config.checking import check, check_folders, check_run, check_spelling, check_values, load
from flare.config.expand import runs, with_defaults
from flare.config.merged import settle
from flare.config.reading import parse, read
from flare.config.run import OVERRIDES, Run, yaml_scalar
from flare.config.schema import SCHEMA

__all__ = [
    "OVERRIDES",
    "SCHEMA",
    "Run",
    "check",
    "check_folders",
    "check_run",
    "check_spelling",
    "check_values",
    "load",
    "parse",
    "read",
    "runs",
    "settle",
    "with_defaults",
    "yaml_scalar",
]
