"""What a run's messages hold, and what they would cost under other codes: from counts, without training anything.

A message has of every tensor as many entries as `Layout.counts` says, and the recorded bits tell whether it was so. Of
runs whose budget moves (FFL, a schedule), whose threshold lets fewer through (`fidelity: authors`) or that leave out
entries of 0, the counts are those in proportion to the bits. Of a message that is coded in another way, and of a model
that cannot be built here any more, nothing is known.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from flare import algorithms, datasets, models
from flare.datasets._fitting import fitted
from flare.errors import ConfigError
from flare.settings import check_settings

# Entries of value 0 are not sent by the engine that trains all clients together: so few that this share is too much.
_NEAR = 0.01
_GOLDEN = (5**0.5 - 1) / 2


class Sent(NamedTuple):
    """Of a mean message: the share of the entries that it holds, and its bits under two other codes of the places."""

    effective_keep: float
    golomb: float
    entropy: float


def sent(settings: Mapping[str, Any], parameters: int, compression: float) -> Sent | None:
    """What the messages of a run held, from the settings and two numbers of run.json; None if that does not say it."""
    dense = 32.0 * parameters
    if settings.get("keep") == "dense":
        return Sent(1.0, dense, dense) if compression == 1 else None
    try:
        wanted = (settings[name] for name in ("dataset", "model", "model_settings", "pad_to", "channels", "fidelity"))
        sizes = sizes_of(*(json.dumps(value, sort_keys=True) for value in wanted))
        nominal = np.array(_counts(sizes, float(settings["keep"]), settings["fidelity"]), dtype="float64")
        varies = settings["fidelity"] == "authors" or settings.get("schedule") or _budgeted(settings["method"])
    except (KeyError, ValueError, TypeError, ConfigError):
        return None
    entries = np.array(sizes, dtype="float64")
    if entries.sum() != parameters:
        return None
    share = dense / compression / float(nominal @ (32 + _index_bits(sizes)))
    if abs(share - 1) > _NEAR and not varies:
        return None
    counts = nominal if abs(share - 1) < 1e-12 else np.minimum(nominal * share, entries)
    return Sent(
        float(counts.sum() / parameters),
        float(sum(k * (32 + golomb(k, n)) for k, n in zip(counts, entries, strict=True))),
        float(32 * counts.sum() + entropy(counts, entries).sum()),
    )


def steps(settings: Mapping[str, Any]) -> int | None:
    """The local steps of a round, of all clients that answer together; None if only the data, or the run, says it."""
    try:
        if settings.get("schedule") or _budgeted(settings["method"]):
            return None
        answering = settings.get("available") or settings["clients"]
        samples, batch = settings["partition"].get("samples_per_client"), settings["batch_size"]
        return int(answering * settings["local_epochs"] * math.ceil(samples / batch)) if samples else None
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, ConfigError):
        return None


def golomb(count: float, entries: float) -> float:
    """Bits of a place, on average, if the distances between `count` of `entries` places are coded by Golomb's code.

    b + 1 / (1 - (1 - p)^(2^b)) with p = count / entries, b = 1 + floor(log2(log(phi - 1) / log(1 - p))) and phi the
    golden ratio: Sattler et al., arXiv 1903.02891, equation 17. 0 if all are sent, or none.
    """
    p = count / entries if entries else 1.0
    if not 0 < p < 1:
        return 0.0
    b = max(0, 1 + math.floor(math.log2(math.log(_GOLDEN) / math.log1p(-p))))
    return float(b - 1 / math.expm1(2**b * math.log1p(-p)))


def entropy(counts: NDArray[np.float64], entries: NDArray[np.float64]) -> NDArray[np.float64]:
    """log2 of the number of ways to choose so many of the entries: no code of the places needs less on average."""
    ways = gammaln(entries + 1) - gammaln(counts + 1) - gammaln(entries - counts + 1)
    found: NDArray[np.float64] = np.maximum(ways, 0) / math.log(2)
    return found


@functools.cache
def sizes_of(dataset: str, model: str, settings: str, pad_to: str, channels: str, fidelity: str) -> tuple[int, ...]:
    """The sizes of the tensors of a model, from values of run.json's config as JSON; it takes no memory to build it."""
    import torch

    source, name = datasets.module(json.loads(dataset)), json.loads(model)
    shape = fitted(source.SHAPE, json.loads(pad_to), json.loads(channels))
    own = check_settings(models.load(name).Settings, json.loads(settings), "model_settings")
    with torch.device("meta"):
        built = models.create(name, shape, source.CLASSES, own, 0, json.loads(fidelity))
    return tuple(parameter.numel() for parameter in built.parameters())


@functools.cache
def _counts(sizes: tuple[int, ...], keep: float, fidelity: str) -> tuple[int, ...]:
    from flare.engine.layout import Layout

    return Layout.of([(str(place), (size,)) for place, size in enumerate(sizes)]).counts(keep, fidelity)


def _index_bits(sizes: Sequence[int]) -> NDArray[np.float64]:
    from flare.engine.layout import index_bits

    return np.array([index_bits(size) for size in sizes], dtype="float64")


@functools.cache
def _budgeted(method: str) -> bool:
    return algorithms.load(method).budget is not None
