"""What a sweep costs before it is run: runs, steps, operations, memory, uplink, and hours on this device.

Counted: runs, client-steps (one optimizer step of one client), floating-point operations (torch's own count of the
forward and the backward pass, a multiplication and an addition being two, and of evaluations), uplink bits by the rule
of `flare.engine` (an FFL run sends more as its loss falls, and trains less), memory from the sizes of all that a run
keeps. Measured: seconds, by short runs of the real engine on random data of the right shape, on the device that the
runs will have: of a step, of a message of each method, of an evaluated sample; and, once per data set, of a whole job
that does next to nothing, which is what starting one costs. A step of a large model is measured on fewer samples.
Small models come first; once _BUDGET seconds are over, steps are extrapolated by operations from the nearest model of
the same family, messages by weights from the nearest one of the same method. A column says for what share of the hours.

Not in it: tables, figures and report, staleness, a sample of text, and what jobs side by side take from each other; a
start is counted for every run, also where `runs_per_job` saves some. On a GPU two clients are measured, of which more
side by side cost less.

Seconds of a run = start + rounds * clients * (steps * a + samples * b + message) + evaluated samples * e.
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
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from flare import algorithms, datasets, models, tuning
from flare.config import Run, runs
from flare.datasets import partition
from flare.datasets._fitting import fitted
from flare.engine.simulation import cross_entropy, double_softmax, simulate
from flare.engine.sparsify import Layout, index_bits
from flare.errors import DataError
from flare.runs.record import size
from flare.runs.train import keep_freed_memory
from flare.settings import check_settings

COLUMNS = ("experiment", "runs", "client_steps", "operations", "memory_bytes", "uplink_bits", "hours", "extrapolated")
# A measured step has at most so many operations; a measurement goes on for about so many seconds; so do all together.
_OPERATIONS, _SECONDS, _BUDGET = 2e10, 0.4, 45.0
_LARGE = 3 * 10**6  # weights, from which on a single round of a single client is measured
_EVALUATED = 10_000  # test samples of a data set that is not here yet: those of MNIST and CIFAR


def plan(config: Mapping[str, Any], data: Path, *, device: str = "cpu", threads: int = 1) -> pd.DataFrame:
    """The costs of a checked configuration, its studies' trials included: one row per experiment, and "total".

    memory_bytes is that of the largest job, hours those of all runs one after the other, extrapolated the share of
    them, in 0..1, that was scaled from the measurement of another model or keep. DataError where the samples of a
    client cannot be known before the data set is fetched.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    trials = [
        run
        for study in tuning.studies(config)
        for trial in range(study.batches * study.trials)
        for run in study.runs(trial)
    ]
    wanted = [*runs(config), *trials]
    samples = [_samples(run, Path(data)) for run in wanted]  # before anything is measured, as data may be missing
    prices = _prices(wanted, device)
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
    run: Run, sizes: list[int], evaluated: int, data: Path, device: str, prices: Mapping[Hashable, _Price]
) -> dict[str, Any]:
    """One run's row, but with the hours that are extrapolated for their share."""
    kind = _kind(run)
    answering = run.available or run.clients
    share = run.rounds * answering / len(sizes) * run.local_epochs
    steps = share * sum(math.ceil(n / run.batch_size) for n in sizes)
    trained = share * sum(sizes)
    evaluations = len({*range(0, run.rounds, run.evaluate_every), run.rounds - 1})
    looked_at = evaluations * evaluated
    if algorithms.load(run.method).budget:
        looked_at += run.rounds * sum(sizes)
    model = _model(kind)
    of_step, of_message = prices[kind], prices[kind, run.method, run.keep]
    settings = run.method_settings.get("pull_steps", "all" if run.method == "fedprox" else 0)
    messages = run.rounds * answering
    pulls = steps if settings == "all" else min(steps, messages * settings)
    step, sample, evaluation = of_step.seconds
    message, pulled = of_message.seconds
    stepping = steps * step + trained * sample + looked_at * evaluation
    sending = messages * message + pulls * pulled
    seconds = _start_seconds(run.dataset, data, device) + stepping + sending
    return {
        "experiment": run.experiment,
        "runs": 1,
        "client_steps": round(steps),
        "operations": trained * model.training + looked_at * model.forward,
        "memory_bytes": _memory(run, kind, sizes, evaluated),
        "uplink_bits": messages * _bits(run, model.layout),
        "hours": seconds / 3600,
        "extrapolated": (stepping * of_step.extrapolated + sending * of_message.extrapolated) / 3600,
    }


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a step costs depends on this alone."""

    dataset: str
    model: str
    model_settings: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...]
    batch_size: int
    fidelity: str
    double_softmax: bool
    together: bool | None
    tf32: bool


@dataclasses.dataclass(frozen=True)
class _Model:
    """Operations a sample, of training and of the forward pass; bytes a sample, kept for the backward pass and of the
    largest layer's output."""

    layout: Layout
    training: float
    forward: float
    kept: int
    widest: int


@dataclasses.dataclass(frozen=True)
class _Price:
    """Seconds, in the order of what measures them, and whether they are those of another model or keep, scaled."""

    seconds: tuple[float, ...]
    extrapolated: bool = False


_Key = TypeVar("_Key")


def _prices(wanted: Iterable[Run], device: str) -> dict[Hashable, _Price]:
    """Of each kind (a, b, e), see above, and of each (kind, method, keep) what a message and a pull cost."""
    began = _clock(device)

    def left(share: float) -> bool:
        return _clock(device) - began < share * _BUDGET

    messages = list(dict.fromkeys((_kind(run), run.method, run.keep) for run in wanted))
    steps = _measure(
        dict.fromkeys(kind for kind, _, _ in messages),
        lambda kind: (*_step_seconds(kind, device), _evaluation_seconds(kind, device)),
        lambda kind: _model(kind).training,
        lambda kind: models.file(kind.model),
        lambda: left(0.5),
    )
    sent = _measure(
        messages,
        lambda key: _message_seconds(*key, device),
        lambda key: _model(key[0]).layout.numel,
        lambda key: f"{key[1]} {key[0].fidelity}",
        lambda: left(1.0),
    )
    return {key: price for part in (steps, sent) for key, price in part.items()}


def _measure(
    wanted: Iterable[_Key],
    measure: Callable[[_Key], tuple[float, ...]],
    large: Callable[[_Key], float],
    like: Callable[[_Key], str],
    left: Callable[[], bool],
) -> dict[_Key, _Price]:
    """Measure the smallest of every like, then the others, small ones first, while time is left; scale to the rest."""
    ascending = sorted(wanted, key=large)
    first = {like(key): key for key in reversed(ascending)}.values()
    found: dict[_Key, _Price] = {}
    for key in [*first, *ascending]:
        if key not in found and (key in first or left()):
            found[key] = _Price(measure(key))
    measured = list(found)
    for key in ascending:
        if key not in found:
            alike = [other for other in measured if like(other) == like(key)]
            near = min(alike, key=lambda other: abs(math.log(large(other) / large(key))))
            found[key] = _Price(tuple(large(key) / large(near) * part for part in found[near].seconds), True)
    return found


def _kind(run: Run) -> _Kind:
    shape = fitted(datasets.module(run.dataset).SHAPE, run.pad_to, run.channels)
    settings = tuple(run.model_settings.items())
    together = None if run.engine is None else run.engine == "together"
    of_steps = (run.batch_size, run.fidelity, run.double_softmax, together, run.tf32)
    return _Kind(run.dataset, run.model, settings, shape, *of_steps)


@functools.lru_cache(maxsize=1)  # one, as they are large; nothing changes it
def _build(kind: _Kind) -> torch.nn.Module:
    settings = check_settings(models.load(kind.model).Settings, dict(kind.model_settings), "model_settings")
    classes = datasets.module(kind.dataset).CLASSES
    return models.create(kind.model, kind.shape, classes, settings, 0, kind.fidelity)


def _pair(kind: _Kind, samples: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs and targets."""
    source = datasets.module(kind.dataset)
    text = source.SCALE == 1
    inputs = (
        torch.randint(source.CLASSES, (samples, *kind.shape), device=device)
        if text
        else torch.rand(samples, *kind.shape, device=device)
    )
    return inputs, torch.randint(source.CLASSES, (samples, *kind.shape) if text else (samples,), device=device)


@functools.cache
def _model(kind: _Kind) -> _Model:
    """Counted without any memory or arithmetic, on torch's device `meta`."""
    loss = double_softmax if kind.double_softmax else cross_entropy
    widest = 0

    def note(module: Any, inputs: Any, output: Any) -> None:
        nonlocal widest
        tensors = [output] if isinstance(output, torch.Tensor) else output
        widest = max(widest, *(tensor.nbytes for tensor in tensors))

    with torch.device("meta"):
        model = _build.__wrapped__(kind)
        kept, operations = [], []
        for samples in (1, 2):
            saved = 0

            def pack(tensor: torch.Tensor) -> torch.Tensor:
                nonlocal saved
                saved += tensor.nbytes
                return tensor

            with FlopCounterMode(display=False) as counter:
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                    inputs, targets = _pair(kind, samples, "meta")
                    result = loss(model(inputs), targets)
                forward = counter.get_total_flops()
                result.backward()
                operations.append((counter.get_total_flops(), forward))
            kept.append(saved)
        for module in model.modules():
            module.register_forward_hook(note)
        model(_pair(kind, 1, "meta")[0])
    layout = Layout.of([(name, parameter.shape) for name, parameter in model.named_parameters()])
    return _Model(layout, operations[0][0], operations[0][1], kept[1] - kept[0], widest)


def _samples(run: Run, data: Path) -> tuple[list[int], int]:
    """Training samples of each client, and how many samples an evaluation looks at."""
    try:
        files = datasets.read_manifest(run.dataset, data)["files"]
    except DataError:
        files = None
    evaluated = files["test.npz"]["shapes"]["inputs"][0] if files else _EVALUATED
    scheme = partition.check(run.partition)
    each = getattr(scheme, "samples_per_client", 0)
    if each:
        return [each] * run.clients, evaluated
    if isinstance(scheme, partition.Natural):
        split = _load(run.dataset, data)
        parts = partition.split(split.targets, run.clients, run.partition, run.seed, split.clients)
        return [len(part) for part in parts], evaluated
    if not files:
        datasets.read_manifest(run.dataset, data)  # says what to do
    return [files["train.npz"]["shapes"]["inputs"][0] // run.clients] * run.clients, evaluated


@functools.cache
def _load(dataset: str, data: Path) -> datasets.Split:
    return datasets.load(dataset, data, "train")


def _bits(run: Run, layout: Layout) -> int:
    """Of one message, as `Message.bits` counts them when nothing in it is 0."""
    if run.keep == "dense":
        return 32 * layout.numel
    extra = 1 if run.fidelity == "authors" else 0
    counts = (min(n, max(1, round(float(run.keep) * n) + extra)) for n in layout.sizes)
    return sum(count * (32 + index_bits(n)) for count, n in zip(counts, layout.sizes, strict=True))


def _memory(run: Run, kind: _Kind, sizes: list[int], evaluated: int) -> int:
    """Peak bytes: what every job has, vectors of all weights, the data as the run holds it, and activations."""
    model = _model(kind)
    vectors = 6 + len(algorithms.load(run.method).state) * run.clients + run.staleness * run.clients
    number = 8 if datasets.module(run.dataset).SCALE == 1 else 4
    held = (sum(sizes) * (2 if algorithms.load(run.method).budget else 1) + evaluated) * math.prod(kind.shape) * number
    activations = max(min(run.batch_size, max(sizes)) * model.kept, 2 * min(1000, evaluated) * model.widest)
    return int(_BASE + 4 * vectors * model.layout.numel + held + activations)


# Resident memory of a job that does next to nothing, at its peak: Python, W&B, and torch's CUDA build on the CPU.
_BASE = 700 * 10**6


@functools.cache
def _round_seconds(
    kind: _Kind,
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
    model = _build(kind)
    large = _model(kind).layout.numel > _LARGE
    pairs = [_pair(kind, samples * batches, "cpu") for _ in range(1 if large else 2)]
    test = _pair(kind, max(1, evaluated), "cpu")

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
            momentum=0.9,
            fidelity=kind.fidelity,
            evaluate_every=1 if evaluated else rounds,
            loss=double_softmax if kind.double_softmax else cross_entropy,
            device=device,
            on_state=lambda _: times.append(_clock(device)),
            together=kind.together,
            tf32=kind.tf32,
        )
        rounds_took = [after - before for before, after in itertools.pairwise(times)]
        return rounds_took if evaluated or large else rounds_took[:-1]  # the last one is evaluated in any case

    times = measure(2 if large else 3)
    if not large and sum(times) < _SECONDS:
        times += measure(min(300, 3 + int(_SECONDS / statistics.median(times))))
    return statistics.median(times) / len(pairs)


@functools.cache
def _sizes(kind: _Kind) -> tuple[int, int]:
    """Samples of the two measured steps: few, and as many as a step of the run has or as may be measured."""
    large = int(min(kind.batch_size, max(2, _OPERATIONS // _model(kind).training)))
    return max(1, large // 4), large


@functools.cache
def _step_seconds(kind: _Kind, device: str) -> tuple[float, float]:
    """(a, b): a step on n samples takes a + b * n. Its message apart, which `_message_seconds` has."""
    small, large = _sizes(kind)
    if large == small:
        return _round_seconds(kind, large, device, batches=2) - _round_seconds(kind, large, device), 0.0
    one = _round_seconds(kind, small, device, batches=2) - _round_seconds(kind, small, device)
    many = _round_seconds(kind, large, device, batches=2) - _round_seconds(kind, large, device)
    slope = max(0.0, (many - one) / (large - small))
    return max(0.0, many - slope * large), slope


@functools.cache
def _message_seconds(kind: _Kind, method: str, keep: str, device: str) -> tuple[float, float]:
    """Seconds of all that a client's round costs beside its plain steps, and of the pull in one step."""
    small, _ = _sizes(kind)
    step, slope = _step_seconds(kind, device)
    strengths = {field.name for field in dataclasses.fields(algorithms.load(method).settings)} & {"tau", "mu"}
    plain = _round_seconds(
        kind, small, device, method=method, keep=keep, settings=tuple((name, 0.0) for name in strengths)
    )
    pulled = 0.0
    if algorithms.load(method).pull:
        pulled = max(0.0, _round_seconds(kind, small, device, method=method, keep=keep) - plain)
    budget = small * _evaluation_seconds(kind, device) if algorithms.load(method).budget else 0.0
    return max(0.0, plain - step - slope * small - budget), pulled


@functools.cache
def _evaluation_seconds(kind: _Kind, device: str) -> float:
    """Seconds of one sample's evaluation."""
    small, _ = _sizes(kind)
    samples = int(min(1000, max(8, _OPERATIONS // _model(kind).forward)))
    with_it = _round_seconds(kind, small, device, evaluated=samples)
    return max(0.0, 2 * (with_it - _round_seconds(kind, small, device)) / samples)


def _clock(device: str, of_children: bool = False) -> float:
    """Seconds of the processor where a run has one thread of it, which is what an idle machine takes, whatever else it
    is doing now; otherwise those that pass."""
    if device != "cpu" or torch.get_num_threads() > 1:
        return time.perf_counter()
    times = os.times()
    return times.children_user + times.children_system if of_children else time.process_time()


@functools.cache
def _start_seconds(dataset: str, data: Path, device: str) -> float:
    """Seconds of a whole job on this data set that hardly trains; on digits, where the data set is not here."""
    try:
        datasets.read_manifest(dataset, data)
    except DataError:
        dataset = "digits"
    text = datasets.module(dataset).SCALE == 1
    model, settings = ("gru", {"hidden": 1, "embedding": 1}) if text else ("fc", {"hidden_layers": 0})
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
        began = _clock(device, of_children=True)
        subprocess.run(
            [*command, *shlex.split(run.flags())], check=True, capture_output=True, cwd=scratch, env=environment
        )
        return _clock(device, of_children=True) - began
