"""What `flare.simulate` is given, before any round: made what the engines take, or refused in one line.

Nothing here computes a result. What a model can do is tried, not concluded from its name: a few samples go through a
copy that shares the weights, forward and backward, and all that this leaves behind is put back.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import numbers
import operator
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flare.columns import HISTORY
from flare.engine.base import Probe
from flare.engine.network import _EVALUATION_BATCH, Network, Pair
from flare.engine.state import RunState
from flare.errors import ConfigError, choose, shown
from flare.settings import ENGINES, LARGEST

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PAIR = "(inputs, targets), two tensors or numpy arrays, or a TensorDataset of two"
# How far two passes over the same few samples may be apart: on a GPU a library may choose another algorithm.
_ROUNDING = {"cpu": 1e-6, "cuda": 1e-3}


# --- numbers and words ----------------------------------------------------------------------------------------------


def whole(name: str, value: Any, low: int, high: int = LARGEST) -> int:
    """The whole number; ConfigError for another type or out of its range."""
    try:
        if isinstance(value, bool | np.bool_ | Tensor):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}: {shown(value)} is not allowed; a whole number, at least {low}") from None
    if not low <= number <= high:
        raise ConfigError(
            f"{name}: {shown(number)} is out of range; at least {low}" + f", at most {high}" * (number > high)
        )
    return number


def rates(learning_rate: Any, momentum: Any) -> tuple[float, float]:
    """The two as Python's numbers; ConfigError if one is none or out of its range."""
    rate, kept = _real(learning_rate), _real(momentum)
    if not rate > 0 or not 0 <= kept < 1:
        given = f"{shown(learning_rate)}, {shown(momentum)}"
        raise ConfigError(f"learning_rate, momentum: {given} is out of range; numbers, above 0, and in [0, 1)")
    return rate, kept


def _real(value: Any) -> float:
    """Not a number if it is none."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
        with contextlib.suppress(OverflowError):
            return float(value)
    return math.nan


def flag(name: str, value: Any, *, unset: bool = False) -> None:
    """ConfigError if it is not True or False, or None if that is allowed."""
    if not isinstance(value, bool | np.bool_) and not (unset and value is None):
        raise ConfigError(f"{name}: {shown(value)} is not allowed; True or False{', or None' * unset}")


def function(name: str, value: Any, *, unset: bool = True) -> None:
    """ConfigError if it cannot be called, and is not None if that is allowed."""
    if not callable(value) and not (unset and value is None):
        raise ConfigError(f"{name}: {shown(value)} is not allowed; a function{' or None' * unset}")


def keep_of(keep: Any) -> Any:
    """What `check_keep` can read; ConfigError for anything that is neither a number nor a string."""
    if keep is None or (isinstance(keep, str | numbers.Real) and not isinstance(keep, bool | np.bool_)):
        return keep
    raise ConfigError(f"keep: {shown(keep)} is out of range; 'dense', or above 0 and at most 1")


def mapping(name: str, value: Any) -> dict[str, Any]:
    """The mapping as a dict, empty for None; ConfigError for anything else."""
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{name}: {shown(value)} is not allowed; a mapping from names to values")
    return dict(value or {})


def words(name: str, value: Any) -> list[str]:
    """The names as a list; ConfigError for one string, or for what is no sequence of strings."""
    try:
        given = None if isinstance(value, str | bytes | Mapping) else list(value)
    except TypeError:
        given = None
    if given is None or not all(isinstance(word, str) for word in given):
        raise ConfigError(f"{name}: {shown(value)} is not allowed; a list of names")
    return given


def device_of(device: Any) -> torch.device:
    """The device, on which a tensor could be made; ConfigError if there is none of that name."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # RuntimeError, AssertionError or TypeError, by the kind of device
        raise ConfigError(
            f"device: {shown(device)} is not here; 'cpu', or a GPU that torch sees: {_said(error)}"
        ) from None
    if found.type == "meta":
        raise ConfigError(f"device: {shown(device)} computes nothing; 'cpu', or a GPU that torch sees")
    return found


def answering(
    clients: int, rounds: int, available: Any, participants: Any
) -> tuple[int | None, list[list[int]] | None]:
    """How many clients are drawn each round, or those that are to answer in each, ascending, if they are given."""
    if participants is None:
        if available is None:
            return None, None
        with contextlib.suppress(ConfigError):
            return whole("available", available, 1, clients), None
        raise ConfigError(f"available: {shown(available)} is out of range; 1 to {clients}, the number of clients")
    if available is not None:
        raise ConfigError(f"participants, available: both given, and available is {shown(available)}; one of the two")
    wanted = f"distinct clients of 0 to {clients - 1}, at least one"
    given = []
    for round_, ids in enumerate(_lists(participants, rounds)):
        try:
            found = sorted(whole("", client, 0, clients - 1) for client in itertools.islice(ids, clients + 1))
        except (ConfigError, TypeError):
            raise ConfigError(f"participants: {shown(ids)} in round {round_}; {wanted}") from None
        if not found or len(set(found)) < len(found):
            raise ConfigError(f"participants: {shown(found)} in round {round_}; {wanted}")
        given.append(found)
    if len(given) < rounds:
        raise ConfigError(f"participants: {len(given)} lists for {rounds} rounds; one list a round")
    return None, given[:rounds]


def _lists(participants: Any, rounds: int) -> Iterable[Any]:
    """All of a sequence, but of what may have no end as much as the rounds need."""
    if isinstance(participants, str | bytes | Mapping) or not isinstance(participants, Iterable):
        raise ConfigError(f"participants: {shown(participants)} is not allowed; one list of clients a round")
    return participants if isinstance(participants, Sequence) else itertools.islice(participants, rounds)


# --- data -----------------------------------------------------------------------------------------------------------


def pairs(clients: Any, test: Any) -> tuple[list[Pair], Pair]:
    """Clients and test data as tensors, targets as int64; numbers stay what they are. ConfigError for anything else."""
    if isinstance(clients, str | bytes | Mapping | Tensor | np.ndarray) or not isinstance(clients, Iterable):
        raise ConfigError(f"clients: {_kind(clients)}; a list with one pair a client: {_PAIR}")
    found = [_pair(pair, f"clients: client {number}") for number, pair in enumerate(_finite(clients))]
    if not found:
        raise ConfigError("clients: none; at least one (inputs, targets) pair")
    for number, (inputs, targets) in enumerate(found):
        _check_pair(inputs, targets, f"clients: client {number} has")
    unseen = _pair(test, "test")
    _check_pair(*unseen, "test:")
    return [(inputs, targets.long()) for inputs, targets in found], (unseen[0], unseen[1].long())


def _finite(clients: Iterable[Any]) -> Iterator[Any]:
    for number, pair in enumerate(clients):
        if number == LARGEST // 1000:
            raise ConfigError(f"clients: more than {number}; at most so many")
        yield pair


def _pair(given: Any, where: str) -> Pair:
    parts = getattr(given, "tensors", given)  # of a TensorDataset
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        raise ConfigError(f"{where}: {_kind(given)}; {_PAIR}")
    inputs, targets = (
        _tensor(part, f"{where}: {name}") for part, name in zip(parts, ("inputs", "targets"), strict=True)
    )
    return inputs, targets


def _tensor(given: Any, where: str) -> Tensor:
    try:
        if isinstance(given, np.ndarray) and not isinstance(given, np.ma.MaskedArray):
            given = torch.from_numpy(
                given if given.flags.writeable and min(given.strides, default=0) >= 0 else given.copy()
            )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: an array of {given.dtype}; {_said(error)}") from None
    if not isinstance(given, Tensor):
        raise ConfigError(f"{where}: {_kind(given)}; a tensor or a numpy array")
    if given.layout != torch.strided or given.is_meta or given.is_quantized or given.is_complex() or given.is_nested:
        raise ConfigError(f"{where}: {given.dtype}, {given.layout}, on {given.device}; a plain tensor of real numbers")
    if given.dim() == 0:
        raise ConfigError(f"{where}: one number; the first dimension is samples")
    return given.detach()  # nothing of the caller's gets a gradient


def _check_pair(inputs: Tensor, targets: Tensor, where: str) -> None:
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ConfigError(f"{where} {len(inputs)} inputs and {len(targets)} targets; as many, at least 1")
    if targets.dtype not in _WHOLE or targets.numel() == 0:
        one_hot = "; one-hot targets become it by argmax(1)" * (targets.dim() == 2 and targets.shape[1] > 1)
        found = f"{_shape(targets)}, {targets.dtype}"
        raise ConfigError(f"{where} targets of {found}; class indices, whole numbers{one_hot}")


def _kind(given: Any) -> str:
    name = type(given).__name__
    if isinstance(given, tuple | list):
        return f"a {name} of {len(given)}"
    hint = "; its data set's two tensors are wanted, not a loader" * (name == "DataLoader")
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}{hint}"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _said(error: BaseException) -> str:
    """An error's own words in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__


# --- the model ------------------------------------------------------------------------------------------------------


def check_model(model: Any) -> None:
    """ConfigError if its weights are not such that they can be federated."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: {_kind(model)}; a torch.nn.Module, with its weights")
    if any(isinstance(p, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer)
           for p in itertools.chain(model.parameters(), model.buffers())):  # fmt: skip
        raise ConfigError("model: a lazy layer has no weights yet; call the model once on inputs of the right shape")
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    if not dtypes:
        raise ConfigError("model: no trainable parameter")
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise ConfigError(f"model: parameters of type {sorted(map(str, dtypes))}; all float32, or all float64")
    _check_apart(model)
    _check_registered(model)
    try:
        copy.deepcopy(model, {id(p): p for p in model.parameters()})
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ConfigError(f"model: cannot be copied: {_said(error)}") from None


def _check_apart(model: nn.Module) -> None:
    """Two parameters of one piece of memory would be one number to the caller and two to the engines."""
    spans: dict[torch.device, list[tuple[int, int, str]]] = {}
    for name, p in model.named_parameters():
        if p.numel() and not p.is_meta and p.layout == torch.strided:
            reach = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True)) + 1
            spans.setdefault(p.device, []).append((p.data_ptr(), p.data_ptr() + reach * p.element_size(), name))
    for found in spans.values():
        for (_, end, one), (start, _, other) in itertools.pairwise(sorted(found)):
            if start < end:
                raise ConfigError(
                    f"model: {one} and {other} lie in the same memory; one parameter in both places, or two"
                )


def _check_registered(model: nn.Module) -> None:
    """What is kept beside a module's parameters, in a list say, is neither trained nor moved with them."""
    known = {id(found) for found in itertools.chain(model.modules(), model.parameters())}
    for where, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_modules", "_buffers"):
                continue
            inside = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            )
            for part in inside:
                weights = (
                    part.parameters() if isinstance(part, nn.Module) else [part] if isinstance(part, Tensor) else []
                )
                if id(part) not in known and any(weight.requires_grad for weight in weights):
                    raise ConfigError(
                        f"model: {where}{'.' * bool(where)}{name} holds weights that are no parameters of the model; "
                        "nn.Parameter, nn.ParameterList, nn.ModuleList or nn.ModuleDict"
                    )


def stands_twice(model: nn.Module) -> bool:
    """Whether a module with weights has several names: torch cannot exchange the weights of such a model."""
    seen: set[int] = set()
    for _, module in model.named_modules(remove_duplicate=False):
        if id(module) in seen and module._parameters:
            return True
        seen.add(id(module))
    return False


def check_forward(network: Network, batch_size: int) -> None:
    """ConfigError if the model cannot read the data, if the targets do not fit its outputs, or if forward changes it.

    On the network's own device and data, before it trains; its weights, and all generators, are left as they were.
    """
    if any(p.grad is None for p in network.model.parameters() if p.requires_grad):
        raise ConfigError("model: a copy of it does not take other weights (TorchScript?); a plain torch.nn.Module")
    with _untouched(network) as model:
        classes = [_check_training(network, model, samples) for samples in _samples(network.clients)]
        _check_indices([targets for _, targets in network.clients], min(classes), "clients: client {number}")
        for number, (inputs, targets) in enumerate(network.clients):
            if min(batch_size, len(targets)) == 1 or len(targets) % batch_size == 1:
                count = len(targets)
                last = f"clients: client {number}, of whose {count} samples batch_size {batch_size} leaves one alone"
                with torch.no_grad():
                    _forward(model, inputs[-1:], last, "samples, or another model (group norm instead of batch norm)")
                break
        _check_testing(network, model)


def _check_training(network: Network, model: nn.Module, samples: tuple[Tensor, Tensor, int]) -> int:
    """Forward, loss and backward of a few samples, twice from the same generator; the number of classes."""
    inputs, targets, number = samples
    where = f"clients: client {number}"
    before = _state(model)
    weights = network.weights.clone()
    model.train()
    torch.manual_seed(0)
    outputs = _read(model, inputs, targets, where)
    loss = _loss(network, outputs, targets)
    try:
        loss.backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ConfigError(f"model, loss: no gradient: {_said(error)}") from None
    first = outputs.detach().clone()
    _check_unchanged(model, before, "training")
    if not torch.equal(network.weights, weights) and not weights.isnan().any():
        raise ConfigError("model: its forward changes its own weights; training alone may")
    with torch.no_grad():
        _forward(model, inputs.flip(0), where)
        torch.manual_seed(0)
        _check_same(first, _forward(model, inputs, where), "training")
    return first.shape[1]


def _check_testing(network: Network, model: nn.Module) -> None:
    """Forward and loss of a few test samples, as in an evaluation."""
    (inputs, targets, _), *_ = _samples([network.test])
    before = _state(model)
    model.eval()
    with torch.no_grad():
        outputs = _read(model, inputs, targets, "test")
        first = outputs.clone()
        _loss(network, outputs, targets)
        _forward(model, inputs.flip(0), "test")
        _check_unchanged(model, before, "an evaluation")
        _check_same(first, _forward(model, inputs, "test"), "an evaluation")
        _check_indices([network.test[1]], first.shape[1], "test")
        if len(network.test[1]) % _EVALUATION_BATCH == 1:
            _forward(
                model, network.test[0][-1:], f"test: of {len(network.test[1])} samples the last is evaluated alone"
            )


@contextlib.contextmanager
def _untouched(network: Network) -> Iterator[nn.Module]:
    """A copy of the network's model on the same weights; these and all generators are put back at the end."""
    before = random.getstate(), np.random.get_state()  # a model may draw from them
    weights = network.weights.clone()
    devices = [network.device] if network.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield copy.deepcopy(network.model, {id(p): p for p in network.model.parameters()})
    finally:
        network.weights.copy_(weights)
        network.velocity.zero_()
        random.setstate(before[0])
        np.random.set_state(before[1])


def _samples(data: Sequence[Pair]) -> list[tuple[Tensor, Tensor, int]]:
    """Two samples, and whose they are, of each shape and type of inputs that occurs.

    Of whole numbers those with the smallest and the largest: an index that the model does not have is found.
    """
    groups: dict[Any, list[int]] = {}
    for number, (inputs, targets) in enumerate(data):
        groups.setdefault((inputs.shape[1:], inputs.dtype, targets.shape[1:]), []).append(number)
    found = []
    for numbers_ in groups.values():
        first = data[numbers_[0]][0]
        if first.is_floating_point() or first.dtype == torch.bool or not first.numel():
            rows = [(number, row) for number in numbers_[:2] for row in range(min(2, len(data[number][0])))][:2]
        else:
            rows = _ends([data[number][0] for number in numbers_], numbers_)
        both = [torch.cat([data[number][part][row : row + 1] for number, row in rows]) for part in (0, 1)]
        found.append((both[0], both[1], rows[0][0]))
    return found


def _ends(tensors: Sequence[Tensor], names: Sequence[int]) -> list[tuple[int, int]]:
    """Which tensor, and in which of its samples, has the largest and the smallest number."""
    low = torch.stack([tensor.min() for tensor in tensors])
    high = torch.stack([tensor.max() for tensor in tensors])
    out = []
    for at, value in ((int(high.argmax()), high.max()), (int(low.argmin()), low.min())):
        rows = (tensors[at] == value).reshape(len(tensors[at]), -1).any(1)
        out.append((names[at], int(rows.to(torch.uint8).argmax())))
    return out


def _forward(model: nn.Module, inputs: Tensor, where: str, wanted: str = "") -> Any:
    try:
        return model(inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        hint = "; whole numbers are read as they are: floats, or int64 for places in a vocabulary"
        hint = hint * (not inputs.is_floating_point()) + f"; {wanted}" * bool(wanted)
        read = f"inputs (N{''.join(f', {size}' for size in inputs.shape[1:])}) of {inputs.dtype}"
        raise ConfigError(f"{where}: the model cannot read its {read}: {_said(error)}{hint}") from None


def _read(model: nn.Module, inputs: Tensor, targets: Tensor, where: str) -> Tensor:
    """The model's outputs, which the targets fit."""
    outputs = _forward(model, inputs, where)
    if not isinstance(outputs, Tensor):
        raise ConfigError(f"model: its forward returns {_kind(outputs)}; a tensor (N, classes) or (N, classes, T)")
    if outputs.dim() < 2 or len(outputs) != len(inputs) or not outputs.is_floating_point():
        raise ConfigError(
            f"model: of {len(inputs)} samples its outputs are {_shape(outputs)}, {outputs.dtype}; (N, classes) or "
            "(N, classes, T), real numbers"
        )
    if targets.shape[1:] != outputs.shape[2:]:
        fitting = f"(N{''.join(f', {size}' for size in outputs.shape[2:]) or ','})"
        raise ConfigError(
            f"{where} has targets (N{''.join(f', {size}' for size in targets.shape[1:]) or ','}) for outputs "
            f"(N{''.join(f', {size}' for size in outputs.shape[1:])}); class indices {fitting}"
        )
    _check_indices([targets], outputs.shape[1], where)
    return outputs


def _loss(network: Network, outputs: Tensor, targets: Tensor) -> Tensor:
    try:
        loss = network.loss(outputs, targets)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ConfigError(f"loss: {_said(error)}") from None
    if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
        what = f"a tensor of shape {_shape(loss)}" if isinstance(loss, Tensor) else _kind(loss)
        raise ConfigError(f"loss: returns {what}; one real number, a tensor of shape ()")
    return loss


def _check_indices(targets: Sequence[Tensor], classes: int, where: str) -> None:
    ends = torch.stack([torch.stack(torch.aminmax(each)) for each in targets]).tolist()
    for number, (low, high) in enumerate(ends):
        if low < 0 or high >= classes:
            wrong = f"{where.format(number=number)} has the class index {low if low < 0 else high}"
            raise ConfigError(f"{wrong}; 0 to {classes - 1}, as the model has {classes} outputs")


def _state(model: nn.Module) -> dict[str, Any]:
    """All that is no weight but may decide an output: buffers, and how often a frozen parameter was written to."""
    frozen = {name: p._version for name, p in model.named_parameters() if not p.requires_grad}
    return frozen | {name: buffer.clone() for name, buffer in model.named_buffers()}


def _check_unchanged(model: nn.Module, before: dict[str, Any], during: str) -> None:
    after = _state(model)
    for name, old in before.items():
        if not _alike(old, after.get(name)):
            statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            kind = "a batch-norm statistic" if statistic else "changed by forward"
            raise ConfigError(f"model: in {during} {name} is {kind}, which no method here federates; use group norm")


def _alike(old: Any, new: Any) -> bool:
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return type(old) is type(new) and old == new
    return old.dtype == new.dtype and old.shape == new.shape and torch.equal(old.nan_to_num(), new.nan_to_num())


def _check_same(first: Tensor, second: Any, during: str) -> None:
    same = isinstance(second, Tensor) and first.shape == second.shape
    if same:
        scale = float(first.nan_to_num(0, 0, 0).abs().max()) if first.numel() else 0.0
        rounding = _ROUNDING.get(first.device.type, 1e-3)
        same = torch.allclose(first, second, rtol=0, atol=rounding * scale, equal_nan=True)
    if not same:
        raise ConfigError(
            f"model: in {during} its outputs depend on what it has read before, or on more than torch's generator; a "
            "forward of weights, inputs and torch's generator alone"
        )


# --- a state to go on from ------------------------------------------------------------------------------------------


def engine_of(saved: Any) -> str:
    """The engine of a saved state; ConfigError if it is none."""
    if not isinstance(saved, Mapping) or "engine" not in saved:
        raise ConfigError(f"resume: {shown(saved)} is no state that on_state was given")
    return choose("resume: engine", saved["engine"], ENGINES)


def check_state(saved: Mapping[str, Any], state: RunState, probes: Sequence[Probe], rounds: int) -> None:
    """ConfigError if the saved state is not one of this run."""
    missing = [name for name in state.to_dict() if name not in saved and name != "server_memory"]
    if missing:
        raise ConfigError(f"resume: {missing[0]!r} is missing; a state that on_state was given")
    for name in ("completed", "uplink", "downlink", "dense"):
        whole(f"resume: {name}", saved[name], 0, 1 << 256)
    if saved["completed"] > rounds:
        raise ConfigError(f"resume: completed: {saved['completed']} is out of range; at most {rounds}, the rounds")
    if saved["first_loss"] is not None and not isinstance(saved["first_loss"], int | float):
        raise ConfigError(f"resume: first_loss: {shown(saved['first_loss'])} is not allowed; a number or None")
    _check_vectors(saved, state)
    columns = [*HISTORY, *(column for probe in probes for column in probe.columns)]
    rows = saved["history"]
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and list(row) == columns for row in rows):
        raise ConfigError(f"resume: history: not rows of the columns {', '.join(columns)}")
    numbers_ = [row["round"] for row in rows]
    if any(isinstance(value, str) for row in rows for value in row.values()) or numbers_ != sorted(
        {number for number in numbers_ if number in range(saved["completed"])}
    ):
        raise ConfigError(f"resume: history: rows of rounds {shown(numbers_)}; ascending, below {saved['completed']}")


def _check_vectors(saved: Mapping[str, Any], state: RunState) -> None:
    vectors: dict[str, Any] = {"server": saved["server"]}
    for of in ("memory", "server_memory"):
        if not isinstance(saved.get(of, {}), Mapping):
            raise ConfigError(f"resume: {of}: {shown(saved[of])} is not allowed; tensors by name")
        vectors |= {f"{of}: {name}": vector for name, vector in saved.get(of, {}).items()}
    for name, vector in vectors.items():
        if not isinstance(vector, Tensor) or vector.dtype != state.server.dtype or vector.layout != torch.strided:
            raise ConfigError(
                f"resume: {name}: {_kind(vector)}, {getattr(vector, 'dtype', '')}; a {state.server.dtype} tensor"
            )
    if not state.fits(saved):
        raise ConfigError("resume: a state of another model, method or number of clients")
    if not bool(saved["server"].isfinite().all()):
        raise ConfigError("resume: server: weights that are not finite; a state that on_state was given")


def load_probe(probe: Probe, saved: Mapping[str, Any]) -> None:
    """Have the probe take over its part of the state; ConfigError if that is not there."""
    try:
        probe.load(saved)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"resume: the state of the probe of {', '.join(probe.columns)}: {_said(error)}") from None
