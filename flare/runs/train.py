"""One run from its settings to its folder: data, model, simulation, record, mirror."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flare import datasets
from flare.config import Run
from flare.errors import ConfigError
from flare.runs import checkpoint, lease
from flare.runs.record import size, write_run, write_whole
from flare.settings import check_settings

# What a run leaves; the last of them where it is asked for.
FILES = ("rounds.csv", "run.json", "sample.txt")


def train_all(runs: Sequence[tuple[Run, Path]], *, device: str = "cpu", jobs_per_gpu: int = 1, **options: Any) -> bool:
    """Carry out some runs, each with its folder, in one process; options are those of `train`.

    device: "cuda" is any GPU with a free place for one of jobs_per_gpu processes; it is kept until all runs are done.
    True where all are done. One that fails prints why, and the others are carried out; what is done is kept until all
    are, so that a second try does the rest.
    """
    done = True
    with checkpoint.Stop() as stop, lease.gpu(device, jobs_per_gpu, waiting=stop.check) as device:
        load = functools.lru_cache(maxsize=2)(datasets.load) if len(runs) > 1 else datasets.load
        for run, output in runs:
            try:
                train(run, output=output, device=device, stop=stop, load=load, hold=len(runs) > 1, **options)
            except (checkpoint.Interrupted, ValueError):
                raise
            except Exception:
                if len(runs) == 1:
                    raise
                print(f"{run.folder}: failed", file=sys.stderr)
                traceback.print_exc()
                done = False
    if done:
        for _, output in runs:
            checkpoint.remove(output)
    return done


def train(
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
    on_evaluate: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Carry out the run and write rounds.csv and run.json into `output`; returns what run.json says.

    data: folder of the prepared data sets (`python -m flare fetch`). threads: torch's, on the CPU. wandb: offline,
    online or disabled. Same run, same files but for the wall time, on one kind of machine, however often it was
    interrupted: it goes on from its checkpoint, saved at most every checkpoint_seconds or every checkpoint_rounds.
    stop: raises checkpoint.Interrupted once it has noted a signal. load: `datasets.load`, or one that remembers. hold:
    keep the finished run's files in its checkpoint, too, so that it is not carried out again if they are deleted.
    on_evaluate(row): called at every evaluation, first those before an interruption; what it raises ends the run.
    """
    keep_freed_memory()
    load_libraries(wandb != "disabled")
    import torch

    from flare import models, tracking
    from flare.engine.simulation import cross_entropy, double_softmax, simulate_rows

    torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {device!r} is not here; torch sees no GPU, use cpu")

    with checkpoint.Checkpoint(
        output,
        checkpoint.key_of(run, data, device),
        stop or checkpoint.Stop(),
        seconds=checkpoint_seconds,
        rounds=checkpoint_rounds,
    ) as saved:
        state = saved.load()
        if state and "files" in state:  # finished, and deleted because others of its job were not
            for name, text in state["files"].items():
                write_whole(output / name, text.encode())
            known: dict[str, Any] = json.loads(state["files"]["run.json"])
            return known

        source = datasets.module(run.dataset)
        clients, test = _data(run, data, source.SCALE, load)
        shape = tuple(test[0].shape[1:])
        settings = check_settings(models.load(run.model).Settings, run.model_settings, "model_settings")
        new_model = functools.partial(models.create, run.model, shape, source.CLASSES, settings, run.seed, run.fidelity)

        with saved.untimed():  # a server that is slow or gone is no part of what the run costs
            mirror = tracking.Mirror(run, output, wandb, resumed=state is not None)
            for row in state["history"] if state else ():
                mirror.log(row)
        progress = Progress(run, state["completed"] if state else 0)

        def report(row: dict[str, Any]) -> None:
            progress.show(row)
            with saved.untimed():
                mirror.log(row)
            if on_evaluate:
                on_evaluate(row)

        def between_rounds(state: dict[str, Any]) -> None:
            progress.advance(state["completed"])
            if state["completed"] < run.rounds:
                saved.offer(state)

        try:
            if on_evaluate:
                for row in state["history"] if state else ():
                    on_evaluate(row)
            history, weights = simulate_rows(
                new_model(),  # held by nobody here: its weights need not stay in memory
                clients,
                test=test,
                method=run.method,
                settings=run.method_settings,
                keep=run.keep,
                rounds=run.rounds,
                local_epochs=run.local_epochs,
                batch_size=run.batch_size,
                learning_rate=run.learning_rate,
                momentum=run.momentum,
                available=run.available,
                fidelity=run.fidelity,
                evaluate_every=run.evaluate_every,
                seed=run.seed,
                loss=double_softmax if run.double_softmax else cross_entropy,
                device=device,
                on_evaluate=report,
                on_state=between_rounds,
                resume=state,
                shuffle=run.shuffle,
                staleness=run.staleness,
                tf32=run.tf32,
                together=None if run.engine is None else run.engine == "together",
            )
        except BaseException as error:
            mirror.finish({}, exit_code=checkpoint.RESUMABLE if isinstance(error, checkpoint.Interrupted) else 1)
            raise
        if run.sample_text:
            model = new_model()
            model.load_state_dict({name: weight.cpu() for name, weight in weights.items()})
            write_whole(output / "sample.txt", sample(model, source.VOCABULARY, run.sample_text, run.seed).encode())
        summary = write_run(
            output, run, history, weights, wall_seconds=saved.wall_seconds, device=device, threads=threads
        )
        progress.close(summary)
        mirror.finish(
            {key: summary[key] for key in ("status", "final_accuracy", "best_accuracy", "compression", "result_hash")}
        )
        if hold:
            saved.save(
                {"files": {file.name: file.read_text("utf-8") for file in output.iterdir() if file.name in FILES}}
            )
        else:
            checkpoint.remove(output)
    return summary


def _data(
    run: Run, data: Path, scale: float, load: Callable[..., datasets.Split] = datasets.load
) -> tuple[list[tuple[Any, Any]], tuple[Any, Any]]:
    """The clients' and the test tensors: inputs as floats (stored value / scale), targets as class indices.

    With `validation` the clients' held-out samples take the place of the test set.
    """
    import torch

    from flare.datasets import partition
    from flare.datasets._fitting import fit

    def tensors(inputs: Any, targets: Any) -> tuple[Any, Any]:
        prepared = torch.from_numpy(fit(inputs, run.pad_to, run.channels))
        prepared = prepared.to(torch.float32).div_(scale) if scale != 1 else prepared.long()
        return prepared, torch.from_numpy(targets).long()

    train = load(run.dataset, data, "train")
    parts = partition.split(train.targets, run.clients, dict(run.partition), run.seed, train.clients)
    if run.validation is not None:  # the test set is not even read
        parts, held = partition.hold_out(parts, run.validation, run.seed)
        held_out = tensors(train.inputs[held], train.targets[held])
        return [tensors(train.inputs[part], train.targets[part]) for part in parts], held_out
    test = load(run.dataset, data, "test")
    return [tensors(train.inputs[part], train.targets[part]) for part in parts], tensors(test.inputs, test.targets)


def sample(model: Any, vocabulary: str, length: int, seed: int) -> str:
    """So many characters of the model's own writing, from an empty line on, and a line's end."""
    from flare.models.gru import write

    return "".join(vocabulary[number] for number in write(model, [vocabulary.index("\n")], length, seed)) + "\n"


def load_libraries(mirrored: bool) -> None:
    """Import what takes seconds, in the way that takes the fewest; a short run takes little longer than this.

    mirrored: W&B, too, before torch: its pydantic models each look through all modules that there are, then few.
    """
    if "torch" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        if mirrored:
            with contextlib.suppress(Exception):
                importlib.import_module("wandb")
        importlib.import_module("flare.engine.simulation")
        gc.freeze()  # what was imported is no garbage, now or later
    finally:
        if collecting:
            gc.enable()


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: activations are large, and returning them every step costs half the time.

    Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 64 << 20)


class Progress:
    """What a person follows: a bar with loss, accuracy and uplink on a terminal, a line per evaluation in a log."""

    def __init__(self, run: Run, completed: int = 0) -> None:
        self._rounds = run.rounds
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=run.rounds,
                initial=completed,
                unit="round",
                dynamic_ncols=True,
                desc=f"{run.method} keep {run.keep}",
            )
        else:
            after = f", going on after round {completed}" if completed else ""
            print(f"{run.folder}: {run.rounds} rounds, {run.clients} clients{after}", flush=True)

    def advance(self, completed: int) -> None:
        """So many rounds are complete."""
        if self._bar is not None:
            self._bar.update(completed - self._bar.n)

    def show(self, row: dict[str, Any]) -> None:
        """A round was evaluated."""
        state = {
            "loss": f"{row['train_loss']:.4f}",
            "accuracy": f"{row['test_accuracy']:.4f}",
            "uplink": size(row["uplink_bits"]),
        }
        if self._bar is not None:
            self._bar.set_postfix(state)
        else:
            words = "  ".join(f"{key} {value}" for key, value in state.items())
            print(f"round {row['round'] + 1:>{len(str(self._rounds))}}/{self._rounds}  {words}", flush=True)

    def close(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        if self._bar is not None:
            self._bar.close()
        accuracy = summary["final_accuracy"]
        reached = (
            "no evaluation"
            if accuracy is None
            else f"final accuracy {accuracy:.4f}, best {summary['best_accuracy']:.4f}"
        )
        where = "" if summary["diverged_round"] is None else f" in round {summary['diverged_round']}"
        cost = f"uplink {size(summary['uplink_bits'])}, {summary['wall_seconds']:.1f} s"
        print(f"{summary['status']}{where}: {reached}, {cost}")
