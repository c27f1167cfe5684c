"""How often `python -m flare judge` is right: simulated sweeps whose truth is known.

`python benchmarks/verdicts.py`. Each is a runs.csv of 400 experiments, in which flare and topk at one keep differ by 0,
by half the margin, by the margin of 1 point, or by 4, over 3 to 20 seeds. A seed moves both methods alike, by a normal
of 3 points; what a method adds of its own makes differences of standard deviation 1.41: normal; skewed (a Gamma of
shape 4, turned downwards, flare's standard deviation twice topk's, so that their difference is skewed, too); or
heavy-tailed (Student's t of 3 degrees of freedom).

coverage: of the intervals that hold the true difference. supported, refuted, equal: of the verdicts, all experiments in
one table, so after Holm's correction over 400; "alone": each experiment judged in a table of its own.

The bars, from six seeds on: the intervals, over all differences, as they only shift them, hold the truth in 94 %
(normal) and 90 % (others); "supported" where flare is no better, or "refuted" where it is no worse, in 2.5 %; "equal"
where the difference is the margin or more in 5 %.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measure import ROOT, report

EXPERIMENTS = 400
SEEDS = (3, 5, 6, 10, 20)
DIFFERENCES = (0.0, 0.5, 1.0, 4.0)
SHAPES = ("normal", "skewed", "heavy-tailed")


def noise(shape: str, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What the two methods add to an accuracy, in points, of mean 0; the difference's standard deviation is sqrt 2."""
    if shape == "normal":
        return rng.normal(size=size), rng.normal(size=size)
    if shape == "heavy-tailed":
        return rng.standard_t(3, size) / 3**0.5, rng.standard_t(3, size) / 3**0.5
    own, other = (-(rng.gamma(4, size=size) - 4) / 2 for _ in range(2))
    return own * (8 / 5) ** 0.5, other * (2 / 5) ** 0.5


def sweep(shape: str, difference: float, seeds: int, experiments: int = EXPERIMENTS) -> pd.DataFrame:
    """A table with the columns of runs.csv."""
    from flare.columns import RUNS

    rng = np.random.default_rng([SHAPES.index(shape), round(10 * difference), seeds])
    size = (experiments, seeds)
    shared = 80 + rng.normal(0, 3, size)
    own, other = noise(shape, size, rng)
    number, seed = (axis.ravel() for axis in np.indices(size))
    frames = []
    for method, accuracy in (("flare", shared + difference + own), ("topk", shared + other)):
        found = accuracy.ravel() / 100
        columns = {
            **{"experiment": [f"e{i}" for i in number], "dataset": "digits", "model": "fc", "method": method},
            **{"keep": "1e-2", "local_epochs": 1, "seed": seed, "status": "finished", "diverged_round": ""},
            **{"rounds": 100, "final_accuracy": found, "best_accuracy": found, "final_loss": 1.0, "uplink_bits": 1000},
            **{"downlink_bits": 1000, "compression": 100.0, "parameters": 1000, "result_hash": "0", "available": 10},
            **{"family": [f"e{i}" for i in number], "tuned": False, "late_accuracy": found, "effective_keep": 0.01},
        }
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True)
    return table.assign(**{name: np.nan for name in RUNS if name not in table})[list(RUNS)]


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """claims.csv of the table, by the command."""
    from flare import cli

    with tempfile.TemporaryDirectory() as folder:
        table.to_csv(Path(folder) / "runs.csv", index=False)
        if cli.main(["judge", "--tables", folder]):
            raise SystemExit("the tables were not judged")
        return pd.read_csv(Path(folder) / "claims.csv")


def rates(found: pd.DataFrame, difference: float) -> dict[str, float]:
    """Of the rows: how many intervals hold the truth, and the shares of the verdicts, in one table and alone."""
    from flare.analysis.level import LEVEL

    held = (found["low"] <= difference) & (difference <= found["high"])
    decidable = found["p_holm"].notna()
    alone = decidable & (found["p"] < 1 - LEVEL)
    out = {"coverage": float(held.mean())}
    out |= {name: float((found["verdict"] == name).mean()) for name in ("supported", "refuted", "equal")}
    out["supported alone"] = float((alone & (found["low"] > 0)).mean())
    out["refuted alone"] = float((alone & (found["high"] < 0)).mean())
    return out


def bars(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Per shape and number of seeds from six on, of rows as `main` makes them: percents, and whether the bars hold."""
    out = []
    decided = [row for row in rows if row["seeds"] >= 6]
    for shape, seeds in dict.fromkeys((row["shape"], row["seeds"]) for row in decided):
        own = {row["difference"]: row for row in decided if (row["shape"], row["seeds"]) == (shape, seeds)}
        coverage = sum(row["coverage"] for row in own.values()) / len(own)
        false = [row["refuted"] for row in own.values()] + [row["supported"] for d, row in own.items() if d <= 0]
        alone = [row["refuted alone"] for row in own.values()]
        alone += [row["supported alone"] for d, row in own.items() if d <= 0]
        equal = max((row["equal"] for d, row in own.items() if d >= 1), default=0.0)
        held = coverage >= (0.94 if shape == "normal" else 0.9) and max(false) <= 0.025 and equal <= 0.05
        # How often a difference that there is, or that there is none, is found.
        found = [
            own[d][name] if d in own else 0.0 for d, name in ((4, "supported"), (1, "supported alone"), (0, "equal"))
        ]
        shares = [coverage, max(false), max(alone), equal, *found]
        out.append([shape, str(seeds), *(f"{100 * share:.1f}" for share in shares), "yes" if held else "no"])
    return out


def main() -> None:
    """Simulate, judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks" / "verdicts.json")
    chosen = parser.parse_args()
    found = []
    for shape, difference, seeds in itertools.product(SHAPES, DIFFERENCES, SEEDS):
        row = rates(judged(sweep(shape, difference, seeds, chosen.experiments)), difference)
        found.append({"shape": shape, "difference": difference, "seeds": seeds} | row)
        print(found[-1], file=sys.stderr, flush=True)
    heads = list(found[0])[3:]
    cells = [
        [row["shape"], f"{row['difference']:g}", str(row["seeds"]), *(f"{100 * row[head]:.1f}" for head in heads)]
        for row in found
    ]
    heads_of_bars = [
        "coverage",
        "false",
        "false alone",
        "equal, wrong",
        "4 points found",
        "1 point found alone",
        "0 equal",
    ]
    title = "Bars, percent; coverage of all differences together"
    report(title, ["noise", "seeds", *heads_of_bars, "held"], bars(found), found, chosen.output)
    title = f"{chosen.experiments} experiments each, percent"
    report(title, ["noise", "difference", "seeds", *heads], cells, found, chosen.output)


if __name__ == "__main__":
    main()
