"""The engine that advances all clients together: one row of a matrix each, so that a GPU is filled by all at once.

The same arithmetic as one client at a time, stacked over a first dimension by `torch.func.vmap`; sums are formed in
another order, so the two agree to rounding until an entry near the threshold of a selection falls on its other side.
Dropout draws other masks. Nothing here waits for the device.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from flare.algorithms import Method
from flare.engine.base import Engine, Probe, Result, zeroed
from flare.engine.layout import Messages
from flare.engine.network import Network, Pair, put
from flare.engine.state import RunState
from flare.engine.step import LocalStep, Pull
from flare.engine.task import Task
from flare.engine.update import Update
from flare.settings import ENGINES


@final
class Together(Engine):
    """Trains clients side by side: `weights` and `velocity` are matrices (clients that answer, weights of the model).

    network: the model, whose own weights are not used to train, and the data, which is put into blocks. most: the most
    clients that answer a round.
    """

    name = ENGINES[1]

    def __init__(self, network: Network, most: int):
        # Rows of a matrix that also holds the other tensors are not one piece of memory; it is no harm here.
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
        self.network = network
        self.layout = network.layout
        self._total = torch.zeros_like(network.weights)  # what the clients of a round contribute
        self._sums: dict[str, Tensor] = {}
        self.weights = network.weights.new_empty(most, self.layout.numel)
        self.velocity = torch.zeros_like(self.weights)
        # Clients of one size lie in one block, so that a batch of all of them is a view of it.
        self._place: dict[int, tuple[int, int]] = {}
        self._blocks: dict[int, Pair] = {}
        for size in {len(targets) for _, targets in network.clients}:
            numbers = [number for number, (_, targets) in enumerate(network.clients) if len(targets) == size]
            inputs, targets = zip(*(network.clients[number] for number in numbers), strict=True)
            self._blocks[size] = torch.stack(inputs), torch.stack(targets)
            self._place |= {number: (size, row) for row, number in enumerate(numbers)}
        self.clients = [
            (self._blocks[size][0][row], self._blocks[size][1][row])
            for size, row in (self._place[number] for number in range(len(network.clients)))
        ]
        self._leaves: dict[tuple[int, int], dict[str, Tensor]] = {}

    def round(self, task: Task, state: RunState, method: Method, probes: Sequence[Probe]) -> Result:
        """See `Engine.round`; clients with the most samples, and so the most steps, come first."""
        server, total = state.server, self._total.zero_()
        order = sorted(range(len(task.clients)), key=lambda row: (-task.sizes[row], task.clients[row]))
        task = zeroed(task.of(order), self._sums, method.sums, server)
        everyone = task.clients == tuple(range(len(self.clients)))
        at = put(torch.tensor(task.clients), server.device)
        memory = {name: rows if everyone else rows.index_select(0, at) for name, rows in state.memory.items()}
        start = method.start(server, memory, task) if method.start else server
        pull = method.pull(start, memory, task) if method.pull else None
        losses = self.train(task, start, pull, method)
        moved = None if start is server or not probes else self.weights[: len(order)] - start
        difference = self.weights[: len(order)].sub_(server)
        # What a client alone has of the memory: rows, which are views.
        alone = [{name: rows[row] for name, rows in memory.items()} for row in range(len(order))]
        for row, (client, own) in enumerate(zip(task.clients, alone, strict=True)):
            for probe in probes:
                probe.before(client, (difference if moved is None else moved)[row], own.get(method.memory))

        messages: Messages = method.message(difference, memory, task, task.compressor)
        for row, (client, own) in enumerate(zip(task.clients, alone, strict=True)):
            message = messages.row(row)
            for probe in probes:
                probe.after(client, message.without_zeros(), own.get(method.memory))
            method.receive(total, message, own, task.of([row]))
        if not everyone:
            for name, rows in state.memory.items():
                rows.index_copy_(0, at, memory[name])
        return Result(Update(len(order), total, sums=task.sums), losses.mean(), messages.bits)

    def train(self, task: Task, start: Tensor, pull: Pull | None, method: Method) -> Tensor:
        """Train the clients of the task, longest first, from `start`; returns their mean batch losses.

        Leaves w_k in the rows of `weights`, in that order.
        """
        count = len(task.clients)
        weights, velocity = self.weights[:count], self.velocity[:count]
        weights.copy_(start)
        velocity.zero_()
        torch.manual_seed(task.seeds[0])
        self.network.model.train()
        restart = task.fidelity == "authors" and method.restarts_momentum
        local = LocalStep(weights, velocity, task.learning_rate, task.momentum, pull, restart)
        draws = _Draws(task, start.device)
        losses = start.new_zeros(count)
        of_each = task.steps
        epoch = of_each[0] // task.local_epochs
        for step in range(min(of_each[0], task.most_steps or of_each[0])):
            active = sum(steps > step for steps in of_each)
            local.decay(step, active)
            spans = draws.spans(step, active)
            for _, run in itertools.groupby(range(active), key=lambda row: spans[row][1] - spans[row][0]):
                rows = list(run)
                batch = self._batch([task.clients[row] for row in rows], [spans[row] for row in rows],
                                    [draws.orders[row] for row in rows])  # fmt: skip
                shared = start if step == 0 and start.dim() == 1 else None
                losses[rows[0] : rows[-1] + 1] += self._gradients(rows[0], rows[-1] + 1, batch, shared)
            local.descend(step, active)
            if task.watch and (step + 1) % epoch == 0 and not bool(losses.isfinite().all()):
                break
        each = torch.tensor([float(steps) for steps in of_each], dtype=losses.dtype)
        return losses / put(each, start.device)

    def _gradients(self, first: int, last: int, batch: Pair, shared: Tensor | None) -> Tensor:
        """Add the gradients of these rows to their velocity; returns their losses.

        shared: the weights that all rows have, if they are the same, which is on the first step of a round: then one
        forward pass of all their samples serves.
        """
        leaves = self._stacked(first, last)
        if shared is None:
            found = vmap(self._loss_of, randomness="different")(leaves, *batch)
            found.sum().backward()
            return found.detach()
        views = self.layout.views(shared)
        per_client = vmap(grad_and_value(self._loss_of), in_dims=(None, 0, 0), randomness="different")
        gradients: dict[str, Tensor]
        losses: Tensor
        gradients, losses = per_client(views, *batch)
        for name, leaf in leaves.items():
            leaf.grad.copy_(gradients.pop(name))  # type: ignore[union-attr]
        return losses

    def _loss_of(self, parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.network.loss(functional_call(self.network.model, parameters, (inputs,)), targets)
        return loss

    def _stacked(self, first: int, last: int) -> dict[str, Tensor]:
        """Rows of the weights as leaves by name, (rows, *shape), whose gradients accumulate in the velocity."""
        if (first, last) not in self._leaves:
            leaves = {}
            for name, shape, part in zip(self.layout.names, self.layout.shapes, self.layout.slices(), strict=True):
                leaf = self.weights[first:last, part].view(-1, *shape).requires_grad_()
                leaf.grad = self.velocity[first:last, part].view(-1, *shape)
                leaves[name] = leaf
            self._leaves[first, last] = leaves
        return self._leaves[first, last]

    def _batch(self, ids: list[int], spans: list[tuple[int, int]], orders: list[Tensor | None]) -> Pair:
        """Inputs and targets, (clients, samples, ...): a view if the clients are neighbours in a block."""
        (size, row), (start, stop) = self._place[ids[0]], spans[0]
        neighbours = [self._place[client] for client in ids] == [(size, row + n) for n in range(len(ids))]
        if orders[0] is None and neighbours:
            inputs, targets = (tensor[row : row + len(ids), start:stop] for tensor in self._blocks[size])
            return inputs, targets
        pairs = []
        for client, (begin, end), order in zip(ids, spans, orders, strict=True):
            at = slice(begin, end) if order is None else order[begin:end]
            pairs.append([tensor[at] for tensor in self.clients[client]])
        inputs, targets = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
        return inputs, targets


class _Draws:
    """Which samples each client of a task sees in each step, in the order that training it alone would draw."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.orders: list[Tensor | None] = [None] * len(task.clients)
        self._device = device
        self._sizes = task.sizes
        # Of one epoch; there may be very many.
        self._batches = [
            [(at, min(at + task.batch_size, size)) for at in range(0, size, task.batch_size)] for size in task.sizes
        ]
        self._generators = [torch.Generator().manual_seed(seed) for seed in task.seeds] if task.shuffle else []

    def spans(self, step: int, active: int) -> list[tuple[int, int]]:
        """First and last sample of the batch of each active client; draws a new order if an epoch of it begins."""
        for row in range(active) if self._generators else ():
            if step % len(self._batches[row]) == 0:
                drawn = torch.randperm(self._sizes[row], generator=self._generators[row])
                self.orders[row] = put(drawn, self._device)
        return [own[step % len(own)] for own in self._batches[:active]]
