"""Of every class, client k gets the share p_k of a draw p ~ Dirichlet(alpha, ..., alpha).

All samples are dealt; drawn again while a client has none. Yurochkin et al., arXiv 1905.12022; as in Li et al.,
arXiv 2102.02079.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flare.datasets.partitions._parts import by_class
from flare.errors import ConfigError
from flare.settings import setting

STREAM = 1
BY_CLASS = True
REDRAWS = 1000


@dataclass(frozen=True)
class Settings:
    """The scheme's own settings."""

    alpha: float = setting(0.5, low=1e-3, high=1e6, doc="small: a class is in few hands; large: even shares")


def deal(
    targets: np.ndarray, clients: int, settings: Settings, seed: int, natural: np.ndarray | None
) -> list[np.ndarray]:
    """Indices of each client's samples."""
    rng = np.random.default_rng([seed, STREAM])
    pools = by_class(targets, rng)
    for _ in range(REDRAWS):
        shares = rng.dirichlet(np.full(clients, settings.alpha), size=len(pools))
        ends = np.cumsum(shares, axis=1)[:, :-1]
        parts = [np.split(pool, np.rint(end * len(pool)).astype(int)) for pool, end in zip(pools, ends, strict=True)]
        dealt = [np.sort(np.concatenate(of_client)) for of_client in zip(*parts, strict=True)]
        if all(len(indices) for indices in dealt):
            return dealt
    raise ConfigError(
        f"partition: dirichlet: alpha: {settings.alpha!r} is not allowed for {clients} clients: {REDRAWS} draws"
        " each left one without a sample; a larger alpha, or fewer clients"
    )
