"""EF21: Richtarik, Sokolov & Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster
Error Feedback", arXiv 2106.05203, algorithm 1.

Client and server keep the same estimate G_k of the client's difference: q = C_R(d_k - G_k) is sent, G_k <- G_k + q,
and the server applies the mean of the answering clients' updated G_k. keep = 1 is FedAvg to rounding.
"""

from __future__ import annotations

from flare.algorithms import Method


def message(difference, state, settings, compress):
    """q = C_R(d_k - G_k), the increment on the wire; G_k <- G_k + q. Overwrites `difference`."""
    estimate = state["estimate"]
    difference -= estimate
    increment = compress(difference)
    increment.add_to(estimate)
    return increment


def receive(total, message, state):
    """The server's own copy of G_k, already updated by the increment, is what client k contributes."""
    total += state["estimate"]


METHOD = Method(message=message, state=("estimate",), receive=receive)
