"""Exact selection of entries by magnitude: the largest ones, those above a rank, and a percentile.

The one place that chooses an implementation by device. `cpu` searches one vector with NumPy, `cuda` one vector on a
GPU, `rows` every row of a matrix at once on either. All agree entry for entry: ties go to the lowest index, and a zero
is never chosen by `select` (Stich et al., arXiv 1809.07599, with the per-tensor budget of Greidi & Cohen,
arXiv 2312.13795).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from flare.engine.select import cpu, cuda
from flare.engine.select.rows import percentile_of_rows, select_of_rows

__all__ = ["percentile", "percentile_of_rows", "select", "select_above_rank", "select_of_rows"]


def select(x: Tensor, count: int, ordinary: Callable[[np.ndarray], np.ndarray] | None = None) -> Tensor:
    """Indices, ascending, of the `count` largest magnitudes of the vector x, ties broken by the lowest index.

    An entry that is exactly 0 is never chosen, so the answer may be shorter than `count`. `ordinary` maps indices of x
    to those that break ties, if x is stored in another order. The answer is that of a full stable sort.
    """
    return cuda.select(x, count, ordinary) if x.is_cuda else cpu.select(x, count, ordinary)


def select_above_rank(x: Tensor, rank: int) -> Tensor:
    """Indices, ascending, of the magnitudes strictly larger than the `rank`-th largest (`fidelity: authors`).

    With fewer than `rank` entries, every one that is not 0 is chosen.
    """
    if rank > x.numel():
        return x.abs().nonzero().flatten()
    return cuda.select_above_rank(x, rank) if x.is_cuda else cpu.select_above_rank(x, rank)


def percentile(x: Tensor, t: float) -> float:
    """The entry of rank round_half_even((n-1) * t/100) of the ascending magnitudes of the vector x; t in [0, 100].

    For a vector on the CPU. On a GPU, which is not waited for, `percentile_of_rows` leaves the answer there.
    """
    return cpu.percentile(x, t)
