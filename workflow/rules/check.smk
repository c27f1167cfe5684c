# A configuration that is wrong ends Snakemake with one line and exit code 2, before any rule is read.
import sys
from pathlib import Path

ROOT = workflow.basedir
sys.path.insert(0, ROOT)

from flare.errors import ConfigError
from flare.config import check, read


def refuse(what, *arguments, **more):
    """Its result; where it raises ConfigError, the line that it says."""
    try:
        return what(*arguments, **more)
    except ConfigError as error:
        print(f"flare: {error}", file=sys.stderr)
        sys.exit(2)
