"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
arXiv 1602.05629.

m_k = d_k: every client sends its whole difference, and the server adds their unweighted mean. Dense, so `keep` does not
apply. It is the limit of every compressing method at keep = 1.
"""

from __future__ import annotations

from flare.algorithms import Method


def message(difference, state, settings, compress):
    """m_k = d_k."""
    return compress(difference)


METHOD = Method(message=message, dense=True)
