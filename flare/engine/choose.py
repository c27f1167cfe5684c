"""Which engine a run gets: all clients together if memory and the model allow it and it is asked for."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import nn

from flare.engine.base import Engine
from flare.engine.network import Network
from flare.engine.one_at_a_time import OneAtATime
from flare.engine.plan import Plan
from flare.engine.state import RunState
from flare.engine.together import Together


def choose(network: Network, plan: Plan, state: RunState, together: bool) -> Engine:
    """`Together` if that is asked for and a first round of two steps works, else `OneAtATime`, with a warning.

    Leaves the clients' memory at 0.
    """
    if not together:
        return OneAtATime(network)
    if any(isinstance(module, nn.RNNBase) for module in network.model.modules()):
        why = "a recurrent layer cannot be stacked"
    else:
        try:
            return _tried(network, plan, state)
        except RuntimeError as error:  # so is running out of memory
            why = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        _clean(network, state)
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    warnings.warn(f"clients are trained one at a time, not together: {why}", stacklevel=4)
    return OneAtATime(network)


def _tried(network: Network, plan: Plan, state: RunState) -> Together:
    engine = Together(network, plan.most)
    task = dataclasses.replace(plan.task(0, range(plan.most)), seeds=(0,) * plan.most, local_epochs=2, most_steps=2)
    broadcast = {name: state.server_memory[name] for name in plan.method.broadcast}
    result = engine.round(dataclasses.replace(task, broadcast=broadcast), state, plan.method, ())
    if result.update.total is not None:
        float(result.update.total.sum())  # waits for the device, so that what fails there fails here
    network.clients = engine.clients
    _clean(network, state)
    return engine


def _clean(network: Network, state: RunState) -> None:
    """Undo what the trial left in vectors that start at 0."""
    for vector in (*state.memory.values(), *state.server_memory.values()):
        vector.zero_()
    network.velocity.zero_()
