"""The workflow, run for real by Snakemake on the digits data set."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from flare import config, figures

ROOT = Path(__file__).parents[1]
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

pytestmark = pytest.mark.workflow


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


def planned(folder: Path, content: dict) -> list[str]:
    """The jobs that a dry run plans for the configuration, as rule or rule:run folder."""
    done = snakemake(folder, "--configfile", write(folder, content, "changed.yaml"), "--dry-run")
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    jobs = re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    output: (\S+?),?(?: .*)?\n", text, re.MULTILINE)
    return [f"{rule}:{Path(out).parent.relative_to('results/runs')}" if rule == "train" else rule for rule, out in jobs]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep, made with two cores in a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("two cores")
    done = snakemake(folder, "--cores", "2", "--configfile", write(folder, CONFIG))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Content of all that must not depend on how a sweep was run."""
    files = [
        *folder.glob("results/runs/**/rounds.csv"),
        *folder.glob("results/tables/**/*.*"),
        *folder.glob("results/figures/**/*.*"),
    ]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name != "costs.csv"}


def test_everything_asked_for_is_made(sweep: Path) -> None:
    runs = config.runs(CONFIG)
    for run in runs:
        folder = sweep / "results" / "runs" / run.folder
        rounds = pd.read_csv(folder / "rounds.csv", dtype={"keep": str})
        assert list(rounds["round"]) == [0, 2, 4, 5]
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished" and record["seed"] == run.seed and record["method"] == run.method
        assert record["final_accuracy"] == rounds["test_accuracy"].iloc[-1]
        assert record["config"]["method_settings"] == dict(run.method_settings)
        assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert len(pd.read_csv(sweep / "results/tables/runs.csv")) == len(runs) == 4
    assert len(pd.read_csv(sweep / "results/tables/rounds.csv")) == 4 * len(runs)
    for name in figures.names():
        for suffix, magic in ((".pdf", b"%PDF"), (".png", b"\x89PNG")):
            assert (sweep / f"results/figures/small/{name}{suffix}").read_bytes().startswith(magic)


def test_one_core_gives_the_same_bytes(sweep: Path, tmp_path: Path) -> None:
    done = snakemake(tmp_path, "--cores", "1", "--configfile", write(tmp_path, CONFIG))
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(sweep)
    assert len(results(sweep)) == 4 + 6 + 2 * len(figures.names())


def test_nothing_is_left_to_do(sweep: Path) -> None:
    done = snakemake(sweep, "--cores", "2", "--configfile", str(sweep / "config.yaml"))
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_the_command_of_a_job_works_by_hand(sweep: Path, tmp_path: Path) -> None:
    run = config.runs(CONFIG)[-1]
    command = f"{sys.executable} -m flare train {run.flags()} --output out --wandb disabled"
    command += f" --data {shlex.quote(str(sweep / 'data'))}"
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (tmp_path / "out/rounds.csv").read_bytes() == (
        sweep / "results/runs" / run.folder / "rounds.csv"
    ).read_bytes()


def test_a_changed_setting_plans_only_the_runs_it_touches(sweep: Path) -> None:
    content = copy.deepcopy(CONFIG)
    assert planned(sweep, content) == []
    content["experiments"]["small"]["methods"]["flare"] = {"tau": 0.06}
    jobs = planned(sweep, content)
    assert sorted(job for job in jobs if job.startswith("train")) == [
        f"train:small/flare/keep-5e-2/epochs-1/seed-{seed}" for seed in (1, 2)
    ]
    assert set(jobs) - {job for job in jobs if job.startswith("train")} == {"tabulate", "plot"}


def test_a_new_seed_plans_only_its_runs(sweep: Path) -> None:
    content = copy.deepcopy(CONFIG)
    content["experiments"]["small"]["seeds"].append(7)
    assert {job for job in planned(sweep, content) if job.startswith("train")} == {
        "train:small/fedavg/keep-dense/epochs-1/seed-7",
        "train:small/flare/keep-5e-2/epochs-1/seed-7",
    }


def test_what_does_not_decide_a_result_plans_nothing(sweep: Path) -> None:
    content = copy.deepcopy(CONFIG) | {
        "wandb": {"mode": "disabled", "project": "other"},
        "threads": 2,
        "device": "cuda",
    }
    assert planned(sweep, content) == []


def test_a_mistake_ends_before_any_job_with_one_line(sweep: Path) -> None:
    content = copy.deepcopy(CONFIG)
    content["experiments"]["small"]["methods"]["flair"] = {}
    done = snakemake(sweep, "--cores", "1", "--configfile", write(sweep, content, "wrong.yaml"))
    assert done.returncode == 2
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if line.strip() and not line.startswith("Using workflow specific profile")] == [
        "flare: config: experiments.small.methods: 'flair' is unknown (did you mean 'flare'?); "
        "one of ef21, fedavg, fedprox, ffl, flare, topk"
    ]
