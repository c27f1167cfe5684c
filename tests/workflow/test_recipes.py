"""CONTRIBUTING.md's recipe for a method, followed literally: one new file and one entry in a configuration."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from commands import ROOT
from sweeps import CONFIG

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the recipe's method written into it, and nothing else changed."""
    tree = tmp_path_factory.mktemp("copy") / "tree"
    tree.mkdir()
    for name in ("flare", "workflow", "config", "notebooks", "tests", "profiles"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    recipe = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(r"`(flare/algorithms/(\w+)\.py)`:\n\n```python\n(.*?)```.*?```yaml\n(.*?)```", recipe, re.DOTALL)
    assert found, "the recipe has lost its example"
    path, name, code, entry = found.groups()
    assert not (tree / path).exists()
    (tree / path).write_text(code)
    content = copy.deepcopy(CONFIG)
    content["experiments"]["small"]["methods"] = {"topk": {}} | yaml.safe_load(entry)
    assert list(content["experiments"]["small"]["methods"]) == ["topk", name]
    (tree / "mine.yaml").write_text(yaml.safe_dump(content))
    return tree


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(tree)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=tree, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_sweep_picks_the_new_method_up(tree: Path) -> None:
    done = run(tree, "snakemake", "--cores", "2", "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(tree / "results/tables/runs.csv", dtype={"keep": str})
    assert runs.groupby("method")["seed"].apply(list).to_dict() == {"leaky": [1, 2], "topk": [1, 2]}
    losses = runs.pivot(index="seed", columns="method", values="final_loss")
    assert (losses["leaky"] != losses["topk"]).all()
    assert "leaky" in (tree / "results/tables/summary.md").read_text()


def test_the_new_method_is_tested_unasked(tree: Path) -> None:
    engine = ("limits", "properties", "staleness", "together")
    files = [*(f"tests/engine/test_{name}.py" for name in engine), "tests/runs/test_checkpoint.py"]
    done = run(tree, "pytest", "-v", "-n0", "-p", "no:cacheprovider", *files, "-k", "leaky")
    assert done.returncode == 0, done.stdout
    for file in files:
        assert re.search(rf"^{file}::.*leaky.* PASSED", done.stdout, re.MULTILINE), f"{file} did not meet the method"
