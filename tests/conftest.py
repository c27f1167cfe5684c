"""Shared by all tests: one thread, the same examples on every run, and where the repository is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from flare import datasets

torch.set_num_threads(1)
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


# Files of minutes, the longest first: begun last, one of them would keep a process busy alone.
LONG = (
    *("test_slurm", "test_checkpoint", "test_tuning", "test_faults", "test_workflow", "test_planning", "test_conda"),
    *("test_origin", "test_tracking", "test_deadline", "test_fuzz", "test_records"),
)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: sweeps, clusters and servers are waited for."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, whose order pyproject.toml has xdist keep; within a file nothing changes."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the digits."""
    folder = tmp_path_factory.mktemp("data")
    datasets.fetch("digits", folder)
    return folder


@pytest.fixture(scope="session")
def real_data(repo: Path) -> Path:
    """Where real data sets are kept between test runs: FLARE_DATA, or else the project's data folder."""
    return Path(os.environ.get("FLARE_DATA") or repo / "data")
