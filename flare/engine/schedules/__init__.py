"""What changes from round to round by a rule known in advance: one file a schedule, found by listing this folder.

A schedule's file has `adjust(task, rounds, settings) -> Task`, which returns the round's task with another learning
rate, keep (also one for each tensor, see `flare.engine.layout.Keep`), batch size or momentum, and a frozen dataclass
`Settings` of `flare.settings.setting` fields. It holds for every method of the experiment alike; what a method decides
itself, its `budget`, comes after it. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flare.errors import ConfigError, choose
from flare.settings import check_settings


def names() -> list[str]:
    """All schedules, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> ModuleType:
    """The module of that schedule; ConfigError, with the nearest spelling, if there is none."""
    return importlib.import_module(f"flare.engine.schedules.{choose('schedule: name', name, names())}")


def check(given: Mapping[str, Any]) -> tuple[ModuleType, Any] | None:
    """The schedule and its settings of {"name": ..., and its own keys}; None if there is none. ConfigError if wrong."""
    if not given:
        return None
    if "name" not in given:
        raise ConfigError(f"schedule: 'name' is missing; one of {', '.join(names())}")
    module = load(str(given["name"]))
    own = {key: value for key, value in given.items() if key != "name"}
    return module, check_settings(module.Settings, own, f"schedule: {given['name']}")
