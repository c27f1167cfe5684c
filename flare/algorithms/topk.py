"""Top-K with error correction (EC): Stich et al., "Sparsified SGD with Memory", arXiv 1809.07599, algorithm 1.

u = d_k + A_k, m_k = C_R(u), A_k <- u - m_k: the largest entries are sent and the rest is remembered, so that
m_k + A_k = u exactly. keep = 1 sends everything, A_k stays 0, and it is FedAvg to rounding.
"""

from __future__ import annotations

from flare.algorithms import Method, error_feedback

METHOD = Method(message=error_feedback, state=("accumulator",))

# How figures show it.
LABEL = "Top-K"
COLOUR = "#0173B2"
MARKER = "^"
DASHES = (0, (4, 1, 1, 1))
