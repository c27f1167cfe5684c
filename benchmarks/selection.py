"""(b) The selection kernels against torch and against a copy, in turn, on one 4069 x 4069 layer: 16.5 million entries.

`python benchmarks/selection.py [--device cuda]`. Bars on a CPU: top-k at most 1.5 times a copy at keep 1e-5 and 4 times
at 1e-3 and 1e-2; percentile 50 at most 4 times a copy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from measure import ROOT, report, spread, words

from flare.engine import memory
from flare.engine.select import percentile, select

SIZE = 4069 * 4069
BARS = {"top 1e-5": 1.5, "top 1e-3": 4.0, "top 1e-2": 4.0, "percentile 50": 4.0}


def contenders(x: torch.Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """Per task, ours and torch's way of it."""
    out: dict[str, dict[str, Callable[[], object]]] = {}
    for keep in ("1e-5", "1e-3", "1e-2"):
        count = round(float(keep) * SIZE)
        out[f"top {keep}"] = {
            "ours": lambda count=count: select(x, count),
            "torch.topk": lambda count=count: x.abs().topk(count).indices.sort(),
        }
    rank = round((SIZE - 1) / 2) + 1
    out["percentile 50"] = {
        "ours": lambda: percentile(x, 50),
        "torch.kthvalue": lambda: float(x.abs().kthvalue(rank).values),
    }
    return out


def main() -> None:
    """Measure in turn, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks" / "selection.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with memory.kept():
        _measure(chosen)


def _measure(chosen: argparse.Namespace) -> None:
    # What a memory looks like after some rounds: many small entries, a few large ones.
    x = torch.randn(SIZE, generator=torch.Generator().manual_seed(0)).pow_(3).to(chosen.device)
    target = torch.empty_like(x)

    def milliseconds(work: Callable[[], object]) -> float:
        clock = time.perf_counter if x.is_cuda else time.process_time
        if x.is_cuda:
            torch.cuda.synchronize()
        began = clock()
        work()
        if x.is_cuda:
            torch.cuda.synchronize()
        return (clock() - began) * 1000

    tasks = {"copy": {"copy": lambda: target.copy_(x)}} | contenders(x)
    times: dict[tuple[str, str], list[float]] = {(task, who): [] for task, whos in tasks.items() for who in whos}
    for number in range(chosen.rounds + 2):
        for task, who in times:
            cost = milliseconds(tasks[task][who])
            if number >= 2:
                times[task, who].append(cost)
    copies = times["copy", "copy"]
    cells, data = [], []
    for (task, who), costs in times.items():
        ratio = spread([cost / copy for cost, copy in zip(costs, copies, strict=True)])
        bar = BARS.get(task) if who == "ours" and not x.is_cuda else None
        verdict = f"{bar} {'met' if ratio['median'] <= bar else 'MISSED'}" if bar else ""
        cells.append([task, who, words(spread(costs), 1), words(ratio, 1), verdict])
        data.append({"task": task, "who": who, "ms": spread(costs), "ratio": ratio, "bar": bar})
    kind = "wall" if x.is_cuda else "CPU"
    report(
        "Selection of 16.5 million entries", ["task", "by", f"{kind} ms", "x copy", "bar"], cells, data, chosen.output
    )


if __name__ == "__main__":
    main()
