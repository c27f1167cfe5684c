"""The runs that a configuration asks for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from flare import algorithms, models
from flare.config.key import Field
from flare.config.levels import arranged
from flare.config.ranges import leave_open, overrides, split
from flare.config.run import AXES, Run
from flare.engine.server import check as check_server
from flare.settings import check_settings

# What all runs of an experiment have in common.
_COMMON = [name for name, own in arranged(Run).items() if "axis" not in own.metadata]


def runs(config: Mapping[str, Any]) -> list[Run]:
    """Every run that a checked configuration asks for, in the order of the file."""
    out = []
    for name, experiment in config["experiments"].items():
        common = {key: experiment[key] for key in _COMMON if key in experiment}
        for method, settings in experiment["methods"].items():
            settings, ranges = split(settings or {})
            instead = {key: settings.pop(key) for key in overrides(method) if key in settings}
            values = {axis.name: _values(axis, experiment) for axis in AXES}
            if algorithms.load(method).dense:
                values["keep"] = ["dense"]
            first = Run(
                **{**common, **instead},
                experiment=name,
                method=method,
                method_settings=settings,
                **{key: given[0] for key, given in values.items()},
            )
            first = leave_open(with_defaults(first), ranges)
            out += [
                dataclasses.replace(first, **dict(zip(values, chosen, strict=True)))
                for chosen in itertools.product(*values.values())
            ]
    return out


def _values(axis: Field, experiment: Mapping[str, Any]) -> list[Any]:
    """The values of an axis in an experiment."""
    values: list[Any] = experiment.get(axis.metadata["axis"], axis.metadata.get("axis_default", []))
    return values


def with_defaults(run: Run) -> Run:
    """The run with every setting of its model and its method spelt out, so that its record says what was used."""
    model = check_settings(models.load(run.model).Settings, run.model_settings, "model_settings")
    method = check_settings(algorithms.load(run.method).settings, run.method_settings, "method_settings")
    step = check_server(run.server)
    server = {"optimizer": run.server["optimizer"], **dataclasses.asdict(step)} if step else {}
    return dataclasses.replace(
        run, model_settings=dataclasses.asdict(model), method_settings=dataclasses.asdict(method), server=server
    )
