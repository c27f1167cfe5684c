"""Pre-registration, the reproduction report and the checklist: from made-up runs, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from synthetic import write_run, write_sweep

from flare import cli
from flare.analysis import claims, reached, registered, reproduction, rules, tables
from flare.columns import REFERENCE
from flare.errors import DataError

CONFIG = {"experiments": {"fashion-fc": {"seeds": [1]}}, "late_evaluations": 5}


def test_it_is_written_once_before_the_first_run(tmp_path: Path) -> None:
    file = tmp_path / "preregistration.json"
    registered.write_once(tmp_path, CONFIG)
    first = file.read_bytes()
    found = json.loads(first)
    assert found["finished_runs"] == 0 and found["configuration_sha256"] == registered.digest(CONFIG)
    assert found["rules"]["better"].startswith("FLARE is better than a baseline at the same keep. late accuracy")
    assert set(found["rules"]) == {*rules.CLAIMS, "general"}
    write_run(tmp_path)
    registered.write_once(tmp_path, {"experiments": {}})
    assert file.read_bytes() == first
    said = registered.said(file, registered.digest(CONFIG))
    assert said.endswith("were written down before the first run; unchanged since.")
    # Late: after a run.
    file.unlink()
    registered.write_once(tmp_path, CONFIG)
    assert "were written down when 1 run was finished; unchanged" in registered.said(file, None)


def test_what_changed_since_is_said(tmp_path: Path) -> None:
    file = tmp_path / "preregistration.json"
    assert registered.said(file, "x") == registered.said(None, "x") == "Pre-registration: none."
    registered.write_once(tmp_path, CONFIG)
    more = {**CONFIG, "experiments": {"fashion-fc": {"seeds": [1, 2]}}}
    assert registered.said(file, registered.digest(more)).endswith("; changed since: the configuration.")
    # Where results lie, or on what device they are made, is no part of it; five evaluations are what is there unasked.
    assert registered.digest({**CONFIG, "device": "cuda", "results": "there"}) == registered.digest(CONFIG)
    assert registered.digest({"experiments": CONFIG["experiments"]}) == registered.digest(CONFIG)
    assert registered.digest({**CONFIG, "late_evaluations": 4}) != registered.digest(CONFIG)
    content = json.loads(file.read_text())
    content["rules"]["dense"] = "another rule"
    file.write_text(json.dumps(content))
    assert registered.said(file, registered.digest(more)).endswith(
        "; changed since: the rules of dense and the configuration."
    )
    file.write_text("[]")
    with pytest.raises(DataError, match=r"preregistration\.json: not a pre-registration: "):
        registered.said(file, None)


def sweep(results: Path) -> tuple[list[Path], Path]:
    """Tables of two seeds of an experiment with a diverged run, and of one whose FLARE was tuned; one study."""
    runs = write_sweep(results, seeds=(1, 2), keeps=["1e-2"], diverged={("topk", "1e-2", 2): 26})
    authors = {"clients": 10, "available": None, "family": "old", "rounds": 100, "fidelity": "authors"}
    for method in ("topk", "flare"):
        tuned = {"tau": {"log": [0.01, 1]}} if method == "flare" else {}
        change = {"config": {**authors, "tuned": tuned}, "tuned": bool(tuned)}
        runs += [write_run(results, experiment="old", method=method, seed=seed, change=change) for seed in (1, 2)]
    folder = results / "tables"
    tables.tabulate(runs, folder)
    claims.write(folder)
    reached.write(folder)
    # Of two of the five cells there is a published number, one of them on other data.
    cells = tables.read_table(folder, "summary").reindex(columns=list(REFERENCE)).astype("object")
    known = ["reference_dataset", "reference_accuracy", "comparable", "differs", "curve"]
    cells.loc[0, known] = ["mnist", 0.5, "no", "data", "c"]
    cells.loc[1, known] = ["fashion_mnist", 0.5, "yes", "", "c"]
    cells.to_csv(folder / "reference.csv", index=False)
    study = {"study": "old/flare/keep-1e-2/epochs-1", "experiment": "old", "method": "flare", "keep": "1e-2"}
    study |= {"local_epochs": 1, "batches": 2, "trials": 10, "seeds": 2, "runs": 20, "diverged": 1, "pruned": 0}
    study |= {"objective": "accuracy", "value": 0.9, "best": "tau = 0.01", "importance": "", "warning": "tau at an end"}
    pd.DataFrame([study]).to_csv(folder / "studies.csv", index=False)
    return runs, folder


def test_the_report_says_what_the_tables_do(tmp_path: Path) -> None:
    runs, folder = sweep(tmp_path)
    reproduction.write(runs, folder, tmp_path)
    text = (tmp_path / "reproduction.md").read_text()
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert [head[3:] for head in heads] == [
        *("Scope", "Claims", "What differs from the paper", "What was easy", "What was difficult", "Cost")
    ]
    lines = text.splitlines()
    assert "| fashion-fc | fashion_mnist | fc | FedAvg, Top-K, FLARE | dense, 1e-2 | 1 | 2 | 6 |" in lines
    judged = tables.read_table(folder, "claims").set_index(["claim", "experiment", "baseline"])["difference"]
    better = judged["better", "old", "topk"]
    assert f"| better | Top-K | tuned on one side | 0 | 0 | 0 | 1 | {better:+.2f} to {better:+.2f} |" in lines
    assert any(line.startswith("| better | Top-K | given settings | 0 | 0 | 0 | 1 |") for line in lines)
    assert "- 9 of 10 runs finished." in lines and "- 4 of 5 cells have no diverged run." in lines
    assert "The authors published a number of 2 of the 5 cells. In 1 of these, data and all settings agree." in lines
    assert "- data (1 cell)" in lines and "- 0 of 1 comparable published numbers lie in our interval." in lines
    assert "- fashion-fc, Top-K 1e-2, E = 1: 1 of 2 runs diverged." in lines
    assert "- old/flare/keep-1e-2/epochs-1: tau at an end." in lines
    assert "- old/flare/keep-1e-2/epochs-1: 1 of 10 trials diverged." in lines
    # A run takes 1.5 s and its seed: 2.5 and 3.5 s, three and two times.
    assert any(line.startswith("| fashion-fc | 6 | 0 | 0.005 | 3 |") for line in lines)
    assert any(line.startswith("| old | 4 | 20 | 0.00333 | 3 |") for line in lines)
    assert "Reported runs took 0.00833 hours. Runs on cpu with 1 thread: 10." in lines
    assert "Pre-registration: none." in lines


def test_the_spread_of_a_repeated_study_is_told_from_that_of_its_seeds(tmp_path: Path) -> None:
    """Late accuracies of 80 and 82 after the one study, of 86 and 88 after the other; a third is of other settings."""
    runs = []
    for experiment, rate, accuracies in (("one", 0.1, (0.80, 0.82)), ("again", 0.1, (0.86, 0.88)), ("b", 0.2, (0, 1))):
        for seed, accuracy in zip((1, 2), accuracies, strict=True):
            values = {"tau": 0.3 if experiment == "one" else 0.4}
            settings = {"clients": 10, "rounds": 1, "learning_rate": rate, "tuned": values, "method_settings": values}
            given = {"evaluated": [0], "accuracies": [accuracy], "change": {"config": settings}}
            runs.append(write_run(tmp_path, experiment=experiment, seed=seed, **given))
    tables.tabulate(runs, tmp_path / "tables")
    found = tables.read(tmp_path / "tables")["runs"]
    text = reproduction._repeated(SimpleNamespace(runs=found))
    assert "| one | FLARE | 1e-2 | 1 | 2 | 84.00 | 81.00 to 87.00 | 4.24 | 1.41 |" in text.splitlines()
    assert text.count("FLARE") == 1
    assert reproduction._repeated(SimpleNamespace(runs=found[found["experiment"] != "again"])) == ""


def test_the_checklist_names_the_file_that_answers(tmp_path: Path) -> None:
    runs, folder = sweep(tmp_path)
    reproduction.write(runs, folder, tmp_path)
    rows = [line.strip("|").split(" | ") for line in (tmp_path / "checklist.md").read_text().splitlines()[2:]]
    found = {row[0].strip(): (row[1], row[2].strip()) for row in rows}
    assert found["Runs of every cell"] == ("2", "tables/runs.csv")
    assert found["Diverged runs are reported"][0] == "yes; 1 of 10"
    assert found["Search of settings"] == ("1 studies; trials: 10 of 2 seeds", "tables/studies.csv")
    assert found["Bounds of every range"][0] == "yes; 1 studies end at one"
    assert found["Versions"][0] == "flare 0; numpy 2; python 3.11.0; torch 2"
    assert found["Code"][0] == "commit none"
    assert found["Parameters of each model"][0] == "fashion-fc: 50,890; old: 50,890"
    assert found["Hardware and time"][0] == "cpu; median 3 s a run, 0.00833 hours in all"
    (folder / "studies.csv").unlink()
    reproduction.write(runs, folder, tmp_path)
    assert "| Search of settings | none: no cell was tuned | – |" in (tmp_path / "checklist.md").read_text()


def test_made_twice_they_are_the_same_bytes_and_what_is_missing_is_one_line(tmp_path: Path, capsys) -> None:
    _, folder = sweep(tmp_path)
    registered.write_once(tmp_path, CONFIG)
    arguments = ["reproduction", f"{tmp_path}/runs/fashion-fc/topk/keep-1e-2/epochs-1/seed-{{1,2}}"]
    arguments += ["--tables", str(folder), "--registered", str(tmp_path / "preregistration.json")]
    made = []
    for name in ("first", "second"):
        assert (
            cli.main([*arguments, "--configuration", registered.digest(CONFIG), "--output", str(tmp_path / name)]) == 0
        )
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1] and set(made[0]) == {"reproduction.md", "checklist.md"}
    assert b"were written down when 10 runs were finished; unchanged since." in made[0]["reproduction.md"]
    (folder / "claims.csv").unlink()
    assert cli.main([*arguments, "--output", str(tmp_path / "third")]) == 2
    assert "claims.csv is missing; make the tables first" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_without_a_claim_a_target_or_a_study_there_is_a_report_too(tmp_path: Path) -> None:
    runs, folder = [write_run(tmp_path, method="topk", diverged_round=0)], tmp_path / "tables"
    tables.tabulate(runs, folder)
    claims.write(folder)
    reached.write(folder)
    tables.read_table(folder, "summary").reindex(columns=list(REFERENCE)).to_csv(folder / "reference.csv", index=False)
    reproduction.write(runs, folder, tmp_path)
    lines = (tmp_path / "reproduction.md").read_text().splitlines()
    assert "The runs allow no comparison that a claim is about." in lines
    assert "The authors published a number of 0 of the 1 cells." in lines
    assert "- fashion-fc, Top-K 1e-2, E = 1: 1 of 1 runs diverged." in lines
    assert "| Claims are stated, and judged by rules | yes; no comparison |" in (tmp_path / "checklist.md").read_text()


def test_the_table_of_claims_says_it_and_prices_what_would_decide(tmp_path: Path) -> None:
    runs = []
    # Differences of 1.4 and 0.2 in turn: 0.8 points on average, of standard deviation 0.657.
    for seed in range(1, 6):
        for method, accuracy in (("topk", 0.8), ("flare", 0.814 if seed % 2 else 0.802)):
            runs.append(write_run(tmp_path, method=method, seed=seed, evaluated=[0], accuracies=[accuracy]))
    folder = tmp_path / "tables"
    tables.tabulate(runs, folder)
    registered.write_once(tmp_path, CONFIG)
    claims.write(folder, tmp_path / "preregistration.json", registered.digest(CONFIG))
    text = (folder / "claims.md").read_text()
    assert text.splitlines()[-1].endswith("were written down when 10 runs were finished; unchanged since.")
    assert "undecided (5 seeds, 6 needed)" in text
    assert tables.read_table(folder, "claims")["seeds_to_decide"].tolist() == [6]
    # By the plan ten runs of the experiment take 5 hours: one more seed of two methods takes 1.
    header = "experiment,runs,client_steps,operations,memory_bytes,uplink_bits,hours,extrapolated"
    (folder / "plan.csv").write_text(f"{header}\nfashion-fc,10,1,1,1,1,5.0,0\ntotal,10,1,1,1,1,5.0,0\n")
    claims.write(folder)
    text = (folder / "claims.md").read_text()
    assert "undecided (5 seeds, 6 needed; 1 more: 2 runs, 1 hours)" in text
    assert text.splitlines()[-1] == "- Pre-registration: none."
