"""What a run draws follows from its seed alone, and the numbers are kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from flare.algorithms import load
from flare.engine.layout import Layout
from flare.engine.plan import Plan

PLAN = Plan(
    load("topk"),
    None,
    Layout.of([("w", (3,))]),
    (9, 8, 7, 6, 5),
    0.1,
    12,
    2,
    4,
    0.1,
    0.5,
    3,
    None,
    "paper",
    5,
    3,
    False,
)

# Kept: whoever changes one of these changes every run in which not all clients answer, or that shuffles or drops out.
ANSWERING = [[0, 2, 4], [1, 2, 4], [0, 2, 4], [0, 1, 3]]
SEEDS = (5737856171534892084, 6736112310584518698, 2653433342817477849)


def test_the_clients_that_answer_and_their_seeds_do_not_change() -> None:
    assert [PLAN.answering(number) for number in range(4)] == ANSWERING
    task = PLAN.task(2, PLAN.answering(2))
    assert task.seeds == SEEDS
    assert task.clients == tuple(ANSWERING[2]) and task.sizes == tuple(PLAN.sizes[client] for client in ANSWERING[2])


@pytest.mark.parametrize("change", [{"seed": 4}, {"number": 1}, {"client": 1}])
def test_a_seed_is_of_the_run_the_round_and_the_client(change: dict[str, int]) -> None:
    def seed(seed: int = 3, number: int = 0, client: int = 0) -> int:
        return dataclasses.replace(PLAN, seed=seed).task(number, [client]).seeds[0]

    assert seed() != seed(**change) and 0 <= seed() < 2**63
    assert seed(number=1, client=2) != seed(number=2, client=1)


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({}, [0, 5, 10, 11]),
        ({"evaluate_every": 1}, list(range(12))),
        ({"evaluate_every": 100}, [0, 11]),
        ({"rounds": 11}, [0, 5, 10]),
        ({"rounds": 1}, [0]),
    ],
)
def test_rounds_that_are_evaluated(changes: dict[str, Any], rounds: list[int]) -> None:
    plan = dataclasses.replace(PLAN, **changes)
    assert [task.number for task in plan.tasks() if plan.evaluates(task)] == rounds
    assert [task.number for task in plan.tasks(rounds[-1])] == [rounds[-1]]


def test_the_most_clients_that_answer() -> None:
    assert PLAN.most == 3 and dataclasses.replace(PLAN, available=None).most == 5
    given = dataclasses.replace(PLAN, available=None, participants=[[0, 1], [2], [0, 1, 3, 4]])
    assert given.most == 4 and given.answering(1) == [2]
    assert list(dataclasses.replace(PLAN, available=5).answering(0)) == [0, 1, 2, 3, 4]


def test_steps_count_the_last_smaller_batch() -> None:
    assert PLAN.task(0, [0, 1, 4]).steps == (6, 4, 4)  # 3, 2, 2 batches of at most 4, twice
    assert PLAN.task(0, [0, 1, 4]).of([2, 0]).sizes == (5, 9)
