"""How long a sweep of 10,000 runs takes to plan, before and after it is carried out, to begin, and to tabulate.

`python benchmarks/planning.py`. The runs' folders are made up by this script, in a temporary folder; the first job is a
real one. Memory is the greatest of the process and its children.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from measure import ONE_THREAD, ROOT, report

KEEPS = ["0.1", "5e-2", "2e-2", "1e-2", "1e-3"]


def sweep(runs: int) -> dict[str, object]:
    """A configuration of that many runs (a multiple of 20): two methods, five fractions, ten experiments at most."""
    experiments = max(1, min(10, runs // 1000))
    seeds = list(range(runs // experiments // 20))
    experiment = {
        **{"dataset": "digits", "model": "fc", "model_settings": {"width": 16, "hidden_layers": 1}, "clients": 2},
        **{"rounds": 2, "batch_size": 100, "learning_rate": 0.1, "evaluate_every": 1, "keep": KEEPS},
        **{"local_epochs": [1, 2], "seeds": seeds, "methods": {"topk": {}, "flare": {}}},
    }
    named = {f"experiment-{number}": experiment for number in range(experiments)}
    return {"wandb": {"mode": "disabled"}, "experiments": named}


def measured(command: list[str], **options: object) -> dict[str, float]:
    """Seconds and MB of a command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    said = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{said}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.perf_counter() - began, "cpu_s": cpu, "peak_mb": used.ru_maxrss / 1024}


def first_job(command: list[str], folder: Path, **options: object) -> dict[str, float]:
    """Seconds until the first job that trains has begun: until its log is there."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **options
    )
    try:
        while process.poll() is None and not any((folder / "results/logs/train").rglob("*.log")):
            time.sleep(0.1)
        took = time.perf_counter() - began
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)}: ended before a job began")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"wall_s": took}


def make_up(content: dict[str, object], folder: Path) -> None:
    """The folder of every run as if it had been carried out: a real one's files, with the run's own settings in them.

    Ends the benchmark if a comparison by content does not take them for finished.
    """
    from flare.config import runs
    from flare.runs.identity import digest_of
    from flare.runs.record import whole_digest
    from flare.runs.train import train
    from flare.tuning.origin import Sweep

    every = runs(content)
    train(every[0], data=folder / "data", output=folder / "real", wandb="disabled")
    rounds = (folder / "real/rounds.csv").read_text().splitlines()
    record = json.loads((folder / "real/run.json").read_text())
    old = ",".join(rounds[1].split(",")[:7])
    for run in every:
        place = folder / "results/runs" / run.folder
        place.mkdir(parents=True)
        named = {name: getattr(run, name) for name in rounds[0].split(",")[:7]}
        new = ",".join(map(str, named.values()))
        lines = [rounds[0], *(new + line.removeprefix(old) for line in rounds[1:]), ""]
        own, settings = "\n".join(lines).encode(), dataclasses.asdict(run)
        (place / "rounds.csv").write_bytes(own)
        made = {"settings": whole_digest(settings), "code": digest_of(run), "rounds": hashlib.sha256(own).hexdigest()}
        found = record | named | {"config": settings, "made_from": record["made_from"] | made}
        (place / "run.json").write_text(json.dumps(found))
    planned = Sweep.of(content | {"results": str(folder / "results"), "data": str(folder / "data")})
    if problem := next(filter(None, map(planned.run, every)), ""):
        raise SystemExit(f"a run that was made up is not finished: {problem}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks" / "planning.json")
    chosen = parser.parse_args()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT), "PATH": path}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        content = sweep(chosen.runs)
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        flare = [sys.executable, "-m", "flare"]
        options = {"cwd": folder, "env": environment}
        subprocess.run([*flare, "fetch", "--dataset", "digits"], check=True, **options)
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--quiet"]
        snakemake += ["--configfile", "config.yaml", "--cores", "1"]
        found = [{"what": "plan: snakemake --dry-run"} | measured([*snakemake, "--dry-run"], **options)]
        found.append({"what": "until the first job"} | first_job(snakemake, folder, **options))
        shutil.rmtree(folder / "results")
        # In a process of its own: what this one has had in memory would count as a command's.
        maker = multiprocessing.get_context("spawn").Process(target=make_up, args=(content, folder))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(maker.exitcode)
        found.append({"what": "plan of what is finished"} | measured([*snakemake, "--dry-run", "tables"], **options))
        keeps, seeds = ",".join(KEEPS), ",".join(map(str, content["experiments"]["experiment-0"]["seeds"]))
        patterns = [
            f"results/runs/{name}/{method}/keep-{{{keeps}}}/epochs-{{1,2}}/seed-{{{seeds}}}"
            for name in content["experiments"]
            for method in ("topk", "flare")
        ]
        command = [*flare, "tabulate", *patterns, "--output", "tables"]
        found.append({"what": "tables: flare tabulate"} | measured(command, **options))
    heads = ["wall_s", "cpu_s", "peak_mb"]
    cells = [[row["what"], *(f"{row[head]:.1f}" if head in row else "" for head in heads)] for row in found]
    report(f"A sweep of {chosen.runs:,} runs", ["", "seconds", "CPU seconds", "peak MB"], cells, found, chosen.output)


if __name__ == "__main__":
    main()
