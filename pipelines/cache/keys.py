"""The cache's keys and times to live.

`stream:{data_type}:{timestamp}`, `latest:{data_type}`, `features:{feature_id}`. The timestamp is
UTC, `YYYY-MM-DDTHH:MM:SS.ffffff`; a feature id is its view and entity keys: `user_intent:42`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from pipelines.errors import ConfigurationError, UnknownNameError, UsageError

DATA_TYPE_OF: Final[Mapping[str, str]] = {
    "orders": "orders",
    "users": "sessions",
    "inventory": "inventory",
    "supply_chain": "supply_chain",
}
"""The cache's name for what each live database streams."""
DATA_TYPES: Final = tuple(DATA_TYPE_OF.values())
STREAM: Final = "stream"
LATEST: Final = "latest"
FEATURES: Final = "features"
STREAM_SECONDS: Final = 300


def stream_key(data_type: str, timestamp: datetime) -> str:
    """The key of one batch.

    Raises:
        UnknownNameError: there is no such data type.
        UsageError: `timestamp` is not a datetime.
    """
    return f"{STREAM}:{_known(data_type)}:{stamp(timestamp)}"


def latest_key(data_type: str) -> str:
    """The key of the newest batch.

    Raises:
        UnknownNameError: there is no such data type.
    """
    return f"{LATEST}:{_known(data_type)}"


def feature_key(feature_id: str) -> str:
    """The key of one entity's features.

    Raises:
        UsageError: the id is empty.
    """
    if not feature_id:
        raise UsageError("a feature id is empty: it names a view and its keys, as user_intent:42")
    return f"{FEATURES}:{feature_id}"


def stamp(timestamp: datetime) -> str:
    """UTC with microseconds, always 26 characters: it sorts as time does. Naive means UTC.

    Raises:
        UsageError: it is not a datetime, for example None or pandas' NaT.
    """
    # NaT is a datetime, but not equal to itself.
    if not isinstance(timestamp, datetime) or timestamp != timestamp:
        raise UsageError(f"a time stamp must be a datetime: {timestamp!r}")
    if timestamp.tzinfo is not None:
        timestamp = timestamp.astimezone(UTC).replace(tzinfo=None)
    # The length is part of the format, and pandas would add its nanoseconds.
    return timestamp.isoformat(timespec="microseconds")[:26]


class TimesToLive:
    """Seconds to live by key: `stream` 300, `latest` and `features` as the configuration says.

    `given` overrides these, the most specific name first: `latest:orders` or
    `features:user_intent`, then a data type (its `stream` and its `latest`), then a kind of key.

    Raises:
        ConfigurationError: an unknown name, or a time that is not positive.
    """

    def __init__(self, cache_ttl: int, given: Mapping[str, int] | None = None) -> None:
        defaults = {STREAM: STREAM_SECONDS, LATEST: cache_ttl, FEATURES: cache_ttl}
        for name, seconds in (given or {}).items():
            _check(name, seconds)
        self._seconds: dict[str, int] = defaults | dict(given or {})

    def of(self, key: str) -> int:
        """How many seconds a value under this key lives."""
        kind, _, rest = key.partition(":")
        owner = rest.partition(":")[0]
        for name in (f"{kind}:{owner}", owner if kind != FEATURES else kind):
            if name in self._seconds:
                return self._seconds[name]
        return self._seconds[kind]


def _check(name: str, seconds: int) -> None:
    kind, _, view = name.partition(":")
    if name not in _settable() and (kind != FEATURES or not view):
        allowed = ", ".join(_settable())
        raise ConfigurationError(
            f"ttl has no name {name!r}; it has: {allowed}, and features:<view>"
        )
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
        raise ConfigurationError(f'ttl["{name}"] must be whole seconds >= 1: {seconds!r}')


def _settable() -> Iterator[str]:
    yield from (STREAM, LATEST, FEATURES, *DATA_TYPES)
    for kind in (STREAM, LATEST):
        yield from (f"{kind}:{data_type}" for data_type in DATA_TYPES)


def _known(data_type: str) -> str:
    if data_type not in DATA_TYPES:
        raise UnknownNameError(
            f"there is no data type {data_type!r}; there are: {', '.join(DATA_TYPES)}"
        )
    return data_type
