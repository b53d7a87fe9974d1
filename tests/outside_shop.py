"""Both flows over tables and groups from outside the package, in a process that knows of them.

Run with SYNCHROCHAIN_FEATURES and a seed; prints one JSON document: the changes, what the streamer
served after each half of them, and what a batch cycle with Feast's update made of all.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pandas as pd
from pinned_clock import pin
from stream_batch import batch_process
from stream_helpers import StreamWorld, stream_world

from pipelines.features.views import VIEWS
from pipelines.lake.workspace import read_files

Row = dict[str, Any]
NOW = datetime(2024, 6, 1, 12)
USERS = range(1, 6)
REASONS = ("broken", "size", "late", "other")
STATES = ("open", "waiting", "closed")
OUTSIDE = ("user_returns", "ticket_state", "user_tickets", "user_lifetime")
LATENESS = 10**8  # of seconds: nothing is too old for the streamer


def main() -> None:
    """Run it all, and print what came out."""
    rng = random.Random(int(sys.argv[1]))
    changes = sorted([*returns(rng), *tickets(rng), *visits(rng)], key=lambda c: str(c["at"]))
    half = len(changes) // 2
    found: Row = {"changes": [{**change, "seq": n} for n, change in enumerate(changes)]}
    with batch_process() as batch, stream_world(lambda: NOW, batch, allowed_lateness=LATENESS) as w:
        write(w.database, furniture())
        write(w.database, changes[:half])
        w.stream()
        found["half"] = {view: list(w.online(view).values()) for view in OUTSIDE}
        write(w.database, changes[half:])
        w.stream()
        found["streamed"] = {view: list(w.online(view).values()) for view in OUTSIDE}
        w.restart(save=True)
        found["rejected"] = w.cycle(update=True)
        w.end()
        found["served"] = {view: list(w.online(view).values()) for view in OUTSIDE}
        found["offline"] = {view.name: offline(w, view.name) for view in VIEWS}
        found["visits"] = len(processed(w, "visits"))
        found |= feast(w)
    print(json.dumps(found, default=str))


def furniture() -> list[Row]:
    """The records that others refer to."""
    since = NOW - timedelta(days=100)
    order = {
        "product_id": "p1",
        "quantity": 1,
        "price": 5.0,
        "warehouse_id": "w1",
        "shipping_method": "standard",
        "order_timestamp": since,
        "status": "placed",
    }
    orders = [{"id": n, "user_id": 1 + n % len(USERS), **order} for n in range(1, 11)]
    users = [{"user_id": u, "region": "n", "signed_up_at": since} for u in USERS]
    product = {"product_id": "p1", "category": "a", "unit_price": 5.0, "weight_kg": 1.0}
    warehouse = {"warehouse_id": "w1", "region": "n", "latitude": 0, "longitude": 0, "capacity": 9}
    supplier = {"supplier_id": "s1", "region": "n", "lead_time_days": 2.0}
    return [
        *(change("users", "users", u["user_id"], u, since) for u in users),
        change("inventory", "products", "p1", product, since),
        change("inventory", "warehouses", "w1", warehouse, since),
        change("supply_chain", "suppliers", "s1", supplier, since),
        *(change("orders", "orders", o["id"], o, since) for o in orders),
    ]


def returns(rng: random.Random) -> list[Row]:
    """Returns over 70 days: some of nobody's, for no reason that is known, changed, deleted."""
    found = []
    for number in range(1, 60):
        at = NOW - timedelta(days=rng.uniform(0, 70))
        row = {
            "return_id": number,
            "order_id": rng.randint(1, 10),
            "user_id": rng.choice([*USERS, *USERS, 99]),
            "reason": rng.choice([*REASONS, *REASONS, "no idea"]),
            "refund": rng.randrange(10_000) / 100,
            "returned_at": at,
        }
        found.append(change("orders", "returns", number, row, at))
        if rng.random() < 0.3:
            later = at + timedelta(hours=rng.uniform(0, 50))
            op = rng.choice("UD")
            found.append(change("orders", "returns", number, row | {"refund": 1.0}, later, op))
    return found


def tickets(rng: random.Random) -> list[Row]:
    """Tickets that change a few times, and some that are deleted."""
    found = []
    for number in range(1, 25):
        opened = at = NOW - timedelta(days=rng.uniform(5, 70))
        user = rng.choice(USERS)
        for step in range(rng.randint(1, 4)):
            row = {
                "id": f"t{number}",
                "user_id": user,
                "order": rng.choice([None, rng.randint(1, 10)]),
                "state": rng.choice(STATES),
                "topics": json.dumps(rng.sample(["size", "price", "colour"], rng.randint(0, 3))),
                "details": json.dumps({"urgency": rng.choice([None, 0.5, 1])}),
                "opened_at": opened,
                "end": rng.choice([None, at]),
                "due_at": rng.choice([None, NOW + timedelta(days=400)]),
                "updated_at": at,
            }
            op = "I" if step == 0 else rng.choice("UUUD")
            found.append(change("users", "support_tickets", f"t{number}", row, at, op))
            at += timedelta(days=rng.uniform(0, 3))
            if op == "D":
                break
    return found


def visits(rng: random.Random) -> list[Row]:
    """Of a log that no group reads: one of them twice, one of a supplier that is not there."""
    found = []
    for number in (1, 2, 3, 3, 4):
        at = NOW - timedelta(days=rng.uniform(0, 70))
        row = {"visit_id": number, "supplier_id": "s1" if number < 4 else "s9", "at": at}
        found.append(change("supply_chain", "visits", number, row, at))
    return found


def change(database: str, table: str, key: Any, row: Row, at: datetime, op: str = "I") -> Row:
    """A change as a trigger records it."""
    return {"database": database, "table": table, "key": key, "op": op, "row": row, "at": at}


def write(database: Callable[[str], sqlite3.Connection], changes: list[Row]) -> None:
    """Append changes to the change logs, in their order."""
    for one in changes:
        row = {k: stored(v) if isinstance(v, datetime) else v for k, v in one["row"].items()}
        with closing(database(one["database"])) as connection, connection:
            connection.execute(
                "INSERT INTO change_log (table_name, op, key, row, committed_at) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    one["table"],
                    one["op"],
                    json.dumps([one["key"]]),
                    json.dumps(row),
                    stored(one["at"]),
                ),
            )


def stored(time: datetime) -> str:
    """A time as the live databases hold it."""
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")


def offline(world: StreamWorld, view: str) -> list[Row]:
    """The published rows of a view."""
    return rows_of(world, "view", view)


def processed(world: StreamWorld, log: str) -> list[Row]:
    """The processed log."""
    return rows_of(world, "log", log)


def rows_of(world: StreamWorld, kind: str, name: str) -> list[Row]:
    """What is published of one kind and name."""
    files = world.state.files(kind, name)
    if not files:
        return []
    with closing(duckdb.connect()) as connection:
        found: list[Row] = (
            connection.execute(f"SELECT * FROM {read_files(files)}").to_arrow_table().to_pylist()
        )
    return found


def feast(world: StreamWorld) -> Row:
    """What Feast knows of the groups, and their features as of a time and online."""
    os.environ["SYNCHROCHAIN_DATA_DIR"] = str(world.config.data_dir)
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(world.batch_config.feature_repo_path))
    asked = [f"{view}:{f.name}" for view in OUTSIDE for f in store.get_feature_view(view).features]
    views = {
        view.name: {
            "entities": view.entities,
            "ttl": view.ttl.total_seconds(),
            "owner": view.owner,
            "described": all(f.description for f in view.features),
        }
        for view in store.list_feature_views()
        if view.name in OUTSIDE
    }
    at = NOW - timedelta(days=1)
    entities = pd.DataFrame({"user_id": [*USERS], "ticket_id": "t1", "event_timestamp": at})
    past = store.get_historical_features(entities, asked).to_df()
    online = store.get_online_features(
        asked, [{"user_id": user, "ticket_id": "t1"} for user in USERS]
    ).to_dict()
    return {
        "views": views,
        "past": json.loads(past.to_json(orient="records", date_format="iso")),
        "online": online,
    }


if __name__ == "__main__":
    pin()
    main()
