"""`flare.simulate`: checks of its arguments, and the table it returns.

The only checks of a simulation. They decide whether a run begins, never what it gives, so this file is no part of what
a run's code digest covers.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
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
from flare.engine import memory, schedules
from flare.engine import probes as probing
from flare.engine import server as server_step
from flare.engine.base import Engine, Probe
from flare.engine.choose import choose as choose_engine
from flare.engine.loop import Hooks, run_rounds
from flare.engine.network import Loss, Network, Pair
from flare.engine.plan import Plan
from flare.engine.state import RunState
from flare.engine.task import Task
from flare.errors import ConfigError, choose
from flare.settings import ENGINES, FIDELITIES, check_keep, check_settings

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")


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
    clients: (inputs, targets) of each client, first dimension samples; targets as `loss` takes them, class indices of
        shape (N,) or (N, T) for outputs of shape (N, classes) or (N, classes, T).
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
    own = check_settings(chosen.settings, dict(settings or {}), f"method {method}")
    choose("fidelity", fidelity, FIDELITIES)
    fraction = None if chosen.dense else check_keep(keep)
    _check_numbers(rounds, local_epochs, batch_size, evaluate_every, seed, learning_rate, momentum)
    stepping = server_step.check(server or {})
    check_method(method, own, Training(momentum, not server_step.is_today(stepping)), f"method {method}: ")
    adjusting = schedules.check(schedule or {})
    measuring = [probing.load(name) for name in probing.check([*(["staleness"] if staleness else []), *probes])]
    _check_data(model, clients, test)
    given = _answering(len(clients), rounds, available, participants)
    with memory.kept(), torch.random.fork_rng(devices=[]), _tf32(tf32):
        device = torch.device(device)
        if resume is not None:  # the rounds to come are those of the same engine
            together = resume["engine"] == ENGINES[1]
        elif together is None:
            together = device.type == "cuda"
        network = Network(model, clients, test, loss, device, alone=not together)
        del model
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
            _resume(state, measured, resume)
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


def _check_numbers(
    rounds: int,
    local_epochs: int,
    batch_size: int,
    evaluate_every: int,
    seed: int,
    learning_rate: float,
    momentum: float,
) -> None:
    for name, value, low in (
        ("rounds", rounds, 1),
        ("local_epochs", local_epochs, 1),
        ("batch_size", batch_size, 1),
        ("evaluate_every", evaluate_every, 1),
        ("seed", seed, 0),
    ):
        if value < low:
            raise ConfigError(f"{name}: {value} is out of range; at least {low}")
    if not learning_rate > 0 or not 0 <= momentum < 1:
        raise ConfigError(
            f"learning_rate, momentum: {learning_rate}, {momentum} is out of range; above 0, and in [0, 1)"
        )


def _check_data(model: nn.Module, clients: Sequence[Pair], test: Pair) -> None:
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    if not dtypes:
        raise ConfigError("model: no trainable parameter")
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise ConfigError(f"model: parameters of type {sorted(map(str, dtypes))}; all float32, or all float64")
    for name, _ in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            raise ConfigError(
                f"model: {name} is a batch-norm statistic, which no method here federates; use group norm"
            )
    if not clients:
        raise ConfigError("clients: none; at least one (inputs, targets) pair")
    for number, (inputs, targets) in enumerate(clients):
        if len(inputs) == 0 or len(inputs) != len(targets):
            raise ConfigError(
                f"clients: client {number} has {len(inputs)} inputs and {len(targets)} targets; as many, at least 1"
            )
    if len(test[0]) == 0 or len(test[0]) != len(test[1]):
        raise ConfigError(f"test: {len(test[0])} inputs and {len(test[1])} targets; as many, at least 1")


def _answering(
    clients: int, rounds: int, available: int | None, participants: Sequence[Sequence[int]] | None
) -> list[list[int]] | None:
    """The clients that are to answer in each round, ascending, if they are given."""
    if participants is None:
        if available is not None and not 1 <= available <= clients:
            raise ConfigError(f"available: {available} is out of range; 1 to {clients}, the number of clients")
        return None
    if available is not None:
        raise ConfigError(f"participants, available: both given, and available is {available}; one of the two")
    given = [sorted(int(client) for client in ids) for ids in participants]
    if len(given) < rounds:
        raise ConfigError(f"participants: {len(given)} lists for {rounds} rounds; one list a round")
    for round_, ids in enumerate(given):
        if not ids or len(set(ids)) < len(ids) or ids[0] < 0 or ids[-1] >= clients:
            raise ConfigError(
                f"participants: {ids} in round {round_}; distinct clients of 0 to {clients - 1}, at least one"
            )
    return given[:rounds]


def _first(network: Network, plan: Plan) -> RunState:
    """The state before the first round."""
    server = network.weights.clone()
    return RunState(
        server,
        {name: server.new_zeros(len(plan.sizes), network.layout.numel) for name in plan.method.state},
        {name: torch.zeros_like(server) for name in plan.method.server_state},
    )


def _resume(state: RunState, probes: Sequence[Probe], saved: Mapping[str, Any]) -> None:
    if not state.fits(saved):
        raise ConfigError("resume: a state of another model, method or number of clients")
    state.load(saved)
    for probe in probes:
        probe.load(saved)


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
