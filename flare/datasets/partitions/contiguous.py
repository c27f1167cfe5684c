"""Client i holds samples i*m..(i+1)*m-1; later ones are not used. The way of FLARE (arXiv 2312.13795)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flare.datasets.partitions._parts import within
from flare.settings import setting

STREAM = 4


@dataclass(frozen=True)
class Settings:
    """The scheme's own settings."""

    samples_per_client: int = setting(0, low=0, doc="m, at most N // clients, which is what 0 means; paper: 600")
    shuffle: bool = setting(
        False, doc="deal after a permutation drawn from the seed, so that seeds vary in the split, too"
    )


def sizes(settings: Settings, clients: int, samples: int) -> list[int]:
    """Samples of each client."""
    return [settings.samples_per_client or samples // clients] * clients


def deal(
    targets: np.ndarray, clients: int, settings: Settings, seed: int, natural: np.ndarray | None
) -> list[np.ndarray]:
    """Indices of each client's samples."""
    most = len(targets) // clients
    m = within("partition: contiguous: samples_per_client", settings.samples_per_client or most, 1, most)
    if not settings.shuffle:
        return [np.arange(i * m, (i + 1) * m) for i in range(clients)]
    order = np.random.default_rng([seed, STREAM]).permutation(len(targets))
    return [np.sort(order[i * m : (i + 1) * m]) for i in range(clients)]
