"""What is done with the parts of a training set, whatever the scheme that dealt them."""

from __future__ import annotations

from typing import Any

import numpy as np

from flare.errors import ConfigError


def hold_out(parts: list[np.ndarray], share: float, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """What each client keeps of its samples to train on, and the held-out samples of all, client after client.

    Of client k's n samples round(share * n) are drawn, at least one and not all: np.random.default_rng([seed, k, 1]).
    ConfigError if nothing can be held out, as every client has a single sample.
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


def by_class(targets: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The samples of each class, in the order of the labels, shuffled."""
    return [rng.permutation(np.flatnonzero(targets == label)) for label in np.unique(targets)]


def count(targets: np.ndarray, parts: list[np.ndarray], classes: int) -> np.ndarray:
    """Samples of each class that each client holds, (clients, classes): for text, characters."""
    return np.stack([np.bincount(targets[part].ravel(), minlength=classes) for part in parts])


def within(key: str, value: Any, low: int, high: int | None = None) -> int:
    """`value`, a whole number from low to high; ConfigError if it is not."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"at least {low}" + ("" if high is None else f", at most {high}")
        raise ConfigError(f"{key}: {value!r} is not allowed; a whole number, {allowed}")
    return int(value)
