"""A data set that is neither images nor text: measured numbers, in one new file and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from commands import ROOT

from flare import datasets
from flare.config import check
from flare.errors import ConfigError, DataError

FILE = '''
"""Two clouds of points in five dimensions. Source: drawn here. Licence: none needed."""

import numpy as np

from flare.datasets import Split

KIND = "table"
CLASSES = 2
SHAPE = (5,)
SCALE = 1.0
DTYPE = "float32"


def fetch(folder):
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 500)
    inputs = (rng.normal(0, 0.4, (500, 5)) + 0.6 * targets[:, None] - 0.3).astype(np.float32)
    return Split(inputs[:400], targets[:400], source="drawn"), Split(inputs[400:], targets[400:], source="drawn")
'''
EXPERIMENT = {
    **{"dataset": "clouds", "model": "fc", "model_settings": {"width": 8, "hidden_layers": 1}, "clients": 4},
    **{"partition": {"scheme": "dirichlet"}, "rounds": 5, "batch_size": 10, "learning_rate": 0.1, "keep": ["0.2"]},
    **{"seeds": [1], "methods": {"flare": {}}},
}


def test_it_is_checked_prepared_and_learned(tmp_path: Path) -> None:
    """In a copy of the package, by its own commands. Inputs are small fractions: as whole numbers they are all 0."""
    shutil.copytree(ROOT / "flare", tmp_path / "flare", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "flare/datasets/clouds.py").write_text(FILE)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"experiments": {"clouds": EXPERIMENT}}))

    def flare(*arguments: str) -> str:
        command, environment = [sys.executable, "-m", "flare", *arguments], os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert flare("check", "sweep.yaml") == "sweep.yaml: 1 runs\n"
    flare("fetch", "--dataset", "clouds")
    with np.load(tmp_path / "data/clouds/train.npz") as stored:
        assert stored["inputs"].dtype == np.float32 and stored["inputs"].shape == (400, 5)
    options = "--model-settings width=8 hidden_layers=1 --partition scheme=dirichlet --learning-rate 0.1 --seed 1"
    options += " --experiment clouds --dataset clouds --model fc --method flare --keep 0.2 --clients 4 --rounds 5"
    flare("train", *options.split(), "--batch-size", "10", "--local-epochs", "1", "--wandb", "disabled", "-o", "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["final_accuracy"] > 0.85


@pytest.fixture
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The data set as one of those that are listed."""
    (tmp_path / "clouds.py").write_text(FILE)
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "flare.datasets.clouds", raising=False)
    return datasets.module("clouds")


@pytest.mark.parametrize(
    ("model", "words"),
    [("gru", "gru reads text, and the data set is numbers"), ("cnn", "cnn needs inputs (channels, height, width)")],
)
def test_a_model_that_cannot_read_it_says_so(model: str, words: str, clouds: ModuleType) -> None:
    experiment = {**EXPERIMENT, "model": model, "model_settings": {}}
    with pytest.raises(ConfigError) as error:
        check({"experiments": {"clouds": experiment}})
    assert words in str(error.value)


def test_it_is_not_padded(clouds: ModuleType) -> None:
    with pytest.raises(ConfigError, match=r"pad_to: 8 is not allowed; the data set's inputs, \(5,\), are no images"):
        check({"experiments": {"clouds": {**EXPERIMENT, "pad_to": 8}}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DTYPE": "uint8"}, "inputs are float32 (400, 5), expected uint8 (N, *(5,))"),
        ({"KIND": "text"}, "flare.datasets.clouds: DTYPE is 'float32', expected uint8"),
        ({"KIND": "tables"}, "KIND is 'tables', expected one of images, text, table"),
        ({"SCALE": 2.0}, "flare.datasets.clouds: SCALE is 2.0, expected 1.0, as floats are used as they are"),
        ({"DTYPE": "float64"}, "flare.datasets.clouds: DTYPE is 'float64', expected uint8 or float32"),
        ({"value": np.nan}, "clouds, test: inputs are not all finite"),
        ({"value": -np.inf}, "clouds, test: inputs are not all finite"),
    ],
)
def test_what_is_not_as_it_says_is_not_written(
    changes: dict, words: str, clouds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = clouds.fetch(tmp_path)
    if "value" in changes:
        parts[1].inputs[3, 2] = changes["value"]
        monkeypatch.setattr(clouds, "fetch", lambda folder: parts)
    else:
        for name, value in changes.items():
            monkeypatch.setattr(clouds, name, value)
    with pytest.raises(DataError) as error:
        datasets.fetch("clouds", tmp_path / "data")
    assert words in str(error.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
