"""Selection in one vector on a GPU. The size of the answer depends on the data, so this waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def select(x: Tensor, count: int, ordinary: Callable[[np.ndarray], np.ndarray] | None) -> Tensor:
    """`flare.engine.select.select`."""
    magnitudes = x.abs()
    if count >= x.numel():
        return magnitudes.nonzero().flatten()
    threshold = magnitudes.topk(count, sorted=True).values[-1]
    chosen = (magnitudes > threshold).nonzero().flatten()
    if threshold == 0 or chosen.numel() == count:
        return chosen
    ties = (magnitudes == threshold).nonzero().flatten()
    missing = count - chosen.numel()
    if ordinary is not None and ties.numel() > missing:
        ties = ties[torch.from_numpy(np.argsort(ordinary(ties.cpu().numpy()), kind="stable")).to(x.device)]
    return torch.cat((chosen, ties[:missing])).sort().values


def select_above_rank(x: Tensor, rank: int) -> Tensor:
    """`flare.engine.select.select_above_rank` of a vector that has at least `rank` entries."""
    magnitudes = x.abs()
    threshold = magnitudes.topk(rank, sorted=True).values[-1]
    return (magnitudes > threshold).nonzero().flatten()
