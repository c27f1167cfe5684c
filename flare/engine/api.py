"""`flare.simulate`: its arguments, checked, and the table it returns.

The checks are in `flare.engine.inputs`. They decide whether a run begins, never what it gives, so neither file is part
of what a run's code digest covers.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flare.algorithms import Training
from flare.algorithms import check as check_method
from flare.algorithms import load as load_method
from flare.columns import HISTORY
from flare.engine import inputs, memory, schedules
from flare.engine import probes as probing
from flare.engine import server as server_step
from flare.engine.base import Engine, Probe
from flare.engine.choose import choose as choose_engine
from flare.engine.loop import Hooks, run_rounds
from flare.engine.network import Loss, Network, Pair
from flare.engine.plan import Plan
from flare.engine.state import RunState
from flare.engine.task import Task
from flare.errors import choose
from flare.settings import ENGINES, FIDELITIES, check_keep, check_settings

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")

_COUNTS = ("rounds", "local_epochs", "batch_size", "evaluate_every")


@dataclass
class History:
    """What `simulate` says of a run, before it is a table: the rows, and what becomes the table's `attrs`."""

    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    ended: dict[str, Any]

    def frame(self) -> pd.DataFrame:
        """The table, whose `attrs` are the end."""
        import pandas as pd  # a third of a second

        table = pd.DataFrame(self.rows, columns=list(self.columns))
        table.attrs.update(self.ended)
        return table


def simulate_rows(  # noqa: PLR0913, the public signature
    model: nn.Module,
    clients: Sequence[Pair],
    *,
    test: Pair,
    method: str,
    settings: Mapping[str, Any] | None = None,
    keep: float | str | None,
    rounds: int,
    local_epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    available: int | None = None,
    participants: Sequence[Sequence[int]] | None = None,
    fidelity: str = "paper",
    evaluate_every: int = 10,
    seed: int = 0,
    loss: Loss = cross_entropy,
    device: str | torch.device = "cpu",
    on_round: Callable[[int, dict[str, Tensor]], None] | None = None,
    on_evaluate: Callable[[dict[str, Any]], None] | None = None,
    shuffle: bool = False,
    staleness: bool = False,
    resume: Mapping[str, Any] | None = None,
    on_state: Callable[[dict[str, Any]], None] | None = None,
    together: bool | None = None,
    tf32: bool = False,
    schedule: Mapping[str, Any] | None = None,
    probes: Sequence[str] = (),
    server: Mapping[str, Any] | None = None,
) -> tuple[History, dict[str, Tensor]]:
    """Run federated training of `model` and return its history and the final server weights.

    model: its weights are the start; it is not changed. Trainable parameters are federated, frozen ones are constants.
        One whose forward changes anything (batch norm's statistics, spectral norm, a running mean) is refused.
    clients: (inputs, targets) of each client, first dimension samples: tensors, numpy arrays or a TensorDataset.
        Targets are class indices, whole numbers of any type (made int64), of shape (N,) or (N, T) for outputs of shape
        (N, classes) or (N, classes, T). Floats become the model's type, other inputs stay what they are.
    test: such a pair; it is only measured, nothing is chosen by it.
    method, settings: name of a file of flare/algorithms and its own settings ({} for its defaults).
    keep: fraction of each tensor's entries that is sent, in (0, 1], number or string; "dense" or None sends all. A
        dense method ignores it.
    rounds, local_epochs, batch_size: at least 1. The last, smaller batch of an epoch is used.
    learning_rate > 0, momentum in [0, 1): heavy-ball SGD, started afresh every round.
    available: how many clients answer a round (default: all), drawn without replacement from `seed` and the round.
    participants: instead of drawing, the indices of the clients that answer, one list a round.
    fidelity: "paper", or "authors" for the habits of the authors' program.
    evaluate_every: rounds between two evaluations; the first and the last round are always evaluated.
    seed: of the draw of clients, of shuffling and of dropout; 0 or more.
    shuffle: draw the order of a client's samples anew every epoch instead of keeping it.
    staleness: also measure how stale what the clients keep is: the probe `staleness`, before those of `probes`.
    on_round(round, weights): called after each completed round with the server's weights, copies by parameter name.
    on_evaluate(row): called with each row of the history as it comes.
    on_state(state): called after each completed round with all that the rounds to come depend on; whatever is random is
        seeded by the seed, the round and the client, so no generator is part of it. Save it or copy it: the next round
        overwrites it.
    resume: such a state, of a run with the same arguments. The run goes on after it and ends with the same bits.
    together: train all clients of a round side by side (`flare.engine.together`), which fills a GPU; None does so on a
        GPU and not on a CPU. If memory does not suffice, or the model is a recurrent one, they go one at a time, with a
        warning. The two agree to rounding, until an entry falls on the other side of a selection; dropout differs.
    tf32: let a GPU round the factors of products and convolutions to TF32; the settings of torch are left as they were.
    schedule: {"name": a file of flare/engine/schedules, and its own settings}: what changes from round to round.
    probes: names of files of flare/engine/probes: what else is measured, in columns of their own.
    server: the server's step in the place of adding the mean g of what the clients contribute (flare.engine.server):
        {"optimizer": "sgd", "learning_rate": s, "momentum": b}, or "adam" with beta1, beta2 and epsilon. Every method
        takes it, except those whose server has a step of its own.

    The history has one row per evaluation: round (from 0), uplink_bits and downlink_bits (sums over clients and
    rounds so far), train_loss (mean over clients of their mean batch loss in that round), test_loss, test_accuracy.
    `history.attrs` says status ("finished" or "diverged"), diverged_round, rounds (completed), dense_bits (the uplink
    had every message been dense), parameters and engine (of ENGINES). A run whose loss or weights are no longer finite
    has diverged and ends there.
    Raises ConfigError, one line, for an argument out of its range.
    """
    chosen = load_method(method)
    own = check_settings(chosen.settings, inputs.mapping("settings", settings), f"method {method}")
    choose("fidelity", fidelity, FIDELITIES)
    fraction = None if chosen.dense else check_keep(inputs.keep_of(keep))
    rounds, local_epochs, batch_size, evaluate_every = (
        inputs.whole(name, value, 1)
        for name, value in zip(_COUNTS, (rounds, local_epochs, batch_size, evaluate_every), strict=True)
    )
    seed = inputs.whole("seed", seed, 0, 2**63 - 1)
    learning_rate, momentum = inputs.rates(learning_rate, momentum)
    _check_kinds(shuffle, staleness, tf32, together, loss, on_round, on_evaluate, on_state)
    stepping = server_step.check(inputs.mapping("server", server))
    check_method(method, own, Training(momentum, not server_step.is_today(stepping)), f"method {method}: ")
    adjusting = schedules.check(inputs.mapping("schedule", schedule))
    asked = [*(["staleness"] if staleness else []), *inputs.words("probes", probes)]
    measuring = [probing.load(name) for name in probing.check(asked)]
    inputs.check_model(model)
    clients, test = inputs.pairs(clients, test)
    available, given = inputs.answering(len(clients), rounds, available, participants)
    device = inputs.device_of(device)
    with memory.kept(), torch.random.fork_rng(devices=[]), _tf32(tf32):
        if resume is not None:  # the rounds to come are those of the same engine
            together = inputs.engine_of(resume) == ENGINES[1]
        elif together is None:
            together = device.type == "cuda"
        if together and inputs.stands_twice(model):
            warnings.warn("clients are trained one at a time, not together: a layer is in two places", stacklevel=3)
            together = False
        network = Network(model, clients, test, loss, device, alone=not together)
        del model
        inputs.check_forward(network, batch_size)
        memory.trim()  # if nobody else holds the model, its weights are not in memory twice
        plan = Plan(
            server_step.with_step(chosen, stepping),
            own,
            network.layout,
            [len(targets) for _, targets in network.clients],
            fraction,
            rounds,
            local_epochs,
            batch_size,
            learning_rate,
            momentum,
            available,
            given,
            fidelity,
            evaluate_every,
            seed,
            shuffle,
            functools.partial(adjusting[0].adjust, settings=adjusting[1]) if adjusting else None,
        )
        state = _first(network, plan)
        engine = choose_engine(network, plan, state, together)
        measured = [probe(len(clients), network.layout) for probe in measuring]
        if resume is not None:
            inputs.check_state(resume, state, measured, rounds)
            state.load(resume)
            for probe in measured:
                inputs.load_probe(probe, resume)
        run_rounds(engine, plan, state, measured, _hooks(engine, measured, on_round, on_evaluate, on_state))
    columns = (*HISTORY, *(column for probe in measured for column in probe.columns))
    weights = {name: view.contiguous() for name, view in network.layout.views(state.server).items()}
    return History(columns, state.history, _ended(state, engine)), weights


def _framed(
    function: Callable[P, tuple[History, dict[str, Tensor]]],
) -> Callable[P, tuple[pd.DataFrame, dict[str, Tensor]]]:
    @functools.wraps(function)
    def framed(*args: P.args, **kwargs: P.kwargs) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        history, weights = function(*args, **kwargs)
        return history.frame(), weights

    result = "tuple[pd.DataFrame, dict[str, Tensor]]"
    framed.__signature__ = inspect.signature(function).replace(return_annotation=result)  # type: ignore[attr-defined]
    return framed


# For who calls it from Python; a run of a sweep does without pandas.
simulate = _framed(simulate_rows)
simulate.__name__ = simulate.__qualname__ = "simulate"


def _check_kinds(shuffle: Any, staleness: Any, tf32: Any, together: Any, loss: Any, *callbacks: Any) -> None:
    for name, value in zip(("shuffle", "staleness", "tf32"), (shuffle, staleness, tf32), strict=True):
        inputs.flag(name, value)
    inputs.flag("together", together, unset=True)
    inputs.function("loss", loss, unset=False)
    for name, value in zip(("on_round", "on_evaluate", "on_state"), callbacks, strict=True):
        inputs.function(name, value)


def _first(network: Network, plan: Plan) -> RunState:
    """The state before the first round."""
    server = network.weights.clone()
    return RunState(
        server,
        {name: server.new_zeros(len(plan.sizes), network.layout.numel) for name in plan.method.state},
        {name: torch.zeros_like(server) for name in plan.method.server_state},
    )


def _hooks(
    engine: Engine,
    probes: Sequence[Probe],
    on_round: Callable[[int, dict[str, Tensor]], None] | None,
    on_evaluate: Callable[[dict[str, Any]], None] | None,
    on_state: Callable[[dict[str, Any]], None] | None,
) -> Hooks:
    def completed(task: Task, state: RunState) -> None:
        if on_round:
            on_round(task.number, {name: view.clone() for name, view in task.layout.views(state.server).items()})
        if on_state:
            saved = {"engine": engine.name} | state.to_dict()
            for probe in probes:
                saved |= probe.state()
            on_state(saved)

    return Hooks(on_evaluate or (lambda row: None), completed)


def _ended(state: RunState, engine: Engine) -> dict[str, Any]:
    return {
        "status": "finished" if state.diverged is None else "diverged",
        "diverged_round": state.diverged,
        "rounds": state.completed,
        "uplink_bits": state.uplink,
        "downlink_bits": state.downlink,
        "dense_bits": state.dense,
        "parameters": state.server.numel(),
        "engine": engine.name,
    }


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Products and convolutions on a GPU in TF32, or in full; what torch was told before is put back."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
