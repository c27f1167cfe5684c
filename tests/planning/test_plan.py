"""What a sweep will cost: counted exactly where it can be, measured by the real engine where not."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeps import snakemake, write

from flare import algorithms, cli, config, datasets
from flare.config import Run
from flare.errors import DataError
from flare.planning import plan
from flare.runs.train import train

EXPERIMENT = {
    **{"dataset": "digits", "model": "fc", "model_settings": {"width": 16, "hidden_layers": 2}, "clients": 4},
    **{"available": 3, "rounds": 7, "local_epochs": [1, 2], "batch_size": 20, "learning_rate": 0.1, "momentum": 0.5},
    **{"partition": {"scheme": "contiguous", "samples_per_client": 50}, "evaluate_every": 4, "keep": ["5e-2", "0.5"]},
    **{"seeds": [1, 2], "methods": {"fedavg": {}, "flare": {"tau": 0.01}, "ef21": {}}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    datasets.fetch("digits", folder)
    return folder


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Seconds that are easy to add up, except where a test measures."""
    if "measured" not in request.node.name:
        monkeypatch.setattr(plan, "_step_seconds", lambda kind, device: (3.0, 0.5))
        monkeypatch.setattr(plan, "_message_seconds", lambda kind, method, keep, device: (10.0, 7.0))
        monkeypatch.setattr(plan, "_evaluation_seconds", lambda kind, device: 0.25)
        monkeypatch.setattr(plan, "_start_seconds", lambda dataset, data, device: 1000.0)


def cost(data: Path, **changes: Any) -> dict[str, Any]:
    """The row of the only experiment."""
    table = plan.plan({"experiments": {"e": EXPERIMENT | changes}}, data)
    assert list(table["experiment"]) == ["e", "total"]
    assert (table.iloc[0, 1:] == table.iloc[1, 1:]).all()
    row: dict[str, Any] = table.iloc[0].to_dict()
    return row


def test_counts_by_hand(data: Path) -> None:
    row = cost(data)
    # Two seeds of: dense once, two methods at two keeps, each with E = 1 and E = 2.
    assert row["runs"] == 2 * 2 * (1 + 2 + 2) == len(config.runs({"experiments": {"e": EXPERIMENT}}))
    # A client's 50 samples are 3 batches of 20, 20, 10; 7 rounds of 3 clients.
    assert row["client_steps"] == 2 * 5 * (1 + 2) * 7 * 3 * 3
    # 64-16-16-10. Forward: a multiplication and an addition per weight. Backward: as many for the weights, and for
    # the inputs of all layers but the first. Evaluations after rounds 0, 4 and 6, of 297 test images each.
    forward = 2 * (64 * 16 + 16 * 16 + 16 * 10)
    training = 2 * forward + 2 * (16 * 16 + 16 * 10)
    trained = 2 * 5 * (1 + 2) * 7 * 3 * 50
    assert row["operations"] == trained * training + 2 * 2 * 5 * 3 * 297 * forward


def test_seconds_by_hand(data: Path) -> None:
    methods = {"flare": {"tau": 0.1, "pull_steps": 2}}
    row = cost(data, methods=methods, keep=["0.5"], seeds=[1], local_epochs=[1])
    # Start; 21 messages, each of 3 steps with 50 samples, two of them pulled; 3 evaluations of 297 images.
    assert row["hours"] * 3600 == pytest.approx(1000 + 21 * (3 * 3 + 50 * 0.5 + 10 + 2 * 7) + 3 * 297 * 0.25)
    row = cost(data, methods={"ffl": {}}, keep=["0.5"], seeds=[1], local_epochs=[1])
    # FFL looks at the 200 training images of the four clients in every round.
    assert row["hours"] * 3600 == pytest.approx(1000 + 21 * (3 * 3 + 50 * 0.5 + 10) + (3 * 297 + 7 * 200) * 0.25)


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("method", sorted(set(algorithms.names()) - {"ffl"}))
def test_uplink_is_what_a_run_sends(method: str, fidelity: str, data: Path, tmp_path: Path) -> None:
    changes = {"methods": {method: {}}, "keep": ["5e-2"], "seeds": [1], "local_epochs": [1], "fidelity": fidelity}
    [run] = config.runs({"experiments": {"e": EXPERIMENT | changes}})
    train(run, data=data, output=tmp_path, wandb="disabled")
    sent = json.loads((tmp_path / "run.json").read_text())["uplink_bits"]
    assert cost(data, **changes)["uplink_bits"] == sent


def test_the_trials_of_a_study_are_counted(data: Path) -> None:
    tuned = {"methods": {"flare": {"tau": {"log": [0.001, 0.1]}}}, "keep": ["0.5"], "local_epochs": [1]}
    tuned["tuning"] = {"batches": 2, "trials": 3, "seeds": [11, 12]}
    assert cost(data, **tuned)["runs"] == 2 + 2 * 3 * 2


def test_memory_grows_with_what_a_run_keeps(data: Path) -> None:
    one = {"keep": ["0.5"], "seeds": [1], "local_epochs": [1], "model_settings": {"width": 512, "hidden_layers": 2}}
    weights = 64 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    dense, memory = (cost(data, methods={name: {}}, **one)["memory_bytes"] for name in ("fedavg", "topk"))
    assert memory - dense == 4 * 4 * weights  # an accumulator of float32 for each of four clients
    assert dense > plan._BASE + 6 * 4 * weights


def test_samples_of_a_client(data: Path, tmp_path: Path) -> None:
    run = Run("e", "digits", "fc", "fedavg", "dense", 1, 1, clients=4, rounds=1, batch_size=1, learning_rate=1.0)
    assert plan._samples(run, data) == ([375] * 4, 297)  # 1,500 images among four
    with pytest.raises(DataError, match="python -m flare fetch --dataset digits"):
        plan._samples(run, tmp_path)
    here = Run(
        **(run.__dict__ | {"dataset": "mnist", "partition": {"scheme": "contiguous", "samples_per_client": 600}})
    )
    assert plan._samples(here, tmp_path) == ([600] * 4, 10_000)


def test_measured_seconds_are_those_of_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_SECONDS", 0.1)
    sizes = {"width": 200, "hidden_layers": 3}
    changes = {"model_settings": sizes, "rounds": 60, "seeds": [1], "local_epochs": [4], "keep": ["5e-2"]}
    table = plan.plan({"experiments": {"e": EXPERIMENT | changes | {"methods": {"topk": {}}}}}, data)
    [run] = config.runs({"experiments": {"e": EXPERIMENT | changes | {"methods": {"topk": {}}}}})
    began = time.process_time()  # not of the clock, as the machine may be busy
    train(run, data=data, output=tmp_path, wandb="disabled")
    took = time.process_time() - began
    start = plan._start_seconds("digits", data, "cpu")
    assert start > 0.5  # Python and torch alone
    expected = table["hours"].iloc[-1] * 3600 - start
    assert took / 3 < expected < 3 * took


def test_what_is_measured_is_the_engine_of_the_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    genuine = plan.simulate

    def simulate(*given: Any, **options: Any) -> Any:
        asked.append((options["together"], options["tf32"]))
        return genuine(*given, **options)

    monkeypatch.setattr(plan, "simulate", simulate)
    cost(data, seeds=[1], local_epochs=[1], keep=["0.5"], methods={"topk": {}}, engine="together", tf32=True)
    cost(data, seeds=[1], local_epochs=[1], keep=["0.5"], methods={"topk": {}})
    assert set(asked) == {(True, True), (None, False)}


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"experiments": {"one": EXPERIMENT, "two": EXPERIMENT}}))
    assert cli.main(["plan", "--config", str(file), "--data", str(data), "--output", str(tmp_path / "plan.csv")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[0] == "experiment" and printed[3].split()[:2] == ["total", "40"]
    table = pd.read_csv(tmp_path / "plan.csv")
    assert tuple(table.columns) == plan.COLUMNS and list(table["runs"]) == [20, 20, 40]
    assert cli.main(["plan", "--config", str(tmp_path / "none.yaml")]) == 2


@pytest.mark.workflow
def test_the_rule_plans_the_configuration_as_it_is_now(tmp_path: Path) -> None:
    # All 1,500 images among four clients: that takes the data set, which is fetched.
    one = EXPERIMENT | {"methods": {"fedavg": {}}, "partition": {"scheme": "contiguous"}}
    small = {"experiments": {"one": one}, "data": str(tmp_path)}
    command = ["plan", "--cores", "1", "--configfile", write(tmp_path, small)]
    done = snakemake(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    for experiment in ("one", "total"):
        [cells] = [line.split() for line in done.stdout.splitlines() if re.match(rf"{experiment} +4 +2,394 ", line)]
        assert cells[-1] == "0%"  # two seeds x (1 + 2) epochs x 7 rounds x 3 clients x 19 steps, all measured
    table = pd.read_csv(tmp_path / "results/tables/plan.csv")
    assert list(table["experiment"]) == ["one", "total"] and (table["hours"] > 0).all()
    again = snakemake(tmp_path, *command, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
    write(tmp_path, {"experiments": {"one": one | {"seeds": [1]}}, "data": str(tmp_path)})
    assert re.search(r"^plan +1$", snakemake(tmp_path, *command, "--dry-run").stdout, re.MULTILINE)
