"""One run from its settings to its folder: data, model, simulation, record, mirror."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

from flare.config import ConfigError, Run, check_settings
from flare.record import size, write_run


def train(
    run: Run,
    *,
    data: Path,
    output: Path,
    device: str = "cpu",
    threads: int = 1,
    wandb: str = "offline",
) -> dict[str, Any]:
    """Carry out the run and write rounds.csv and run.json into `output`; returns what run.json says.

    data: folder of the prepared data sets (`python -m flare fetch`). threads: torch's, on the CPU. wandb: offline,
    online or disabled. Same run, same files but for the wall time, on one kind of machine.
    """
    _keep_freed_memory()
    import torch

    from flare import datasets, models, tracking
    from flare.simulation import cross_entropy, double_softmax, simulate

    torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {device!r} is not here; torch sees no GPU, use cpu")
    started = time.perf_counter()

    source = datasets.module(run.dataset)
    shape = tuple(source.SHAPE)
    clients, test = _data(run, data, source.SCALE)
    if run.pad_to:
        shape = (*shape[:-2], run.pad_to, run.pad_to)
    settings = check_settings(models.load(run.model).Settings, run.model_settings, "model_settings")
    model = models.create(run.model, shape, source.CLASSES, settings, run.seed)

    mirror = tracking.Mirror(run, output, wandb)
    progress = Progress(run)

    def report(row: dict[str, Any]) -> None:
        progress.show(row)
        mirror.log(row)

    history, weights = simulate(
        model,
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
        on_round=lambda round_, _: progress.advance(round_),
        on_evaluate=report,
        shuffle=run.shuffle,
        staleness=run.staleness,
    )
    summary = write_run(
        output,
        run,
        history,
        weights,
        wall_seconds=time.perf_counter() - started,
        device=device,
        threads=threads,
    )
    progress.close(summary)
    mirror.finish(
        {key: summary[key] for key in ("status", "final_accuracy", "best_accuracy", "compression", "result_hash")}
    )
    return summary


def _data(run: Run, data: Path, scale: float) -> tuple[list[tuple[Any, Any]], tuple[Any, Any]]:
    """The clients' and the test tensors: inputs as floats (stored value / scale), targets as class indices."""
    import torch

    from flare import datasets
    from flare.datasets import partition

    def tensors(inputs: Any, targets: Any) -> tuple[Any, Any]:
        prepared = torch.from_numpy(inputs)
        prepared = prepared.to(torch.float32).div_(scale) if scale != 1 else prepared.long()
        if run.pad_to:
            missing = [run.pad_to - size for size in (prepared.shape[-1], prepared.shape[-2])]
            if min(missing) < 0:
                raise ConfigError(
                    f"pad_to: {run.pad_to} is not allowed; at least {max(prepared.shape[-2:])}, the images' size"
                )
            edges = [edge for total in missing for edge in (total // 2, total - total // 2)]
            prepared = torch.nn.functional.pad(prepared, edges)
        return prepared, torch.from_numpy(targets).long()

    train = datasets.load(run.dataset, data, "train")
    parts = partition.split(train.targets, run.clients, dict(run.partition), run.seed, train.clients)
    test = datasets.load(run.dataset, data, "test")
    return [tensors(train.inputs[part], train.targets[part]) for part in parts], tensors(test.inputs, test.targets)


def _keep_freed_memory() -> None:
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

    def __init__(self, run: Run) -> None:
        self._rounds = run.rounds
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=run.rounds, unit="round", dynamic_ncols=True, desc=f"{run.method} keep {run.keep}")
        else:
            print(f"{run.folder}: {run.rounds} rounds, {run.clients} clients", flush=True)

    def advance(self, round_: int) -> None:
        """A round is complete."""
        if self._bar is not None:
            self._bar.update(round_ + 1 - self._bar.n)

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
