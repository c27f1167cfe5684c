"""Cosine decay of the learning rate: Loshchilov & Hutter, "SGDR", arXiv 1608.03983, without restarts.

In round r of T the rate is rate * (final + (1 - final) * (1 + cos(pi * r / (T - 1))) / 2): the whole rate in the first
round, `final` of it in the last. During the first `warmup_rounds` rounds it rises in equal steps to the rate instead,
and the decay takes the rounds after them. final = 1 without warm-up changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flare.settings import setting

if TYPE_CHECKING:
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """The schedule's own settings."""

    final: float = setting(0.0, low=0, high=1, doc="share of the learning rate that is left in the last round")
    warmup_rounds: int = setting(0, low=0, doc="first rounds, in which the learning rate rises in equal steps")


def adjust(task: Task, rounds: int, settings: Settings) -> Task:
    """The task with this round's learning rate."""
    warm = settings.warmup_rounds
    if task.number < warm:
        share = (task.number + 1) / (warm + 1)
    else:
        done = (task.number - warm) / max(1, rounds - 1 - warm)
        share = settings.final + (1 - settings.final) * (1 + math.cos(math.pi * done)) / 2
    return dataclasses.replace(task, learning_rate=task.learning_rate * share)
