"""The round loop, the only one.

One round is that of federated averaging (McMahan et al., arXiv 1602.05629, algorithm 1): the server sends w to the
clients that answer, each trains from w with a fresh heavy-ball SGD, the method turns its difference d_k = w_k - w into
a message, and the server adds the unweighted mean of the messages. Everything a method changes in that is in
`flare.algorithms`; who trains the clients, and how, is the engine's business.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flare.columns import HISTORY
from flare.engine import wire
from flare.engine.base import Engine, Probe
from flare.engine.plan import Plan
from flare.engine.state import RunState
from flare.engine.task import Task


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to be told: each row of the history, and each completed round."""

    evaluated: Callable[[dict[str, Any]], None]
    completed: Callable[[Task, RunState], None]


def run_rounds(engine: Engine, plan: Plan, state: RunState, probes: Sequence[Probe], hooks: Hooks) -> None:
    """Carry out the rounds that `state` has not completed. A run that is no longer finite has diverged and ends."""
    method = plan.method
    for task in plan.tasks(state.completed):
        task = _begun(task, engine, plan, state)
        for probe in probes:
            probe.begin(task)
        result = engine.round(task, state, method, probes)
        for probe in probes:
            probe.aggregated(state.server, result.update)
        sent = wire.downlink_bits(task, result.update)
        if method.remember:
            method.remember(result.update, state.server_memory, task)
        own = method.apply(state.server, result.update, state.server_memory, task)
        loss, total, uplink, downlink = engine.fetch(
            result.loss, state.server.sum(), result.uplink, sent if own is None else own
        )
        state.uplink += int(uplink)
        state.downlink += int(downlink)
        state.dense += wire.dense_bits(task)
        if not math.isfinite(loss) or not math.isfinite(total):
            state.diverged = task.number
            return
        if plan.evaluates(task):
            test_loss, accuracy = engine.evaluate(state.server, engine.network.test)
            if not math.isfinite(test_loss):
                state.diverged = task.number
                return
            measured = (task.number, state.uplink, state.downlink, loss, test_loss, accuracy)
            row: dict[str, Any] = dict(zip(HISTORY, measured, strict=True))
            for probe in probes:
                row |= probe.measure(task)
            state.history.append(row)
            hooks.evaluated(row)
        state.completed += 1
        hooks.completed(task, state)


def _begun(task: Task, engine: Engine, plan: Plan, state: RunState) -> Task:
    """The task with what the server sends beside w, and with the method's own budget."""
    method = plan.method

    def training_loss() -> tuple[float, float]:
        now, _ = engine.evaluate(state.server, engine.network.training_data)
        state.first_loss = now if state.first_loss is None else state.first_loss
        return now, state.first_loss

    if method.broadcast:
        task = dataclasses.replace(task, broadcast={name: state.server_memory[name] for name in method.broadcast})
    return method.budget(task, training_loss) if method.budget else task
