"""FFL: Nori, Yun & Kim, "Fast Federated Learning by Balancing Communication Trade-Offs", arXiv 2105.11028.

Top-K with error correction whose budget follows the loss: with L_r the mean training loss over the clients' own data at
the current server weights, R_r = min(1, R * (L_0/L_r)^(1/3)) and E_r = max(1, round_half_even(E * (L_r/L_0)^(1/3))).
The test set is never looked at. While the loss is constant it is Top-K, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from flare.algorithms import Method, error_feedback

if TYPE_CHECKING:
    from flare.engine.task import Task


def budget(task: Task, training_loss: Callable[[], tuple[float, float]]) -> Task:
    """R_r and E_r, from the loss now and that of round 0."""
    loss, first = training_loss()
    if loss == first or not math.isfinite(loss):
        return task
    ratio = (loss / first) ** (1 / 3) if loss > 0 else 0.0

    def scaled(keep: float | None) -> float | None:
        return None if keep is None else 1.0 if ratio == 0 else min(1.0, keep / ratio)

    keep = tuple(map(scaled, task.keep)) if isinstance(task.keep, tuple) else scaled(task.keep)
    return dataclasses.replace(task, keep=keep, local_epochs=max(1, round(task.local_epochs * ratio)))


METHOD = Method(message=error_feedback, state=("accumulator",), budget=budget)

# How figures show it.
LABEL = "FFL"
COLOUR = "#DE8F05"
MARKER = "P"
DASHES = (0, (1, 1))
