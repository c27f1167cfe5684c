"""The state of a sweep, from files as the engine and Snakemake leave them."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from synthetic import vouch
from synthetic import write_run as write_synthetic

from flare import cli, status
from flare.config import runs
from flare.runs.identity import digest_of
from flare.runs.provenance import dataset_digest

KEEPS = ["1e-2", "1e-3"]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {
        "results": str(tmp_path),
        "experiments": {
            "fashion-fc": {
                "dataset": "fashion_mnist",
                "model": "fc",
                "clients": 10,
                "rounds": 100,
                "local_epochs": [1, 4],
                "batch_size": 10,
                "learning_rate": 0.1,
                "keep": KEEPS,
                "seeds": [1, 2],
                "methods": {"flare": {}},
            }
        },
    }


def write_run(config: dict[str, Any], **which: Any) -> None:
    """Write the files of one run of the configuration, whose run.json tells the run's own settings."""
    which = {"local_epochs": 1, **which}
    identity = {key: value for key, value in which.items() if key != "diverged_round"}
    run = next(run for run in runs(config) if all(getattr(run, key) == value for key, value in identity.items()))
    folder = write_synthetic(Path(config["results"]), **which, change={"config": dataclasses.asdict(run)})
    data = dataset_digest(run.dataset, Path("data")) or "d"
    vouch(folder, code=digest_of(run), data=data)


def log(results: Path, folder: str, text: str, seeds: str = "") -> None:
    path = results / "logs/train" / Path(folder).parent / f"{seeds or Path(folder).name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_state_is_told_from_the_files(config: dict[str, Any], tmp_path: Path) -> None:
    cells = {
        (run.keep, run.local_epochs, run.seed): run.folder
        for run in sorted(runs(config), key=lambda run: (run.keep, run.local_epochs, run.seed))
    }
    kinds = ["finished", "diverged", "running", "killed", "failed", "wrong", "saved", "waiting"]
    names = dict(zip(kinds, cells.values(), strict=True))
    write_run(config, keep="1e-2", seed=1)
    write_run(config, keep="1e-2", seed=2, diverged_round=26)
    begun = "{}: 100 rounds, 10 clients\nround  11/100  loss 1  accuracy 0.1\nround  21/100  loss 1  accuracy 0.2\n"
    for name in ("running", "killed", "failed", "saved"):
        (tmp_path / "runs" / names[name]).mkdir(parents=True)
        log(tmp_path, names[name], begun.format(names[name]))
    with open(tmp_path / "logs/train" / f"{names['failed']}.log", "a") as file:
        file.write("Traceback (most recent call last):\n  File\nMemoryError: no more\n")
    with open(tmp_path / "logs/train" / f"{names['saved']}.log", "a") as file:
        file.write("flare: SIGTERM: saved; the same command goes on from there\n")
    log(tmp_path, names["wrong"], "flare: device: 'cuda' is not here; torch sees no GPU, use cpu\n")

    handle = os.open(tmp_path / "runs" / names["running"], os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        found = {state.run.folder: (state.state, state.rounds) for state in status.states(config)}
        said = status.show(config).splitlines()
    finally:
        os.close(handle)
    assert {name: found[folder] for name, folder in names.items()} == {
        "finished": ("finished", 100),
        "diverged": ("diverged", 26),
        "running": ("running", 21),
        "killed": ("interrupted", 21),
        "failed": ("failed", 21),
        "wrong": ("failed", 0),
        "saved": ("interrupted", 21),
        "waiting": ("waiting", 0),
    }
    # A diverged run is over. Rounds count by their local epochs: E = 1 has keys 1e-2 and 1e-3, seeds 1 and 2.
    epochs = {folder: key[1] for key, folder in cells.items()}
    done = sum(epochs[names[name]] * rounds for name, rounds in {"finished": 100, "diverged": 100}.items())
    done += sum(21 * epochs[names[name]] for name in ("running", "killed", "failed", "saved"))
    assert said[0] == (
        "8 runs: 1 finished, 1 running, 1 diverged, 2 failed, 2 interrupted, 1 waiting;"
        f" {100 * done // (4 * 100 + 4 * 400)} % of the rounds done"
    )
    assert said[1] == f"  fashion-fc: {said[0]}"
    assert f"running      {names['running']}  round 21/100" in said
    assert f"diverged     {names['diverged']}  after 26 rounds" in said
    assert f"failed       {names['failed']}  MemoryError: no more" in said
    assert len(said) == 2 + 6


def test_the_log_of_a_job_of_several_runs_is_told_apart(config: dict[str, Any], tmp_path: Path) -> None:
    one, two = "fashion-fc/flare/keep-1e-2/epochs-1/seed-1", "fashion-fc/flare/keep-1e-2/epochs-1/seed-2"
    text = f"{one}: 100 rounds, 10 clients\nround  11/100  loss 1\nround  31/100  loss 1\n"
    failure = f"{one}: failed\nTraceback (most recent call last):\nValueError: bad\n"
    log(tmp_path, one, f"{text}{failure}{two}: 100 rounds, 10 clients\nround  51/100  loss 1\n", "seed-1-2")
    found = {state.run.folder: state for state in status.states(config)}
    assert (found[one].state, found[one].rounds, found[one].why) == ("failed", 31, "ValueError: bad")
    assert (found[two].state, found[two].rounds) == ("interrupted", 51)
    # While the first one is carried out, the other one has not begun; it never does where the job ends.
    log(tmp_path, one, text, "seed-1-2")
    found = {state.run.folder: state for state in status.states(config)}
    assert (found[one].state, found[two].state, found[two].rounds) == ("interrupted", "waiting", 0)
    log(tmp_path, one, f"{text}Traceback (most recent call last):\nOSError: no more space\n", "seed-1-2")
    found = {state.run.folder: state for state in status.states(config)}
    assert [(found[run].state, found[run].rounds) for run in (one, two)] == [("failed", 31), ("failed", 0)]


def test_pace_and_time_left_are_of_what_was_done_since(config: dict[str, Any], tmp_path: Path) -> None:
    write_run(config, keep="1e-2", seed=1)
    progress = status.Follow(config)
    assert "no round finished yet" in progress.line(progress._began + 10)
    write_run(config, keep="1e-2", seed=2)
    # 100 rounds of the 2,000 in 50 s; 1,800 are left: 900 s.
    assert progress.line(progress._began + 50) == (
        "8 runs: 2 finished, 6 waiting; 10 % of the rounds done; 2 rounds/s, about 15 min left"
    )
    for keep in KEEPS:
        for epochs in (1, 4):
            for seed in (1, 2):
                write_run(config, keep=keep, local_epochs=epochs, seed=seed)
    assert progress.line() == "8 runs: 8 finished; 100 % of the rounds done"


def test_trials_are_part_of_the_work(config: dict[str, Any], tmp_path: Path) -> None:
    experiment = config["experiments"]["fashion-fc"]
    experiment |= {"keep": ["1e-2"], "local_epochs": [1], "methods": {"flare": {"tau": {"log": [1e-3, 1]}}, "topk": {}}}
    experiment["tuning"] = {"seeds": [101, 102], "batches": 2, "trials": 4}
    progress = status.Follow(config)
    study = tmp_path / "tuning/fashion-fc/flare/keep-1e-2/epochs-1"
    for seed in (101, 102):
        (study / f"batch-1/trial-5/seed-{seed}").mkdir(parents=True)
        (study / f"batch-1/trial-5/seed-{seed}/run.json").write_text("{}")
    # Of 4 runs and 16 of trials, 100 rounds each, 200 rounds in 50 s.
    said = "4 runs: 4 waiting; tuning: 2 of 16 runs over; 10 % of the rounds done"
    assert progress.line(progress._began + 50) == f"{said}; 4 rounds/s, about 8 min left"
    assert status.show(config).splitlines() == [said, f"  fashion-fc: {said}"]
    (study / "best.yaml").touch()
    assert "tuning: 16 of 16 runs over; 80 % of the rounds done" in progress.line(progress._began + 50)


def test_a_result_of_other_settings_is_not_one_of_the_sweep(config: dict[str, Any], tmp_path: Path) -> None:
    write_run(config, keep="1e-2", seed=1)
    folder = "fashion-fc/flare/keep-1e-2/epochs-1/seed-1"
    log(tmp_path, folder, f"{folder}: 100 rounds, 10 clients\nround 100/100  loss 1  accuracy 0.2\n")
    known: dict[str, status.State] = {}
    assert status.line(status.states(config)).startswith("8 runs: 1 finished, 7 waiting;")
    config["experiments"]["fashion-fc"]["learning_rate"] = 0.2
    assert status.line(status.states(config, known)) == "8 runs: 8 waiting; 0 % of the rounds done"
    assert not known
    assert f"waiting      {folder}  what is there is made with other settings" in status.show(config).splitlines()


def test_a_terminal_is_told_now_and_then_and_a_file_is_not(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.follow(config, 0.01) is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    over = status.follow(config, 0.01)
    assert over
    said, deadline = "", time.monotonic() + 20
    while not said.endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.02)
        said += capsys.readouterr().err
    over.set()
    assert said.startswith("flare: 8 runs: 8 waiting; 0 % of the rounds done; no round finished yet\n")


def test_the_command_prints_it(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    write_run(config, keep="1e-2", seed=1)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["status", str(tmp_path / "config.yaml")]) == 0
    assert capsys.readouterr().out.startswith("8 runs: 1 finished, 7 waiting; 5 % of the rounds done\n")
