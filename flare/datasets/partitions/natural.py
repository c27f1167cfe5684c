"""Client i holds the samples of the i-th smallest number in `Split.clients`; later ones are not used."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from flare.datasets.partitions._parts import within
from flare.errors import ConfigError

STREAM = 3  # nothing is drawn


@dataclass(frozen=True)
class Settings:
    """It has none."""


def check(settings: Settings, source: ModuleType) -> None:
    """Only a data set whose samples have clients of their own can be dealt like this."""
    if not getattr(source, "NATURAL", False):
        allowed = "contiguous, dirichlet or shards, as the data set has no clients of its own"
        raise ConfigError(f"partition: scheme: 'natural' is not allowed; {allowed}")


def sizes(settings: Settings, clients: int, samples: int) -> None:
    """Only the data says how many samples a client has."""


def deal(
    targets: np.ndarray, clients: int, settings: Settings, seed: int, natural: np.ndarray | None
) -> list[np.ndarray]:
    """Indices of each client's samples."""
    if natural is None:
        raise ConfigError("partition: scheme: 'natural' is not allowed here, as the data set has no clients of its own")
    numbers = np.unique(natural)
    within("clients", clients, 1, len(numbers))
    return [np.flatnonzero(natural == number) for number in numbers[:clients]]
