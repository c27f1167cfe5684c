"""Ours: `flare.simulate` as a run calls it, held after every round until the next one is asked for."""

from __future__ import annotations

import queue
import sys
import threading

import torch
from measure import serve
from workloads import BATCH, LEARNING_RATE, MOMENTUM, answering, arrays, network

import flare
from flare.train import keep_freed_memory

workload, method, keep = sys.argv[1:4]
torch.set_num_threads(1)
keep_freed_memory()
clients = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in arrays(workload)] if workload != "none" else []
asked, done = queue.Queue(), queue.Queue()


def held(state: dict[str, object]) -> None:
    """Say that the round is complete and wait for the next to be asked for."""
    done.put(state["completed"])
    asked.get()


def run() -> None:
    """More rounds than anybody asks for; only the first is evaluated, on ten images."""
    asked.get()
    rounds = 10_000
    flare.simulate(
        network(workload),
        clients,
        test=(clients[0][0][:10], clients[0][1][:10]),
        method=method,
        settings={"tau": 0.05} if method == "flare" else {},
        keep=keep,
        rounds=rounds,
        local_epochs=1,
        batch_size=BATCH[workload],
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        participants=[answering(workload, round_) for round_ in range(rounds)],
        evaluate_every=rounds,
        on_state=held,
    )


def round_() -> None:
    """Let one round go."""
    asked.put(None)
    done.get()


if workload == "none":  # what importing alone costs
    serve(lambda: None)
else:
    threading.Thread(target=run, daemon=True).start()
    serve(round_)
