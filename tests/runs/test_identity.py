"""What decides the bits of a run is found by itself, and only what computes counts."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from commands import ROOT

from flare import algorithms, models
from flare.config import Run, with_defaults
from flare.datasets import partitions
from flare.runs import identity
from flare.runs.train import train

PACKAGE = ROOT / "flare"
RUN = with_defaults(
    Run(
        experiment="e",
        dataset="digits",
        model="fc",
        model_settings={"width": 8, "hidden_layers": 1},
        method="flare",
        keep="5e-2",
        local_epochs=1,
        seed=3,
        clients=3,
        rounds=2,
        batch_size=20,
        learning_rate=0.05,
        evaluate_every=1,
    )
)
# What is executed while a run is carried out and decides no number: it reads, checks, saves, shows, names.
KEEPERS = {
    "__init__",
    "columns",
    "config/run",
    "datasets/__init__",
    "datasets/_fetching",
    "datasets/partitions/__init__",
    "datasets/partitions/_feasible",  # what is refused
    "engine/api",
    "engine/inputs",  # what is refused
    "engine/memory",
    "engine/server",  # that there is none
    "engine/probes/__init__",
    "engine/schedules/__init__",
    "errors",
    "files",
    "runs/checkpoint",
    "runs/identity",
    "runs/machine",
    "runs/process",
    "runs/progress",
    "runs/provenance",
    "runs/record",
    "runs/train",
    "settings",
    "tracking/__init__",
    "tracking/mirror",
    "tracking/sdk",
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The digest of one file of a package of its own, by its source."""
    monkeypatch.setattr(identity, "ROOT", tmp_path)

    def digest(source: str) -> str:
        (tmp_path / "file.py").write_text(source)
        identity.code_digest.cache_clear()
        identity._meaning.cache_clear()
        return identity.code_digest(("file",))

    yield digest
    identity.code_digest.cache_clear()
    identity._meaning.cache_clear()


def test_comments_docstrings_and_layout_are_no_other_code(file: Any) -> None:
    plain = file('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1\n')
    assert file('"""Uno."""\n# a comment\ndef f( x ):\n    """Due."""\n    return (x + 1)\n') == plain
    assert file('"""One."""\ndef f(x):\n    """Two."""\n    return x + 2\n') != plain


def test_the_text_of_an_error_is_no_other_code_and_which_error_is(file: Any) -> None:
    code = "def f(x):\n    if x < 1:\n        raise {}\n    return x\n"
    plain = file(code.format("ValueError(f'{x} is too small')"))
    assert file(code.format("ValueError('at least 1, not', x)")) == plain
    assert file(code.format("KeyError(f'{x} is too small')")) != plain
    assert file("def f(x):\n    return x\n") != plain


def test_the_range_and_meaning_of_a_setting_are_no_other_code_and_its_default_is(file: Any) -> None:
    code = "class Settings:\n    tau: float = setting({}, low={}, doc={!r})\n"
    plain = file(code.format(0.05, 0, "strength"))
    assert file(code.format(0.05, 1, "how strong it is")) == plain
    assert file(code.format(0.06, 0, "strength")) != plain


def test_how_a_method_looks_is_no_other_code(file: Any) -> None:
    plain = file("METHOD = 1\nCOLOUR = '#000000'\nLABEL = 'Top-K'\n")
    assert file("METHOD = 1\nCOLOUR = '#ff0000'\nLABEL = 'Top-k'\n") == plain
    assert file("METHOD = 2\nCOLOUR = '#000000'\nLABEL = 'Top-K'\n") != plain


def test_imports_are_walked_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    for name, source in {
        "a": "import flare.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flare import typing_only\n",
        "b": "def f():\n    from flare.room import c\n    from flare.room.d import x\n    from flare.empty import y\n",
        "room/__init__": "",
        "room/c": "import torch\nfrom flare.errors import ConfigError\n",
        "room/d": "from flare import b\n",
        "empty/__init__": "from flare.room import e\n",
        "room/e": "",
        "typing_only": "",
        "unrelated": "from flare import a\n",
        "errors": "",
    }.items():
        (tmp_path / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(source)
    identity.reached.cache_clear()
    try:
        assert identity.reached(("a",)) == ("a", "b", "empty/__init__", "room/c", "room/d", "room/e")
    finally:
        identity.reached.cache_clear()


@pytest.mark.parametrize("method", algorithms.names())
def test_all_that_is_executed_counts_or_decides_no_number(method: str, data: Path, tmp_path: Path) -> None:
    """Every function of the package that a run calls, once with each engine, is in a file of its digest."""
    keep = "dense" if method == "fedavg" else "5e-2"
    plain = dataclasses.replace(RUN, method=method, method_settings={}, keep=keep, staleness=method == "flare")
    plain = dataclasses.replace(plain, momentum=0) if method in ("dgc", "scafcom") else plain
    called: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            called.add(frame.f_code.co_filename.removeprefix(f"{PACKAGE}/").removesuffix(".py"))

    for engine in ("one-at-a-time", "together"):
        run = with_defaults(dataclasses.replace(plain, engine=engine))
        sys.setprofile(note)
        try:
            train(run, data=data, output=tmp_path / engine, wandb="disabled")
        finally:
            sys.setprofile(None)
    assert called >= {"engine/loop", "engine/one_at_a_time", "engine/together", "runs/data", "models/fc"}
    assert ("engine/select/cpu" in called) == (method not in ("fedavg", "randomk"))
    assert called - set(identity.sources(run)) <= KEEPERS | {"datasets/digits"}


def test_what_only_says_whether_a_run_begins_does_not_count() -> None:
    runs = [
        with_defaults(dataclasses.replace(RUN, method=method, method_settings={}, model=model, model_settings={}))
        for method in algorithms.names()
        for model in models.names()
    ]
    counted = {name for run in runs for name in identity.sources(run)}
    assert not counted & KEEPERS - {"datasets/__init__"}
    assert "datasets/__init__" not in counted
    for run in runs:
        others = set(algorithms.names()) - {run.method}
        assert not {f"algorithms/{name}" for name in others} & set(identity.sources(run))


@pytest.mark.parametrize("scheme", partitions.names())
def test_of_the_ways_to_deal_a_run_has_its_own(scheme: str) -> None:
    run = dataclasses.replace(RUN, partition={"scheme": scheme})
    dealt = {name for name in identity.sources(run) if name.startswith("datasets/partitions/")}
    assert dealt == {f"datasets/partitions/{scheme}", "datasets/partitions/_parts"}


def test_probes_and_schedules_count_if_they_are_asked_for() -> None:
    probe, schedule = "engine/probes/staleness", "engine/schedules/cosine"
    assert not {probe, schedule} & set(identity.sources(RUN))
    assert probe in identity.sources(dataclasses.replace(RUN, staleness=True))
    assert probe in identity.sources(dataclasses.replace(RUN, probes=["staleness"]))
    assert schedule in identity.sources(dataclasses.replace(RUN, schedule={"name": "cosine"}))


# Edits of files that do not count as a whole, and whether they are other code.
EDITS: dict[str, tuple[str, str, str, bool]] = {
    "the first accuracy as the final": ("runs/record", "accuracies[-1] if", "accuracies[0] if", True),
    "another compression": ("runs/record", '/ ended["uplink_bits"] if', '/ ended["downlink_bits"] if', True),
    "other bytes of rounds": ("runs/record", '["" if value != value', '["-" if value != value', True),
    "other bits": ("engine/api", '"dense_bits": state.dense', '"dense_bits": state.uplink', True),
    "another loss": ("runs/train", "loss=double_softmax if", "loss=cross_entropy if", True),
    "other test samples": ("runs/train", 'load, run.dataset, data, "test"', 'load, run.dataset, data, "train"', True),
    "a swapped argument": (
        "engine/api",
        "            learning_rate,\n            momentum,",
        "momentum, learning_rate,",
        True,
    ),
    "an argument left out": (
        "config/run",
        '            if "engine" in own.metadata',
        '            if own.name != "seed"',
        True,
    ),
    "other samples of a client": (
        "datasets/partitions/__init__",
        "clients, scheme.settings, seed,",
        "clients, scheme.settings, 0,",
        True,
    ),
    "what of an archive is read": ("datasets/__init__", "arrays[key] for key", "arrays[key][:9] for key", True),
    "another fraction": ("settings", "    return fraction\n", "    return fraction / 2\n", True),
    "other targets": ("engine/inputs", "unseen[1].long()", "unseen[1].flip(0).long()", True),
    "another rate": ("engine/inputs", "    return rate, kept\n", "    return kept, rate\n", True),
    "what is wanted of clients": ("engine/inputs", "distinct clients of 0", "clients, each once, of 0", False),
    "another range": ("settings", "if not 0 < fraction <= 1:", "if not 0 < fraction < 1:", True),
    "another warning": ("engine/api", "a layer is in two places", "a layer stands twice", False),
    "another check": ("engine/api", "        inputs.check_forward(network, batch_size)\n", "", False),
    "what git says": ("runs/record", "no commit is recorded", "there is no commit", False),
    "how sizes are shown": ("runs/record", '("kB", "MB", "GB", "TB")', '("kB", "MB")', False),
    "what is printed": ("runs/train", "finished by the other process", "another process finished it", False),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_makes_a_reported_number_of_what_the_engine_gives_counts(
    edit: str, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, old, new, other = EDITS[edit]
    source = (PACKAGE / f"{name}.py").read_text()
    assert source.count(old) == 1
    read, plain = identity._tree, parts()
    monkeypatch.setattr(
        identity, "_tree", lambda file: ast.parse(source.replace(old, new)) if file == name else read(file)
    )
    assert (parts() != plain) == other


def test_such_parts_are_in_the_digest_of_every_run(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = identity.digest_of(RUN)
    monkeypatch.setattr(identity, "_parts", lambda: "others")
    identity._with_data.cache_clear()
    assert identity.digest_of(RUN) != plain


@pytest.fixture
def parts() -> Any:
    """What the functions of files that do not count as a whole do, read anew at every call."""

    def found() -> str:
        identity._parts.cache_clear()
        return identity._parts()

    yield found
    identity._parts.cache_clear()
    identity._with_data.cache_clear()


def test_what_a_run_takes_from_a_data_sets_file_counts_and_the_rest_of_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flare.datasets import digits

    def digest() -> str:
        identity._with_data.cache_clear()
        return identity.digest_of(RUN)

    plain = digest()
    monkeypatch.setattr(digits, "fetch", lambda folder: None)
    assert digest() == plain
    monkeypatch.setattr(digits, "SCALE", digits.SCALE + 1)
    assert digest() != plain
    monkeypatch.undo()
    assert digest() == plain


def test_the_key_of_a_run_holds_all_that_decides_its_bits(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = identity.key_of(RUN, data, "cpu", 1)
    fields = {field.name for field in dataclasses.fields(Run)}
    assert set(key) == fields | {"code", "data", "torch", "numpy", "device", "threads"}
    for name in fields - {
        "method",
        "model",
        "partition",
        "dataset",
        "schedule",
        "probes",
        "server",
    }:  # files are named by these
        other = identity.key_of(dataclasses.replace(RUN, **{name: "another"}), data, "cpu")
        assert {own for own in key if other[own] != key[own]} <= {name, "code"} and other[name] != key[name], name
    assert identity.key_of(RUN, data, "cuda:1") == key | {"device": "cuda", "threads": None}
    genuine = identity.datasets.read_manifest(RUN.dataset, data)
    more = genuine | {"files": genuine["files"] | {"more.npz": {}}, "source": "elsewhere"}
    monkeypatch.setattr(identity.datasets, "read_manifest", lambda *_: more)
    other = identity.key_of(RUN, data, "cpu")
    assert {own for own in key if other[own] != key[own]} == {"data"}


def test_a_run_is_what_its_flags_say_field_by_field() -> None:
    """A flag for every field, which is there exactly if the field has another value than its default."""
    values: dict[str, Any] = {
        **{"sample_text": 7, "trial": 0, "validation": 0.25, "schedule": {"name": "cosine"}, "probes": ["one", "two"]},
        "server": {"optimizer": "sgd"},
        **{"engine": "together", "pad_to": 28, "channels": 3, "available": 2, "tuned": {"tau": 0.5}},
        **{"staleness": True, "tf32": True, "shuffle": True, "double_softmax": True, "method_settings": {"tau": 0.5}},
    }
    for field in dataclasses.fields(Run):
        flag = f"--{field.name.replace('_', '-')}"
        run = dataclasses.replace(RUN, **{field.name: values.get(field.name, getattr(RUN, field.name))})
        assert run.flags(field.name).split()[0] == flag
        if field.name in values and field.name not in ("method_settings",):
            assert flag not in RUN.flags().split() and flag in run.flags().split()


def test_a_servers_step_counts_where_there_is_one_and_a_methods_check_never() -> None:
    stepping = dataclasses.replace(RUN, server={"optimizer": "sgd"})
    assert set(identity.sources(stepping)) - set(identity.sources(RUN)) == {"engine/server"}

    def meaning(text: str) -> str:
        return ast.dump(identity._Meaning().visit(ast.parse(text)))

    check = "def check(settings, training):\n    return {!r}\n"
    assert meaning(check.format("one")) == meaning(check.format("another"))
    assert meaning("def look(settings):\n    return 1\n") != meaning("def look(settings):\n    return 2\n")
