"""The one command line: python -m flare COMMAND; `python -m flare --help` lists the commands.

The rules of the workflow are thin calls of it. A wrong argument or setting is one line and exit code 2, before any
work. Each command is two functions of one file, its parser (`add_...`) and what it does:

    run.py       fetch, train, propose, tune, count_labels
    results.py   tabulate, plot, tabulate_studies, export_studies, show, render, judge, reproduction, reach,
                 gather_trials, compare, verify
    records.py   pack, restore
    sweep.py     check, plan, status, sweep, sync_wandb, wandb_report
    readers.py   what reads a single argument

What a command needs beyond the configuration it imports when it is called, so that `check` takes no longer than it must
and works without the packages that only `plot` needs.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import flare
from flare.cli import records, results, run, sweep
from flare.errors import ConfigError, DataError, hide
from flare.runs import checkpoint
from flare.runs.process import open_streams, say, silence

# The exit codes beside 0: some runs failed, or the disk or the memory did; wrong input; interrupted (Ctrl-C). An
# interrupted run that is saved ends with `checkpoint.RESUMABLE`.
FAILED, WRONG, INTERRUPTED = 1, 2, 130
# As of a program that SIGPIPE ends: `python -m flare show | head` has what it wanted.
UNREAD = 141
# A disk that is full or broken, or nobody left to read what is printed: not the fault of the arguments.
_NOT_THE_ARGUMENTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE)
# What the loader of shared libraries says if their addresses do not fit into the memory that a process may have.
_NO_MEMORY = ("failed to map segment", "cannot map", "allocate memory", "cannot enable executable stack")
# In the order of `--help`.
_COMMANDS = (
    run.add_fetch,
    run.add_train,
    run.add_propose,
    run.add_tune,
    run.add_count_labels,
    results.add_tabulate,
    results.add_plot,
    results.add_tabulate_studies,
    results.add_export_studies,
    results.add_show,
    results.add_render,
    results.add_judge,
    results.add_reproduction,
    results.add_reach,
    results.add_gather_trials,
    sweep.add_status,
    results.add_compare,
    sweep.add_plan,
    results.add_verify,
    sweep.add_sweep,
    records.add_pack,
    records.add_restore,
    sweep.add_sync_wandb,
    sweep.add_wandb_report,
    sweep.add_check,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 if some runs or the disk failed, 2 for wrong input or a package
    that is not installed, 75 for interrupted and saved, 130 for interrupted, 141 if nobody reads what it prints.
    """
    open_streams()
    chosen = _parser().parse_args(arguments)
    os.environ.pop("WANDB_SERVICE", None)  # the SDK's process of a caller, a notebook say: it ends with that one
    try:
        code = int(chosen.command(chosen) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        silence()
        return UNREAD
    except (Exception, KeyboardInterrupt) as error:
        known = _explain(error, chosen.command.__name__)
        if known is None:
            raise
        code, line = known
        if not isinstance(error, DataError):  # which says of every source in a line of its own why it does not serve
            line = " ".join(line.splitlines())  # a file's name may have line breaks
        say(f"flare: {line}", error=True)
        return code


def _explain(error: BaseException, command: str) -> tuple[int, str] | None:
    """The exit code and the line for what ended a command; None for what only a traceback explains."""
    if isinstance(error, checkpoint.Interrupted):
        return checkpoint.RESUMABLE, f"{error}: saved; the same command goes on from there"
    if isinstance(error, KeyboardInterrupt):  # a command without a checkpoint
        return INTERRUPTED, "interrupted"
    if isinstance(error, ConfigError | DataError):
        return WRONG, str(error)
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(error, command)
    if isinstance(error, ImportError) and any(words in str(error) for words in _NO_MEMORY):
        return FAILED, f"not enough memory to load {command}'s libraries: {' '.join(str(error).split())[:200]}"
    if isinstance(error, OSError):  # a file or a folder of the arguments, or a disk
        named = error.filename2 or error.filename  # the second is the name that a finished file was to get
        where = f"{named}: " if named else ""
        return FAILED if error.errno in _NOT_THE_ARGUMENTS else WRONG, f"{where}{error.strerror or error}"
    if isinstance(error, MemoryError | RuntimeError):
        said = " ".join(str(error).split())
        # torch's RuntimeError, on a CPU and on a GPU, and Python's: a thread has a stack.
        if isinstance(error, MemoryError) or "allocate" in said or "start new thread" in said:
            return FAILED, f"not enough memory: {said[-200:]}"
    return None


def _not_installed(error: ModuleNotFoundError, command: str) -> tuple[int, str] | None:
    """What to install; None if it is a module of this package that is missing."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "flare"):
        return None
    install = _requirement(package)
    hint = f": pip install {install}" if install else ""
    return WRONG, f"{command} needs packages that are not installed ({package}){hint}"


def _requirement(package: str) -> str:
    """What brings the package, as pip takes it: this project, with the extra if it is one's; "" if nothing does."""
    from importlib import metadata

    try:
        wanted = metadata.requires("flare-sweeps") or []
    except metadata.PackageNotFoundError:
        return ""
    for line in wanted:
        distribution, extra = re.match(r"[\w.-]*", line), re.search(r"extra == ['\"](\w+)", line)
        if distribution and re.sub(r"[-_.]+", "_", distribution[0]).lower() == package.lower():
            return f"'flare-sweeps[{extra[1]}]'" if extra else "flare-sweeps"
    return ""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, hide(f"flare: {' '.join(message.split())}\n"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m flare", description="FLARE Sweeps: sparse federated learning, one step at a time.")
    parser.add_argument("--version", action="version", version=f"flare {flare.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in _COMMANDS:
        add(commands)
    return parser
