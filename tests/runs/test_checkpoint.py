"""Interruption: a state resumes bit for bit, a checkpoint is whole or refused, a killed run ends as if never killed."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import multiprocessing
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import ROOT, environment, snakemake_command
from sweeps import outcome, results
from torch import nn

from flare import algorithms, cli, datasets, simulate
from flare.algorithms import ffl
from flare.config import Run, with_defaults
from flare.errors import ConfigError
from flare.runs import checkpoint, identity
from flare.runs.train import train, train_all
from flare.tracking.mirror import Mirror

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
        rounds=60,
        batch_size=20,
        learning_rate=0.05,
        evaluate_every=7,
        staleness=True,
        partition={"scheme": "contiguous", "samples_per_client": 60},
    )
)


def small(method: str, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A run that draws clients, shuffles, drops out and measures staleness: everything that is random or remembered."""
    generator = torch.Generator().manual_seed(5)
    clients = [
        (torch.randn(9, 6, generator=generator), torch.randint(0, 3, (9,), generator=generator)) for _ in range(4)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3))
    arguments: dict[str, Any] = {
        "test": clients[0],
        "method": method,
        "keep": 0.2,
        "rounds": 6,
        "local_epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.1,
        "momentum": 0 if method in ("dgc", "scafcom") else 0.5,
        "available": 3,
        "evaluate_every": 2,
        "seed": 3,
        "shuffle": True,
        "staleness": True,
    }
    return simulate(model, clients, **(arguments | changes))


@pytest.mark.parametrize("method", algorithms.names())
def test_a_run_resumed_after_any_round_ends_with_the_same_bits(method: str) -> None:
    saved: list[bytes] = []

    def save(state: dict[str, Any]) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        saved.append(file.getvalue())

    history, weights = small(method, on_state=save)
    assert len(saved) == 6
    for state in saved:
        resume = torch.load(io.BytesIO(state), weights_only=True)
        rounds: list[int] = []
        again, reached = small(method, resume=resume, on_round=lambda round_, _, rounds=rounds: rounds.append(round_))
        assert rounds == list(range(resume["completed"], 6))
        assert again.to_csv() == history.to_csv() and again.attrs == history.attrs
        assert all(torch.equal(reached[name], weights[name]) for name in weights)


def moving(**changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """FFL on clients that learn one class each: the loss falls, and its keep and its epochs follow."""
    generator = torch.Generator().manual_seed(5)
    clients = [(torch.randn(10, 6, generator=generator) + k, torch.full((10,), k, dtype=torch.long)) for k in range(3)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Linear(6, 3)
    common = {"test": clients[0], "keep": 0.1, "rounds": 8, "local_epochs": 6, "batch_size": 5, "momentum": 0.0}
    return simulate(model, clients, method="ffl", learning_rate=0.3, evaluate_every=1, **common, **changes)


def test_a_budget_that_moves_is_resumed_from_the_first_rounds_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: dict[int, tuple[Any, int]] = {}
    genuine = ffl.METHOD.budget
    assert genuine

    def budget(task: Any, training_loss: Any) -> Any:
        told = genuine(task, training_loss)
        assert budgets.setdefault(task.number, (told.keep, told.local_epochs)) == (told.keep, told.local_epochs)
        return told

    monkeypatch.setattr(ffl, "METHOD", dataclasses.replace(ffl.METHOD, budget=budget))
    saved: list[bytes] = []

    def save(state: dict[str, Any]) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        saved.append(file.getvalue())

    history, weights = moving(on_state=save)
    keeps, epochs = zip(*budgets.values(), strict=True)
    assert len(set(keeps)) == 8 and keeps[-1] > 1.25 * keeps[0] and epochs[0] == 6 > epochs[-1]
    for state in saved:
        again, reached = moving(resume=torch.load(io.BytesIO(state), weights_only=True))
        assert again.to_csv() == history.to_csv() and again.attrs == history.attrs
        assert all(torch.equal(reached[name], weights[name]) for name in weights)


def test_a_state_of_another_method_is_refused() -> None:
    states: list[dict[str, Any]] = []
    small("fedavg", on_state=states.append)
    with pytest.raises(ConfigError, match="resume: a state of another model, method or number of clients"):
        small("topk", resume=states[0])


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """What RUN is when it is never interrupted."""
    folder = tmp_path_factory.mktemp("reference")
    train(RUN, data=data, output=folder, wandb="disabled")
    assert sorted(path.name for path in folder.iterdir()) == ["rounds.csv", "run.json"]
    return outcome(folder)


def told_after(rounds: int) -> checkpoint.Stop:
    """A signal that comes in that round."""

    class Told(checkpoint.Stop):
        def check(self) -> None:
            nonlocal rounds
            rounds -= 1
            if rounds <= 0:
                self.signal = "SIGTERM"
            super().check()

    return Told()


def interrupted(data: Path, folder: Path, rounds: int = 20, run: Run = RUN, **options: Any) -> None:
    with pytest.raises(checkpoint.Interrupted):
        train(run, data=data, output=folder, stop=told_after(rounds), checkpoint_rounds=1, **options)
    assert [path.name for path in folder.iterdir() if path.is_file()] == [checkpoint.NAME]


# Processes forked from one that has imported torch, so that a start takes no seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "flare.cli",
        "flare.runs.train",
        "flare.engine.api",
        "flare.engine.probes.staleness",
        "flare.tuning",
        "flare.datasets.digits",
        "pytest",
    ]
)


def carry_out(data: Path, folder: Path, fault: str | None) -> None:
    """RUN by the command line, with a checkpoint after every round."""
    if fault:  # die in the middle of writing a checkpoint, or before it has its name
        victim, name = (os, "fsync") if fault == "half" else (os, "replace")
        left = random.randint(5, 40)

        def die(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                if fault == "half":
                    os.ftruncate(arguments[0], 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            genuine(*arguments)

        genuine = getattr(victim, name)
        setattr(victim, name, die)
    os.environ["WANDB_MODE"] = "disabled"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        arguments = ["train", *RUN.flags().split(), "--output", str(folder), "--data", str(data)]
        code = cli.main([*arguments, "--checkpoint-seconds", "0"])
    sys.exit(code)


@pytest.mark.timeout(900)  # half a minute where nothing else runs
def test_thirty_kills_change_nothing(data: Path, reference: tuple[bytes, str], tmp_path: Path) -> None:
    draw = random.Random(1)
    kills, codes = 0, []
    folder = tmp_path / "0"
    while kills < 30:
        fault = draw.choice([None, None, None, "half", "unnamed"])
        process = PROCESSES.Process(target=carry_out, args=(data, folder, fault))
        process.start()
        assert process.pid
        if fault is None:
            begun = time.monotonic()
            while not (folder / checkpoint.NAME).exists() and process.is_alive() and time.monotonic() < begun + 60:
                time.sleep(0.002)
            process.join(draw.uniform(0, 0.3))
            if process.is_alive():
                os.kill(process.pid, draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        process.join(60)
        code = process.exitcode
        process.close()
        codes.append(code)
        # A signal that comes before there is a run to save has its usual effect; SIGINT's is 1 here, or 130.
        assert code in (0, 1, 130, checkpoint.RESUMABLE, -signal.SIGKILL, -signal.SIGTERM)
        kills += code != 0
        if code == 0 or kills == 30:
            if code:
                carry = PROCESSES.Process(target=carry_out, args=(data, folder, None))
                carry.start()
                carry.join(60)
                assert carry.exitcode == 0
            assert outcome(folder) == reference
            assert sorted(path.name for path in folder.iterdir()) == ["rounds.csv", "run.json"]
            folder = tmp_path / str(kills)
    assert {checkpoint.RESUMABLE, -signal.SIGKILL} <= set(codes)


def test_a_resumed_run_goes_on_and_says_so(
    data: Path, reference: tuple[bytes, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(data, tmp_path, 20, wandb="disabled")
    state = torch.load(tmp_path / checkpoint.NAME, weights_only=True)["state"]
    assert state["completed"] == 20
    capsys.readouterr()
    train(RUN, data=data, output=tmp_path, wandb="disabled")
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("60 rounds, 3 clients, going on after round 20") and said[1].startswith("round 22/60 ")
    assert outcome(tmp_path) == reference and not (tmp_path / checkpoint.NAME).exists()


@pytest.mark.parametrize("change", ["code", "data", "settings", "torn"])
def test_a_checkpoint_of_something_else_is_set_aside_in_one_line(
    change: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupted(data, tmp_path / "a", wandb="disabled")
    content = (tmp_path / "a" / checkpoint.NAME).read_bytes()
    run, problem = RUN, "not a whole checkpoint"
    if change == "code":
        monkeypatch.setattr(identity, "code_digest", lambda names: "0")
        problem = "made with other code"
    elif change == "data":
        genuine = datasets.read_manifest

        def other(dataset: str, folder: Path) -> dict[str, Any]:
            manifest = genuine(dataset, folder)
            return manifest | {"files": manifest["files"] | {"more.npz": {"sha256": "0"}}}

        monkeypatch.setattr(datasets, "read_manifest", other)
        problem = "made with other data"
    elif change == "settings":
        run, problem = dataclasses.replace(RUN, learning_rate=0.06, rounds=61), "made with other rounds, learning_rate"
    else:
        content = content[: len(content) // 2]
        (tmp_path / "a" / checkpoint.NAME).write_bytes(content)
    capsys.readouterr()
    interrupted_again = told_after(2)
    with pytest.raises(checkpoint.Interrupted):
        train(run, data=data, output=tmp_path / "a", wandb="disabled", stop=interrupted_again)
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/a/checkpoint.pt: {problem}; the run starts from the beginning"
        " (to go on with it, undo the change and rename checkpoint.old.pt to checkpoint.pt)"
    ]
    assert (tmp_path / "a" / checkpoint.OLD).read_bytes() == content
    train(run, data=data, output=tmp_path / "a", wandb="disabled")
    train(run, data=data, output=tmp_path / "b", wandb="disabled")
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert not list((tmp_path / "a").glob("checkpoint*"))


def flipped(content: bytes, bit: int) -> bytes:
    out = bytearray(content)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def test_no_flipped_bit_gives_another_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"completed": 3, "server": torch.randn(500), "history": [{"round": 0, "test_loss": 0.5}]}
    saved = checkpoint.Checkpoint(tmp_path, {"seed": 3}, checkpoint.Stop())
    saved.save(state)
    content = saved.path.read_bytes()
    draw = random.Random(4)
    places = [draw.randrange(8 * len(content)) for _ in range(40)]
    ends = [8 * len(content) - number for number in (1, 8 * 32, 8 * 32 + 1, 8 * 45, 8 * 46)]
    for bit in [0, *places, *ends]:
        saved.path.write_bytes(flipped(content, bit))
        assert saved.load() is None, bit
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "not a whole checkpoint; the run starts from the beginning" in said
    for other in (b"", content[:-1], content + b"\0", content[:-45], bytes(45)):
        saved.path.write_bytes(other)
        assert saved.load() is None and capsys.readouterr().err.count("\n") == 1
    saved.path.write_bytes(content)
    found = saved.load()
    assert found is not None and torch.equal(found["server"], state["server"])


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a checkpoint says, and give it the digest that it then has."""
    found = torch.load(path, weights_only=True)
    change(found)
    with open(path, "wb") as file:
        checkpoint.seal(file, found)


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "more rounds than there are": lambda found: found["state"].update(completed=99),
    "all rounds": lambda found: found["state"].update(completed=60),
    "fewer than none": lambda found: found["state"].update(completed=-5),
    "half a round": lambda found: found["state"].update(completed=20.5),
    "a round less": lambda found: found["state"].update(completed=14),
    "a row lost": lambda found: found["state"]["history"].pop(1),
    "a row that is none": lambda found: found["state"]["history"][0].update(test_loss=float("nan")),
    "bits lost": lambda found: found["state"].update(uplink=0),
    "no server": lambda found: found["state"].pop("server"),
    "another model": lambda found: found["state"].update(server=torch.zeros(7)),
    "other clients": lambda found: found["state"]["memory"].update(accumulator=torch.zeros(2, 1226)),
    "no memory": lambda found: found["state"].update(memory={}),
    "numbers for tensors": lambda found: found["state"].update(server=[0.0]),
    "time below none": lambda found: found.update(wall_seconds=-1.0),
    "no time": lambda found: found.update(wall_seconds=float("nan")),
    "no state": lambda found: found.pop("state"),
    "no key": lambda found: found.pop("key"),
    "files of another run": lambda found: found.update(state={"files": {"run.json": "{}", "rounds.csv": ""}}),
    "files elsewhere": lambda found: found.update(state={"files": {"run.json": "{}", "../x": ""}}),
}


def test_a_checkpoint_that_contradicts_itself_is_set_aside_in_one_line(
    data: Path, reference: tuple[bytes, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(data, tmp_path / "whole", 20, wandb="disabled")
    content = (tmp_path / "whole" / checkpoint.NAME).read_bytes()
    for number, (case, change) in enumerate(FORGED.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / checkpoint.NAME).write_bytes(content)
        reseal(folder / checkpoint.NAME, change)
        capsys.readouterr()
        with pytest.raises(checkpoint.Interrupted):
            train(RUN, data=data, output=folder, wandb="disabled", stop=told_after(1), checkpoint_rounds=1)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "; the run starts from the beginning" in said, (case, said)
        assert torch.load(folder / checkpoint.NAME, weights_only=True)["state"]["completed"] == 1, case
    reseal(tmp_path / "whole" / checkpoint.NAME, lambda found: None)
    capsys.readouterr()
    train(RUN, data=data, output=tmp_path / "whole", wandb="disabled")
    assert "going on after round 20" in capsys.readouterr().out and outcome(tmp_path / "whole") == reference


def test_a_checkpoint_of_another_seed_with_this_ones_key_is_set_aside(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(data, tmp_path, 20, run=dataclasses.replace(RUN, seed=4), wandb="disabled")
    found = torch.load(tmp_path / checkpoint.NAME, weights_only=True)
    found["key"]["seed"] = 3
    torch.save(found, tmp_path / checkpoint.NAME)
    train(dataclasses.replace(RUN, rounds=60), data=data, output=tmp_path / "other", wandb="disabled")
    capsys.readouterr()
    train(RUN, data=data, output=tmp_path, wandb="disabled")
    assert "not a whole checkpoint" in capsys.readouterr().err
    assert outcome(tmp_path) == outcome(tmp_path / "other")


@pytest.mark.parametrize("kind", ["folder", "folders", "pipe"])
def test_what_is_no_file_in_the_place_of_a_checkpoint_costs_no_run(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dataclasses.replace(RUN, rounds=3)
    if kind == "pipe":
        os.mkfifo(tmp_path / checkpoint.NAME)
    else:
        for name in (checkpoint.NAME, checkpoint.OLD)[: 1 + (kind == "folders")]:
            (tmp_path / name).mkdir()
            (tmp_path / name / "mine").write_text("")
    train(run, data=data, output=tmp_path, wandb="disabled", checkpoint_rounds=2)
    assert (tmp_path / "run.json").exists() and "not a whole checkpoint" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("mine"))) == ("folder" in kind) + (kind == "folders")  # nobody's is deleted


def test_a_save_holds_the_state_once_and_costs_little(tmp_path: Path) -> None:
    state = {"completed": 1, "server": torch.zeros(12_000_000)}  # 48 MB
    saved = checkpoint.Checkpoint(tmp_path, {}, checkpoint.Stop())
    saved.save(state)
    tracemalloc.start()
    saved.save(state)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.reset_peak()
    assert checkpoint.is_sealed(saved.path) and tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


# ---- how a run is ended ---------------------------------------------------------------------------------------------

LONG = dataclasses.replace(RUN, rounds=100_000, evaluate_every=100_000)


def started(data: Path, folder: Path, redirect: str = "", before: str = "", run: Run = LONG) -> subprocess.Popen[bytes]:
    """A run by the command line, from a shell; it is past its first round."""
    words = ["train", *run.flags().split(), "--output", str(folder), "--data", str(data), "--wandb", "disabled"]
    command = f"{before} exec {shlex.join([sys.executable, '-m', 'flare', *words, '--checkpoint-seconds', '0'])}"
    process = subprocess.Popen(
        ["bash", "-c", f"{command} {redirect}"],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    begun = time.monotonic()
    while not (folder / checkpoint.NAME).exists() and process.poll() is None and time.monotonic() < begun + 60:
        time.sleep(0.02)
    return process


def unread(data: Path, folder: Path) -> None:
    """A long run by the command line, of which nobody reads what it says."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever these tests themselves were started with
    gone, end = os.pipe()
    os.close(gone)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(end, number)
        setattr(sys, name, os.fdopen(number, "w", closefd=False))
    arguments = ["train", *LONG.flags().split(), "--output", str(folder), "--data", str(data), "--wandb", "disabled"]
    sys.exit(cli.main([*arguments, "--checkpoint-seconds", "0"]))


@pytest.mark.parametrize("number", [*checkpoint._ENDING, *checkpoint._WARNING])
def test_every_way_to_end_a_run_saves_it(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    process = PROCESSES.Process(target=unread, args=(data, tmp_path))
    process.start()
    while not (tmp_path / checkpoint.NAME).exists() and process.is_alive():
        time.sleep(0.01)
    for _ in range(1 + (number in checkpoint._WARNING)):  # these come as often as they like
        os.kill(process.pid or 0, number)
    process.join(60)
    assert process.exitcode == checkpoint.RESUMABLE
    assert checkpoint.is_sealed(tmp_path / checkpoint.NAME)


def test_a_run_that_shall_outlive_its_terminal_does(data: Path, tmp_path: Path) -> None:
    process = started(data, tmp_path / "run", before="trap '' HUP;")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == checkpoint.RESUMABLE


@pytest.mark.parametrize("redirect", [">&- 2>&- <&-", "2>&-"])
def test_closed_streams_train(redirect: str, data: Path, tmp_path: Path, reference: tuple[bytes, str]) -> None:
    process = started(data, tmp_path, redirect, run=RUN)
    assert process.wait(60) == 0
    assert outcome(tmp_path) == reference


def test_no_checkpoint_before_its_time_nor_where_it_cannot_be_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saves: list[Path] = []
    genuine = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == checkpoint.NAME:
            saves.append(target)
            raise OSError("disk full")
        genuine(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", replace)
    train(RUN, data=data, output=tmp_path / "a", wandb="disabled")
    assert not saves
    train(RUN, data=data, output=tmp_path / "b", wandb="disabled", checkpoint_rounds=25)
    assert len(saves) == 2 and capsys.readouterr().err.count("not saved: disk full") == 2
    assert outcome(tmp_path / "b") == outcome(tmp_path / "a")


def test_a_large_state_is_saved_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint.os, "fsync", lambda _: clock.__setitem__(0, clock[0] + 5))  # a save takes 10 s
    saved = checkpoint.Checkpoint(tmp_path, {}, checkpoint.Stop(), seconds=100)
    times = []
    for second in range(2000):
        clock[0] = max(clock[0], float(second))
        before = clock[0]
        saved.offer({"completed": second})
        times += [before] if clock[0] > before else []
    assert times == [100, 610, 1120, 1630]  # 2 % of the time, and not before 100 s


def test_two_processes_do_not_carry_out_one_run_at_once(
    data: Path, reference: tuple[bytes, str], tmp_path: Path
) -> None:
    both = [PROCESSES.Process(target=carry_out, args=(data, tmp_path, None)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert outcome(tmp_path) == reference
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rounds.csv", "run.json"]


def test_a_job_that_is_told_to_end_before_it_begins_leaves_a_finished_run_alone(data: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, rounds=3)
    train(run, data=data, output=tmp_path, wandb="disabled")
    before = outcome(tmp_path)
    stop = checkpoint.Stop()
    stop.signal = "SIGTERM"
    with pytest.raises(checkpoint.Interrupted):
        train(run, data=data, output=tmp_path, wandb="disabled", stop=stop)
    assert outcome(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rounds.csv", "run.json"]


def test_many_runs_in_one_process_are_the_same_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [dataclasses.replace(RUN, seed=seed, rounds=10) for seed in (1, 2, 3)]
    alone = []
    for run in runs:
        train(run, data=data, output=tmp_path / "alone" / f"seed-{run.seed}", wandb="disabled")
        alone.append(outcome(tmp_path / "alone" / f"seed-{run.seed}"))
    together = tmp_path / "a cell"
    folders = [together / f"seed-{run.seed}" for run in runs]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    names = [field.name for field in dataclasses.fields(Run) if field.name != "seed"]
    command = ["train", *runs[0].flags(*names).split(), "--data", str(data), "--output", *map(str, folders)]

    # The third is interrupted, and what the job made is deleted, as Snakemake does.
    genuine = checkpoint.Stop.check

    def check(stop: checkpoint.Stop) -> None:
        if folders[2].exists():
            stop.signal = "SIGTERM"
        genuine(stop)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Stop, "check", check)
        assert cli.main(command) == checkpoint.RESUMABLE
    for folder in folders[:2]:
        (folder / "rounds.csv").unlink()
        (folder / "run.json").unlink()
    begun: list[Path] = []
    monkeypatch.setattr(
        Mirror,
        "__init__",
        lambda self, run, folder, *_, **__: begun.append(folder) or setattr(self, "_run", 0),
    )
    monkeypatch.setattr(Mirror, "_known", 0, raising=False)
    assert cli.main(command) == 0
    assert begun == [folders[2]]  # the others were finished
    assert [outcome(folder) for folder in folders] == alone
    assert not list(together.glob("*/checkpoint*"))


def test_one_run_that_fails_does_not_stop_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [(dataclasses.replace(RUN, seed=seed, rounds=3), tmp_path / f"seed-{seed}") for seed in (1, 2, 3)]
    (tmp_path / "seed-2").write_text("in the way")
    assert not train_all(runs, data=data, wandb="disabled")
    assert (tmp_path / "seed-1/run.json").exists() and (tmp_path / "seed-3/run.json").exists()
    assert "e/flare/keep-5e-2/epochs-1/seed-2: failed" in capsys.readouterr().err
    (tmp_path / "seed-2").unlink()
    assert train_all(runs, data=data, wandb="disabled") and not list(tmp_path.glob("*/checkpoint*"))


def logged(file: Path) -> list[bytes]:
    """The records of a .wandb file: after 7 bytes, LevelDB's log of blocks of 32 kB with chunks of 7 + length bytes."""
    content, place, records, partial = file.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        partial += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(partial)
            partial = b""
    return records


def test_a_resumed_run_has_one_mirror_with_every_row_once(data: Path, tmp_path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    interrupted(data, tmp_path, 20, wandb="offline")
    first = next(tmp_path.glob("wandb/offline-run-*/*.wandb")).name
    train(RUN, data=data, output=tmp_path, wandb="offline")
    (mirror,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert mirror.name == first  # the run's id
    items = [item for content in logged(mirror) for item in Record.FromString(content).history.item]
    rounds = [int(item.value_json) for item in items if "round" in (item.key, *item.nested_key)]
    assert rounds == [*range(0, 60, 7), 59]


SWEEP = {
    "wandb": {"mode": "disabled"},
    "checkpoint": {"seconds": 0.1},
    "experiments": {
        "small": {
            **{key: getattr(RUN, key) for key in ("dataset", "model", "model_settings", "clients", "partition")},
            **{key: getattr(RUN, key) for key in ("batch_size", "learning_rate", "evaluate_every")},
            "rounds": 500,
            "keep": ["5e-2"],
            "seeds": [1, 2],
            "methods": {"fedavg": {}, "flare": {}},
        }
    },
}


def start(folder: Path, *arguments: str, **content: Any) -> subprocess.Popen[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(SWEEP | content))
    given = ["--configfile", str(folder / "config.yaml"), "--cores", "2", "results/tables/runs.csv", *arguments]
    return subprocess.Popen(
        snakemake_command(folder, *given),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def recorded(folder: Path) -> dict[Path, int]:
    """The run.json that Snakemake knows to be complete, and when they were made."""
    known = {path.name for path in folder.glob(".snakemake/metadata/*")}
    open_ = {path.name for path in folder.glob(".snakemake/incomplete/*")}
    out = {}
    for path in folder.glob("results/runs/**/run.json"):
        name = base64.urlsafe_b64encode(str(path.relative_to(folder)).encode()).decode()
        if name in known and name not in open_:
            out[path] = path.stat().st_mtime_ns
    return out


def saved_since(begun: float, folder: Path) -> bool:
    """Whether a run of the sweep has saved itself since then."""
    for path in folder.glob("results/runs/**/checkpoint.pt"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > begun:
                return True
    return False


@pytest.mark.workflow
@pytest.mark.timeout(900)  # a minute and a half where nothing else runs
def test_a_sweep_that_is_killed_ten_times_ends_as_if_never_killed(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed 0"
    whole.mkdir()
    killed.mkdir()
    process = start(whole, runs_per_job=2)  # two runs in a job, and none interrupted
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    draw = random.Random(2)
    kills, going_on = 0, 0
    finished: dict[Path, int] = {}
    while True:
        begun = time.time()
        process = start(killed, "--quiet")
        if kills < 10 and kills % 3:  # in the middle of training, however slow the machine
            while process.poll() is None and not saved_since(begun, killed) and time.time() < begun + 100:
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 1))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=draw.uniform(3, 8) if kills < 10 else 400)
        told = None
        if process.poll() is None:
            # The sweep alone, and its jobs live on for a while; the sweep and its jobs, at once or as a terminal does.
            told = (None, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kills % 4]
            with contextlib.suppress(ProcessLookupError):
                if told is None:
                    process.kill()
                else:
                    os.killpg(process.pid, told)
            process.wait(120)
            kills += 1
        now = recorded(killed)
        assert finished.items() <= now.items()  # what was done is left alone
        finished = now
        going_on += bool(list(killed.glob("results/runs/**/checkpoint.pt")))
        if process.returncode == 0:
            assert results(killed) == results(whole) and len(results(whole)) == 2 * 4 + 8
            assert not list(killed.glob("results/runs/**/checkpoint*"))
            if kills >= 10:
                break
            killed, finished = tmp_path / f"killed {kills}", {}
            killed.mkdir()
        elif told in (signal.SIGTERM, signal.SIGINT):  # as Snakemake ends, or Python before Snakemake has begun
            assert process.returncode in (1, -told)
        else:
            assert process.returncode == -signal.SIGKILL
    assert going_on
