"""Tuning: ranges in the configuration, proposals, objectives, choosing, and the workflow that carries studies out."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import ROOT, environment, snakemake_command

from flare import cli, config, datasets
from flare.config import Run
from flare.datasets import partitions as partition
from flare.errors import ConfigError, DataError
from flare.runs import checkpoint, identity, train
from flare.runs.record import settings_digest
from flare.tuning import single, tables
from flare.tuning.conclude import best as best_of
from flare.tuning.conclude import conclude, edges, importances, read, warning
from flare.tuning.export import export
from flare.tuning.propose import propose, write_proposals
from flare.tuning.study import Study, Trial, fill, studies
from flare.tuning.trials import judge, read_values

CONFIG: dict[str, Any] = {
    "wandb": {"mode": "disabled"},
    "experiments": {
        "small": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 8, "hidden_layers": 1},
            "clients": 3,
            "partition": {"scheme": "contiguous", "samples_per_client": 50},
            "rounds": 4,
            "evaluate_every": 2,
            "batch_size": 20,
            "learning_rate": 0.1,
            "keep": ["5e-2"],
            "seeds": [1],
            "methods": {"topk": {}, "flare": {"tau": {"log": ["1e-4", 1]}, "tau_decay": 1.1}},
            "tuning": {"seeds": [7], "batches": 3, "trials": 2},
        }
    },
}


def changed(**more: Any) -> dict[str, Any]:
    out = copy.deepcopy(CONFIG)
    out["experiments"]["small"] |= more
    return out


def study_of(space: dict[str, Any] | None = None, **more: Any) -> Study:
    (study,) = studies(changed(methods={"flare": space or {"tau": {"log": [1e-4, 1]}}}))
    return dataclasses.replace(study, **more)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits without the test set."""
    folder = tmp_path_factory.mktemp("data")
    datasets.fetch("digits", folder)
    (folder / "digits" / "test.npz").unlink()
    return folder


# ---- the configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"methods": {"flare": {"tau": {"lag": [1, 2]}}}}, "a value, or a range to tune it in: {log: [low, high]}"),
        (
            {"methods": {"flare": {"tau": {"log": [1, 1]}}}},
            "tau.log: [1, 1] is not allowed; [low, high], two ascending",
        ),
        (
            {"methods": {"flare": {"tau": {"log": [0, 1]}}}},
            "tau.log: [0, 1] is not allowed; [low, high], two ascending",
        ),
        ({"methods": {"flare": {"tau": {"linear": [-1, 1]}}}}, "tau: -1 is not allowed; a number, at least 0"),
        ({"methods": {"flare": {"tau": {"choices": [0.1]}}}}, "choices: [0.1] is not allowed; two different values"),
        ({"methods": {"flare": {"pull_steps": {"linear": [1, "all"]}}}}, "linear: [1, 'all'] is not allowed"),
        ({"methods": {"flare": {"momentum": {"linear": [0, 1]}}}}, "momentum: 1 is not allowed; a number, 0 or more"),
        ({"methods": {"flare": {"tua": {"log": [1, 2]}}}}, "'tua' is unknown (did you mean 'tau'?)"),
        ({"methods": {"topk": {"tau": {"log": [1, 2]}}}}, "'tau' is unknown"),
        ({"tuning": {"seeds": [1, 7]}}, "tuning.seeds: 1 is not allowed; other seeds than the experiment's"),
        ({"tuning": {"seeds": [7], "batchs": 2}}, "'batchs' is unknown (did you mean 'batches'?)"),
        ({"tuning": {"seeds": [7], "validation": 1}}, "validation: 1 is not allowed; a share"),
        ({"tuning": {"seeds": [7], "methods": {"topk": {"trials": 2}}}}, "tuning.methods: 'topk' is unknown"),
        ({"tuning": {}}, "'seeds' is missing"),
    ],
)
def test_a_mistake_is_one_line(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check(changed(**more))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_range_needs_a_budget() -> None:
    content = changed()
    del content["experiments"]["small"]["tuning"]
    with pytest.raises(ConfigError, match=r"is a range, so experiments\.small\.tuning is needed: at least \{seeds"):
        config.check(content)


def test_a_study_per_cell_with_equal_budgets_unless_said_otherwise() -> None:
    methods = {
        "fedavg": {"learning_rate": {"log": [0.01, 1]}},
        "topk": {"learning_rate": 0.2},
        "flare": {"tau": {"log": [1e-4, 1]}},
        "fedprox": {"mu": {"choices": [0, 0.5]}},
    }
    content = changed(methods=methods, keep=["5e-2", "0.5"], local_epochs=[1, 2])
    config.check(content)
    found = studies(content)
    assert [study.name for study in found] == [
        *(f"small/fedavg/keep-dense/epochs-{epochs}" for epochs in (1, 2)),
        *(f"small/{m}/keep-{k}/epochs-{e}" for m in ("flare", "fedprox") for k in ("5e-2", "0.5") for e in (1, 2)),
    ]
    assert {(study.batches, study.trials, tuple(study.seeds)) for study in found} == {(3, 2, (7,))}
    content["experiments"]["small"]["tuning"]["methods"] = {"flare": {"batches": 8}}
    assert {study.batches for study in studies(content) if "/flare/" in study.name} == {8}
    assert {study.batches for study in studies(content) if "/flare/" not in study.name} == {3}


def test_a_value_bypasses_tuning() -> None:
    content = changed(methods={"flare": {"tau": 0.5}})
    config.check(content)
    assert studies(content) == []
    assert [run.tuned for run in config.runs(content)] == [{}]


def test_an_open_setting_has_no_value_on_the_command_line_and_fill_gives_it_one(tmp_path: Path) -> None:
    space = {"tau": {"log": [1e-4, 1]}, "learning_rate": {"log": [0.01, 1]}}
    (run,) = config.runs(changed(methods={"flare": space}))
    flags = run.flags()
    assert "--learning-rate" not in flags and " tau=null learning_rate=null" in flags
    assert " tau=" not in flags.replace("--tuned tau=", "")
    filled = fill(run, {"tau": 0.25, "learning_rate": 0.5})
    assert (filled.learning_rate, filled.method_settings["tau"]) == (0.5, 0.25)
    assert filled.tuned == {"tau": 0.25, "learning_rate": 0.5}
    with pytest.raises(DataError, match="to be tuned"):
        fill(run, {"tau": 0.25})


def test_checking_a_configuration_does_not_import_optuna() -> None:
    code = "import sys; from flare import config; from flare.tuning import conclude, export, single, study, tables;"
    code += f"study.studies({CONFIG!r}); config.check({CONFIG!r});"
    subprocess.run([sys.executable, "-c", code + "sys.exit('optuna' in sys.modules)"], cwd=ROOT, check=True)


# ---- proposing and choosing -----------------------------------------------------------------------------------------


def search(study: Study, objective: Any) -> list[Trial]:
    done: list[Trial] = []
    for _ in range(study.batches):
        for values in propose(study, done, study.trials):
            done = [*done, Trial(len(done), values, "complete", {7: objective(values)})]
        assert len(done) % study.trials == 0
    return done


@pytest.mark.parametrize(("batches", "trials"), [(4, 6), (8, 3)])
@pytest.mark.parametrize("optimum", [0.08, 0.37, 0.71])
def test_the_optimum_is_found_within_five_percent_in_24_trials(optimum: float, batches: int, trials: int) -> None:
    low, high = 1e-4, 1.0

    def share(values: dict[str, Any]) -> float:
        return math.log(values["tau"] / low) / math.log(high / low)

    for seed in range(3):
        study = study_of(batches=batches, trials=trials, seed=seed)
        done = search(study, lambda values: 0.9 - (share(values) - optimum) ** 2)
        assert len(done) == 24
        assert abs(share(best_of(study, done).values) - optimum) < 0.05
    worse = study_of(batches=batches, trials=trials, objective="loss")
    done = search(worse, lambda values: (share(values) - optimum) ** 2)
    assert abs(share(best_of(worse, done).values) - optimum) < 0.05


def test_proposals_depend_on_the_results_before_and_the_seed_alone() -> None:
    study = study_of({"tau": {"log": [1e-4, 1]}, "learning_rate": {"log": [0.01, 1]}}, trials=4)
    first = propose(study, [], 4)
    assert first == propose(study, [], 4) != propose(dataclasses.replace(study, seed=1), [], 4)
    done = [Trial(n, values, "complete", {7: 0.1 * n}) for n, values in enumerate(first)]
    second = propose(study, done, 4)
    assert second == propose(study, done, 4)
    other = [dataclasses.replace(trial, measured={7: -trial.measured[7]}) for trial in done]
    assert second != propose(study, other, 4)
    # A longer study goes on with the same trials.
    assert second == propose(dataclasses.replace(study, batches=9), done, 4)
    for values in second:
        assert 1e-4 <= values["tau"] <= 1 and 0.01 <= values["learning_rate"] <= 1
        assert all(float(f"{value:.4g}") == value for value in values.values())


def test_the_first_trials_leave_no_part_of_a_range_out() -> None:
    space = {
        "tau": {"log": [1e-4, 1]},
        "percentile": {"linear": [0, 100]},
        "pull_steps": {"linear": [1, 4]},
        "not_pulled": {"choices": ["none", "embedding"]},
    }
    del space["not_pulled"]
    points = propose(study_of(space, trials=4), [], 4)
    assert sorted(int(4 * math.log(point["tau"] / 1e-4) / math.log(1e4)) for point in points) == [0, 1, 2, 3]
    assert sorted(int(point["percentile"] / 25) for point in points) == [0, 1, 2, 3]
    assert sorted(point["pull_steps"] for point in points) == [1, 2, 3, 4]
    json.dumps(points)
    words = study_of({"pull_steps": {"choices": [1, 2, "all", 3]}}, trials=4)
    first = propose(words, [], 4)
    assert {point["pull_steps"] for point in first} == {1, 2, 3, "all"}
    done = [Trial(n, values, "complete", {7: float(values["pull_steps"] == "all")}) for n, values in enumerate(first)]
    assert all(point["pull_steps"] in (1, 2, 3, "all") for point in propose(words, done, 4))


def record(accuracy: float | None, status: str = "finished") -> dict[str, Any]:
    return {"status": status, "final_accuracy": accuracy, "final_loss": None if accuracy is None else 1 - accuracy}


def test_the_objective_is_the_mean_over_seeds_and_a_diverged_run_spoils_its_trial() -> None:
    study = study_of(seeds=[7, 8])
    trial = judge(study, 3, {"tau": 1.0}, {7: record(0.5), 8: record(0.75)})
    assert (trial.state, trial.objective) == ("complete", 0.625)
    losses = dataclasses.replace(study, objective="loss")
    assert judge(losses, 3, {"tau": 1.0}, {7: record(0.5), 8: record(0.75)}).objective == 0.375
    lost = judge(study, 3, {"tau": 1.0}, {7: record(0.5), 8: record(0.9, "diverged")})
    assert (lost.state, lost.objective, lost.measured) == ("diverged", None, {7: 0.5})


def test_the_best_is_complete_and_the_earliest_and_divergence_repels() -> None:
    study = study_of(trials=4)
    values = [{"tau": tau} for tau in (0.001, 0.01, 0.1, 0.9)]
    lost = Trial(0, values[0], "diverged", {7: 0.99})
    done = [lost, *(Trial(n, values[n], "complete", {7: accuracy}) for n, accuracy in ((1, 0.5), (2, 0.7), (3, 0.7)))]
    assert best_of(study, done).number == 2
    with pytest.raises(DataError, match="none of its 1 trials has a result"):
        best_of(study, [lost])
    # Everything above 0.01 diverged: what comes next is mostly below.
    done = [Trial(n, {"tau": 10 ** (-n / 2)}, "diverged" if n < 4 else "complete", {7: 0.5}) for n in range(8)]
    proposed = [v["tau"] for seed in range(5) for v in propose(dataclasses.replace(study, seed=seed), done, 4)]
    assert np.mean(np.array(proposed) < 10**-1.5) > 0.7


def test_a_best_value_at_the_edge_is_warned_of() -> None:
    study = study_of({"tau": {"log": [1e-4, 1]}, "percentile": {"linear": [0, 100]}})
    # 5 % of four decades is a fifth of one.
    assert edges(study, {"tau": 10**-3.79, "percentile": 6.0}) == {}
    assert edges(study, {"tau": 10**-3.81, "percentile": 96.0}) == {"tau": "lower", "percentile": "upper"}
    assert "percentile = 96.0 lies at the upper end of its range [0.0, 100.0]" in warning(
        study, {"tau": 0.1, "percentile": 96.0}
    )


def test_the_files_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of({"tau": {"log": [1e-5, 1]}, "learning_rate": {"log": [0.01, 1]}}, seeds=[7, 8], trials=2)
    rows = [(1e-5, 0.5, 0.25), (0.8, 0.75, 0.5), (0.7, 0.25, 0.5), (0.02, 0.5, 0.5), (0.9, 0.1, 0.3)]
    trials = [
        Trial(n, {"tau": tau, "learning_rate": 0.1 + n / 10}, "complete", {7: one, 8: other})
        for n, (tau, one, other) in enumerate(rows)
    ]
    trials.append(Trial(5, {"tau": 0.3, "learning_rate": 0.9}, "diverged", {8: 0.5}))
    conclude(study, tmp_path / "a/b/keep-1/epochs-1", trials)
    folder = tmp_path / "a/b/keep-1/epochs-1"
    assert (folder / "trials.csv").read_text().splitlines()[:2] == [
        "trial,batch,tau,learning_rate,state,objective,seed_7,seed_8",
        "0,0,1.0e-05,0.1,complete,0.375,0.5,0.25",
    ]
    assert (folder / "trials.csv").read_text().splitlines()[-1] == "5,2,0.3,0.9,diverged,,,0.5"
    assert yaml.safe_load((folder / "best.yaml").read_text())["values"] == {"tau": 0.8, "learning_rate": 0.2}
    about, again = read(folder)
    assert again == trials and about["best_trial"] == 1
    said = capsys.readouterr()
    assert "tau = 0.8, learning_rate = 0.2 with a validation accuracy of 0.6250; 1 diverged" in said.out
    assert (
        "WARNING" not in said.out and said.err.startswith("WARNING: ") and "tau = 0.8 lies at the upper end" in said.err
    )


def test_importances_are_left_out_if_chance_decides_them(tmp_path: Path) -> None:
    """And the table says so; trials that diverged count for nothing."""
    study = study_of({"tau": {"linear": [0.0, 1.0]}, "learning_rate": {"linear": [0.01, 1.0]}}, seeds=[7], trials=12)
    trials = [
        Trial(n, {"tau": n / 12, "learning_rate": 0.05 + n * 5 % 12 / 12}, "complete", {7: n / 20 + n * 5 % 12 / 90})
        for n in range(12)
    ]
    lost = [dataclasses.replace(trial, state="diverged") if trial.number in (2, 5, 8) else trial for trial in trials]
    said = {}
    for name, found in (("enough", trials), ("few", lost)):
        folder = tmp_path / name / "a/b/keep-1/epochs-1"
        conclude(study, folder, found)
        shares = importances(*read(folder))
        assert set(shares) == ({"tau", "learning_rate"} if name == "enough" else set())
        if shares:
            assert sum(shares.values()) == pytest.approx(1) and shares["tau"] > 0.7
        tables.tabulate([folder], tmp_path / name / "studies")
        said[name] = (tmp_path / name / "studies.md").read_text()
    assert "tau = 0." in said["enough"].splitlines()[2].split("|")[-3]
    assert not said["few"].splitlines()[2].split("|")[-3].strip()
    assert all("nor of fewer than 10 complete trials" in text for text in said.values())


def test_studies_become_a_table_and_an_optuna_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = study_of({"tau": {"log": [1e-4, 1]}}, trials=2, batches=2)
    states = ("complete", "complete", "diverged", "complete")
    trials = [Trial(n, {"tau": 0.001 * 9**n}, state, {7: 0.1 * n}) for n, state in enumerate(states)]
    folder = tmp_path / study.name
    conclude(study, folder, trials)
    tables.tabulate([folder], tmp_path / "studies")
    header, row = (tmp_path / "studies.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=False))
    assert (found["trials"], found["seeds"], found["runs"], found["diverged"]) == ("4", "1", "4", "1")
    assert found["best"] == "tau = 0.729" and "tau = 0.729 lies at the upper end" in row
    assert "WARNING" in capsys.readouterr().out
    assert "| small | FLARE | 5e-2 | 1 | 4 | 1 | 4 | 1 | 0 |" in (tmp_path / "studies.md").read_text()
    tables.tabulate([folder], tmp_path / "known", [study.digest])
    assert (tmp_path / "known.csv").read_bytes() == (tmp_path / "studies.csv").read_bytes()
    changes = (
        {"space": {"tau": {"log": [1e-4, 2]}}},
        {"seeds": (8,)},
        {"run": dataclasses.replace(study.run, clients=9)},
    )
    for change in changes:
        with pytest.raises(DataError, match=rf"^{folder}: a study of other settings"):
            tables.tabulate([folder], tmp_path / "other", [dataclasses.replace(study, **change).digest])
    assert not (tmp_path / "other.csv").exists()

    url = f"sqlite:///{tmp_path}/db.sqlite"
    for _ in range(2):  # a second time replaces them
        export([folder], tmp_path / "journal.log", url)
    for storage in (JournalStorage(JournalFileBackend(str(tmp_path / "journal.log"))), url):
        loaded = optuna.load_study(study_name=study.name, storage=storage)
        assert [trial.params["tau"] for trial in loaded.trials] == [trial.values["tau"] for trial in trials]
        assert [trial.state.name for trial in loaded.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
        assert loaded.best_trial.number == 3
    with pytest.raises(DataError, match=f"the study {study.name} a second time"):
        export([folder, folder], tmp_path / "journal.log")
    with pytest.raises(DataError) as caught:
        export([folder], tmp_path / "journal.log", "postgresql://me:secret@nowhere.invalid/x")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


EDITS: dict[str, tuple[str, str, str, str]] = {
    "its value": ("best.yaml", "value: 0.5", "value: 0.9", "best.yaml: value is 0.9, and 0.5 by trials.csv"),
    "what it found": ("best.yaml", "tau: 0.1", "tau: 0.2", "best.yaml: values is {'tau': 0.2}, and {'tau': 0.1}"),
    "its trial": ("best.yaml", "trial: 1", "trial: 0", "best.yaml: trial is 0, and 1 by trials.csv"),
    "a result": ("trials.csv", ",0.25,0.25", ",0.75,0.75", "study.json: best_trial is 1, and 0 by trials.csv"),
    "a seed's result": ("trials.csv", ",0.25,0.25", ",0.25,0.75", "objective is not the mean of its seeds"),
    "no number": ("trials.csv", ",0.25,0.25", ",nan,nan", "a state or a number that is none"),
    "a state": ("trials.csv", "complete,0.25", "whatever,0.25", "a state or a number that is none"),
    "a trial lost": ("trials.csv", "0,0,0.01,complete,0.25,0.25\n", "", "trials are missing"),
    "which is best": ("study.json", '"best_trial": 1', '"best_trial": 0', "best_trial is 0, and 1 by trials.csv"),
    "its file": ("best.yaml", "tau: 0.1", "tau: [", "not a best.yaml of a study"),
    "text for a number": ("best.yaml", "value: 0.5", "value: much", "not a best.yaml of a study (value: 'much')"),
    "a number that is none": ("study.json", '"validation": 0.2', '"validation": NaN', "NaN is no number"),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_study_is_one_line_for_runs_and_tables(case: str, tmp_path: Path) -> None:
    study = study_of({"tau": {"log": [1e-4, 1]}}, trials=2)
    folder = tmp_path / study.name
    trials = [
        Trial(n, {"tau": tau}, "complete", {7: value}) for n, (tau, value) in enumerate([(0.01, 0.25), (0.1, 0.5)])
    ]
    conclude(study, folder, trials)
    assert read_values(folder / "best.yaml", study.name) == {"tau": 0.1}
    name, old, new, words = EDITS[case]
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    for reader in (
        lambda: read_values(folder / "best.yaml", study.name),
        lambda: tables.tabulate([folder], tmp_path / "studies"),
        lambda: export([folder], tmp_path / "journal.log"),
    ):
        with pytest.raises(DataError) as caught:
            reader()
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("studies*")) and not (tmp_path / "journal.log").exists()


def test_a_best_yaml_that_multiplies_is_one_line_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of()
    conclude(study, tmp_path, [Trial(0, {"tau": 0.03}, "complete", {7: 0.5})])
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(10)]
    (tmp_path / "best.yaml").write_text("\n".join([*lines, f"study: {study.name}", "values: {tau: *a9}", ""]))
    begun = time.monotonic()
    command = ["train", *shlex.split(study.run.flags()), "--output", str(tmp_path / "run"), "--wandb", "disabled"]
    assert cli.main([*command, "--values", str(tmp_path / "best.yaml")]) == 2
    said = capsys.readouterr().err
    assert time.monotonic() - begun < 30 and said.count("\n") == 1 and "not a best.yaml of a study" in said


def test_only_a_sweeps_own_studies_are_replaced_in_a_database(tmp_path: Path) -> None:
    import optuna

    study, url = study_of({"tau": {"log": [1e-4, 1]}}, trials=2), f"sqlite:///{tmp_path}/db.sqlite"
    mine, theirs = tmp_path / "mine" / study.name, tmp_path / "theirs" / study.name
    for folder, value in ((mine, 0.5), (theirs, 0.75)):
        conclude(study, folder, [Trial(n, {"tau": 0.1}, "complete", {7: value}) for n in range(2)])
    optuna.create_study(storage=url, study_name="somebody/elses/keep-1/epochs-1").add_trial(
        optuna.create_trial(value=1.0)
    )
    export([mine], tmp_path / "mine/journal.log", url)
    with pytest.raises(
        DataError, match=f"^storage: a study {study.name} is there that this sweep did not make"
    ) as caught:
        export([theirs], tmp_path / "theirs/journal.log", url)
    assert "\n" not in str(caught.value)
    assert optuna.load_study(study_name=study.name, storage=url).best_value == 0.5
    # One's own is replaced, also after its results were moved.
    conclude(study, mine, [Trial(n, {"tau": 0.2}, "complete", {7: 0.25}) for n in range(2)])
    (tmp_path / "mine").rename(tmp_path / "moved")
    export([tmp_path / "moved" / study.name], tmp_path / "moved/journal.log", url)
    assert optuna.load_study(study_name=study.name, storage=url).best_value == 0.25
    # The very same trials may take their own place, whoever made them.
    export([tmp_path / "moved" / study.name], tmp_path / "again/journal.log", url)
    assert len(optuna.load_study(study_name="somebody/elses/keep-1/epochs-1", storage=url).trials) == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_trials_of_equal_values_are_trained_once(
    at_once: bool, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if they are started together: the second waits for the first."""
    study = study_of({"pull_steps": {"choices": [1, "all"]}}, trials=3, batches=1)
    write_proposals(study, tmp_path, 0)
    proposals = tmp_path / "batch-0/proposals.json"
    values = [read_values(proposals, study.name, number)["pull_steps"] for number in range(3)]
    assert len(set(values)) == 2
    twice = [number for number in range(3) if values.count(values[number]) == 2]
    places, processes = {}, []
    for number in (*twice[::-1], *({0, 1, 2} - set(twice))):  # the later trial first
        (run,) = study.runs(number)
        places[number] = tmp_path / study.place(run)
        command = ["train", *shlex.split(run.flags()), "--values", str(proposals), "--output", str(places[number])]
        command += ["--data", str(data), "--wandb", "disabled"]
        if at_once:
            program = [sys.executable, "-m", "flare", *command]
            processes.append(subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment()))
        else:
            assert cli.main(command) == 0
    said = "".join(process.communicate(timeout=300)[0] for process in processes) + capsys.readouterr().out
    assert said.count("round 1/4") == 2 and said.count("; its run is taken") == 1
    one, other = (places[number] for number in twice)
    assert (one / "rounds.csv").read_bytes() == (other / "rounds.csv").read_bytes()
    single.tune(study, tmp_path)  # which holds every run to its trial
    assert "1 of 3 trials have the values of an earlier one" in capsys.readouterr().err
    # A run that is not what the other trial's must be is not taken.
    record = json.loads((one / "run.json").read_text())
    (one / "run.json").write_text(json.dumps(record | {"made_from": record["made_from"] | {"code": "0" * 64}}))
    (other / "run.json").unlink()
    (run,) = study.runs(twice[1])
    command = ["train", *shlex.split(run.flags()), "--values", str(proposals), "--output", str(other)]
    assert cli.main([*command, "--data", str(data), "--wandb", "disabled"]) == 0
    assert "round 1/4" in capsys.readouterr().out


def test_trials_of_equal_values_are_carried_out_once_in_a_single_process(tmp_path: Path) -> None:
    study = study_of({"tau": {"choices": [0.01, 0.1]}}, trials=3, batches=2, mode="single")
    made = Made()
    single.tune(study, tmp_path, made)
    assert made.calls == 2
    _, trials = read(tmp_path)
    assert len(trials) == 6 and len({trial.objective for trial in trials}) == 2


def test_a_trial_is_held_to_its_rows(data: Path, tmp_path: Path) -> None:
    study = study_of(trials=1, batches=1)
    write_proposals(study, tmp_path, 0)
    (run,) = study.runs(0, read_values(tmp_path / "batch-0/proposals.json", study.name, 0))
    folder = tmp_path / study.place(run)
    train.train(run, data=data, output=folder, wandb="disabled")
    whole = (folder / "run.json").read_text()
    single.tune(study, tmp_path)
    record = json.loads(whole)
    changes: tuple[dict[str, Any], ...] = (
        {"final_accuracy": 0.999},
        {"final_accuracy": None},
        {"final_accuracy": math.nan},
        {"status": "whatever"},
        {"status": "diverged"},
        {"evaluated_on": "test"},
        {"config": record["config"] | {"trial": None, "validation": None}},
    )
    for change in changes:
        (folder / "run.json").write_text(json.dumps(record | change))
        with pytest.raises(DataError, match=str(folder)) as caught:
            single.tune(study, tmp_path)
        assert "\n" not in str(caught.value)


# ---- runs on held-out samples ---------------------------------------------------------------------------------------


def test_every_client_holds_out_a_share_of_its_own_samples() -> None:
    parts = [np.arange(0, 50), np.arange(50, 53), np.array([60])]
    kept, held = partition.hold_out(parts, 0.2, 3)
    assert [len(part) for part in kept] == [40, 2, 1]
    assert len(held) == 11 and sorted(np.concatenate([*kept, held])) == sorted(np.concatenate(parts))
    assert all(set(own) <= set(part) and list(own) == sorted(own) for own, part in zip(kept, parts, strict=True))
    again, other = partition.hold_out(parts, 0.2, 3), partition.hold_out(parts, 0.2, 4)
    assert np.array_equal(again[1], held) and not np.array_equal(other[1], held)
    with pytest.raises(ConfigError, match=r"validation: 0\.2 is not allowed; every client has a single sample"):
        partition.hold_out([np.array([1]), np.array([2])], 0.2, 3)


def test_a_trial_works_without_the_test_set_and_a_reported_run_does_not(data: Path, tmp_path: Path) -> None:
    study = study_of()
    (run,) = study.runs(0, {"tau": 0.1})
    assert (run.trial, run.validation, run.seed) == (0, 0.2, 7)
    found = train.train(run, data=data, output=tmp_path / "trial", wandb="disabled")
    assert (
        found["evaluated_on"] == "validation" and found["tuned"] is False and found["config"]["tuned"] == {"tau": 0.1}
    )
    # 3 clients hold out 10 of their 50 samples each.
    assert found["final_accuracy"] * 30 == pytest.approx(round(found["final_accuracy"] * 30))
    with pytest.raises(DataError, match=r"test\.npz: missing"):
        train.train(fill(study.run, {"tau": 0.1}), data=data, output=tmp_path / "run", wandb="disabled")


def test_a_tuned_run_takes_its_values_from_the_file_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.fetch("digits", tmp_path)
    study = study_of({"tau": {"log": [1e-4, 1]}, "learning_rate": {"log": [0.01, 1]}})
    conclude(study, tmp_path, [Trial(0, {"tau": 0.03, "learning_rate": 0.2}, "complete", {7: 0.5})])
    command = ["train", *shlex.split(study.run.flags()), "--data", str(tmp_path), "--wandb", "disabled"]
    assert cli.main([*command, "--output", str(tmp_path / "run")]) == 2
    assert "have no values; --values best.yaml of small/flare/keep-5e-2/epochs-1" in capsys.readouterr().err
    assert cli.main([*command, "--output", str(tmp_path / "run"), "--values", str(tmp_path / "best.yaml")]) == 0
    found = json.loads((tmp_path / "run/run.json").read_text())
    assert found["tuned"] is True and found["study"] == study.name and found["evaluated_on"] == "test"
    assert found["config"]["tuned"] == {"tau": 0.03, "learning_rate": 0.2}
    assert found["config"]["learning_rate"] == 0.2 and found["config"]["method_settings"]["tau"] == 0.03
    # The same values, given literally, are the same run.
    plain = dataclasses.replace(fill(study.run, found["config"]["tuned"]), tuned={})
    literal = train.train(plain, data=tmp_path, output=tmp_path / "plain", wandb="disabled")
    assert literal["result_hash"] == found["result_hash"] and literal["tuned"] is False and literal["study"] is None

    other = [word.replace("5e-2", "0.5") for word in command]
    assert cli.main([*other, "--output", str(tmp_path / "x"), "--values", str(tmp_path / "best.yaml")]) == 2
    assert "of the study small/flare/keep-5e-2/epochs-1, and small/flare/keep-0.5/epochs-1 is meant" in (
        capsys.readouterr().err
    )


def test_results_of_another_proposal_are_refused(data: Path, tmp_path: Path) -> None:
    study = study_of(trials=1, batches=1)
    write_proposals(study, tmp_path, 0)
    with pytest.raises(DataError, match="this run of trial 0 is not finished"):
        single.tune(study, tmp_path)
    (wrong,) = study.runs(0, {"tau": 0.123})
    train.train(wrong, data=data, output=tmp_path / study.place(wrong), wandb="disabled")
    with pytest.raises(DataError, match="of another run than trial 0, seed 7"):
        single.tune(study, tmp_path)


class Made:
    """Stands for training: accuracy after rounds 0, 1 and 2 rises to a level that depends on tau; counts its calls."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls = 0
        self.stop_after = stop_after

    def __call__(self, run: Run, *, output: Path, on_evaluate: Any) -> dict[str, Any]:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        level = 0.9 - abs(math.log10(run.tuned["tau"]) + 2) / 5 + run.seed / 1000
        if run.tuned["tau"] > 0.5:
            return record(None, "diverged")
        for round_ in range(3):
            so_far = level * (round_ + 1) / 3
            on_evaluate({"round": round_, "test_accuracy": so_far, "test_loss": 1 - so_far})
        return record(level)


def test_one_process_prunes_goes_on_after_interruption_and_ends_the_same(tmp_path: Path) -> None:
    study = study_of(mode="single", seeds=[7, 8], batches=5, trials=4, seed=3)
    whole = Made()
    single.tune(study, tmp_path / "whole", whole)
    _, trials = read(tmp_path / "whole")
    states = [trial.state for trial in trials]
    assert len(trials) == 20 and "pruned" in states and states[:4].count("pruned") == 0
    assert whole.calls < 40
    best = yaml.safe_load((tmp_path / "whole/best.yaml").read_text())
    assert abs(math.log10(best["values"]["tau"]) + 2) < 0.2  # 5 % of four decades

    with pytest.raises(KeyboardInterrupt):
        single.tune(study, tmp_path / "cut", Made(stop_after=whole.calls // 2))
    rest = Made()
    single.tune(study, tmp_path / "cut", rest)
    assert rest.calls < 0.6 * whole.calls + 2
    for name in ("trials.csv", "best.yaml", "study.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("objective", ["accuracy", "loss"])
def test_what_the_pruner_is_told_is_the_mean_over_the_seeds_so_far(objective: str, tmp_path: Path) -> None:
    """Three seeds of very different levels, of three rounds each: told in steps 0 to 8, at 1, at 3, and 1 / 2 / 3."""
    study = study_of(mode="single", seeds=[7, 8, 9], batches=1, trials=1, objective=objective)
    rounds = study.run.rounds
    levels = {7: (0.1, 0.2, 0.3), 8: (0.7, 0.8, 0.9), 9: (0.4, 0.5, 0.6)}

    def train(run: Run, *, output: Path, on_evaluate: Any) -> dict[str, Any]:
        for round_, value in enumerate(levels[run.seed]):
            on_evaluate({"round": round_, "test_accuracy": value, "test_loss": value})
        return {"status": "finished", "final_accuracy": levels[run.seed][-1], "final_loss": levels[run.seed][-1]}

    single.tune(study, tmp_path, train)
    told = json.loads(next(tmp_path.rglob("trial.json")).read_text())
    means = [0.1, 0.2, 0.3, (0.3 + 0.7) / 2, (0.3 + 0.8) / 2, (0.3 + 0.9) / 2]
    means += [(0.3 + 0.9 + value) / 3 for value in levels[9]]
    steps = [place * rounds + round_ for place in range(3) for round_ in range(3)]
    assert {int(step): value for step, value in told["reports"].items()} == pytest.approx(
        dict(zip(steps, means, strict=True))
    )
    assert told["state"] == "complete" and told["measured"] == {"7": 0.3, "8": 0.9, "9": 0.6}


OTHERS = {
    **{"space": {"tau": {"log": [1e-3, 1]}}, "seeds": [7], "batches": 5, "trials": 5, "validation": 0.3},
    **{"objective": "loss", "mode": "single", "seed": 9},
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Study)])
def test_every_field_of_a_study_is_in_its_digest_and_its_flags(field: str) -> None:
    study = study_of(seeds=[7, 8], seed=3)
    value = dataclasses.replace(study.run, batch_size=21) if field == "run" else OTHERS[field]
    other = dataclasses.replace(study, **{field: value})
    assert other.digest != study.digest and other.flags() != study.flags()
    # What is proposed for a batch does not depend on how many batches there are, or where they are carried out.
    assert (other.flags(whole=False) == study.flags(whole=False)) == (field in ("batches", "mode"))


def test_one_process_begins_anew_where_the_objective_the_code_or_the_data_changed(tmp_path: Path) -> None:
    study = study_of(mode="single", seeds=[7, 8], batches=2, trials=4)

    def calls(of: Study, digest: str) -> int:
        made = Made()
        single.tune(of, tmp_path, made, lambda run: {"run": dataclasses.asdict(run), "code": digest})
        return made.calls

    first = calls(study, "one")
    assert first > 0 and calls(study, "one") == 0
    assert calls(study, "two") == first
    assert calls(dataclasses.replace(study, objective="loss"), "two") > 0


def test_one_process_interrupted_within_a_run_ends_the_same_without_the_test_set(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"tau": {"log": [1e-4, 1]}, "learning_rate": {"log": [1e-3, 1]}}
    study = study_of(space, mode="single", seeds=[7, 8], batches=3, trials=4)

    def tune(folder: Path) -> int:
        words = ["tune", *shlex.split(study.flags()), "--output", str(folder), "--data", str(data)]
        return cli.main([*words, "--wandb", "disabled"])

    assert tune(tmp_path / "whole") == 0
    _, trials = read(tmp_path / "whole")
    assert len(trials) == 12 and "pruned" in [trial.state for trial in trials]

    # Told to end after the second evaluation of the second run of the second trial.
    stop, evaluations = checkpoint.Stop(), 0

    def until_told(run: Run, *, output: Path, on_evaluate: Any) -> dict[str, Any]:
        def report(row: dict[str, Any]) -> None:
            nonlocal evaluations
            on_evaluate(row)
            evaluations += 1
            stop.signal = "SIGTERM" if evaluations == 3 * 3 + 2 else None

        return train.train(run, data=data, output=output, wandb="disabled", stop=stop, on_evaluate=report)

    with pytest.raises(checkpoint.Interrupted):
        single.tune(study, tmp_path / "cut", until_told, functools.partial(identity.key_of, data=data, device="cpu"))
    kept = tmp_path / "cut/batch-0/trial-0/trial.json"
    before = kept.stat().st_mtime_ns
    capsys.readouterr()
    assert tune(tmp_path / "cut") == 0
    assert ", going on after round 3" in capsys.readouterr().out and kept.stat().st_mtime_ns == before

    def files(folder: Path) -> dict[str, bytes]:
        found = [*folder.glob("*.*"), *folder.glob("*/*/trial.json"), *folder.glob("*/*/*/rounds.csv")]
        assert len(found) > 3 + 12 and not list(folder.rglob("checkpoint*"))
        return {str(file.relative_to(folder)): file.read_bytes() for file in found}

    assert files(tmp_path / "cut") == files(tmp_path / "whole")


# ---- the workflow ---------------------------------------------------------------------------------------------------

SWEEP = changed(tuning={"seeds": [7, 8], "batches": 4, "trials": 3})
BEST = "results/tuning/small/flare/keep-5e-2/epochs-1/best.yaml"
REPORTED = "results/runs/small/flare/keep-5e-2/epochs-1/seed-1/run.json"


def command(folder: Path, cores: int, *targets: str) -> list[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(SWEEP))
    return snakemake_command(folder, *targets, "--configfile", str(folder / "config.yaml"), "--cores", str(cores))


def swept(folder: Path, cores: int, *targets: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, cores, *targets), capture_output=True, text=True, env=environment(), timeout=500
    )


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, its tables and the run that reports what it found, made with two cores."""
    folder = tmp_path_factory.mktemp("tuned")
    extra = ["results/tables/studies.csv", "results/tuning/journal.log", "results/tables/trials/small.csv"]
    done = swept(folder, 2, BEST, REPORTED, *extra)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "said").write_text(done.stdout + done.stderr)
    return folder


def outcome(folder: Path) -> dict[str, bytes]:
    study = folder / Path(BEST).parent
    files = [*study.glob("*.*"), *study.glob("batch-*/proposals.json"), *study.glob("batch-*/*/*/rounds.csv")]
    assert len(files) == 3 + 4 + 24
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.workflow
@pytest.mark.timeout(600)
def test_the_workflow_tunes_and_reports_what_it_found(tuned: Path) -> None:
    best = yaml.safe_load((tuned / BEST).read_text())
    lines = (tuned / BEST).with_name("trials.csv").read_text().splitlines()
    assert len(lines) == 1 + 12
    run = json.loads((tuned / REPORTED).read_text())
    assert run["tuned"] is True and run["config"]["tuned"] == best["values"]
    assert run["config"]["method_settings"]["tau"] == best["values"]["tau"]
    assert (tuned / "results/tuning/journal.log").exists()
    assert len((tuned / "results/tables/trials/small.csv").read_text().splitlines()) == 1 + 12
    # The budget is in the table; a best value at an edge is there, on the terminal and in the study's log.
    table = (tuned / "results/tables/studies.md").read_text()
    assert "| small | FLARE | 5e-2 | 1 | 12 | 2 | 24 | 0 | 0 |" in table
    edge = warning(studies(SWEEP)[0], best["values"])
    log = (tuned / "results/logs/tune/small/flare/keep-5e-2/epochs-1.log").read_text()
    for text in (table, (tuned / "said").read_text(), log):
        assert "lies at the" in text if edge else "lies at the" not in text


@pytest.mark.workflow
@pytest.mark.timeout(600)
def test_a_batch_takes_at_most_a_second_and_a_half_beyond_its_jobs_start(tuned: Path) -> None:
    folder = (tuned / BEST).parent
    # From the end of a batch's last run to the next batch's proposals: Snakemake, the job's start, reading, proposing.
    waits = [
        (folder / f"batch-{batch}/proposals.json").stat().st_mtime
        - max(run.stat().st_mtime for run in folder.glob(f"batch-{batch - 1}/*/*/run.json"))
        for batch in (1, 2, 3)
    ]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import flare.cli, numpy, optuna.samplers"], cwd=ROOT, check=True)
    start = time.monotonic() - begun
    assert min(waits) > 0 and statistics.median(waits) - start <= 1.5, (waits, start)


@pytest.mark.workflow
@pytest.mark.timeout(600)
def test_one_core_gives_the_same_as_two(tuned: Path, tmp_path: Path) -> None:
    done = swept(tmp_path, 1, BEST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(tmp_path) == outcome(tuned)


@pytest.mark.workflow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_killed_in_the_second_batch_and_resumed_it_ends_the_same(tuned: Path, tmp_path: Path) -> None:
    datasets.fetch("digits", tmp_path / "data")
    (tmp_path / "data/digits/test.npz").unlink()
    second = (tmp_path / BEST).parent / "batch-1"
    with subprocess.Popen(
        command(tmp_path, 2, BEST),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 200
        while not list(second.glob("trial-*/*/run.json")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert list(second.glob("trial-*/*/run.json")) and not (tmp_path / BEST).exists()
    done = swept(tmp_path, 2, BEST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(tmp_path) == outcome(tuned)
    assert not (tmp_path / "data/digits/test.npz").exists()


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("mode", "what", "job"), [("batches", "trial 0 of this study", "train"), ("single", "this study", "tune")]
)
def test_a_failing_trial_is_retried_and_then_says_how_to_see_why(
    mode: str, what: str, job: str, tmp_path: Path
) -> None:
    # A client whose samples number no more than one: nothing to hold out, so the trial fails.
    content = changed(
        partition={"scheme": "contiguous", "samples_per_client": 1}, tuning={"seeds": [7], "trials": 1, "mode": mode}
    )
    (tmp_path / "failing.yaml").write_text(yaml.safe_dump(content))
    datasets.fetch("digits", tmp_path / "data")
    words = command(tmp_path, 1, BEST)
    words[words.index("--configfile") + 1] = str(tmp_path / "failing.yaml")
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=280)
    assert done.returncode != 0 and not (tmp_path / BEST).exists()
    said = done.stdout + done.stderr
    assert said.count(f"flare: {what} failed; to see why, in this folder:") >= 3
    shown = next(line.strip() for line in said.splitlines() if line.strip().startswith(f"python -m flare {job}"))
    again = subprocess.run(
        [sys.executable, *shlex.split(shown)[1:], "--wandb", "disabled"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    assert again.returncode == 2 and "validation: 0.2 is not allowed" in again.stderr


def test_a_setting_of_the_servers_step_is_tuned_like_any_other() -> None:
    """It is open in the run and its digest, and a trial fills it in; dgc's momentum is its own."""
    experiment: dict[str, Any] = {"dataset": "digits", "model": "fc", "clients": 2, "rounds": 1, "batch_size": 9}
    experiment |= {"learning_rate": 0.1, "keep": ["0.5"], "seeds": [1], "tuning": {"seeds": [5]}}
    server = {"optimizer": "sgd", "momentum": 0.5, "learning_rate": {"log": [0.1, 10]}}
    experiment["methods"] = {
        "topk": {"server": server, "learning_rate": {"log": ["1e-3", 1]}},
        "dgc": {"momentum": {"linear": [0.0, 0.9]}},
    }
    given = {"experiments": {"e": experiment}}
    config.check(given)
    topk, dgc = studies(given)
    assert topk.space == {"learning_rate": {"log": [0.001, 1.0]}, "server.learning_rate": {"log": [0.1, 10.0]}}
    assert topk.run.server == {"optimizer": "sgd", "momentum": 0.5}
    assert topk.run.tuned == {"learning_rate": None, "server.learning_rate": None}
    values = {"learning_rate": 0.02, "server.learning_rate": 3.0}
    filled = fill(topk.run, values)
    assert filled.server == {"optimizer": "sgd", "momentum": 0.5, "learning_rate": 3.0}
    assert filled.learning_rate == 0.02
    config.check_run(filled)
    other = fill(topk.run, values | {"server.learning_rate": 4.0})
    digests = {settings_digest(dataclasses.asdict(run)) for run in (topk.run, filled, other)}
    assert len(digests) == 1
    changed = dataclasses.replace(filled, server={**filled.server, "momentum": 0.6})
    assert settings_digest(dataclasses.asdict(changed)) not in digests
    assert "--server optimizer=sgd momentum=0.5" in topk.run.flags()
    (run,) = dgc.runs(0, {"momentum": 0.3})
    assert (run.momentum, run.method_settings["momentum"]) == (0.0, 0.3)
    config.check_run(run)
