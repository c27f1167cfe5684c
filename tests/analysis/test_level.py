"""The level of confidence is one constant: with another one every interval and every word about it is another."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from commands import ROOT
from scipy.stats import t
from synthetic import write_run, write_sweep

SAY = """
import json, sys
from pathlib import Path
from flare import figures
from flare.analysis import claims, tables
folder = Path("tables")
tables.tabulate([Path(run) for run in json.loads(sys.argv[1])], folder)
claims.write(folder)
texts = [(folder / name).read_text() for name in ("claims.md", "claims.tex")]
print(*texts, tables.show(folder), *(figures.caption(name, whole=True) for name in figures.names()), sep="\\n")
"""


@pytest.fixture(scope="module")
def at_ninety(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a copy of the package says in which one line is changed, and the folder of its tables."""
    folder = tmp_path_factory.mktemp("ninety")
    shutil.copytree(ROOT / "flare", folder / "flare", ignore=shutil.ignore_patterns("__pycache__"))
    constant = folder / "flare/analysis/level.py"
    text = constant.read_text()
    assert text.count("LEVEL = 0.95\n") == 1
    constant.write_text(text.replace("LEVEL = 0.95\n", "LEVEL = 0.9\n"))
    runs = write_sweep(folder, seeds=range(1, 8))
    runs.append(write_run(folder, experiment="other", evaluated=[9], accuracies=[0.8]))
    runs.append(write_run(folder, experiment="other", evaluated=[9], accuracies=[0.9], seed=2))
    code = [sys.executable, "-c", SAY, json.dumps([str(run) for run in runs])]
    done = subprocess.run(code, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "tables"


def test_every_word_about_an_interval_is_of_that_level(at_ninety: tuple[str, Path]) -> None:
    said, _ = at_ninety
    # What is left is a share of dense FedAvg's accuracy.
    rest = said.replace("95 % of dense", "").replace(r"95 \% of dense", "")
    assert "95 %" not in rest and r"95 \%" not in rest
    assert said.count("90 % t-interval") >= 7 and "| 90 % interval |" in said
    assert "Every interval is a paired 90 % t-interval" in said and "also p_holm < 0.1," in said


def test_every_interval_is_of_that_level(at_ninety: tuple[str, Path]) -> None:
    _, folder = at_ninety
    summary = pd.read_csv(folder / "summary.csv").set_index("experiment")
    # Of 0.8 and 0.9: s / sqrt 2 = 0.05.
    assert summary.loc["other", "final_accuracy_high"] - 0.85 == pytest.approx(0.05 * t.ppf(0.95, 1), rel=1e-9)
    judged = pd.read_csv(folder / "claims.csv")
    row = judged[(judged["claim"] == "better") & (judged["keep"] == "1e-2")].iloc[0]
    runs = pd.read_csv(folder / "runs.csv").query("experiment == 'fashion-fc' and keep == '1e-2'")
    late = runs.pivot(index="seed", columns="method", values="late_accuracy")
    differences = 100 * (late["flare"] - late["topk"])
    half = t.ppf(0.95, 6) * differences.std() / 7**0.5
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half, abs=1e-8)
