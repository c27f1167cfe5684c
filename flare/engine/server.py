"""The server's step: what becomes of the mean g that a round adds to w, if it is not added as it is.

    sgd:   V <- momentum V + g;  w <- w + learning_rate V
    adam:  M <- beta1 M + (1 - beta1) g;  Q <- beta2 Q + (1 - beta2) g^2;
           w <- w + learning_rate M / (sqrt(Q) + epsilon)

sgd is FedAvgM (Hsu, Qi & Brown, arXiv 1909.06335), adam is FedAdam (Reddi et al., arXiv 2003.00295, algorithm 2): M
starts at 0 and Q at epsilon^2, and there is no bias correction, unlike in several programs of that name. The step sits
between the mean and w: clients, memories and uplink do not know of it. learning_rate 1 and momentum 0 is to add g.
Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import ApplyHook, Method
from flare.errors import ConfigError, choose
from flare.settings import check_settings, setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import State
    from flare.engine.task import Task
    from flare.engine.update import Update


@dataclass(frozen=True)
class Sgd:
    """w moves along a sum of the means, in which older ones fade."""

    learning_rate: float = setting(1.0, above=0, symbol="s", doc="of the server's step")
    momentum: float = setting(0.0, low=0, below=1, symbol="b", doc="share of the sum that is kept from round to round")

    @property
    def vectors(self) -> tuple[str, ...]:
        """What the server keeps for it."""
        return ("server_velocity",) if self.momentum else ()

    def step(self, server: Tensor, mean: Tensor, state: State, number: int) -> None:
        """V <- momentum V + g; w <- w + learning_rate V."""
        if self.momentum:
            mean = state["server_velocity"].mul_(self.momentum).add_(mean)
        server.add_(mean, alpha=self.learning_rate)


@dataclass(frozen=True)
class Adam:
    """Every weight moves by its mean over the root of the mean square."""

    learning_rate: float = setting(0.01, above=0, symbol="s", doc="of the server's step")
    beta1: float = setting(0.9, low=0, below=1, doc="share of the first moment that is kept from round to round")
    beta2: float = setting(0.99, low=0, below=1, doc="share of the second moment that is kept from round to round")
    epsilon: float = setting(
        0.001, above=0, doc="added to the root of the second moment, which starts at this number's square"
    )

    @property
    def vectors(self) -> tuple[str, ...]:
        """What the server keeps for it."""
        return ("server_first", "server_second")

    def step(self, server: Tensor, mean: Tensor, state: State, number: int) -> None:
        """Both moments, and the step; in round 0 the second begins at epsilon^2."""
        first, second = state["server_first"], state["server_second"]
        if number == 0:
            second.fill_(self.epsilon**2)
        first.mul_(self.beta1).add_(mean, alpha=1 - self.beta1)
        second.mul_(self.beta2).addcmul_(mean, mean, value=1 - self.beta2)
        server.addcdiv_(first, second.sqrt().add_(self.epsilon), value=self.learning_rate)


OPTIMIZERS: dict[str, type[Sgd] | type[Adam]] = {"sgd": Sgd, "adam": Adam}


def check(given: Mapping[str, Any]) -> Sgd | Adam | None:
    """The step of {"optimizer": ..., and its own keys}; None if there is none. ConfigError if wrong."""
    if not given:
        return None
    if "optimizer" not in given:
        raise ConfigError(f"server: 'optimizer' is missing; one of {', '.join(OPTIMIZERS)}")
    name = choose("server: optimizer", given["optimizer"], OPTIMIZERS)
    own = {key: value for key, value in given.items() if key != "optimizer"}
    return check_settings(OPTIMIZERS[name], own, f"server: {name}")  # type: ignore[no-any-return]


def is_today(step: Sgd | Adam | None) -> bool:
    """Whether the step only adds the mean."""
    return step is None or step == Sgd()


def with_step(method: Method, step: Sgd | Adam | None) -> Method:
    """The method with this step of the server in the place of adding the mean."""
    if step is None or is_today(step):
        return method
    return dataclasses.replace(method, server_state=(*method.server_state, *step.vectors), apply=_apply(step))


def _apply(step: Sgd | Adam) -> ApplyHook:
    def apply(server: Tensor, update: Update, state: State, task: Task) -> None:
        step.step(server, update.mean(server), state, task.number)

    return apply
