"""Ours: `flare.simulate` as a run calls it, held after every round until the next one is asked for.

ours.py WORKLOAD METHOD KEEP; without arguments nothing is done, which shows what importing costs.
"""

from __future__ import annotations

import queue
import sys
import threading

import torch
from measure import serve
from workloads import LEARNING_RATE, MOMENTUM, Workload

import flare
from flare.train import keep_freed_memory

asked, done = queue.Queue(), queue.Queue()


def held(state: dict[str, object]) -> None:
    """Say that the round is complete and wait for the next to be asked for."""
    done.put(state["completed"])
    asked.get()


def run(name: str, method: str, keep: str) -> None:
    """More rounds than anybody asks for; only the first is evaluated, on ten images."""
    workload = Workload.of(name)
    clients = workload.data()
    asked.get()
    rounds = 10_000
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
        momentum=MOMENTUM,
        participants=[workload.ids(round_) for round_ in range(rounds)],
        evaluate_every=rounds,
        on_state=held,
    )


def round_() -> None:
    """Let one round go."""
    asked.put(None)
    done.get()


torch.set_num_threads(1)
keep_freed_memory()
if len(sys.argv) == 1:
    serve(lambda: None)
else:
    threading.Thread(target=run, args=sys.argv[1:], daemon=True).start()
    serve(round_)
