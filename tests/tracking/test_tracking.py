"""The mirror in W&B: the real SDK against a small server that can be made to fail; runs, sync, artifacts, report."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest
import yaml
from commands import ROOT, snakemake
from synthetic import write_run
from wandb_server import Server

from flare import cli, tracking
from flare.analysis import tables
from flare.config import Run, with_defaults
from flare.runs import train
from flare.tracking import report as wandb_report
from flare.tracking import sdk
from flare.tracking import sync as wandb_sync
from flare.tracking.mirror import FILES, Mirror

KEY = "0123456789abcdef0123456789abcdef01234567"
RUN = with_defaults(
    Run(
        experiment="e",
        dataset="digits",
        model="fc",
        model_settings={"width": 16, "hidden_layers": 1},
        method="flare",
        keep="5e-2",
        local_epochs=1,
        seed=3,
        clients=3,
        rounds=3,
        batch_size=20,
        learning_rate=0.1,
        evaluate_every=1,
        partition={"scheme": "contiguous", "samples_per_client": 40},
    )
)


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run without a mirror."""
    return train.train(RUN, data=data, output=tmp_path_factory.mktemp("plain"), wandb="disabled")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A W&B server that the SDK uses, with a key; afterwards no process of the SDK is left."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(sdk, "INIT_SECONDS", 3.0)
    monkeypatch.setattr(sdk, "FINISH_SECONDS", 3.0)
    forget()
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server
        forget()
    assert server.unknown == []


def forget() -> None:
    """The SDK forgets its server and the key."""
    sdk.abandon()
    from wandb.sdk.lib import wbauth

    wbauth.unauthenticate_session(update_settings=False)


def leaks(folder: Path) -> list[Path]:
    """The files that hold the key."""
    return [file for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_an_online_run_arrives_whole(
    data: Path, plain: dict[str, Any], server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = []

    def commands(_: object) -> None:
        lines.extend(file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline"))

    folder = tmp_path / "results" / "run"
    summary = train.train(RUN, data=data, output=folder, wandb="online", on_evaluate=commands)
    assert summary["result_hash"] == plain["result_hash"]
    ((name, run),) = server.runs.items()
    rounds = pd.read_csv(folder / "rounds.csv")
    assert [row["round"] for row in run["history"]] == [0, 1, 2] and run["complete"] and run["exit_code"] == 0
    for column in ("uplink_bits", "downlink_bits", "train_loss", "test_loss", "test_accuracy"):
        assert [row[column] for row in run["history"]] == pytest.approx(list(rounds[column]))
    for key in ("status", "final_accuracy", "best_accuracy", "compression", "result_hash"):
        assert run["summary"][key] == summary[key]
    # All metrics are drawn by round. The SDK numbers fields: 1 name, 2 pattern, 5 which metric, from 1 on, is its step.
    metrics = run["config"]["_wandb"]["m"]
    assert [metrics[metric["5"] - 1]["1"] for metric in metrics if metric.get("2") == "*"] == ["round"]
    config = {key: value for key, value in run["config"].items() if key != "_wandb"}
    assert config == {key: value for key, value in dataclasses.asdict(RUN).items() if value != {}}
    asked = {key: run["upsert"][key] for key in ("displayName", "groupName", "jobType", "project")}
    assert asked["displayName"] == RUN.folder and asked["groupName"] == RUN.cell and asked["jobType"] == "train"
    assert run["events"] == []  # system metrics, which nobody asked for
    (artifact,) = server.artifacts
    assert artifact["committed"] and artifact["run"] == name and artifact["type"] == "run"
    assert artifact["name"] == "e.flare.keep-5e-2.epochs-1.seed-3"
    for file in ("rounds.csv", "run.json"):
        assert artifact["files"][file] == (folder / file).read_bytes()
    assert list(wandb_sync.unsent(tmp_path / "results")) == []
    said = capfd.readouterr()
    assert said.err == "" and KEY not in said.out and leaks(tmp_path) == []
    assert any(b"wandb-core" in line for line in lines) and not any(KEY.encode() in line for line in lines)
    # All that the SDK wrote is in the run's folder.
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("down", 3),
        ("500", 3),
        ("silent", 3),
        ("gone in mid-run", 5),
        ("down in mid-run", 5),
        ("500 in mid-run", 5),
        ("403 in mid-run", 2),
        ("slow", 4),
        ("no key", 0),
        ("no proper key", 0),
    ],
)
def test_a_broken_server_costs_no_more_than_the_limits(
    fault: str,
    seconds: float,
    data: Path,
    plain: dict[str, Any],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if fault == "down":
        server.__exit__()
    elif fault == "slow":
        server.delay = 0.2
        monkeypatch.setattr(sdk, "INIT_SECONDS", 20.0)
        monkeypatch.setattr(sdk, "FINISH_SECONDS", 20.0)
    elif "key" in fault:
        monkeypatch.setenv("WANDB_API_KEY", "" if fault == "no key" else "short")
    elif fault == "silent" or "gone" in fault:
        server.silent = True
    elif fault != "down in mid-run":
        server.status = int(fault[:3])
    server.after = 3 if "mid-run" in fault else 0
    sdk.load()  # importing it is no part of the wait

    def die(row: dict[str, Any]) -> None:
        if fault == "down in mid-run" and row["round"] == 1:
            server.__exit__()

    folder = tmp_path / "results/runs/e/flare/keep-5e-2/epochs-1/seed-3"
    begun = time.monotonic()
    summary = train.train(RUN, data=data, output=folder, wandb="online", on_evaluate=die)
    assert time.monotonic() - begun < seconds + 30  # the SDK alone: 100 s at the start, for ever at the end
    assert summary["result_hash"] == plain["result_hash"]
    # Nothing of the wait is in the run's own time: a server that is down, silent or broken is waited for 3 s and more.
    assert summary["wall_seconds"] < plain["wall_seconds"] + 2
    assert leaks(tmp_path) == []
    said = capfd.readouterr().err.splitlines()
    if fault == "slow":
        assert said == [] and len(next(iter(server.runs.values()))["history"]) == 3
        return
    assert len(said) == 1 and said[0].startswith("W&B: ") and KEY not in said[0]
    assert ("in the run's folder" if "mid-run" in fault else "kept offline") in said[0]
    # What the server lacks is here, and is sent once it is well again.
    forget()
    (record,) = wandb_sync.unsent(tmp_path / "results")
    assert record.stat().st_size > 1000
    if fault in ("silent", "gone in mid-run"):
        with Server() as well:
            monkeypatch.setenv("WANDB_BASE_URL", well.url)
            assert wandb_sync.sync(tmp_path / "results")
            (run,) = well.runs.values()
            assert [row["round"] for row in run["history"]] == [0, 1, 2]
            assert run["summary"]["result_hash"] == plain["result_hash"] and well.artifacts[0]["committed"]


def test_what_was_logged_outlives_the_kill_of_all_processes(tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from pathlib import Path
from flare.tracking.mirror import Mirror
from flare.config import Run
mirror = Mirror(Run(**{dataclasses.asdict(RUN)!r}), Path({str(tmp_path)!r}), "offline")
mirror.log({{"round": 0, "train_loss": 0.123456789}})
time.sleep(3)
os.killpg(0, signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, start_new_session=True, timeout=120)
    assert killed.returncode < 0
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"0.123456789" in record.read_bytes()


def test_a_resumed_online_run_has_every_row_once(server: Server, tmp_path: Path) -> None:
    rows = [{"round": number, "train_loss": 1.0 / (number + 1)} for number in range(5)]
    mirror = Mirror(RUN, tmp_path, "online")
    for row in rows[:2]:
        mirror.log(row)
    mirror.finish({}, exit_code=75)
    mirror = Mirror(RUN, tmp_path, "online", resumed=True)
    for row in rows:
        mirror.log(row)
    for file in FILES:
        (tmp_path / file).write_text("of the finished run\n")
    mirror.finish({"status": "finished"})
    (run,) = server.runs.values()
    assert [row["round"] for row in run["history"]] == [0, 1, 2, 3, 4]
    assert run["summary"]["status"] == "finished" and run["exit_code"] == 0 and len(server.artifacts) == 1


def test_a_run_carried_out_again_is_another_run(
    data: Path, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for mode in ("online", "online", "offline"):  # the server would append rows to those of the run that it knows
        train.train(RUN, data=data, output=tmp_path / "results/runs" / RUN.folder, wandb=mode)
    assert wandb_sync.sync(tmp_path / "results")
    assert capfd.readouterr().err == "" and len({name.partition("-")[0] for name in server.runs}) == 1
    assert [name.partition("-")[2] for name in server.runs] == ["", "2", "3"]
    assert all([row["round"] for row in run["history"]] == [0, 1, 2] for run in server.runs.values())


def test_system_metrics_arrive_where_they_are_asked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLARE_SYSTEM_METRICS", "true")
    monkeypatch.setenv("WANDB__STATS_SAMPLING_INTERVAL", "0.1")
    mirror = Mirror(RUN, tmp_path, "online")
    mirror.log({"round": 0})
    time.sleep(1)
    mirror.finish({}, exit_code=1)
    (run,) = server.runs.values()
    assert any(key.startswith("system.") for row in run["events"] for key in row)


def sweep(data: Path, results: Path) -> list[Path]:
    """The folders of two offline runs, and one that is not finished; tables and a figure."""
    folders = []
    for seed in (1, 2, 3):
        run = dataclasses.replace(RUN, seed=seed)
        folders.append(results / "runs" / run.folder)
        train.train(run, data=data, output=folders[-1], wandb="offline")
    (folders[-1] / "run.json").unlink()
    for name, text in (
        (
            "tables/runs.csv",
            "experiment,dataset,model,method,keep,local_epochs,seed,tuned\ne,digits,fc,flare,5e-2,1,1,True\n",
        ),
        ("tables/summary.md", "| method | accuracy |\n| --- | --- |\n| flare | 91.5 |\n"),
        ("figures/e/curve.png", "a picture"),
    ):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(text)
    return folders


def test_sync_sends_everything_once(
    data: Path,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results"
    one, two, three = sweep(data, results)
    command = ["sync_wandb", "--results", str(results)]
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    for limit in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
        monkeypatch.setenv(f"WANDB__{limit}_RETRY_MAX", "1")

    # The server takes one run's beginning, and refuses what comes then.
    server.status, server.after = 403, 3
    capfd.readouterr()
    assert cli.main(command) == 1
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("W&B: 2 of 2 runs not sent: ") and "tries them again" in said.err and KEY not in said.err

    server.status = 200
    assert cli.main(command) == 0
    assert capfd.readouterr() == ("W&B: 2 runs sent\nW&B: 3 tables and figures sent\n", "")
    runs = [run for run in server.runs.values() if run["upsert"].get("jobType") == "train"]
    # If the first attempt came as far as a run's rows, these are left as they are, and the run is sent as another one.
    left = [run for run in runs if not run["complete"]]
    runs = [run for run in runs if run["complete"]]
    assert all(len(run["history"]) <= 3 for run in left)
    assert sorted(run["config"]["seed"] for run in runs) == [1, 2] and len(server.runs) == 3 + len(left)
    for run in runs:
        assert len(run["history"]) == 3 and run["summary"]["status"] == "finished" and run["exit_code"] == 0
        assert run["upsert"]["groupName"] == RUN.cell and run["upsert"]["project"] == "project"
    (assembled,) = [name for name, run in server.runs.items() if run["upsert"].get("jobType") == "assemble"]
    (tables,) = [artifact for artifact in server.artifacts if artifact["type"] == "sweep"]
    assert tables["run"] == assembled and tables["committed"]
    assert tables["files"]["figures/e/curve.png"] == b"a picture"
    assert {a["files"]["run.json"] for a in server.artifacts if a["type"] == "run" and a["committed"]} == {
        (folder / "run.json").read_bytes() for folder in (one, two)
    }

    known = len(server.calls)
    assert cli.main(command) == 0
    assert capfd.readouterr().out == "W&B: no run to send\nW&B: no table or figure to send\n"
    assert len(server.calls) == known

    # One run is carried out again, another one finishes, a table changes: these are sent.
    train.train(dataclasses.replace(RUN, seed=1), data=data, output=one, wandb="offline")
    train.train(RUN, data=data, output=three, wandb="offline")
    (results / "tables/summary.md").write_text("another\n")
    capfd.readouterr()
    assert cli.main(command) == 0
    assert capfd.readouterr().out == "W&B: 2 runs sent\nW&B: 3 tables and figures sent\n"
    trained = [run for run in server.runs.values() if run["upsert"].get("jobType") == "train"]
    assert sorted(run["config"]["seed"] for run in trained if run["complete"]) == [1, 1, 2, 3]
    assert all(len(run["history"]) in (0, 3) for run in trained)
    assert leaks(tmp_path) == [] and not list(results.rglob("*debug-cli*"))

    # Where nothing answers, one line says so and the rest of the batches is left for the next time.
    sdk.mark(next(one.glob("wandb/*run-*/*.wandb"))).unlink()
    monkeypatch.setattr(wandb_sync, "BATCH", 1)
    server.__exit__()
    assert cli.main(command) == 1
    assert capfd.readouterr().err.count("\n") == 1
    monkeypatch.setenv("WANDB_API_KEY", "")
    forget()
    assert cli.main(command) == 2
    assert capfd.readouterr().err == "flare: W&B: no API key; set WANDB_API_KEY, or say wandb login\n"


def test_rows_that_arrived_are_not_sent_to_the_same_run_again(
    data: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    one, two, _ = sweep(data, results)
    for limit in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
        monkeypatch.setenv(f"WANDB__{limit}_RETRY_MAX", "1")
    command = ["sync_wandb", "--results", str(results)]
    with monkeypatch.context() as patch:  # rows and summary arrive, the artifact of the files does not
        patch.setattr(Server, "_CreateArtifact", None)
        assert cli.main(command) == 1
    server.unknown.clear()
    first = [run for run in server.runs.values() if len(run["history"]) == 3]
    assert len(first) == 2 and not server.artifacts
    capfd.readouterr()
    assert cli.main(command) == 0
    assert capfd.readouterr().out == "W&B: 2 runs sent\nW&B: 3 tables and figures sent\n"
    trained = [run for run in server.runs.values() if run["upsert"].get("jobType") == "train"]
    assert [len(run["history"]) for run in trained] == [3] * 4
    assert {a["files"]["run.json"] for a in server.artifacts if a["type"] == "run" and a["committed"]} == {
        (folder / "run.json").read_bytes() for folder in (one, two)
    }


def test_the_report_is_saved_or_specified(
    server: Server, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    command = ["wandb_report", "--results", str(results)]
    monkeypatch.setattr(wandb_report, "SECONDS", 200.0)
    assert cli.main(command) == 2 and "runs.csv" in capfd.readouterr().err
    made = [
        write_run(results, experiment=name, local_epochs=epochs, change={"tuned": name == "e"})
        for name, epochs in (("e", 1), ("f", 1), ("f", 4))
    ]
    tables.tabulate(made, results / "tables")
    (results / "tables/summary.md").write_text("| method | accuracy |\n| --- | --- |\n| flare | 91.5 |\n")
    assert cli.main(command) == 0
    said = capfd.readouterr()
    assert said.err == "" and said.out.startswith(f"W&B: {server.url}/me/flare-sweeps/reports/FLARE-Sweeps:-e,-f--")
    (report,) = server.reports
    assert report["entityName"] == "me" and report["projectName"] == "flare-sweeps"
    sent = json.loads(report["spec"])
    assert cli.main(command) == 0
    assert [view["id"] for view in server.reports] == [None, "VmlldzoxMjM="]  # the same one again

    server.status = 500
    monkeypatch.setattr(wandb_report, "SECONDS", 3.0)
    capfd.readouterr()
    assert cli.main(command) == 1
    assert capfd.readouterr().err.count("\n") == 1

    monkeypatch.setenv("WANDB_API_KEY", "")
    forget()
    assert cli.main(command) == 0
    assert capfd.readouterr().out == f"W&B: no API key; what the report would be is in {results}/wandb_report.json\n"
    for specification in (sent, json.loads((results / "wandb_report.json").read_text())):
        grids = [block for block in specification["blocks"] if block["type"] == "panel-grid"]
        assert len(grids) == 3  # curves of e and f, importance of e
        views = [panel["viewType"] for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]
        assert views.count("Run History Line Plot") == 6 and views.count("Parameter Importance") == 1
        grouped = [[key["name"] for key in grid["metadata"]["runSets"][0]["grouping"]] for grid in grids]
        cell = ["method.value", "keep.value"]
        assert grouped == [cell, [], [*cell, "local_epochs.value"]]  # a mean is over seeds alone
        text = json.dumps(specification)
        assert "uplink_bits" in text and "91.5" in text
    assert leaks(tmp_path) == []


@pytest.mark.workflow
def test_the_rules_train_nothing(server: Server, data: Path, tmp_path: Path) -> None:
    experiment = {
        key: value
        for key, value in dataclasses.asdict(RUN).items()
        if key in ("dataset", "model", "model_settings", "clients", "rounds", "batch_size", "learning_rate")
    }
    experiment |= {"keep": ["5e-2"], "seeds": [1, 2], "methods": {"flare": {}}}
    content = {"wandb": {"project": "p", "system_metrics": True}, "experiments": {"e": experiment}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    sweep(data, tmp_path / "results")
    sweep_of = functools.partial(snakemake, tmp_path, "--configfile", str(tmp_path / "config.yaml"), "--cores", "1")
    refused = sweep_of("sync_wandb", WANDB_API_KEY="")
    assert refused.returncode == 2
    assert [line for line in refused.stderr.splitlines() if line.startswith("flare: ")] == [
        "flare: W&B: no API key; set WANDB_API_KEY, or say wandb login"
    ]
    done = sweep_of("sync_wandb")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "W&B: 2 runs sent" in said and "rule train" not in said and len(server.runs) == 3
    done = sweep_of("wandb_report", WANDB_API_KEY="")
    assert done.returncode == 0 and (tmp_path / "results/wandb_report.json").exists()
    assert leaks(tmp_path) == []


@pytest.mark.parametrize("fault", ["import", "init", "log", "finish"])
def test_nothing_that_wandb_does_stops_a_run(
    fault: str,
    data: Path,
    plain: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = MagicMock()
    if fault == "init":
        broken.init.side_effect = RuntimeError("no init")
    else:
        getattr(broken.init.return_value, fault).side_effect = RuntimeError(f"no {fault}")
    monkeypatch.setitem(sys.modules, "wandb", None if fault == "import" else broken)
    summary = train.train(RUN, data=data, output=tmp_path / "run", wandb="offline")
    assert summary["result_hash"] == plain["result_hash"]
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and warned.startswith("W&B: ") and "goes on without it" in warned


def test_a_job_has_a_process_of_the_sdk_of_its_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a notebook with a run of its own, say, from which the sweep was started."""
    monkeypatch.setenv("WANDB_SERVICE", "1-1-unix-/nowhere")
    monkeypatch.setenv("WANDB_MODE", "offline")
    names = [field.name for field in dataclasses.fields(RUN)]
    command = ["train", *RUN.flags(*names).split(), "--data", str(data), "--output", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "flare", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "W&B" not in done.stderr, done.stderr
    (log,) = (tmp_path / "run").glob("wandb/offline-run-*/logs/debug-core.log")
    assert log.resolve().is_relative_to(tmp_path / "run")


def test_a_log_that_finds_the_disk_full_says_nothing_on_the_terminal(tmp_path: Path) -> None:
    """The SDK's own log, with its tracebacks, of which Python would print another one each."""
    program = """
import logging, sys
from pathlib import Path
from flare.tracking.mirror import Mirror
from test_tracking import RUN

mirror = Mirror(RUN, Path(sys.argv[1]), "offline")
handlers = [handler for handler in logging.getLogger("wandb").handlers if hasattr(handler, "stream")]
assert handlers
for handler in handlers:
    handler.setStream(open("/dev/full", "w"))
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("wandb").exception("a traceback")
mirror.finish({}, exit_code=1)
"""
    path = os.pathsep.join([str(ROOT), *map(str, (ROOT / "tests/tracking", ROOT / "tests/support"))])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": path},
    )
    said = "W&B: [Errno 28] No space left on device; the run goes on without it\n"
    assert done.returncode == 0 and done.stderr in ("", said)


def test_a_mirrored_run_has_an_id_of_its_settings(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train.train(RUN, data=data, output=tmp_path / name, wandb="offline")
    ids = [next((tmp_path / name).glob("wandb/*/run-*.wandb")).name for name in ("one", "two")]
    assert ids[0] == ids[1]
    assert tracking.MODES == ("offline", "online", "disabled")
