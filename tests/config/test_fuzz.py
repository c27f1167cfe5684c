"""What is broken is one line: configurations, arguments, and the files that are read.

The same examples on every run (tests/conftest.py). 300 broken configurations are made from
fashion.yaml beside this file by one change each, and are given to the command line and to Snakemake itself, which
starts no job with any of them.
"""

from __future__ import annotations

import copy
import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import ROOT, snakemake
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from synthetic import write_run

from flare import algorithms, cli, config, datasets, models, simulate, status
from flare.analysis import tables
from flare.datasets import _idx, shakespeare
from flare.errors import ConfigError, DataError
from flare.runs import checkpoint
from flare.tuning import tables as study_tables
from flare.tuning.conclude import conclude
from flare.tuning.origin import Sweep
from flare.tuning.study import Trial, studies
from flare.tuning.trials import read_values

TEXT = (ROOT / "tests/config/fashion.yaml").read_text()
GOOD = yaml.safe_load(TEXT)
# What a config value must not do where it reaches a shell, a path or a pattern.
NASTY = [
    "a b",
    "a'b",
    'a"b',
    "a;b",
    "$(touch x)",
    "`id`",
    "a|b",
    "a&b",
    "a>b",
    "a\nb",
    "../up",
    "-x",
    "{a}",
    "*",
    "",
    "ü\0",
]
OTHER_TYPE = [None, True, "text", [], {}, {"a": 1}, [[1]], 3.5, -1, 0]
HUGE = [10**12, 10**400, -(10**12), 1e308, float("nan"), float("inf"), -float("inf")]
# What may be a fraction although fashion.yaml has a whole number there.
REAL = ("percentile", "tau_decay", "momentum", "learning_rate", "tau")
FREE_NAMES = ("results", "data", "device", "storage", "wandb.project", "wandb.entity", "experiments")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


PATHS = list(places(GOOD))
# An entity may be null and a method may have no settings; so may this be, therefore.
LEAVES = [path for path in PATHS if not isinstance(at(GOOD, path), dict | list)]
MAPPINGS = [path for path in PATHS if isinstance(at(GOOD, path), dict)]


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """A configuration with one fault, as Python values."""
    out = copy.deepcopy(GOOD)
    kind = draw(st.sampled_from(["key", "type", "number", "name", "remove", "list", "keep", "nasty", "cross", "whole"]))
    experiment = out["experiments"][draw(st.sampled_from(sorted(out["experiments"])))]
    if kind == "key":
        place = at(out, draw(st.sampled_from([path for path in MAPPINGS if path != ("experiments",)])))
        near = draw(st.sampled_from([f"{key}s" for key in place if isinstance(key, str)] or ["extra"]))
        place[draw(st.sampled_from([near, "extra", 3, None, True, "", "a b", "ü", "x" * 5000]))] = draw(
            st.sampled_from([1, "x", None, [], {}])
        )
    elif kind == "type":
        path = draw(st.sampled_from(PATHS[1:]))
        value = at(out, path)
        kinds: tuple[type, ...] = (type(value),)
        if isinstance(value, float) or path[-1] in REAL:
            kinds = (int, float)
        null = [None] if path[-1] == "entity" or path[-2:-1] == ("methods",) else []
        others = [
            item
            for item in OTHER_TYPE
            if (item not in null and not isinstance(item, kinds))
            or (isinstance(item, bool) and not isinstance(value, bool))
        ]
        others = [item for item in others if not (item is None and null)]
        at(out, path[:-1])[path[-1]] = draw(st.sampled_from([item for item in others if type(item) is not type(value)]))
    elif kind == "number":
        numbers = [p for p in LEAVES if isinstance(at(GOOD, p), int | float) and p[-1] not in ("tau", "learning_rate")]
        at(out, (path := draw(st.sampled_from(numbers)))[:-1])[path[-1]] = draw(
            st.sampled_from([*HUGE[:3], *HUGE[4:], -1])
        )
    elif kind == "name":
        key = draw(st.sampled_from(["dataset", "model"]))
        experiment[key] = draw(
            st.sampled_from([experiment[key] + "x", experiment[key].upper(), "", "none", "__init__"])
        )
    elif kind == "remove":
        del experiment[
            draw(
                st.sampled_from(
                    ["dataset", "model", "clients", "rounds", "batch_size", "learning_rate", "seeds", "methods", "keep"]
                )
            )
        ]
    elif kind == "list":
        key = draw(st.sampled_from(["seeds", "local_epochs", "keep"]))
        experiment[key] = draw(
            st.sampled_from([[], experiment[key] * 2, [None], [[1]], [1.0], [-1], [10**20], ["x"], [True]])
        )
    elif kind == "keep":
        wrong = [
            "0.001",
            "1e-03",
            "1.0",
            "0",
            "0.0",
            "1e-0",
            "2",
            "-1",
            "nan",
            "1e3",
            "1e-400",
            ".5",
            "5e-1",
            "sparse",
            "٣e-1",
        ]
        experiment["keep"] = draw(st.sampled_from([[text] for text in wrong] + [[0.5], [1], "1e-3", {"a": 1}]))
    elif kind == "nasty":
        text, place = (
            draw(st.sampled_from(NASTY)),
            draw(st.sampled_from([*FREE_NAMES[2:], "fidelity", "methods", "not_pulled"])),
        )
        if place == "experiments":
            out["experiments"][text] = experiment
        elif place == "methods":
            experiment["methods"][text] = {}
        elif place == "not_pulled":
            experiment["methods"]["flare"]["not_pulled"] = text
        elif place == "fidelity":
            experiment["fidelity"] = text
        else:
            *outer, last = place.split(".")
            at(out, tuple(outer))[last] = text.replace("-x", "-x y")
    elif kind == "cross":
        change: dict[str, Any] = draw(
            st.sampled_from(
                [
                    {"available": experiment["clients"] + 1},
                    {"available": 0},
                    {"methods": {"flare": {"pull_steps": 1.5}}},
                    {"methods": {"flare": {"pull_steps": "most"}}},
                    {"methods": {"flare": {"tau": {"log": [1e-3, 1]}}}},
                    {"methods": {"flare": {"tau": {"log": [0, 1]}}}, "tuning": {"seeds": [9]}},
                    {"methods": {"flare": {"tau": {"log": [1, "nan"]}}}, "tuning": {"seeds": [9]}},
                    {"methods": {"topk": {"tau": {"log": [1e-3, 1]}}}, "tuning": {"seeds": [9]}},
                    {"methods": {"flare": {"taw": {"log": [1e-3, 1]}}}, "tuning": {"seeds": [9]}},
                    {"methods": {"flare": {"tau": {"linear": [1, 0]}}}, "tuning": {"seeds": [9]}},
                    {"methods": {"flare": {"tau": {"choices": [1]}}}, "tuning": {"seeds": [9]}},
                    {"methods": {"topk": {"learning_rate": {"log": [0.1, float("inf")]}}}, "tuning": {"seeds": [9]}},
                    {"methods": {"flare": {"tau": {"log": [1e-3, 1]}}}, "tuning": {"seeds": [1]}},
                    {"tuning": {"seeds": [9], "methods": {"flare": {"trials": 2}}}},
                    {"tuning": {"seeds": [9], "validation": float("nan")}},
                    {"partition": {"scheme": "shards", "classes_per_client": 11}},
                    {"partition": {"scheme": "dirichlet", "alpha": 0}},
                    {"partition": {"scheme": "natural"}},
                    {"dataset": "shakespeare", "model": "gru", "model_settings": {}, "partition": {"scheme": "shards"}},
                    {"model": "gru", "model_settings": {}},
                    {"model": "vgg11", "model_settings": {}},
                    {"pad_to": 27},
                    {"channels": 0},
                    {"sample_text": 10},
                    {"model_settings": {"width": 10**10}},
                ]
            )
        )
        experiment |= change
    else:
        whole: list[Any] = [
            None,
            [],
            3,
            "text",
            {},
            [GOOD],
            {"experiments": []},
            {"experiments": {}},
            {"experiments": None},
        ]
        out = draw(st.sampled_from(whole))
    return out


def is_one_line(said: str, start: str = "") -> bool:
    return len(said.splitlines()) == 1 and said.startswith(start) and "Traceback" not in said and len(said) < 1000


# Snakemake in one process, since its start takes seconds. The target does not exist: of a configuration that is let
# through no job starts, either, but that ends with exit code 1.
SNAKEMAKE = """
import contextlib, io, json, sys, time
from snakemake.cli import main
for file in sys.argv[3:]:
    said, begun = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            where = ["--snakefile", sys.argv[1], "--directory", sys.argv[2]]
            main([*where, "--cores", "1", "--configfile", file, "--", "x"])
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue(), time.process_time() - begun]))
"""


def by_snakemake(folder: Path, names: list[str]) -> list[tuple[int, list[str], float]]:
    """Exit code, lines said and seconds taken of Snakemake for each of these configurations in the folder."""
    command = [sys.executable, "-c", SNAKEMAKE, str(ROOT / "Snakefile"), str(folder), *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(names)
    own = "Using workflow specific profile"
    return [
        (code, [line for line in said.splitlines() if not line.startswith(own)], took) for code, said, took in found
    ]


@pytest.mark.workflow
@pytest.mark.timeout(600)  # 40 s where nothing else runs
def test_300_broken_configurations_are_300_lines_of_many_kinds_and_no_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    mappings: list[bool] = []

    @settings(max_examples=300)
    @given(broken())
    def one_line_each(content: Any) -> None:
        file, begun = tmp_path / f"{len(said)}.yaml", time.process_time()
        file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        capsys.readouterr()
        assert cli.main(["check", str(file)]) == 2
        told = capsys.readouterr()
        assert told.out == "" and is_one_line(told.err, f"flare: {file}: ") and time.process_time() - begun < 5, told
        assert "; " in told.err or "unknown" in told.err or "needed" in told.err or " reads " in told.err, told.err
        said.append(told.err.rstrip("\n"))
        mappings.append(isinstance(content, dict))

    one_line_each()
    assert len(said) >= 300 and len({line.partition(": ")[2].partition(": ")[2] for line in said}) > 120

    (tmp_path / "good.yaml").write_text(TEXT)
    names = [*map(str, range(len(said))), "good"]
    *told, (code, lines, _) = by_snakemake(tmp_path, [f"{tmp_path}/{name}.yaml" for name in names])
    assert code == 1 and "No rule to produce x" in " ".join(lines)  # a good one gets beyond the check
    for line, is_mapping, (code, lines, took) in zip(said, mappings, told, strict=True):
        assert took < 5 and "Traceback" not in " ".join(lines)
        # Of a file that is no mapping Snakemake's own reader says so, before it reads this workflow (config/README.md).
        assert (code, lines) == (2, [line]) if is_mapping else code == 1, (line, lines)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".yaml" and path.name != ".snakemake"]
    assert not list(tmp_path.glob(".snakemake/metadata/*")) and not list(tmp_path.glob(".snakemake/incomplete/*"))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, len(TEXT.encode()) - 1),
    piece=st.sampled_from(
        [
            b"\xff",
            b"\0",
            b"\t",
            b"{",
            b"[",
            b"&a",
            b"*a",
            b"!!python/object/apply:os.system [id]",
            b"- ",
            b": ",
            b"'",
            b"\x85",
            b"%",
            b"@",
        ]
    ),
    cut=st.booleans(),
)
def test_a_damaged_file_is_read_as_it_is_or_refused_in_one_line(
    place: int, piece: bytes, cut: bool, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    content = TEXT.encode()
    file.write_bytes(content[:place] + piece + (b"" if cut else content[place:]))
    try:
        assert config.runs(config.load(file))
    except ConfigError as error:
        assert is_one_line(str(error), f"{file}: "), error


FILES = {
    "not UTF-8": b"\xff\xfe\0experiments: 1",
    "a tab": b"experiments:\n\tx: 1\n",
    "no mapping": b"- 1\n",
    "empty": b"",
    "a number": b"3",
    "not closed": b"experiments: {",
    "a date that is none": b"results: 2024-99-99\n",
    "a number of 5000 digits": b"threads: " + b"9" * 5000,
    "holds itself": b"experiments: &e\n  x: *e\n",
    "a list of itself": b"experiments: &e [*e]\n",
    "laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefgh"),
    "nested": b"[" * 1500,
    "twice": b"experiments: {}\nexperiments: {}\n",
    "Python": b"experiments: !!python/object/apply:os.mkdir [exploded]\n",
    "pairs that laugh": b"a: &a !!omap [x: 1]\n"
    + b"".join(b"%c: &%c !!omap [%s]\n" % (c, c, b",".join([b"k: *%c" % (c - 1)] * 9)) for c in b"bcdefghijklm"),
    "too long": b"results: " + b"x" * 300_000,
    "octal": TEXT.replace("rounds: 80", "rounds: 080").replace("080", "010").encode(),
    "minutes": TEXT.replace("rounds: 80", "rounds: 1:30").encode(),
    "no such number": b"threads: !!int ''\n",
    "no such truth": b"threads: !!bool x\n",
    "no such time": b"threads: !!timestamp x\n",
    "a set": b"experiments: !!set {a, b}\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_configuration_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(FILES[name])
    begun = time.process_time()
    assert cli.main(["check", str(file)]) == 2
    assert is_one_line(capsys.readouterr().err, f"flare: {file}: ") and time.process_time() - begun < 5
    assert not Path("exploded").exists()


@pytest.mark.parametrize("text", [text for text in NASTY if text != "../up" and text != "a b"])
@pytest.mark.parametrize("key", FREE_NAMES)
def test_no_free_text_reaches_a_shell_or_a_pattern(key: str, text: str) -> None:
    content = copy.deepcopy(GOOD)
    if key.startswith("wandb") and text == "-x":
        return config.check(content | {"wandb": {key[6:]: text}})  # reaches no command line
    if key == "experiments":
        content[key][text] = content[key]["fashion-fc"]
    else:
        *outer, last = key.split(".")
        at(content, tuple(outer))[last] = text
    with pytest.raises(ConfigError, match="is not allowed; ") as caught:
        config.check(content)
    assert key in str(caught.value) and is_one_line(str(caught.value))


@pytest.mark.parametrize("folder", ["results", "/tmp/a b/ü-é", "../up", "日本 語", "x=1,y@z"])
def test_folders_may_have_spaces_and_letters_of_any_alphabet(folder: str) -> None:
    config.check(GOOD | {"results": folder, "data": folder})


@pytest.mark.parametrize("folder", [".", "./", "a/..", "/", "//x", ".snakemake", "a/.snakemake/b", "x" * 256])
@pytest.mark.parametrize("key", ["results", "data"])
def test_a_folder_that_snakemake_or_the_disk_could_not_use_is_refused(key: str, folder: str) -> None:
    with pytest.raises(ConfigError, match=f"config: {key}: ") as caught:
        config.check(GOOD | {key: folder})
    assert is_one_line(str(caught.value))


@pytest.mark.parametrize("key", ["results", "data"])
@pytest.mark.parametrize("kind", ["file", "below a file", "link to nothing", "link to itself"])
def test_what_is_in_the_way_of_a_folder_is_said_before_any_job(
    key: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    Path("nothing").symlink_to("nowhere")
    Path("itself").symlink_to("itself")
    given = {"file": "file", "below a file": "file/a", "link to nothing": "nothing/a", "link to itself": "itself"}[kind]
    Path("c.yaml").write_text(yaml.safe_dump(GOOD | {key: given}))
    assert cli.main(["check", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert is_one_line(said, f"flare: c.yaml: {key}: '{given}' is not allowed, as {given.split('/')[0]} is ")


@pytest.mark.workflow
def test_snakemake_says_what_is_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for number, key in enumerate(("results", "data")):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(GOOD | {key: "file"}))
    for number, (code, lines, _) in enumerate(by_snakemake(tmp_path, [f"{tmp_path}/{n}.yaml" for n in (0, 1)])):
        key = ("results", "data")[number]
        said = f"flare: {tmp_path}/{number}.yaml: {key}: 'file' is not allowed, as file is not a folder; a folder"
        assert (code, lines) == (2, [said])


LARGE: dict[str, dict[str, Any]] = {
    "are 1500000 runs": {
        "seeds": list(range(5000)),
        "keep": [f"0.{n}1" for n in range(100, 400)],
        "methods": {"topk": {}},
    },
    "are 200000 runs of a study": {
        "methods": {"flare": {"tau": {"log": [1e-3, 1]}}},
        "tuning": {"seeds": [98, 99], "batches": 1000, "trials": 100},
    },
    "methods.flare: batches x trials x seeds are 600000 runs": {
        "methods": {"flare": {"tau": {"log": [1e-3, 1]}}},
        "tuning": {"seeds": [99], "methods": {"flare": {"batches": 100_000}}},
    },
    "hidden_layers: 1001 is not allowed": {"model_settings": {"hidden_layers": 1001}},
}


@pytest.mark.parametrize("words", LARGE)
def test_a_sweep_that_nobody_could_list_is_refused_at_once(words: str) -> None:
    content = copy.deepcopy(GOOD)
    content["experiments"]["fashion-fc"] |= LARGE[words]
    with pytest.raises(ConfigError, match=words):
        config.check(content)


def test_names_that_some_disks_take_for_one_are_refused() -> None:
    content = {"experiments": {"One": GOOD["experiments"]["fashion-fc"], "oNe": GOOD["experiments"]["fashion-fc"]}}
    with pytest.raises(ConfigError, match="experiments: 'oNe' is not allowed beside 'One'; "):
        config.check(content)


@pytest.mark.parametrize(
    "value", ["2024-99-99", "010", "0_0", "on", "1e5", "null", "0x1f", "2024-01-01", "encoder.1", "a-b"]
)
def test_a_word_reaches_a_job_as_the_word_it_is(value: str) -> None:
    assert yaml.safe_load(config.yaml_scalar(value)) == value


# The command line and Snakemake, for real: one line, 2, in under 5 s.


@pytest.mark.workflow
@pytest.mark.parametrize("how", ["value", "twice", "no experiments", "self"])
def test_snakemake_says_it_in_one_line_and_starts_nothing(how: str, tmp_path: Path) -> None:
    text = {
        "value": TEXT.replace("rounds: 80", "rounds: .nan"),
        "twice": TEXT.replace("fashion-cnn:", "fashion-fc:"),
        "no experiments": "results: results\n",
        "self": "results: &a [*a]\n",
    }[how]
    (tmp_path / "c.yaml").write_text(text)
    begun = os.times()
    done = snakemake(tmp_path, "--cores", "1", "--configfile", str(tmp_path / "c.yaml"), timeout=60)
    ended = os.times()
    used = ended.children_user + ended.children_system - begun.children_user - begun.children_system
    assert done.returncode == 2 and used < 5
    lines = [
        line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("Using workflow specific")
    ]
    assert len(lines) == 1 and lines[0].startswith(f"flare: {tmp_path}/c.yaml: ")
    assert not (tmp_path / "results").exists() and not (tmp_path / "data").exists()


TRAIN = (
    "train --experiment e --dataset digits --model fc --method flare --keep 1e-2 --local-epochs 1 --seed 1 --clients 2"
)
TRAIN += " --rounds 1 --batch-size 8 --learning-rate 0.1 --output o"
STUDY = TRAIN.replace("train", "propose").replace(" --seed 1", "") + " --seeds 1"
BAD_ARGUMENTS = [
    *("", "nonsense", "fetch", "fetch --dataset digitz", "fetch --dataset digits --data file", "tune nothing"),
    *("tabulate nowhere --output t", "tabulate results/{a,b --output t", "tabulate file --output t"),
    *("plot nope --experiment e --tables t --output o", "plot accuracy_by_round --experiment e --tables t --output o"),
    *(
        "plot accuracy_by_round --experiment e --tables file --output o",
        "status nowhere.yaml",
        "status file",
        "check .",
    ),
    *("plan --config nowhere", "plan --config file", "show nowhere", "judge --tables nowhere", "judge --tables file"),
    *("compare nowhere --output o", "compare nowhere --reference file --output o", "gather_trials nowhere --output o"),
    *("tabulate_studies nowhere --output o", "export_studies nowhere --output o", "verify --results nowhere"),
    *("verify --sample 0", "verify --seed x", "render nowhere.md --output o", "render file --output o"),
    "count_labels --experiment e --dataset digits --clients 0 --seed 1 --output o",
    "count_labels --experiment e --dataset nope --clients 2 --seed 1 --output o",
    "count_labels --experiment e --dataset digits --clients 2 --seed -1 --output o",
    "count_labels --experiment e --dataset digits --clients 2 --seed 1 --output o --data nowhere",
    *(f"{TRAIN} --{flag}" for flag in ("threads 0", "threads 1e9", "device foo", "device cuda:x", "data nowhere")),
    *(
        f"{TRAIN} --{flag}"
        for flag in ("checkpoint-seconds nan", "checkpoint-rounds 0", "jobs-per-gpu 0", "wandb maybe")
    ),
    *(
        f"{TRAIN} --{flag}"
        for flag in ("values nowhere", "values file", "partition x", "partition scheme={", "rounds x")
    ),
    *(
        f"{TRAIN} --{flag}"
        for flag in ("validation 3", "validation nan", "trial -1", "learning-rate nan", "momentum 1")
    ),
    *(
        f"{TRAIN} --{flag}"
        for flag in ("keep 2", "available 3", "method flair", "method-settings taw=1", "rounds 0", "output o p")
    ),
    *(f"{TRAIN} --{flag}" for flag in ("experiment a;b", "experiment ../a", "model-settings width=.nan", "pad-to 7")),
    *(f"{TRAIN} --{flag}" for flag in ("trial 3", "validation 0.2", "tuned foo=3", "tuned tau=3", "method fedavg")),
    TRAIN.replace("--seed 1 ", "").replace("--output o", "--output seed-1 seed-1"),
    TRAIN.replace("--seed 1 ", "").replace("--output o", "--output seed-01"),
    TRAIN.replace("--seed 1 ", "").replace("--output o", f"--output seed-{'9' * 5000}"),
    *(f"{TRAIN} --{flag}" for flag in ("method-settings tau=&x[*x]", "method-settings tau=!!bool", "seed -1")),
    *(f"{TRAIN} --{flag}" for flag in ("model-settings width=1 width=2", "partition scheme=shards scheme=contiguous")),
    *(
        f"{TRAIN} --{flag}"
        for flag in ("method-settings tau=010", "method-settings tau=!!timestamp", "experiment a\nb")
    ),
    *(
        "check no\nfile",
        "check /dev/zero",
        f"tabulate {'{a,b}' * 40} --output t",
        "fetch --dataset digits --data a\nb/c",
    ),
    "count_labels --experiment a,b --dataset digits --clients 2 --seed 1 --output o",
    *(f"{STUDY} --space {space}" for space in ("tau=3", "tau={log:[0,1]}", "taw={log:[1,2]}", "tau", "tau={log:[1,")),
    *(
        f"{STUDY} --space tau={{log:[1,2]}} --{flag}"
        for flag in ("validation 7", "trials 0", "objective x", "mode y", "rounds 0")
    ),
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"\xff\xfe{")
    (tmp_path / "a\nb").symlink_to("file")
    try:
        code = cli.main(arguments.split(" ") if arguments else [])
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    assert code == 2 and said.out == "" and is_one_line(said.err, "flare: "), said
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()] == ["file"]


# Readers of files: one flipped, cut or added piece is DataError or ConfigError in one line, or a good file.


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut, with bytes changed, or with something put in."""
    place = draw(st.integers(0, max(0, len(content) - 1)))
    how = draw(st.sampled_from(["cut", "flip", "insert", "repeat"]))
    if how == "cut":
        return content[:place]
    if how == "flip":
        return content[:place] + bytes((content[place] ^ draw(st.integers(1, 255)),)) + content[place + 1 :]
    if how == "insert":
        pieces = [b"\0", b"\xff", b"null", b"[]", b"{}", b",", b"\n", b'"', b"-1", b"1e999", b"NaN", b"9" * 30]
        return content[:place] + draw(st.sampled_from(pieces)) + content[place:]
    return content[:place] + content[: draw(st.integers(1, 40))] + content[place:]


IDX = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(range(24))


@settings(max_examples=150)
@given(damaged(IDX))
@example(IDX)
def test_any_idx_file(content: bytes) -> None:
    try:
        assert _idx.parse(content, "train-images-idx3-ubyte").ndim == 3
    except DataError as error:
        assert is_one_line(str(error), "train-images-idx3-ubyte: ")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged(gzip.compress(IDX, mtime=0)))
def test_any_compressed_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(DataError) as caught:
        _idx.unpacked(tmp_path, "x", "0" * 64)
    assert is_one_line(str(caught.value), f"{tmp_path}/x.gz: ")


PLAY = "# The Play\n\n## Act 1\n\n**FIRST**\nTo be, _[aside]_ or not\n\n_[Exit]_\n\n**SECOND**\nAy.\n"


@settings(max_examples=150)
@given(st.one_of(damaged(PLAY.encode()).map(lambda b: b.decode(errors="replace")), st.text(max_size=80)))
def test_any_play(text: str) -> None:
    for said in shakespeare.speeches(text).values():
        try:
            found = shakespeare.windows(said * 20)
            assert found.shape[1:] == (101,) and (found < shakespeare.CLASSES).all()
        except DataError as error:
            assert is_one_line(str(error), "shakespeare: ")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    datasets.fetch("digits", folder)
    return folder


@pytest.mark.parametrize("name", ["train.npz", "manifest.json"])
def test_any_prepared_data(name: str, prepared: Path, tmp_path: Path) -> None:
    file = prepared / "digits" / name
    whole = file.read_bytes()

    @settings(max_examples=60)
    @given(damaged(whole))
    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        try:
            assert len(datasets.load("digits", prepared, "train")) == 1500
        except DataError as error:
            assert is_one_line(str(error), f"{file.parent}")
        if name == "train.npz":  # and where the manifest vouches for it
            manifest = json.loads((file.parent / "manifest.json").read_bytes())
            vouched = copy.deepcopy(manifest)
            vouched["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
            (file.parent / "manifest.json").write_text(json.dumps(vouched))
            try:
                datasets.load("digits", prepared, "train")
            except DataError as error:
                assert is_one_line(str(error), f"{file}: ")
            (file.parent / "manifest.json").write_text(json.dumps(manifest))

    try:
        attempt()
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["rounds.csv", "run.json"])
def test_any_run(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path, evaluated=[0, 10], accuracies=[0.5, 0.8])
    file = folder / name
    whole = file.read_bytes()

    @settings(max_examples=200)
    @given(damaged(whole))
    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        try:
            tables.tabulate([folder], tmp_path / "tables")
        except DataError as error:
            assert is_one_line(str(error), f"{folder}"), error

    attempt()


WRONG = st.sampled_from([None, True, "x", "", [], {}, -1, 1.5, 1e308, 10**30, [1], {"a": 1}])


def test_any_value_in_run_json(tmp_path: Path) -> None:
    folder = write_run(tmp_path, evaluated=[0, 10], accuracies=[0.5, 0.8])
    record = json.loads((folder / "run.json").read_bytes())

    @settings(max_examples=150)
    @given(st.sampled_from(sorted(record)), WRONG)
    def attempt(key: str, value: Any) -> None:
        (folder / "run.json").write_text(json.dumps(record | {key: value}))
        try:
            tables.tabulate([folder], tmp_path / "tables")
        except DataError as error:
            assert is_one_line(str(error), f"{folder}"), error

    attempt()

    @settings(max_examples=150)
    @given(st.sampled_from([*sorted(record["config"]), "tuned", "available", "method_settings", "clients"]), WRONG)
    def attempt_settings(key: str, value: Any) -> None:
        (folder / "run.json").write_text(json.dumps(record | {"config": record["config"] | {key: value}}))
        try:
            tables.tabulate([folder], tmp_path / "tables")
        except DataError as error:
            assert is_one_line(str(error), f"{folder}"), error

    attempt_settings()
    for whole in ("null", "[]", "3", '"x"'):
        (folder / "run.json").write_text(whole)
        with pytest.raises(DataError, match=r"run\.json"):
            tables.tabulate([folder], tmp_path / "tables")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, a study that is over, and a run as the engine records it."""
    folder = tmp_path_factory.mktemp("finished")
    tables.tabulate([write_run(folder, experiment="fashion-fc", seed=seed) for seed in (1, 2, 3)], folder / "tables")
    content = copy.deepcopy(GOOD)
    experiment = content["experiments"]["fashion-fc"]
    experiment["methods"] = {"flare": {"tau": {"log": [1e-3, 1]}}}
    experiment["tuning"] = {"seeds": [97], "trials": 4, "batches": 1}
    study = studies(content)[0]
    trials = [Trial(n, {"tau": 0.1 / (n + 1)}, "complete", {97: 0.5 + n / 10}) for n in range(4)]
    conclude(study, folder / "study", trials)
    study_tables.tabulate([folder / "study"], folder / "tables/studies")
    run = config.with_defaults(config.runs(GOOD)[0])
    shutil.copytree(write_run(folder, change={"config": dataclasses.asdict(run)}), folder / "run")
    shutil.copy(ROOT / "config/reference.csv", folder)
    return folder


READERS: dict[str, tuple[str, ...]] = {
    "tables/summary.csv": ("show", "."),
    "tables/studies.csv": ("show", "."),
    "tables/runs.csv": ("judge", "--tables", "tables"),
    "study/study.json": ("tabulate_studies", "study", "--output", "out/studies"),
    "study/trials.csv": ("gather_trials", "study", "--output", "out/trials.csv"),
    "run/run.json": ("compare", "run", "--reference", "reference.csv", "--output", "out/compared"),
    "reference.csv": ("compare", "run", "--reference", "reference.csv", "--output", "out/compared"),
}


@pytest.mark.parametrize("name", READERS)
def test_any_file_that_a_command_reads(
    name: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    whole = Path(name).read_bytes()
    assert cli.main(READERS[name]) == 0
    refused = 0
    header = whole.split(b"\n")[0] + b"\n"

    @settings(max_examples=40)
    @given(st.one_of(damaged(whole), st.sampled_from([b"", b"[]", b"{}", b"3", b"null", b"a,b\n1,2\n", header])))
    def attempt(content: bytes) -> None:
        nonlocal refused
        Path(name).write_bytes(content)
        capsys.readouterr()
        code = cli.main(READERS[name])
        assert code == 0 or (code == 2 and is_one_line(capsys.readouterr().err, "flare: "))
        refused += code == 2

    try:
        attempt()
    finally:
        Path(name).write_bytes(whole)
    assert refused >= 5


def test_any_record_is_some_state(tmp_path: Path) -> None:
    run = config.runs(GOOD)[0]
    folder = tmp_path / "runs" / run.folder
    folder.mkdir(parents=True)

    @settings(max_examples=60)
    @given(
        st.one_of(
            damaged(b'{"status": "finished", "rounds": 3}'), st.sampled_from([b"null", b"[1]", b"3", b"[" * 9999])
        )
    )
    def attempt(content: bytes) -> None:
        (folder / "run.json").write_bytes(content)
        assert status._state(run, tmp_path, Sweep(tmp_path, None, "cpu", 1, {})).state

    attempt()


def test_any_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = checkpoint.Checkpoint(tmp_path, {"a": 1}, checkpoint.Stop())
    saved.save({"completed": 1, "server": torch.arange(5.0), "memory": {"m": torch.ones(2, 5)}})
    whole = saved.path.read_bytes()

    @settings(max_examples=80)
    @given(damaged(whole))
    def attempt(content: bytes) -> None:
        saved.path.write_bytes(content)
        capsys.readouterr()
        if saved.load() is None:
            assert is_one_line(capsys.readouterr().err, f"{saved.path}: ")

    attempt()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged(b"study: s\nvalues: {tau: 0.1}\ntrial: 3\ntrials: [{trial: 1, values: {tau: 0.2}}]\n"))
def test_any_values_of_a_study(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    file.write_bytes(content)
    for trial in (None, 1):
        try:
            assert isinstance(read_values(file, "s", trial), dict)
        except DataError as error:
            assert is_one_line(str(error), f"{file}: ")


@settings(max_examples=60)
@given(st.lists(st.lists(st.one_of(st.integers(-2, 4), st.just(2**70)), max_size=4), max_size=4))
def test_any_participants(participants: list[list[int]]) -> None:
    model = torch.nn.Linear(2, 2)
    clients = [(torch.ones(2, 2), torch.tensor([0, 1]))] * 3
    good = len(participants) >= 2 and all(
        ids and len(set(ids)) == len(ids) and set(ids) <= {0, 1, 2} for ids in participants
    )
    options: dict[str, Any] = {"rounds": 2, "local_epochs": 1, "batch_size": 2, "learning_rate": 0.1, "momentum": 0.0}
    try:
        simulate(model, clients, test=clients[0], method="fedavg", keep=None, participants=participants, **options)
        assert good
    except ConfigError as error:
        assert not good and is_one_line(str(error), "participants: ")


def test_every_name_that_exists_is_loaded_and_no_other() -> None:
    for module, names in ((algorithms, algorithms.names()), (models, models.names())):
        for name in names:
            module.load(name)
        for wrong in ("", "__init__", "../x", names[0].upper(), "a" * 10_000):
            with pytest.raises(ConfigError) as caught:
                module.load(wrong)
            assert is_one_line(str(caught.value))
