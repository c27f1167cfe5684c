"""Selection in one vector on a CPU, with NumPy: about one pass, which leaves a few candidates to look at again."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Work with temporaries goes block by block, so that the temporaries stay in the processor's cache.
BLOCK = 1 << 17
# Vectors of this many entries or more are sampled before they are searched, with at most so many samples.
SAMPLED, SAMPLE = 1 << 13, 1 << 16
# If few entries are wanted, only rows of this many whose largest magnitude is large are searched.
ROW = 512


def select(x: Tensor, count: int, ordinary: Callable[[np.ndarray], np.ndarray] | None = None) -> Tensor:
    """`flare.engine.select.select`: a pass finds candidates that surely hold the answer, and those are sorted out."""
    values = x.numpy()
    indices, magnitudes = _in_largest_rows(x, count) if 0 < count * ROW * 8 <= values.size else _sampled(values, count)
    if count >= magnitudes.size:
        chosen = np.flatnonzero(magnitudes)
    else:
        rank = magnitudes.size - count
        threshold = np.partition(magnitudes, rank)[rank]
        chosen = np.flatnonzero((magnitudes >= threshold) & (magnitudes > 0))
        if chosen.size > count:
            tied = magnitudes[chosen] == threshold
            certain, ties = chosen[~tied], chosen[tied]
            if ordinary is not None:
                stored = ties if indices is None else indices[ties]
                ties = ties[np.argsort(ordinary(stored), kind="stable")]
            chosen = np.sort(np.concatenate((certain, ties[: count - certain.size])))
    return torch.from_numpy(chosen if indices is None else indices[chosen])


def _in_largest_rows(x: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices, ascending, and magnitudes of candidates for the `count` largest; for few among many.

    The largest magnitude of each short row of x is one entry, so the `count`-th largest of those bounds the answer from
    below, and only the rows that reach it can hold a part of it.
    """
    values = x.numpy()
    rows = x[: x.numel() // ROW * ROW].view(-1, ROW)
    largest = np.empty(len(rows), dtype=values.dtype)
    step = BLOCK // ROW
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        np.maximum(block.amax(1).numpy(), -block.amin(1).numpy(), out=largest[start : start + step])
    bound = np.partition(largest, largest.size - count)[largest.size - count]
    reaching = np.flatnonzero((largest >= bound) & (largest > 0))
    indices = (reaching[:, None] * ROW + np.arange(ROW)).ravel()
    indices = np.concatenate((indices, np.arange(largest.size * ROW, values.size)))
    magnitudes = np.abs(values[indices])
    kept = np.flatnonzero(magnitudes >= bound)
    return indices[kept], magnitudes[kept]


def _sampled(values: np.ndarray, count: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Indices, ascending (None: all), and magnitudes of candidates for the `count` largest.

    A sample tells a magnitude that surely more than `count` entries reach, but not many more; should it mislead, all
    entries are candidates.
    """
    bound = _bracket(values, values.size - count, values.size)[0]
    if bound > 0:
        indices, found = [], []
        scratch = np.empty(min(BLOCK, values.size), dtype=values.dtype)
        for start in range(0, values.size, BLOCK):
            block = values[start : start + BLOCK]
            magnitudes = np.abs(block, out=scratch[: block.size])
            at = np.flatnonzero(magnitudes >= bound)
            indices.append(at + start)
            found.append(magnitudes.take(at))
        if sum(map(len, found)) >= count:
            return np.concatenate(indices), np.concatenate(found)
    return None, np.abs(values)


def percentile(x: Tensor, t: float) -> float:
    """`flare.engine.select.percentile`: a sample brackets the answer, one pass finds what lies between."""
    rank = round((x.numel() - 1) * t / 100)
    values = x.numpy()
    low, high = _bracket(values, rank, rank)
    if low == 0 and rank < values.size - int(x.count_nonzero()):
        return 0.0
    if 0 < low <= high < math.inf:
        # The bits of magnitudes, as whole numbers, are in the same order, and less those of low they tell "between low
        # and high" in one comparison: what is below low wraps round to the greatest numbers.
        kind = np.dtype(f"u{values.itemsize}").type
        first, last = (np.array(end, dtype=values.dtype).view(kind) << 1 for end in (low, high))
        wrapped = np.negative(first)
        bits = values.view(kind)
        scratch = np.empty(min(BLOCK, bits.size), dtype=kind)
        below, between = 0, []
        for start in range(0, bits.size, BLOCK):
            block = bits[start : start + BLOCK]
            above_low = np.left_shift(block, 1, out=scratch[: block.size])  # shifts the sign away
            above_low -= first
            between.append(above_low.take(np.flatnonzero(above_low <= last - first)))
            below += int(np.count_nonzero(above_low >= wrapped))
        within = np.concatenate(between)
        if 0 <= rank - below < within.size:
            found = np.partition(within, rank - below)[rank - below]
            return float(((found + first) >> 1).view(values.dtype))
    return float(np.partition(np.abs(values), rank)[rank])


def _bracket(values: np.ndarray, first: int, last: int) -> tuple[float, float]:
    """Two magnitudes between which, by a sample, those of the ranks `first` to `last` surely lie; (0, inf) if unknown.

    A guess: whoever uses it checks it. Ranks are those of the ascending magnitudes.
    """
    if values.size < SAMPLED:
        return 0.0, math.inf
    sample = np.abs(values[:: values.size // min(SAMPLE, values.size // 32) | 1])
    size = sample.size
    ends = []
    for rank, side in ((first, -1), (last, 1)):
        share = rank / values.size
        place = size * share + side * (4 * math.sqrt(size * share * (1 - min(share, 1))) + 8)
        ends.append(math.floor(place) if side < 0 else math.ceil(place))
    low = float(np.partition(sample, ends[0])[ends[0]]) if ends[0] >= 0 else 0.0
    high = float(np.partition(sample, ends[1])[ends[1]]) if ends[1] < size else math.inf
    return low, high


def select_above_rank(x: Tensor, rank: int) -> Tensor:
    """`flare.engine.select.select_above_rank` of a vector that has at least `rank` entries."""
    array = x.abs().numpy()
    at = array.size - rank
    return torch.from_numpy(np.flatnonzero(array > np.partition(array, at)[at]))
