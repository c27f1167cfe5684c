"""A sweep with --use-conda: the environment is created from our own file, and every job runs in it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from commands import ROOT, snakemake_command

SWEEP = {
    "wandb": {"mode": "disabled"},
    "experiments": {
        "small": {
            "dataset": "digits",
            "model": "fc",
            "model_settings": {"width": 16, "hidden_layers": 1},
            "clients": 2,
            "rounds": 2,
            "batch_size": 50,
            "learning_rate": 0.1,
            "keep": ["5e-2"],
            "seeds": [1],
            "methods": {"flare": {}},
        }
    },
}

pytestmark = pytest.mark.workflow


def package(channel: Path, name: str, version: str, program: str, depends: list[str]) -> None:
    """A conda package of one program, in the oldest format: an archive with its list of files."""
    path = f"bin/{name}"
    content = {
        path: program,
        "info/files": f"{path}\n",
        "info/index.json": json.dumps(
            {
                "name": name,
                "version": version,
                "build": "0",
                "build_number": 0,
                "depends": depends,
                "subdir": "linux-64",
            }
        ),
        "info/paths.json": json.dumps(
            {"paths_version": 1, "paths": [{"_path": path, "path_type": "hardlink", "size_in_bytes": len(program)}]}
        ),
    }
    (channel / "linux-64").mkdir(parents=True, exist_ok=True)
    with tarfile.open(channel / f"linux-64/{name}-{version}-0.tar.bz2", "w:bz2") as archive:
        for file, text in content.items():
            entry = tarfile.TarInfo(file)
            entry.size, entry.mode = len(text.encode()), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the double: a channel whose python is this interpreter, noting what it is called with."""
    from rattler.index import index_fs

    home = tmp_path_factory.mktemp("conda")
    version = ".".join(map(str, sys.version_info[:3]))
    this = shlex.quote(sys.executable)
    python = f'#!/bin/sh\necho "$CONDA_PREFIX $*" >> "$CONDA_DOUBLE/calls"\nexec {this} "$@"\n'
    package(home / "channel", "python", version, python, [])
    package(home / "channel", "pip", "25.0", f'#!/bin/sh\nexec {this} -m pip "$@"\n', ["python"])
    asyncio.run(index_fs(home / "channel"))
    (home / "bin").mkdir()
    shutil.copy(ROOT / "tests/support/conda/activate", home / "bin/activate")
    shutil.copy(ROOT / "tests/support/conda/conda", home / "bin/conda")
    return home


@pytest.mark.skipif(sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="the lock's platform")
@pytest.mark.parametrize("flags, own_lock", [(["--use-conda"], False), (["--sdm", "conda"], True)])
def test_every_job_runs_in_the_environment_of_our_file(
    flags: list[str], own_lock: bool, conda: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SWEEP))
    (conda / "calls").unlink(missing_ok=True)
    targets = ["results/tables/runs.csv"] if own_lock else []  # and once all that a sweep makes
    command = snakemake_command(tmp_path, *targets, *flags)
    command += ["--configfile", str(tmp_path / "config.yaml"), "--cores", "2"]
    environments = conda / f"environments-{own_lock}"
    command += ["--conda-prefix", str(environments)]
    path = f"{conda}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CONDA_DOUBLE": str(conda)}
    environment.pop("FLARE_LOCK", None)
    lock = ROOT / "requirements.lock"
    if own_lock:  # as somebody's who wants no CUDA
        lock = tmp_path / "cpu.lock"
        kept = re.findall(r"^(?!nvidia-|cuda-)\S+==.*\n.*\n", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
        lock.write_text("".join(kept))
        environment["FLARE_LOCK"] = "cpu.lock"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (prefix,) = {line.split()[0] for line in (conda / "calls").read_text().splitlines() if "-m flare" in line}
    assert Path(prefix).parent == environments and (Path(prefix) / "conda-meta").is_dir()
    calls = [line.split()[3] for line in (conda / "calls").read_text().splitlines() if "-m flare" in line]
    if own_lock:
        assert calls == ["fetch", "train", "tabulate"]
    else:
        made = {"fetch", "train", "tabulate", "compare", "judge", "reach", "count_labels", "plot", "render"}
        assert set(calls) == made and (tmp_path / "results/report.html").stat().st_size > 100_000
        assert len(list((tmp_path / "results/notebooks").glob("*.html"))) == 2
    assert (Path(prefix) / "pip.txt").read_text() == f"-r {lock}\n"
