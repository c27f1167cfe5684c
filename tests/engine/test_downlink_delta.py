"""The downlink of changes alone, with absent clients: against numbers worked out by hand, and what methods make it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import flare
from flare.engine.layout import Layout
from flare.engine.probes.downlink_delta import DownlinkDelta
from flare.engine.task import Task
from flare.engine.update import Update

# Indices of 3 and of 1 bit; dense, a client's downlink is 7 * 32 = 224.
LAYOUT = Layout.of([("a", (5,)), ("b", (2,))])


def test_worked_example_with_absences() -> None:
    probe = DownlinkDelta(3, LAYOUT)
    server = torch.zeros(7)
    found = []
    # Who answers, and what the round then changes.
    for number, (clients, places) in enumerate([((0, 1), [0, 3]), ((0, 2), [3, 5, 6]), ((1, 2), [])]):
        task = Task(number, clients, clients, (4, 4), 0.5, 1, 4, 0.1, 0.0, False, "paper", LAYOUT, None)
        probe.begin(task)
        probe.aggregated(server, Update(2))
        server = server.clone()
        server[places] += 1
        found.append(tuple(probe.measure(task).values()))
        # Resumed, it goes on with the same.
        saved = copy.deepcopy(probe.state())
        probe = DownlinkDelta(3, LAYOUT)
        probe.load(saved)
    # Round 0: two first contacts. Round 1: client 0 lacks two of a, 2 * 35; client 2 is new. Round 2: client 1 lacks
    # those two and all of b, which is 64 bits whole and 66 in parts; client 2 lacks place 3, 35, and b, 64.
    assert found == [(448, 448), (448 + 70 + 224, 672), (742 + 134 + 99, 672)]


def simulated(method: str, keep: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    data = [(torch.randn(6, 5), torch.arange(6) % 2) for _ in range(4)]
    history, _ = flare.simulate(
        nn.Linear(5, 2),
        data[:3],
        test=data[3],
        method=method,
        keep=keep,
        rounds=4,
        local_epochs=1,
        batch_size=3,
        learning_rate=0.1,
        momentum=0.0,
        evaluate_every=1,
        probes=["downlink_delta"],
        **options,
    )
    return history


@pytest.mark.parametrize("together", [False, True])
def test_a_method_that_moves_all_weights_has_the_dense_downlink(together: bool) -> None:
    history = simulated("fedavg", None, together=together)
    assert history["downlink_delta_bits"].tolist() == history["downlink_bits"].tolist()
    assert history["downlink_first_bits"].tolist() == [3 * 32 * 12] * 4
    # A sparse mean of three messages, of 1 of 10 and 1 of 2 entries each, changes at most 3 and 2 of them.
    sparse = simulated("topk", 0.1, together=together)["downlink_delta_bits"]
    assert sparse.iloc[0] == 3 * 32 * 12
    assert 0 < sparse.diff().max() <= 3 * (3 * (32 + 4) + 64)
