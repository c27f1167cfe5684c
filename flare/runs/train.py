"""One run from its settings to its folder: data, model, simulation, record, mirror."""

from __future__ import annotations

import functools
import json
import math
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flare import algorithms, datasets, models
from flare.columns import HISTORY
from flare.config.run import Run
from flare.datasets import partitions
from flare.engine import memory
from flare.errors import ConfigError
from flare.files import write_whole
from flare.runs import checkpoint, lease, machine, provenance
from flare.runs.identity import key_of
from flare.runs.process import load_libraries, say
from flare.runs.progress import Progress
from flare.runs.reading import look
from flare.runs.record import write_run
from flare.settings import ENGINES, check_settings
from flare.tracking import Tracker
from flare.tracking.mirror import Mirror

# What a run leaves; the last of them if it is asked for.
FILES = ("rounds.csv", "run.json", "sample.txt")
# What of a record a tracker is told at the end.
_TOLD = ("status", "final_accuracy", "best_accuracy", "compression", "result_hash")

Report = Callable[[dict[str, Any]], None]


def train_all(runs: Sequence[tuple[Run, Path]], *, device: str = "cpu", jobs_per_gpu: int = 1, **options: Any) -> bool:
    """Carry out some runs, each with its folder, in one process; options are those of `train`.

    device: "cuda" is any GPU with a free place for one of jobs_per_gpu processes; it is kept until all runs are done.
    True where all are done. One that fails prints why, and the others are carried out; what is done is kept until all
    are, so that a second try does the rest.
    """
    done = True
    with memory.kept(), checkpoint.Stop() as stop, lease.gpu(device, jobs_per_gpu, waiting=stop.check) as device:
        load = functools.lru_cache(maxsize=2)(datasets.load) if len(runs) > 1 else datasets.load
        for run, output in runs:
            try:
                train(run, output=output, device=device, stop=stop, load=load, hold=len(runs) > 1, **options)
            except (checkpoint.Interrupted, ValueError):
                raise
            except Exception:
                if len(runs) == 1:
                    raise
                say(f"{run.folder}: failed", error=True)
                say(traceback.format_exc().rstrip(), error=True)
                done = False
    if done:
        for _, output in runs:
            checkpoint.remove(output)
    return done


def train(  # noqa: PLR0913, each says how a run is carried out
    run: Run,
    *,
    data: Path,
    output: Path,
    device: str = "cpu",
    threads: int = 1,
    wandb: str = "offline",
    checkpoint_seconds: float = checkpoint.SECONDS,
    checkpoint_rounds: int | None = None,
    stop: checkpoint.Stop | None = None,
    load: Callable[..., datasets.Split] = datasets.load,
    hold: bool = False,
    on_evaluate: Report | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """Carry out the run and write rounds.csv and run.json into `output`; returns what run.json says.

    data: folder of the prepared data sets (`python -m flare fetch`). threads: torch's, on the CPU. wandb: offline,
    online or disabled. Same run, same files except for the wall time, on one kind of machine, however often it was
    interrupted: it goes on from its checkpoint, saved at most every checkpoint_seconds or every checkpoint_rounds.
    stop: raises checkpoint.Interrupted once it has noted a signal. load: `datasets.load`, or one that remembers. hold:
    keep the finished run's files in its checkpoint, too, so that it is not carried out again if they are deleted.
    on_evaluate(row): called at every evaluation, first those before an interruption; what it raises ends the run.
    code: the digest of the code that the run was planned with; other code is refused.

    A run that was set aside (`old-...` in its folder) and is what is to be carried out is taken back instead.
    """
    provenance.check_code(run, code)
    wanted = provenance.planned(run, data, device, threads)
    known = _known(output, wanted, stop)
    if known is not None:
        return known
    parent = os.getppid()
    load_libraries(wandb != "disabled")
    import torch

    torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {device!r} is not here; torch sees no GPU, use cpu")
    key, stop = key_of(run, data, device, threads), stop or checkpoint.Stop()
    here = machine.machine(device)
    saving = checkpoint.Checkpoint(
        output, key, stop, seconds=checkpoint_seconds, rounds=checkpoint_rounds, machine=here
    )
    with memory.kept(), saving as saved:
        if saved.waited and wanted.problem(output) == "":  # what was waited for has ended well
            say(f"{run.folder}: finished by the other process")
            return look(output)[0]
        state = saved.load(functools.partial(_is_state, run))
        if state and "files" in state:  # finished, and deleted because others of its job were not
            for name, text in state["files"].items():
                write_whole(output / name, text.encode())
            held: dict[str, Any] = json.loads(state["files"]["run.json"])
            return held
        clients, test = _tensors(run, data, load)
        new_model = _model(run, tuple(test[0].shape[1:]))
        if state and not _has_shapes(state, run, new_model()):
            saved.refuse("a state of other shapes")
            state = None
        with saved.untimed():  # a server that is slow or gone is no part of what the run costs
            tracker = Mirror(run, output, wandb, resumed=state is not None)
        progress = Progress(run, state["completed"] if state else 0)
        reports = _reports(saved, state, tracker, progress, run.rounds, on_evaluate)
        try:
            history, weights = _simulated(run, new_model, clients, test, device, state, reports)
        except BaseException as error:
            tracker.finish({}, exit_code=checkpoint.RESUMABLE if isinstance(error, checkpoint.Interrupted) else 1)
            raise
        if run.sample_text:
            model = new_model()
            model.load_state_dict({name: weight.cpu() for name, weight in weights.items()})
            vocabulary = datasets.module(run.dataset).VOCABULARY
            write_whole(output / "sample.txt", sample(model, vocabulary, run.sample_text, run.seed).encode())
        seconds = saved.wall_seconds
        made_from = {
            **{"code": key["code"], "data": key["data"], "device": key["device"]},
            **{"threads": torch.get_num_threads(), **here, "resumed_from": saved.machines},
        }
        summary = write_run(
            output, run, history, weights, wall_seconds=seconds, device=device, threads=threads, made_from=made_from
        )
        progress.close(summary)
        tracker.finish({name: summary[name] for name in _TOLD})
        if hold or os.getppid() != parent:  # who began this run is gone, and may begin it again
            files = {file.name: file.read_text("utf-8") for file in output.iterdir() if file.name in FILES}
            saved.save({"files": files})
        else:
            checkpoint.remove(output)
    return summary


def _is_state(run: Run, state: Mapping[str, Any]) -> bool:
    """Whether a state can be one that this run saved: after so many rounds, with their rows; or its files."""
    if "files" in state:
        files = state["files"]
        record = json.loads(files["run.json"])
        return {"rounds.csv"} < set(files) <= set(FILES) and bool(
            record["config"] == json.loads(json.dumps(asdict(run)))
        )
    completed, rounds = state["completed"], [row["round"] for row in state["history"]]
    counts = [completed, *(state[name] for name in ("uplink", "downlink", "dense")), *rounds]
    if not all(type(count) is int and count >= 0 for count in counts) or not completed < run.rounds:
        return False
    columns = {name for row in state["history"] for name in HISTORY if not math.isfinite(row[name])}
    evaluated = [n for n in range(completed) if n % run.evaluate_every == 0]
    last = state["history"][-1] if rounds else {"uplink_bits": 0, "downlink_bits": 0}
    fits = last["uplink_bits"] <= state["uplink"] and last["downlink_bits"] <= state["downlink"]
    return not columns and rounds == evaluated and fits


def _has_shapes(state: Mapping[str, Any], run: Run, model: Any) -> bool:
    """Whether the tensors of a state are those of this run's model, method and clients, and numbers."""
    import torch

    numel = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    method = algorithms.load(run.method)
    wanted: dict[str, dict[str, tuple[int, ...]]] = {
        "server": {"server": (numel,)},
        "memory": {name: (run.clients, numel) for name in method.state},
        "server_memory": {name: (numel,) for name in method.server_state},
    }
    found = {of: {of: state.get(of)} if of == "server" else state.get(of) for of in wanted}
    return all(
        isinstance(tensors, dict)
        and {name: tuple(tensor.shape) for name, tensor in tensors.items() if torch.is_tensor(tensor)} == wanted[of]
        and len(tensors) == len(wanted[of])
        for of, tensors in found.items()
    )


def _known(output: Path, wanted: provenance.Planned, stop: checkpoint.Stop | None) -> dict[str, Any] | None:
    """The record of a run that was set aside and is wanted again, after it was put back."""
    if not any(output.glob("old-*")) or any((output / name).exists() for name in ("run.json", checkpoint.NAME)):
        return None
    with checkpoint.Checkpoint(output, {}, stop or checkpoint.Stop()):
        record = provenance.take_back(output, wanted)
    if record is not None:
        say(f"{output}: was set aside and is what is asked for; taken back")
    return record


def _tensors(run: Run, data: Path, load: Callable[..., datasets.Split]) -> tuple[Any, Any]:
    """The clients' and the test tensors, read from the prepared data set."""
    from flare.runs.data import prepared

    source = datasets.module(run.dataset)
    train = load(run.dataset, data, "train")
    parts = partitions.split(train.targets, run.clients, dict(run.partition), run.seed, train.clients)
    test = functools.partial(load, run.dataset, data, "test")
    return prepared(run, train, parts, test, source.SCALE, datasets.kind(source) == "text")


def _model(run: Run, shape: tuple[int, ...]) -> Callable[[], Any]:
    """What makes the run's model with its initial weights."""
    settings = check_settings(models.load(run.model).Settings, run.model_settings, "model_settings")
    classes = datasets.module(run.dataset).CLASSES
    return functools.partial(models.create, run.model, shape, classes, settings, run.seed, run.fidelity)


def _reports(
    saved: checkpoint.Checkpoint,
    state: Mapping[str, Any] | None,
    tracker: Tracker,
    progress: Progress,
    rounds: int,
    on_evaluate: Report | None,
) -> tuple[Callable[[], None], Report, Report]:
    """What tells of the rows before an interruption, of a row, and of a completed round."""

    def before() -> None:
        for row in state["history"] if state else ():
            with saved.untimed():
                tracker.log(row)
            if on_evaluate:
                on_evaluate(row)

    def evaluated(row: dict[str, Any]) -> None:
        progress.show(row)
        with saved.untimed():
            tracker.log(row)
        if on_evaluate:
            on_evaluate(row)

    def completed(state: dict[str, Any]) -> None:
        progress.advance(state["completed"])
        if state["completed"] < rounds:
            saved.offer(state)

    return before, evaluated, completed


def _simulated(
    run: Run,
    new_model: Callable[[], Any],
    clients: Any,
    test: Any,
    device: str,
    state: Mapping[str, Any] | None,
    reports: tuple[Callable[[], None], Report, Report],
) -> tuple[Any, dict[str, Any]]:
    """History and final weights of the run, from its checkpoint on."""
    from torch.nn.functional import cross_entropy

    from flare.engine.api import simulate_rows
    from flare.engine.network import double_softmax

    before, evaluated, completed = reports
    before()
    return simulate_rows(
        new_model(),  # held by nobody here: its weights need not stay in memory
        clients,
        test=test,
        loss=double_softmax if run.double_softmax else cross_entropy,
        device=device,
        on_evaluate=evaluated,
        on_state=completed,
        resume=state,
        together=None if run.engine is None else run.engine == ENGINES[1],
        **run.arguments(),
    )


def sample(model: Any, vocabulary: str, length: int, seed: int) -> str:
    """So many characters of the model's own writing, from an empty line on, and a line's end."""
    from flare.models.gru import write

    return "".join(vocabulary[number] for number in write(model, [vocabulary.index("\n")], length, seed)) + "\n"
