"""FFL: Nori, Yun & Kim, "Fast Federated Learning by Balancing Communication Trade-Offs", arXiv 2105.11028.

Top-K with error correction whose budget follows the loss: with L_r the mean training loss over the clients' own data at
the current server weights, R_r = min(1, R * (L_0/L_r)^(1/3)) and E_r = max(1, round_half_even(E * (L_r/L_0)^(1/3))).
The test set is never looked at. While the loss is constant it is Top-K, bit for bit.
"""

from __future__ import annotations

import math

from flare.algorithms import Method, error_feedback


def budget(keep, local_epochs, loss, first_loss, settings):
    """(R_r, E_r) of the loss now and that of round 0."""
    if loss == first_loss or not math.isfinite(loss):
        return keep, local_epochs
    if loss <= 0:
        return 1.0, 1
    ratio = (loss / first_loss) ** (1 / 3)
    return min(1.0, keep / ratio), max(1, round(local_epochs * ratio))


METHOD = Method(message=error_feedback, state=("accumulator",), budget=budget)
