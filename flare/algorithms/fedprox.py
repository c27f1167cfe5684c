"""FedProx: Li et al., "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127, here with Top-K error
correction.

Every local step minimises f_k(v) + mu_r * sum_i (v_i - w_i)^2, without the factor 1/2, mu_r = mu / mu_decay^(r+1); the
message is that of Top-K, as Greidi & Cohen (arXiv 2312.13795) ran it. `keep: dense` is plain FedProx.
Limits: mu = 0 is Top-K (FedAvg when dense), bit for bit; with one local step a round the proximal gradient is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from flare.algorithms import Method, error_feedback
from flare.settings import setting


@dataclass(frozen=True)
class Settings:
    """FedProx's own settings."""

    mu: float = setting(0.01, low=0, doc="strength of the proximal term; 0 is Top-K")
    mu_decay: float = setting(1.0, low=1, doc="mu is divided by it every round (the authors': FLARE's tau_decay)")


def pull(round, start, state, settings, layout):
    """The proximal gradient 2 * mu_r * (v - w), on every step."""
    if settings.mu == 0:
        return None
    strength = 2 * settings.mu / settings.mu_decay ** (round + 1)

    def add(gradient, weights, step):
        if step == 0:  # v = w
            return
        for _, part in layout.blocks(weights):
            gradient[..., part].add_(weights[..., part] - start[..., part], alpha=strength)

    return None, add


METHOD = Method(message=error_feedback, settings=Settings, state=("accumulator",), pull=pull)
