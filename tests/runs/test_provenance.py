"""What a result was made from decides whether it is one of what is planned: never where it lies, nor when it was made.

The attacks are generated: what was changed, what was deleted, where it was moved. For each it is worked out by hand
which runs are still what is planned; nothing else may be believed, and nothing that agrees may be made again.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flare import cli, datasets
from flare.analysis import origin as of_tables
from flare.analysis import tables
from flare.config import runs
from flare.errors import ConfigError, DataError
from flare.runs import ambient, checkpoint, identity, provenance, record
from flare.runs.train import train
from flare.tuning.origin import Sweep
from flare.tuning.study import studies

CONFIG: dict[str, Any] = {
    "wandb": {"mode": "disabled"},
    "experiments": {
        "tiny": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 4, "hidden_layers": 1},
            "clients": 2,
            "partition": {"scheme": "contiguous", "samples_per_client": 40},
            "rounds": 2,
            "evaluate_every": 1,
            "batch_size": 20,
            "learning_rate": 0.1,
            "keep": ["5e-2"],
            "seeds": [1, 2],
            "methods": {"topk": {}, "flare": {"tau": 0.05}},
        }
    },
}
TOPK, FLARE = {"tiny/topk"}, {"tiny/flare"}
BOTH = TOPK | FLARE


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, the runs of CONFIG, and their tables."""
    folder = tmp_path_factory.mktemp("finished")
    datasets.fetch("digits", folder / "data")
    for run in runs(CONFIG):
        train(run, data=folder / "data", output=folder / "results/runs" / run.folder, wandb="disabled")
    tables.tabulate([folder / "results/runs" / run.folder for run in runs(CONFIG)], folder / "results/tables")
    return folder


def sweep_of(folder: Path, config: dict[str, Any]) -> Sweep:
    return Sweep.of(config | {"results": str(folder / "results"), "data": str(folder / config.get("data", "data"))})


def setting(key: str, value: Any, method: str | None = None) -> Callable[..., dict[str, Any]]:
    def change(folder: Path, config: dict[str, Any], _: pytest.MonkeyPatch) -> dict[str, Any]:
        tiny = config["experiments"]["tiny"]
        (tiny["methods"][method] if method else tiny)[key] = value
        return config

    return change


def top(key: str, value: Any) -> Callable[..., dict[str, Any]]:
    return lambda folder, config, _: config | {key: value}


def other_code(folder: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A method's file does something else."""
    meaning = identity._meaning

    def changed(name: str) -> str:
        return meaning(name) + ("changed" if name == "algorithms/flare" else "")

    monkeypatch.setattr(identity, "_meaning", changed)
    identity.code_digest.cache_clear()
    return config


def a_comment(folder: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nothing that computes: the data set's file has another time."""
    os.utime(Path(datasets.__file__).with_name("digits.py"))
    return config


def other_data(folder: Path, config: dict[str, Any], _: pytest.MonkeyPatch) -> dict[str, Any]:
    path = folder / "data/digits/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["train.npz"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    return config


def edited(method: str, change: Callable[[dict[str, Any]], Any]) -> Callable[..., dict[str, Any]]:
    """run.json of a method's runs is changed by hand."""

    def attack(folder: Path, config: dict[str, Any], _: pytest.MonkeyPatch) -> dict[str, Any]:
        for path in folder.glob(f"results/runs/tiny/{method}/*/*/*/run.json"):
            found = json.loads(path.read_text())
            change(found)
            path.write_text(json.dumps(found))
        return config

    return attack


def other_rounds(folder: Path, config: dict[str, Any], _: pytest.MonkeyPatch) -> dict[str, Any]:
    for path in folder.glob("results/runs/tiny/topk/*/*/*/rounds.csv"):
        path.write_text(path.read_text().replace(",0.", ",0.9", 1))
    return config


def a_pipe(folder: Path, config: dict[str, Any], _: pytest.MonkeyPatch) -> dict[str, Any]:
    """In run.json's place, which would be waited for."""
    for path in folder.glob("results/runs/tiny/topk/*/*/*/run.json"):
        path.unlink()
        os.mkfifo(path)
    return config


def swapped(folder: Path, config: dict[str, Any], _: pytest.MonkeyPatch) -> dict[str, Any]:
    """The two seeds of a method change places."""
    cell = folder / "results/runs/tiny/topk/keep-5e-2/epochs-1"
    for one, other in (("seed-1", "x"), ("seed-2", "seed-1"), ("x", "seed-2")):
        (cell / one).rename(cell / other)
    return config


# What is changed, and the methods whose runs are then not what is planned.
CHANGES: dict[str, tuple[Callable[..., dict[str, Any]], set[str]]] = {
    "nothing": (lambda folder, config, _: config, set()),
    "tau": (setting("tau", 0.06, "flare"), FLARE),
    "the learning rate": (setting("learning_rate", 0.2), BOTH),
    "the rounds": (setting("rounds", 3), BOTH),
    "the model": (setting("model_settings", {"width": 5, "hidden_layers": 1}), BOTH),
    "how it is dealt": (setting("partition", {"scheme": "contiguous", "samples_per_client": 41}), BOTH),
    "the code of a method": (other_code, FLARE),
    "the time of a file": (a_comment, set()),
    "the data": (other_data, BOTH),
    "threads": (top("threads", 2), BOTH),
    "the device": (top("device", "cuda"), BOTH),
    "checkpoints": (top("checkpoint", {"seconds": 1}), set()),
    "runs per job": (top("runs_per_job", 2), set()),
    "no origin": (edited("topk", lambda found: found.pop("made_from")), TOPK),
    "settings in run.json": (edited("topk", lambda found: found["config"].update(learning_rate=9.0)), TOPK),
    "code in run.json": (edited("topk", lambda found: found["made_from"].update(code="0" * 64)), TOPK),
    "threads in run.json": (edited("topk", lambda found: found["made_from"].update(threads=8)), TOPK),
    "status in run.json": (edited("topk", lambda found: found.update(status="whatever")), TOPK),
    "a pipe": (a_pipe, TOPK),
    "rounds.csv": (other_rounds, TOPK),
    "places": (swapped, TOPK),
}
DELETED = {"nothing": [], "tables": ["results/tables"], "a run": ["results/runs/tiny/flare/keep-5e-2/epochs-1/seed-1"]}
MOVED = ("nowhere", "copied without times", "two days ahead", "renamed")


@pytest.fixture
def fresh() -> Any:
    identity.code_digest.cache_clear()
    yield
    identity.code_digest.cache_clear()


@pytest.mark.parametrize(("deleted", "moved"), [*itertools.product(DELETED, MOVED)])
@pytest.mark.parametrize("change", CHANGES)
def test_what_agrees_is_finished_and_nothing_else_is(
    change: str, deleted: str, moved: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, copy_function=shutil.copy if moved == "copied without times" else shutil.copy2)
    attack, stale = CHANGES[change]
    config = attack(folder, copy.deepcopy(CONFIG), monkeypatch)
    for name in DELETED[deleted]:
        shutil.rmtree(folder / name)
    if moved == "renamed":
        folder = folder.rename(tmp_path / "elsewhere, again")
    if moved == "two days ahead":
        for path in folder.rglob("*.*"):
            os.utime(path, (4e9, 4e9))
    sweep = sweep_of(folder, config)
    for run in runs(config):
        gone = deleted == "a run" and (run.method, run.seed) == ("flare", 1)
        problem = sweep.run(run)
        if gone:
            assert problem == provenance.ABSENT
        else:
            assert bool(problem) == (f"tiny/{run.method}" in stale), problem
            assert problem != provenance.ABSENT
    told = of_tables.tables_problem(folder / "results/tables", sweep, runs(config))
    assert (told == provenance.ABSENT) if deleted == "tables" else bool(told) == bool(stale), told


def test_there_are_a_hundred_attacks() -> None:
    assert len(CHANGES) * len(DELETED) * len(MOVED) >= 100


# ---- what is set aside, and taken back ------------------------------------------------------------------------------


def test_a_run_that_was_set_aside_is_taken_back_and_not_trained_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs(CONFIG)[-1]
    folder = tmp_path / "run"
    shutil.copytree(finished / "results/runs" / run.folder, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    place = provenance.set_aside(folder)
    assert place is not None and place.name.startswith("old-") and not (folder / "run.json").exists()
    other = dataclasses.replace(run, learning_rate=0.3)
    train(other, data=finished / "data", output=folder, wandb="disabled")
    assert (folder / "rounds.csv").read_bytes() != before["rounds.csv"] and place.is_dir()
    provenance.set_aside(folder)
    capsys.readouterr()
    train(run, data=finished / "data", output=folder, wandb="disabled")
    assert "taken back" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert provenance.set_aside(tmp_path) is None


def test_other_code_than_was_planned_is_refused_in_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs(CONFIG)[0]
    command = ["train", *run.flags().split(), "--output", str(tmp_path / "out"), "--data", str(finished / "data")]
    assert cli.main([*command, "--code", "0" * 64, "--wandb", "disabled"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the code was changed since this run was planned" in said
    assert not (tmp_path / "out").exists()
    provenance.check_code(run, identity.digest_of(run))
    with pytest.raises(ConfigError, match="code was changed"):
        provenance.check_code(run, "1")


# ---- tables and what is shown ---------------------------------------------------------------------------------------


def test_tables_of_another_configuration_are_not_shown(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    def show(**more: Any) -> tuple[int, Any]:
        content = copy.deepcopy(CONFIG) | {"results": str(finished / "results"), "data": str(finished / "data")}
        content["experiments"]["tiny"] |= more
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
        capsys.readouterr()
        return cli.main(["show", str(tmp_path / "c.yaml")]), capsys.readouterr()

    code, said = show()
    assert code == 0, said.err
    for more in ({"learning_rate": 0.2}, {"seeds": [1, 2, 3]}, {"methods": {"topk": {}}}):
        code, said = show(**more)
        assert code == 2 and said.err.count("\n") == 1 and "not of this configuration" in said.err and not said.out


def test_a_table_edited_by_hand_is_not_believed(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    path = tmp_path / "copy/results/tables/runs.csv"
    path.write_text(path.read_text().replace(",1,", ",2,", 1))
    with pytest.raises(DataError, match=r"runs\.csv: not the table that was made"):
        of_tables.read(path.parent)
    assert of_tables.tables_problem(path.parent, sweep_of(tmp_path / "copy", CONFIG), runs(CONFIG))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": "0"}, "made with other code than "),
        ({"data": "0"}, "made with other data than "),
        ({"threads": 8}, "made with 8 torch threads, and "),
        ({"device": "cuda"}, "made with device cuda, and "),
    ],
)
def test_one_table_is_of_one_origin(change: dict[str, Any], words: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "results", tmp_path / "results")
    folders = [tmp_path / "results/runs" / run.folder for run in runs(CONFIG)]
    content = json.loads((folders[1] / "run.json").read_text())
    content["made_from"] |= change
    (folders[1] / "run.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        tables.tabulate(folders, tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_other_processors_and_uncommitted_code_are_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "results", tmp_path / "results")
    folders = [tmp_path / "results/runs" / run.folder for run in runs(CONFIG)]
    for number, folder in enumerate(folders):
        content = json.loads((folder / "run.json").read_text())
        content["git_commit"] = "a" * 40 + ("-dirty" if number == 2 else "")
        content["made_from"]["processor"] = "Z80" if number == 0 else "6502"
        (folder / "run.json").write_text(json.dumps(content))
    tables.tabulate(folders, tmp_path / "tables")
    said = capsys.readouterr().err
    assert "WARNING: runs of more than one processor, whose last bits may differ: Z80 (1); 6502 (3)" in said
    assert "WARNING: 1 of 4 runs are of code with changes that are in no commit" in said


# ---- studies --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished study of two batches of one trial, and the run that takes its best value."""
    folder = tmp_path_factory.mktemp("tuned")
    datasets.fetch("digits", folder / "data")
    config = copy.deepcopy(CONFIG)
    config["experiments"]["tiny"] |= {
        "seeds": [1],
        "methods": {"flare": {"tau": {"log": [1e-3, 1]}}},
        "tuning": {"seeds": [7], "batches": 2, "trials": 1},
    }
    (study,) = studies(config)
    place = folder / "results/tuning" / study.name
    common = ["--data", str(folder / "data"), "--wandb", "disabled"]
    for batch in range(2):
        flags = study.flags(whole=False)
        assert call("propose", flags, "--batch", str(batch), "--output", str(place)) == 0
        (run,) = study.runs(batch)
        values = ["--values", str(place / f"batch-{batch}/proposals.json")]
        assert call("train", run.flags(), *values, "--output", str(place / study.place(run)), *common) == 0
    assert call("tune", study.flags(), "--output", str(place), *common) == 0
    (run,) = runs(config)
    values = ["--values", str(place / "best.yaml")]
    assert call("train", run.flags(), *values, "--output", str(folder / "results/runs" / run.folder), *common) == 0
    return folder, config


def call(command: str, flags: str, *more: str) -> int:
    import shlex

    return cli.main([command, *shlex.split(flags), *more])


STUDY_ATTACKS: dict[str, tuple[bool, ...]] = {
    # Whether the proposals of both batches, the trials of both, the best values and the run are what is planned.
    "nothing": (True, True, True, True, True, True),
    "best.yaml by hand": (True, True, True, True, False, False),
    "the range": (False, False, False, False, False, False),
    "a trial's rounds": (True, False, False, False, False, False),
    "how values are proposed": (False, False, False, False, False, False),
    "the time of everything": (True, True, True, True, True, True),
    "trials that are gone": (True, True, True, True, True, True),
}


@pytest.mark.parametrize("attack", STUDY_ATTACKS)
def test_a_study_and_the_runs_that_report_it_agree(
    attack: str, tuned: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tuned[0], tmp_path / "copy")
    folder, config = tmp_path / "copy", copy.deepcopy(tuned[1])
    (study,) = studies(config)
    place = folder / "results/tuning" / study.name
    if attack == "best.yaml by hand":
        (place / "best.yaml").write_text((place / "best.yaml").read_text().replace("tau: 0.", "tau: 0.1"))
    elif attack == "the range":
        config["experiments"]["tiny"]["methods"]["flare"]["tau"] = {"log": [1e-3, 2]}
    elif attack == "a trial's rounds":
        path = place / study.place(study.runs(0)[0]) / "rounds.csv"
        path.write_text(path.read_text().replace(",0.", ",0.9", 1))
    elif attack == "how values are proposed":
        monkeypatch.setattr("flare.tuning.origin.code", lambda: "0")
    elif attack == "the time of everything":
        for path in folder.rglob("*.*"):
            os.utime(path, (4e9, 4e9))
    elif attack == "trials that are gone":
        shutil.rmtree(place / "batch-0/trial-0")
        shutil.rmtree(place / "batch-1")
    sweep = sweep_of(folder, config)
    (study,) = studies(config)
    (run,) = runs(config)
    found = [
        *(sweep.proposals(study, batch) for batch in range(2)),
        *(sweep.trial(study, study.runs(trial)[0]) for trial in range(2)),
        *(sweep.best(study), sweep.run(run)),
    ]
    gone = (provenance.ABSENT,) if attack == "trials that are gone" else ()
    assert tuple(problem in ("", *gone) for problem in found) == STUDY_ATTACKS[attack], found


# ---- threads, machines, commits -------------------------------------------------------------------------------------


def test_a_record_says_what_the_run_was_made_from(finished: Path) -> None:
    run = runs(CONFIG)[0]
    found = json.loads((finished / "results/runs" / run.folder / "run.json").read_text())
    made = found["made_from"]
    manifest = datasets.read_manifest("digits", finished / "data")
    assert made["settings"] == record.whole_digest(dataclasses.asdict(run)) and made["code"] == identity.digest_of(run)
    assert made["data"] == identity.data_digest(manifest) and (made["device"], made["threads"]) == ("cpu", 1)
    assert made["processor"] and made["instructions"] and made["resumed_from"] == []
    tuned = dataclasses.asdict(run) | {"tuned": {"learning_rate": 0.1}}
    assert record.whole_digest(tuned) != made["settings"]
    assert record.whole_digest(tuned) != record.whole_digest(tuned | {"tuned": {"learning_rate": 0.2}})


def test_a_checkpoint_of_another_machine_is_told_and_noted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = runs(CONFIG)[0], finished / "data"
    stop = checkpoint.Stop()

    def halt(row: dict[str, Any]) -> None:
        stop.signal = "SIGTERM"

    with pytest.raises(checkpoint.Interrupted):
        train(run, data=data, output=tmp_path, wandb="disabled", stop=stop, on_evaluate=halt)
    monkeypatch.setattr("flare.runs.machine._processor", lambda: "Z80")
    found = train(run, data=data, output=tmp_path, wandb="disabled")
    said = capsys.readouterr().err
    assert said.count("goes on from another machine (") == 1 and "here Z80" in said
    (other,) = found["made_from"]["resumed_from"]
    assert found["made_from"]["processor"] == "Z80" and other["processor"] != "Z80"


def test_threads_are_part_of_a_checkpoints_key(finished: Path) -> None:
    run, data = runs(CONFIG)[0], finished / "data"
    one, two = (identity.key_of(run, data, "cpu", threads) for threads in (1, 2))
    assert {name for name in one if one[name] != two[name]} == {"threads"}
    assert identity.key_of(run, data, "cuda:0", 2) == identity.key_of(run, data, "cuda:0", 1)


def test_a_repository_that_git_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = record.git_commit()
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert record.git_commit() == plain  # of the code that runs, whatever repository a variable names

    def refuse(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 128, "", "fatal: detected dubious ownership in repository\nmore\n")

    monkeypatch.setattr(record.subprocess, "run", refuse)
    monkeypatch.setattr(record.Path, "exists", lambda self: True)
    assert record.git_commit() is None
    assert capsys.readouterr().err == "no commit is recorded: detected dubious ownership in repository\n"


# ---- what lies around -----------------------------------------------------------------------------------------------


def test_the_sdks_own_switches_win_over_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment, mode in (
        ({}, "offline"),
        ({"WANDB_MODE": ""}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
    ):
        assert ambient.mode_of_wandb("offline", environment) == mode
    with pytest.raises(ConfigError, match="WANDB_MODE"):
        ambient.mode_of_wandb("offline", {"WANDB_MODE": "sometimes"})


def test_what_lies_around_is_not_handed_to_jobs() -> None:
    given = {
        "BASH_ENV": "x",
        "BASH_FUNC_python%%": "() { false; }",
        "WANDB_RUN_ID": "1",
        "WANDB_API_KEY": "k",
        "TZ": "UTC",
    }
    assert ambient.shut_out(given) == ["BASH_ENV", "BASH_FUNC_python%%", "WANDB_RUN_ID"]
    path = os.pathsep.join(("/packages", "", ".", "relative", "/root"))
    assert ambient.packages("/root", {"PYTHONPATH": path}) == os.pathsep.join(("/root", "/packages"))
    assert Path(ambient.matplotlibrc()).is_file()


def test_no_matplotlibrc_changes_a_byte_of_a_figure(tmp_path: Path) -> None:
    """Whether it lies in the working folder or a variable names it."""
    from synthetic import write_sweep

    tables.tabulate(write_sweep(tmp_path), tmp_path / "tables")
    (tmp_path / "plain").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/matplotlibrc").write_text("axes.facecolor: black\nlines.linewidth: 9\nfont.size: 30\n")
    for name in ("plain", "odd"):
        code = (
            "from flare import figures; from pathlib import Path; figures.save('accuracy_by_round', Path('../tables'),"
        )
        command = [sys.executable, "-c", f"{code} 'fashion-fc', Path('out'))"]
        environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
        subprocess.run(command, check=True, cwd=tmp_path / name, env=environment)
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"plain/out.{suffix}").read_bytes() == (tmp_path / f"odd/out.{suffix}").read_bytes()
