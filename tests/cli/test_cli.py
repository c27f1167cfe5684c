"""The command line at its door: what it offers, how it refuses, and what it needs to be installed."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run

import flare
from flare import cli
from flare.analysis import tables
from flare.config import Run, with_defaults
from flare.tuning.study import Study

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *("fetch", "train", "propose", "tune", "count_labels", "tabulate", "plot", "tabulate_studies", "export_studies"),
    *(
        "show",
        "render",
        "judge",
        "reproduction",
        "reach",
        "gather_trials",
        "status",
        "compare",
        "plan",
        "verify",
        "sweep",
        "pack",
        "restore",
        "sync_wandb",
        "wandb_report",
    ),
    "check",
]
# Packages of an extra that a core package brings, too: torch and scikit-learn.
BROUGHT = {"jinja2", "scipy"}


def help_of(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_help_lists_every_command_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    said = help_of(capsys=capsys)
    listed = re.findall(r"^    (\w+)\s+\w", said, re.MULTILINE)
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_lists_the_flags_that_the_workflow_uses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = set(re.findall(r"(--[a-z-]+)\b", help_of(command, capsys=capsys)))
    assert "--help" in flags
    used = set()
    for source in [*ROOT.glob("workflow/rules/*.smk"), ROOT / "Makefile"]:
        for call in re.findall(rf"-m flare {command}\b(.*)", source.read_text("utf-8")):
            used |= set(re.findall(r"(--[a-z-]+)\b", call))
    assert used <= flags


def test_a_run_and_a_study_have_a_flag_for_each_of_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    said = help_of("train", capsys=capsys)
    for field in dataclasses.fields(Run):
        assert re.search(rf"--{field.name.replace('_', '-')}\b", said)
    for command in ("propose", "tune"):
        said = help_of(command, capsys=capsys)
        for field in dataclasses.fields(Study):
            flag = {"run": "experiment", "seed": "study-seed"}.get(field.name, field.name)
            assert re.search(rf"--{flag}\b", said)


def test_the_flags_of_a_run_are_read_back_as_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_defaults(
        Run(
            *("e", "digits", "fc", "flare", "5e-2", 2, 7),
            clients=4,
            rounds=3,
            batch_size=20,
            learning_rate=1e-5,
            available=2,
            shuffle=True,
            schedule={"name": "cosine", "warmup_rounds": 1},
            probes=["staleness"],
        )
    )
    seen: list[Run] = []
    monkeypatch.setattr("flare.runs.train.train_all", lambda given, **_: seen.extend(run for run, _ in given) or True)
    assert cli.main(["train", *shlex.split(run.flags()), "--output", "out"]) == 0
    assert seen == [run]


@pytest.mark.parametrize(
    "wrong",
    [
        "nonsense",
        "train",
        "train --clients many",
        "plot labels",
        "verify --sample 0",
        "verify --seed -1",
        "tune --validation 1",
        "count_labels --experiment a/b",
        "train --device gpu",
        "train --checkpoint-seconds soon",
        "train --method-settings tau",
        "train --method-settings tau=[",
        "check no/such/file.yaml",
        "fetch --dataset minst",
        "plot nothing --experiment e --tables t --output o",
        "tabulate one two --settings 0123 --output o",
        "train --experiment e --dataset digits --model fc --method topk --keep 0.5 --local-epochs 1 --clients 3"
        " --rounds 1 --batch-size 1 --learning-rate 1 --output one two",
        "count_labels --experiment e --dataset digits --clients 2 --seed 1 --data nowhere --output o",
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: Any = cli.main(wrong.split())
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code == 2 and said.out == "" and list(tmp_path.iterdir()) == []
    assert said.err.startswith("flare: ") and said.err.count("\n") == 1


def test_a_key_that_is_there_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run = "--experiment e --dataset digits --model fc --method flare --keep 0.5 --local-epochs 1 --clients 3 --rounds 1"
    twice = f"train {run} --batch-size 1 --seed 1 --method-settings tau=1 tau=2 --output o"
    assert cli.main(twice.split()) == 2
    assert capsys.readouterr().err == "flare: --method-settings: tau is there twice; once\n"


# ---- what is not installed ------------------------------------------------------------------------------------------

SCRIPT = """
import importlib.metadata, json, sys

blocked, requirements, commands = json.loads(sys.argv[1])

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
importlib.metadata.requires = lambda name: requirements
from flare.cli import main
for command in commands:
    print(f"== {main(command.split())}", file=sys.stderr, flush=True)
"""


def without_extras(commands: list[str], folder: Path) -> list[tuple[str, int]]:
    """What each command says on standard error, and its exit code, if nothing of the extras is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {
        extra: lines
        for extra, lines in project["optional-dependencies"].items()
        if extra in ("sweep", "track", "report")
    }
    requirements = [*project["dependencies"], *(f'{n}; extra == "{e}"' for e, lines in extras.items() for n in lines)]
    names = {re.split(r"[^\w-]", line)[0].replace("-", "_").lower() for lines in extras.values() for line in lines}
    assert {"optuna", "wandb", "wandb_workspaces", "matplotlib", "seaborn", "mistune", "snakemake"} <= names
    given = json.dumps([sorted(names - BROUGHT), requirements, commands])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, given], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^== (.*)\n", done.stderr, flags=re.MULTILINE)
    return list(zip(parts[::2], map(int, parts[1::2]), strict=False))


def test_what_trains_needs_no_extra(tmp_path: Path) -> None:
    place = "runs/e/flare/keep-0.5/epochs-1/seed-1"
    run = "--experiment e --dataset digits --model fc --model-settings width=16 hidden_layers=1 --method flare"
    run += " --keep 0.5 --local-epochs 1 --seed 1 --clients 3 --rounds 2 --batch-size 50 --learning-rate 0.1"
    commands = [
        f"check {ROOT / 'config/config.yaml'}",
        "fetch --dataset digits",
        f"train {run} --output results/{place}",
        f"train {run} --output online --wandb online",
        "verify",
        f"status {ROOT / 'config/config.yaml'}",
        "count_labels --experiment e --dataset digits --clients 3 --seed 1 --output labels.csv",
    ]
    ended = without_extras(commands, tmp_path)
    mirror = "W&B: No module named 'wandb'; the run goes on without it\n"
    assert ended == [(mirror if command.startswith("train") else "", 0) for command in commands]


def test_a_command_says_in_one_line_which_extra_it_needs(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("a page\n")
    tables.tabulate([write_run(tmp_path / "results")], tmp_path / "tables")
    needed = {
        "plot accuracy_by_round --experiment fashion-fc --tables tables --output figure": ("plot", "report"),
        "render page.md --output page.html": ("render", "report"),
        "export_studies study --output studies.log": ("export_studies", "sweep"),
        "sync_wandb": ("W&B", "track"),
    }
    for (said, code), (who, extra) in zip(without_extras(list(needed), tmp_path), needed.values(), strict=True):
        install = re.escape(f"pip install 'flare-sweeps[{extra}]'")
        assert code == 2 and re.fullmatch(
            rf"flare: {who} needs packages that are not installed \(\w+\): {install}\n", said
        )


def tiny(**changes: Any) -> dict[str, Any]:
    experiment = {
        **{"dataset": "digits", "model": "fc", "clients": 2, "rounds": 1, "batch_size": 5, "learning_rate": 0.1},
        **{"keep": ["0.5"], "seeds": [1, 2], "methods": {"topk": {}}},
    }
    return {"experiments": {"tiny": experiment | changes}}


@pytest.mark.parametrize("flag", [[], ["--config"]])
def test_a_configuration_is_given_either_way(
    flag: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(json.dumps(tiny() | {"results": "r", "data": "d"}))
    assert cli.main(["check", *flag, "c.yaml"]) == 0 and capsys.readouterr().out == "c.yaml: 2 runs\n"
    assert cli.main(["status", *flag, "c.yaml"]) == 0 and capsys.readouterr().out.startswith("2 runs: 2 waiting")
    for command, said in (("show", "r/tables"), ("verify", "r/runs: no finished run of the configuration's")):
        assert cli.main([command, *flag, "c.yaml"]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["plan", *flag, "c.yaml"]) == 2 and "d/digits" in capsys.readouterr().err
    for command in ("check", "status", "show", "plan", "verify"):
        assert cli.main([command, "c.yaml", "--config", "d.yaml"]) == 2
        assert (
            capsys.readouterr().err == "flare: --config: 'd.yaml' is not allowed beside 'c.yaml'; one configuration\n"
        )


def test_check_counts_the_runs_of_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        json.dumps(
            tiny(
                methods={"topk": {}, "flare": {"tau": {"log": [0.01, 1]}}},
                keep=["0.5", "0.1"],
                tuning={"seeds": [8, 9], "batches": 3, "trials": 5},
            )
        )
    )
    # Two methods, two keeps, two seeds; a study for each keep of FLARE, of 3 batches of 5 trials with 2 seeds.
    assert cli.main(["check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: 8 runs, 60 trials\n"


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("rounds", "0", "'0' is not allowed; a whole number, at least 1"),
        ("rounds", "1.5", "'1.5' is not allowed; a whole number"),
        ("clients", "2000000", "'2000000' is not allowed; a whole number"),
        ("momentum", "1", "'1' is not allowed; a number, 0 or more and below 1"),
        ("learning-rate", "nan", "'nan' is not allowed; a number above 0"),
        ("seed", "-1", "'-1' is not allowed; a whole number, 0 to 4294967295"),
        ("validation", "1", "'1' is not allowed; a number, above 0 and below 1"),
        ("trial", "x", "'x' is not allowed; a whole number"),
    ],
)
def test_what_a_run_takes_is_said_by_its_keys(
    flag: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", f"--{flag}={value}", "--output", "o"])
    assert ended.value.code == 2 and f"argument --{flag}: {said}" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"flare {flare.__version__}\n"


def test_what_nobody_reads_is_silent(tmp_path: Path) -> None:
    """As with `| head -1`: the reader is gone before all is printed."""
    one = {"dataset": "digits", "model": "fc", "clients": 2, "rounds": 1, "batch_size": 10, "learning_rate": 0.1}
    sweep = {"experiments": {"e": one | {"keep": ["0.5"], "seeds": [1, 2], "methods": {"topk": {}}}}}
    (tmp_path / "c.yaml").write_text(json.dumps(sweep))
    command = f"{sys.executable} -m flare status c.yaml | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout == "141\n", done


def test_the_package_lists_what_it_offers() -> None:
    assert dir(flare) == ["__version__", "simulate"]


def test_every_configuration_names_its_schema_for_editors() -> None:
    for file in sorted((ROOT / "config").glob("*.yaml")):
        first = file.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=")
        assert (file.parent / first.partition("=")[2]).resolve() == (ROOT / "flare/config/schema.yaml")
