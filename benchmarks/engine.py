"""(a) Our engine against the floor, interleaved: CPU seconds a round, one thread. `python benchmarks/engine.py`

Bars: fedavg at most 1.05 times the floor in W1 and W2; topk and flare at keep 1e-3 at most 1.10 times fedavg in W1 and
1.25 times in W2. Others, named by `--methods`: at most 1.10 times topk, stc and scafcom 1.25 times. An idle machine is
needed for figures worth quoting.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from measure import ROOT, Contender, race, report, rows, spread, words

WORKERS = Path(__file__).parent / "workers"
# What glibc needs so as not to return activations to the kernel at every step: the floor has it too.
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}
PATHS = {"PYTHONPATH": f"{ROOT}:{WORKERS}:{WORKERS.parent}"}
BARS = {"W1": {"fedavg": 1.05, "topk": 1.10, "flare": 1.10}, "W2": {"fedavg": 1.05, "topk": 1.25, "flare": 1.25}}


def floor(workload: str) -> Contender:
    """The bare loop."""
    return Contender("floor", [sys.executable, str(WORKERS / "floor.py"), workload], PATHS | KEPT)


def ours(workload: str, method: str, keep: str) -> Contender:
    """`flare.simulate`."""
    return Contender(method, [sys.executable, str(WORKERS / "ours.py"), workload, method, keep], PATHS)


def main() -> None:
    """Race, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--methods", nargs="*", default=[], help="others to race, against topk: sapef dgc stc ...")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks" / "engine.json")
    chosen = parser.parse_args()
    cells, data = [], {}
    for workload, own_bars in BARS.items():
        bars = own_bars | {method: 1.25 if method in ("stc", "scafcom") else 1.10 for method in chosen.methods}
        contenders = [floor(workload), *(ours(workload, method, "1e-3") for method in bars)]
        race(contenders, chosen.rounds)
        data[workload] = table = rows(contenders, "floor")
        cpu = {contender.name: contender.cpu for contender in contenders}
        for row in table:
            name = row["name"]
            base = "topk" if name in chosen.methods else "floor" if name == "fedavg" else "fedavg"
            bar, against = "", ""
            if name in bars:
                ratio = spread([a / b for a, b in zip(cpu[name], cpu[base], strict=True)])
                row["to"], row["bar_ratio"] = base, ratio
                against = f"{words(ratio)} x {base}"
                bar = f"{bars[name]:.2f} {'met' if ratio['median'] <= bars[name] else 'MISSED'}"
            cells.append([workload, name, words(row["cpu_s"]), words(row["ratio"]), against, bar, str(row["peak_mb"])])
    heads = ["workload", "contender", "CPU s a round", "x floor", "compared", "bar", "peak MB"]
    report("Engine against the bare loop", heads, cells, data, chosen.output)


if __name__ == "__main__":
    main()
