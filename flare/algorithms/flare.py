"""FLARE: Greidi & Cohen, "Sparse Training for Federated Learning with Regularized Error Correction", arXiv 2312.13795.

Top-K with error correction whose first p local steps of round r minimise

    f_k(v) + tau_r * sum_i M_i * |v_i - (w_i + A_k,i)|,   tau_r = tau / c^(r+1),   M_i = 1 where |A_k,i| > q, else 0,

with q the t-th percentile of |A_k| per tensor: the local model is pulled toward the largest part of what the client has
learned and not yet sent, so that its memory does not go stale. w, A_k, q and M are constants of the round.
Limits: tau = 0 or p = 0 is Top-K, bit for bit; while A_k = 0 the pull is 0; keep = 1 is FedAvg to rounding.
lr * tau_r is added to every pulled entry in every pulled step; where that dwarfs the gradient the run diverges.

Two controls separate what the pull does to the gradients from what it does to the size of the memory. count_pull false
takes the pull's own push P out of what is sent: with q <- momentum q + p_t and P <- P - lr q in every local step, p_t
the pull's subgradient, u = d_k - P + A_k. `pull: memory` pulls no step; before the message A_k <- A_k + lr tau_r M
sign(A_k). With one local step a round the first is Top-K and the second FLARE (if p >= 1), to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import Method, error_feedback
from flare.errors import ConfigError
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import Compress, State, Training
    from flare.engine.step import Pull
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """FLARE's own settings."""

    tau: float = setting(0.05, low=0, symbol="tau", doc="strength of the pull; 0 is `topk`")
    tau_decay: float = setting(1.05, low=1, symbol="c", doc="tau is divided by it every round; 1 keeps tau constant")
    percentile: float = setting(
        50.0,
        low=0,
        high=100,
        symbol="t",
        doc="entries of the memory above this percentile of its magnitudes are pulled",
    )
    pull_steps: int | str = setting(
        1,
        low=0,
        words=("all",),
        symbol="p",
        doc="first local steps of a round that carry the pull; 0 is `topk`; as many as a client has, or more, is `all`",
    )
    not_pulled: str = setting(
        "none",
        doc="a part of the model that the pull leaves alone: what its tensors' names start with, such as `embedding`",
    )
    count_pull: bool = setting(
        True, doc="what is sent counts the pull's own push; `false`, a control, takes it out before the message"
    )
    pull: str = setting(
        "gradient",
        choices=("gradient", "memory"),
        doc="what is pulled: the local steps or, a control, only the size of the memory, by lr tau before the message",
    )


def check(settings: Settings, training: Training) -> str | None:
    """Two controls at once have no meaning."""
    if settings.pull == "memory" and not settings.count_pull:
        return "count_pull: False is not allowed with pull: memory, which pulls no step; True"
    return None


def pulls(settings: Settings) -> bool:
    """Whether a local step is pulled."""
    return settings.tau != 0 and settings.pull == "gradient"


def pull(start: Tensor, state: State, task: Task) -> Pull | None:
    """The subgradient tau_r * M * sign(v - (w + A_k)), sign(0) = 0, added to the gradient in one pass."""
    settings: Settings = task.settings
    layout = task.layout
    steps = None if settings.pull_steps == "all" else int(settings.pull_steps)
    if not pulls(settings) or steps == 0:
        return None
    memory = state["accumulator"]
    thresholds = layout.percentiles(memory, settings.percentile)
    strength = settings.tau / settings.tau_decay ** (task.number + 1)
    pulled = _pulled(task)
    push = None if settings.count_pull else memory.new_zeros(memory.shape)
    if push is not None:
        state["push"] = push

    def add(gradient: Tensor, weights: Tensor, step: int) -> None:
        weight = 0.0 if push is None else _weight(task, step, steps, memory)
        for tensor, part in layout.blocks(weights):
            if not pulled[tensor]:
                continue
            target = memory[..., part]
            large = _large(target, thresholds[tensor])
            if step == 0:  # v = w
                gradient[..., part].sub_(large, alpha=strength)
                if push is not None:
                    push[..., part].sub_(large * weight, alpha=strength)
            else:
                # (v - w) - A rather than v - (w + A): exact where v = w, however small A is beside w.
                direction = (weights[..., part] - start[..., part]).sub_(target).sign_()
                gradient[..., part].addcmul_(direction, large.abs_(), value=strength)
                if push is not None:
                    push[..., part].addcmul_(direction.mul_(weight), large, value=strength)

    return steps, add


def _pulled(task: Task) -> list[bool]:
    """Of each tensor, whether it is pulled; ConfigError if the part that is not is none of the model's."""
    names, part = task.layout.names, task.settings.not_pulled
    pulled = [not name.startswith(f"{part}.") for name in names]
    if all(pulled) and part != "none":
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ConfigError(f"not_pulled: {part!r} is not allowed; none, or a part of the model: {parts}")
    return pulled


def _large(target: Tensor, threshold: Tensor | float) -> Tensor:
    """M * sign(A_k) of a part of the memory."""
    if isinstance(threshold, float):
        return target.hardshrink(threshold).sign_()
    return target.sign().mul_(target.abs() > threshold)  # on a device that is not waited for


def _weight(task: Task, step: int, steps: int | None, like: Tensor) -> Tensor | float:
    """How often the pull of a step is in q, in this step and all to come: 1 + momentum + momentum^2 + ...

    To come are the client's own steps, under `fidelity: authors` only until the velocity starts again from 0.
    """
    last = math.inf if task.fidelity == "paper" or steps is None else steps
    left = [max(0, min(taken, last) - step) for taken in task.taken]
    return task.each([(1 - task.momentum**number) / (1 - task.momentum) for number in left], like)


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """Top-K's, of a difference or a memory that a control has changed before."""
    settings: Settings = task.settings
    if "push" in state:  # holds -P / lr
        difference.add_(state["push"], alpha=task.learning_rate)
    elif settings.pull == "memory" and settings.tau != 0:
        memory, layout = state["accumulator"], task.layout
        thresholds, pulled = layout.percentiles(memory, settings.percentile), _pulled(task)
        added = task.learning_rate * settings.tau / settings.tau_decay ** (task.number + 1)
        for tensor, part in layout.blocks(memory):
            if pulled[tensor]:
                memory[..., part].add_(_large(memory[..., part], thresholds[tensor]), alpha=added)
    return error_feedback(difference, state, task, compress)


METHOD = Method(
    message=message,
    settings=Settings,
    state=("accumulator",),
    pull=pull,
    restarts_momentum=True,
    strength="tau",
    pull_steps="pull_steps",
    pulls=pulls,
)

# How figures show it.
LABEL = "FLARE"
COLOUR = "#D55E00"
MARKER = "o"
DASHES = "-"
