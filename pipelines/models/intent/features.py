"""What the intent models see of a session: lists of events as arrays, and aggregates of them.

One code for training and serving, for one row or many. A missing list is an empty session, a
missing number is neutral, an unknown action is `other`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.registry.columns import as_columns, numeric_features, require

Floats = NDArray[np.float32]
Columns = Mapping[str, Any]

WINDOW: Final = 32
"""Events that `session_events` lists."""
ACTIONS: Final = ("view", "search", "add_to_cart", "remove_from_cart", "checkout", "other")
VIEW, SEARCH, ADD, REMOVE, CHECKOUT, OTHER = range(len(ACTIONS))
PADDING: Final = -1
PURCHASE: Final = "purchase"
LIST_FEATURES: Final = ("actions", "product_ids", "times_on_page", "scroll_depths", "gaps")
require("intent_transformer", LIST_FEATURES, objects=True)
require("intent_transformer", ("event_count", "urgency_score"))
USER_FEATURES: Final = tuple(
    name
    for view in ("user_intent", "session_events")
    for name in numeric_features(view)
    if name != "event_count"
)
"""What a new version reads beside the events: every number, texts and lists are left out. A version
records them, for there may be more or fewer when it is loaded."""
_UNRECORDED: Final = (
    *("intent_score", "urgency_score", "action_diversity", "products_viewed", "session_duration"),
    *("sessions_1d", "sessions_7d", "carts_7d", "purchases_7d", "conversion_rate_7d"),
)  # what versions read that record nothing
INTENT_COLUMNS: Final = (*LIST_FEATURES, "event_count", *USER_FEATURES)
"""Everything that the model is asked with."""
_CODES: Final = {action: code for code, action in enumerate(ACTIONS)}
_CHUNK: Final = 4096  # rows whose products are compared pairwise at once
_TYPICAL_DWELL_S: Final = np.float32(20.0)  # where the network's input is centred
# Sums in which an event counts for 0.8 of what the next one counts.
_DECAY: Final = np.tril(0.8 ** np.subtract.outer(np.arange(WINDOW), np.arange(WINDOW))).T
_DECAY32: Final = _DECAY.astype(np.float32)


def recorded_features(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The user features that a version reads, from its settings."""
    return tuple(settings.get("user_features", _UNRECORDED))


def past_urgency(urgency_score: Any) -> NDArray[np.float64]:
    """(N,) urgency 0–1 from the feature alone; one half, the usual, where there is none."""
    score = np.asarray(urgency_score, dtype=np.float64)
    return np.clip(np.where(np.isfinite(score), score, 1.0) / 2, 0.0, 1.0)


def before_purchase(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Columns of sessions, each cut before its first purchase: the model has never seen one."""
    cut = {name: list(values) for name, values in columns.items()}
    for row, actions in enumerate(cut["actions"]):
        if actions is not None and PURCHASE in actions:
            keep = list(actions).index(PURCHASE)
            for name in LIST_FEATURES:
                listed = cut[name][row]
                cut[name][row] = [] if listed is None else list(listed)[:keep]
            count = cut["event_count"][row]
            if count is not None:
                cut["event_count"][row] = max(count - (len(actions) - keep), 0)
    return cut


def intent_columns(features: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The model's input, from the features of its views."""
    return as_columns(before_purchase({name: features[name] for name in INTENT_COLUMNS}))


@dataclass(frozen=True)
class Sequences:
    """Sessions as arrays, oldest event first, padded at the end to the longest, T at least 1.

    Attributes:
        action: (N, T) code, −1 for padding.
        back: (N, T) how many events ago the same product was met last, 0 if it was not.
        has_product: (N, T).
        log_dwell: (N, T) log of seconds / 20.
        scroll: (N, T) logit of the depth.
        log_gap: (N, T) log of 1 + seconds.
        length: (N,) events listed, 0 for none.
        count: (N,) events of the session so far.
    """

    action: NDArray[np.int8]
    back: NDArray[np.int8]
    has_product: NDArray[np.bool_]
    log_dwell: Floats
    scroll: Floats
    log_gap: Floats
    length: NDArray[np.int64]
    count: Floats


def read_sequences(columns: Columns) -> Sequences:
    """The session's events of each row; a purchase and what follows it are cut off."""
    names = [_listed(values) for values in columns["actions"]]
    length = np.fromiter(map(len, names), dtype=np.int64, count=len(names))
    lists = {name: [_listed(v) for v in columns[name]] for name in LIST_FEATURES[1:]}
    for values in lists.values():  # lists of unequal length are cut to the shortest
        length = np.minimum(length, np.fromiter(map(len, values), np.int64, len(values)))
    length = np.minimum(length, WINDOW)
    for row, actions in enumerate(names):
        if PURCHASE in actions:
            length[row] = min(length[row], list(actions).index(PURCHASE))
    width = max(int(length.max(initial=1)), 1)
    there = np.arange(width) < length[:, None]  # (N, T)

    def flat(values: list[Any]) -> chain[Any]:
        return chain.from_iterable(v[:n] for v, n in zip(values, length, strict=True))

    total = int(length.sum())
    action = np.full(there.shape, PADDING, dtype=np.int8)
    action[there] = np.fromiter((_CODES.get(a, OTHER) for a in flat(names)), np.int8, total)
    ids: dict[Any, int] = {"": 0, None: 0}
    product = np.zeros(there.shape, dtype=np.int32)
    product[there] = np.fromiter(
        (ids.setdefault(p, len(ids)) for p in flat(lists["product_ids"])), np.int32, total
    )

    def numbers(name: str, missing: float, low: float, high: float) -> Floats:
        found = np.full(there.shape, missing, dtype=np.float32)
        if total:
            values = np.concatenate(
                [
                    np.asarray(v[:n], dtype=np.float32)
                    for v, n in zip(lists[name], length, strict=True)
                ]
            )
            found[there] = np.where(np.isfinite(values), values, np.float32(missing))
        return np.clip(found, low, high)

    scroll = numbers("scroll_depths", 0.5, 1e-3, 1 - 1e-3)
    count = np.asarray(columns["event_count"], dtype=np.float32)
    return Sequences(
        action=action,
        back=_looked_at_before(product),
        has_product=product > 0,
        log_dwell=np.log(numbers("times_on_page", 20.0, 0.5, 3600.0) / _TYPICAL_DWELL_S),
        scroll=np.log(scroll / (1 - scroll)),
        log_gap=np.log1p(numbers("gaps", 0.0, 0.0, 3600.0)),
        length=length,
        count=np.where(np.isfinite(count), np.maximum(count, length), length).astype(np.float32),
    )


def _listed(values: Any) -> Any:
    return values if isinstance(values, (list, tuple, np.ndarray)) else ()


def _looked_at_before(product: NDArray[np.int32]) -> NDArray[np.int8]:
    """(N, T): distance to the latest earlier event with the same product, 0 if there is none."""
    rows, width = product.shape
    found = np.zeros((rows, width), dtype=np.int8)
    distance = np.subtract.outer(np.arange(width), np.arange(width)).astype(np.int8)  # i − j
    worth = np.where(distance > 0, WINDOW + 1 - distance, 0).astype(np.int8)
    for start in range(0, rows, _CHUNK):
        part = product[start : start + _CHUNK]
        same = (part[:, :, None] == part[:, None, :]) & (part > 0)[:, :, None]  # (n, T, T)
        best = (same * worth).max(2)
        found[start : start + _CHUNK] = np.where(best > 0, WINDOW + 1 - best, 0)
    return found


def user_context(columns: Columns, names: Sequence[str] = USER_FEATURES) -> Floats:
    """(N, 2 × names): log(1 + value), 0 where missing, and which are missing."""
    values = np.stack([np.asarray(columns[name], dtype=np.float32) for name in names], axis=1)
    missing = ~np.isfinite(values)
    known = np.log1p(np.maximum(np.where(missing, 0, values), 0))
    return np.concatenate([known, missing.astype(np.float32)], axis=1)


def event_inputs(s: Sequences) -> Floats:
    """(N, T, EVENT_INPUTS): each event and the session up to it; nothing from later events."""
    width = s.action.shape[1]
    there = (s.action != PADDING).astype(np.float32)  # (N, T)
    place = np.arange(1, width + 1, dtype=np.float32)
    codes = np.arange(len(ACTIONS), dtype=np.int8)
    one_hot = (s.action[:, :, None] == codes).astype(np.float32)  # (N, T, 6)
    again = ((s.back > 0) & (s.action == VIEW)).astype(np.float32)
    new = (s.has_product & (s.back == 0)).astype(np.float32)
    dwell, scroll = s.log_dwell * there, s.scroll * there
    # What is counted or averaged up to each event.
    kept = np.concatenate([one_hot[:, :, 1:5], np.stack([again, new, dwell, scroll], 2)], 2)
    sums = np.cumsum(kept, 1)  # (N, T, 8)
    recent = (kept.transpose(0, 2, 1) @ _DECAY32[:width, :width]).transpose(0, 2, 1)  # (N, T, 8)
    means = sums[:, :, [0, 4, 6, 7]] / place[:, None]
    # In place − length, so that a long session's window starts late.
    number = s.count[:, None] - s.length[:, None] + place
    cart = np.maximum(sums[:, :, 1] - sums[:, :, 2], 0)
    nearness = np.where(s.back > 0, 1 / np.maximum(s.back, 1), 0).astype(np.float32)
    single = np.stack(
        [
            dwell,
            scroll,
            s.log_gap * there / 3,
            s.has_product,
            again,
            new,
            nearness,
            cart > 0,
            np.minimum(cart, 4) / 2,
            np.log(np.maximum(number, 1)) - 1.5,
            number <= 1,
            number <= 3,
        ],
        2,
    ).astype(np.float32)  # (N, T, 12)
    counts = np.log1p(sums[:, :, :6])
    return np.concatenate([one_hot, single, counts, means, recent / 2], 2)


EVENT_INPUTS: Final = 6 + 12 + 6 + 4 + 8
AGGREGATES: Final = (
    "event_count",
    "listed",
    *(f"{what}_{action}" for what in ("count", "share", "since") for action in ACTIONS[:5]),
    "cart",
    "last_action",
    "action_before",
    *(
        f"{name}_{how}"
        for name in ("log_dwell", "scroll")
        for how in ("mean", "sd", "max", "last", "before_last", "mean_of_last_3", "mean_of_last_8")
    ),
    "seconds",
    "last_gap",
    "repeats",
    "repeat_share",
    "since_repeat",
    "last_is_repeat",
    "repeats_of_last_8",
    "searches_of_last_8",
    "products",
    *USER_FEATURES,
)
"""Columns of `aggregates`; `since` counts events."""


def aggregates(columns: Columns, names: Sequence[str] = USER_FEATURES) -> NDArray[np.float64]:
    """(N, len(AGGREGATES)): the same features without their order, NaN where there is nothing.

    For the baselines, and generous to them: recency and the last few events are included.

    Args:
        columns: of sessions, (N,) each.
        names: the user features, which come last.
    """
    s = read_sequences(columns)
    rows, width = s.action.shape
    there = s.action != PADDING
    listed = np.maximum(s.length, 1).astype(np.float64)
    age = s.length[:, None] - 1 - np.arange(width)  # (N, T), 0 for the last event
    number = np.arange(rows)

    def since(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        latest = np.where(mask, age, WINDOW + 1).min(1)
        return np.where(latest > WINDOW, np.nan, latest)

    def nth_last(values: NDArray[Any], back: int) -> NDArray[np.float64]:
        at = s.length - 1 - back
        return np.where(at >= 0, values[number, np.maximum(at, 0)], np.nan)

    def mean(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        size = mask.sum(1)
        return np.where(size, (values * mask).sum(1) / np.maximum(size, 1), np.nan)

    masks = [s.action == code for code in range(5)]
    counts = [mask.sum(1) for mask in masks]
    again = (s.back > 0) & masks[VIEW]
    found: list[NDArray[Any]] = [s.count, s.length, *counts]
    found += [count / listed for count in counts] + [since(mask) for mask in masks]
    found += [counts[ADD] - counts[REMOVE], nth_last(s.action, 0), nth_last(s.action, 1)]
    for values in (s.log_dwell, s.scroll):
        average = mean(values, there)
        spread = np.sqrt(mean((values - average[:, None]) ** 2, there))
        highest = np.where(there, values, -np.inf).max(1)
        found += [average, spread, np.where(np.isfinite(highest), highest, np.nan)]
        found += [nth_last(values, 0), nth_last(values, 1)]
        found += [mean(values, there & (age < 3)), mean(values, there & (age < 8))]
    found += [(np.expm1(s.log_gap) * there).sum(1), nth_last(np.expm1(s.log_gap), 0)]
    found += [again.sum(1), again.sum(1) / np.maximum(counts[VIEW], 1), since(again)]
    found += [nth_last(again, 0), (again & (age < 8)).sum(1), (masks[SEARCH] & (age < 8)).sum(1)]
    found += [(s.has_product & (s.back == 0)).sum(1)]
    found += [np.asarray(columns[name], dtype=np.float64) for name in names]
    return np.column_stack(found).astype(np.float64)
