"""A run's rounds as tasks: who answers, with which seeds, at which budget. All of it follows from the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare.algorithms import Method
from flare.engine.layout import Keep, Layout
from flare.engine.task import Task


@dataclass(frozen=True)
class Plan:
    """What a run is told to do, checked; the arguments of `flare.simulate` of the same names.

    sizes: samples of each client. participants: who answers, ascending, one list a round, instead of a draw.
    adjust: of a schedule, (task, rounds) -> task, or None.
    """

    method: Method
    settings: Any
    layout: Layout
    sizes: Sequence[int]
    keep: Keep
    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    available: int | None
    participants: Sequence[Sequence[int]] | None
    fidelity: str
    evaluate_every: int
    seed: int
    shuffle: bool
    adjust: Callable[[Task, int], Task] | None = None

    @property
    def most(self) -> int:
        """The most clients that answer a round."""
        return max(map(len, self.participants)) if self.participants is not None else self.available or len(self.sizes)

    def tasks(self, start: int = 0) -> Iterator[Task]:
        """The rounds from `start` on, before the method's own budget."""
        for number in range(start, self.rounds):
            task = self.task(number, self.answering(number))
            yield self.adjust(task, self.rounds) if self.adjust else task

    def task(self, number: int, clients: Sequence[int]) -> Task:
        """One round of these clients."""
        return Task(
            number=number,
            clients=tuple(clients),
            seeds=tuple(_mix(self.seed, number, client) for client in clients),
            sizes=tuple(self.sizes[client] for client in clients),
            keep=self.keep,
            local_epochs=self.local_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            shuffle=self.shuffle,
            fidelity=self.fidelity,
            layout=self.layout,
            settings=self.settings,
            population=len(self.sizes),
            # If the loss explodes so do the epochs that follow it: they end once the run is past saving.
            watch=self.method.budget is not None,
        )

    def answering(self, number: int) -> Sequence[int]:
        """The clients that answer in a round, ascending: the draw depends on the seed and the round alone."""
        everyone = len(self.sizes)
        if self.participants is not None:
            return self.participants[number]
        if self.available is None or self.available == everyone:
            return range(everyone)
        drawn = np.random.default_rng([self.seed, number]).choice(everyone, self.available, replace=False)
        return sorted(drawn.tolist())

    def evaluates(self, task: Task) -> bool:
        """Whether the server's weights are evaluated after the round: every so many, the first and the last one."""
        return task.number % self.evaluate_every == 0 or task.number == self.rounds - 1


def _mix(*numbers: int) -> int:
    """A seed that depends on all of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
