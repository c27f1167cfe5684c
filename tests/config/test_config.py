"""Configurations: every mistake is one line that names the key, the value and what is allowed; runs are enumerated."""

from __future__ import annotations

import copy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import ROOT

from flare import algorithms, cli, config, models
from flare.errors import ConfigError

GOOD = {
    "experiments": {
        "small": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 8},
            "clients": 4,
            "rounds": 3,
            "staleness": True,
            "batch_size": 32,
            "learning_rate": 0.1,
            "keep": ["1e-2", "0.5"],
            "seeds": [1, 2, 3],
            "methods": {"fedavg": {}, "topk": None, "flare": {"tau": 0.1}},
        }
    }
}


def changed(path: str, value: object) -> dict:
    """GOOD with the value at experiments.small.<path> replaced; the value `...` removes the key."""
    out = copy.deepcopy(GOOD)
    place = out["experiments"]["small"]
    *outer, last = path.split(".")
    for key in outer:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return out


def test_runs_are_the_product_and_a_dense_method_has_no_keep() -> None:
    config.check(GOOD)
    runs = config.runs(GOOD)
    assert len(runs) == 3 + 2 * 3 + 2 * 3
    assert [r.folder for r in runs if r.method == "fedavg"] == [
        f"small/fedavg/keep-dense/epochs-1/seed-{seed}" for seed in (1, 2, 3)
    ]
    assert {r.keep for r in runs if r.method == "flare"} == {"1e-2", "0.5"}
    flare = next(r for r in runs if r.method == "flare")
    assert flare.method_settings == {
        "tau": 0.1,
        "count_pull": True,
        "pull": "gradient",
        "tau_decay": 1.05,
        "percentile": 50.0,
        "pull_steps": 1,
        "not_pulled": "none",
    }
    assert flare.model_settings == {"width": 8, "hidden_layers": 3}


def test_a_method_may_have_its_own_learning_rate() -> None:
    runs = config.runs(changed("methods.topk", {"learning_rate": 0.5}))
    assert {r.method: r.learning_rate for r in runs} == {"fedavg": 0.1, "topk": 0.5, "flare": 0.1}


@pytest.mark.parametrize("run", config.runs(GOOD), ids=lambda run: run.folder)
def test_flags_are_read_back_as_the_same_run(run: config.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("flare.runs.train.train", lambda run, **_: seen.append(run))
    assert cli.main(["train", *shlex.split(run.flags()), "--output", "out"]) == 0
    assert seen == [run]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("rounds", 0, "small.rounds: 0 is not allowed; a whole number, at least 1"),
        ("rounds", ..., "small: 'rounds' is missing"),
        ("round", 5, "small: 'round' is unknown (did you mean 'rounds'?)"),
        (
            "learning_rate",
            "1e-3",
            "small.learning_rate: '1e-3' is not allowed; a number above 0, written with a point",
        ),
        ("momentum", 1.0, "small.momentum: 1.0 is not allowed; a number, 0 or more and below 1"),
        ("available", 5, "small.available: 5 is not allowed; at most clients, 4"),
        ("keep", [0.01], "small.keep.0: 0.01 is not allowed; a quoted string"),
        ("keep", ["0.001"], "small.keep: '0.001' is not allowed; write it '1e-3'"),
        ("keep", ["5e-1"], "small.keep: '5e-1' is not allowed; write it '0.5'"),
        ("keep", ..., "small: 'keep' is missing; method topk compresses"),
        ("seeds", [1, 1], "small.seeds: [1, 1] is not allowed; a list of different whole numbers"),
        ("seeds", [-1], "small.seeds.0: -1 is not allowed; a whole number, 0"),
        ("dataset", "digit", "small.dataset: 'digit' is unknown (did you mean 'digits'?)"),
        ("model", "fcc", "small.model: 'fcc' is unknown (did you mean 'fc'?)"),
        ("model_settings", {"widht": 8}, "'widht' is unknown (did you mean 'width'?)"),
        ("model_settings", {"width": 0}, "width: 0 is not allowed; a whole number, at least 1"),
        ("partition", {"scheme": "random"}, "small.partition: scheme: 'random' is unknown"),
        ("partition", {"scheme": "dirichlet", "alpha": 0}, "dirichlet: alpha: 0 is not allowed; a number, at least"),
        ("fidelity", "author", "small.fidelity: 'author' is unknown (did you mean 'authors'?)"),
        ("engine", "togther", "small.engine: 'togther' is unknown (did you mean 'together'?)"),
        ("methods", {"flair": {}}, "small.methods: 'flair' is unknown (did you mean 'flare'?)"),
        ("methods", {"flare": {"Tau": 1}}, "'Tau' is unknown (did you mean 'tau'?)"),
        ("methods", {"flare": {"tau": -1}}, "flare: tau: -1 is not allowed; a number, at least 0"),
        ("methods", {"flare": {"tau": float("nan")}}, "flare: tau: nan is not allowed"),
        (
            "methods",
            {"flare": {"pull_steps": 1.5}},
            "pull_steps: 1.5 is not allowed; a whole number, at least 0, or all",
        ),
        (
            "methods",
            {"flare": {"percentile": 101}},
            "percentile: 101 is not allowed; a number, at least 0, at most 100",
        ),
        ("methods", {"ef21": {"tau": 1}}, "ef21: tau: 1; it has no settings"),
        ("methods", {"fedavg": {"value_bits": 8}}, "fedavg: value_bits: 8 is not allowed; 32 or 16"),
        ("methods", {"topk": {"scope": "layer"}}, "topk: scope: 'layer' is not allowed; tensor or model"),
        ("methods", {"dgc": {"momentum": 1.0}}, "dgc.momentum: 1.0 is not allowed"),
        ("methods", {"scafcom": {"momentum": 0.5}}, "scafcom: momentum: 0.5 in the local steps is not allowed; 0"),
        ("methods", {"stc": {"server": {"optimizer": "adam"}}}, "methods.stc: server: not allowed with stc"),
        ("server", {"optimizer": "adam", "momentum": 0.5}, "server: adam: 'momentum' is unknown"),
        ("server", {"learning_rate": 0.5}, "server: 'optimizer' is missing"),
        (
            "methods",
            {"topk": {"server": {"optimizer": "sgd", "learning_rate": 0}}},
            "topk.server: sgd: learning_rate: 0",
        ),
        ("methods", {"topk": {"server": "sgd"}}, "topk.server: 'sgd' is not allowed"),
        ("methods", {}, "small.methods: {} is not allowed"),
        ("methods", {"topk": {"learning_rate": 0}}, "topk.learning_rate: 0 is not allowed"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(path: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check(changed(path, value), "file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml: ") and "\n" not in message and words in message


@pytest.mark.parametrize("name", ["../up", "a b", "x;rm", "$(id)", "", "-x"])
def test_a_name_that_a_path_or_shell_could_misread_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not allowed; a name of letters"):
        config.check({"experiments": {name: GOOD["experiments"]["small"]}})


@pytest.mark.parametrize("text", ["", "[1, 2]", "experiments: 3", "experiments: {", "a: 1\n"])
def test_a_file_that_is_no_configuration_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.name)
def test_the_configurations_we_ship_are_good(file: Path) -> None:
    assert config.runs(config.load(file))


def test_every_key_is_described_and_documented() -> None:
    schema = yaml.safe_load(config.SCHEMA.read_text())
    readme = (ROOT / "config" / "README.md").read_text()
    experiment = schema["$defs"]["experiment"]
    for level in (schema, schema["properties"]["wandb"], experiment):
        assert level["additionalProperties"] is False
        for key, value in level["properties"].items():
            assert value["description"], key
            assert f"{key}`" in readme or f"{key}." in readme, key
    settings = [algorithms.load(name).settings for name in algorithms.names()]
    settings += [models.load(name).Settings for name in models.names()]
    for cls in settings:
        for name, field in cls.__dataclass_fields__.items():
            assert field.metadata["doc"] and f"`{name}`" in readme, name


def test_the_schema_has_exactly_the_fields_of_a_run() -> None:
    schema = yaml.safe_load(config.SCHEMA.read_text())
    keys = set(schema["$defs"]["experiment"]["properties"])
    own = {"experiment", "method", "method_settings", "seed", "tuned", "trial", "validation"}
    assert keys == set(config.Run.__dataclass_fields__) - own | {"methods", "seeds", "tuning"}


def test_checking_a_configuration_does_not_import_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from flare import config;"
        "config.runs(config.load(Path('config/config.yaml')));"
        "sys.exit(' '.join({'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_wrong_arguments_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    good = config.runs(GOOD)[-1].flags()
    for wrong in (good.replace("keep 0.5", "keep 2e-0"), good.replace("--method flare", "--method flair")):
        assert cli.main(["train", *shlex.split(wrong), "--output", "out"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("flare: train: ")
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--nonsense"])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_what_has_no_meaning_is_found_at_every_end_of_a_range() -> None:
    """One line before anything is trained: a local momentum beside dgc's, a pair of controls, a step beside stc's."""
    tuning = {"seeds": [11], "batches": 1, "trials": 2}
    for methods, more, words in (
        ({"dgc": {}}, {"momentum": 0.9}, "methods.dgc: momentum: 0.9 in the local steps"),
        ({"scafcom": {"momentum": {"linear": [0.0, 0.5]}}}, {}, "methods.scafcom: momentum: 0.5 in the local steps"),
        ({"flare": {"count_pull": False, "pull": {"choices": ["gradient", "memory"]}}}, {}, "count_pull: False"),
        ({"stc": {"server": {"optimizer": "sgd", "learning_rate": {"log": [0.1, 2]}}}}, {}, "stc: server: not allowed"),
        ({"stc": {}}, {"server": {"optimizer": "adam"}}, "stc: server: not allowed"),
        ({"topk": {"server": {"optimizer": "sgd", "rate": {"log": [0.1, 2]}}}}, {}, "topk.server: sgd: 'rate'"),
        ({"topk": {"server": {"optimizer": "sgd", "momentum": {"linear": [0, 1.0]}}}}, {}, "momentum: 1.0 is not"),
    ):
        given = copy.deepcopy(GOOD)
        given["experiments"]["small"] |= {"methods": methods, "tuning": tuning, **more}
        with pytest.raises(ConfigError) as caught:
            config.check(given)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    fine = {"momentum": 0.9, "server": {"optimizer": "adam"}, "methods": {"stc": {"server": {}}, "topk": {}}}
    given = copy.deepcopy(GOOD)
    given["experiments"]["small"] |= fine
    config.check(given)
    assert {run.method: dict(run.server) for run in config.runs(given)} == {
        "stc": {},
        "topk": {"optimizer": "adam", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 0.001},
    }


def test_dgcs_momentum_is_its_own() -> None:
    """Its setting has the name of what a method may have its own value of: the setting it is."""
    given = copy.deepcopy(GOOD)
    given["experiments"]["small"] |= {"methods": {"dgc": {"momentum": 0.7}, "topk": {"momentum": 0.7}}}
    config.check(given)
    runs = {run.method: run for run in config.runs(given)}
    assert (runs["dgc"].momentum, runs["dgc"].method_settings["momentum"]) == (0, 0.7)
    assert (runs["topk"].momentum, "momentum" in runs["topk"].method_settings) == (0.7, False)
