"""How a training set is dealt among clients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare.datasets import partitions as partition
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


def test_text_is_not_dealt_by_class() -> None:
    with pytest.raises(ConfigError, match="'shards' is not allowed for text; contiguous or natural"):
        partition.split(np.zeros((12, 100)), 3, {"scheme": "shards"}, seed=0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed: -1 is not allowed; a whole number, at least 0"):
        partition.split(TARGETS, 3, {}, seed=-1)
