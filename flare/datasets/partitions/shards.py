"""Every class is cut into shards, as many for each (give or take one); a client is dealt some of them.

All samples are dealt. After McMahan et al., arXiv 1602.05629; theirs may straddle two classes, these do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from flare.datasets.partitions._parts import by_class, within
from flare.errors import ConfigError
from flare.settings import setting

STREAM = 2
BY_CLASS = True


@dataclass(frozen=True)
class Settings:
    """The scheme's own settings."""

    classes_per_client: int = setting(2, low=1, doc="shards a client is dealt, so at most so many classes")


def check(settings: Settings, source: ModuleType) -> None:
    """A client cannot have more classes than there are."""
    if settings.classes_per_client > source.CLASSES:
        given, most = settings.classes_per_client, f"at most {source.CLASSES}, the data set's classes"
        raise ConfigError(f"partition: shards: classes_per_client: {given} is not allowed; {most}")


def deal(
    targets: np.ndarray, clients: int, settings: Settings, seed: int, natural: np.ndarray | None
) -> list[np.ndarray]:
    """Indices of each client's samples."""
    rng = np.random.default_rng([seed, STREAM])
    pools = by_class(targets, rng)
    each = settings.classes_per_client
    within("partition: shards: classes_per_client", each, math.ceil(len(pools) / clients), len(pools))
    total = clients * each
    shards: list[np.ndarray] = []
    for place, number in enumerate(rng.permutation(len(pools))):
        count = total // len(pools) + (place < total % len(pools))
        shards += np.array_split(pools[number], count)
    order = rng.permutation(total).reshape(clients, each)
    dealt = [np.sort(np.concatenate([shards[shard] for shard in row])) for row in order]
    if not all(len(indices) for indices in dealt):
        raise ConfigError(f"clients: {clients} is not allowed; a class has too few samples for so many: fewer clients")
    return dealt
