"""One local optimizer step, as both engines take it: heavy-ball SGD with a method's extra gradient.

v <- momentum * v + g + pull, w <- w - learning_rate * v, with v = 0 at the start of every round. The engine forms g:
the backward pass adds it to the velocity between `decay` and `descend`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# (steps, add): the extra gradient is added on the first `steps` local steps, None: on all of them.
Pull = tuple[int | None, Callable[[Tensor, Tensor, int], None]]


@dataclass(frozen=True)
class LocalStep:
    """The step of one client, whose weights and velocity are vectors, or of several, one a row of two matrices.

    restart: the velocity starts again from 0 after the last pulled step.
    """

    weights: Tensor
    velocity: Tensor
    learning_rate: float
    momentum: float
    pull: Pull | None = None
    restart: bool = False

    def decay(self, step: int, active: int | None = None) -> None:
        """Scale the velocity, of the first `active` rows alone if that is given, before the gradient is added to it."""
        if step:
            (self.velocity if active is None else self.velocity[:active]).mul_(self.momentum)

    def descend(self, step: int, active: int | None = None) -> None:
        """Add the pull, then move the weights. The pull also meets rows that are done: their velocity is not used."""
        steps, add = self.pull or (0, None)
        if add and (steps is None or step < steps):
            add(self.velocity, self.weights, step)
        if active is None:
            self.weights.add_(self.velocity, alpha=-self.learning_rate)
        else:
            self.weights[:active].add_(self.velocity[:active], alpha=-self.learning_rate)
        if self.restart and step + 1 == steps:
            self.velocity.zero_()
