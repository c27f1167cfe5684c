"""The package as strangers get it: a wheel, in an environment outside the checkout that has its dependencies alone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from commands import ROOT
from distributions import PROJECT, link, needed, requirements
from packaging.utils import canonicalize_name

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
RUN = (
    "--experiment wheel --dataset digits --model fc --model-settings width=8 hidden_layers=1 --method flare --keep 5e-2"
    " --clients 3 --rounds 2 --local-epochs 1 --batch-size 50 --learning-rate 0.1 --seed 1"
)
SIMULATE = """
import flare, torch
torch.manual_seed(1)
inputs = torch.randn(12, 4)
pair = inputs, (inputs[:, 0] > 0).long()
history, weights = flare.simulate(
    torch.nn.Linear(4, 2), [pair, pair], test=pair, method="flare", keep=0.5, rounds=3, local_epochs=1, batch_size=4,
    learning_rate=0.1, momentum=0.5, evaluate_every=1,
)
print(flare.__file__, history.attrs["status"], len(history), sorted(weights))
"""


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in that folder, without anything of this environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FLARE", "WANDB"))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def said(command: list[str], folder: Path) -> str:
    """What a command prints that succeeds."""
    done = run(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools builds in the folder itself, and takes what an earlier build left there."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "flare", source / "flare", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(output)]
    said([*PIP, "wheel", ".", *options], source)
    [file] = output.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and, as links to what is installed here, what its dependencies need."""
    folder = tmp_path_factory.mktemp("environment")
    said([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    [site] = folder.glob("lib/python*/site-packages")
    link(needed(requirements()), site)
    said([*PIP, "--python", str(folder / "bin/python"), "install", "--no-deps", "--no-index", str(wheel)], folder)
    return folder


@pytest.fixture
def flare(environment: Path) -> str:
    """The command that the wheel brings."""
    return str(environment / "bin/flare")


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flare").rglob("*") if path.is_file()}
    assert held == {name for name in here if "__pycache__" not in name}
    assert {"flare/py.typed", "flare/config/schema.yaml"} <= held


def test_its_dependencies_are_enough(environment: Path) -> None:
    assert "No broken requirements" in said([*PIP, "--python", str(environment / "bin/python"), "check"], environment)


def test_no_extra_is_there(environment: Path) -> None:
    extras = needed(requirements(*PROJECT["optional-dependencies"])) - needed(requirements())
    homes = importlib.metadata.packages_distributions()
    modules = [name for name, of in homes.items() if {canonicalize_name(home) for home in of} <= extras]
    assert {"snakemake", "optuna", "wandb", "matplotlib", "pytest"} <= set(modules)
    code = f"import importlib.util; print([name for name in {modules} if importlib.util.find_spec(name)])"
    assert said([str(environment / "bin/python"), "-c", code], environment).strip() == "[]"


def test_it_checks_fetches_and_trains(flare: str, environment: Path, tmp_path: Path) -> None:
    experiment = {"dataset": "digits", "model": "fc", "clients": 3, "rounds": 2, "batch_size": 50, "seeds": [1, 2]}
    sweep = {"experiments": {"small": {**experiment, "keep": ["5e-2"], "learning_rate": 0.1, "methods": {"flare": {}}}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert said([flare, "check", "sweep.yaml"], tmp_path) == "sweep.yaml: 2 runs\n"
    said([flare, "fetch", "--dataset", "digits"], tmp_path)
    printed = said([flare, "train", *RUN.split(), "--output", "run"], tmp_path)
    # A mirror is asked for unless one says otherwise, and W&B is an extra.
    assert "W&B: No module named 'wandb'; the run goes on without it\n" in printed
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "finished" and (tmp_path / "run/rounds.csv").exists()


@pytest.mark.parametrize(
    ("command", "what", "package", "extra"),
    [
        ("render page.md --output page.html", "render", "mistune", "report"),
        ("sync_wandb", "W&B", "wandb", "track"),
    ],
)
def test_a_command_that_needs_an_extra_says_which(
    command: str, what: str, package: str, extra: str, flare: str, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text("| a |\n")
    done = run([flare, *command.split()], tmp_path)
    install = f"pip install 'flare-sweeps[{extra}]'"
    assert done.stderr == f"flare: {what} needs packages that are not installed ({package}): {install}\n"
    assert done.returncode == 2


def test_simulate_runs(environment: Path, tmp_path: Path) -> None:
    file, *rest = said([str(environment / "bin/python"), "-c", SIMULATE], tmp_path).split(maxsplit=1)
    assert Path(file).is_relative_to(environment) and rest == ["finished 3 ['bias', 'weight']\n"]
