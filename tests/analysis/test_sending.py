"""What messages held and what they cost: entries and codes counted by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import vouch, write_run

from flare.analysis import tables
from flare.analysis.sending import entropy, golomb, sent, steps

# Logistic regression of 8 x 8 digits: tensors of 640 and 10 weights, indices of 10 and 4 bits.
DIGITS = {
    **{"dataset": "digits", "model": "fc", "model_settings": {"hidden_layers": 0}, "pad_to": None, "channels": None},
    **{"fidelity": "paper", "method": "topk", "schedule": {}},
}
DENSE = 650 * 32


def test_the_codes_of_places_by_hand() -> None:
    # One of four: log(0.618) / log(0.75) = 1.673, whose log2 is 0.742: b = 1, and 1 + 1 / (1 - 0.75^2).
    assert golomb(1, 4) == pytest.approx(1 + 1 / (1 - 0.5625))
    # Half of them: log2(0.694) is below 0: unary code, 1 / p.
    assert golomb(2, 4) == pytest.approx(2) and golomb(4, 4) == golomb(0, 4) == 0
    assert entropy(np.array([1.0, 2.0, 4.0]), np.array([4.0, 4.0, 4.0])) == pytest.approx([2, math.log2(6), 0])
    # In the largest layer of the paper's FC, at 1e-5: 24 bits naively.
    assert golomb(166, 4069**2) == pytest.approx(18.07, abs=0.02)
    assert entropy(np.array([166.0]), np.array([4069.0**2]))[0] / 166 == pytest.approx(18.0, abs=0.05)


def test_the_entries_of_a_message_with_the_minimum_of_one() -> None:
    # round(0.01 * 640) = 6 entries of 42 bits and, of ten, one of 36; at 1e-5 one of each.
    held = sent(DIGITS | {"keep": "1e-2"}, 650, DENSE / 288)
    assert held is not None and held.effective_keep == 7 / 650
    assert held.entropy == pytest.approx(7 * 32 + math.log2(math.comb(640, 6)) + math.log2(10))
    assert held.golomb == pytest.approx(7 * 32 + 6 * golomb(6, 640) + golomb(1, 10))
    least = sent(DIGITS | {"keep": "1e-5"}, 650, DENSE / 78)
    assert least is not None and least.effective_keep == 2 / 650
    assert sent(DIGITS | {"keep": "dense", "method": "fedavg"}, 650, 1.0) == (1, DENSE, DENSE)
    # The authors' rule sends one more, or fewer where magnitudes are equal; a budget that moves sends what it sent.
    authors = sent(DIGITS | {"keep": "1e-2", "fidelity": "authors"}, 650, DENSE / (7 * 42 + 36))
    assert authors is not None and authors.effective_keep == 8 / 650
    moved = sent(DIGITS | {"keep": "1e-2", "method": "ffl"}, 650, DENSE / 432)
    assert moved is not None and moved.effective_keep == pytest.approx(10.5 / 650)


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [({"model": "gone"}, 650), ({}, 651), ({"keep": "0.1"}, 650), ({"pad_to": 1}, 650), ({"dataset": 3}, 650)],
)
def test_what_the_record_does_not_say_is_not_made_up(changes: dict[str, Any], parameters: int) -> None:
    assert sent(DIGITS | {"keep": "1e-2"} | changes, parameters, DENSE / 288) is None
    assert sent({"keep": "1e-2"}, 650, 80.0) is None


def test_the_local_steps_of_a_round() -> None:
    # Seven of ten clients, two passes over 600 samples in batches of 250: three steps each.
    run = {"method": "flare", "clients": 10, "available": 7, "local_epochs": 2, "batch_size": 250}
    run |= {"partition": {"scheme": "contiguous", "samples_per_client": 600}}
    assert steps(run) == 7 * 2 * 3 and steps(run | {"available": None}) == 60
    # The data says it, the loss does, or the schedule, or nothing.
    assert steps(run | {"partition": {}}) is steps(run | {"method": "ffl"}) is steps({}) is None
    assert steps(run | {"schedule": {"name": "cosine"}}) is None


def test_the_papers_cnn_is_not_ten_times_sparser() -> None:
    cnn = {**DIGITS, "dataset": "mnist", "model": "cnn", "model_settings": {}}
    found = []
    for keep, bits in (("1e-4", 3131), ("1e-5", 542)):
        held = sent(cnn | {"keep": keep}, 582_026, 582_026 * 32 / bits)
        assert held is not None
        found.append(round(held.effective_keep * 582_026))
    assert found == [63, 12]


def test_the_columns_of_the_tables(tmp_path: Path) -> None:
    # Two rounds of ten clients: 20 messages of 288 bits, dense 20,800; downlink dense; then one with a probe.
    bits, dense = 20 * 288, 20 * DENSE
    given = {"change": {"config": {**DIGITS, "keep": "1e-2", "clients": 10}}, "parameters": 650, "message_bits": 288}
    folders = [write_run(tmp_path, seed=seed, evaluated=[0, 1], accuracies=[0.1, 0.8], **given) for seed in (1, 2)]
    lines = (folders[1] / "rounds.csv").read_text().splitlines()
    more = ["downlink_delta_bits,downlink_first_bits", "100,100", "8000,100"]
    (folders[1] / "rounds.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(lines, more, strict=True)))
    vouch(folders[1])
    folders.append(write_run(tmp_path, seed=3))
    tables.tabulate(folders, tmp_path / "tables")
    runs = pd.read_csv(tmp_path / "tables/runs.csv")
    assert runs["effective_keep"].fillna(-1).tolist() == [7 / 650, 7 / 650, -1]
    assert runs["uplink_bits_golomb"][0] == round(20 * (224 + 6 * golomb(6, 640) + golomb(1, 10)))
    assert runs["uplink_bits_entropy"][0] == round(20 * (224 + math.log2(math.comb(640, 6) * 10)))
    assert runs["total_bits"][0] == bits + dense and runs["compression_total"][0] == 2 * dense / (bits + dense)
    assert runs["downlink_bits_delta"].fillna(-1).tolist() == [-1, 8000, -1]
    assert runs["compression_total_delta"][1] == 2 * dense / (bits + 8000)
    summary = tables.read(tmp_path / "tables")["summary"].iloc[0]
    assert summary["effective_keep"] == 7 / 650
