"""The mirror of a run in Weights & Biases, and how this package uses W&B's SDK.

The files of a run are the truth, the mirror is for browsing: whatever goes wrong with it is said in one line and
training goes on. Offline by default, so no account is needed. Everything W&B writes stays in the run's own folder,
because parallel runs with a common one race for its links.

What a broken server costs a run, at most: INIT_SECONDS where it begins and FINISH_SECONDS where it ends, and five more
each for the SDK's own process. What it did not take is in the run's folder, for `python -m flare sync_wandb`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flare.config import Run
from flare.runs.record import write_whole

MODES = ("offline", "online", "disabled")
INIT_SECONDS, FINISH_SECONDS, ABANDON_SECONDS = 20.0, 30.0, 3.0
SENT, TRIED = "sent\n", "tried\n"
# Of what a run leaves, what its artifact holds.
FILES = ("rounds.csv", "run.json")


class Mirror:
    """One run in W&B; every call is safe, also when W&B is absent, unreachable or broken.

    resumed: the run goes on from a checkpoint. All rows since its beginning are to be logged again: those that W&B has
    are left out.
    """

    def __init__(self, run: Run, folder: Path, mode: str, resumed: bool = False) -> None:
        self._run: Any = None
        self._known = 0
        self._folder = folder
        self._mode = mode
        self._name = run.folder
        if mode == "disabled":
            return
        try:
            self._run = self._start(run, folder, mode, resumed)
            if resumed and mode == "online":
                self._known = int(self._run.starting_step)  # calls of log that W&B has; `step` does not say
        except Exception as error:
            self._give_up(error, "the record is kept offline" if mode == "online" else "")
            if mode == "online":  # no network, no key: keep the record here, `sync_wandb` can send it later
                self._mode = "offline"
                try:
                    self._run = self._start(run, folder, "offline", resumed)
                except Exception as second:
                    self._give_up(second)

    @staticmethod
    def _start(run: Run, folder: Path, mode: str, resumed: bool) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        settings = dataclasses.asdict(run)
        name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        for record in folder.glob("wandb/*run-*/*.wandb"):
            # The server appends what comes later to a run that it knows: one that begins anew gets an id of its own.
            fresh = mark(record).exists() and not resumed
            name = next_id(record) if fresh else id_of(record)
        shutil.rmtree(folder / "wandb", ignore_errors=True)  # the mirror of an earlier try of this run
        started = start(
            mode,
            folder,
            id=name,
            name=run.folder,
            group=run.cell,
            job_type="train" if run.trial is None else "tune",
            resume=("allow" if resumed else "never") if mode == "online" else None,
            config=settings,
        )
        if mode == "online":
            write_whole(mark(Path(started.settings.sync_file)), TRIED.encode())
        started.define_metric("*", step_metric="round")
        return started

    def _give_up(self, error: BaseException, instead: str = "") -> None:
        self._run = None
        said = " ".join((str(error) or type(error).__name__).split())[:300]
        print(f"W&B: {said}; {instead or 'the run goes on without it'}", file=sys.stderr)
        abandon()

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of the history."""
        if self._known:
            self._known -= 1
        elif self._run:
            try:
                self._run.log(dict(row))
            except Exception as error:
                self._give_up(error)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Mirror the summary of the run and, where it succeeded, its files; and end the mirror."""
        if self._run:
            try:
                self._run.summary.update(dict(summary))
                if exit_code == 0:
                    files = {file: self._folder / file for file in FILES}
                    log_artifact(self._run, self._name.replace("/", "."), "run", files)
                with bounded(FINISH_SECONDS + 2):
                    self._run.finish(exit_code=exit_code)
                if self._mode == "online":
                    check_sent(Path(self._run.settings.sync_file))
            except Exception as error:
                kept = "what it has not is kept in the run's folder" if self._mode == "online" else ""
                self._give_up(error, kept)


def sdk() -> Any:
    """W&B's SDK: silent, and without its reports to its makers. ImportError where it is not installed."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    with contextlib.suppress(ImportError, AttributeError):  # else what would report is made, at a tenth of a second
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()
    # Inputs that W&B's job launcher left for the run: there are none, and looking for them costs half a second of
    # imports, half of what a mirror costs.
    with contextlib.suppress(ImportError):
        from wandb.sdk.wandb_run import Run as Started

        Started._detect_and_apply_job_inputs = lambda _: None  # type: ignore[assignment]
    return wandb


def has_key() -> bool:
    """Whether W&B has an API key on this machine: WANDB_API_KEY, or what `wandb login` stored for the server."""
    wandb = sdk()
    from wandb.sdk.lib import wbauth

    host = wandb.setup().settings.base_url
    return wbauth.authenticate_session(host=host, source="flare", prompt=False, update_session=False) is not None


def start(mode: str, folder: Path, **given: Any) -> Any:
    """A run of the SDK (`wandb.init`) that keeps to the folder and waits for nothing longer than it must."""
    wandb = sdk()
    metrics = os.environ.get("FLARE_SYSTEM_METRICS") == "true"
    # Where the SDK's process, which begins with the first run, keeps its log.
    own_cache = os.environ.setdefault("WANDB_CACHE_DIR", cache := str(folder.resolve() / "wandb" / "cache")) == cache
    try:
        if mode == "online" and not has_key():  # else it may ask for one, and wait
            raise RuntimeError("no API key; set WANDB_API_KEY or say wandb login")
        with bounded(INIT_SECONDS + 2):
            return wandb.init(
                mode=mode,
                dir=folder.resolve(),
                project=os.environ.get("WANDB_PROJECT") or "flare-sweeps",
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
    """Hand an artifact of these files, by their names in it, to the run; they stay where they are, uncopied."""
    made = sdk().Artifact(name[-128:], type=kind)
    for inside, file in files.items():
        made.add_file(str(file.resolve()), name=inside, policy="immutable", skip_cache=True)
    made.finalize()
    # As `run.log_artifact` does offline. Online that would first ask the server what it knows of the name, and wait
    # for the answer longer than for anything here.
    run._interface.publish_artifact(
        run, made, ["latest"], None, finalize=True, is_user_created=False, use_after_commit=False
    )


def mark(record: Path) -> Path:
    """The file that says that the server knows the record's run: SENT, all of it, or TRIED, perhaps a part.

    It goes with the record when its run is carried out again. The SDK's own mark, run-ID.wandb.synced, is made where
    the server refused a part, too.
    """
    return record.with_suffix(".wandb.sent")


def is_sent(record: Path) -> bool:
    """Whether the server has all of the record."""
    return mark(record).exists() and mark(record).read_text() == SENT


def id_of(record: Path) -> str:
    """The id of the record's run."""
    return record.stem.removeprefix("run-")


def next_id(record: Path) -> str:
    """The id that follows that of the record's run: the digest of its settings, and a number from 2 on."""
    digest, _, number = id_of(record).partition("-")
    return f"{digest}-{int(number or 1) + 1}"


def refusals(log: Path) -> Iterator[tuple[str, str]]:
    """What the server refused, from a log of the SDK's process, which says that nowhere else: record's path, reason."""
    for line in log.read_text("utf-8").splitlines():
        said = json.loads(line)
        # A call that failed is tried again, and what a server can do need not be known.
        if said["level"].startswith("ERROR") and not said["msg"].startswith(("api:", "featurechecker:")):
            yield said.get("sync_path", ""), said["msg"]


def check_sent(record: Path) -> None:
    """Mark the record of a finished online run as sent; RuntimeError where the server refused a part of it."""
    for _, reason in refusals(record.parent / "logs" / "debug-internal.log"):
        raise RuntimeError(reason)
    write_whole(mark(record), SENT.encode())


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Give what is done inside so long, then TimeoutError: some calls of the SDK heed none of its own limits."""
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
    """End the SDK's own process: it would go on trying to reach a server, and this process wait for it.

    It has some seconds to write what it holds of runs that are finished.
    """
    timer = threading.Timer(ABANDON_SECONDS, _kill)
    timer.start()
    with contextlib.suppress(Exception, SystemExit):  # it leaves with its process's exit code
        sdk().teardown()
    timer.cancel()


def _kill() -> None:
    with contextlib.suppress(Exception):
        from wandb.sdk import wandb_setup

        wandb_setup._singleton._connection._proc._process.kill()  # type: ignore[union-attr]
