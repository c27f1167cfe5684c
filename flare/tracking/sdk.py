"""How this package uses W&B's SDK: what it starts, what it waits for and for how long, and how it ends it.

A broken server costs a run at most INIT_SECONDS at its start and FINISH_SECONDS at its end, and five more each for the
SDK's own process. What the server did not take is in the run's folder, for `python -m flare sync_wandb`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flare.errors import ConfigError
from flare.files import write_whole
from flare.settings import WANDB_PROJECT

INIT_SECONDS, FINISH_SECONDS, ABANDON_SECONDS = 20.0, 30.0, 3.0
SENT, TRIED = "sent\n", "tried\n"


def load() -> Any:
    """W&B's SDK, silent and without its reports to its makers. ImportError if it is not installed."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    logging.raiseExceptions = False  # else a log of its own that finds the disk full prints a traceback on the terminal
    import wandb

    with contextlib.suppress(ImportError, AttributeError):  # its reporter takes a tenth of a second to make
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()
    # W&B's job launcher leaves inputs for runs that it starts. Here are none, and to look for them takes half a second
    # of imports, half of what a mirror costs.
    with contextlib.suppress(ImportError):
        from wandb.sdk.wandb_run import Run as Started

        Started._detect_and_apply_job_inputs = lambda _: None  # type: ignore[assignment]
    return wandb


def has_key() -> bool:
    """Whether W&B has an API key on this machine: WANDB_API_KEY, or what `wandb login` stored for the server."""
    wandb = load()
    from wandb.sdk.lib import wbauth

    host = wandb.setup().settings.base_url
    return wbauth.authenticate_session(host=host, source="flare", prompt=False, update_session=False) is not None


def check_key() -> bool:
    """Like `has_key`, but ConfigError, one line, if W&B is not installed or refuses to look at its key."""
    try:
        return has_key()
    except ModuleNotFoundError as error:
        install = "pip install 'flare-sweeps[track]'"
        raise ConfigError(f"W&B needs packages that are not installed ({error.name}): {install}") from None
    except Exception as error:  # a key that is not one
        raise ConfigError(f"W&B: {' '.join(str(error).split())}") from None


def project() -> str:
    """The project in W&B that everything goes to."""
    return os.environ.get("WANDB_PROJECT") or WANDB_PROJECT


def start(mode: str, folder: Path, **given: Any) -> Any:
    """A run of the SDK (`wandb.init`) that keeps to the folder and waits for nothing longer than it must."""
    wandb = load()
    metrics = os.environ.get("FLARE_SYSTEM_METRICS") == "true"
    # The SDK's process, which begins with the first run, keeps its log there.
    own_cache = os.environ.setdefault("WANDB_CACHE_DIR", cache := str(folder.resolve() / "wandb" / "cache")) == cache
    try:
        if mode == "online" and not has_key():  # else it may ask for one, and wait
            raise RuntimeError("no API key; set WANDB_API_KEY or say wandb login")
        with bounded(INIT_SECONDS + 2):
            return wandb.init(
                mode=mode,
                dir=folder.resolve(),
                project=project(),
                entity=os.environ.get("WANDB_ENTITY") or None,
                **given,
                settings=wandb.Settings(
                    init_timeout=INIT_SECONDS,
                    finish_timeout=FINISH_SECONDS,
                    finish_timeout_raises=True,
                    x_transaction_log_flush_interval=1,
                    x_disable_stats=not metrics,
                    x_disable_machine_info=not metrics,
                    # run.json has the versions and the commit: looking for them again takes time.
                    x_save_requirements=False,
                    disable_git=True,
                    disable_code=True,
                    console="off",
                    silent=True,
                ),
            )
    finally:
        if own_cache:
            del os.environ["WANDB_CACHE_DIR"]


def log_artifact(run: Any, name: str, kind: str, files: Mapping[str, Path]) -> None:
    """Give the run an artifact of these files, by their names in it; they stay where they are and are not copied."""
    made = load().Artifact(name[-128:], type=kind)
    for inside, file in files.items():
        made.add_file(str(file.resolve()), name=inside, policy="immutable", skip_cache=True)
    made.finalize()
    # What `run.log_artifact` does offline. Online it would first ask the server what it knows of the name, and wait for
    # the answer longer than anything else here waits.
    run._interface.publish_artifact(
        run, made, ["latest"], None, finalize=True, is_user_created=False, use_after_commit=False
    )


def mark(record: Path) -> Path:
    """The file that says that the server knows the record's run: SENT (all of it) or TRIED (perhaps a part).

    It is deleted with the record when the run is repeated. The SDK's own mark, run-ID.wandb.synced, will not do: the
    SDK makes it even if the server refused a part.
    """
    return record.with_suffix(".wandb.sent")


def is_sent(record: Path) -> bool:
    """Whether the server has all of the record."""
    return mark(record).is_file() and mark(record).read_text() == SENT


def id_of(record: Path) -> str:
    """The id of the record's run."""
    return record.stem.removeprefix("run-")


def next_id(record: Path) -> str:
    """The id that follows that of the record's run: the digest of its settings, and a number from 2 on."""
    digest, _, number = id_of(record).partition("-")
    return f"{digest}-{int(number or 1) + 1}"


def refusals(log: Path) -> Iterator[tuple[str, str]]:
    """What the server refused, (path of the record, reason), from a log of the SDK's process: it is nowhere else."""
    for line in log.read_text("utf-8").splitlines():
        said = json.loads(line)
        # A call that failed is tried again, and what a server can do need not be known.
        if said["level"].startswith("ERROR") and not said["msg"].startswith(("api:", "featurechecker:")):
            yield said.get("sync_path", ""), said["msg"]


def begun(log: Path) -> Iterator[str]:
    """Paths of the records of which rows went to the server, as a log of the SDK's process has it."""
    for line in log.read_text("utf-8").splitlines():
        said = json.loads(line)
        if said["msg"] == "filestream: sending request" and said.get("history_lines"):
            yield said.get("sync_path", "")


def check_sent(record: Path) -> None:
    """Mark the record of a finished online run as sent; RuntimeError if the server refused a part of it."""
    for _, reason in refusals(record.parent / "logs" / "debug-internal.log"):
        raise RuntimeError(reason)
    write_whole(mark(record), SENT.encode())


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """TimeoutError if the block takes longer than this: some calls of the SDK ignore its own limits."""
    timer = threading.Timer(seconds, _kill)  # a call that waits for the SDK's process ends with it
    timer.start()
    begun = time.monotonic()
    try:
        yield
    except Exception as error:
        if time.monotonic() - begun < seconds:
            raise
        raise TimeoutError(f"the server did not take it within {seconds:.0f} s") from error
    finally:
        timer.cancel()


def abandon() -> None:
    """End the SDK's own process: it would keep trying to reach a server, and this process would wait for it.

    It gets some seconds to write what it holds of finished runs.
    """
    timer = threading.Timer(ABANDON_SECONDS, _kill)
    timer.start()
    with contextlib.suppress(Exception, SystemExit):  # it leaves with its process's exit code
        load().teardown()
    timer.cancel()


def _kill() -> None:
    with contextlib.suppress(Exception):
        from wandb.sdk import wandb_setup

        wandb_setup._singleton._connection._proc._process.kill()  # type: ignore[union-attr]
