"""FLARE: Greidi & Cohen, "Sparse Training for Federated Learning with Regularized Error Correction", arXiv 2312.13795.

Top-K with error correction whose first p local steps of round r minimise

    f_k(v) + tau_r * sum_i M_i * |v_i - (w_i + A_k,i)|,   tau_r = tau / c^(r+1),   M_i = 1 where |A_k,i| > q, else 0,

with q the t-th percentile of |A_k| per tensor: the local model is pulled toward the largest part of what the client has
learned and not yet sent, so that its memory does not go stale. w, A_k, q and M are constants of the round.
Limits: tau = 0 or p = 0 is Top-K, bit for bit; while A_k = 0 the pull is 0; keep = 1 is FedAvg to rounding.
lr * tau_r is added to every pulled entry in every pulled step; where that dwarfs the gradient the run diverges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flare.algorithms import Method, error_feedback
from flare.errors import ConfigError
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import State
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


def pull(start: Tensor, state: State, task: Task) -> Pull | None:
    """The subgradient tau_r * M * sign(v - (w + A_k)), sign(0) = 0, added to the gradient in one pass."""
    settings: Settings = task.settings
    layout = task.layout
    steps = None if settings.pull_steps == "all" else int(settings.pull_steps)
    if settings.tau == 0 or steps == 0:
        return None
    memory = state["accumulator"]
    thresholds = layout.percentiles(memory, settings.percentile)
    strength = settings.tau / settings.tau_decay ** (task.number + 1)

    pulled = [not name.startswith(f"{settings.not_pulled}.") for name in layout.names]
    if all(pulled) and settings.not_pulled != "none":
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in layout.names))
        raise ConfigError(f"not_pulled: {settings.not_pulled!r} is not allowed; none, or a part of the model: {parts}")

    def add(gradient: Tensor, weights: Tensor, step: int) -> None:
        for tensor, part in layout.blocks(weights):
            if not pulled[tensor]:
                continue
            target, threshold = memory[..., part], thresholds[tensor]
            if isinstance(threshold, float):
                large = target.hardshrink(threshold).sign_()
            else:  # on a device that is not waited for
                large = target.sign().mul_(target.abs() > threshold)
            if step == 0:  # v = w
                gradient[..., part].sub_(large, alpha=strength)
            else:
                # (v - w) - A rather than v - (w + A): exact where v = w, however small A is beside w.
                direction = (weights[..., part] - start[..., part]).sub_(target).sign_()
                gradient[..., part].addcmul_(direction, large.abs_(), value=strength)

    return steps, add


METHOD = Method(
    message=error_feedback,
    settings=Settings,
    state=("accumulator",),
    pull=pull,
    restarts_momentum=True,
    strength="tau",
    pull_steps="pull_steps",
)

# How figures show it.
LABEL = "FLARE"
COLOUR = "#D55E00"
MARKER = "o"
DASHES = "-"
