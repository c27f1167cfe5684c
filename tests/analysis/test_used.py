"""The appendix of settings, and the validation accuracy beside the test's: from runs and studies written by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from synthetic import write_run

from flare import cli
from flare.analysis import tables
from flare.errors import DataError

CONFIG = {
    **{"experiment": "fashion-fc", "dataset": "fashion_mnist", "model": "fc", "local_epochs": 1, "clients": 10},
    **{"rounds": 100, "batch_size": 20, "available": None, "shuffle": False, "double_softmax": True},
    **{"partition": {"scheme": "dirichlet", "alpha": 0.3}, "model_settings": {"width": 4}, "probes": []},
    **{"trial": None, "validation": None},
}


def run(results: Path, method: str, keep: str, seed: int, rate: float, **own: object) -> Path:
    tuned = {"learning_rate": {"log": [0.01, 1]}} | ({"server.momentum": {"log": [0.1, 1]}} if own else {})
    server = {"optimizer": "sgd", "momentum": 0.25} if own else {}
    config = CONFIG | {"method": method, "keep": keep, "seed": seed, "learning_rate": rate, "method_settings": own}
    change = {"config": config | {"server": server, "tuned": tuned if method == "flare" else {}}}
    return write_run(results, method=method, keep=keep, seed=seed, change=change | {"tuned": method == "flare"})


def folder_of(results: Path) -> Path:
    runs = [run(results, "topk", "1e-2", seed, 0.1) for seed in (1, 2)]
    runs += [run(results, "flare", "1e-2", seed, 0.5, tau=0.1, pull_steps="all") for seed in (1, 2)]
    study = results / "tuning/fashion-fc/flare/keep-1e-2/epochs-1"
    study.mkdir(parents=True)
    best = {"study": "fashion-fc/flare/keep-1e-2/epochs-1", "values": {"learning_rate": 0.5}, "trial": 3}
    best |= {"objective": "accuracy", "value": 0.8125, "seeds": [7]}
    (study / "best.yaml").write_text(yaml.safe_dump(best))
    tables.tabulate(runs, results / "tables", tuning=results / "tuning")
    return results / "tables"


def test_all_settings_of_a_cell_once_and_tuned_ones_marked(tmp_path: Path) -> None:
    found = pd.read_csv(folder_of(tmp_path) / "settings.csv", dtype="str", keep_default_na=False)
    flare = found[found["method"] == "flare"]
    assert list(zip(flare["setting"], flare["value"], flare["tuned"], strict=True)) == [
        ("clients", "10", "False"),
        ("rounds", "100", "False"),
        ("batch_size", "20", "False"),
        ("double_softmax", "true", "False"),
        ("partition.scheme", "dirichlet", "False"),
        ("partition.alpha", "0.3", "False"),
        ("model_settings.width", "4", "False"),
        ("learning_rate", "0.5", "True"),
        ("tau", "0.1", "False"),
        ("pull_steps", "all", "False"),
        ("server.optimizer", "sgd", "False"),
        ("server.momentum", "0.25", "True"),
    ]
    topk = found[found["method"] == "topk"]
    assert len(topk) == 8 and not (topk["tuned"] == "True").any()


def test_for_people_what_is_common_stands_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    rows = (folder / "settings.md").read_text().splitlines()
    common = "dataset = fashion_mnist, model = fc, clients = 10, rounds = 100, batch_size = 20, double_softmax = true,"
    common += " partition.scheme = dirichlet, partition.alpha = 0.3, model_settings.width = 4"
    own = "learning_rate = 0.5 (tuned), tau = 0.1, pull_steps = all, server.optimizer = sgd,"
    own += " server.momentum = 0.25 (tuned)"
    assert rows[2:5] == [
        f"| fashion-fc | all | – | – | {common} |",
        "| fashion-fc | Top-K | 1e-2 | 1 | learning_rate = 0.1 |",
        f"| fashion-fc | FLARE | 1e-2 | 1 | {own} |",
    ]
    tex = (folder / "settings.tex").read_text()
    assert r"fashion-fc & Top-K & 1e-2 & 1 & learning\_rate = 0.1 \\" in tex
    assert r"\begin{tabular}{llllp{0.6\linewidth}}" in tex and r"\multicolumn{5}{p{\linewidth}}" in tex


def test_validation_accuracy_stands_beside_the_tests(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    summary = tables.read_table(folder, "summary").set_index("method")["validation_accuracy"]
    assert summary["flare"] == 0.8125 and pd.isna(summary["topk"])
    lines = (folder / "summary.md").read_text().splitlines()
    assert [line.split("|")[5].strip() for line in lines] == ["validation (%)", "--:", "–", "81.25"]
    # Without the studies' folder, or if a study's objective is a loss, there is none, and no empty column for people.
    best = tmp_path / "tuning/fashion-fc/flare/keep-1e-2/epochs-1/best.yaml"
    best.write_text(best.read_text().replace("objective: accuracy", "objective: loss"))
    runs = sorted(map(str, (tmp_path / "runs").glob("*/*/*/*/seed-*")))
    for more in (["--tuning", str(tmp_path / "tuning")], []):
        assert cli.main(["tabulate", *runs, *more, "--output", str(tmp_path / "again")]) == 0
        assert tables.read_table(tmp_path / "again", "summary")["validation_accuracy"].isna().all()
        assert "validation" not in (tmp_path / "again/summary.md").read_text()
    best.write_text("no study")
    with pytest.raises(DataError, match=r"best\.yaml: not a best\.yaml of a study"):
        tables.tabulate([Path(path) for path in runs], tmp_path / "again", tuning=tmp_path / "tuning")
