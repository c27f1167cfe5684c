"""How a training set is dealt among clients."""

from __future__ import annotations

import hashlib
import json
import re
import time
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare import cli
from flare.datasets import partitions as partition
from flare.datasets.partitions import dirichlet
from flare.errors import ConfigError

TARGETS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])


def balanced(classes: int, each: int) -> np.ndarray:
    return np.tile(np.arange(classes), each)


def test_contiguous_is_the_papers_split() -> None:
    parts = partition.split(np.zeros(60_000), 10, {"scheme": "contiguous", "samples_per_client": 600}, seed=5)
    assert [(part[0], part[-1], len(part)) for part in parts] == [(600 * i, 600 * i + 599, 600) for i in range(10)]


def test_contiguous_by_default_uses_as_much_as_divides_evenly() -> None:
    parts = partition.split(np.zeros(11), 3, {}, seed=0)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_contiguous_may_deal_after_a_permutation_of_the_seed() -> None:
    def dealt(seed: int, **own: object) -> list[list[int]]:
        return [part.tolist() for part in partition.split(np.zeros(50), 4, {"shuffle": True, **own}, seed=seed)]

    first = dealt(1)
    assert first == dealt(1) != dealt(2) and [len(part) for part in first] == [12] * 4
    everything = [sample for part in first for sample in part]
    assert len(set(everything)) == 48 and all(part == sorted(part) for part in first)
    assert first[0] != list(range(12)) and {*map(len, dealt(1, samples_per_client=5))} == {5}
    # Without it, every seed deals the same, as ever.
    plain = [partition.split(np.zeros(50), 4, {"shuffle": False}, seed=seed) for seed in (1, 2)]
    assert [part.tolist() for part in plain[0]] == [list(range(12 * i, 12 * i + 12)) for i in range(4)]
    assert all((a == b).all() for a, b in zip(*plain, strict=True))
    with pytest.raises(ConfigError, match="shuffle"):
        dealt(1, shuffle=3)


def test_natural_takes_the_first_clients_by_number() -> None:
    natural = np.array([7, 3, 7, 9, 3, 9, 9])
    parts = partition.split(np.zeros((7, 100)), 2, {"scheme": "natural"}, seed=0, natural=natural)
    assert [part.tolist() for part in parts] == [[1, 4], [0, 2]]


def test_shards_of_balanced_classes_are_equal_and_of_one_class_each() -> None:
    targets = balanced(10, 60)
    parts = partition.split(targets, 10, {"scheme": "shards", "classes_per_client": 2}, seed=1)
    assert [len(part) for part in parts] == [60] * 10
    for part in parts:
        counts = np.bincount(targets[part])
        assert set(counts[counts > 0].tolist()) <= {
            30,
            60,
        }  # two shards of 30; 60 where both are of one class


def test_one_class_a_client() -> None:
    parts = partition.split(TARGETS, 3, {"scheme": "shards", "classes_per_client": 1}, seed=0)
    assert sorted(set(TARGETS[part].tolist()).pop() for part in parts) == [0, 1, 2]
    assert all(len(set(TARGETS[part].tolist())) == 1 and len(part) == 4 for part in parts)


def test_dirichlet_with_large_alpha_is_even_and_with_small_alpha_is_not() -> None:
    targets = balanced(10, 1000)

    def largest_share(alpha: float) -> float:
        parts = partition.split(targets, 5, {"scheme": "dirichlet", "alpha": alpha}, seed=3)
        return max(np.bincount(targets[part], minlength=10).max() / 1000 for part in parts)

    assert largest_share(1e6) == pytest.approx(0.2, abs=0.01)
    assert largest_share(0.05) > 0.9


def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution() -> None:
    # A share of Dirichlet(a, ..., a) over K clients has mean 1/K and variance (K-1) / (K^2 (K a + 1)).
    clients, alpha, each = 4, 2.0, 1000
    targets = balanced(50, each)
    parts = partition.split(targets, clients, {"scheme": "dirichlet", "alpha": alpha}, seed=11)
    shares = np.array([np.bincount(targets[part], minlength=50) / each for part in parts])
    assert shares.mean() == pytest.approx(1 / clients, abs=1e-9)
    assert shares.var() == pytest.approx((clients - 1) / (clients**2 * (clients * alpha + 1)), rel=0.25)


SCHEMES = st.one_of(
    st.just({"scheme": "contiguous"}),
    st.floats(0.2, 100).map(lambda alpha: {"scheme": "dirichlet", "alpha": alpha}),
    st.integers(1, 4).map(lambda each: {"scheme": "shards", "classes_per_client": each}),
    st.just({"scheme": "natural"}),
)


@settings(max_examples=150, deadline=None)
@given(
    chosen=SCHEMES,
    clients=st.integers(1, 8),
    targets=st.lists(st.integers(0, 5), min_size=40, max_size=120).map(np.array),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_scheme_no_client_is_empty_and_no_sample_is_dealt_twice(
    chosen: dict[str, object], clients: int, targets: np.ndarray, seed: int
) -> None:
    natural = np.arange(len(targets)) % 11 * 3
    try:
        parts = partition.split(targets, clients, chosen, seed, natural)
    except ConfigError as error:
        # Too few classes, or samples of a class, for these shards; too uneven a Dirichlet for so few samples.
        assert chosen["scheme"] in ("shards", "dirichlet") and "\n" not in str(error)
        return
    assert len(parts) == clients and all(len(part) for part in parts)
    dealt = np.concatenate(parts)
    assert len(np.unique(dealt)) == len(dealt)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    if chosen["scheme"] in ("dirichlet", "shards"):
        assert len(dealt) == len(targets)
    if chosen["scheme"] == "shards":
        assert all(len(np.unique(targets[part])) <= int(str(chosen["classes_per_client"])) for part in parts)
    again = partition.split(targets, clients, chosen, seed, natural)
    assert all(np.array_equal(one, two) for one, two in zip(parts, again, strict=True))


@pytest.mark.parametrize("chosen", [{"scheme": "dirichlet", "alpha": 0.5}, {"scheme": "shards"}])
def test_another_seed_deals_otherwise(chosen: dict[str, object]) -> None:
    one, two = (partition.split(balanced(10, 50), 5, chosen, seed) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("clients", "chosen", "words"),
    [
        (3, {"scheme": "dirichlett"}, ["dirichlett", "did you mean 'dirichlet'"]),
        (3, {"scheme": "contiguous", "alpha": 1}, ["alpha", "samples_per_client"]),
        (3, {"scheme": "natural", "alpha": 1}, ["alpha", "no settings"]),
        (3, {"scheme": "contiguous", "samples_per_client": 5}, ["samples_per_client: 5", "at most 4"]),
        (3, {"scheme": "contiguous", "samples_per_client": -1}, ["samples_per_client: -1", "at least 0"]),
        (13, {}, ["clients: 13", "at most 12"]),
        (0, {}, ["clients: 0", "at least 1"]),
        (True, {}, ["clients: True"]),
        (3, {"scheme": "dirichlet", "alpha": 0}, ["alpha: 0", "at least 0.001"]),
        (3, {"scheme": "dirichlet", "alpha": float("nan")}, ["alpha: nan"]),
        (12, {"scheme": "dirichlet", "alpha": 1e-3}, ["alpha: 0.001", "fewer clients"]),
        (2, {"scheme": "shards", "classes_per_client": 1}, ["classes_per_client: 1", "at least 2"]),
        (3, {"scheme": "shards", "classes_per_client": 4}, ["classes_per_client: 4", "at most 3"]),
        (12, {"scheme": "shards", "classes_per_client": 3}, ["clients: 12", "fewer clients"]),
        (3, {"scheme": "natural"}, ["natural", "no clients of its own"]),
    ],
)
def test_errors_are_one_line_with_key_value_and_what_is_allowed(
    clients: int, chosen: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        partition.split(TARGETS, clients, chosen, seed=0)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_more_clients_than_there_are_naturally() -> None:
    with pytest.raises(ConfigError, match=r"clients: 3 is not allowed; .* at most 2"):
        partition.split(TARGETS, 3, {"scheme": "natural"}, seed=0, natural=np.array([1] * 6 + [2] * 6))


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def digest(parts: list[np.ndarray]) -> str:
    """SHA-256 of what each client holds, in its order."""
    return hashlib.sha256(";".join(",".join(map(str, part.tolist())) for part in parts).encode()).hexdigest()[:16]


UNEVEN = np.random.default_rng(5).integers(0, 4, 200)
# Kept: what is dealt at seed 3. Whoever changes one of these changes the data of every run that is dealt so.
DEALT = {
    "contiguous": ({"scheme": "contiguous"}, "c520443ceb925d5b"),
    "dirichlet": ({"scheme": "dirichlet", "alpha": 0.5}, "4aa53bd9e851f958"),
    "natural": ({"scheme": "natural"}, "d87509c1b023555e"),
    "shards": ({"scheme": "shards", "classes_per_client": 3}, "a58db9b273e55d9e"),
}


def test_every_scheme_is_kept() -> None:
    assert sorted(DEALT) == partition.names()
    streams = [partition.load(name).STREAM for name in partition.names()]
    assert sorted(streams) == sorted(set(streams))


@pytest.mark.parametrize("name", DEALT)
def test_what_is_dealt_at_a_seed_does_not_change(name: str) -> None:
    given, kept = DEALT[name]
    natural = np.arange(200) * 7 % 13
    assert digest(partition.split(UNEVEN, 5, given, 3, natural)) == kept


def test_what_is_held_out_at_a_seed_does_not_change() -> None:
    kept, held = partition.hold_out([np.arange(0, 50), np.arange(50, 53), np.array([60])], 0.2, 3)
    assert digest([*kept, held]) == "4ca092130687c512"


def test_schemes_draw_apart_though_the_seed_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, asked = np.random.default_rng, []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: asked.append(seed) or genuine(seed))
    for name in ("dirichlet", "shards"):
        partition.split(UNEVEN, 5, {"scheme": name}, 3)
    # Whether a scheme can be dealt at all is tried with draws of its own, which decide nothing.
    assert [seed for seed in asked if seed[0] == 3] == [[3, 1], [3, 2]]
    asked.clear()
    partition.hold_out([np.arange(5), np.arange(5, 9)], 0.5, 3)
    assert asked == [[3, 0, 1], [3, 1, 1]]


class Drawn:
    """A generator whose draws are given: classes in their order, and these shares."""

    def __init__(self, *shares: list[float]) -> None:
        self.shares = list(shares)

    def permutation(self, x: np.ndarray | int) -> np.ndarray:
        return np.arange(x) if isinstance(x, int) else x

    def dirichlet(self, alpha: np.ndarray, size: int) -> np.ndarray:
        assert alpha.tolist() == [0.5, 0.5, 0.5] and size == 1
        return np.array([self.shares.pop(0)])


def test_shares_are_cut_at_the_nearest_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven samples of one class at 0.35 and 0.35 + 0.3: cut at 2.45 and 4.55, so after 2 and 5. The first draw leaves
    the second client with nothing, and so is drawn again."""
    monkeypatch.setattr(np.random, "default_rng", lambda _: Drawn([0.5, 0.01, 0.49], [0.35, 0.3, 0.35]))
    parts = partition.split(np.zeros(7, dtype=int), 3, {"scheme": "dirichlet", "alpha": 0.5}, 0)
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3, 4], [5, 6]]


def test_which_class_has_the_extra_shard_is_drawn() -> None:
    """Of 4 shards of 3 classes one class has two, which halves its samples."""
    targets = np.repeat([0, 1, 2], 20)
    halved = set()
    for seed in range(30):
        parts = partition.split(targets, 4, {"scheme": "shards", "classes_per_client": 1}, seed)
        sizes = {int(targets[part[0]]): len(part) for part in parts}
        assert sorted(len(part) for part in parts) == [10, 10, 20, 20]
        halved |= {label for label, size in sizes.items() if size == 10}
    assert halved == {0, 1, 2}


@pytest.mark.parametrize("chosen", [{"scheme": "dirichlet", "alpha": 0.5}, {"scheme": "shards"}])
def test_of_a_class_any_client_has_any_of_its_samples(chosen: dict[str, object]) -> None:
    """A class is shuffled before it is cut: else a client had neighbours."""
    parts = partition.split(
        np.zeros(100, dtype=int) if chosen["scheme"] == "dirichlet" else balanced(2, 50), 2, chosen, 1
    )
    assert any((np.diff(part) > 1).any() for part in parts if len(part) > 10)
    assert all(len(set(np.diff(part).tolist())) > 1 for part in parts if len(part) > 20)


def test_samples_of_a_class_are_counted_by_client() -> None:
    counts = partition.count(np.array([0, 2, 2, 1, 0]), [np.array([0, 1, 2]), np.array([3, 4])], 4)
    assert counts.tolist() == [[1, 0, 2, 0], [1, 1, 0, 0]]
    text = partition.count(np.array([[0, 2], [1, 1]]), [np.array([1]), np.array([0])], 3)
    assert text.tolist() == [[0, 2, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [33] * 3),
        ({"scheme": "contiguous", "samples_per_client": 20}, [20] * 3),
        ({"scheme": "dirichlet"}, [33] * 3),
        ({"scheme": "shards"}, [33] * 3),
        ({"scheme": "natural"}, None),
    ],
)
def test_sizes_that_the_settings_say(given: dict[str, object], expected: list[int] | None) -> None:
    assert partition.sizes(given, 3, 100) == expected


def test_text_is_not_dealt_by_class() -> None:
    with pytest.raises(ConfigError, match="'shards' is not allowed for text; contiguous or natural"):
        partition.split(np.zeros((12, 100)), 3, {"scheme": "shards"}, seed=0)


@pytest.mark.parametrize(
    ("given", "source", "said"),
    [
        ({"scheme": "natural"}, {"KIND": "images", "CLASSES": 10}, "'natural' is not allowed; contiguous, dirichlet"),
        (
            {"scheme": "shards", "classes_per_client": 4},
            {"KIND": "images", "CLASSES": 3},
            "4 is not allowed; at most 3",
        ),
        ({"scheme": "dirichlet"}, {"KIND": "text", "CLASSES": 10}, "'dirichlet' is not allowed for text"),
    ],
)
def test_a_data_set_that_cannot_be_dealt_so_is_refused(
    given: dict[str, object], source: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        partition.check(given, types.SimpleNamespace(**source))  # type: ignore[arg-type]
    fitting = source | {"NATURAL": True, "KIND": "images", "CLASSES": 4}
    assert partition.check(given, types.SimpleNamespace(**fitting)).name == given["scheme"]  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed: -1 is not allowed; a whole number, at least 0"):
        partition.split(TARGETS, 3, {}, seed=-1)


@pytest.mark.parametrize(
    ("clients", "samples", "alpha"), [(1500, 1500, 1e6), (1000, 1500, 0.5), (200, 1000, 1e-3), (10_000, 10_000, 1.0)]
)
def test_a_dirichlet_split_that_cannot_be_is_said_at_once_with_one_that_can(
    clients: int, samples: int, alpha: float
) -> None:
    targets = np.arange(samples) % 10
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        partition.split(targets, clients, {"scheme": "dirichlet", "alpha": alpha}, 0)
    assert time.monotonic() - began < 30
    said = str(caught.value)
    assert said.startswith(f"partition: dirichlet: alpha: {alpha!r} is not allowed for {clients} clients and {samples}")
    [fewer] = re.findall(r"fewer clients, about (\d+) or less", said)
    if int(fewer) > 0:
        assert len(partition.split(targets, max(1, int(fewer) // 2), {"scheme": "dirichlet", "alpha": alpha}, 0)) >= 1


@settings(max_examples=12)
@given(clients=st.integers(1, 40), samples=st.integers(40, 400), alpha=st.sampled_from([0.01, 0.1, 0.5, 5.0, 1e6]))
def test_what_is_refused_at_once_was_refused_before(clients: int, samples: int, alpha: float) -> None:
    targets = np.arange(samples) % 10
    own = dirichlet.Settings(alpha)
    try:
        partition.check_dealt({"scheme": "dirichlet", "alpha": alpha}, clients, samples, 10)
    except ConfigError:
        with pytest.raises(ConfigError):
            dirichlet.deal(targets, clients, own, 0, None)


def test_the_check_says_what_cannot_be_dealt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    shapes = {"train.npz": {"sha256": "0" * 64, "shapes": {"inputs": [1500, 1, 8, 8], "targets": [1500]}}}
    (folder / "manifest.json").write_text(json.dumps({"dataset": "digits", "source": "here", "files": shapes}))
    file = tmp_path / "c.yaml"
    for dealt, clients, said in (
        ({"scheme": "dirichlet", "alpha": 1e6}, 1500, "dirichlet: alpha: 1000000.0 is not allowed for 1500 clients"),
        ({"scheme": "shards", "classes_per_client": 2}, 1000, "clients: 1000 is not allowed; at most 750"),
        ({"scheme": "shards", "classes_per_client": 2}, 3, "at least 4, at most 10, as 3 clients share 10 classes"),
        ({"scheme": "contiguous", "samples_per_client": 600}, 10, "samples_per_client: 600 is not allowed; a whole"),
        ({"scheme": "contiguous"}, 1501, "clients: 1501 is not allowed; at most 1500, the training samples"),
        ({"scheme": "dirichlet"}, 10, ""),
        ({"scheme": "shards"}, 750, ""),
        ({"scheme": "contiguous", "samples_per_client": 150}, 10, ""),
    ):
        experiment = {
            **{"dataset": "digits", "model": "fc", "clients": clients, "rounds": 1, "batch_size": 5},
            **{"learning_rate": 0.1, "keep": ["0.5"], "seeds": [1], "methods": {"topk": {}}, "partition": dealt},
        }
        file.write_text(json.dumps({"data": str(tmp_path), "experiments": {"e": experiment}}))
        assert cli.main(["check", str(file)]) == (2 if said else 0)
        error = capsys.readouterr().err
        assert said in error and (not said or error.startswith(f"flare: {file}: experiments.e."))
