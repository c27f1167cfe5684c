"""What a run takes in seconds: short runs of the real engine on random data of the right shape.

Measured, on the device that the runs will have: a local step (a + b * samples), the evaluation of a sample, what a
client's round costs beside its steps for each method and keep ("message"), what a pull adds to a step; and, once per
data set, a whole job that hardly trains, which is what starting one costs. A step of a large model is measured on fewer
samples. On a GPU two clients are measured, of which more side by side cost less.

Small models come first. Once BUDGET seconds are over, the rest is scaled: steps by operations from the nearest model of
the same family, messages by weights from the nearest model with the same method.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TypeVar

import torch

from flare import algorithms, datasets, models
from flare.config import Run
from flare.engine.api import simulate
from flare.errors import ConfigError, DataError
from flare.planning import count
from flare.planning.count import Workload
from flare.settings import check_settings

# A measured step has at most so many operations; one measurement goes on for about SECONDS, all together for BUDGET.
OPERATIONS, SECONDS, BUDGET = 2e10, 0.4, 45.0
_LARGE = 3 * 10**6  # weights, from which on a single round of a single client is measured

Key = TypeVar("Key")


@dataclasses.dataclass(frozen=True)
class Price:
    """Measured seconds, in the order of the function that measures them.

    extrapolated: they are those of another model or keep, scaled.
    """

    seconds: tuple[float, ...]
    extrapolated: bool = False


def prices(wanted: Iterable[Run], device: str) -> dict[Hashable, Price]:
    """What the runs' parts cost.

    By workload (a, b, seconds of an evaluated sample), as the module says; by (workload, method, keep) the seconds of
    a message and of a pull.
    """
    began = clock(device)

    def left(share: float) -> bool:
        return clock(device) - began < share * BUDGET

    messages = list(dict.fromkeys((Workload.of(run), run.method, run.keep) for run in wanted))
    steps = _measure(
        dict.fromkeys(workload for workload, _, _ in messages),
        lambda workload: (*step_seconds(workload, device), evaluation_seconds(workload, device)),
        lambda workload: count.counts(workload).training,
        lambda workload: models.file(workload.model),
        lambda: left(0.5),
    )
    sent = _measure(
        messages,
        lambda key: message_seconds(*key, device),
        lambda key: count.counts(key[0]).layout.numel,
        lambda key: f"{key[1]} {key[0].fidelity}",
        lambda: left(1.0),
    )
    return {key: price for part in (steps, sent) for key, price in part.items()}


def _measure(
    wanted: Iterable[Key],
    measure: Callable[[Key], tuple[float, ...]],
    large: Callable[[Key], float],
    like: Callable[[Key], str],
    left: Callable[[], bool],
) -> dict[Key, Price]:
    """Measure the smallest of each group, then the others, small ones first, while time is left; scale to the rest.

    large: what the seconds are proportional to. like: the name of the group, within which they may be scaled.
    """
    ascending = sorted(wanted, key=large)
    first = {like(key): key for key in reversed(ascending)}.values()
    found: dict[Key, Price] = {}
    for key in [*first, *ascending]:
        if key not in found and (key in first or left()):
            found[key] = Price(measure(key))
    measured = list(found)
    for key in ascending:
        if key not in found:
            alike = [other for other in measured if like(other) == like(key)]
            near = min(alike, key=lambda other: abs(math.log(large(other) / large(key))))
            found[key] = Price(tuple(large(key) / large(near) * part for part in found[near].seconds), True)
    return found


@functools.cache
def step_seconds(workload: Workload, device: str) -> tuple[float, float]:
    """(a, b): a step on n samples takes a + b * n, without what `message_seconds` measures."""
    small, large = _sizes(workload)
    if large == small:
        return round_seconds(workload, large, device, batches=2) - round_seconds(workload, large, device), 0.0
    one = round_seconds(workload, small, device, batches=2) - round_seconds(workload, small, device)
    many = round_seconds(workload, large, device, batches=2) - round_seconds(workload, large, device)
    slope = max(0.0, (many - one) / (large - small))
    return max(0.0, many - slope * large), slope


@functools.cache
def message_seconds(workload: Workload, method: str, keep: str, device: str) -> tuple[float, float]:
    """Seconds of all that a client's round costs beside its plain steps, and of the pull in one step."""
    small, _ = _sizes(workload)
    step, slope = step_seconds(workload, device)
    chosen = algorithms.load(method)
    without_pull = ((chosen.strength, 0.0),) if chosen.strength else ()
    plain = round_seconds(workload, small, device, method=method, keep=keep, settings=without_pull)
    pulled = 0.0
    if chosen.pull and chosen.strength:
        pulled = max(0.0, round_seconds(workload, small, device, method=method, keep=keep) - plain)
    elif chosen.pull:  # on every step, so that a second one has another
        twice = round_seconds(workload, small, device, method=method, keep=keep, batches=2)
        pulled = max(0.0, twice - plain - step - slope * small)
        plain = max(0.0, plain - pulled)
    look = 0.0
    if count.looks_at_loss(method, count.counts(workload).layout, keep):
        look = small * evaluation_seconds(workload, device)
    return max(0.0, plain - step - slope * small - look), pulled


@functools.cache
def evaluation_seconds(workload: Workload, device: str) -> float:
    """Seconds of one sample's evaluation."""
    small, _ = _sizes(workload)
    samples = int(min(1000, max(8, OPERATIONS // count.counts(workload).forward)))
    with_it = round_seconds(workload, small, device, evaluated=samples)
    return max(0.0, 2 * (with_it - round_seconds(workload, small, device)) / samples)


@functools.cache
def round_seconds(
    workload: Workload,
    samples: int,
    device: str,
    *,
    method: str = "fedavg",
    settings: tuple[tuple[str, float], ...] = (),
    keep: str = "dense",
    batches: int = 1,
    evaluated: int = 0,
) -> float:
    """Seconds of one client's part in a round: median over rounds of the real engine, without the first."""
    model = _model(workload)
    large = count.counts(workload).layout.numel > _LARGE
    pairs = [workload.batch(samples * batches, "cpu") for _ in range(1 if large else 2)]
    test = workload.batch(max(1, evaluated), "cpu")

    def measure(rounds: int) -> list[float]:
        times: list[float] = []
        simulate(
            model,
            pairs,
            test=test,
            method=method,
            settings=dict(settings),
            keep=keep,
            rounds=rounds,
            local_epochs=1,
            batch_size=samples,
            learning_rate=1e-6,
            momentum=_momentum(method, dict(settings)),
            fidelity=workload.fidelity,
            evaluate_every=1 if evaluated else rounds,
            loss=workload.loss,
            device=device,
            on_state=lambda _: times.append(clock(device)),
            together=workload.together,
            **dict(workload.options),
        )
        rounds_took = [after - before for before, after in itertools.pairwise(times)]
        return rounds_took if evaluated or large else rounds_took[:-1]  # the last one is evaluated in any case

    times = measure(2 if large else 3)
    if not large and sum(times) < SECONDS:
        times += measure(min(300, 3 + int(SECONDS / statistics.median(times))))
    return statistics.median(times) / len(pairs)


def _momentum(method: str, settings: dict[str, float]) -> float:
    """The local momentum of a measurement: one that costs what any does, or 0 if the method takes no other."""
    try:
        own = check_settings(algorithms.load(method).settings, settings, method)
        algorithms.check(method, own, algorithms.Training(momentum=0.9))
    except ConfigError:
        return 0.0
    return 0.9


@functools.lru_cache(maxsize=1)  # one, as they are large; nothing changes it
def _model(workload: Workload) -> torch.nn.Module:
    return workload.build()


@functools.cache
def _sizes(workload: Workload) -> tuple[int, int]:
    """Samples of the two measured steps: few, and as many as a step of the run has or as may be measured."""
    large = int(min(workload.batch_size, max(2, OPERATIONS // count.counts(workload).training)))
    return max(1, large // 4), large


@functools.cache
def start_seconds(dataset: str, data: Path, device: str) -> float:
    """Seconds of a whole job on this data set that hardly trains; on digits if the data set is not here."""
    try:
        datasets.read_manifest(dataset, data)
    except DataError:
        dataset = "digits"
    model, settings = ("gru", {"hidden": 1, "embedding": 1}) if count.is_text(dataset) else ("fc", {"hidden_layers": 0})
    with tempfile.TemporaryDirectory() as scratch:
        if dataset == "digits":
            data = Path(scratch)
            datasets.fetch(dataset, data)
        run = Run(
            *("start", dataset, model, "fedavg", "dense", 1, 1),
            clients=1,
            rounds=1,
            batch_size=100,
            learning_rate=1e-3,
            partition={"scheme": "contiguous", "samples_per_client": 100},
            model_settings=settings,
        )
        command = [sys.executable, "-m", "flare", "train", "--data", str(data.absolute()), "--output", "run"]
        environment = os.environ | {"FLARE_DEVICE": device, "PYTHONPATH": str(Path(__file__).parents[2])}
        began = clock(device, of_children=True)
        subprocess.run(
            [*command, *shlex.split(run.flags())], check=True, capture_output=True, cwd=scratch, env=environment
        )
        return clock(device, of_children=True) - began


def clock(device: str, of_children: bool = False) -> float:
    """Seconds: of the processor if a run has one thread of it, otherwise those that pass.

    The processor's are what an idle machine takes, whatever else this one is doing now.
    """
    if device != "cpu" or torch.get_num_threads() > 1:
        return time.perf_counter()
    times = os.times()
    return times.children_user + times.children_system if of_children else time.process_time()
