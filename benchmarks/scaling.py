"""(e) How the cost of a round grows with clients and with parameters, and that of a run with runs in one process.

`python benchmarks/scaling.py`. flare at keep 1e-3 against the bare loop on the paper's fully connected network; runs:
`python -m flare train` of one short cell, so that all is start-up and records.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import floor, ours
from measure import ONE_THREAD, ROOT, race, report, spread, words

CLIENTS, WIDTHS, RUNS = (10, 40, 160), (64, 512, 2048), (1, 4, 20)


def of_rounds(workload: str, rounds: int) -> dict[str, object]:
    """CPU seconds a round and client of flare and of the floor, and their ratio."""
    contenders = [floor(workload), ours(workload, "flare", "1e-3")]
    race(contenders, rounds)
    bare, flare = contenders
    clients = int(workload.split("-")[2])
    ratio = spread([mine / theirs for mine, theirs in zip(flare.cpu, bare.cpu, strict=True)])
    each = {c.name: spread([1000 * cpu / clients for cpu in c.cpu]) for c in contenders}
    return {"what": workload, "ms": each["flare"], "floor_ms": each["floor"], "ratio": ratio, "peak_mb": flare.peak_mb}


def of_runs(count: int, wandb: str, rounds: int) -> dict[str, object]:
    """CPU seconds a run where one process carries out `count` of them; wandb: the mode of W&B."""
    costs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            settings = "--experiment e --dataset digits --model fc --method flare --keep 1e-2 --local-epochs 1"
            settings += f" --model-settings width=16 hidden_layers=1 --wandb {wandb}"
            sizes = "--clients 10 --rounds 2 --batch-size 100 --learning-rate 0.01 --data"
            folders = [f"{scratch}/seed-{seed}" for seed in range(count)]
            command = [sys.executable, "-m", "flare", "train", *settings.split(), *sizes.split(), str(ROOT / "data")]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
            subprocess.run([*command, "--output", *folders], check=True, capture_output=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            costs.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / count)
    return {"what": f"{count} runs in a process, W&B {wandb}", "s": spread(costs)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks" / "scaling.json")
    chosen = parser.parse_args()
    sizes = [f"fc-64-{clients}" for clients in CLIENTS] + [f"fc-{width}-10" for width in WIDTHS[1:]]
    rounds = [of_rounds(workload, chosen.rounds) for workload in sizes]
    runs = [of_runs(count, wandb, chosen.rounds) for wandb in ("disabled", "offline") for count in RUNS]
    cells = [
        [r["what"], words(r["ms"], 1), words(r["floor_ms"], 1), words(r["ratio"]), f"{r['peak_mb']:.0f}"]
        for r in rounds
    ]
    heads = ["fc-WIDTH-CLIENTS", "flare, CPU ms a client", "floor, CPU ms a client", "ratio", "peak MB"]
    report("Scaling of a round", heads, cells, rounds, chosen.output)
    cells = [[r["what"], words(r["s"])] for r in runs]
    output = chosen.output.with_stem(f"{chosen.output.stem}_runs")
    report("Scaling of runs", ["", "CPU s a run"], cells, runs, output)


if __name__ == "__main__":
    main()
