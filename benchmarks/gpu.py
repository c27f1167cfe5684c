"""Rounds and selections on a GPU: all clients together against one at a time. `python benchmarks/gpu.py [--full]`

(a) A round of fedavg, topk and flare for W1, W2 and the paper's FC, against the card's own peaks, measured here: matrix
products in FP32 and TF32, and a copy. (b) The selection of all clients at once against torch's and a copy. (c) With
`--full`, the paper's FC end to end: 10 clients, 1001 rounds of flare at keep 1e-5, on Fashion-MNIST. The others train
on noise, which takes as long. Seconds are of the wall clock, the device waited for. `--device cpu --width 8` tries the
program itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "workers"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from measure import ROOT, report, spread, words
from torch.utils.flop_counter import FlopCounterMode
from workloads import IMAGES, LEARNING_RATE, MOMENTUM, Workload

import flare
from flare.engine.select import percentile_of_rows, select_of_rows

METHODS = ("fedavg", "topk", "flare")
# Name of the engine, together, tf32.
ENGINES = (("one at a time", False, False), ("together", True, False), ("together, TF32", True, True))
SETTINGS = {"fedavg": {}, "topk": {}, "flare": {"tau": 0.05}}


def wait(device: torch.device) -> None:
    """Until the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, times: int) -> list[float]:
    """Of `times` calls, after two that are not counted."""
    out = []
    for _ in range(times + 2):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        out.append(time.perf_counter() - began)
    return out[2:]


def peaks(device: torch.device, size: int) -> dict[str, float]:
    """Operations a second of a product of two matrices (size, size), and bytes a second of a copy, both ways."""
    a = torch.randn(size, size, device=device)
    out = {}
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, tf32 in (("fp32", False), ("tf32", True)):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            out[name] = 2 * size**3 / min(seconds(lambda: a @ a, device, 10))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    b = torch.empty_like(a)
    return out | {"copy": 2 * a.numel() * a.element_size() / min(seconds(lambda: b.copy_(a), device, 10))}


def operations(workload: Workload) -> int:
    """Multiplications and additions of the products and convolutions of a round: forward and backward of all images."""
    network = workload.network()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 28, 28)).sum().backward()
    return counter.get_total_flops() * workload.answering * IMAGES


def simulate(
    workload: Workload,
    clients: Sequence[tuple[torch.Tensor, torch.Tensor]],
    method: str,
    keep: str,
    rounds: int,
    device: torch.device,
    *,
    together: bool = True,
    tf32: bool = False,
    evaluate_every: int | None = None,
) -> tuple[list[float], str, float]:
    """Seconds of each round but the first and the last; the engine that did them; peak of the device's memory in GB.

    The first and the last are also evaluated, on ten images.
    """
    stamps: list[float] = []

    def stamp(_: object) -> None:
        wait(device)
        stamps.append(time.perf_counter())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    history, _ = flare.simulate(
        workload.network(),
        clients,
        test=(clients[0][0][:10], clients[0][1][:10]),
        method=method,
        settings=SETTINGS[method],
        keep=keep,
        rounds=rounds,
        local_epochs=1,
        batch_size=workload.batch,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        participants=[workload.ids(round_) for round_ in range(rounds)],
        evaluate_every=evaluate_every or rounds,
        device=device,
        on_state=stamp,
        together=together,
        tf32=tf32,
    )
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    took = [after - before for before, after in itertools.pairwise(stamps)]
    return took[:-1], history.attrs["engine"], memory


def noise(workload: Workload) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Clients' data of the workload's shapes."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.rand(IMAGES, 1, 28, 28, generator=generator),
            torch.randint(10, (IMAGES,), generator=generator),
        )
        for _ in range(workload.clients)
    ]


def main() -> int:
    """Measure, print, write; 2 where there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=4069, help="of the fully connected network's layers")
    parser.add_argument("--workloads", nargs="+", choices=("W1", "W2", "FC"), default=["W1", "W2", "FC"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=8192, help="of the matrices that tell the peaks")
    parser.add_argument("--full", action="store_true", help="also the paper's FC end to end")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks" / "gpu.json")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu.py: torch sees no GPU here; --device cpu --width 8 tries the program", file=sys.stderr)
        return 2
    peak = peaks(device, chosen.size)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: these figures say nothing"
    print(
        f"{name}: products {peak['fp32'] / 1e12:.3g} TFLOP/s in FP32, {peak['tf32'] / 1e12:.3g} in TF32,"
        f" copy {peak['copy'] / 1e9:.4g} GB/s"
    )
    figures: dict[str, object] = {"device": name, "peaks": peak}
    cells, rounds = [], []
    for title in chosen.workloads:
        fc = title == "FC"
        workload = Workload.of(f"fc-{chosen.width}-10" if fc else title)
        clients, work = noise(workload), operations(workload)
        for method in METHODS:
            alone = 0.0
            for engine, together, tf32 in ENGINES:
                if tf32 and device.type != "cuda":
                    continue
                keep = "1e-5" if fc else "1e-3"
                took, ran, memory = simulate(
                    workload, clients, method, keep, chosen.rounds + 2, device, together=together, tf32=tf32
                )
                cost = spread(took)
                alone = alone or cost["median"]
                fraction = work / cost["median"] / peak["tf32" if tf32 else "fp32"]
                rounds.append(
                    {"workload": title, "method": method, "asked": engine, "engine": ran, "seconds": cost}
                    | {"operations": work, "fraction_of_peak": fraction, "memory_gb": memory}
                )
                cells.append(
                    [
                        title,
                        method,
                        engine
                        if ran.startswith(engine.partition(",")[0].replace(" ", "-"))
                        else f"{engine}: fell back",
                        words({key: 1000 * value for key, value in cost.items()}),
                        f"{alone / cost['median']:.2f}",
                        f"{100 * fraction:.1f} %",
                        f"{memory:.2f}",
                    ]
                )
    figures["rounds"] = rounds
    figures["selection"] = selection(device, chosen.width, max(3, chosen.rounds // 2))
    if chosen.full:
        figures["full"] = full(device, chosen.width)
    heads = ["workload", "method", "clients", "ms a round", "times as fast", "of the peak", "GB at most"]
    report(f"Rounds on {name}", heads, cells, figures, chosen.output)
    return 0


def selection(device: torch.device, width: int, times: int) -> list[dict[str, object]]:
    """(b) Of 10 clients' layers (width, width) at once; prints its own table."""
    rows = torch.randn(10, width**2, generator=torch.Generator().manual_seed(0)).pow_(3).to(device)
    target = torch.empty_like(rows)
    tasks: list[tuple[str, str, Callable[[], object]]] = [("copy", "copy", lambda: target.copy_(rows))]
    for keep in ("1e-5", "1e-3", "1e-2"):
        count = max(1, round(float(keep) * width**2))
        tasks.append((f"top {keep}", "ours", lambda count=count: select_of_rows(rows, count)))
        tasks.append((f"top {keep}", "torch.topk", lambda count=count: rows.abs().topk(count, 1)))
    rank = round((width**2 - 1) / 2) + 1
    tasks.append(("percentile 50", "ours", lambda: percentile_of_rows(rows, 50)))
    tasks.append(("percentile 50", "torch.kthvalue", lambda: rows.abs().kthvalue(rank, 1)))
    out: list[dict[str, object]] = []
    print("\n| task | by | ms | x copy |\n| --- | --- | --- | --- |")
    copy = 0.0
    for task, by, work in tasks:
        cost = spread([1000 * taken for taken in seconds(work, device, times)])
        copy = copy or cost["median"]
        out.append({"task": task, "by": by, "ms": cost, "ratio": cost["median"] / copy})
        print(f"| {task} | {by} | {words(cost)} | {cost['median'] / copy:.1f} |")
    return out


def full(device: torch.device, width: int) -> dict[str, object]:
    """(c) The paper's FC, 1001 rounds; prints one line."""
    workload = Workload.of(f"fc-{width}-10")
    clients = workload.data()
    began = time.perf_counter()
    took, engine, memory = simulate(workload, clients, "flare", "1e-5", 1001, device, evaluate_every=10)
    total = time.perf_counter() - began
    print(
        f"\nThe paper's FC, 1001 rounds, {engine}: {total:.0f} s, {words(spread(took), 4)} s a round, {memory:.1f} GB"
    )
    return {"seconds": total, "round": spread(took), "engine": engine, "memory_gb": memory}


if __name__ == "__main__":
    warnings.simplefilter("default")
    sys.exit(main())
