"""The memory backend forgets what is expired, and never holds more than it may."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from pipelines.cache.entries import FeatureEntry, Item, encode_features
from pipelines.cache.memory_backend import MemoryBackend

NOON = datetime(2024, 4, 1, 12)


class Seconds:
    """A clock that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


def item(key: str, seconds: float = 10.0, minute: int = 0, note: str = "") -> Item:
    instant = NOON + timedelta(minutes=minute)
    return Item(key, encode_features(FeatureEntry({"note": note}, instant, instant)), seconds)


def kept(backend: MemoryBackend) -> dict[str, float]:
    """Every key and its seconds left."""
    return {item.key: item.seconds for item in backend.items()}


def test_a_value_is_gone_at_its_expiry(clock: Seconds) -> None:
    """No earlier, and it counts no longer."""
    backend = MemoryBackend(clock)
    backend.set_many([item("short", 10), item("long", 20)])
    clock.now = 9.999
    assert None not in backend.get_many(["short", "long"])
    clock.now = 10.0
    assert [value is None for value in backend.get_many(["short", "long"])] == [True, False]
    assert backend.size() == 1
    assert kept(backend) == {"long": 10.0}


def test_writing_again_begins_the_life_anew(clock: Seconds) -> None:
    """The expiry of the replaced value does not end the new one."""
    backend = MemoryBackend(clock)
    backend.set_many([item("a")])
    clock.now = 6.0
    assert backend.set_many([item("a")]) == 1
    clock.now = 15.0
    assert kept(backend) == {"a": 1.0}


def test_a_copy_prolongs_no_life(clock: Seconds) -> None:
    """It is kept where nothing or something older is; reading a value often keeps it no longer."""
    backend = MemoryBackend(clock)
    backend.copy_many([item("a", minute=1)])
    clock.now = 6.0
    backend.copy_many([item("a", minute=1), item("b")])
    assert kept(backend) == {"a": 4.0, "b": 10.0}
    backend.copy_many([item("a", minute=0)])
    assert kept(backend)["a"] == 4.0
    backend.copy_many([item("a", minute=2)])
    assert kept(backend)["a"] == 10.0


def test_an_expired_value_is_no_newer_one(clock: Seconds) -> None:
    """What is forgotten holds nothing up."""
    backend = MemoryBackend(clock)
    backend.set_many([item("a", 10, minute=5)])
    assert backend.set_many([item("a", 10, minute=4)]) == 0
    clock.now = 10.0
    assert backend.set_many([item("a", 10, minute=4)]) == 1


def test_when_it_is_full_the_soonest_to_expire_goes(clock: Seconds) -> None:
    """Also when that is the one that comes."""
    backend = MemoryBackend(clock, max_items=2)
    assert backend.set_many([item("a", 30), item("b", 10), item("c", 20)]) == 3
    assert kept(backend) == {"a": 30.0, "c": 20.0}
    assert backend.set_many([item("d", 5)]) == 0
    assert kept(backend) == {"a": 30.0, "c": 20.0}


def test_bytes_are_bounded_too(clock: Seconds) -> None:
    """A value too large for the whole of it drives out nothing, but its older self."""
    size = len(item("a").value)
    backend = MemoryBackend(clock, max_bytes=3 * size)
    backend.set_many([item("a", 30), item("b", 20), item("c", 10)])
    backend.set_many([item("d", 40)])
    assert kept(backend).keys() == {"a", "b", "d"}
    backend.set_many([item("e", 40, note="x" * size)])
    assert kept(backend).keys() == {"d", "e"}
    assert backend.set_many([item("e", 40, note="x" * 3 * size)]) == 0
    assert kept(backend).keys() == {"d"}
    backend.set_many([item("f"), item("g")])
    assert kept(backend).keys() == {"d", "f", "g"}


def test_rewriting_one_key_for_ever_does_not_grow(clock: Seconds) -> None:
    """The expiries of replaced values are cleared away."""
    backend = MemoryBackend(clock, max_items=3)
    for second in range(1000):
        clock.now = second / 1000
        backend.set_many([item("a"), item("b")])
    assert backend.size() == 2
    assert len(backend._expiries) <= 2 * 2 + 64
    clock.now += 10.0
    assert backend.size() == 0
    assert (backend._expiries, backend._bytes) == ([], 0)


@pytest.mark.parametrize("turns", range(10, 30))
def test_the_order_of_expiry_outlives_the_clearing_away(clock: Seconds, turns: int) -> None:
    """Rewritten with another life again and again: still each goes at its own time."""
    backend = MemoryBackend(clock)
    names = [f"k{number}" for number in range(20)]
    for turn in range(turns):
        backend.set_many([item(name, 1 + (7 * n + turn) % 20) for n, name in enumerate(names)])
    left = kept(backend)
    for second in range(1, 21):
        clock.now = float(second)
        assert kept(backend).keys() == {name for name, life in left.items() if life > second}
