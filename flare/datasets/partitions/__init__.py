"""Which samples each client holds: the ways to deal a training set among clients, one file each, found by listing.

A scheme's file has
- `Settings`: a frozen dataclass of its own settings,
- `deal(targets, clients, settings, seed, natural)`: indices of each client's samples, as `split` returns them. What it
  draws comes from np.random.default_rng([seed, STREAM]), `STREAM` being a number that no other scheme has,
and, if they apply,
- `BY_CLASS = True`: it deals classes, so a sample needs one label, which a text has not,
- `check(settings, source)`: raises ConfigError if the data set's module cannot be dealt like that,
- `sizes(settings, clients)`: samples of each client, if the settings say so; None if only the data does.
A new scheme changes no run of another one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from flare.datasets.partitions._feasible import check_sizes
from flare.datasets.partitions._parts import count, hold_out, within
from flare.errors import ConfigError, choose
from flare.settings import check_settings

__all__ = ["Scheme", "check", "check_dealt", "count", "hold_out", "load", "names", "sizes", "split"]


class Scheme(NamedTuple):
    """A way to deal, with its settings."""

    name: str
    module: ModuleType
    settings: Any


def names() -> list[str]:
    """All schemes, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: Any) -> ModuleType:
    """The module of a scheme; ConfigError, with the nearest spelling, if there is none."""
    return importlib.import_module(f"{__name__}.{choose('partition: scheme', name, names())}")


def check(given: Mapping[str, Any], source: ModuleType | None = None) -> Scheme:
    """The scheme of {"scheme": one of `names`, and its own keys}; ConfigError for an unknown scheme, key or value.

    source: the module of a data set, to be dealt so.
    """
    name = given.get("scheme", "contiguous")
    module = load(name)
    own = {key: value for key, value in given.items() if key != "scheme"}
    scheme = Scheme(name, module, check_settings(module.Settings, own, f"partition: {name}"))
    if source is not None:
        if getattr(module, "BY_CLASS", False) and source.KIND == "text":
            raise ConfigError(f"partition: scheme: {name!r} is not allowed for text; contiguous or natural")
        if hasattr(module, "check"):
            module.check(scheme.settings, source)
    return scheme


def split(
    targets: np.ndarray, clients: int, given: Mapping[str, Any], seed: int, natural: np.ndarray | None = None
) -> list[np.ndarray]:
    """Indices of each client's samples: `clients` int64 arrays, none empty, ascending, no index twice.

    targets: (N,), or (N, length) for text, where only contiguous and natural apply. clients: 1..N. given: as for
    `check`. seed: 0 or more. natural: (N,), `Split.clients`, for the scheme of that name. Raises ConfigError in one
    line.
    """
    scheme = check(given)
    within("clients", clients, 1, len(targets))
    within("seed", seed, 0)
    if getattr(scheme.module, "BY_CLASS", False) and targets.ndim != 1:
        raise ConfigError(f"partition: scheme: {scheme.name!r} is not allowed for text; contiguous or natural")
    if targets.ndim == 1:
        _, classes = np.unique(targets, return_counts=True)
        check_sizes(scheme.name, scheme.settings, clients, classes.tolist())
    parts: list[np.ndarray] = scheme.module.deal(targets, clients, scheme.settings, seed, natural)
    return parts


def check_dealt(given: Mapping[str, Any], clients: int, samples: int, classes: int) -> None:
    """ConfigError if so many training samples cannot be dealt like that; their classes are taken to be of one size."""
    scheme = check(given)
    each = [samples // classes + (label < samples % classes) for label in range(classes)]
    check_sizes(scheme.name, scheme.settings, clients, [size for size in each if size])


def sizes(given: Mapping[str, Any], clients: int, samples: int) -> list[int] | None:
    """Samples of each client of a training set of so many; None if the data itself says it.

    Of schemes that deal at random it is the mean.
    """
    scheme = check(given)
    if hasattr(scheme.module, "sizes"):
        stated: list[int] | None = scheme.module.sizes(scheme.settings, clients, samples)
        return stated
    return [samples // clients] * clients
