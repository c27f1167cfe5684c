"""Whether a data set can be dealt as it is asked for, said before anything is dealt: no part of what is drawn.

A Dirichlet draw is repeated until no client is left without a sample. How many are left is counted over some draws of a
generator of its own; if each leaves many, no number of repetitions will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flare.errors import ConfigError

_DRAWS = 25
# With so many clients without a sample in the best of those draws, a draw with none is not to be hoped for: were they
# independent, it would be one in exp(15).
_HOPELESS = 15


def check_sizes(name: str, settings: Any, clients: int, classes: Sequence[int]) -> None:
    """ConfigError if samples of these classes, so many each, cannot be dealt to the clients by the scheme."""
    samples = sum(classes)
    if clients > samples:
        raise ConfigError(f"clients: {clients} is not allowed; at most {samples}, the training samples")
    if name == "contiguous" and settings.samples_per_client * clients > samples:
        given, most = settings.samples_per_client, samples // clients
        raise ConfigError(
            f"partition: contiguous: samples_per_client: {given} is not allowed; a whole number, at least 1, at most"
            f" {most}, as {clients} clients share {samples} samples"
        )
    if name == "shards":
        _check_shards(settings.classes_per_client, clients, classes)
    if name == "dirichlet" and _fewest_left(settings.alpha, clients, classes) >= _HOPELESS:
        raise ConfigError(
            f"partition: dirichlet: alpha: {settings.alpha!r} is not allowed for {clients} clients and {samples}"
            f" samples: in each of {_DRAWS} draws {_HOPELESS} clients or more were left without a sample;"
            f" {_advice(settings.alpha, clients, classes)}"
        )


def _check_shards(each: int, clients: int, classes: Sequence[int]) -> None:
    fewest, samples = math.ceil(len(classes) / clients), sum(classes)
    if not fewest <= each <= len(classes):
        raise ConfigError(
            f"partition: shards: classes_per_client: {each} is not allowed; a whole number, at least {fewest}, at most"
            f" {len(classes)}, as {clients} clients share {len(classes)} classes"
        )
    if each * clients > samples:
        raise ConfigError(
            f"clients: {clients} is not allowed; at most {samples // each}, as each is dealt {each} shards of {samples}"
            " samples: fewer clients"
        )


def _fewest_left(alpha: float, clients: int, classes: Sequence[int]) -> int:
    """The fewest clients without a sample in any of some draws."""
    rng = np.random.default_rng([clients, len(classes)])
    fewest = clients
    for _ in range(_DRAWS):
        ends = np.cumsum(rng.dirichlet(np.full(clients, alpha), size=len(classes)), axis=1)
        ends[:, -1] = 1
        held = np.diff(np.rint(ends * np.asarray(classes)[:, None]), axis=1, prepend=0).sum(axis=0)
        fewest = min(fewest, int((held == 0).sum()))
        if fewest < _HOPELESS:
            break
    return fewest


def _advice(alpha: float, clients: int, classes: Sequence[int]) -> str:
    """What could be asked for instead: fewer clients, and a larger alpha if that would help."""
    low, high = 1, clients  # what can be dealt, and what cannot
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if _fewest_left(alpha, middle, classes) >= _HOPELESS else (middle, high)
    larger = next((other for other in (0.1, 1.0, 10.0, 100.0) if other > alpha
                   and not _fewest_left(other, clients, classes)), None)  # fmt: skip
    return f"fewer clients, about {low // 2} or less" + (f", or a larger alpha, {larger:g} say" if larger else "")
