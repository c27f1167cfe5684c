"""A run from its settings to its files; the command line by hand; the record."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st

import flare
from flare import cli, datasets, files, models
from flare.config import Run, with_defaults
from flare.datasets import partitions as partition
from flare.engine.api import History
from flare.engine.network import double_softmax
from flare.errors import ConfigError
from flare.models import fc
from flare.runs import record, train

RUN = with_defaults(
    Run(
        experiment="e",
        dataset="digits",
        model="fc",
        model_settings={"width": 8, "hidden_layers": 1},
        method="flare",
        keep="5e-2",
        local_epochs=2,
        seed=3,
        clients=3,
        rounds=5,
        batch_size=16,
        learning_rate=0.1,
        evaluate_every=2,
        partition={"scheme": "contiguous", "samples_per_client": 40},
    )
)


def test_the_files_of_a_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = train.train(RUN, data=data, output=tmp_path / "run", wandb="disabled")
    content = (tmp_path / "run/rounds.csv").read_bytes()
    rounds = pd.read_csv(tmp_path / "run/rounds.csv", dtype={"keep": str})
    assert list(rounds.columns) == [
        *["experiment", "dataset", "model", "method", "keep", "local_epochs", "seed", "round"],
        *["uplink_bits", "downlink_bits", "train_loss", "test_loss", "test_accuracy"],
    ]
    assert list(rounds["round"]) == [0, 2, 4] and set(rounds["keep"]) == {"5e-2"}
    # 64-8-10: tensors of 512, 8, 80, 10 entries send 26, 1, 4, 1 of them (round half even, at least one), each with
    # 32 bits and an index of 9, 3, 7, 4 bits; three clients, five rounds.
    per_message = 26 * 41 + 1 * 35 + 4 * 39 + 1 * 36
    assert rounds["uplink_bits"].iloc[-1] == summary["uplink_bits"] == 15 * per_message
    assert summary["downlink_bits"] == 15 * 32 * 610
    assert summary["compression"] == pytest.approx(32 * 610 / per_message)
    assert json.loads((tmp_path / "run/run.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["config"] == json.loads(json.dumps(dataclasses.asdict(RUN)))
    assert summary["status"] == "finished" and summary["diverged_round"] is None and summary["rounds"] == 5
    assert summary["best_accuracy"] == rounds["test_accuracy"].max() and summary["parameters"] == 610
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["rounds.csv", "run.json"]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "e/flare/keep-5e-2/epochs-2/seed-3: 5 rounds, 3 clients" and len(said) == 1 + 3 + 1
    assert said[1].startswith("round 1/5  loss ") and "accuracy" in said[1] and "uplink" in said[1]

    again = train.train(RUN, data=data, output=tmp_path / "again", wandb="offline")
    assert (tmp_path / "again/rounds.csv").read_bytes() == content
    assert again["result_hash"] == summary["result_hash"]
    other = train.train(dataclasses.replace(RUN, seed=4), data=data, output=tmp_path / "other", wandb="disabled")
    assert other["result_hash"] != summary["result_hash"]


def test_the_best_evaluation_is_not_the_last(tmp_path: Path) -> None:
    """A record of three evaluations by hand: every number of run.json is the one that its name says."""
    columns = ("round", "uplink_bits", "downlink_bits", "train_loss", "test_loss", "test_accuracy")
    values = [(0, 10, 30, 2.5, 2.25, 0.25), (2, 20, 60, 1.5, 1.25, 0.75), (4, 40, 90, 1.75, 1.5, 0.5)]
    ended: dict[str, object] = {"status": "finished", "diverged_round": None, "rounds": 5, "uplink_bits": 50}
    ended |= {"downlink_bits": 99, "dense_bits": 400, "parameters": 17, "engine": "together"}
    history = History(columns, [dict(zip(columns, row, strict=True)) for row in values], ended)
    weights = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([3.0])}
    run = dataclasses.replace(RUN, tuned={"tau": 0.3}, validation=None, trial=None)
    found = record.write_run(tmp_path, run, history, weights, wall_seconds=1.23456, device="cuda", threads=3)
    rows = [f"e,digits,fc,flare,5e-2,2,3,{','.join(map(repr, row))}\n" for row in values]
    header = ",".join(["experiment,dataset,model,method,keep,local_epochs,seed", *columns])
    content = "".join([f"{header}\n", *rows]).encode()
    assert (tmp_path / "rounds.csv").read_bytes() == content
    digest = hashlib.sha256(content)
    for name in ("a", "b"):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    made = {"rounds": hashlib.sha256(content).hexdigest(), "settings": record.whole_digest(dataclasses.asdict(run))}
    assert {name: found[name] for name in found if name not in ("versions", "git_commit", "config")} == {
        **{"experiment": "e", "dataset": "digits", "model": "fc", "method": "flare", "keep": "5e-2"},
        **{"local_epochs": 2, "seed": 3, "tuned": True, "study": run.cell, "evaluated_on": "test"},
        **{"status": "finished", "diverged_round": None, "rounds": 5, "final_accuracy": 0.5, "best_accuracy": 0.75},
        **{"final_loss": 1.5, "uplink_bits": 50, "downlink_bits": 99, "compression": 8.0, "parameters": 17},
        **{"wall_seconds": 1.235, "device": "cuda", "threads": 3, "engine": "together"},
        **{"result_hash": digest.hexdigest(), "made_from": made},
    }
    assert json.loads((tmp_path / "run.json").read_text()) == json.loads(json.dumps(found))
    # A trial reports nothing of its own, and is measured on what was held out; nothing sent is no compression.
    trial = dataclasses.replace(run, trial=4, validation=0.2)
    none = History(columns, [], ended | {"status": "diverged", "diverged_round": 0, "rounds": 0, "uplink_bits": 0})
    lost = record.write_run(tmp_path, trial, none, weights, wall_seconds=1, device="cpu", threads=1)
    assert (lost["tuned"], lost["study"], lost["evaluated_on"]) == (False, run.cell, "validation")
    assert [lost[name] for name in ("final_accuracy", "best_accuracy", "final_loss", "compression")] == [None] * 4
    assert record.write_run(tmp_path, RUN, none, weights, wall_seconds=1, device="cpu", threads=1)["study"] is None


@pytest.mark.parametrize(
    ("engine", "flag"),
    [(None, ""), ("one-at-a-time", "--engine one-at-a-time"), ("together", "--engine together")],
)
def test_the_engine_is_the_one_asked_for(engine: str | None, flag: str, data: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, engine=engine)
    assert run.flags("engine") == flag
    summary = train.train(run, data=data, output=tmp_path, wandb="disabled")
    assert summary["engine"] == (engine or "one-at-a-time")
    assert summary["config"]["engine"] == engine


def test_the_keys_of_a_run_reach_the_simulation(data: Path, tmp_path: Path) -> None:
    """Its rounds are those of flare.simulate called by hand, and would be others without any one of these keys."""
    dealt = {"scheme": "dirichlet", "alpha": 0.5}
    own = {"tau": 0.3, "tau_decay": 1.2, "percentile": 40, "pull_steps": 2}
    keys = {
        **{"available": 2, "momentum": 0.5, "shuffle": True, "fidelity": "authors", "staleness": True},
        **{"evaluate_every": 1, "together": True, "loss": double_softmax, "settings": own},
    }
    given = {key: keys[key] for key in ("available", "momentum", "shuffle", "fidelity", "staleness", "evaluate_every")}
    given |= {"engine": "together", "double_softmax": True, "method_settings": own, "partition": dealt}
    train.train(with_defaults(dataclasses.replace(RUN, **given)), data=data, output=tmp_path, wandb="disabled")

    known, test = (datasets.load("digits", data, part) for part in ("train", "test"))
    clients = [
        (torch.from_numpy(known.inputs[part]).float() / 16, torch.from_numpy(known.targets[part]).long())
        for part in partition.split(known.targets, 3, dealt, 3)
    ]

    def rounds(**changes) -> pd.DataFrame:
        history, _ = flare.simulate(
            models.create("fc", (1, 8, 8), 10, fc.Settings(width=8, hidden_layers=1), 3, "paper"),
            clients,
            test=(torch.from_numpy(test.inputs).float() / 16, torch.from_numpy(test.targets).long()),
            **{"method": "flare", "keep": "5e-2", "rounds": 5, "local_epochs": 2, "batch_size": 16, "seed": 3},
            **{"learning_rate": 0.1, "momentum": 0, **changes},
        )
        return pd.read_csv(io.StringIO(history.to_csv(index=False)))  # as it is written

    whole = rounds(**keys)
    assert pd.read_csv(tmp_path / "rounds.csv")[whole.columns].equals(whole)
    for key in keys:
        assert not rounds(**{name: value for name, value in keys.items() if name != key}).equals(whole), key


@pytest.mark.parametrize("method", ["fedavg", "topk", "flare", "ef21"])
@pytest.mark.parametrize(("learning_rate", "at_once"), [(10.0, False), (1e6, True)])
def test_a_diverged_run_is_a_result(
    method: str, learning_rate: float, at_once: bool, data: Path, tmp_path: Path
) -> None:
    run = dataclasses.replace(RUN, learning_rate=learning_rate, evaluate_every=1, method=method, method_settings={})
    summary = train.train(run, data=data, output=tmp_path, wandb="disabled")
    assert summary["status"] == "diverged"
    assert (summary["diverged_round"] == 0) == at_once and summary["rounds"] == summary["diverged_round"] < run.rounds
    rounds = pd.read_csv(tmp_path / "rounds.csv")
    assert len(rounds) == summary["rounds"] and np.isfinite(rounds["train_loss"].astype(float)).all()
    assert (summary["final_accuracy"] is None) == at_once


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 10**15),
            st.floats(allow_infinity=False),
            st.floats(width=32, allow_infinity=False),
            st.sampled_from(["5e-2", "dense", "a name", 'with "quotes", and a comma']),
        ),
        max_size=6,
    )
)
def test_rounds_csv_is_what_pandas_would_write(rows: list[tuple[int, float, float, str]]) -> None:
    columns = ["round", "train_loss", "test_loss", "keep"]
    table = pd.DataFrame(rows, columns=columns)
    assert record._csv(columns, rows) == table.to_csv(index=False, lineterminator="\n").encode()


def test_a_run_of_a_sweep_does_without_what_it_has_no_need_of(data: Path, tmp_path: Path) -> None:
    """Each is tenths of a second of every job."""
    names = [field.name for field in dataclasses.fields(RUN)]
    command = [
        "train",
        *RUN.flags(*names).split(),
        "--data",
        str(data),
        "--output",
        str(tmp_path),
        "--wandb",
        "offline",
    ]
    script = f"import sys, flare.cli; assert flare.cli.main({command}) == 0; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"torch", "wandb"} <= loaded and not loaded & {"pandas", "requests", "optuna", "snakemake"}


def test_the_result_hash_is_that_of_rounds_and_weights() -> None:
    weights = {"b": torch.tensor([2.0]), "a": torch.tensor([1.0])}
    expected = hashlib.sha256(b"rows" + b"a" + np.float32(1).tobytes() + b"b" + np.float32(2).tobytes()).hexdigest()
    assert record.result_hash(b"rows", weights) == expected
    assert record.result_hash(b"rows", {"a": torch.tensor([1.0]), "b": torch.tensor([-2.0])}) != expected


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_whole(tmp_path / "deep/file", b"old")
    assert stat.S_IMODE((tmp_path / "deep/file").stat().st_mode) == 0o644

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_whole(tmp_path / "deep/file", b"new")
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "deep").iterdir()] == [("file", b"old")]


def test_images_are_padded_in_the_middle(data: Path) -> None:
    clients, test = train._tensors(dataclasses.replace(RUN, pad_to=11), data, datasets.load)
    plain, _ = train._tensors(RUN, data, datasets.load)
    inputs, targets = clients[1]
    assert inputs.shape == (40, 1, 11, 11) and test[0].shape[1:] == (1, 11, 11) and targets.dtype == torch.int64
    assert torch.equal(inputs[:, :, 1:9, 1:9], plain[1][0]) and inputs.sum() == plain[1][0].sum()
    assert inputs.max() == 1 and inputs.min() == 0
    with pytest.raises(ConfigError, match="pad_to: 7 is not allowed; at least 8"):
        train._tensors(dataclasses.replace(RUN, pad_to=7), data, datasets.load)


def test_missing_data_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "train",
        *RUN.flags().split(),
        "--data",
        str(tmp_path / "none"),
        "--output",
        str(tmp_path / "run"),
    ]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "python -m flare fetch --dataset digits" in error
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_here_is_one_line(data: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="device: 'cuda' is not here"):
        train.train(RUN, data=data, output=tmp_path, device="cuda", wandb="disabled")
