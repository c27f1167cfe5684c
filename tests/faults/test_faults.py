"""Faults, one by one: each is a clear error or the treatment that is documented, and nothing is lost.

The listed cases are the ids of the parametrised tests here: NUMBERS (data and models), PREPARED (data that is not what
its data set says), disks, WRITES (every file that a command writes, at every call that can fail), MIXED (old results
beside new ones), checkpoints that would run code. Other files hold the rest: broken configurations, arguments and files
in test_fuzz.py, downloads and two fetches at once in test_datasets.py, other kills in test_checkpoint.py.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import multiprocessing
import os
import pickle
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import ROOT, environment, snakemake_command
from pickles import Bomb
from synthetic import write_run, write_sweep
from torch import Tensor, nn

from flare import algorithms, cli, datasets, simulate
from flare import files as whole
from flare.analysis import tables
from flare.config import Run, with_defaults
from flare.config.ranges import leave_open
from flare.datasets import _fetching
from flare.errors import ConfigError
from flare.runs import checkpoint, record
from flare.runs.identity import key_of
from flare.runs.train import train
from flare.tuning.study import Study
from flare.tuning.trials import read_values

METHODS = algorithms.names()
RUN = with_defaults(
    Run(
        experiment="e",
        dataset="digits",
        model="fc",
        model_settings={"width": 8, "hidden_layers": 1},
        method="flare",
        keep="5e-2",
        local_epochs=1,
        seed=1,
        clients=3,
        rounds=12,
        batch_size=20,
        learning_rate=0.05,
        evaluate_every=4,
        partition={"scheme": "contiguous", "samples_per_client": 60},
    )
)


# ---- numbers --------------------------------------------------------------------------------------------------------


def pairs(count: int = 2, samples: int = 6, *, classes: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(samples, 4, generator=generator), torch.randint(0, classes, (samples,), generator=generator))
        for _ in range(count)
    ]


def linear() -> nn.Linear:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.linspace(-1, 1 + number, parameter.numel()).reshape(parameter.shape))
    return model


def run(
    model: nn.Module | None = None, clients: Any = None, method: str = "flare", **changes: Any
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    clients = pairs() if clients is None else clients
    arguments: dict[str, Any] = {
        "test": pairs(1)[0],
        "keep": 0.3,
        "rounds": 3,
        "local_epochs": 2,
        "batch_size": 2,
        "learning_rate": 0.1,
        "momentum": 0 if method in ("dgc", "scafcom") else 0.5,
        "evaluate_every": 1,
    }
    return simulate(model or linear(), clients, method=method, **(arguments | changes))


def is_finished(outcome: tuple[pd.DataFrame, dict[str, Tensor]]) -> None:
    history, weights = outcome
    assert history.attrs["status"] == "finished" and len(history) == 3
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def has_diverged(outcome: tuple[pd.DataFrame, dict[str, Tensor]]) -> None:
    history, _ = outcome
    assert history.attrs["status"] == "diverged" and history.attrs["diverged_round"] == 0 and not len(history)


def refused(words: str) -> Callable[[Any], None]:
    def check(outcome: Any) -> None:
        assert isinstance(outcome, ConfigError) and words in str(outcome) and "\n" not in str(outcome), outcome

    return check


def spoilt(value: float) -> list[tuple[Tensor, Tensor]]:
    clients = pairs()
    clients[0][0][0, 0] = value
    return clients


def with_weight(value: float) -> nn.Module:
    model = linear()
    with torch.no_grad():
        model.weight[0, 0] = value
    return model


class Extra(nn.Module):
    """A linear model and something beside it."""

    def __init__(self, extra: Tensor | None, frozen: bool = False) -> None:
        super().__init__()
        self.linear = linear()
        if extra is not None:
            self.extra = nn.Parameter(extra, requires_grad=not frozen)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs) + (self.extra.sum() if hasattr(self, "extra") else 0)


class Unused(Extra):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)


def transposed() -> nn.Module:
    model = linear()
    model.weight = nn.Parameter(model.weight.detach().t().contiguous().t())
    assert not model.weight.is_contiguous()
    return model


def all_frozen() -> nn.Module:
    return linear().requires_grad_(False)


Case = tuple[Callable[[], Any], Callable[[Any], None]]
NUMBERS: dict[str, Case] = {
    "NaN in a client's data": (lambda: run(clients=spoilt(math.nan)), has_diverged),
    "infinity in a client's data": (lambda: run(clients=spoilt(math.inf)), has_diverged),
    "numbers that overflow": (lambda: run(clients=spoilt(1e38), learning_rate=1e30), has_diverged),
    "NaN in the model": (lambda: run(with_weight(math.nan)), has_diverged),
    "NaN in the test data only": (lambda: run(test=spoilt(math.nan)[0]), has_diverged),
    "a loss that is NaN": (lambda: run(loss=lambda outputs, targets: outputs.sum() * math.nan), has_diverged),
    "no client": (lambda: run(clients=[]), refused("clients: none; at least one")),
    "a client without data": (
        lambda: run(clients=[*pairs(), (torch.empty(0, 4), torch.empty(0, dtype=torch.long))]),
        refused("client 2 has 0 inputs and 0 targets; as many, at least 1"),
    ),
    "fewer targets than inputs": (
        lambda: run(clients=[(torch.ones(3, 4), torch.tensor([1, 2]))]),
        refused("client 0 has 3 inputs and 2 targets"),
    ),
    "no test data": (
        lambda: run(test=(torch.empty(0, 4), torch.empty(0, dtype=torch.long))),
        refused("test: 0 inputs and 0 targets; as many, at least 1"),
    ),
    "one client": (lambda: run(clients=pairs(1)), is_finished),
    "one sample": (lambda: run(clients=pairs(1, 1)), is_finished),
    "one class": (lambda: run(clients=pairs(2, 6, classes=1)), is_finished),
    "a batch larger than the data": (lambda: run(batch_size=10**6), is_finished),
    "keep so small that K = 1": (lambda: run(keep=1e-300), is_finished),
    "updates that are all zero": (lambda: run(loss=lambda outputs, targets: outputs.sum() * 0), is_finished),
    "an empty parameter": (lambda: run(Extra(torch.empty(0))), is_finished),
    "a frozen parameter": (lambda: run(Extra(torch.ones(2), frozen=True)), is_finished),
    "a parameter that the loss does not use": (lambda: run(Unused(torch.ones(2))), is_finished),
    "all parameters frozen": (lambda: run(all_frozen()), refused("model: no trainable parameter")),
    "weights that are not contiguous": (lambda: run(transposed()), is_finished),
    "weights of half precision": (lambda: run(linear().half()), refused("all float32, or all float64")),
    "weights of two precisions": (lambda: run(Extra(torch.ones(2).double())), refused("all float32, or all float64")),
    "weights of double precision": (lambda: run(linear().double()), is_finished),
    "inputs of half precision": (lambda: run(clients=[(x.half(), y) for x, y in pairs()]), is_finished),
    "batch-norm statistics": (
        lambda: run(nn.Sequential(linear(), nn.BatchNorm1d(3))),
        refused("1.running_mean is a batch-norm statistic, which no method here federates; use group norm"),
    ),
    "batch norm without statistics": (
        lambda: run(nn.Sequential(linear(), nn.BatchNorm1d(3, track_running_stats=False))),
        is_finished,
    ),
    "a learning rate that is NaN": (lambda: run(learning_rate=math.nan), refused("learning_rate, momentum: nan")),
    "a learning rate that is infinite": (lambda: run(learning_rate=math.inf), has_diverged),
    "a part that the model does not have": (
        lambda: run(settings={"not_pulled": "embedding"}),
        refused("not_pulled: 'embedding' is not allowed; none, or a part of the model: weight, bias"),
    ),
    "keep that is NaN": (lambda: run(keep=math.nan), refused("keep: nan is out of range")),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers(case: str) -> None:
    make, check = NUMBERS[case]
    try:
        outcome = make()
    except ConfigError as error:
        outcome = error
    check(outcome)


ENDS: dict[str, tuple[BaseException, int, str]] = {
    "no memory": (MemoryError(), 1, "flare: not enough memory: "),
    "torch finds no memory": (RuntimeError("can't allocate memory: you\ntried"), 1, "flare: not enough memory: can't"),
    "interrupted where nothing is saved": (KeyboardInterrupt(), 130, "flare: interrupted"),
    "a file that cannot get its name": (
        IsADirectoryError(errno.EISDIR, "Is a directory", ".o.1", None, "o"),
        2,
        "flare: o: Is a directory",
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_ends_of_a_command(case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error, code, words = ENDS[case]

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "fetch", fail)
    assert cli.main(["fetch", "--dataset", "digits"]) == code
    one_line(capsys, words)


@pytest.mark.parametrize("method", METHODS)
def test_updates_that_are_all_zero_change_nothing(method: str) -> None:
    history, weights = run(method=method, loss=lambda outputs, targets: outputs.sum() * 0)
    for name, parameter in linear().named_parameters():
        assert torch.equal(weights[name], parameter), name
    assert history.attrs["status"] == "finished"


def test_frozen_and_transposed_weights_are_trained_as_any_others() -> None:
    _, plain = run()
    _, transposed_ = run(transposed())
    assert all(torch.equal(plain[name], transposed_[name]) for name in plain)
    model = Extra(torch.zeros(2), frozen=True)
    _, frozen = run(model)
    assert set(frozen) == {"linear.weight", "linear.bias"}
    assert all(torch.equal(plain[name], frozen[f"linear.{name}"]) for name in plain)
    assert torch.equal(model.extra, torch.zeros(2))


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
def test_pulling_for_more_steps_than_a_round_has_is_pulling_in_all(fidelity: str) -> None:
    # 6 samples in batches of 2, twice: 6 steps. Two clients that have 6 and 4 steps have no common number of them.
    clients = [pairs()[0], pairs(1, 4)[0]]

    def weights(steps: int | str) -> Tensor:
        settings = {"tau": 0.05, "pull_steps": steps}
        _, found = run(clients=clients, settings=settings, fidelity=fidelity)
        return torch.cat([weight.flatten() for weight in found.values()])

    assert torch.equal(weights(6), weights("all")) and torch.equal(weights(10**6), weights("all"))
    assert not torch.equal(weights(5), weights("all"))


def test_one_entry_per_tensor_is_sent_where_keep_is_tiny() -> None:
    history, _ = run(method="topk", keep=1e-300, rounds=1)
    # 3 x 4 weights and 3 biases: one entry of each, 32 bits and an index of 4 and of 2 bits, from two clients.
    assert history.attrs["uplink_bits"] == 2 * (36 + 34)


# ---- disks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "small disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip() if done else 'not root'}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def fill(place: Path, leave: int = 0) -> None:
    with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    if leave:
        os.truncate(place / "filler", (place / "filler").stat().st_size - leave)


def arguments(output: Path, data: Path) -> list[str]:
    return ["train", *RUN.flags().split(), "--output", str(output), "--data", str(data), "--wandb", "disabled"]


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("flare: ") and all(word in said for word in words), said


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_is_one_line_and_what_was_there_stays(
    disk: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = disk / "run"
    assert cli.main(arguments(output, data)) == 0
    before = files(output)
    fill(disk)
    capsys.readouterr()
    assert cli.main(arguments(output, data)) == 1
    one_line(capsys, "No space left on device")
    assert files(output) == before
    (disk / "filler").unlink()
    assert cli.main(arguments(output, data)) == 0 and files(output)["rounds.csv"] == before["rounds.csv"]


def test_a_full_disk_while_fetching_leaves_nothing_half(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk, leave=64 << 10)
    assert cli.main(["fetch", "--dataset", "digits", "--data", str(disk)]) == 1
    one_line(capsys, "No space left on device")
    assert set(files(disk)) == {"filler"}


def test_a_checkpoint_that_does_not_fit_leaves_the_run_to_go_on(
    disk: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(disk, leave=12 << 10)
    assert cli.main([*arguments(disk / "run", data), "--checkpoint-rounds", "5"]) == 0
    said = capsys.readouterr().err
    assert said.count("not saved: ") == said.count("\n") == 2
    assert sorted(files(disk)) == ["filler", "run/rounds.csv", "run/run.json"]


@pytest.mark.parametrize("command", ["fetch", "train", "tabulate"])
def test_a_folder_that_is_read_only_is_one_line(
    command: str, disk: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    given = {
        "fetch": ["fetch", "--dataset", "digits", "--data", str(disk)],
        "train": arguments(disk / "run", data),
        "tabulate": ["tabulate", str(write_run(tmp_path)), "--output", str(disk / "tables")],
    }
    assert cli.main(given[command]) == 2
    one_line(capsys, "Read-only file system", str(disk))


@pytest.mark.parametrize("command", ["train", "tabulate", "fetch"])
def test_a_file_where_a_folder_is_needed_is_one_line(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = {
        "fetch": ["fetch", "--dataset", "digits", "--data", str(tmp_path / "file")],
        "train": arguments(tmp_path / "file", data),
        "tabulate": ["tabulate", str(write_run(tmp_path)), "--output", str(tmp_path / "file")],
    }
    assert cli.main(given[command]) == 2
    one_line(capsys, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "in the way"


# ---- data -----------------------------------------------------------------------------------------------------------

PREPARED: dict[str, tuple[dict[str, Any], str]] = {
    "inputs of another shape": ({"inputs": np.zeros((4, 1, 8, 9), np.uint8)}, "inputs are uint8 (4, 1, 8, 9)"),
    "inputs without channels": ({"inputs": np.zeros((4, 8, 8), np.uint8)}, "inputs are uint8 (4, 8, 8)"),
    "inputs of another type": ({"inputs": np.zeros((4, 1, 8, 8))}, "inputs are float64"),
    "no samples": ({"inputs": np.zeros((0, 1, 8, 8), np.uint8), "targets": np.zeros(0, np.int64)}, "(0, 1, 8, 8)"),
    "fewer targets than inputs": ({"targets": np.zeros(3, np.int64)}, "targets are int64 (3,), expected int64, 4 rows"),
    "a class that there is not": ({"targets": np.array([0, 1, 2, 10])}, "targets are in 0..10, expected 0..9"),
    "no targets": ({"targets": None}, "not a data file of this version"),
    "something else beside": ({"weights": np.zeros(4)}, "not a data file of this version"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_data_of_the_wrong_shape_is_one_line_and_no_run(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.fetch("digits", tmp_path)
    change, words = PREPARED[case]
    good = {"inputs": np.zeros((4, 1, 8, 8), np.uint8), "targets": np.arange(4)}
    arrays: dict[str, Any] = {name: array for name, array in (good | change).items() if array is not None}
    file = tmp_path / "digits/train.npz"
    np.savez(file, **arrays)
    manifest = json.loads((tmp_path / "digits/manifest.json").read_bytes())
    manifest["files"]["train.npz"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()  # it vouches for it
    (tmp_path / "digits/manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert cli.main(arguments(tmp_path / "run", tmp_path)) == 2
    one_line(capsys, str(file), words)
    assert not list((tmp_path / "run").glob("r*"))


def test_a_download_that_is_interrupted_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 400

    def download(folder: Path, whole: bool = True) -> None:
        (folder / "play.zip").write_bytes(content if whole else content[:1000])
        if not whole:
            os.kill(os.getpid(), signal.SIGKILL)

    def get(**options: Any) -> tuple[Path, str]:
        checksum = hashlib.sha256(content).hexdigest()
        return _fetching.archive(tmp_path, "play.zip", "sha256", checksum, "a test", partial(download, **options))

    child = os.fork()
    if not child:
        get(whole=False)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "raw").exists()
    path, source = get()
    assert source == "a test" and path.read_bytes() == content and get() == (path, "the data folder")


# ---- every write ----------------------------------------------------------------------------------------------------


class FullDisk:
    """Makes the n-th call that reaches the disk fail, and all after it, as a full disk does: a file is opened, half
    written, written, written out, or gets its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        # A folder is written out after its file has its name: then the file is there, whatever becomes of that.
        for name in ("replace", "fsync"):
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))
        monkeypatch.setattr(whole, "sync_folder", lambda folder: None)
        genuine, open_ = os.fdopen, os.open
        making = self.failing(open_)

        def made(path: Any, flags: int, *more: Any, **named: Any) -> Any:
            return (making if flags & os.O_EXCL else open_)(path, flags, *more, **named)

        monkeypatch.setattr(os, "open", made)

        def fdopen(handle: int, mode: str, *args: Any, **kwargs: Any) -> Any:
            if mode != "w+b":
                return genuine(handle, mode, *args, **kwargs)

            class Full(io.FileIO):
                write = self.failing(io.FileIO.write)

            return InHalves(Full(handle, "w+b"))

        monkeypatch.setattr(os, "fdopen", fdopen)

    def failing(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return genuine(*args, **kwargs)

        return call


class InHalves(io.BufferedWriter):
    """What is written reaches the file in two parts."""

    def write(self, content: Any) -> int:
        half = len(content) // 2
        for part in (content[:half], content[half:]):
            super().write(part)
            self.flush()
        return len(content)


def new_run(folder: Path, data: Path) -> list[str]:
    return arguments(folder / "run", data)


def new_tables(folder: Path, data: Path) -> list[str]:
    return [
        "tabulate",
        *(str(path) for path in (folder / "results/runs").glob("*/*/*/*/*")),
        "--output",
        f"{folder}/tables",
    ]


def new_labels(folder: Path, data: Path) -> list[str]:
    given = ["--experiment", "e", "--dataset", "digits", "--clients", "3", "--seed", "1"]
    return ["count_labels", *given, "--data", str(data), "--output", str(folder / "labels.csv")]


def new_verdict(folder: Path, data: Path) -> list[str]:
    return ["judge", "--tables", str(folder / "tables")]


def new_figure(folder: Path, data: Path) -> list[str]:
    given = ["--experiment", "fashion-fc", "--tables", f"{folder}/tables", "--output", f"{folder}/figure"]
    return ["plot", "accuracy_by_round", *given]


SPACE: dict[str, Any] = {"tau": {"log": [0.1, 1.0]}}
STUDY = Study(run=leave_open(RUN, SPACE), space=SPACE, seeds=[7], batches=1, trials=1)


def new_proposals(folder: Path, data: Path) -> list[str]:
    return ["propose", *shlex.split(STUDY.flags(whole=False)), "--output", str(folder / STUDY.name)]


def new_study(folder: Path, data: Path) -> list[str]:
    cli.main(new_proposals(folder, data))
    values = read_values(folder / STUDY.name / "batch-0/proposals.json", STUDY.name, 0)
    (trial,) = STUDY.runs(0, values)
    train(trial, data=data, output=folder / STUDY.name / STUDY.place(trial), wandb="disabled")
    return ["tune", *shlex.split(STUDY.flags()), "--output", str(folder / STUDY.name)]


def after_study(folder: Path, data: Path) -> str:
    assert cli.main(new_study(folder, data)) == 0
    return str(folder / STUDY.name)


def new_study_table(folder: Path, data: Path) -> list[str]:
    return ["tabulate_studies", after_study(folder, data), "--output", str(folder / "studies")]


def new_trials_table(folder: Path, data: Path) -> list[str]:
    return ["gather_trials", after_study(folder, data), "--output", str(folder / "trials.csv")]


def new_journal(folder: Path, data: Path) -> list[str]:
    return ["export_studies", after_study(folder, data), "--output", str(folder / "journal.log")]


def new_comparison(folder: Path, data: Path) -> list[str]:
    train(RUN, data=data, output=folder / "one", wandb="disabled")
    reference = str(ROOT / "config/reference.csv")
    return ["compare", str(folder / "one"), "--reference", reference, "--output", str(folder / "comparison")]


def new_page(folder: Path, data: Path) -> list[str]:
    return ["render", str(folder / "tables/summary.md"), "--output", str(folder / "page.html")]


MAKERS = (
    *(new_run, new_tables, new_labels, new_verdict, new_figure, new_proposals),
    *(new_study, new_study_table, new_trials_table, new_journal, new_comparison, new_page),
)
WRITES = {made.__name__: made for made in MAKERS}


@pytest.mark.parametrize("name", WRITES)
def test_wherever_the_disk_is_full_the_old_files_stay_whole(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "results", methods=("fedavg", "flare"), keeps=("1e-2",), seeds=(1, 2, 3))
    (tmp_path / "tables").mkdir()
    tables.tabulate(sorted((tmp_path / "results/runs").glob("*/*/*/*/*")), tmp_path / "tables")
    (tmp_path / "tables/labels").mkdir()
    (tmp_path / "tables/labels/fashion-fc.csv").write_text("experiment,client,label,samples\nfashion-fc,0,0,1\n")
    command = WRITES[name](tmp_path, data)
    assert cli.main(command) == 0
    before = files(tmp_path)
    for number in range(100):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            full = FullDisk(patch, number)
            code = cli.main(command)
        after = files(tmp_path)
        assert after.keys() == before.keys()  # no temporary file
        # Only these say how long it took, and when.
        timed = ("run/run.json", "journal.log")
        assert all(after[path] == before[path] for path in before if path not in timed)
        json.loads(after.get("run/run.json", b"{}"))
        if code == 0:
            assert full.left >= 0
            break
        assert code == 1
        one_line(capsys, "No space left on device")
    assert number >= 5  # each file: opened, written in two parts, written out, named


@pytest.mark.parametrize("megabytes", [400, 3000])
def test_too_little_memory_for_the_libraries_is_one_line(megabytes: int, data: Path, tmp_path: Path) -> None:
    """As of `ulimit -v`: torch's libraries alone take more addresses than that."""
    command = [sys.executable, "-m", "flare", "train", *shlex.split(RUN.flags()), "--data", str(data)]
    command += ["--output", str(tmp_path / "run"), "--wandb", "disabled"]
    limit = (megabytes * 1000 * 1024,) * 2

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, limit)

    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), preexec_fn=limited, timeout=300, check=False
    )
    if megabytes == 3000 and done.returncode == 0:  # a torch without the libraries of a GPU
        return
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("flare: not enough memory to load train's libraries: ")
    assert not (tmp_path / "run/run.json").exists()


def test_a_study_of_too_few_trials_for_importances_has_its_figure(data: Path, tmp_path: Path) -> None:
    write_sweep(tmp_path / "results", experiment="e", methods=("flare",), keeps=("5e-2",), seeds=(1,))
    tables.tabulate([*(tmp_path / "results/runs").glob("*/*/*/*/*")], tmp_path / "tables")
    (tmp_path / "tables/labels").mkdir()
    (tmp_path / "tables/labels/e.csv").write_text("experiment,client,label,samples\ne,0,0,1\n")
    output = ["--output", str(tmp_path / "tables/trials/e.csv")]
    assert cli.main(["gather_trials", after_study(tmp_path, data), *output]) == 0
    command = ["plot", "importance", "--experiment", "e", "--tables", f"{tmp_path}/tables", "--output", f"{tmp_path}/i"]
    assert cli.main(command) == 0 and (tmp_path / "i.pdf").exists()


def test_prepared_data_is_whole_wherever_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.fetch("digits", tmp_path)
    whole = files(tmp_path)
    genuine = os.replace
    for number in range(3):
        (tmp_path / "digits/manifest.json").write_text("{}")  # so that it is prepared again
        left = number

        def replace(*args: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            genuine(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(OSError, match="No space left"):
                datasets.fetch("digits", tmp_path)
        assert files(tmp_path) == whole | {"digits/manifest.json": b"{}"}
    datasets.fetch("digits", tmp_path)
    assert files(tmp_path) == whole


# ---- kills ----------------------------------------------------------------------------------------------------------

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["flare.cli", "flare.runs.train", "flare.engine.api", "flare.analysis.tables", "pytest"]
)
SEEDS = (1, 2, 3, 4)


def slow_sweep(folder: Path, data: Path) -> None:
    """Four runs in one process, then their tables; every write to the disk takes its time, in small pieces: that of a
    result, of a table, and of a checkpoint, which is written after every three rounds."""

    class Slow(io.FileIO):
        def write(self, content: Any) -> int:
            view = memoryview(content).cast("B")
            step = max(1, len(view) // 8)
            for start in range(0, len(view), step):
                super().write(view[start : start + step])
                time.sleep(0.004)
            return len(view)

    def fsync(handle: int) -> None:
        time.sleep(0.01)
        os.fsync(handle)

    # As these two see it, and nothing else does.
    def fdopen(handle: int, mode: str) -> Any:
        return io.BufferedRandom(Slow(handle, mode), 1 << 20) if mode == "w+b" else os.fdopen(handle, mode)

    slow_os = types.SimpleNamespace(**vars(os) | {"fdopen": fdopen, "fsync": fsync})
    whole.os = slow_os  # type: ignore[assignment]
    torch.set_num_threads(1)
    fields = [name for name in Run.__dataclass_fields__ if name != "seed"]
    cell = folder / "runs" / RUN.cell
    outputs = [str(cell / f"seed-{seed}") for seed in SEEDS]
    left = [] if all(Path(path, "run.json").exists() for path in outputs) else outputs
    with open(f"{folder}.log", "w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = 0
        if left:
            given = ["--wandb", "disabled", "--data", str(data), "--checkpoint-rounds", "3"]
            code = cli.main(["train", *RUN.flags(*fields).split(), *given, "--output", *left])
        code = code or cli.main(["tabulate", *outputs, "--output", str(folder / "tables")])
    os._exit(code)


def check_whole(folder: Path, expected: dict[str, bytes]) -> set[str]:
    """Every result that is there is whole; returns which are."""
    found = set()
    for path in [*folder.glob("runs/**/run.json"), *folder.glob("runs/**/rounds.csv"), *folder.glob("tables/*.*")]:
        name = str(path.relative_to(folder))
        if path.name.startswith("."):
            continue
        found.add(name)
        if path.name == "run.json":
            assert json.loads(path.read_bytes())["result_hash"] == expected[name].decode()
        elif path.name not in ("costs.csv", "made_from.json"):  # wall times, and a checksum of theirs
            assert path.read_bytes() == expected[name], name
    return found


@pytest.mark.timeout(900)  # 45 s where nothing else runs
def test_fifty_kills_on_a_slow_disk_lose_nothing(data: Path, tmp_path: Path) -> None:
    def start(folder: Path) -> Any:
        process = PROCESSES.Process(target=slow_sweep, args=(folder, data))
        process.start()
        return process

    for name in ("first", "whole"):  # the first start of all takes longer
        begun = time.monotonic()
        process = start(tmp_path / name)
        process.join(100)
        took = time.monotonic() - begun
        assert process.exitcode == 0
    expected = {}
    for name, content in files(tmp_path / "whole").items():
        expected[name] = json.loads(content)["result_hash"].encode() if name.endswith("run.json") else content
    assert len(expected) == 2 * len(SEEDS) + 10
    draw, kills, done, number, starts = random.Random(3), 0, 0, 0, 0
    kept: set[str] = set()
    torn = {name: 0 for name in (checkpoint.PART, ".rounds.csv.", ".run.json.", "tables/.")}
    folder = tmp_path / "0"

    def half_written(before: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """Files under temporary names that were not there, as they are, before; with the time of their last change."""
        found = set()
        for path in folder.glob("**/.*"):
            with contextlib.suppress(FileNotFoundError):
                found.add((str(path), path.stat().st_mtime_ns))
        return found - before

    while kills < 50:
        before = half_written(set())
        process = start(folder)
        starts += 1
        if starts % 12 == 0:
            process.join(100)  # some come to their end
        elif starts % 2:
            process.join(draw.uniform(0.02, 0.7 * took))
        else:  # in the middle of a write of that which was hit least so far
            aim = min(torn, key=torn.__getitem__)
            while process.is_alive() and not any(aim in path for path, _ in half_written(before)):
                time.sleep(0.01)
        if process.is_alive():
            process.kill()
            process.join()
        assert process.exitcode in (0, -signal.SIGKILL), Path(f"{folder}.log").read_text()
        for name in torn:
            torn[name] += any(name in path for path, _ in half_written(before))
        now = check_whole(folder, expected)
        assert kept <= now  # what was there is there
        kept = now
        kills += process.exitcode != 0
        if process.exitcode == 0:
            assert now == expected.keys()
            done, number, kept = done + 1, number + 1, set()
            folder = tmp_path / str(number)
    process = start(folder)
    process.join(100)
    assert process.exitcode == 0 and check_whole(folder, expected) == expected.keys()
    assert not list(folder.glob("runs/**/checkpoint*")) and not list(folder.glob("runs/**/.*"))
    assert done >= 4
    assert sum(torn.values()) >= 15 and min(torn.values()) >= 1, torn  # it did die in the middle of writing


# ---- old results beside new ones ------------------------------------------------------------------------------------

MIXED: dict[str, tuple[dict[str, Any], str]] = {
    "another version of torch": ({"versions": {"torch": "1", "numpy": "2", "flare": "0"}}, "made with torch 1, and "),
    "another version of numpy": ({"versions": {"torch": "2", "numpy": "1", "flare": "0"}}, "made with numpy 1, and "),
    "another version of this": ({"versions": {"torch": "2", "numpy": "2", "flare": "9"}}, "made with flare 9, and "),
    "no version": ({"versions": None}, "made with flare None, and "),
    "other settings": ({"config": {"clients": 10, "learning_rate": 7.0}}, "made with other settings than the config"),
}


@pytest.mark.parametrize("case", MIXED)
def test_old_results_beside_new_ones_are_named_and_in_no_table(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = write_sweep(tmp_path, methods=("flare",), keeps=("1e-2",))
    digest = record.settings_digest(json.loads((folders[0] / "run.json").read_bytes())["config"])
    pattern = str(folders[0]).replace("seed-1", "seed-{1,2,3}")
    command = ["tabulate", pattern, "--settings", digest, "--output", str(tmp_path / "tables")]
    assert cli.main(command) == 0
    before = files(tmp_path / "tables")
    change, words = MIXED[case]
    write_run(tmp_path, seed=2, change=change)
    capsys.readouterr()
    assert cli.main(command) == 2
    one_line(capsys, str(folders[1]), words)
    assert files(tmp_path / "tables") == before
    reference = ["--reference", str(ROOT / "config/reference.csv"), "--output", str(tmp_path / "reference")]
    assert cli.main(["compare", pattern, "--settings", digest, *reference]) == 2
    one_line(capsys, str(folders[1]), words)
    assert not list(tmp_path.glob("reference.*"))


def test_the_digest_of_a_run_is_that_of_its_record(data: Path, tmp_path: Path) -> None:
    import dataclasses

    train(RUN, data=data, output=tmp_path, wandb="disabled")
    said = json.loads((tmp_path / "run.json").read_bytes())["config"]
    planned = dataclasses.asdict(RUN)
    digest = record.settings_digest(planned)
    assert record.settings_digest(said) == digest
    for key, value in {"keep": "1e-3", "local_epochs": 4, "seed": 9, "trial": None, "momentum": 0}.items():
        assert record.settings_digest(planned | {key: value}) == digest, key
    for key, value in {"rounds": 13, "shuffle": True, "method_settings": {"tau": 9.0}, "available": 2}.items():
        assert record.settings_digest(planned | {key: value}) != digest, key
    tuned = planned | {"tuned": {"learning_rate": None}, "learning_rate": 1.0}
    assert record.settings_digest(tuned) == record.settings_digest(
        planned | {"tuned": {"learning_rate": 0.3}, "learning_rate": 0.3}
    )


# ---- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["torch", "bare", "in the state"])
def test_a_checkpoint_that_would_run_code_is_set_aside(how: str, data: Path, tmp_path: Path) -> None:
    trace, output = tmp_path / "exploded", tmp_path / "run"
    train(RUN, data=data, output=tmp_path / "plain", wandb="disabled")
    output.mkdir()
    if how == "bare":
        (output / checkpoint.NAME).write_bytes(pickle.dumps(Bomb(trace)))
    else:
        key = key_of(RUN, data, "cpu")
        content = Bomb(trace) if how == "torch" else {"key": key, "wall_seconds": 1.0, "state": {"memory": Bomb(trace)}}
        with open(output / checkpoint.NAME, "wb") as file:
            checkpoint.seal(file, content)
    train(RUN, data=data, output=output, wandb="disabled")
    assert not trace.exists()
    assert (output / "rounds.csv").read_bytes() == (tmp_path / "plain/rounds.csv").read_bytes()
    with contextlib.suppress(Exception):  # the same bytes do explode where they are let
        pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()


def test_nothing_of_ours_unpickles() -> None:
    for path in [*(ROOT / "flare").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk")]:
        text = path.read_text()
        assert "pickle" not in text.replace("allow_pickle=False", "").replace("unpickle", ""), path
        assert text.count("torch.load(") == text.count("weights_only=True"), path
        assert text.count("np.load(") == text.count("allow_pickle=False"), path


# ---- folders and sweeps, for real -----------------------------------------------------------------------------------

SWEEP = {
    "wandb": {"mode": "disabled"},
    "results": "./résultats 1/",
    "experiments": {
        "small": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 8, "hidden_layers": 1},
            "clients": 3,
            "partition": {"scheme": "contiguous", "samples_per_client": 60},
            "rounds": 400,
            "evaluate_every": 200,
            "batch_size": 20,
            "learning_rate": 0.1,
            "keep": ["5e-2"],
            "seeds": [1, 2],
            "methods": {"flare": {"tau": 1.0e-5}},
        }
    },
}


def sweep(folder: Path, content: dict[str, Any], *arguments: str) -> subprocess.Popen[str]:
    (folder / "c.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return subprocess.Popen(
        snakemake_command(folder, "--configfile", str(folder / "c.yaml"), "--cores", "1", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=200)
    assert process.returncode == code, said
    return said


@pytest.mark.workflow
def test_two_sweeps_in_folders_with_spaces_and_other_letters_links_and_old_results(tmp_path: Path) -> None:
    folder = tmp_path / "a b ü"
    folder.mkdir()
    (tmp_path / "elsewhere é").mkdir()
    (folder / "résultats 1").symlink_to(tmp_path / "elsewhere é")
    table = "résultats 1/tables/runs.csv"
    shuffled = ["résultats 1/runs/small/flare/keep-5e-2/epochs-1/seed-2/run.json", table]
    first = sweep(folder, SWEEP, *shuffled)
    begun = time.monotonic()
    while not list((folder / ".snakemake/locks").glob("*.lock")) and time.monotonic() < begun + 60:
        time.sleep(0.05)
    said = done(sweep(folder, SWEEP, table), 1)
    assert "LockException" in said and first.poll() is None
    said = done(first)
    assert "double '/'" not in said and "starts with './'" not in said
    runs = tmp_path / "elsewhere é/runs/small/flare/keep-5e-2/epochs-1"
    rounds = {path.parent.name: path.read_bytes() for path in runs.glob("*/rounds.csv")}
    assert set(rounds) == {"seed-1", "seed-2"} and (folder / "résultats 1").is_symlink(), said
    assert json.loads((runs / "seed-1/run.json").read_bytes())["config"]["method_settings"]["tau"] == 1e-5
    assert len(pd.read_csv(folder / table)) == 2
    assert "Nothing to be done" in done(sweep(folder, SWEEP, table))

    # Snakemake has forgotten how they were made, and the configuration is another one by now.
    shutil.rmtree(folder / ".snakemake")
    (folder / table).unlink()
    other = json.loads(json.dumps(SWEEP))
    other["experiments"]["small"]["learning_rate"] = 0.2
    done(sweep(folder, other, table))
    now = {path.parent.name: path.read_bytes() for path in runs.glob("*/rounds.csv")}
    assert set(now) == set(rounds) and not set(now.values()) & set(rounds.values())
    kept = {path.parent.parent.name: path.read_bytes() for path in runs.glob("*/old-*/rounds.csv")}
    assert kept == rounds and len(pd.read_csv(folder / table)) == 2


def test_there_are_forty_listed_cases_and_more() -> None:
    assert len(NUMBERS) + len(PREPARED) + len(WRITES) + len(MIXED) >= 40
