"""What a sweep will cost: counted exactly where it can be, measured by the real engine where not."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import snakemake
from sweeps import write

from flare import algorithms, cli, config
from flare.algorithms import Method
from flare.config import Run
from flare.errors import DataError
from flare.planning import count, measure, plan
from flare.planning.count import Workload
from flare.runs.train import train
from flare.settings import setting

EXPERIMENT = {
    **{"dataset": "digits", "model": "fc", "model_settings": {"width": 16, "hidden_layers": 2}, "clients": 4},
    **{"available": 3, "rounds": 7, "local_epochs": [1, 2], "batch_size": 20, "learning_rate": 0.1, "momentum": 0.5},
    **{"partition": {"scheme": "contiguous", "samples_per_client": 50}, "evaluate_every": 4, "keep": ["5e-2", "0.5"]},
    **{"seeds": [1, 2], "methods": {"fedavg": {}, "flare": {"tau": 0.01}, "ef21": {}}},
}


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Seconds that are easy to add up, except where a test measures."""
    if "measured" not in request.node.name:
        monkeypatch.setattr(measure, "step_seconds", lambda workload, device: (3.0, 0.5))
        monkeypatch.setattr(measure, "message_seconds", lambda workload, method, keep, device: (10.0, 7.0))
        monkeypatch.setattr(measure, "evaluation_seconds", lambda workload, device: 0.25)
        monkeypatch.setattr(measure, "start_seconds", lambda dataset, data, device: 1000.0)


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
    changes |= {"momentum": 0} if method in ("dgc", "scafcom") else {}
    [run] = config.runs({"experiments": {"e": EXPERIMENT | changes}})
    train(run, data=data, output=tmp_path, wandb="disabled")
    sent = json.loads((tmp_path / "run.json").read_text())["uplink_bits"]
    # What a code of gaps costs depends on where they are.
    assert cost(data, **changes)["uplink_bits"] == (pytest.approx(sent, rel=0.01) if method == "stc" else sent)


def test_the_trials_of_a_study_are_counted(data: Path) -> None:
    tuned = {"methods": {"flare": {"tau": {"log": [0.001, 0.1]}}}, "keep": ["0.5"], "local_epochs": [1]}
    tuned["tuning"] = {"batches": 2, "trials": 3, "seeds": [11, 12]}
    assert cost(data, **tuned)["runs"] == 2 + 2 * 3 * 2


def test_memory_grows_with_what_a_run_keeps(data: Path) -> None:
    one = {"keep": ["0.5"], "seeds": [1], "local_epochs": [1], "model_settings": {"width": 512, "hidden_layers": 2}}
    weights = 64 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    dense, memory = (cost(data, methods={name: {}}, **one)["memory_bytes"] for name in ("fedavg", "topk"))
    assert memory - dense == 4 * 4 * weights  # an accumulator of float32 for each of four clients
    assert dense > count.BASE_BYTES + 6 * 4 * weights


def test_samples_of_a_client(data: Path, tmp_path: Path) -> None:
    run = Run("e", "digits", "fc", "fedavg", "dense", 1, 1, clients=4, rounds=1, batch_size=1, learning_rate=1.0)
    assert count.samples(run, data) == ([375] * 4, 297)  # 1,500 images among four
    with pytest.raises(DataError, match="python -m flare fetch --dataset digits"):
        count.samples(run, tmp_path)
    here = Run(
        **(run.__dict__ | {"dataset": "mnist", "partition": {"scheme": "contiguous", "samples_per_client": 600}})
    )
    assert count.samples(here, tmp_path) == ([600] * 4, 10_000)


def test_measured_seconds_are_those_of_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    sizes = {"width": 200, "hidden_layers": 3}
    changes = {"model_settings": sizes, "seeds": [1], "local_epochs": [4], "keep": ["5e-2"], "methods": {"topk": {}}}

    def took(rounds: int) -> float:
        [run] = config.runs({"experiments": {"e": EXPERIMENT | changes | {"rounds": rounds}}})
        began = time.process_time()  # not of the clock, as the machine may be busy
        train(run, data=data, output=tmp_path / str(rounds), wandb="disabled")
        return time.process_time() - began

    def expected(rounds: int) -> float:
        table = plan.plan({"experiments": {"e": EXPERIMENT | changes | {"rounds": rounds}}}, data)
        return float(table["hours"].iloc[-1]) * 3600

    took(2)  # what is loaded once is no part of a round
    assert measure.start_seconds("digits", data, "cpu") > 0.5  # Python and torch alone
    ratios = []
    for _ in range(6):  # another program may slow either down, but not every time
        for function in vars(measure).values():
            if hasattr(function, "cache_clear") and function is not measure.start_seconds:
                function.cache_clear()
        ratios.append((expected(60) - expected(10)) / (took(60) - took(10)))
        if 1 / 3 < ratios[-1] < 3:
            return
    pytest.fail(f"expected seconds over those taken: {ratios}")


def test_what_is_measured_is_the_engine_of_the_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    genuine = measure.simulate

    def simulate(*given: Any, **options: Any) -> Any:
        asked.append((options["together"], options["tf32"]))
        return genuine(*given, **options)

    monkeypatch.setattr(measure, "simulate", simulate)
    cost(data, seeds=[1], local_epochs=[1], keep=["0.5"], methods={"topk": {}}, engine="together", tf32=True)
    cost(data, seeds=[1], local_epochs=[1], keep=["0.5"], methods={"topk": {}})
    assert set(asked) == {(True, True), (None, False)}


@dataclass(frozen=True)
class Settings:
    """Of a method that pulls, whose settings have names of their own."""

    grip: float = setting(0.5, low=0, doc="strength of the pull")
    held: int | str = setting(2, low=0, words=("all",), doc="first local steps that are pulled")


def anchor(start: Any, state: Any, task: Any) -> Any:
    """A pull that takes 5 ms of the processor's time a step."""

    def add(gradient: Any, weights: Any, step: int) -> None:
        began = time.process_time()
        while time.process_time() - began < 0.005:
            pass

    return (None if task.settings.held == "all" else task.settings.held, add) if task.settings.grip else None


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> Callable[[Method], None]:
    """Makes a method known under the name anchor."""

    def know(made: Method) -> None:
        module = types.ModuleType("flare.algorithms.anchor")
        module.METHOD = made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(algorithms, "names", lambda: ["anchor", "fedavg", "topk"])

    return know


PULLED = Method(
    **{"message": algorithms.error_feedback, "settings": Settings, "state": ("accumulator",), "pull": anchor},
    **{"strength": "grip", "pull_steps": "held"},
)


@pytest.mark.parametrize(("settings", "pulls"), [({}, 2), ({"held": "all"}, 3), ({"held": 0}, 0), ({"grip": 0}, 0)])
def test_a_pulled_method_of_another_name_is_priced_by_what_it_says(
    settings: dict[str, Any], pulls: int, data: Path, method: Callable[[Method], None]
) -> None:
    method(PULLED)
    row = cost(data, methods={"anchor": settings}, keep=["0.5"], seeds=[1], local_epochs=[1])
    # As in test_seconds_by_hand: 21 messages, each of 3 steps, the first two of them pulled if nothing else is said.
    assert row["hours"] * 3600 == pytest.approx(1000 + 21 * (3 * 3 + 50 * 0.5 + 10 + pulls * 7) + 3 * 297 * 0.25)


def test_a_pull_of_another_name_is_measured(method: Callable[[Method], None], monkeypatch: pytest.MonkeyPatch) -> None:
    method(PULLED)
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    sizes = {"width": 16, "hidden_layers": 1}
    run = Run("e", "digits", "fc", "anchor", "0.5", 1, 1, 4, 1, 20, 0.1, model_settings=sizes)
    message, pulled = measure.message_seconds(Workload.of(run), "anchor", "0.5", "cpu")
    assert pulled == pytest.approx(0.005, rel=0.3) and message < 0.003


def test_a_budget_that_changes_by_the_round_is_counted(data: Path, method: Callable[[Method], None]) -> None:
    def warm_up(task: Any, training_loss: Any) -> Any:
        return task if task.number else dataclasses.replace(task, keep=1.0, local_epochs=2)

    method(dataclasses.replace(PULLED, pull=None, budget=warm_up))
    small = {"keep": ["5e-2"], "seeds": [1], "local_epochs": [1], "methods": {"topk": {}}}
    plain, whole = cost(data, **small), cost(data, **small | {"keep": ["1"]})
    warmed = cost(data, **small | {"methods": {"anchor": {}}})
    assert warmed["uplink_bits"] == (6 * plain["uplink_bits"] + whole["uplink_bits"]) / 7
    assert warmed["client_steps"] == plain["client_steps"] * 8 / 7
    # It does not look at the loss, so no round passes over the training data for it.
    assert warmed["memory_bytes"] == plain["memory_bytes"]


def test_a_schedule_of_the_learning_rate_costs_nothing(data: Path) -> None:
    assert cost(data, schedule={"name": "cosine", "warmup_rounds": 2}) == cost(data)


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
