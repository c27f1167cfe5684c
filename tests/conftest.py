"""Shared by all tests: one thread, the same examples on every run, and where the repository is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


# Files of minutes, the longest first: begun last, one of them would keep a process busy alone.
LONG = ("test_slurm", "test_checkpoint", "test_tuning", "test_faults", "test_workflow", "test_conda", "test_fuzz")


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
