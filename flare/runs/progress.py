"""What a person follows while a run goes on."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from flare.config.run import Run
from flare.runs.process import say
from flare.runs.record import size


class Progress:
    """What a person follows: a bar with loss, accuracy and uplink on a terminal, a line per evaluation in a log.

    Whether anybody is left to read it makes no difference to the run.
    """

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
            say(f"{run.folder}: {run.rounds} rounds, {run.clients} clients{after}")

    def advance(self, completed: int) -> None:
        """So many rounds are complete."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.update(completed - self._bar.n)

    def show(self, row: dict[str, Any]) -> None:
        """A round was evaluated."""
        state = {
            "loss": f"{row['train_loss']:.4f}",
            "accuracy": f"{row['test_accuracy']:.4f}",
            "uplink": size(row["uplink_bits"]),
        }
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.set_postfix(state)
        else:
            words = "  ".join(f"{key} {value}" for key, value in state.items())
            say(f"round {row['round'] + 1:>{len(str(self._rounds))}}/{self._rounds}  {words}")

    def close(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
        accuracy = summary["final_accuracy"]
        reached = (
            "no evaluation"
            if accuracy is None
            else f"final accuracy {accuracy:.4f}, best {summary['best_accuracy']:.4f}"
        )
        where = "" if summary["diverged_round"] is None else f" in round {summary['diverged_round']}"
        cost = f"uplink {size(summary['uplink_bits'])}, {summary['wall_seconds']:.1f} s"
        say(f"{summary['status']}{where}: {reached}, {cost}")
