"""One rule for numbers, wherever a configuration wants one, and --config read as the files are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flare import cli, config
from flare.config.merged import settle
from flare.config.written import as_meant
from flare.errors import ConfigError

TINY = """
threads: 1
experiments:
  tiny: { dataset: digits, model: fc, model_settings: { width: 16, hidden_layers: 1 }, clients: 4, rounds: 3,
    partition: { scheme: dirichlet, alpha: 1.0 }, schedule: { name: cosine, final: 0.5 }, batch_size: 20,
    learning_rate: 0.1, momentum: 0.5, keep: ["5e-2"], seeds: [1], tuning: { seeds: [7], trials: 3 },
    methods: { topk: {}, flare: { tau: 0.05, learning_rate: { log: [0.01, 1] }, pull_steps: { choices: [1, all] } } } }
"""


def tiny(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TINY)
    found["experiments"]["tiny"] |= changes
    return found


# Every place that wants a number: how to put one there, and where a run or a study has it.
PLACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "learning rate": ({"learning_rate": "5e-2"}, {"learning_rate": 0.05}),
    "rounds": ({"rounds": "1e3"}, {"rounds": 1000}),
    "seeds": ({"seeds": ["1e1", 2]}, {"seeds": [10, 2]}),
    "model": ({"model_settings": {"width": "2e1"}}, {"model_settings": {"width": 20}}),
    "partition": (
        {"partition": {"scheme": "dirichlet", "alpha": "5e-1"}},
        {"partition": {"scheme": "dirichlet", "alpha": 0.5}},
    ),
    "schedule": ({"schedule": {"name": "cosine", "final": "1e-1"}}, {"schedule": {"name": "cosine", "final": 0.1}}),
    "method": ({"methods": {"flare": {"tau": "5e-2"}}}, {"methods": {"flare": {"tau": 0.05}}}),
    "whole": ({"methods": {"flare": {"pull_steps": "1e1"}}}, {"methods": {"flare": {"pull_steps": 10}}}),
    "override": ({"methods": {"topk": {"momentum": "5E-1"}}}, {"methods": {"topk": {"momentum": 0.5}}}),
    "range": (
        {"methods": {"flare": {"tau": {"log": ["1e-3", 1]}}}},
        {"methods": {"flare": {"tau": {"log": [0.001, 1]}}}},
    ),
    "budget": ({"tuning": {"seeds": [7], "trials": "1e1"}}, {"tuning": {"seeds": [7], "trials": 10}}),
    "share": ({"tuning": {"seeds": [7], "validation": "2e-1"}}, {"tuning": {"seeds": [7], "validation": 0.2}}),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_number_without_a_point_is_one_everywhere(place: str, tmp_path: Path) -> None:
    written, meant = PLACES[place]
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(tiny(**written)).replace('"5e-2"', "5e-2").replace('keep": [5e-2]', 'keep": ["5e-2"]'))
    assert config.load(file) == tiny(**meant)
    # The same from --config, where every nested value is text, and plain numbers are, too.
    expected = tiny(**meant)
    given = {"experiments": {"tiny": texts(meant)}}
    merged = tiny(**texts(meant))
    settle(merged, [], given)
    assert merged == expected
    config.check(merged)


def texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: texts(item) for key, item in value.items()}
    return [texts(item) for item in value] if isinstance(value, list) else str(value)


@pytest.mark.parametrize("text", ["1e-2x", "e3", "1e", "nan", "inf", "1e99999", "0x10", "1_0e2", "٣e1", "1,5e2"])
def test_other_text_is_no_number(text: str) -> None:
    for changes in ({"learning_rate": text}, {"rounds": text}, {"methods": {"flare": {"tau": text}}}):
        with pytest.raises(ConfigError) as caught:
            config.check(as_meant(tiny(**changes)))
        assert "is not allowed; a" in str(caught.value) and "\n" not in str(caught.value)
    for range_ in ({"log": [text, 1]}, {"choices": [text, 1]}):
        with pytest.raises(ConfigError):
            config.check(as_meant(tiny(methods={"flare": {"tau": range_}})))


def test_quoted_numbers_of_a_file_stay_text() -> None:
    with pytest.raises(ConfigError, match="rounds: '5' is not allowed; a whole number"):
        config.check(as_meant(tiny(rounds="5")))


def test_config_given_beside_files(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(TINY)
    for given, where, value in (
        ({"checkpoint": {"seconds": "10"}}, ("checkpoint", "seconds"), 10),
        ({"experiments": {"tiny": {"rounds": "5"}}}, ("experiments", "tiny", "rounds"), 5),
        ({"experiments": {"tiny": {"shuffle": "true"}}}, ("experiments", "tiny", "shuffle"), True),
        ({"experiments": {"tiny": {"methods": {"ef21": ""}}}}, ("experiments", "tiny", "methods", "ef21"), None),
        ({"wandb": {"entity": "null"}}, ("wandb", "entity"), None),
        ({"storage": None}, ("storage",), None),
    ):
        merged = yaml.safe_load(TINY)
        update(merged, given)
        assert settle(merged, [file], given) == "--config"
        config.check(merged)
        found: Any = merged
        for key in where:
            found = found[key]
        assert found == value and type(found) is type(value)


def update(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            update(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def test_a_message_names_what_is_at_fault(tmp_path: Path) -> None:
    file, second = tmp_path / "c.yaml", tmp_path / "d.yaml"
    file.write_text(TINY)
    second.write_text("threads: 2\n")
    merged = yaml.safe_load(TINY)
    given = {"experiments": {"tiny": {"rounds": "none"}}}
    update(merged, given)
    assert settle(merged, [file], given) == "--config"
    assert settle(yaml.safe_load(TINY), [file], {}) == str(file)
    assert settle(yaml.safe_load(TINY), [file, second], {}) == f"{file} + {second}"
    file.write_text(TINY.replace("rounds: 3", "rounds: no"))
    merged = yaml.safe_load(file.read_text())
    assert settle(merged | {"threads": 2}, [file], {"threads": 2}) == str(file)


def test_the_flags_of_a_run_follow_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("flare.runs.train.train_all", lambda given, **_: seen.extend(run for run, _ in given) or True)
    flags = (
        "--experiment e --dataset digits --model fc --method flare --keep 0.5 --local-epochs 1 --seed 1 --clients 4"
        " --rounds 1e1 --batch-size 2e1 --learning-rate 5e-2 --method-settings tau=5e-2 --model-settings width=2e1"
        " --partition scheme=dirichlet alpha=5e-1"
    )
    assert cli.main(["train", *flags.split(), "--output", "out"]) == 0
    [run] = seen
    assert (run.rounds, run.batch_size, run.learning_rate) == (10, 20, 0.05)
    assert run.method_settings["tau"] == 0.05 and run.model_settings["width"] == 20
    assert run.partition == {"scheme": "dirichlet", "alpha": 0.5}
