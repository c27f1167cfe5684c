"""A small sweep on the digits data set, and what a sweep or a run leaves that must not depend on how it was run."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

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


def write(folder: Path, content: dict, name: str = "config.yaml") -> str:
    file = folder / name
    file.write_text(yaml.safe_dump(content))
    return str(file)


def outcome(folder: Path) -> tuple[bytes, str]:
    """The rounds of a run, and the digest of its result."""
    return (folder / "rounds.csv").read_bytes(), json.loads((folder / "run.json").read_bytes())["result_hash"]


def results(folder: Path) -> dict[str, bytes]:
    """The content of the runs, tables and figures of a sweep."""
    files = [
        *folder.glob("results/runs/**/rounds.csv"),
        *folder.glob("results/tables/**/*.*"),
        *folder.glob("results/figures/**/*.*"),
    ]
    # Wall times differ from one sweep to the next.
    out = {
        str(f.relative_to(folder)): f.read_bytes()
        for f in files
        if f.stem not in ("costs", "compute_cost", "made_from")
    }
    for file in folder.glob("results/runs/**/run.json"):
        record = json.loads(file.read_bytes())
        out[str(file.relative_to(folder))] = f"{record['status']} {record['result_hash']}".encode()
    return out
