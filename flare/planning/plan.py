"""The plan of a sweep: what each experiment costs, as a table.

Seconds of a run = start + rounds * clients * (steps * a + samples * b + message) + evaluated samples * e, and a pull
for each step that has one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from flare.config import Run, runs
from flare.engine import memory
from flare.planning import count, measure
from flare.planning.count import Workload
from flare.planning.measure import Price
from flare.runs.record import size
from flare.tuning.study import studies

COLUMNS = ("experiment", "runs", "client_steps", "operations", "memory_bytes", "uplink_bits", "hours", "extrapolated")


def plan(config: Mapping[str, Any], data: Path, *, device: str = "cpu", threads: int = 1) -> pd.DataFrame:
    """The costs of a checked configuration, its studies' trials included: one row per experiment, and "total".

    memory_bytes is that of the largest job, hours those of all runs one after the other, extrapolated the share of
    them, in 0..1, that was scaled from the measurement of another model or keep. DataError if the samples of a client
    cannot be known before the data set is fetched.
    """
    torch.set_num_threads(threads)
    trials = [
        run for study in studies(config) for trial in range(study.batches * study.trials) for run in study.runs(trial)
    ]
    wanted = [*runs(config), *trials]
    samples = [count.samples(run, Path(data)) for run in wanted]  # before anything is measured, as data may be missing
    with memory.kept():
        prices = measure.prices(wanted, device)
    costs = [_cost(run, *of_run, Path(data), device, prices) for run, of_run in zip(wanted, samples, strict=True)]
    table = pd.DataFrame(costs, columns=COLUMNS)
    by = {name: "max" if name == "memory_bytes" else "sum" for name in COLUMNS[1:]}
    out = table.groupby("experiment", sort=False).agg(by).reset_index()
    total = {"experiment": "total"} | {name: out[name].agg(how) for name, how in by.items()}
    out = pd.concat([out, pd.DataFrame([total])], ignore_index=True)
    return out.assign(extrapolated=out["extrapolated"] / out["hours"])


def show(table: pd.DataFrame) -> str:
    """The plan for a terminal."""
    people = pd.DataFrame(
        {
            "experiment": table["experiment"],
            "runs": [f"{n:,}" for n in table["runs"]],
            "client-steps": [f"{n:,}" for n in table["client_steps"]],
            "operations": [f"{n:.2e}" for n in table["operations"]],
            "memory a job": [size(8 * n) for n in table["memory_bytes"]],
            "uplink": [size(n) for n in table["uplink_bits"]],
            "hours": [f"{n:,.2f}" for n in table["hours"]],
            "extrapolated": [f"{n:.0%}" for n in table["extrapolated"]],
        }
    )
    cells = [list(people.columns), *people.to_numpy().tolist()]
    widths = [max(len(row[place]) for row in cells) for place in range(len(people.columns))]
    return "\n".join(
        "  ".join(text.rjust(width) if place else text.ljust(width) for place, (text, width) in row)
        for row in (list(enumerate(zip(cell, widths, strict=True))) for cell in cells)
    )


def _cost(
    run: Run, sizes: list[int], evaluated: int, data: Path, device: str, prices: Mapping[Hashable, Price]
) -> dict[str, Any]:
    """The row of one run, but with the hours that are extrapolated instead of their share.

    sizes, evaluated: see `count.samples`.
    """
    workload = Workload.of(run)
    model = count.counts(workload)
    work = count.work(run, model.layout, sizes, evaluated)
    of_step, of_message = prices[workload], prices[workload, run.method, run.keep]
    step, sample, evaluation = of_step.seconds
    message, pulled = of_message.seconds
    stepping = work.steps * step + work.trained * sample + work.evaluated * evaluation
    sending = work.messages * message + work.pulls * pulled
    seconds = measure.start_seconds(run.dataset, data, device) + stepping + sending
    return {
        "experiment": run.experiment,
        "runs": 1,
        "client_steps": round(work.steps),
        "operations": work.trained * model.training + work.evaluated * model.forward,
        "memory_bytes": count.memory_bytes(run, workload, sizes, evaluated),
        "uplink_bits": work.uplink_bits,
        "hours": seconds / 3600,
        "extrapolated": (stepping * of_step.extrapolated + sending * of_message.extrapolated) / 3600,
    }
