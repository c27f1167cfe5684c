"""(d) The paper's fully connected network at full width: a round of each method against what it must cost.

`python benchmarks/paper_fc.py`. 36 million weights, 10 clients, one step on 600 images each, keep 1e-5. The floors: the
multiplications of training at the rate of a large matrix product here, and the bytes that the passes over all weights
move at the rate of a copy. Bars: flare at most 1.20 times fedavg; peak memory at most (clients + 4) times the model,
data and activations apart. Apart from: what the same round with layers of width 8 takes, which has the same data and
libraries, and the activations, counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from engine import floor, ours
from measure import ROOT, race, report, rows, spread, words

WEIGHTS, FIRST, CLIENTS, IMAGES = 36_356_525, 784 * 4069, 10, 600
# Forward, gradient of the weights, and of the inputs of all layers but the first; multiplications and additions.
OPERATIONS = CLIENTS * IMAGES * 2 * (3 * WEIGHTS - FIRST)
# Vectors as long as the model that a client's round reads or writes, at the least that the algorithm allows:
# copy w 2, gradient into the velocity 4, step 3, difference 3, sum 3; error feedback: u 3, selection 1, memory 2, and
# no dense sum; FLARE's pull: percentile 1, sign 5. FedAvg's and Top-K's velocity starts at 0: 1.
# Activations at once: the outputs of three layers, kept for the way back, and gradients of two of them.
ACTIVATIONS = 4 * 5 * IMAGES * 4069
PASSES = {"fedavg": 16, "topk": 19, "flare": 25}


def rate(work: Callable[[], object], amount: float) -> float:
    """`amount` over the least of seven CPU times of `work`."""
    times = []
    for _ in range(8):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return amount / min(times[1:])


def rates() -> tuple[float, float]:
    """Operations a second of a large matrix product, and bytes a second, read and written, of a large copy."""
    a, b = torch.randn(IMAGES, 4069), torch.randn(4069, 4069)
    x = torch.randn(WEIGHTS)
    y = torch.empty_like(x)
    return rate(lambda: a @ b, 2 * IMAGES * 4069**2), rate(lambda: y.copy_(x), 8 * WEIGHTS)


def main() -> None:
    """Race, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks" / "paper_fc.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    multiply, copy = rates()
    contenders = [floor("fc-4069-10"), *(ours("fc-4069-10", method, "1e-5") for method in PASSES)]
    narrow = ours("fc-8-10", "flare", "1e-5")
    race([narrow], 1)
    race(contenders, chosen.rounds)
    cpu = {contender.name: contender.cpu for contender in contenders}
    cells, data = [], rows(contenders, "floor")
    for row in data:
        name = row["name"]
        arithmetic = OPERATIONS / multiply
        passes = PASSES.get(name, PASSES["fedavg"])
        moved = 4 * WEIGHTS * passes * CLIENTS
        models = ((row["peak_mb"] - narrow.peak_mb) * 2**20 - ACTIVATIONS) / (4 * WEIGHTS)
        ratio = spread([mine / dense for mine, dense in zip(cpu[name], cpu["fedavg"], strict=True)])
        row |= {"bytes": moved, "arithmetic_s": arithmetic, "memory_s": moved / copy, "models": models, "x": ratio}
        verdict, kept = "", f"{models:.1f}"
        if name == "flare":
            verdict = f"1.20 {'met' if ratio['median'] <= 1.2 else 'MISSED'}"
            kept += f" of {CLIENTS + 4}: {'met' if models <= CLIENTS + 4 else 'MISSED'}"
        cells.append(
            [
                name,
                words(row["cpu_s"]),
                words(ratio),
                verdict,
                f"{arithmetic:.1f} + {moved / copy:.1f}",
                f"{moved / 1e9:.0f}",
                kept,
            ]
        )
    heads = [
        "contender",
        "CPU s a round",
        "x fedavg",
        "bar",
        "floors: arithmetic + memory, s",
        "GB moved",
        "models in memory",
    ]
    print(
        f"matrix product {multiply / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s; apart from the models"
        f" {narrow.peak_mb:.0f} MB and {ACTIVATIONS / 2**20:.0f} MB of activations"
    )
    report("The paper's FC, one round", heads, cells, data, chosen.output)


if __name__ == "__main__":
    main()
