"""Every feature of the dictionary in straightforward pandas: a baseline for speed and results.

From the change logs of the live databases to feature frames in one process and in memory, the way
a data scientist would write it in a notebook. Written from the specification alone.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

SEQUENCE_LENGTH: Final = 32
_CHUNK_ROWS: Final = 100_000
_SIGNALS: Final = ("time_on_page", "scroll_depth", "click_rate")

# log: (database, table)
_TABLES: Final[Mapping[str, tuple[str, str]]] = {
    "orders": ("orders", "orders"),
    "sessions": ("users", "user_sessions"),
    "clickstream": ("users", "clickstream"),
    "inventory": ("inventory", "inventory"),
    "warehouses": ("inventory", "warehouses"),
    "routes": ("supply_chain", "routes"),
    "shipments": ("supply_chain", "shipments"),
}
# The columns that the features need, beside seq and op.
_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "orders": {
        "id": "int64",
        "user_id": "int64",
        "product_id": "object",
        "quantity": "int64",
        "price": "float64",
        "warehouse_id": "object",
        "shipping_method": "object",
        "order_timestamp": "time",
    },
    "sessions": {
        "session_id": "object",
        "user_id": "int64",
        "products_viewed": "object",
        "actions_performed": "object",
        "session_duration": "int64",
        "timestamp": "time",
        "time_on_page": "float64",
        "scroll_depth": "float64",
        "click_rate": "float64",
    },
    "clickstream": {
        "event_id": "int64",
        "session_id": "object",
        "user_id": "int64",
        "product_id": "object",
        "action": "object",
        "time_on_page": "float64",
        "scroll_depth": "float64",
        "event_timestamp": "time",
    },
    "inventory": {
        "warehouse_id": "object",
        "product_id": "object",
        "current_stock": "int64",
        "reserved_stock": "int64",
        "reorder_point": "int64",
        "carbon_footprint": "float64",
        "updated_at": "time",
    },
    "warehouses": {"warehouse_id": "object", "region": "object", "committed_at": "time"},
    "routes": {
        "route_id": "object",
        "distance_km": "float64",
        "base_hours": "float64",
        "carbon_cost": "float64",
        "delay_risk": "float64",
        "congestion": "float64",
        "updated_at": "time",
    },
    "shipments": {
        "shipment_id": "int64",
        "route_id": "object",
        "promised_at": "time",
        "delivered_at": "time",
    },
}


def features_from_change_logs(paths: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    """All five views from the SQLite files of the live databases, given by database name."""
    return features_from_frames(
        {log: _read_log(paths[database], log) for log, (database, _) in _TABLES.items()}
    )


def features_from_frames(logs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """All five views from the processed logs.

    Columns are the view's keys, `event_timestamp` and the features; rows are sorted by keys and
    `event_timestamp`. A null is NaN in a column of numbers and None in a column of strings.
    """
    typed = {log: _typed(logs[log], log) for log in _TABLES}
    changes = {log: frame[frame["op"] != "D"].sort_values("seq") for log, frame in typed.items()}
    inserts = {log: changes[log][changes[log]["op"] == "I"] for log in ("clickstream", "orders")}
    views = {
        "user_intent": _user_intent(changes["sessions"], inserts["clickstream"]),
        "session_events": _session_events(inserts["clickstream"]),
        "user_orders": _user_orders(inserts["orders"]),
        "inventory_levels": _inventory_levels(
            changes["inventory"], inserts["orders"], changes["warehouses"]
        ),
        "route_conditions": _route_conditions(changes["routes"], changes["shipments"]),
    }
    # Microseconds are what the store holds; inside, nanoseconds go with pandas' own time deltas.
    return {
        name: view.astype({"event_timestamp": "datetime64[us]"}) for name, view in views.items()
    }


def _read_log(path: Path, log: str) -> pd.DataFrame:
    """One table's changes, typed; in chunks, so that the parsed JSON never is in memory at once."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        chunks: Iterator[pd.DataFrame] = pd.read_sql(
            "SELECT seq, op, committed_at, row FROM change_log WHERE table_name = ? ORDER BY seq",
            connection,
            params=(_TABLES[log][1],),
            chunksize=_CHUNK_ROWS,
        )
        frames = [_parsed(chunk, log) for chunk in chunks]
    finally:
        connection.close()
    return pd.concat(frames, ignore_index=True) if frames else _typed(pd.DataFrame(), log)


def _parsed(chunk: pd.DataFrame, log: str) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [json.loads(text) for text in chunk["row"]]
    if log == "sessions":
        for row in rows:
            row["products_viewed"] = json.loads(row["products_viewed"])
            row["actions_performed"] = json.loads(row["actions_performed"])
            signals = json.loads(row["intent_signals"]) or {}
            for signal in _SIGNALS:
                row[signal] = signals.get(signal)
    frame = pd.DataFrame.from_records(rows, columns=list(_COLUMNS[log]))
    if "committed_at" in frame:
        frame["committed_at"] = chunk["committed_at"].to_numpy()
    frame.insert(0, "seq", chunk["seq"].to_numpy())
    frame.insert(1, "op", chunk["op"].to_numpy())
    return _typed(frame, log)


def _typed(frame: pd.DataFrame, log: str) -> pd.DataFrame:
    """The needed columns with their types, whatever `frame` has, be it no column at all."""
    types = {"seq": "int64", "op": "object", **_COLUMNS[log]}
    frame = frame.reindex(columns=list(types)) if frame.empty else frame[list(types)]
    return pd.DataFrame(
        {
            column: pd.to_datetime(frame[column], format="ISO8601").astype("datetime64[ns]")
            if kind == "time"
            else frame[column].astype(np.dtype(kind))
            for column, kind in types.items()
        }
    )


def _user_intent(sessions: pd.DataFrame, clicks: pd.DataFrame) -> pd.DataFrame:
    last = sessions.drop_duplicates(["user_id", "timestamp"], keep="last")
    view = pd.DataFrame(
        {
            "user_id": last["user_id"],
            "event_timestamp": last["timestamp"],
            "intent_score": last["time_on_page"] / 300 * last["scroll_depth"] * 10,
            "urgency_score": last["click_rate"] * 20,
            "action_diversity": [len(set(actions)) for actions in last["actions_performed"]],
            "products_viewed": [len(set(products)) for products in last["products_viewed"]],
            "session_duration": last["session_duration"],
        }
    )
    for name, width in {"sessions_1d": "1D", "sessions_7d": "7D"}.items():
        view[name] = _running_total(view, _active_sessions(sessions, width), ["user_id"])
    for name, action in {"carts_7d": "add_to_cart", "purchases_7d": "purchase"}.items():
        events = clicks.loc[clicks["action"] == action, ["user_id", "event_timestamp"]]
        events = events.assign(amount=1)
        view[name] = _windowed_total(view, events, ["user_id"], "7D")
    view["conversion_rate_7d"] = view["purchases_7d"] / view["sessions_7d"]
    return _sorted(view, ["user_id"])


def _active_sessions(sessions: pd.DataFrame, width: str) -> pd.DataFrame:
    """Steps of the number of a user's sessions with a change in the window.

    A change makes its session active until the window has passed it, or until the session's next
    change, if that comes first.
    """
    times = sessions[["user_id", "session_id", "timestamp"]].sort_values("timestamp")
    following = times.groupby(["user_id", "session_id"])["timestamp"].shift(-1)
    passed = times["timestamp"] + pd.Timedelta(width)
    ends = following.where(following < passed, passed)
    starts = times[["user_id"]].assign(event_timestamp=times["timestamp"], amount=1)
    stops = times[["user_id"]].assign(event_timestamp=ends, amount=-1)
    return pd.concat([starts, stops], ignore_index=True)


def _session_events(clicks: pd.DataFrame) -> pd.DataFrame:
    events = clicks.sort_values(["session_id", "event_timestamp", "event_id"], ignore_index=True)
    sessions = events.groupby("session_id")
    position = sessions.cumcount()
    gaps = sessions["event_timestamp"].diff().dt.total_seconds().fillna(0.0)
    lists = {
        "actions": events["action"].tolist(),
        "product_ids": events["product_id"].fillna("").tolist(),
        "times_on_page": events["time_on_page"].tolist(),
        "scroll_depths": events["scroll_depth"].tolist(),
        "gaps": gaps.tolist(),
    }
    is_last = ~events.duplicated(["session_id", "event_timestamp"], keep="last")
    view = events.loc[is_last, ["session_id", "event_timestamp"]]
    stops = view.index + 1
    starts = stops - np.minimum(position[is_last] + 1, SEQUENCE_LENGTH)
    ranges = list(zip(starts.tolist(), stops.tolist(), strict=True))
    for name, values in lists.items():
        view[name] = pd.Series(
            [values[start:stop] for start, stop in ranges], index=view.index, dtype="object"
        )
    view["event_count"] = position[is_last] + 1
    return view.reset_index(drop=True)


def _user_orders(orders: pd.DataFrame) -> pd.DataFrame:
    orders = orders.sort_values(["user_id", "order_timestamp", "id"], ignore_index=True)
    orders = orders.assign(
        order=1,
        value=orders["quantity"] * orders["price"],
        fast=orders["shipping_method"].isin(["express", "overnight"]).astype("int64"),
    )
    times = orders["order_timestamp"]
    view = pd.DataFrame(
        {
            "user_id": orders["user_id"],
            "event_timestamp": times,
            "order_value": orders.groupby(["user_id", "order_timestamp"])["value"].transform("sum"),
            "orders_7d": _rolling_sum(orders, "user_id", "order_timestamp", "order", "7D"),
            "orders_30d": _rolling_sum(orders, "user_id", "order_timestamp", "order", "30D"),
            "spend_30d": _rolling_sum(orders, "user_id", "order_timestamp", "value", "30D"),
        }
    )
    fast = _rolling_sum(orders, "user_id", "order_timestamp", "fast", "30D")
    view["avg_order_value_30d"] = view["spend_30d"] / view["orders_30d"]
    view["express_share_30d"] = fast / view["orders_30d"]
    view["preferred_shipping_method"] = _preferred_method(orders)
    view["hour_of_day"] = times.dt.hour.astype("int64")
    view["day_of_week"] = times.dt.dayofweek.astype("int64")
    view["is_weekend"] = view["day_of_week"] >= 5
    view = view.astype({"orders_7d": "int64", "orders_30d": "int64"})
    # The last of the rows at one time has all of them in its windows.
    view = view.drop_duplicates(["user_id", "event_timestamp"], keep="last", ignore_index=True)
    since = view.groupby("user_id")["event_timestamp"].diff()
    view["days_since_previous_order"] = since.dt.total_seconds() / 86400
    return view


def _preferred_method(orders: pd.DataFrame) -> pd.Series:
    """The most frequent method in 30 days; `orders` are sorted by user, time and id."""
    scores = {}
    for method in orders["shipping_method"].unique():
        chosen = orders["shipping_method"] == method
        flagged = orders.assign(chosen=chosen.astype("int64"))
        count = _rolling_sum(flagged, "user_id", "order_timestamp", "chosen", "30D")
        latest = (orders.index + 1).to_series(index=orders.index).where(chosen)
        latest = latest.groupby(orders["user_id"]).ffill().fillna(0)
        # The place of the method's latest order is less than the weight of one more order.
        scores[method] = count * (len(orders) + 1) + latest
    if not scores:
        return pd.Series(dtype="object")
    return pd.DataFrame(scores).idxmax(axis="columns")


def _inventory_levels(
    inventory: pd.DataFrame, orders: pd.DataFrame, warehouses: pd.DataFrame
) -> pd.DataFrame:
    keys = ["warehouse_id", "product_id"]
    last = inventory.drop_duplicates([*keys, "updated_at"], keep="last")
    view = last[keys].assign(event_timestamp=last["updated_at"])
    view["stock_level"] = last["current_stock"] - last["reserved_stock"]
    view["stock_ratio"] = _ratio(view["stock_level"], last["reorder_point"])
    view["carbon_intensity"] = _ratio(last["carbon_footprint"], last["current_stock"])
    view["is_low_stock"] = view["stock_level"] < 50
    region = _region_at(view, warehouses).astype("object")
    view["warehouse_region"] = region.mask(region.isna(), other=None)
    sold = orders[keys].assign(event_timestamp=orders["order_timestamp"], amount=orders["quantity"])
    view["demand_24h"] = _windowed_total(view, sold, keys, "24h")
    view["days_of_cover"] = _ratio(view["stock_level"], view["demand_24h"])
    return _sorted(view, keys)


def _region_at(view: pd.DataFrame, warehouses: pd.DataFrame) -> pd.Series[Any]:
    """Where each row's warehouse stood at its time; before its first row, where it stood then."""
    states = warehouses.sort_values("committed_at", kind="stable")
    asked = view[["warehouse_id", "event_timestamp"]].sort_values("event_timestamp", kind="stable")
    held = pd.merge_asof(
        asked,
        states[["warehouse_id", "region", "committed_at"]],
        left_on="event_timestamp",
        right_on="committed_at",
        by="warehouse_id",
    )["region"].set_axis(asked.index)
    first = states.drop_duplicates("warehouse_id").set_index("warehouse_id")["region"]
    return held.where(held.notna(), asked["warehouse_id"].map(first))


def _route_conditions(routes: pd.DataFrame, shipments: pd.DataFrame) -> pd.DataFrame:
    delivered = shipments[shipments["delivered_at"].notna()]
    delivered = delivered.drop_duplicates("shipment_id", keep="last")
    overdue = delivered["delivered_at"] - delivered["promised_at"]
    deliveries = pd.DataFrame(
        {
            "route_id": delivered["route_id"],
            "event_timestamp": delivered["delivered_at"],
            "delivery": 1,
            "late": (overdue > pd.Timedelta(0)).astype("int64"),
            "delay": (overdue.dt.total_seconds() / 3600).clip(lower=0.0),
        }
    )
    changes = routes[["route_id"]].assign(
        event_timestamp=routes["updated_at"], delivery=0, late=0, delay=0.0
    )
    rows = pd.concat([changes, deliveries], ignore_index=True)
    rows = rows.sort_values(["route_id", "event_timestamp"], ignore_index=True)
    totals = {
        (column, width): _rolling_sum(rows, "route_id", "event_timestamp", column, width)
        for column, width in [
            ("delivery", "24h"),
            ("late", "24h"),
            ("delay", "24h"),
            ("delivery", "7D"),
            ("delay", "7D"),
        ]
    }
    windows = rows[["route_id", "event_timestamp"]].assign(
        deliveries_24h=totals["delivery", "24h"].astype("int64"),
        late_rate_24h=_ratio(totals["late", "24h"], totals["delivery", "24h"]),
        mean_delay_hours_24h=_ratio(totals["delay", "24h"], totals["delivery", "24h"]),
        mean_delay_hours_7d=_ratio(totals["delay", "7D"], totals["delivery", "7D"]),
    )
    windows = windows.drop_duplicates(["route_id", "event_timestamp"], keep="last")

    # An inner join in effect: a route of which nothing is known yet has no state.
    state = routes.drop(columns="op").rename(columns={"updated_at": "event_timestamp"})
    view = pd.merge_asof(
        windows.sort_values("event_timestamp"),
        state.sort_values(["event_timestamp", "seq"]),
        on="event_timestamp",
        by="route_id",
    )
    view = view[view["seq"].notna()].copy()
    view["risk_category"] = np.select(
        [view["delay_risk"] < 0.2, view["delay_risk"] < 0.5], ["low", "medium"], "high"
    ).astype("object")
    expected_hours = view["base_hours"] + view["mean_delay_hours_7d"].fillna(0.0)
    view["efficiency_score"] = _ratio(view["base_hours"], expected_hours)
    view["carbon_per_tonne_km"] = _ratio(view["carbon_cost"], view["distance_km"])
    columns = [
        "route_id",
        "event_timestamp",
        "delay_risk",
        "congestion",
        "carbon_cost",
        "deliveries_24h",
        "late_rate_24h",
        "mean_delay_hours_24h",
        "mean_delay_hours_7d",
        "risk_category",
        "efficiency_score",
        "carbon_per_tonne_km",
    ]
    return _sorted(view[columns], ["route_id"])


def _rolling_sum(frame: pd.DataFrame, key: str, time: str, column: str, width: str) -> pd.Series:
    """Sum over (t − width, t] within each key; `frame` is sorted by `key` and `time`."""
    if frame.empty:
        return pd.Series(dtype="float64")
    rolling = frame.groupby(key).rolling(width, on=time)[column].sum()
    return pd.Series(rolling.to_numpy(), index=frame.index)


def _running_total(
    rows: pd.DataFrame, events: pd.DataFrame, keys: list[str], before: str = "0D"
) -> np.ndarray:
    """For each row, the sum of `amount` over the key's events up to `before` its time."""
    events = events.sort_values("event_timestamp")
    totals = events[[*keys, "event_timestamp"]].assign(
        total=events.groupby(keys)["amount"].cumsum()
    )
    wanted = rows[keys].assign(
        event_timestamp=rows["event_timestamp"] - pd.Timedelta(before),
        position=np.arange(len(rows)),
    )
    joined = pd.merge_asof(
        wanted.sort_values("event_timestamp"), totals, on="event_timestamp", by=keys
    )
    return np.asarray(joined.sort_values("position")["total"].fillna(0), dtype=np.int64)


def _windowed_total(
    rows: pd.DataFrame, events: pd.DataFrame, keys: list[str], width: str
) -> np.ndarray:
    """For each row at t, the sum of `amount` over the key's events in (t − width, t]."""
    total = _running_total(rows, events, keys)
    total -= _running_total(rows, events, keys, before=width)
    return total


def _ratio(numerator: pd.Series, denominator: pd.Series) -> pd.Series:
    """The quotient; NaN where the denominator is 0."""
    return numerator / denominator.where(denominator != 0)


def _sorted(view: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    return view.sort_values([*keys, "event_timestamp"], ignore_index=True)
