"""Commands as a person gives them: Snakemake with this repository's workflow, and the environment they run in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which the programs of its Python come first, and what is added to it."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | more


def snakemake_command(folder: Path, *arguments: str) -> list[str]:
    """Snakemake in a folder of its own."""
    place = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [sys.executable, "-m", "snakemake", *place, *arguments]


def snakemake(folder: Path, *arguments: str, timeout: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it until it ends; more: variables of its environment."""
    command = snakemake_command(folder, *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=environment(**more), timeout=timeout)
