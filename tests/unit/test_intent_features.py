"""Sessions as arrays: one reading for training and serving, nothing of the future, no bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.models.intent.features import (
    ACTIONS,
    AGGREGATES,
    EVENT_INPUTS,
    OTHER,
    USER_FEATURES,
    aggregates,
    event_inputs,
    read_sequences,
    user_context,
)


def columns_of(
    *sessions: list[tuple[str, str, float, float, float]], **user: Any
) -> dict[str, Any]:
    """Input columns of sessions given as (action, product, seconds, depth, gap) events."""
    names = ("actions", "product_ids", "times_on_page", "scroll_depths", "gaps")
    columns: dict[str, Any] = {
        name: [[event[place] for event in session] for session in sessions]
        for place, name in enumerate(names)
    }
    columns["event_count"] = [len(session) for session in sessions]
    for name in USER_FEATURES:
        columns[name] = [user.get(name, 1.0)] * len(sessions)
    return columns


SESSION = [
    ("view", "P1", 20.0, 0.5, 0.0),
    ("search", "", 5.0, 0.2, 6.0),
    ("view", "P2", 40.0, 0.9, 41.0),
    ("view", "P1", 30.0, 0.8, 31.0),
    ("add_to_cart", "P1", 10.0, 0.7, 11.0),
]


def aggregate(columns: dict[str, Any], name: str) -> float:
    return float(aggregates(columns)[0, AGGREGATES.index(name)])


def test_a_second_look_at_a_product_is_told_by_how_long_ago_the_first_was() -> None:
    """Products matter only by which events share one."""
    assert read_sequences(columns_of(SESSION)).back.tolist() == [[0, 0, 0, 3, 1]]


def test_an_event_is_encoded_without_knowledge_of_later_ones() -> None:
    """The encoding of a prefix is that of the whole session, cut."""
    whole = event_inputs(read_sequences(columns_of(SESSION)))
    for length in range(1, len(SESSION) + 1):
        part = event_inputs(read_sequences(columns_of(SESSION[:length])))
        assert part[0] == pytest.approx(whole[0, :length], abs=1e-6)


def test_a_row_is_read_alike_alone_and_beside_longer_ones() -> None:
    """Padding changes no encoding and no aggregate."""
    together = columns_of(SESSION[:2], SESSION)
    alone = columns_of(SESSION[:2])
    assert event_inputs(read_sequences(together))[0, :2] == pytest.approx(
        event_inputs(read_sequences(alone))[0], abs=1e-6
    )
    assert aggregates(together)[0] == pytest.approx(aggregates(alone)[0], nan_ok=True)


def test_a_purchase_and_what_follows_it_are_cut_off() -> None:
    """The input never includes a purchase."""
    after = [*SESSION, ("purchase", "P1", 1.0, 0.1, 2.0), ("view", "P3", 9.0, 0.3, 9.0)]
    assert read_sequences(columns_of(after)).length.tolist() == [5]


def test_an_unknown_action_is_other() -> None:
    """A shop with further actions still gets an answer."""
    sequences = read_sequences(columns_of([("wishlist", "P1", 1.0, 0.1, 0.0)]))
    assert sequences.action.tolist() == [[OTHER]]
    assert ACTIONS[OTHER] == "other"


@pytest.mark.parametrize("nothing", [None, [], float("nan")])
def test_a_missing_session_is_an_empty_one(nothing: Any) -> None:
    """No list at all, an empty one and NaN give finite inputs."""
    columns = columns_of(SESSION, SESSION)
    for name in ("actions", "product_ids", "times_on_page", "scroll_depths", "gaps"):
        columns[name][1] = nothing
    columns["event_count"] = [5, None]
    sequences = read_sequences(columns)
    assert sequences.length.tolist() == [5, 0]
    assert np.isfinite(event_inputs(sequences)).all()
    assert aggregates(columns).shape == (2, len(AGGREGATES))


def test_missing_numbers_within_lists_are_neutral() -> None:
    """None and NaN among the numbers do not spread."""
    columns = columns_of(SESSION)
    columns["times_on_page"][0][1] = None
    columns["scroll_depths"][0][2] = float("nan")
    found = event_inputs(read_sequences(columns))
    assert found.shape == (1, 5, EVENT_INPUTS)
    assert np.isfinite(found).all()


def test_an_unknown_user_is_told_apart_from_one_who_never_bought() -> None:
    """Missing is flagged, not taken for zero."""
    unknown = user_context(columns_of(SESSION, purchases_7d=None))
    never = user_context(columns_of(SESSION, purchases_7d=0))
    assert np.isfinite(unknown).all()
    assert not np.array_equal(unknown, never)


def test_aggregates_count_and_date_what_happened() -> None:
    """Counts, events since, cart, repeats and means are those of the events listed."""
    columns = columns_of(SESSION)
    assert aggregate(columns, "count_view") == 3
    assert aggregate(columns, "since_search") == 3
    assert np.isnan(aggregate(columns, "since_checkout"))
    assert aggregate(columns, "cart") == 1
    assert aggregate(columns, "repeats") == 1
    assert aggregate(columns, "seconds") == pytest.approx(89)
    assert aggregate(columns, "products") == 2
    assert aggregate(columns, "log_dwell_last") == pytest.approx(np.log(0.5), abs=1e-5)
