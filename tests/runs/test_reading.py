"""What is read back: a run's files held to each other, in the place of a run or a trial; files that are none."""

from __future__ import annotations

import json
import os
import stat
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import vouch, write_run

from flare import files
from flare.analysis.reading import read_run
from flare.config.reading import read, read_own
from flare.errors import ConfigError, DataError
from flare.runs.reading import read as read_files

ROUNDS = [0, 10, 19]
ACCURACIES = [0.125, 0.5, 0.25]


def written(tmp_path: Path, **changes: Any) -> Path:
    folder = write_run(tmp_path, evaluated=ROUNDS, accuracies=ACCURACIES)
    record = json.loads((folder / "run.json").read_bytes())
    record["config"] |= {"evaluate_every": 10} | changes.pop("config", {})
    (folder / "run.json").write_text(json.dumps(record | changes))
    return vouch(folder)


def test_a_run_as_it_was_written_is_read(tmp_path: Path) -> None:
    found, content = read_files(written(tmp_path))
    assert found["best_accuracy"] == 0.5 and found["final_accuracy"] == 0.25 and content.count(b"\n") == 4
    lost = write_run(tmp_path, seed=2, evaluated=ROUNDS, accuracies=[0.125, 0.5], diverged_round=13)
    assert read_files(lost)[0]["status"] == "diverged"
    assert read_files(write_run(tmp_path, seed=3, evaluated=ROUNDS, accuracies=[], diverged_round=0))[0]["rounds"] == 0


# Of 20 rounds with 10 clients of 50,890 weights: 1 % sent is 509 entries of 48 bits.
UP, DENSE = 20 * 10 * 509 * 48, 20 * 10 * 50_890 * 32
RECORD: dict[str, tuple[dict[str, Any], str]] = {
    "a better best": ({"best_accuracy": 0.99}, "its largest test_accuracy is 0.5, and best_accuracy is 0.99"),
    "a huge best": ({"best_accuracy": 1e308}, "its largest test_accuracy is 0.5"),
    "infinite": ({"best_accuracy": float("inf")}, "Infinity is no number"),
    "none at all": ({"final_accuracy": float("nan")}, "NaN is no number"),
    "another loss": ({"final_loss": 0}, "its last test_loss is 1.875, and final_loss is 0"),
    "less uplink": ({"uplink_bits": 7}, f"its last uplink_bits is {UP}, and 7 in run.json"),
    "more downlink": ({"downlink_bits": DENSE + 1}, f"its last downlink_bits is {DENSE}, and {DENSE + 1}"),
    "bits below 0": ({"uplink_bits": -1}, "uplink_bits: -1; 0 or more"),
    "more compression": ({"compression": 1e6}, r"compression is 1000000.0 in run.json, and 66.65"),
    "no compression": ({"compression": None}, "compression is None in run.json"),
    "fewer weights": ({"parameters": 50_889}, "compression is "),
    "fewer rounds": ({"rounds": 19}, "a finished run of 19 rounds|3 rows, and those"),
    "more rounds": ({"rounds": 99}, "a finished run of 99 rounds"),
    "finished and diverged": ({"diverged_round": 3}, "a finished run of 20 rounds"),
    "diverged late": ({"status": "diverged", "diverged_round": 20}, "diverged in round 20 of 20"),
    "diverged before its rows": ({"status": "diverged", "diverged_round": 5, "rounds": 5}, "3 rows, and those of 1"),
    "text for a number": ({"wall_seconds": "1"}, "wall_seconds: '1' is no number"),
    "a number for text": ({"device": 1}, "device: 1 is no text"),
    "lines in a text": ({"device": "cpu\ncuda"}, "is no text"),
    "true for a number": ({"seed": True}, "seed: True is no number"),
    "a number too large": ({"parameters": 2**63}, "is no number"),
    "no final": ({"final_accuracy": None}, "its last test_accuracy is 0.25, and final_accuracy is None"),
    "an end that is none": ({"status": ["finished"]}, r"status: \['finished'\]; finished or diverged"),
    "a trial": ({"config": {"trial": 0, "validation": 0.2}}, "of a trial of a study, measured on held-out samples"),
    "half a trial": ({"config": {"trial": 0}}, "trial, validation: one without the other"),
    "held-out samples": ({"evaluated_on": "validation"}, "evaluated_on: 'validation', and 'test' by its settings"),
    "another seed's settings": ({"config": {"seed": 2}}, "seed: 1, and 2 in its settings"),
    "other rounds in its settings": ({"config": {"rounds": 30, "evaluate_every": None}}, "a finished run of 20 rounds"),
    "rounds that are none": ({"config": {"rounds": "20"}}, "config: rounds: '20' is no such number"),
    "settings that are none": ({"config": None}, "not the record of a run"),
}


@pytest.mark.parametrize("case", RECORD)
def test_a_record_is_held_to_its_rows_and_settings(case: str, tmp_path: Path) -> None:
    changes, words = RECORD[case]
    folder = written(tmp_path)
    if changes.get("config", 0) is None:
        record = json.loads((folder / "run.json").read_bytes())
        (folder / "run.json").write_text(json.dumps(record | changes))
    else:
        folder = written(tmp_path, **changes)
    with pytest.raises(DataError, match=words) as caught:
        read_run(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


ROWS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a middle row deleted": (lambda rows: [*rows[:2], *rows[3:]], "2 rows, and those of 3 rounds"),
    "the last row deleted": (lambda rows: rows[:-1], "2 rows, and those of 3 rounds|largest|last"),
    "a row there twice": (lambda rows: [*rows[:2], *rows[1:]], "rounds that ascend"),
    "rows in another order": (lambda rows: [rows[0], rows[2], rows[1], rows[3]], "rounds that ascend"),
    "a middle accuracy": (lambda rows: [*rows[:2], rows[2].replace(",0.5", ",0.999"), rows[3]], "largest"),
    "an accuracy above 1": (lambda rows: [*rows[:2], rows[2].replace(",0.5", ",1.5"), rows[3]], "accuracy from 0 to 1"),
    "text as a loss": (lambda rows: [*rows[:2], rows[2].replace(",1.5,", ",low,"), rows[3]], "line 3: 13 values"),
    "a loss that is none": (lambda rows: [*rows[:2], rows[2].replace(",1.5,", ",nan,"), rows[3]], "numbers expected"),
    "a loss that is lost": (lambda rows: [*rows[:2], rows[2].replace(",1.5,", ",,"), rows[3]], "line 3: 13 values"),
    "digits in groups": (lambda rows: [*rows[:2], rows[2].replace(",10,", ",1_0,"), rows[3]], "line 3: 13 values"),
    "bits that fall": (lambda rows: [rows[0], rows[1].replace("16284800", "9" * 12), *rows[2:]], "fewer bits"),
    "another column": (lambda rows: [rows[0] + ",more", *rows[1:]], "line 2: 14 values"),
    "a column twice": (lambda rows: [rows[0] + ",round", *rows[1:]], "a column is there twice"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_are_held_to_their_record(case: str, tmp_path: Path) -> None:
    change, words = ROWS[case]
    folder = written(tmp_path)
    rows = (folder / "rounds.csv").read_text().splitlines()
    changed = change(list(rows))
    assert changed != rows
    (folder / "rounds.csv").write_text("\n".join([*changed, ""]))
    vouch(folder)  # as if the run had written them: the checksum says nothing
    with pytest.raises(DataError, match=words) as caught:
        read_run(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """run.json is changed by hand."""
    found = json.loads(path.read_bytes())
    change(found)
    path.write_text(json.dumps(found))


ORIGIN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no word of it": (lambda run: edited(run, lambda found: found.pop("made_from")), "of unknown origin"),
    "a list": (lambda run: edited(run, lambda found: found.update(made_from=[])), "of unknown origin"),
    "no code": (lambda run: edited(run, lambda found: found["made_from"].pop("code")), "of unknown origin"),
    "a number for data": (lambda run: edited(run, lambda found: found["made_from"].update(data=1)), "unknown origin"),
    "a middle loss": (
        lambda run: run.with_name("rounds.csv").write_text(
            run.with_name("rounds.csv").read_text().replace(",1.5,", ",1.25,")
        ),
        r"its rounds\.csv is not the one that the run wrote",
    ),
    "a setting": (
        lambda run: edited(run, lambda found: found["config"].update(tau=0.5)),
        r"its settings in run\.json are not those it was made with",
    ),
}


@pytest.mark.parametrize("trial", [False, True])
@pytest.mark.parametrize("case", ORIGIN)
def test_a_record_vouches_for_its_settings_and_rounds(case: str, trial: bool, tmp_path: Path) -> None:
    """What no other number of the run contradicts."""
    change, words = ORIGIN[case]
    own = {"config": {"trial": 3, "validation": 0.2}, "evaluated_on": "validation"} if trial else {}
    folder = written(tmp_path, **own)
    assert read_files(folder, trial=trial, place=False)
    change(folder / "run.json")
    with pytest.raises(DataError, match=words) as caught:
        read_files(folder, trial=trial, place=False)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_trial_is_read_by_the_same_code_and_a_run_in_its_place_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, config={"trial": 3, "validation": 0.2}, evaluated_on="validation")
    place = tmp_path / "batch-1/trial-3/seed-1"
    place.parent.mkdir(parents=True)
    folder.rename(place)
    assert read_files(place, trial=True)[0]["final_accuracy"] == 0.25
    with pytest.raises(DataError, match="of a trial of a study"):
        read_files(place, place=False)
    moved = place.rename(place.with_name("seed-2"))
    with pytest.raises(DataError, match="of another run, trial-3/seed-1"):
        read_files(moved, trial=True)
    with pytest.raises(DataError, match="of a reported run, in the place of a trial"):
        read_files(written(tmp_path), trial=True)


# ---- files that are none --------------------------------------------------------------------------------------------


def none_of_ours(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with open(path, "wb") as file:
            file.truncate(1 << 40)  # a terabyte of nothing
    elif kind == "deep":
        path.write_text("[" * 200_000)
    elif kind == "twice":
        path.write_text('{"config": {}, "config": {}}')


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "endless", "large", "deep", "twice"])
@pytest.mark.parametrize("name", ["run.json", "rounds.csv"])
def test_what_is_no_file_of_a_run_is_one_line_at_once(kind: str, name: str, tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / name).unlink()
    none_of_ours(kind, folder / name)
    begun = time.monotonic()
    with pytest.raises(DataError) as caught:
        read_run(folder)
    assert time.monotonic() - begun < 20 and str(folder) in str(caught.value) and "\n" not in str(caught.value)


MULTIPLIED = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGED = "a0: &a0 {x: 1, y: 2, z: 3}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
YAML = {"aliases": MULTIPLIED, "merges": MERGED, "itself": "&a [*a]\n", "long": "x: " + "y" * 300_000 + "\n"}


@pytest.mark.parametrize("case", YAML)
def test_yaml_that_multiplies_is_one_line_at_once(case: str, tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    file.write_text(YAML[case])
    begun = time.monotonic()
    with pytest.raises((ValueError, OSError)):
        read_own(file)
    assert time.monotonic() - begun < 30


def test_a_configuration_that_is_a_pipe_is_one_line_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="not a plain file"):
        read(tmp_path / "c.yaml")


def test_a_small_file_takes_little_memory_whatever_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    files.read_bytes(tmp_path / "file", 1000)  # what is imported or made once
    tracemalloc.start()
    try:
        assert files.read_bytes(tmp_path / "file", files.LARGE) == b"x" * 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert files.read_bytes(Path("/proc/self/status")).startswith(b"Name:")  # it has no size
    with pytest.raises(OSError, match="more than 10 bytes"):
        files.read_bytes(Path("/proc/self/status"), 10)


# ---- the writer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_files_have_the_permissions_that_the_umask_leaves(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        files.write_whole(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_file_system_without_modes_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, fail)
    files.write_whole(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_name_is_on_the_disk_before_the_writer_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("name"), replace(*names)))
    files.write_whole(tmp_path / "file", b"x")
    assert done == ["file", "name", "folder"]
