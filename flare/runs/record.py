"""What a run leaves behind: rounds.csv and run.json, the truth. Each is whole or absent; run.json comes last."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flare
from flare.columns import IDENTITY
from flare.config.run import NESTED, Run
from flare.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from flare.engine.api import History


def result_hash(rounds_csv: bytes, weights: dict[str, Tensor]) -> str:
    """SHA-256 of rounds.csv and of the final weights' names and bytes: equal exactly where the results are."""
    digest = hashlib.sha256(rounds_csv)
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Short hash of every setting that affects the result, except keep, local_epochs, seed and tuned values.

    The run's folder says the first three. Short, because a command line holds one for every method. The same for a run
    as it is planned and as its run.json has it.
    """
    tuned = sorted(settings.get("tuned") or ())
    given = _given(settings, ("keep", "local_epochs", "seed", "tuned", *tuned), tuned)
    return hashlib.sha256(json.dumps([given, tuned], sort_keys=True).encode()).hexdigest()[:16]


def whole_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of every setting of a run, tuned values included: what its result was made from."""
    return hashlib.sha256(json.dumps(_given(settings), sort_keys=True).encode()).hexdigest()


def _given(settings: Mapping[str, Any], left_out: Sequence[str] = (), tuned: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that are set, with numbers as floats: the same however they were written."""

    def plain(value: Any, prefix: str = "") -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items() if f"{prefix}{key}" not in tuned}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    # As on a command line, what is not set is not there.
    given = {
        key: plain(value, f"{key}." if key == NESTED else "") for key, value in settings.items() if key not in left_out
    }
    unset: tuple[Any, ...] = (None, {}, [])
    return {key: value for key, value in given.items() if value is not False and value not in unset}


def write_run(
    folder: Path,
    run: Run,
    history: History,
    weights: dict[str, Tensor],
    *,
    wall_seconds: float,
    device: str,
    threads: int,
    made_from: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write rounds.csv and run.json of a run of `simulate_rows` into the folder; returns run.json's content.

    made_from: the digests of code and data, and the machine, which `flare.runs.provenance` holds against what is
    planned; those of the settings and of rounds.csv are added here.
    """
    import numpy as np
    import torch

    identity = {name: getattr(run, name) for name in IDENTITY}
    rows = ([*identity.values(), *(row[column] for column in history.columns)] for row in history.rows)
    rounds_csv = _csv([*identity, *history.columns], rows)
    accuracies = [float(row["test_accuracy"]) for row in history.rows]
    ended = history.ended
    summary = {
        **identity,
        "tuned": bool(run.tuned) and run.trial is None,
        "study": run.cell if run.tuned else None,
        "evaluated_on": "test" if run.validation is None else "validation",
        "status": ended["status"],
        "diverged_round": ended["diverged_round"],
        "rounds": ended["rounds"],
        "final_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies, default=None),
        "final_loss": float(history.rows[-1]["test_loss"]) if accuracies else None,
        "uplink_bits": ended["uplink_bits"],
        "downlink_bits": ended["downlink_bits"],
        "compression": ended["dense_bits"] / ended["uplink_bits"] if ended["uplink_bits"] else None,
        "parameters": ended["parameters"],
        "wall_seconds": round(wall_seconds, 3),
        "device": device,
        "threads": threads,
        "engine": ended["engine"],
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "flare": flare.__version__,
        },
        "git_commit": git_commit(),
        "made_from": {
            "settings": whole_digest(dataclasses.asdict(run)),
            **(made_from or {}),
            "rounds": hashlib.sha256(rounds_csv).hexdigest(),
        },
        "config": dataclasses.asdict(run),
        "result_hash": result_hash(rounds_csv, weights),
    }
    write_whole(folder / "rounds.csv", rounds_csv)
    write_whole(folder / "run.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """The bytes that pandas would write, without the time it takes to import: what is not there (NaN) is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if value != value else value for value in row] for row in rows)
    return text.getvalue().encode()


def size(bits: float) -> str:
    """Bits as a size that a person reads: three digits, decimal units of bytes."""
    amount, unit = bits / 8, "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:,.0f} {unit}"


def git_commit() -> str | None:
    """Commit of the code that runs, with "-dirty" where a tracked file was changed; None outside a repository.

    Where there is a repository and git refuses it (it belongs to another user, say), one line says so. Variables that
    name another repository (GIT_DIR) are not heeded.
    """
    package = Path(__file__).parent
    command = ["git", "-C", str(package), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=10, env=environment | {"LC_ALL": "C"}, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if said.returncode == 0:
        return said.stdout.strip()
    if any((folder / ".git").exists() for folder in package.parents):
        why = next(iter(said.stderr.strip().splitlines()), f"git ended with {said.returncode}")
        print(f"no commit is recorded: {why.removeprefix('fatal: ')}", file=sys.stderr, flush=True)
    return None
