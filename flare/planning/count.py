"""What a run needs by count: samples, operations, bits of its messages, memory. Nothing is trained here.

Operations are torch's own count of the forward and the backward pass (a multiplication and an addition are two), taken
on the device `meta`, which has no memory and computes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from flare import algorithms, datasets, models
from flare.algorithms import Method
from flare.config import Run
from flare.datasets import partitions
from flare.datasets._fitting import fitted
from flare.engine import schedules
from flare.engine.layout import Layout
from flare.engine.network import Loss, double_softmax
from flare.engine.plan import Plan
from flare.engine.server import check as check_server
from flare.engine.server import with_step
from flare.engine.task import Task
from flare.errors import DataError
from flare.settings import check_keep, check_settings

# Resident memory of a job that does next to nothing, at its peak: Python, W&B, and torch's CUDA build on the CPU.
BASE_BYTES = 700 * 10**6
# Arguments of `flare.simulate` of which a measurement has values of its own, or leaves them out.
MEASURED = (
    *("method", "settings", "keep", "rounds", "local_epochs", "batch_size", "learning_rate", "momentum", "fidelity"),
    *("evaluate_every", "available", "seed", "schedule", "staleness", "probes", "server"),
)
_EVALUATED = 10_000  # test samples of a data set that is not here yet: those of MNIST and CIFAR


@dataclasses.dataclass(frozen=True)
class Workload:
    """All that the cost of one local step depends on, except the method.

    options: the other arguments of `flare.simulate` that the run has, except for those that a measurement chooses.
    """

    dataset: str
    model: str
    model_settings: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...]
    batch_size: int
    fidelity: str
    double_softmax: bool
    together: bool | None
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, run: Run) -> Workload:
        """The workload of the run's steps."""
        return cls(
            dataset=run.dataset,
            model=run.model,
            model_settings=tuple(run.model_settings.items()),
            shape=fitted(datasets.module(run.dataset).SHAPE, run.pad_to, run.channels),
            batch_size=run.batch_size,
            fidelity=run.fidelity,
            double_softmax=run.double_softmax,
            together=None if run.engine is None else run.engine == "together",
            options=tuple((name, value) for name, value in run.arguments().items() if name not in MEASURED),
        )

    @property
    def loss(self) -> Loss:
        """The loss that the run minimises."""
        return double_softmax if self.double_softmax else cross_entropy

    def build(self) -> torch.nn.Module:
        """A new model."""
        settings = check_settings(models.load(self.model).Settings, dict(self.model_settings), "model_settings")
        classes = datasets.module(self.dataset).CLASSES
        return models.create(self.model, self.shape, classes, settings, 0, self.fidelity)

    def batch(self, samples: int, device: str) -> tuple[Tensor, Tensor]:
        """Random inputs and targets of the right shape and type."""
        classes = datasets.module(self.dataset).CLASSES
        if is_text(self.dataset):
            shape = (samples, *self.shape)
            return torch.randint(classes, shape, device=device), torch.randint(classes, shape, device=device)
        inputs = torch.rand(samples, *self.shape, device=device)
        return inputs, torch.randint(classes, (samples,), device=device)


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a model costs per sample.

    training, forward: operations of a training step and of the forward pass. kept: bytes that the forward pass keeps
    for the backward pass. widest: bytes of the largest output of a layer.
    """

    layout: Layout
    training: float
    forward: float
    kept: int
    widest: int


@functools.cache
def counts(workload: Workload) -> Counts:
    """The counts of the workload's model."""
    with torch.device("meta"):
        model = workload.build()
        passes = [_pass(workload, model, samples) for samples in (1, 2)]
        widest = _widest(model, workload.batch(1, "meta")[0])
    layout = Layout.of([(name, parameter.shape) for name, parameter in model.named_parameters()])
    (training, forward, kept), (_, _, kept_of_two) = passes
    return Counts(layout, training, forward, kept_of_two - kept, widest)


def _pass(workload: Workload, model: torch.nn.Module, samples: int) -> tuple[float, float, int]:
    """Operations of a training step and of its forward pass, and the bytes kept between forward and backward pass."""
    saved = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            inputs, targets = workload.batch(samples, "meta")
            result = workload.loss(model(inputs), targets)
        forward = counter.get_total_flops()
        result.backward()
        return counter.get_total_flops(), forward, saved


def _widest(model: torch.nn.Module, inputs: Tensor) -> int:
    """Bytes of the largest output of a layer."""
    widest = 0

    def note(module: Any, given: Any, output: Any) -> None:
        nonlocal widest
        tensors = [output] if isinstance(output, Tensor) else output
        widest = max(widest, *(tensor.nbytes for tensor in tensors))

    for module in model.modules():
        module.register_forward_hook(note)
    model(inputs)
    return widest


def is_text(dataset: str) -> bool:
    """Whether the data set's samples are texts."""
    return datasets.kind(datasets.module(dataset)) == "text"


def samples(run: Run, data: Path) -> tuple[list[int], int]:
    """Training samples of each client, and how many samples an evaluation looks at."""
    try:
        files = datasets.read_manifest(run.dataset, data)["files"]
    except DataError:
        files = None
    evaluated = files["test.npz"]["shapes"]["inputs"][0] if files else _EVALUATED
    total = files["train.npz"]["shapes"]["inputs"][0] if files else 0
    sizes = partitions.sizes(run.partition, run.clients, total)
    if sizes is None:  # only the data says it
        split = _load(run.dataset, data)
        parts = partitions.split(split.targets, run.clients, run.partition, run.seed, split.clients)
        return [len(part) for part in parts], evaluated
    if not any(sizes):
        datasets.read_manifest(run.dataset, data)  # says what to do
    return sizes, evaluated


@functools.cache
def _load(dataset: str, data: Path) -> datasets.Split:
    return datasets.load(dataset, data, "train")


@dataclasses.dataclass(frozen=True)
class Work:
    """What the rounds of a run come to, all clients together.

    messages: that are sent, and uplink_bits: their bits. steps: local steps, trained: the samples in them, pulls: those
    of the steps that are pulled. evaluated: samples that are evaluated, on the test set or for the round's budget.
    """

    messages: int
    uplink_bits: int
    steps: float
    trained: float
    pulls: float
    evaluated: int


def work(run: Run, layout: Layout, sizes: list[int], evaluated: int) -> Work:
    """What the run's rounds come to, if every client answers as often. sizes, evaluated: as `samples` says.

    A schedule, and a method with a budget of its own, are asked for each round. Only the loss is not known, so it is
    taken not to change.
    """
    answering = run.available or run.clients
    method = algorithms.load(run.method)
    tasks, looks = _tasks(run, layout, sizes)
    evaluations = len({*range(0, run.rounds, run.evaluate_every), run.rounds - 1})
    uplink, steps, trained, pulls = 0, 0.0, 0.0, 0.0
    for task, rounds in tasks:
        messages = rounds * answering
        share = messages / len(sizes)
        most = math.inf if task.most_steps is None else task.most_steps
        taken = share * sum(min(most, number) for number in task.steps)
        uplink += messages * _message_bits(task, method)
        steps += taken
        trained += share * sum(min(most * task.batch_size, task.local_epochs * size) for size in sizes)
        pulls += min(taken, messages * _pulled(run.method, task.settings))
    looked_at = evaluations * evaluated + looks * sum(sizes)
    return Work(run.rounds * answering, uplink, steps, trained, pulls, looked_at)


def _tasks(run: Run, layout: Layout, sizes: list[int]) -> tuple[list[tuple[Task, int]], int]:
    """The different tasks of the run's rounds, each with its number of rounds, and in how many the loss is looked at.

    Tasks that cost the same are taken for one. All clients are in each of them.
    """
    method = algorithms.load(run.method)
    told = {field.name for field in dataclasses.fields(Plan)}
    plan = Plan(
        method=method,
        layout=layout,
        sizes=sizes,
        participants=None,
        **{name: value for name, value in run.arguments().items() if name in told - {"method", "settings", "keep"}},
        settings=check_settings(method.settings, run.method_settings, "method_settings"),
        keep=None if method.dense else check_keep(run.keep),
    )
    first = plan.task(0, range(len(sizes)))
    schedule = schedules.check(run.schedule)
    if not method.budget and not schedule:
        return [(first, run.rounds)], 0
    found: dict[Any, tuple[Task, int]] = {}
    looks = 0
    for number in range(run.rounds):
        task = dataclasses.replace(first, number=number)
        if schedule:
            task = schedule[0].adjust(task, run.rounds, schedule[1])
        task, looked = _budget(method, task)
        costs = (task.keep, task.local_epochs, task.batch_size, task.most_steps)
        found[costs] = (task, found.get(costs, (task, 0))[1] + 1)
        looks += looked
    return list(found.values()), looks


def _budget(method: Method, task: Task) -> tuple[Task, bool]:
    """The task as the method's budget has it if the loss has not changed, and whether it looked at the loss."""
    looked = False

    def loss() -> tuple[float, float]:
        nonlocal looked
        looked = True
        return 1.0, 1.0

    return (method.budget(task, loss) if method.budget else task), looked


def looks_at_loss(name: str, layout: Layout, keep: str) -> bool:
    """Whether the method of that name, with its own settings' defaults, looks at the training loss in a round."""
    run = Run("", "", "", name, keep, 1, 0, clients=1, rounds=1, batch_size=1, learning_rate=1.0)
    return _tasks(run, layout, [1])[1] > 0


def _message_bits(task: Task, method: Method) -> int:
    """Bits of one message, as `Message.bits` counts them if none of its values is 0; the method may know better."""
    return method.bits(task) if method.bits else task.layout.message_bits(task.keep, task.fidelity)


def _pulled(name: str, settings: Any) -> float:
    """On how many of a client's steps in a round the method pulls; infinity if on all."""
    method = algorithms.load(name)
    if not method.pull or (method.strength and getattr(settings, method.strength) == 0):
        return 0
    if method.pulls and not method.pulls(settings):
        return 0
    steps: int | str = getattr(settings, method.pull_steps) if method.pull_steps else "all"
    return math.inf if isinstance(steps, str) else steps


def memory_bytes(run: Run, workload: Workload, sizes: list[int], evaluated: int) -> int:
    """Peak bytes of the run's job: what every job has, vectors of all weights, the data, and activations.

    sizes, evaluated: as `samples` says.
    """
    model = counts(workload)
    method = with_step(algorithms.load(run.method), check_server(run.server))
    copies = 2 if looks_at_loss(run.method, model.layout, run.keep) else 1
    of_client = len(method.state) + ("staleness" in run.probe_names)
    of_round = len(method.sums) + bool(method.start)
    vectors = 6 + of_round + len(method.server_state) + of_client * run.clients
    number = 8 if is_text(run.dataset) else 4
    held = (copies * sum(sizes) + evaluated) * math.prod(workload.shape) * number
    activations = max(min(run.batch_size, max(sizes)) * model.kept, 2 * min(1000, evaluated) * model.widest)
    return int(BASE_BYTES + 4 * vectors * model.layout.numel + held + activations)
