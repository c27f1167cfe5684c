"""A sweep on a real Slurm of two nodes: a job is requeued, a node is lost, and the results are those of one process."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT, environment, snakemake_command
from sweeps import outcome

from flare import config
from flare.runs.train import train
from flare.tuning.propose import write_proposals
from flare.tuning.single import tune
from flare.tuning.study import fill, studies
from flare.tuning.trials import read_values

CLUSTER = ROOT / "tests/support/slurm/cluster"
SWEEP: dict[str, Any] = {
    "wandb": {"mode": "disabled"},
    "checkpoint": {"seconds": 0.2},
    "experiments": {
        "small": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 64, "hidden_layers": 2},
            "clients": 4,
            "partition": {"scheme": "contiguous", "samples_per_client": 100},
            "rounds": 600,
            "evaluate_every": 100,
            "batch_size": 20,
            "learning_rate": 0.02,
            "keep": ["5e-2"],
            "seeds": [1, 2],
            "methods": {"topk": {}, "flare": {}},
        }
    },
}

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
    if os.geteuid() != 0 or missing:
        reason = (
            f"no Slurm can be started: {', '.join(missing) or 'root'} missing; apt install slurm-wlm munge, as root"
        )
        if os.environ.get("CI"):
            pytest.fail(f"in CI this must run: {reason}")
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([CLUSTER, "up", folder], check=True, timeout=60)
    yield folder
    subprocess.run([CLUSTER, "down", folder], check=False, timeout=60)


def slurm(cluster: Path, *command: str) -> str:
    environment = os.environ | {"SLURM_CONF": str(cluster / "slurm.conf")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=20, check=True).stdout


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.2)
    raise TimeoutError(what)


def requeue(cluster: Path, job: str) -> None:
    """Have Slurm end a job and start it again, as after a preemption."""
    slurm(cluster, "scontrol", "requeue", job)
    wait_for(lambda: slurm(cluster, "squeue", "--noheader", "--job", job, "--format=%T").strip() == "PENDING")
    time.sleep(2)  # what it ended may not start again within the second: "credential revoked"
    slurm(cluster, "scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm itself waits for two minutes


def kill_node(cluster: Path, name: str) -> None:
    """End the node's daemon and whatever runs on it, as if its power had failed."""
    os.kill(int((cluster / f"run/slurmd.{name}.pid").read_text()), signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            if {f"SLURMD_NODENAME={name}".encode(), f"SLURM_CONF={cluster}/slurm.conf".encode()} <= set(variables):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue


def sweep_command(cluster: Path, folder: Path, target: str) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment, that makes the target of the folder's config.yaml on the cluster."""
    command = [*snakemake_command(folder, target), "--configfile", str(folder / "config.yaml")]
    command += ["--profile", str(ROOT / "profiles/slurm"), "--latency-wait", "20"]
    command += ["--slurm-no-account", "--slurm-status-command", "squeue"]
    command += ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
    command += ["--default-resources", "slurm_partition=tests"]
    return command, environment(SLURM_CONF=str(cluster / "slurm.conf"))


def array_task(trial: Path) -> str:
    """The task of an array of jobs that carries out a trial, once that has saved itself; else nothing."""
    for process in Path("/proc").glob("[0-9]*") if (trial / "checkpoint.pt").exists() else ():
        try:
            if bytes(trial.relative_to(trial.parents[8])) in (process / "cmdline").read_bytes().split(b"\0"):
                pairs = (process / "environ").read_text().split("\0")
                variables = dict(pair.split("=", 1) for pair in pairs if pair)
                return f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
        except (OSError, KeyError, ValueError):
            continue
    return ""


@pytest.mark.timeout(900)  # 200 s on two busy cores
def test_a_study_in_arrays_with_a_requeued_trial_ends_as_on_one_machine(cluster: Path, tmp_path: Path) -> None:
    content = copy.deepcopy(SWEEP)
    small = content["experiments"]["small"]
    small |= {"rounds": 300, "seeds": [1], "methods": {"flare": {"tau": {"log": [1e-3, 1]}}}}
    small["tuning"] = {"seeds": [11], "batches": 2, "trials": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    (study,) = studies(content)
    there, here = tmp_path / "results/tuning" / study.name, tmp_path / "here"
    log = tmp_path / "said"
    command, environment = sweep_command(cluster, tmp_path, "results/tables/runs.csv")
    command += ["--slurm-array-jobs", "all", "--slurm-array-limit", "50"]
    refused = subprocess.run([*command, "--jobs", "3"], capture_output=True, text=True, env=environment, timeout=60)
    assert refused.returncode == 2 and not (tmp_path / "results").exists()
    assert "flare: --jobs: 3 is not allowed with --slurm-array-jobs; at least 4, the jobs that train" in refused.stderr
    with log.open("w") as said:
        sweep = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
    try:
        (second,) = study.runs(1)
        task = wait_for(lambda: array_task(there / study.place(second)), 200)
        requeue(cluster, task)
        code = sweep.wait(600)
    finally:
        sweep.kill()
        sweep.wait(10)
    assert code == 0 and "Error in rule" not in log.read_text(), log.read_text()
    # One array a batch, of all its trials; no trial was submitted otherwise, or again.
    assert re.findall(r"task IDs are (\S+)\.", log.read_text()) == ["1-3", "1-3"]
    log_of_second = tmp_path / f"results/logs/tune_train/{study.name}" / f"{study.place(second)}.log"
    assert ", going on after round" in log_of_second.read_text()
    for batch in range(study.batches):
        write_proposals(study, here, batch)
        for number in study.batch(batch):
            values = read_values(here / f"batch-{batch}/proposals.json", study.name, number)
            for run in study.runs(number, values):
                train(run, data=tmp_path / "data", output=here / study.place(run), wandb="disabled")
    tune(study, here)
    for name in ("trials.csv", "best.yaml", "batch-1/proposals.json"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    # And the reported run with what the study found.
    (run,) = config.runs(content)
    run = fill(run, read_values(here / "best.yaml", study.name))
    train(run, data=tmp_path / "data", output=tmp_path / "alone", wandb="disabled")
    assert outcome(tmp_path / "results/runs" / run.folder) == outcome(tmp_path / "alone")


@pytest.mark.timeout(900)  # 200 s on two busy cores
def test_a_sweep_over_two_nodes_survives_a_requeue_and_a_lost_node(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SWEEP))
    log = tmp_path / "said"
    command, environment = sweep_command(cluster, tmp_path, "results/tables/runs.csv")
    with log.open("w") as said:
        sweep = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
    try:
        runs = {run.folder: run for run in config.runs(SWEEP)}
        folders = {name: tmp_path / "results/runs" / name for name in runs}

        def running() -> dict[str, tuple[str, str]]:
            """Job and node of each run, once all are running and have saved themselves."""
            out = {}
            for line in slurm(cluster, "squeue", "--noheader", "--states=RUNNING", "--format=%i %N").splitlines():
                job, node = line.split()
                logs = list(tmp_path.glob(f".snakemake/slurm_logs/*/*/{job}.log"))
                for name in runs:
                    place = "_".join(part.split("-", 1)[-1] for part in name.split("/"))
                    if logs and logs[0].parent.name.startswith(place):
                        out[name] = (job, node)
            assert sweep.poll() is None, log.read_text()
            return out if all((folders[name] / "checkpoint.pt").exists() for name in runs) else {}

        placed = wait_for(running, 200)
        assert {node for _, node in placed.values()} == {"one", "two"}
        requeued = next(name for name, (_, node) in placed.items() if node == "one")
        lost = next(name for name, (_, node) in placed.items() if node == "two")
        requeue(cluster, placed[requeued][0])
        kill_node(cluster, "two")
        code = sweep.wait(600)
    finally:
        sweep.kill()
        sweep.wait(10)
    assert code == 0, log.read_text()
    for name, run in runs.items():
        alone = tmp_path / "alone" / name
        train(run, data=tmp_path / "data", output=alone, wandb="disabled")
        assert outcome(folders[name]) == outcome(alone)
        assert not list(folders[name].glob("checkpoint*"))
    for name in (requeued, lost):
        assert ", going on after round" in (tmp_path / f"results/logs/train/{name}.log").read_text()
