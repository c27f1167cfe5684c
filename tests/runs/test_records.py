"""Records: packed, restored, merged, refused. What they are made of is carried out for real, on the digits."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flare import cli, config, records
from flare.analysis import tables
from flare.errors import ConfigError, DataError
from flare.files import to_json
from flare.runs.train import train

SWEEP: dict[str, Any] = {
    "results": "results",
    "data": "data",
    "wandb": {"mode": "disabled"},
    "experiments": {
        "e": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 8, "hidden_layers": 1},
            "clients": 3,
            "partition": {"scheme": "contiguous", "samples_per_client": 40},
            "rounds": 6,
            "evaluate_every": 2,
            "batch_size": 20,
            "learning_rate": 0.1,
            "keep": ["5e-2"],
            "seeds": [1, 2],
            "methods": {"fedavg": {}, "flare": {"tau": 0.05}},
        }
    },
}


def carry_out(folder: Path, data: Path, content: dict[str, Any], seeds: list[int] | None = None) -> dict[str, Any]:
    """The configuration of a sweep in a folder, after its runs were carried out."""
    content = {**content, "results": str(folder), "data": str(data)}
    for run in config.runs(content):
        if seeds is None or run.seed in seeds:
            train(run, data=data, output=folder / "runs" / run.folder, wandb="disabled")
    return content


@pytest.fixture(scope="module")
def swept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished sweep whose second experiment has columns that the first one does not have."""
    content = copy.deepcopy(SWEEP)
    content["experiments"]["f"] = {**content["experiments"]["e"], "staleness": True, "methods": {"topk": {}}}
    return carry_out(tmp_path_factory.mktemp("swept"), data, content)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_restored_is_what_was_packed_byte_for_byte(swept: dict[str, Any], tmp_path: Path) -> None:
    results = Path(swept["results"])
    said = records.pack(swept, tmp_path / "a")
    assert said.startswith(f"{tmp_path}/a: 6 runs, ") and said.endswith(" kB")
    assert records.restore(tmp_path / "a", tmp_path / "back") == 6
    back = files(tmp_path / "back")
    plain = {name: value for name, value in swept.items() if name != "data"}  # a folder of this machine
    assert config.load(tmp_path / "back/config.yaml") == {**plain, "results": f"{tmp_path}/back", "record": "a"}
    assert str(tmp_path.parent) not in (tmp_path / "a/config.yaml").read_text()
    for name, content in files(results).items():
        if name.endswith("run.json"):
            found = json.loads(back[name])
            assert found.pop("restored_from") == "a" and to_json(found) == content
        else:
            assert back[name] == content
    made = [
        tables.tabulate([where / "runs" / run.folder for run in config.runs(swept)], tmp_path / name)
        for name, where in (("then", results), ("now", tmp_path / "back"))
    ]
    assert made and files(tmp_path / "then") == files(tmp_path / "now")


def test_the_same_sweep_is_the_same_bytes_and_packs_again_from_what_was_restored(
    swept: dict[str, Any], tmp_path: Path
) -> None:
    records.pack(swept, tmp_path / "a")
    records.pack(swept, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    records.pack(swept, tmp_path / "a")  # added to itself
    assert files(tmp_path / "a") == files(tmp_path / "b")
    records.restore(tmp_path / "a", tmp_path / "back")
    records.pack(swept, tmp_path / "c", tmp_path / "back")
    assert files(tmp_path / "c") == files(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "back", "c"]


def test_pandas_reads_each_table_in_one_line(swept: dict[str, Any], tmp_path: Path) -> None:
    records.pack(swept, tmp_path / "a")
    runs, rounds = pd.read_csv(tmp_path / "a/runs.csv.xz"), pd.read_csv(tmp_path / "a/rounds.csv.xz")
    assert len(runs) == 6 and len(rounds) == 6 * 4 and list(runs["seed"]) == [1, 2] * 3
    last = rounds.groupby("folder")["test_accuracy"].last()
    assert list(last[runs["folder"]]) == list(runs["final_accuracy"])
    for name in ("made_from.settings", "made_from.code", "made_from.data", "result_hash"):
        assert runs[name].str.fullmatch("[0-9a-f]{64}").all()
    for name in ("git_commit", "made_from.processor", "versions.torch", "wall_seconds"):
        assert runs[name].notna().all()
    # Columns that only some runs have are empty in the others.
    assert rounds["memory_norm"].notna().tolist() == [False] * 16 + [True] * 8
    assert json.loads(runs["run_json"][0])["config"]["clients"] == 3


@pytest.mark.parametrize("name", ["config.yaml", "files.json.xz", "runs.csv.xz", "rounds.csv.xz"])
def test_a_changed_byte_is_refused_in_one_line(name: str, swept: dict[str, Any], tmp_path: Path) -> None:
    records.pack(swept, tmp_path / "a")
    path = tmp_path / "a" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="not the file that was packed") as caught:
        records.restore(tmp_path / "a", tmp_path / "back")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "back").exists()


def forged(folder: Path, name: str, old: str, new: str) -> None:
    """Change the text of a file of a record, and its checksum with it."""
    path = folder / name
    text = lzma.decompress(path.read_bytes()).decode()
    assert old in text
    path.write_bytes(lzma.compress(text.replace(old, new, 1).encode()))
    head = json.loads((folder / "record.json").read_bytes())
    head["sha256"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "record.json").write_bytes(to_json(head))


def test_a_changed_digit_is_refused_whatever_the_checksum_of_its_file_says(
    swept: dict[str, Any], tmp_path: Path
) -> None:
    records.pack(swept, tmp_path / "whole")
    row = next(csv.DictReader(io.StringIO(lzma.decompress((tmp_path / "whole/rounds.csv.xz").read_bytes()).decode())))
    digit = row["test_accuracy"]
    forgeries = [
        ("rounds.csv.xz", digit, digit[:-1] + str((int(digit[-1]) + 1) % 10), "its rounds.csv is not the one"),
        ("runs.csv.xz", ",finished,", ",diverged,", "status is 'diverged', and 'finished' in run_json"),
        ("runs.csv.xz", '""clients"":3', '""clients"":4', "its settings in run.json are not those it was made with"),
        ("runs.csv.xz", "runs/e/fedavg/keep-dense/epochs-1/seed-1", "runs/../../x/y", "no folder of a run"),
        ("rounds.csv.xz", "runs/e/fedavg/keep-dense/epochs-1/seed-1", "runs/e/fedavg/none/a/b", "rounds.csv is not"),
        ("files.json.xz", "{}", '{"runs/../../../../evil": "x"}', "a file that no record has"),
        ("files.json.xz", "{}", '{"tables/labels/../../../e.csv": "x"}', "a file that no record has"),
    ]
    for number, (name, old, new, why) in enumerate(forgeries):
        folder = tmp_path / f"r{number}"
        shutil.copytree(tmp_path / "whole", folder)
        forged(folder, name, old, new)
        with pytest.raises(DataError, match=why.replace(".", r"\.")) as caught:
            records.restore(folder, tmp_path / "back")
        assert "\n" not in str(caught.value) and not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("no record.json", "record.json: missing"),
        ("no rounds", "rounds.csv.xz: missing"),
        ("format", "of format 2; this version reads 1"),
        ("another file", "other files than a record's"),
        ("fewer runs", "another number of runs"),
        ("no JSON", "not a record: not JSON"),
    ],
)
def test_what_is_not_a_whole_record_is_one_line(case: str, why: str, swept: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "a"
    records.pack(swept, folder)
    head = json.loads((folder / "record.json").read_bytes())
    if case == "no record.json":
        (folder / "record.json").unlink()
    elif case == "no rounds":
        (folder / "rounds.csv.xz").unlink()
    elif case == "no JSON":
        (folder / "record.json").write_text("{")
    else:
        change = {
            "format": {"format": 2},
            "another file": {"sha256": head["sha256"] | {"../x": "0"}},
            "fewer runs": {"runs": 5},
        }
        (folder / "record.json").write_bytes(to_json(head | change[case]))
    with pytest.raises(DataError, match=why) as caught:
        records.restore(folder, tmp_path / "back")
    assert "\n" not in str(caught.value) and not (tmp_path / "back").exists()


def test_a_bomb_is_refused_before_it_fills_the_memory(
    swept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.pack(swept, tmp_path / "a")
    forged(tmp_path / "a", "rounds.csv.xz", "folder", "folder" + "\n" * 3_000_000)
    monkeypatch.setattr(records, "LARGE", 1_000_000)
    with pytest.raises(DataError, match="a file that is too large"):
        records.read(tmp_path / "a")


def test_a_record_grows_by_runs_of_another_machine(data: Path, tmp_path: Path) -> None:
    one = carry_out(tmp_path / "one", data, SWEEP, seeds=[1])
    two = carry_out(tmp_path / "two", data, SWEEP, seeds=[2])
    said = records.pack(one, tmp_path / "r")
    assert "2 runs" in said and "2 not packed, the first: e/fedavg/keep-dense/epochs-1/seed-2: not finished" in said
    for path in (tmp_path / "two").rglob("run.json"):  # of another processor
        found = json.loads(path.read_bytes())
        found["made_from"]["processor"] = "another"
        path.write_bytes(to_json(found))
    assert records.pack(two, tmp_path / "r").startswith(f"{tmp_path}/r: 4 runs, 2 of them new, ")
    runs = pd.read_csv(tmp_path / "r/runs.csv.xz").set_index("folder")
    processors = [
        runs["made_from.processor"][f"runs/e/{m}/epochs-1/seed-2"] for m in ("fedavg/keep-dense", "flare/keep-5e-2")
    ]
    assert processors == ["another"] * 2 and (runs["made_from.processor"] == "another").sum() == 2
    # In the other order it is the same runs.
    records.pack(two, tmp_path / "s")
    records.pack(one, tmp_path / "s")
    assert (tmp_path / "s/runs.csv.xz").read_bytes() == (tmp_path / "r/runs.csv.xz").read_bytes()
    # Another experiment is added to it.
    other = copy.deepcopy(SWEEP)
    other["experiments"] = {"g": {**SWEEP["experiments"]["e"], "learning_rate": 0.2, "methods": {"topk": {}}}}
    records.pack(carry_out(tmp_path / "three", data, other), tmp_path / "r")
    assert list(config.load(tmp_path / "r/config.yaml")["experiments"]) == ["e", "g"]
    assert len(records.read(tmp_path / "r").runs) == 6


@pytest.mark.parametrize(
    "case", ["another result", "other settings", "other data", "other code", "other code of a method"]
)
def test_what_contradicts_is_refused_and_nothing_is_written(case: str, data: Path, tmp_path: Path) -> None:
    content = carry_out(tmp_path / "one", data, SWEEP, seeds=[1])
    records.pack(content, tmp_path / "r")
    before = files(tmp_path / "r")
    seeds = [2] if "of a method" in case else [1]
    changed = copy.deepcopy(SWEEP)
    if case == "other settings":
        changed["experiments"]["e"]["learning_rate"] = 0.2
    again = carry_out(tmp_path / "two", data, changed, seeds=seeds)
    path = tmp_path / "two/runs/e/flare/keep-5e-2/epochs-1" / f"seed-{seeds[0]}" / "run.json"
    found = json.loads(path.read_bytes())
    if case == "another result":
        found["result_hash"] = "0" * 64
        found["made_from"]["processor"] = "another"
        path.write_bytes(to_json(found))
        why = "the record has another result of the same run .processor .*there, 'another' here.; it is kept"
    elif case == "other settings":
        why = "with other settings"
    else:  # as if the record had been made so
        folder = tmp_path / "r"
        name = "data" if case == "other data" else "code"
        digest = found["made_from"][name]
        for _ in range(8):
            text = lzma.decompress((folder / "runs.csv.xz").read_bytes()).decode()
            if digest in text:
                forged(folder, "runs.csv.xz", digest, "0" * 64)
        before = files(folder)
        why = "were made by other code" if "of a method" in case else f"with other {name}"
    with pytest.raises(DataError, match=why) as caught:
        records.pack(again, tmp_path / "r")
    assert "\n" not in str(caught.value) and files(tmp_path / "r") == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_restoring_overwrites_nothing_and_leaves_alone_what_is_the_same(swept: dict[str, Any], tmp_path: Path) -> None:
    records.pack(swept, tmp_path / "a")
    back = tmp_path / "back"
    records.restore(tmp_path / "a", back)
    before = {path: path.stat().st_mtime_ns for path in back.rglob("*.*") if path.name != "config.yaml"}
    records.restore(tmp_path / "a", back)
    assert before == {path: path.stat().st_mtime_ns for path in back.rglob("*.*") if path.name != "config.yaml"}
    # Beside the sweep itself: its own run.json, which is not restored, stays.
    shutil.copytree(swept["results"], tmp_path / "own")
    records.restore(tmp_path / "a", tmp_path / "own")
    assert "restored_from" not in json.loads(next((tmp_path / "own").rglob("run.json")).read_bytes())
    path = next(back.rglob("rounds.csv"))
    path.write_text("mine\n")
    with pytest.raises(DataError, match="another result than the record's is there"):
        records.restore(tmp_path / "a", back)
    assert path.read_text() == "mine\n"


def test_a_record_that_was_being_replaced_is_there(swept: dict[str, Any], tmp_path: Path) -> None:
    records.pack(swept, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / ".a.old")  # killed between the two renames
    assert len(records.read(tmp_path / "a").runs) == 6


def test_no_password_and_no_folder_of_a_machine_is_packed(swept: dict[str, Any], tmp_path: Path) -> None:
    records.pack({**swept, "storage": "postgresql://me:secret@host/studies"}, tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        content = path.read_bytes()
        text = lzma.decompress(content) if path.suffix == ".xz" else content
        assert b"secret" not in text and swept["data"].encode() not in text, path


def test_what_is_packed_agrees_with_the_configuration(swept: dict[str, Any], tmp_path: Path) -> None:
    other = copy.deepcopy(swept)
    for experiment in other["experiments"].values():
        experiment["rounds"] = 7
    with pytest.raises(DataError, match=r"no finished run of the configuration to pack .*: made with other settings"):
        records.pack(other, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match=r"--output: '\.hidden' is not allowed"):
        records.pack(swept, tmp_path / ".hidden")


def test_a_thousand_runs_of_a_hundred_evaluations_are_at_most_3_mb() -> None:
    draw = np.random.default_rng(0)
    table = {}
    for seed in range(1000):
        rows = [
            f"e,mnist,fc,flare,1e-3,1,{seed},{10 * i},{82_100 * (10 * i + 1)},{53_900_000 * (10 * i + 1)},"
            f"{np.float32(draw.random() * 2):.17g},{np.float32(draw.random() * 2)},{draw.integers(10_000) / 10_000}"
            for i in range(100)
        ]
        header = "experiment,dataset,model,method,keep,local_epochs,seed,round,uplink_bits,downlink_bits"
        content = "\n".join([f"{header},train_loss,test_loss,test_accuracy", *rows, ""]).encode()
        digests = {name: draw.bytes(32).hex() for name in ("settings", "rounds")}
        found = {"experiment": "e", "dataset": "mnist", "model": "fc", "method": "flare", "keep": "1e-3"}
        found |= {"local_epochs": 1, "seed": seed, "result_hash": draw.bytes(32).hex(), "wall_seconds": draw.random()}
        found |= {"made_from": digests | {"code": "c" * 64, "data": "d" * 64, "processor": "AMD EPYC"}}
        table[f"runs/e/flare/keep-1e-3/epochs-1/seed-{seed}"] = (to_json(found), content)
    size = sum(len(records._squeezed(content)) for content in records._tables(table))
    assert 1_000_000 < size < 3_000_000


def test_the_commands(
    swept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(json.dumps(swept))
    assert cli.main(["restore"]) == 2
    assert capsys.readouterr().err == "flare: results/records: no record is there\n"
    assert cli.main(["pack", "--config", "c.yaml", "--output", "results/records/one"]) == 0
    assert capsys.readouterr().out.startswith("results/records/one: 6 runs, ")
    assert cli.main(["restore", "two"]) == 2
    assert capsys.readouterr().err == "flare: RECORD: 'two' is not allowed; one of one\n"
    assert cli.main(["restore"]) == 0
    assert capsys.readouterr().out == "results/one: 6 runs, of the record one\n"
    assert cli.main(["verify", "--record", "one", "--sample", "2", "--data", swept["data"]]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len([line for line in said if line.endswith(": the same")]) == 2
    assert said[-1] == "2 of 6 runs repeated; different: none"
    assert cli.main(["verify", "--record", "one", "--results", "x"]) == 2
    assert "--record: not beside" in capsys.readouterr().err
