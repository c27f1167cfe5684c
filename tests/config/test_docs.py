"""What `make docs` writes is what the code says; a new field is in the schema and the README with no other edit."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from flare.config.key import allowed, is_needed, key, kind, schema
from flare.config.levels import Experiment, Sweep, Tuning, arranged, keys
from flare.config.run import AXES, OVERRIDES, Run
from flare.config.schema import SCHEMA, build
from flare.settings import ENGINES, setting

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))  # where its own imports are
    spec = importlib.util.spec_from_file_location("docs", ROOT / "tools/docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_schema_is_what_the_fields_say(docs: ModuleType) -> None:
    assert SCHEMA.read_text(encoding="utf-8") == docs.schema_text(), f"{SCHEMA.name} is old; run make docs"
    assert yaml.safe_load(docs.schema_text()) == build()
    Draft202012Validator.check_schema(build())


def test_the_tables_of_the_readme_are_what_the_fields_say(docs: ModuleType) -> None:
    text = docs.README.read_text(encoding="utf-8")
    assert text == docs.readme_text(text), "config/README.md is old; run make docs"
    for name, table in docs.TABLES.items():
        assert text.count(f"<!-- generated: {name} -->\n\n{table()}\n<!-- end -->") == 1, name


@dataclass(frozen=True)
class Small:
    """A level with one field of every kind."""

    word: str = field(metadata=key("one of two", words=("this", "that"), symbol="w"))
    count: int = field(default=3, metadata=key("how often", low=1, high=20_000, unit="times"))
    share: float | None = field(default=None, metadata=key("how much", above=0, below=1))
    on: bool = field(default=False, metadata=key("whether", after="word"))
    names: list[str] = field(default_factory=list, metadata=key("list: what", words=("a*b", "c"), default="none"))
    plan: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=key("how", required=("name",), allowed="a mapping with the key name", default="no plan"),
    )
    many: int = field(default=1, metadata=key("list: each its own run", axis="manies", axis_default=[1], low=1))
    inner: str = field(default="", metadata=key("found by the program", hidden=True))


def test_a_field_of_any_kind_is_in_the_schema_with_what_an_error_says() -> None:
    own = {field.name: field for field in dataclasses.fields(Small)}
    assert schema(own["word"]) == {"enum": ["this", "that"], "description": "this or that"}
    assert schema(own["count"]) == {
        "type": "integer",
        "minimum": 1,
        "maximum": 20_000,
        "description": "a whole number of times, at least 1 and at most 20000",
    }
    assert schema(own["share"])["exclusiveMaximum"] == 1
    assert allowed(own["share"]) == "a number, above 0 and below 1"
    assert schema(own["on"]) == {"type": "boolean", "description": "true or false"}
    names = schema(own["names"])
    assert (names["type"], names["items"]["enum"], names["uniqueItems"]) == ("array", ["a*b", "c"], True)
    assert names["description"] == "a list of different words, each a*b or c"
    assert schema(own["plan"]) == {
        "type": "object",
        "required": ["name"],
        "description": "a mapping with the key name",
    }
    assert schema(own["many"])["items"] == {"type": "integer", "minimum": 1, "description": allowed(own["many"])}
    assert [name for name, field in own.items() if is_needed(field)] == ["word"]
    assert [kind(field) for field in own.values()] == [str, int, float, bool, list, dict, int, str]


def test_a_field_of_any_kind_is_a_row_of_the_readme(docs: ModuleType) -> None:
    assert docs.level_table(Small, symbols=True).splitlines()[2:] == [
        "| `word` | w | one of two | needed; or `this`, `that` |",
        "| `on` | | whether | false |",
        "| `count` | | how often | 3; 1 to 20,000 |",
        "| `share` | | how much | none; above 0, below 1 |",
        "| `names` | | list: what | none; or `a*b`, `c` |",
        "| `plan` | | how | no plan |",
        "| `manies` | | list: each its own run | `[1]`; each at least 1 |",
    ]


def test_fields_are_in_the_order_of_the_class_except_for_those_that_say_what_they_follow() -> None:
    assert list(arranged(Small)) == ["word", "on", "count", "share", "names", "plan", "manies"]


def test_a_plug_in_is_a_row_with_its_first_paragraph_and_one_for_each_setting(docs: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "leaky.py"
    file.write_text('"""Leaky: a memory\nthat fades | 2 * 2.\n\nMore."""\n')

    @dataclass(frozen=True)
    class Settings:
        leak: float = setting(0.9, low=0, high=1, symbol="l", doc="share that is kept")
        steps: int | str = setting(4000, low=1, words=("all",), doc="steps")
        on: bool = setting(True, doc="whether")

    table = docs.plugin_table("method", iter([("`leaky`", file, Settings)]), symbols=True)
    assert table.splitlines() == [
        "| method | setting | symbol | meaning | default, range |",
        "| --- | --- | --- | --- | --- |",
        r"| `leaky` | | | Leaky: a memory that fades \| 2 \* 2. | |",
        "| | `leak` | l | share that is kept | 0.9; 0 to 1 |",
        "| | `steps` | | steps | 4000; at least 1, or `all` |",
        "| | `on` | | whether | true |",
    ]


def test_the_levels_know_their_defaults_and_every_key_is_described() -> None:
    assert (Sweep.threads, Sweep.checkpoint.seconds, Sweep.wandb.project) == (1, 300, "flare-sweeps")
    assert (Tuning.batches, Tuning.trials, Tuning.validation) == (4, 6, 0.2)
    for level in (Sweep, Experiment, Tuning):
        for name, own in keys(level).items():
            assert own.metadata["doc"] or own.metadata["level"], name


def test_what_goes_to_the_simulation_is_marked() -> None:
    run = Run(
        **{"experiment": "e", "dataset": "d", "model": "m", "method": "topk", "keep": "1e-2", "local_epochs": 2},
        **{"seed": 5, "clients": 4, "rounds": 3, "batch_size": 8, "learning_rate": 0.1, "engine": ENGINES[0]},
        method_settings={"tau": 1},
    )
    found = run.arguments()
    same = {name: getattr(run, name) for name in found if name != "settings"}
    assert found == same | {"settings": {"tau": 1}}
    assert set(found) >= {
        *("rounds", "local_epochs", "batch_size", "learning_rate", "momentum", "available", "fidelity", "keep"),
        *("evaluate_every", "seed", "shuffle", "tf32", "method"),
    }
    assert not set(found) & {"engine", "dataset", "model", "double_softmax", "clients"}


def test_the_axes_and_what_a_method_may_have_of_its_own_follow_from_the_fields() -> None:
    assert [axis.name for axis in AXES] == ["keep", "local_epochs", "seed"]
    assert OVERRIDES == ("learning_rate", "momentum", "server")
