"""Ours: `flare.simulate` as a plain script calls it, held after every round until the next one is asked for.

ours.py WORKLOAD METHOD KEEP [copies]; `copies` keeps the server's weights of every round, to compare them, which costs
a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import serve_loop
from workloads import LEARNING_RATE, MOMENTUM, Workload

import flare


def run(pause: Callable[..., None], name: str, method: str, keep: str, copies: str = "") -> None:
    """More rounds than anybody asks for; only the first is evaluated, on ten images."""
    workload = Workload.of(name)
    clients = workload.data()
    rounds = 10_000
    latest: dict[str, torch.Tensor] = {}
    flare.simulate(
        workload.network(),
        clients,
        test=(clients[0][0][:10], clients[0][1][:10]),
        method=method,
        settings={"tau": 0.05} if method == "flare" else {},
        keep=keep,
        rounds=rounds,
        local_epochs=1,
        batch_size=workload.batch,
        learning_rate=LEARNING_RATE,
        momentum=0 if method in ("dgc", "scafcom") else MOMENTUM,  # which take no other
        participants=[workload.ids(round_) for round_ in range(rounds)],
        evaluate_every=rounds,
        on_round=(lambda _, weights: latest.update(weights)) if copies else None,
        on_state=lambda _: pause(lambda: list(latest.values())),
    )


def told(pause: Callable[..., None]) -> Any:
    """`run` with the arguments of the command line."""
    return run(pause, *sys.argv[1:])


torch.set_num_threads(1)
serve_loop(told)
