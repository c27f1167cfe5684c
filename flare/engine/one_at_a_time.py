"""The engine that trains one client after another: the fastest on a CPU, and the one that needs the least memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flare.algorithms import Method, add_message
from flare.engine.base import Engine, Probe, Result, zeroed
from flare.engine.network import Network, batches
from flare.engine.state import RunState
from flare.engine.step import LocalStep, Pull
from flare.engine.task import Task
from flare.engine.update import Update, is_few
from flare.settings import ENGINES


@final
class OneAtATime(Engine):
    """Every client trains on the network's own weights, which its difference then replaces."""

    name = ENGINES[0]

    def __init__(self, network: Network) -> None:
        self.network = network
        self._total: Tensor | None = None  # what the clients of a round contribute
        self._sums: dict[str, Tensor] = {}

    def round(self, task: Task, state: RunState, method: Method, probes: Sequence[Probe]) -> Result:
        """See `Engine.round`; clients in ascending order."""
        network, server = self.network, state.server
        if method.receive is add_message and is_few(task.layout, task.keep, len(task.clients)):
            self._total = None
        else:
            self._total = torch.zeros_like(server) if self._total is None else self._total.zero_()
        task = zeroed(task, self._sums, method.sums, server)
        update = Update(len(task.clients), self._total, sums=task.sums)
        losses, uplink = [], 0

        for row, client in enumerate(task.clients):
            mine = task.of([row])
            own = {name: rows[client] for name, rows in state.memory.items()}
            start = method.start(server, own, mine) if method.start else server
            pull = method.pull(start, own, mine) if method.pull else None
            losses.append(self.train(mine, start, pull, method))
            moved = None if start is server or not probes else network.weights - start
            difference = network.weights.sub_(server)
            for probe in probes:
                probe.before(client, difference if moved is None else moved, own.get(method.memory))
            message = method.message(difference, own, mine, mine.compressor)
            for probe in probes:
                probe.after(client, message, own.get(method.memory))
            if update.total is None:
                update.messages.append(message)
            else:
                method.receive(update.total, message, own, mine)
            uplink += message.bits
        return Result(update, torch.stack(losses).mean(), uplink)

    def train(self, task: Task, start: Tensor, pull: Pull | None, method: Method) -> Tensor:
        """Train the task's one client from `start`; leaves w_k in the network's weights; the mean batch loss."""
        network = self.network
        network.weights.copy_(start)
        network.velocity.zero_()
        if network.device.type == "cuda":
            torch.manual_seed(task.seeds[0])
        else:  # torch.manual_seed looks for a GPU each time, which costs more than a small step
            torch.default_generator.manual_seed(task.seeds[0])
        network.model.train()
        restart = task.fidelity == "authors" and method.restarts_momentum
        local = LocalStep(network.weights, network.velocity, task.learning_rate, task.momentum, pull, restart)
        losses: list[Tensor] = []
        for _ in range(task.local_epochs):
            for inputs, targets in batches(network.clients[task.clients[0]], task.batch_size, task.shuffle):
                local.decay(len(losses))
                loss = network.loss(network.model(inputs), targets)
                loss.backward()
                local.descend(len(losses))
                losses.append(loss.detach())
                if len(losses) == task.most_steps:
                    return torch.stack(losses).mean()
            if task.watch and not math.isfinite(losses[-1]):
                break
        return torch.stack(losses).mean()
