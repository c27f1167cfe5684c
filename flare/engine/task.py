"""What a round is, decided before it starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flare.engine.compressor import Compressor
from flare.engine.layout import Keep, Layout
from flare.engine.network import put


@dataclass(frozen=True)
class Task:
    """One round, or the part of it that some clients have; every hook of a method is told it.

    number: of the round, from 0, whether or not a client answered before. clients: those that answer, and seeds, sizes:
    of each its seed in this round and its number of samples. A hook is told the clients whose vectors it is given, in
    the order of the rows. keep: fraction of every tensor that is sent (None: all of it). local_epochs, batch_size,
    learning_rate, momentum, shuffle: of the local training. fidelity: "paper" or "authors". layout: of the weights.
    settings: the method's own. broadcast: vectors that the server sends beside w, by name, as they are when the round
    begins. sums: vectors of `Method.sums`, 0 when the round begins. population: how many clients there are, whether or
    not they answer. watch: a client stops after an epoch whose loss is not finite. most_steps: and after so many steps.
    """

    number: int
    clients: tuple[int, ...]
    seeds: tuple[int, ...]
    sizes: tuple[int, ...]
    keep: Keep
    local_epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    shuffle: bool
    fidelity: str
    layout: Layout
    settings: Any
    broadcast: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    population: int = 0
    watch: bool = False
    most_steps: int | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """Local steps of each client, in all epochs together; the last, smaller batch of an epoch is one."""
        return tuple(self.local_epochs * math.ceil(size / self.batch_size) for size in self.sizes)

    @property
    def taken(self) -> tuple[int, ...]:
        """Local steps that each client takes: those of all epochs, or `most_steps` if that is fewer."""
        return tuple(min(steps, self.most_steps or steps) for steps in self.steps)

    @property
    def compressor(self) -> Compressor:
        """All ways to choose a message at this round's budget; calling it is C_R."""
        return Compressor(self.layout, self.keep, self.fidelity, self.seeds)

    def each(self, numbers: Sequence[float], like: Tensor) -> Tensor | float:
        """What multiplies the vectors by a number a client: one number, or a column if the rows have different ones."""
        if len(set(numbers)) == 1:
            return numbers[0]
        return put(torch.tensor(numbers, dtype=like.dtype), like.device)[:, None]

    def of(self, rows: list[int]) -> Task:
        """The part of the clients at these places, in this order."""
        return dataclasses.replace(
            self,
            clients=tuple(self.clients[row] for row in rows),
            seeds=tuple(self.seeds[row] for row in rows),
            sizes=tuple(self.sizes[row] for row in rows),
        )
