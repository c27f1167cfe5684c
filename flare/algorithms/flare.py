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

from flare.algorithms import Method, error_feedback
from flare.errors import ConfigError
from flare.settings import setting


@dataclass(frozen=True)
class Settings:
    """FLARE's own settings."""

    tau: float = setting(0.05, low=0, doc="strength of the pull; 0 is Top-K")
    tau_decay: float = setting(1.05, low=1, doc="c: tau is divided by it every round; 1 keeps tau constant")
    percentile: float = setting(50.0, low=0, high=100, doc="t: entries of |A_k| above this percentile are pulled")
    pull_steps: int | str = setting(1, low=0, words=("all",), doc="p: first local steps of a round that are pulled")
    not_pulled: str = setting("none", doc="a part of the model without pull: what the names of its tensors start with")


def pull(round, start, state, settings, layout):
    """The subgradient tau_r * M * sign(v - (w + A_k)), sign(0) = 0, added to the gradient in one pass."""
    steps = None if settings.pull_steps == "all" else settings.pull_steps
    if settings.tau == 0 or steps == 0:
        return None
    memory = state["accumulator"]
    thresholds = layout.percentiles(memory, settings.percentile)
    strength = settings.tau / settings.tau_decay ** (round + 1)

    pulled = [not name.startswith(f"{settings.not_pulled}.") for name in layout.names]
    if all(pulled) and settings.not_pulled != "none":
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in layout.names))
        raise ConfigError(f"not_pulled: {settings.not_pulled!r} is not allowed; none, or a part of the model: {parts}")

    def add(gradient, weights, step):
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


METHOD = Method(message=error_feedback, settings=Settings, state=("accumulator",), pull=pull, restarts_momentum=True)
