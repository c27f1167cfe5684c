"""A sweep within a limit of time: against stand-ins for Snakemake, and once for real."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import ROOT
from sweeps import CONFIG, outcome, write

from flare import cli, config, deadline
from flare.runs import checkpoint
from flare.runs.train import train

# Stands in for Snakemake: says when it is told to stop, and how. Its job would go on for ever.
STAND_IN = """
import pathlib, signal, subprocess, sys, time
folder, ends = pathlib.Path(sys.argv[1]), sys.argv[2]
job = subprocess.Popen([sys.executable, "-c", {job!r}, str(folder)])
signal.signal(signal.SIGTERM, lambda *_: (folder / "asked").touch())
signal.signal(signal.SIGINT, lambda *_: None)
(folder / "begun").touch()
while job.poll() is None and ends == "job":
    time.sleep(0.02)
sys.exit({{"job": 1, "well": 0, "badly": 3}}[ends])
"""
JOB = """
import pathlib, signal, sys, time
def saved(*_):
    (pathlib.Path(sys.argv[1]) / "saved").touch()
    sys.exit(75)
signal.signal(signal.SIGINT, saved)
time.sleep(100)
"""


def stand_in(folder: Path, ends: str) -> list[str]:
    job = JOB if ends == "job" else "pass"
    return [sys.executable, "-c", STAND_IN.format(job=job), str(folder), ends]


def finished(folder: Path, seconds: float) -> None:
    """A run that took so long."""
    path = folder / "results/runs/e/topk/keep-5e-2/epochs-1/seed-1"
    path.mkdir(parents=True)
    (path / "run.json").write_text(f'{{"wall_seconds": {seconds}}}')


@pytest.mark.parametrize("seconds", [None, 50.0])
def test_no_run_begins_that_would_not_end_and_what_runs_is_saved(
    seconds: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deadline, "SAVE", 2.0)
    monkeypatch.setattr(deadline, "START", 1.0)
    if seconds:
        finished(tmp_path, seconds)
    content = {"results": str(tmp_path / "results")}
    begun = time.monotonic()
    assert not deadline.sweep(content, Path("c.yaml"), 12 / 60, program=stand_in(tmp_path, "job"))
    assert 9 < time.monotonic() - begun < 40
    assert (tmp_path / "asked").exists() and (tmp_path / "saved").exists()
    said = capfd.readouterr().err.splitlines()
    assert said == [
        "flare: no run would end in time any more; what runs goes on",
        "flare: the time is over; what runs is saved",
    ]
    # With a run of 50 s known, at once; else only for a job's start.
    first = (tmp_path / "asked").stat().st_mtime - (tmp_path / "begun").stat().st_mtime
    assert first < 7 if seconds else first > 5


def test_a_sweep_that_ends_in_time_is_done_and_a_failure_is_one(tmp_path: Path) -> None:
    content = {"results": str(tmp_path / "results")}
    assert deadline.sweep(content, Path("c.yaml"), 5, program=stand_in(tmp_path, "well"))
    with pytest.raises(subprocess.CalledProcessError):
        deadline.sweep(content, Path("c.yaml"), 5, program=stand_in(tmp_path, "badly"))


def test_the_slowest_run_counts_and_what_is_no_record_does_not(tmp_path: Path) -> None:
    known: dict[Path, float] = {}
    assert deadline.longest(tmp_path / "results", known) == 0
    finished(tmp_path, 7.5)
    trial = tmp_path / "results/tuning/e/topk/keep-5e-2/epochs-1/batch-0/trial-0/seed-1"
    trial.mkdir(parents=True)
    (trial / "run.json").write_text("{")
    assert deadline.longest(tmp_path / "results", known) == 7.5
    (trial / "run.json").write_text('{"wall_seconds": 9}')
    assert deadline.longest(tmp_path / "results", known) == 9 and len(known) == 2


@pytest.mark.workflow
def test_a_sweep_in_pieces_ends_with_the_same_bits_and_packs_what_there_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deadline, "SAVE", 5.0)
    monkeypatch.chdir(tmp_path)
    own = {**CONFIG["experiments"]["small"], "rounds": 600, "evaluate_every": 100, "staleness": False}
    own |= {"methods": {"topk": {}}, "seeds": [1, 2, 3]}
    content: dict[str, Any] = {
        "wandb": {"mode": "disabled"},
        "results": "results",
        "data": str(data),
        "experiments": {"e": own},
    }
    file = write(tmp_path, content)
    flags = f"--snakefile {ROOT}/Snakefile --cores 1 --quiet -- tables"
    command = ["sweep", file, "--snakemake", flags, "--pack", str(tmp_path / "records/r")]
    with pytest.raises(SystemExit):
        cli.main([*command, "--deadline", "0"])
    assert "--deadline: '0' is not allowed; a number of minutes, above 0" in capfd.readouterr().err
    codes: list[int] = []
    while not codes or (codes[-1] and len(codes) < 5):
        # The last piece has all the time it needs; before that, runs are finished one by one, or saved.
        codes.append(cli.main([*command, "--deadline", ["0.2", "0.35", "30"][min(len(codes), 2)]]))
    assert codes[-1] == 0 and len(codes) > 1 and set(codes[:-1]) == {checkpoint.RESUMABLE}, codes
    for run in config.runs(content):
        train(run, data=data, output=tmp_path / "plain" / run.folder, wandb="disabled")
        assert outcome(tmp_path / "results/runs" / run.folder) == outcome(tmp_path / "plain" / run.folder)
    assert len(pd.read_csv(tmp_path / "records/r/runs.csv.xz")) == 3
    assert not list((tmp_path / "results").rglob("checkpoint*"))
