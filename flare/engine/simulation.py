"""The simulation: the only round loop and the only local-training loop.

One round is that of federated averaging (McMahan et al., arXiv 1602.05629, algorithm 1): the server sends w to the
clients that answer, each trains from w with a fresh heavy-ball SGD, the method turns its difference d_k = w_k - w
into a message, and the server adds the unweighted mean of the messages. Everything a method needs is in
`flare.algorithms`.

All weights lie in one flat vector and the model's tensors are views of it. The velocity is where autograd accumulates:
v is scaled by the momentum before the backward pass, which then adds the gradient to it, so no gradient is stored.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import inspect
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from flare import algorithms
from flare.engine.sparsify import Layout, Message, add_mean
from flare.engine.staleness import COLUMNS, Staleness
from flare.engine.together import Together, put
from flare.errors import ConfigError, choose
from flare.settings import check_keep, check_settings

if TYPE_CHECKING:
    import pandas as pd

FIDELITIES = ("paper", "authors")
ENGINES = ("one-at-a-time", "together")
HISTORY = ("round", "uplink_bits", "downlink_bits", "train_loss", "test_loss", "test_accuracy")
_EVALUATION_BATCH = 1000
# Where all messages of a round have at most this share of the weights together, their sum needs no vector of its own.
_SPARSE = 1 / 32
# Linear layers of so many weights, or more, are worth a product of their own: their gradient does not fit in a cache.
_FUSED = 1 << 18

Loss = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]
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


def double_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of a softmax of a softmax p, as in the FLARE authors' CNN: mean of -p_y + log sum exp p."""
    return cross_entropy(logits.softmax(1), targets)


def simulate_rows(
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
    staleness: also measure how stale what the clients keep is: the columns of flare.engine.staleness.COLUMNS.
    on_round(round, weights): called after each completed round with the server's weights, copies by parameter name.
    on_evaluate(row): called with each row of the history as it comes.
    on_state(state): called after each completed round with all that the rounds to come depend on; whatever is random is
        seeded by the seed, the round and the client, so no generator is part of it. Save it or copy it: the next round
        overwrites it.
    resume: such a state, of a run with the same arguments. The run goes on after it and ends with the same bits.
    together: train all clients of a round side by side (`engine.together`), which fills a GPU; None does so on a GPU and
        not on a CPU. Where memory does not suffice, or the model is a recurrent one, they go one at a time, with a
        warning. The two agree to rounding, until an entry falls on the other side of a selection; dropout differs.

    tf32: let a GPU round the factors of products and convolutions to TF32; the settings of torch are left as they were.

    The history has one row per evaluation: round (from 0), uplink_bits and downlink_bits (sums over clients and
    rounds so far), train_loss (mean over clients of their mean batch loss in that round), test_loss, test_accuracy.
    `history.attrs` says status ("finished" or "diverged"), diverged_round, rounds (completed), dense_bits (the uplink
    had every message been dense), parameters and engine (of ENGINES). A run whose loss or weights are no longer finite
    has diverged and ends there.
    Raises ConfigError, one line, for an argument out of its range.
    """
    chosen = algorithms.load(method)
    own = check_settings(chosen.settings, dict(settings or {}), f"method {method}")
    choose("fidelity", fidelity, FIDELITIES)
    fraction = None if chosen.dense else check_keep(keep)
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
    with torch.random.fork_rng(devices=[]), _tf32(tf32):
        device = torch.device(device)
        if resume is not None:  # the rounds to come are those of the same engine
            together = resume["engine"] == ENGINES[1]
        elif together is None:
            together = device.type == "cuda"
        federation = _Federation(model, clients, test, loss, device, alone=not together)
        del model
        _trim()  # where nobody else holds the model, its weights are not in memory twice
        answering = _answering(len(clients), rounds, available, participants, seed)

        server = federation.weights.clone()
        layout = federation.layout
        memory = {
            name: torch.zeros(len(clients), layout.numel, dtype=server.dtype, device=server.device)
            for name in chosen.state
        }
        total: Tensor | None = None  # what the clients of a round contribute
        training: dict[str, Any] = {
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "momentum": momentum,
            "restart": fidelity == "authors" and chosen.restarts_momentum,
            "shuffle": shuffle,
            # Where the loss explodes so do the epochs: they end where the run is past saving.
            "watch": chosen.budget is not None,
        }
        beside: Together | None = None
        if together:
            most = max(map(len, participants)) if participants is not None else available or len(clients)
            total = torch.zeros_like(server)
            beside = _beside(federation, most, server, memory, total, chosen, own, fraction, fidelity, training)
        stale = Staleness(len(clients), layout) if staleness else None
        uplink = downlink = dense = completed = 0
        first_loss: float | None = None
        diverged: int | None = None
        history: list[dict[str, Any]] = []
        if resume is not None:
            if resume["server"].shape != server.shape or {n: rows.shape for n, rows in resume["memory"].items()} != {
                name: rows.shape for name, rows in memory.items()
            }:
                raise ConfigError("resume: a state of another model, method or number of clients")
            server.copy_(resume["server"])
            for name, rows in memory.items():
                rows.copy_(resume["memory"][name])
            if stale:
                stale.last[:] = resume["last_sent"].numpy()
            uplink, downlink, dense, first_loss = (
                resume[name] for name in ("uplink", "downlink", "dense", "first_loss")
            )
            history += resume["history"]
            completed = resume["completed"]

        for round_, ids in itertools.islice(enumerate(answering), completed, None):
            budget, epochs = fraction, local_epochs
            if chosen.budget:
                loss_now, _ = federation.evaluate(server, *federation.training_data)
                first_loss = loss_now if first_loss is None else first_loss
                limited, epochs = chosen.budget(
                    1.0 if fraction is None else fraction, local_epochs, loss_now, first_loss, own
                )
                budget = None if fraction is None else limited

            def compress(vector: Tensor, budget: float | None = budget) -> Message:
                return layout.compress(vector, budget, fidelity)

            few = not beside and budget is not None and budget * len(ids) <= _SPARSE
            if few and chosen.receive is algorithms.add_message:
                total = None
            else:
                total = torch.zeros_like(server) if total is None else total.zero_()
            messages: list[Message] = []
            losses = []
            if stale:
                stale.begin()
            sent: Tensor | int = 0
            if beside and total is not None:
                seeds = {client: _mix(seed, round_, client) for client in ids}
                mean_loss, sent = beside.round(
                    round_,
                    seeds,
                    server,
                    memory,
                    total,
                    chosen,
                    own,
                    budget,
                    fidelity,
                    stale,
                    training | {"epochs": epochs},
                )
                downlink += 32 * layout.numel * len(ids)
                dense += 32 * layout.numel * len(ids)
            for client in () if beside else ids:
                state = {name: rows[client] for name, rows in memory.items()}
                pull = chosen.pull(round_, server, state, own, layout) if chosen.pull else None
                steps, add = pull if pull else (0, None)
                local_loss = federation.train(
                    client,
                    server,
                    epochs=epochs,
                    pull_steps=steps,
                    pull=add,
                    seed=_mix(seed, round_, client),
                    **training,
                )
                losses.append(local_loss)
                difference = federation.weights.sub_(server)
                if stale:
                    stale.before(difference, state.get("accumulator"))
                message = chosen.message(difference, state, own, compress)
                if stale:
                    stale.after(client, round_, message, state.get("accumulator"))
                if total is None:
                    messages.append(message)
                else:
                    chosen.receive(total, message, state)
                uplink += message.bits
                downlink += 32 * layout.numel
                dense += 32 * layout.numel
            if total is None:
                add_mean(server, messages)
            else:
                server += total.div_(len(ids))

            if beside:  # the one time in a round that the device is waited for
                numbers = [torch.as_tensor(number, dtype=torch.float64) for number in (mean_loss, server.sum(), sent)]
                train_loss, weight_sum, bits = torch.stack([put(number, device) for number in numbers]).tolist()
                uplink += int(bits)
            else:
                train_loss, weight_sum = float(torch.stack(losses).mean()), float(server.sum())
            if not math.isfinite(train_loss) or not math.isfinite(weight_sum):
                diverged = round_
                break
            if round_ % evaluate_every == 0 or round_ == rounds - 1:
                test_loss, accuracy = federation.evaluate(server, *federation.test)
                row = dict(zip(HISTORY, (round_, uplink, downlink, train_loss, test_loss, accuracy), strict=True))
                if not math.isfinite(test_loss):
                    diverged = round_
                    break
                if stale:
                    row |= stale.measure(round_)
                history.append(row)
                if on_evaluate:
                    on_evaluate(row)
            completed += 1
            if on_round:
                on_round(round_, {name: view.clone() for name, view in layout.views(server).items()})
            if on_state:
                on_state(
                    {
                        "completed": completed,
                        "engine": ENGINES[beside is not None],
                        "server": server,
                        "memory": memory,
                        "last_sent": torch.from_numpy(stale.last) if stale else None,
                        "uplink": uplink,
                        "downlink": downlink,
                        "dense": dense,
                        "first_loss": first_loss,
                        "history": history,
                    }
                )

    ended = {
        "status": "finished" if diverged is None else "diverged",
        "diverged_round": diverged,
        "rounds": completed,
        "uplink_bits": uplink,
        "downlink_bits": downlink,
        "dense_bits": dense,
        "parameters": layout.numel,
        "engine": ENGINES[beside is not None],
    }
    found = History((*HISTORY, *(COLUMNS if staleness else ())), history, ended)
    return found, {name: view.contiguous() for name, view in layout.views(server).items()}


# For who calls it from Python; a run of a sweep does without pandas.
simulate = _framed(simulate_rows)
simulate.__name__ = simulate.__qualname__ = "simulate"


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


def _beside(
    federation: _Federation,
    most: int,
    server: Tensor,
    memory: dict[str, Tensor],
    total: Tensor,
    chosen: algorithms.Method,
    own: Any,
    keep: float | None,
    fidelity: str,
    training: dict[str, Any],
) -> Together | None:
    """What trains `most` clients side by side, if a first round of two steps works; None, with a warning, if not.

    Leaves `memory` and `total` at 0.
    """
    why = ""
    engine: Together | None = None
    if any(isinstance(module, nn.RNNBase) for module in federation.model.modules()):
        why = "a recurrent layer cannot be stacked"
    else:
        try:
            engine = Together(
                federation.model, federation.loss, federation.layout, federation.clients, federation.weights, most
            )
            seeds = dict.fromkeys(range(most), 0)
            limited = training | {"epochs": 2, "most_steps": 2}
            engine.round(0, seeds, server, memory, total, chosen, own, keep, fidelity, None, limited)
            float(total.sum())  # waits for the device, so that what fails there fails here
            federation.clients = engine.clients
        except RuntimeError as error:  # so is running out of memory
            why = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            engine = None
        if why and federation.device.type == "cuda":
            torch.cuda.empty_cache()
        for vector in (total, *memory.values()):
            vector.zero_()
        federation.velocity.zero_()
    if why:
        warnings.warn(f"clients are trained one at a time, not together: {why}", stacklevel=3)
        return None
    return engine


def _mix(*numbers: int) -> int:
    """A seed that depends on all of the numbers: equal only where they are."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _answering(
    clients: int, rounds: int, available: int | None, participants: Sequence[Sequence[int]] | None, seed: int
) -> Iterator[list[int]]:
    """The clients that answer in each round, ascending; checked before the first round."""
    if participants is not None:
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
        return iter(given[:rounds])
    if available is not None and not 1 <= available <= clients:
        raise ConfigError(f"available: {available} is out of range; 1 to {clients}, the number of clients")
    if available is None or available == clients:
        return (list(range(clients)) for _ in range(rounds))
    return (
        sorted(np.random.default_rng([seed, round_]).choice(clients, available, replace=False).tolist())
        for round_ in range(rounds)
    )


def _trim() -> None:
    """Have glibc return free memory, which is else kept in pieces too small for what comes; elsewhere nothing."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)


def _linear(module: nn.Linear, inputs: Tensor) -> Tensor:
    outputs: Tensor = _Linear.apply(inputs, module.weight, module.bias)
    return outputs


class _Linear(torch.autograd.Function):
    """A linear layer whose backward pass adds to the weight's gradient in the product itself.

    autograd forms the product and then adds it: a tensor of the weight's size that is written and read once more.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows = gradient.reshape(-1, gradient.shape[-1])
        weight.grad.addmm_(rows.T, inputs.reshape(-1, inputs.shape[-1]))
        needs_inputs, _, needs_bias = ctx.needs_input_grad
        return gradient @ weight if needs_inputs else None, None, rows.sum(0) if needs_bias else None


class _Federation:
    """The model on flat storage and the data, prepared once: trains a client, evaluates weights."""

    def __init__(
        self,
        model: nn.Module,
        clients: Sequence[Pair],
        test: Pair,
        loss: Loss,
        device: torch.device,
        *,
        alone: bool,
    ) -> None:
        given = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not given:
            raise ConfigError("model: no trainable parameter")
        dtypes = {p.dtype for p in given.values()}
        if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
            raise ConfigError(f"model: parameters of type {sorted(map(str, dtypes))}; all float32, or all float64")
        # A copy of the model but for its weights, which are put on flat storage at once: they are not in memory twice.
        parameters = {name: nn.Parameter(torch.empty(0, dtype=p.dtype)) for name, p in given.items()}
        self.model = copy.deepcopy(model, {id(p): parameters[name] for name, p in given.items()}).to(device)
        for name, buffer in self.model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                raise ConfigError(
                    f"model: {name} is a batch-norm statistic, which no method here federates; use group norm"
                )
            buffer.requires_grad_(False)
        self.dtype = next(iter(dtypes))
        self.device = device
        self.loss = loss
        # Convolutions on a CPU are a quarter faster on channels-last weights and inputs.
        alone = alone and device.type == "cpu"
        self.channels_last = alone and any(p.dim() == 4 for p in given.values())
        self.layout = Layout.of([(n, p.shape) for n, p in given.items()], channels_last=self.channels_last)
        self.weights = torch.empty(self.layout.numel, dtype=self.dtype, device=device)
        self.velocity = torch.zeros_like(self.weights)
        views, velocities = self.layout.views(self.weights), self.layout.views(self.velocity)
        for name, parameter in parameters.items():
            views[name].copy_(given[name].data)
            parameter.data, parameter.grad = views[name], velocities[name]
        for module in self.model.modules() if alone else ():
            if type(module) is nn.Linear and module.weight.requires_grad and module.weight.numel() >= _FUSED:
                module.forward = functools.partial(_linear, module)  # type: ignore[method-assign]
        if not clients:
            raise ConfigError("clients: none; at least one (inputs, targets) pair")
        for number, (inputs, targets) in enumerate(clients):
            if len(inputs) == 0 or len(inputs) != len(targets):
                raise ConfigError(
                    f"clients: client {number} has {len(inputs)} inputs and {len(targets)} targets; as many, at least 1"
                )
        if len(test[0]) == 0 or len(test[0]) != len(test[1]):
            raise ConfigError(f"test: {len(test[0])} inputs and {len(test[1])} targets; as many, at least 1")
        self.clients = [self._prepare(pair) for pair in clients]
        self.test = self._prepare(test)

    def _prepare(self, pair: Pair) -> Pair:
        inputs, targets = (tensor.to(self.device) for tensor in pair)
        if inputs.is_floating_point():
            inputs = inputs.to(self.dtype)
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, targets

    @functools.cached_property
    def training_data(self) -> Pair:
        """All clients' data, client after client."""
        inputs, targets = zip(*self.clients, strict=True)
        return torch.cat(inputs), torch.cat(targets)

    def train(
        self,
        client: int,
        server: Tensor,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        momentum: float,
        pull_steps: int | None,
        pull: Callable[[Tensor, Tensor, int], None] | None,
        restart: bool,
        shuffle: bool,
        watch: bool,
        seed: int,
    ) -> Tensor:
        """Train one client from the server's weights; leaves w_k in `self.weights`, returns the mean batch loss.

        watch: stop after an epoch whose last loss is not finite.
        """
        weights, velocity = self.weights, self.velocity
        weights.copy_(server)
        velocity.zero_()
        if self.device.type == "cuda":
            torch.manual_seed(seed)
        else:  # torch.manual_seed looks for a GPU each time, which costs more than a small step
            torch.default_generator.manual_seed(seed)
        self.model.train()
        losses = []
        step = 0
        for _ in range(epochs):
            for inputs, targets in _batches(self.clients[client], batch_size, shuffle):
                if step:
                    velocity.mul_(momentum)
                loss = self.loss(self.model(inputs), targets)
                loss.backward()
                losses.append(loss.detach())
                if pull and (pull_steps is None or step < pull_steps):
                    pull(velocity, weights, step)
                weights.add_(velocity, alpha=-learning_rate)
                step += 1
                if restart and step == pull_steps:
                    velocity.zero_()
            if watch and not math.isfinite(losses[-1]):
                break
        return torch.stack(losses).mean()

    @torch.no_grad()
    def evaluate(self, server: Tensor, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Mean loss and accuracy of the server's weights over all targets. Overwrites `self.weights`."""
        self.weights.copy_(server)
        self.model.eval()
        loss, right = 0.0, 0
        for start in range(0, len(inputs), _EVALUATION_BATCH):
            batch = targets[start : start + _EVALUATION_BATCH]
            outputs = self.model(inputs[start : start + _EVALUATION_BATCH])
            loss += float(self.loss(outputs, batch)) * len(batch)
            right += int((outputs.argmax(1) == batch).sum())
        return loss / len(targets), right / targets.numel()


def _batches(pair: Pair, batch_size: int, shuffle: bool) -> Iterator[Pair]:
    inputs, targets = pair
    if shuffle:
        order = torch.randperm(len(inputs)).to(inputs.device)
        inputs, targets = inputs[order], targets[order]
    return zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
