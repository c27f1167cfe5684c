"""`python -m flare verify`: what was run gives the same bits again, and what was tampered with is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flare import cli, datasets
from flare.config import Run, with_defaults
from flare.runs.train import train

RUNS = [
    with_defaults(
        Run(
            experiment="e",
            dataset="digits",
            model="fc",
            model_settings={"width": 8, "hidden_layers": 1},
            method=method,
            keep=keep,
            local_epochs=1,
            seed=seed,
            clients=3,
            rounds=3,
            batch_size=20,
            learning_rate=0.05,
            evaluate_every=1,
            partition={"scheme": "contiguous", "samples_per_client": 60},
        )
    )
    for method, keep in (("fedavg", "dense"), ("flare", "5e-2"))
    for seed in (1, 2)
]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    datasets.fetch("digits", tmp_path / "data")
    for run in RUNS:
        train(run, data=tmp_path / "data", output=tmp_path / "results/runs" / run.folder, wandb="disabled")
    return tmp_path


def verify(folder: Path, *arguments: str) -> int:
    return cli.main(["verify", "--results", str(folder / "results"), "--data", str(folder / "data"), *arguments])


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_runs_give_the_same_bits_again_and_nothing_is_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(sweep)
    capsys.readouterr()
    assert verify(sweep, "--sample", "9") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": the same")]
    assert said == [f"{run.folder}: the same" for run in RUNS]
    assert files(sweep) == before


@pytest.mark.parametrize("tampered", ["rounds.csv", "weights", "settings"])
def test_a_run_that_was_tampered_with_is_named(tampered: str, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep / "results/runs" / RUNS[2].folder
    record = json.loads((folder / "run.json").read_bytes())
    if tampered == "rounds.csv":
        text = (folder / "rounds.csv").read_text()
        (folder / "rounds.csv").write_text(text.replace(",0.", ",1.", 1))
    elif tampered == "weights":
        record["result_hash"] = "0" * 64
    else:
        record["config"]["learning_rate"] = 0.06
    record["versions"]["torch"] = "1.0"
    record["git_commit"] = "a" * 40
    record["made_from"] |= {"processor": "Z80", "code": "0", "variables": {"MKL_CBWR": "AVX"}}
    (folder / "run.json").write_text(json.dumps(record))
    assert verify(sweep, "--sample", "4") == 1
    said = capsys.readouterr().out
    assert said.count("the same\n") == 3 and f"4 of 4 runs repeated; different: {RUNS[2].folder}\n" in said
    why = {
        "rounds.csv": "other rounds.csv",
        "weights": "other result_hash",
        "settings": "other rounds.csv, other result",
    }
    line = next(line for line in said.splitlines() if line.startswith(f"{RUNS[2].folder}: other"))
    assert why[tampered] in line and "torch 1.0 then, " in line
    for reason in (f"commit {'a' * 40} then, ", "other code", "processor Z80 then, ", "variables MKL_CBWR=AVX then, "):
        assert reason in line


def test_a_configuration_says_where_the_folders_are(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep / "c.yaml"
    name = RUNS[0].experiment
    experiment = {
        field: getattr(RUNS[0], field)
        for field in ("dataset", "model", "clients", "rounds", "batch_size", "learning_rate", "evaluate_every")
    }
    experiment |= {"model_settings": {"width": 8, "hidden_layers": 1}, "partition": dict(RUNS[0].partition)}
    experiment |= {"keep": ["5e-2", "0.5"], "seeds": [2, 3], "methods": {"flare": {}, "fedavg": {}}}
    content = {"experiments": {name: experiment}, "results": f"{sweep}/results", "data": f"{sweep}/data"}
    file.write_text(yaml.safe_dump(content))
    # Of four finished runs the configuration asks for two, those of seed 2; seed 3 is not finished.
    capsys.readouterr()
    assert cli.main(["verify", "--config", str(file), "--sample", "9"]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 runs repeated; different: none" in said
    assert [line for line in said.splitlines() if line.endswith(": the same")] == [
        f"{run.folder}: the same" for run in RUNS if run.seed == 2
    ]
    runs = [str(sweep / "results/runs" / run.folder) for run in RUNS]
    assert cli.main(["tabulate", *runs, "--output", f"{sweep}/results/tables"]) == 0
    capsys.readouterr()
    assert cli.main(["show", f"{sweep}/results"]) == 0
    assert f"Tables:  {sweep}/results/tables" in capsys.readouterr().out
    assert cli.main(["show", str(file)]) == 2  # they are of other runs than that configuration's
    assert f"{sweep}/results/tables: not of this configuration" in capsys.readouterr().err


def test_the_sample_is_of_the_seed(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sample(seed: int) -> list[str]:
        capsys.readouterr()
        assert verify(sweep, "--sample", "1", "--seed", str(seed)) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.endswith(": the same")]

    assert sample(1) == sample(1) and len({tuple(sample(seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize("wrong", [b"{", b"[]", b"{}", b'{"config": {"rounds": 1}}', "moved", "none"])
def test_what_cannot_be_repeated_is_one_line(
    wrong: bytes | str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep / "results/runs" / RUNS[0].folder
    if wrong == "moved":
        folder.rename(folder.with_name("seed-8"))
    elif isinstance(wrong, bytes):
        (folder / "run.json").write_bytes(wrong)
    else:
        (sweep / "results").rename(sweep / "other")
    capsys.readouterr()
    assert verify(sweep, "--sample", "9") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith(f"flare: {sweep}/results/runs")
