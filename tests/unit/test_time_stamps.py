"""Which texts are time stamps and what they mean: the same in SQL and in Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime

import duckdb
import pytest

from pipelines.change_log.time_stamps import parse_time_stamp, time_stamp_sql

NOON = datetime(2026, 1, 31, 12)
MEANS = {
    "2026-01-31": datetime(2026, 1, 31),
    "2026-01-31 12:00": NOON,
    "2026-01-31 12:00:00": NOON,
    "2026-01-31 12:00:00.000000": NOON,
    "2026-01-31T12:00:00Z": NOON,
    "2026-01-31t12:00:00z": NOON,
    "2026-01-31T12:00:00+00:00": NOON,
    "2026-01-31T12:00:00-00:00": NOON,
    "2026-01-31T12:00:00+0000": NOON,
    "2026-01-31 12:00:00+00": NOON,
    "2026-01-31 12:00:00 +00:00": NOON,
    "2026-01-31 14:00:00+02:00": NOON,
    "2026-01-31T06:30:00.000000-0530": NOON,
    "2026-01-31 01:00:00-11": NOON,
    "2026-02-01T11:59:00+23:59": NOON,
    "2026-01-31T17:45+05:45": NOON,
    "2026-01-31 12:00:00.5": NOON.replace(microsecond=500_000),
    "2026-01-31 12:00:00.": NOON,
    "2026-01-31 12:00:00.123456789Z": NOON.replace(microsecond=123_456),
    "2026-01-31 12:00:00.9999999": NOON.replace(microsecond=999_999),
    "2026-01-31T14:00:00.000001999+02": NOON.replace(microsecond=1),
    "2024-02-29 23:59:59.999999": datetime(2024, 2, 29, 23, 59, 59, 999_999),
    "2026-01-01T01:00:00+02:00": datetime(2025, 12, 31, 23),
    "1969-12-31 23:00:00-01:00": datetime(1970, 1, 1),
    "0001-01-01": datetime(1, 1, 1),
    "9999-12-31 23:59:59.999999": datetime(9999, 12, 31, 23, 59, 59, 999_999),
}
MEANS_NOTHING = [
    "",
    "epoch",
    "now",
    "today",
    "infinity",
    "-infinity",
    "Infinity",
    "2026",
    "2026-01",
    "2026-1-5",
    "20260131",
    "2026/01/31",
    "2026-01-31 12",
    "2026-01-31 1:2:3",
    "2026-01-31  12:00:00",
    "2026-01-31\t12:00:00",
    " 2026-01-31",
    "2026-01-31 ",
    "2026-01-31\n",
    "2026-01-31 12:00:00\n",
    "2026-01-31Z",
    "2026-01-31+02:00",
    "2026-01-31 24:00:00",
    "2026-01-31 24:00:00.000000",
    "2026-01-31 23:59:60",
    "2026-01-31 23:60:00.000000",
    "2026-01-31 12:00:00.1234567890",
    "2026-01-31 12:00:00,5",
    "2026-13-01",
    "2026-00-10 12:00:00.000000",
    "2026-02-29",
    "2026-02-30 12:00:00.000000",
    "2026-01-31 12:00:00 UTC",
    "2026-01-31 12:00:00 Europe/Berlin",
    "2026-01-31 12:00:00ZZ",
    "2026-01-31 12:00:00Z+02:00",
    "2026-01-31 12:00:00+24:00",
    "2026-01-31 12:00:00+02:60",
    "2026-01-31 12:00:00+2",
    "2026-01-31 12:00:00+02:00:30",
    "2026-01-31 12:00:00\u221202:00",
    "-2026-01-31",
    "+2026-01-31",
    "12026-01-31",
    "0000-01-01",
    "0000-12-31 12:00:00.000000",
    "0044-03-15 (BC)",
    "２０２６-01-31",
    "2026-01-31 12:00:0\u0665",
    "2026-01-31 12:00:00.00000\u0660",
    "1769860800",
    "1.5",
]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'America/New_York'")  # which must not matter
        yield connection


def in_sql(connection: duckdb.DuckDBPyConnection, texts: list[str | None]) -> list[datetime | None]:
    """What the SQL makes of texts."""
    found = connection.execute(
        f"SELECT {time_stamp_sql('text')} FROM (SELECT unnest(CAST(? AS VARCHAR[])) AS text)",
        [texts],
    )
    # Python has no times before the year 1 nor after 9999: DuckDB yields texts for them.
    return [at if isinstance(at, datetime) else None for (at,) in found.fetchall()]


def in_python(text: str) -> datetime | None:
    """What Python makes of a text."""
    try:
        return parse_time_stamp(text)
    except ValueError:
        return None


def test_a_time_stamp_means_a_time_in_utc(connection: duckdb.DuckDBPyConnection) -> None:
    """Z is UTC, an offset is converted, nanoseconds are cut, without an offset it is UTC."""
    assert dict(zip(MEANS, in_sql(connection, list(MEANS)), strict=True)) == MEANS
    assert {text: in_python(text) for text in MEANS} == MEANS


def test_anything_else_is_no_time_stamp(connection: duckdb.DuckDBPyConnection) -> None:
    """Words that a database takes for a time, days that do not exist, zones by name."""
    found = in_sql(connection, list(MEANS_NOTHING))
    assert {t: at for t, at in zip(MEANS_NOTHING, found, strict=True) if at is not None} == {}
    assert {t: in_python(t) for t in MEANS_NOTHING if in_python(t) is not None} == {}
    assert in_sql(connection, [None]) == [None]


def test_python_names_the_text() -> None:
    """Whatever is wrong with it."""
    for text in ("now", "2026-02-30", "0001-01-01T00:00+09:00"):
        with pytest.raises(ValueError, match="is not a time stamp") as caught:
            parse_time_stamp(text)
        assert repr(text) in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
def test_sql_and_python_agree_on_any_text(connection: duckdb.DuckDBPyConnection, seed: int) -> None:
    """Time stamps with a few characters changed, dropped or doubled."""
    rng = random.Random(seed)
    texts = []
    for _ in range(3_000):
        text = list(rng.choice([*MEANS, *MEANS_NOTHING]))
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            place = rng.randrange(len(text) + 1)
            text[place : place + rng.choice([0, 1, 1])] = rng.choice(
                ["", *"0123456789:.+-TtZz ", "00", "\n", "٣"]
            )
        texts.append("".join(text))
    found = in_sql(connection, [*texts])
    differing = {t: at for t, at in zip(texts, found, strict=True) if at != in_python(t)}
    assert differing == {}
    assert sum(at is not None for at in found) > 100
