"""CONTRIBUTING.md's other recipes, followed literally: a server's step and a metric are one file each."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from commands import ROOT
from sweeps import CONFIG
from test_recipes import run

pytestmark = pytest.mark.workflow


def recipe(path: str) -> tuple[str, dict]:
    """The code that CONTRIBUTING.md gives for the file, and the entry of a configuration that follows it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(rf"`{re.escape(path)}`:\n\n```python\n(.*?)```.*?```yaml\n(.*?)```", text, re.DOTALL)
    assert found, f"the recipe of {path} has lost its example"
    assert not (ROOT / path).exists()
    return found[1], yaml.safe_load(found[2])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with both recipes' files written into it, and a finished sweep of them."""
    tree = tmp_path_factory.mktemp("copy") / "tree"
    tree.mkdir()
    for name in ("flare", "workflow", "config", "notebooks", "tests", "profiles"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    content = copy.deepcopy(CONFIG)
    experiment = content["experiments"]["small"]
    code, entry = recipe("flare/algorithms/fedadam.py")
    (tree / "flare/algorithms/fedadam.py").write_text(code)
    experiment["methods"] = {"topk": {}} | entry
    code, entry = recipe("flare/engine/probes/distance.py")
    (tree / "flare/engine/probes/distance.py").write_text(code)
    experiment |= entry
    (tree / "mine.yaml").write_text(yaml.safe_dump(content))
    done = run(tree, "snakemake", "figures", "--cores", "2", "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return tree


def test_the_sweep_has_the_servers_step_and_the_metric(tree: Path) -> None:
    runs = pd.read_csv(tree / "results/tables/runs.csv", dtype={"keep": str})
    assert runs.groupby("method")["seed"].apply(list).to_dict() == {"fedadam": [1, 2], "topk": [1, 2]}
    losses = runs.pivot(index="seed", columns="method", values="final_loss")
    assert (losses["fedadam"] != losses["topk"]).all() and (runs["status"] == "finished").all()
    for file in (tree / "results/runs").glob("**/rounds.csv"):
        rounds = pd.read_csv(file)
        # Every round adds to it, also those between two evaluations.
        assert rounds.columns[-1] == "distance" and (rounds["distance"].diff().dropna() > 0).all()
    both = pd.read_csv(tree / "results/tables/rounds.csv")
    assert {"distance", "staleness_mean"} <= set(both.columns) and both["distance"].notna().all()


def test_the_new_method_is_tested_unasked(tree: Path) -> None:
    files = ["tests/engine/test_together.py", "tests/engine/test_staleness.py", "tests/runs/test_checkpoint.py"]
    done = run(tree, "pytest", "-v", "-n0", "-p", "no:cacheprovider", *files, "-k", "fedadam")
    assert done.returncode == 0, done.stdout
    for file in files:
        assert re.search(rf"^{file}::.*fedadam.* PASSED", done.stdout, re.MULTILINE), f"{file} did not meet the method"


def test_the_servers_step_is_that_of_the_paper(tree: Path) -> None:
    """Three rounds of both by NumPy, from the sums that Top-K's server would add: one local step, keep 1."""
    script = """
import numpy as np, torch, flare
from torch import nn
generator = torch.Generator().manual_seed(1)
draw = lambda: (torch.rand(8, 5, generator=generator).double(), torch.randint(3, (8,), generator=generator))
clients = [draw() for _ in range(3)]
torch.manual_seed(2)
model = nn.Linear(5, 3).double()
start = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
seen = []
flare.simulate(model, clients, test=clients[0], method="fedadam", settings={"rate": 0.1, "beta1": 0.8, "beta2": 0.9,
    "epsilon": 0.01}, keep=1, rounds=4, local_epochs=1, batch_size=8, learning_rate=0.5, momentum=0,
    on_round=lambda _, w: seen.append(np.concatenate([v.numpy().ravel() for v in w.values()])))
def gradient(w):
    weight, bias = w[:15].reshape(3, 5), w[15:]
    total = 0
    for x, y in clients:
        z = x.numpy() @ weight.T + bias
        p = np.exp(z - z.max(1, keepdims=True)); p /= p.sum(1, keepdims=True)
        p[np.arange(8), y.numpy()] -= 1
        total = total + np.concatenate([(p.T @ x.numpy() / 8).ravel(), p.mean(0)])
    return total / 3
w, m, q = start, 0 * start, 0 * start + 0.01**2
for expected in seen:
    g = -0.5 * gradient(w)
    m, q = 0.8 * m + 0.2 * g, 0.9 * q + 0.1 * g**2
    w = w + 0.1 * m / (np.sqrt(q) + 0.01)
    assert np.abs(w - expected).max() < 1e-12, np.abs(w - expected).max()
print("agrees", len(seen))
"""
    (tree / "check.py").write_text(script)
    done = run(tree, "check")
    assert done.returncode == 0 and done.stdout.strip() == "agrees 4", done.stderr
