"""Staleness, against numbers worked out by hand and against a literal count over replayed rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import flare
from flare import algorithms
from flare.columns import STALENESS as COLUMNS
from flare.engine.layout import Layout, Message
from flare.engine.probes.staleness import Staleness
from flare.engine.task import Task

PARTICIPANTS = [[0, 1], [1, 2], [0], [1], [0, 2], [1, 2]]


def test_worked_example() -> None:
    layout = Layout.of([("a", (4,))])
    stale = Staleness(2, layout)
    tasks = [
        Task(round_, (0, 1), (1, 2), (4, 4), 0.5, 1, 4, 0.1, 0.0, False, "paper", layout, None) for round_ in range(3)
    ]
    sent = {(0, 0): [0], (1, 0): [1, 2], (0, 2): [0, 3]}  # (client, round): coordinates
    for round_ in range(3):
        stale.begin(tasks[round_])
        for client in (0, 1):
            if (client, round_) in sent:
                at = torch.tensor(sent[client, round_])
                memory = torch.tensor([3.0, 0.0, 4.0, 0.0])
                stale.before(client, torch.tensor([0.0, 0.0, -2.0, 0.0]), memory)
                stale.after(client, Message(layout, torch.ones(len(at)), at, (len(at),)), memory)
    # After round 2, client 0: 0, 3, 3, 0 (sent now, never, never, now); client 1: 3, 2, 2, 3. Sorted: 0 0 2 2 3 3 3 3.
    measured = stale.measure(tasks[2])
    assert measured["staleness_mean"] == 2.0
    assert measured["staleness_p50"] == 3.0  # rank round_half_even(3.5) = 4
    assert measured["staleness_p90"] == measured["staleness_p99"] == 3.0
    assert measured["never_sent"] == 4 / 8
    assert measured["memory_norm"] == 5.0 and measured["message_norm"] == pytest.approx(math.sqrt(2))
    assert measured["memory_cosine"] == pytest.approx(-0.8)  # (4 * -2) / (5 * 2)
    assert tuple(measured) == tuple(COLUMNS)


@pytest.mark.parametrize("method", algorithms.names())
def test_every_method_against_a_literal_count(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[tuple[int, int], np.ndarray] = {}
    lengths: dict[tuple[int, int], float] = {}
    differences: list[np.ndarray] = []  # d_k of every answer, in order
    memories = [np.zeros((3, 18))]  # A_k before the first round and after each
    begin, before, after = Staleness.begin, Staleness.before, Staleness.after
    number = [0]

    def start(self: Staleness, task: Task) -> None:
        number[0] = task.number
        begin(self, task)

    def look(self: Staleness, client: int, difference: torch.Tensor, memory: torch.Tensor | None) -> None:
        differences.append(difference.numpy().copy())
        before(self, client, difference, memory)

    def record(self: Staleness, client: int, message: Message, memory: torch.Tensor | None) -> None:
        round_ = number[0]
        sent[round_, client] = np.arange(18) if message.indices is None else message.indices.numpy()
        lengths[round_, client] = math.hypot(*message.values.tolist())
        after(self, client, message, memory)

    def remember(state) -> None:
        memories.append(state["memory"].get("accumulator", torch.zeros(3, 18)).numpy().copy())

    monkeypatch.setattr(Staleness, "begin", start)
    monkeypatch.setattr(Staleness, "before", look)
    monkeypatch.setattr(Staleness, "after", record)
    generator = torch.Generator().manual_seed(3)
    clients = [
        (torch.randn(8, 5, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(3)
    ]
    model = nn.Linear(5, 3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-0.3, 0.4, parameter.numel()).reshape(parameter.shape))
    common = dict(test=clients[0], method=method, keep=0.2, local_epochs=1, batch_size=4, learning_rate=0.1, momentum=0)
    arguments = common | {"participants": PARTICIPANTS, "rounds": len(PARTICIPANTS), "evaluate_every": 1}
    plain, weights = flare.simulate(model, clients, **arguments)
    history, measured_weights = flare.simulate(model, clients, **arguments, staleness=True, on_state=remember)
    assert list(plain.columns) + list(COLUMNS) == list(history.columns)
    assert plain.equals(history[plain.columns])  # measuring changes nothing
    assert all(torch.equal(weights[name], measured_weights[name]) for name in weights)

    chosen = algorithms.load(method)
    last = np.full((3, 18), -1)
    answers = iter(differences)
    for round_, ids in enumerate(PARTICIPANTS):
        for client in ids:
            last[client, sent[round_, client]] = round_
        ages = np.sort((round_ - last).ravel())
        row = history.iloc[round_]
        assert row["staleness_mean"] == pytest.approx(ages.mean())
        for percent in (50, 90, 99):
            assert row[f"staleness_p{percent}"] == ages[round((ages.size - 1) * percent / 100)]
        assert row["never_sent"] == np.mean(last == -1)
        assert row["message_norm"] == pytest.approx(np.mean([lengths[round_, client] for client in ids]))
        cosines = []
        for client, difference in zip(ids, answers, strict=False):
            memory = memories[round_][client]
            if memory.any():
                cosines.append(memory @ difference / (math.hypot(*memory) * math.hypot(*difference)))
        if "accumulator" in chosen.state:
            norms = [math.hypot(*memories[round_ + 1][client]) for client in ids]
            assert row["memory_norm"] == pytest.approx(np.mean(norms)) and np.mean(norms) > 0
            assert math.isnan(row["memory_cosine"]) == (not cosines) == (round_ == 0)
        else:
            assert math.isnan(row["memory_norm"]) and not cosines
        assert row["memory_cosine"] == pytest.approx(np.mean(cosines) if cosines else math.nan, nan_ok=True)
    assert (history["never_sent"].diff().dropna() <= 0).all()
