"""What a run can measure beside loss and accuracy: one file a probe, found by listing this folder.

A file has a class `PROBE`, a `flare.engine.base.Probe`, and names its `columns`, which are added to rounds.csv in the
order in which the configuration asks for the probes. A probe that nobody asks for costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flare.errors import ConfigError, choose


def names() -> list[str]:
    """All probes, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def check(given: Sequence[str]) -> list[str]:
    """The names, if each is that of a probe, once; ConfigError if not."""
    for place, name in enumerate(given):
        choose("probes", name, names())
        if name in given[:place]:
            raise ConfigError(f"probes: {name!r} is there twice; once")
    return list(given)


def load(name: str) -> Any:
    """The class of the probe of that name; ConfigError, with the nearest spelling, if there is none."""
    return importlib.import_module(f"flare.engine.probes.{choose('probes', name, names())}").PROBE
