"""Which samples each client holds: the ways to deal a training set among clients.

Settings are {"scheme": one of SCHEMES, and that scheme's own keys}. What is drawn depends on the seed and the
scheme alone: np.random.default_rng([seed, place of the scheme in SCHEMES]).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare.errors import ConfigError, choose
from flare.settings import check_settings, setting


@dataclass(frozen=True)
class Contiguous:
    """Client i holds samples i*m..(i+1)*m-1; later ones are not used. The way of FLARE (arXiv 2312.13795)."""

    samples_per_client: int = setting(0, low=0, doc="m, at most N // clients, which is what 0 means; paper: 600")


@dataclass(frozen=True)
class Dirichlet:
    """Of every class, client k gets the share p_k of a draw p ~ Dirichlet(alpha, ..., alpha).

    All samples are dealt; drawn again while a client has none. Yurochkin et al., arXiv 1905.12022; as in Li
    et al., arXiv 2102.02079.
    """

    alpha: float = setting(0.5, low=1e-3, high=1e6, doc="small: a class is in few hands; large: even shares")


@dataclass(frozen=True)
class Shards:
    """Every class is cut into shards, as many for each (give or take one); a client is dealt some of them.

    All samples are dealt. After McMahan et al., arXiv 1602.05629; theirs may straddle two classes, these do
    not.
    """

    classes_per_client: int = setting(2, low=1, doc="shards a client is dealt, so at most so many classes")


@dataclass(frozen=True)
class Natural:
    """Client i holds the samples of the i-th smallest number in `Split.clients`; later ones are not used."""


SCHEMES: dict[str, type] = {
    "contiguous": Contiguous,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "natural": Natural,
}
REDRAWS = 1000


def check(settings: Mapping[str, Any]) -> Any:
    """The settings as their scheme's dataclass; ConfigError for an unknown scheme, key or value."""
    scheme = choose("partition: scheme", settings.get("scheme", "contiguous"), SCHEMES)
    own = {key: value for key, value in settings.items() if key != "scheme"}
    return check_settings(SCHEMES[scheme], own, f"partition: {scheme}")


def split(
    targets: np.ndarray,
    clients: int,
    settings: Mapping[str, Any],
    seed: int,
    natural: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Indices of each client's samples: `clients` int64 arrays, none empty, ascending, no index twice.

    targets: (N,), or (N, length) for text, where only contiguous and natural apply. clients: 1..N. seed: 0 or
    more. natural: (N,), `Split.clients`, for the scheme of that name. Raises ConfigError in one line.
    """
    scheme = check(settings)
    _within("clients", clients, 1, len(targets))
    _within("seed", seed, 0)
    rng = np.random.default_rng([seed, list(SCHEMES.values()).index(type(scheme))])
    if isinstance(scheme, Contiguous):
        most = len(targets) // clients
        m = _within("partition: contiguous: samples_per_client", scheme.samples_per_client or most, 1, most)
        return [np.arange(i * m, (i + 1) * m) for i in range(clients)]
    if isinstance(scheme, Natural):
        if natural is None:
            raise ConfigError(
                "partition: scheme: 'natural' is not allowed here, as the data set has no clients of its own"
            )
        numbers = np.unique(natural)
        _within("clients", clients, 1, len(numbers))
        return [np.flatnonzero(natural == number) for number in numbers[:clients]]
    if targets.ndim != 1:
        raise ConfigError(f"partition: scheme: {settings['scheme']!r} is not allowed for text; contiguous or natural")
    by_class = [rng.permutation(np.flatnonzero(targets == label)) for label in np.unique(targets)]
    if isinstance(scheme, Dirichlet):
        return _dirichlet(by_class, clients, scheme.alpha, rng)
    return _shards(by_class, clients, scheme.classes_per_client, rng)


def hold_out(parts: list[np.ndarray], share: float, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """What each client keeps of its samples to train on, and the held-out samples of all, client after client.

    Of client k's n samples round(share * n) are drawn, at least one and not all: np.random.default_rng([seed, k, 1]).
    ConfigError where nothing can be held out, as every client has a single sample.
    """
    kept, held = [], []
    for client, part in enumerate(parts):
        out = min(max(1, round(share * len(part))), len(part) - 1)
        order = np.random.default_rng([seed, client, 1]).permutation(len(part))
        held.append(np.sort(part[order[:out]]))
        kept.append(np.sort(part[order[out:]]))
    if not any(map(len, held)):
        raise ConfigError(
            f"validation: {share} is not allowed; every client has a single sample, so none can be held out"
        )
    return kept, np.concatenate(held)


def count(targets: np.ndarray, parts: list[np.ndarray], classes: int) -> np.ndarray:
    """Samples of each class that each client holds, (clients, classes): for text, characters."""
    return np.stack([np.bincount(targets[part].ravel(), minlength=classes) for part in parts])


def _dirichlet(by_class: list[np.ndarray], clients: int, alpha: float, rng: np.random.Generator) -> list[np.ndarray]:
    for _ in range(REDRAWS):
        shares = rng.dirichlet(np.full(clients, alpha), size=len(by_class))
        ends = np.cumsum(shares, axis=1)[:, :-1]
        parts = [np.split(pool, np.rint(end * len(pool)).astype(int)) for pool, end in zip(by_class, ends, strict=True)]
        dealt = [np.sort(np.concatenate(of_client)) for of_client in zip(*parts, strict=True)]
        if all(len(indices) for indices in dealt):
            return dealt
    raise ConfigError(
        f"partition: dirichlet: alpha: {alpha!r} is not allowed for {clients} clients: {REDRAWS} draws"
        " each left one without a sample; a larger alpha, or fewer clients"
    )


def _shards(by_class: list[np.ndarray], clients: int, each: int, rng: np.random.Generator) -> list[np.ndarray]:
    least = math.ceil(len(by_class) / clients)
    _within("partition: shards: classes_per_client", each, least, len(by_class))
    total = clients * each
    shards: list[np.ndarray] = []
    for place, number in enumerate(rng.permutation(len(by_class))):
        count = total // len(by_class) + (place < total % len(by_class))
        shards += np.array_split(by_class[number], count)
    order = rng.permutation(total).reshape(clients, each)
    dealt = [np.sort(np.concatenate([shards[shard] for shard in row])) for row in order]
    if not all(len(indices) for indices in dealt):
        raise ConfigError(f"clients: {clients} is not allowed; a class has too few samples for so many: fewer clients")
    return dealt


def _within(key: str, value: Any, low: int, high: int | None = None) -> int:
    """`value`, a whole number from low to high; ConfigError where it is not."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"at least {low}" + ("" if high is None else f", at most {high}")
        raise ConfigError(f"{key}: {value!r} is not allowed; a whole number, {allowed}")
    return int(value)
