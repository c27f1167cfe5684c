"""Run folders with made-up results: what the engine would leave behind, in a moment instead of minutes.

Accuracy rises towards a level that depends on method and keep, with noise from a fixed seed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flare.columns import IDENTITY, LABELS, ROUNDS, STALENESS, TRIALS
from flare.runs.record import whole_digest

PARAMETERS = 50_890
DENSE_BITS = 10 * 32 * PARAMETERS
_LEVEL = {"fedavg": 0.915, "flare": 0.905, "topk": 0.885, "fedprox": 0.88, "ef21": 0.875, "ffl": 0.87}


def write_run(
    results: Path,
    *,
    experiment: str = "fashion-fc",
    method: str = "flare",
    keep: str = "1e-2",
    local_epochs: int = 1,
    seed: int = 1,
    evaluated: Sequence[int] | None = None,
    accuracies: Sequence[float] | None = None,
    diverged_round: int | None = None,
    staleness: bool = False,
    available: int | None = None,
    family: str | None = None,
    change: Mapping[str, Any] | None = None,
    parameters: int = PARAMETERS,
    message_bits: int | None = None,
) -> Path:
    """Write one run's files below results/runs; returns its folder.

    evaluated: the rounds with a row (default every 10th of 100 and the last). accuracies: one per row, or made up.
    diverged_round: the run ended there. staleness: with those columns. available: clients that answer, of
    10. family: experiments that share it differ in nothing else. change: other values in run.json; what its "config"
    says of the run counts for the rest, too. parameters: of the model. message_bits: of a client's message.
    """
    told = {"experiment": experiment, "dataset": "fashion_mnist", "model": "fc", "method": method, "keep": keep}
    told |= {"local_epochs": local_epochs, "seed": seed, "clients": 10, "available": available, "tuned": {}}
    told |= {name: value for name, value in (change or {}).get("config", {}).items() if name in (*told, "staleness")}
    identity = {name: told[name] for name in IDENTITY}
    experiment, method, keep, local_epochs, seed = (told[name] for name in IDENTITY if name not in ("dataset", "model"))
    staleness = staleness or told.get("staleness", False)
    if evaluated is None:
        planned, every = ((change or {}).get("config", {}).get(name) for name in ("rounds", "evaluate_every"))
        planned, every = planned or 100, every or 10
        evaluated = [*range(0, planned - 1, every), planned - 1]
    evaluated = list(evaluated)
    planned = evaluated[-1] + 1
    if diverged_round is not None:
        evaluated = [round_ for round_ in evaluated if round_ < diverged_round]
    fraction = 1.0 if keep == "dense" else float(keep)
    if accuracies is None:
        noise = np.random.default_rng([seed, local_epochs, *map(ord, method + keep)])
        level = _LEVEL.get(method, 0.86) + 0.02 * math.log10(fraction) * (1.5 if method != "flare" else 0.7)
        level += 0.01 * math.log2(local_epochs) + noise.normal(0, 0.006)
        pace = 8 - 6 * math.log10(fraction)
        accuracies = [
            float(
                np.clip(round(0.1 + (level - 0.1) * (1 - math.exp(-(r + 1) / pace)) + noise.normal(0, 0.008), 4), 0, 1)
            )
            for r in evaluated
        ]
    answering = told["available"] or told["clients"]
    dense = answering * 32 * parameters
    per_client = 32 * parameters if keep == "dense" else max(1, round(fraction * parameters)) * 48
    per_round = answering * (message_bits or per_client)
    completed = planned if diverged_round is None else diverged_round
    sent = completed + (diverged_round is not None)  # the round in which it diverged was sent, too
    start = ",".join(map(str, identity.values()))
    lines = [
        f"{start},{r},{(r + 1) * per_round},{(r + 1) * dense},{3 * (1 - a)!r},{2.5 * (1 - a)!r},{a!r}"
        for r, a in zip(evaluated, accuracies, strict=True)
    ]
    header = ",".join(ROUNDS)
    if staleness:
        header += "," + ",".join(STALENESS)
        # Nothing is staler than the run is long; a percentile levels off once that share of coordinates is sent.
        size = -160 * (_LEVEL.get(method, 0.86) - 0.8) * (1 + 0.02 * seed) * math.log10(fraction)
        ages = [[min(r + 1, percent / 100 * size) for percent in (60, 50, 90, 99)] for r in evaluated]
        norms = ["" if method in ("fedavg", "ef21") else repr(age**0.5) for age, *_ in ages]
        lines = [
            f"{line},{','.join(map(repr, age))},{1 / (r + 1)!r},{norm},1.0,0.1"
            for line, r, age, norm in zip(lines, evaluated, ages, norms, strict=True)
        ]
    run = {
        **identity,
        "tuned": bool(told["tuned"]),
        "status": "finished" if diverged_round is None else "diverged",
        "diverged_round": diverged_round,
        "rounds": completed,
        "final_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies) if accuracies else None,
        "final_loss": 2.5 * (1 - accuracies[-1]) if accuracies else None,
        "uplink_bits": sent * per_round,
        "downlink_bits": sent * dense,
        "compression": dense / per_round,
        "parameters": parameters,
        "wall_seconds": 1.5 + seed,
        "device": "cpu",
        "threads": 1,
        "versions": {"python": "3.11.0", "torch": "2", "numpy": "2", "flare": "0"},
        "git_commit": None,
        "config": {
            **{"clients": 10, "available": available, "family": family or experiment, "seed": seed},
            "rounds": planned,
        },
        "result_hash": f"{seed:064x}",
        **(change or {}),
    }
    folder = results / "runs" / experiment / method / f"keep-{keep}" / f"epochs-{local_epochs}" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rounds.csv").write_text("\n".join([header, *lines]) + "\n")
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    return vouch(folder)


def vouch(folder: Path, **made_from: Any) -> Path:
    """Have run.json say what the run was made from, as if the files that lie there were the run's own."""
    run = json.loads((folder / "run.json").read_text())
    made = {"code": "c" * 64, "data": "d" * 64, "device": "cpu", "threads": 1, "processor": "made up"}
    run["made_from"] = made | made_from
    run["made_from"]["settings"] = whole_digest(run["config"])
    run["made_from"]["rounds"] = hashlib.sha256((folder / "rounds.csv").read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    return folder


def write_labels(tables: Path, experiment: str, clients: int = 10, classes: int = 10) -> None:
    """Write the table of samples of each class that each client holds: some classes each, in turn."""
    rows = [",".join(LABELS)]
    for client, label in itertools.product(range(clients), range(classes)):
        rows.append(f"{experiment},{client},{label},{(7 * client + 13 * label) % 40 * ((client + label) % 3 != 0)}")
    (tables / "labels").mkdir(parents=True, exist_ok=True)
    (tables / "labels" / f"{experiment}.csv").write_text("\n".join([*rows, ""]))


def write_trials(tables: Path, experiment: str, space: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Write the table of trials of studies: per method the values of each setting, one per trial, at two keeps.

    The second trial diverged, the third was pruned, the best is the last.
    """
    rows = [",".join(TRIALS)]
    for (method, settings), keep in itertools.product(space.items(), ("1e-2", "1e-3")):
        for setting, values in settings.items():
            for trial, value in enumerate(values):
                state = {1: "diverged", 2: "pruned"}.get(trial, "complete")
                result = f"{0.5 + trial / 20}" if state == "complete" else ""
                best = trial == len(values) - 1
                rows.append(
                    f"{experiment},{method},{keep},1,{trial},{setting},{value},{state},accuracy,{result},{best},"
                    + (f"{float(result) - 0.03},{float(result) + 0.02}," if result else ",,")
                    + (f"{1 / len(settings)}" if len(settings) > 1 else "")
                )
    (tables / "trials").mkdir(parents=True, exist_ok=True)
    (tables / "trials" / f"{experiment}.csv").write_text("\n".join([*rows, ""]))


def write_sweep(
    results: Path,
    *,
    experiment: str = "fashion-fc",
    methods: Iterable[str] = ("fedavg", "topk", "flare"),
    keeps: Sequence[str] = ("1e-2", "1e-3"),
    local_epochs: Sequence[int] = (1,),
    seeds: Sequence[int] = (1, 2, 3),
    diverged: Mapping[tuple[str, str, int], int] | None = None,
    staleness: bool = False,
    available: int | None = None,
    family: str | None = None,
) -> list[Path]:
    """Write an experiment's runs; returns their folders in the order of a configuration.

    fedavg is dense. diverged: the round in which the run of (method, keep, seed) diverged.
    """
    lost = diverged or {}
    return [
        write_run(
            results,
            experiment=experiment,
            method=method,
            keep=keep,
            local_epochs=epochs,
            seed=seed,
            diverged_round=lost.get((method, keep, seed)),
            staleness=staleness,
            available=available,
            family=family,
        )
        for method in methods
        for keep, epochs, seed in itertools.product(["dense"] if method == "fedavg" else keeps, local_epochs, seeds)
    ]
