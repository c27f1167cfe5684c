"""A small sweep on the digits data set, and Snakemake run for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONFIG = {
    "wandb": {"mode": "offline"},
    "experiments": {
        "small": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 16, "hidden_layers": 1},
            "clients": 4,
            "available": 3,
            "partition": {"scheme": "contiguous", "samples_per_client": 60},
            "rounds": 6,
            "evaluate_every": 2,
            "batch_size": 20,
            "learning_rate": 0.1,
            "momentum": 0.5,
            "staleness": True,
            "keep": ["5e-2"],
            "seeds": [1, 2],
            "methods": {"fedavg": {}, "flare": {"tau": 0.05}},
        }
    },
}


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
    ]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300)


def write(folder: Path, content: dict, name: str = "config.yaml") -> str:
    file = folder / name
    file.write_text(yaml.safe_dump(content))
    return str(file)
