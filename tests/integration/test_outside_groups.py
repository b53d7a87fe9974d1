"""Tables and groups that modules outside of the package declare go through both flows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from documented import python_blocks

from pipelines.settings import PROJECT_ROOT

Row = dict[str, Any]
TESTS: Final = PROJECT_ROOT / "tests"
MONTH: Final = timedelta(days=30)
USERS: Final = range(1, 6)


@pytest.fixture(scope="module", params=[1])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Row:
    """What both flows made of random changes, in a process that knows the modules."""
    folder = tmp_path_factory.mktemp("modules")
    module = python_blocks("docs/features.md")[-1]  # the documentation's own
    (folder / "shop_returns.py").write_text(module, "utf-8")
    paths = [str(folder), str(TESTS), str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "SYNCHROCHAIN_FEATURES": "shop_returns, outside_tickets",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    ran = subprocess.run(
        [sys.executable, str(TESTS / "outside_shop.py"), str(request.param)],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: Row = json.loads(ran.stdout)
    return found


def expected(changes: Iterable[Row], upto: int | None = None) -> dict[str, list[Row]]:
    """The rows of each view after the first changes, from the words of the features."""
    seen = [change for change in changes if upto is None or change["seq"] < upto]
    return {
        "user_returns": _returns(seen),
        "ticket_state": _ticket_states(seen),
        "user_tickets": _user_tickets(seen),
    }


def _returns(changes: list[Row]) -> list[Row]:
    rows = [c["row"] for c in changes if c["table"] == "returns" and c["op"] == "I"]
    good = [r for r in rows if r["user_id"] in USERS and r["reason"] != "no idea"]
    found = []
    for row in good:
        t, user = row["returned_at"], row["user_id"]
        own = [r for r in good if r["user_id"] == user and r["returned_at"] <= t]
        recent = [r for r in own if _time(r["returned_at"]) > _time(t) - MONTH]
        before = [r["returned_at"] for r in own if r["returned_at"] < t]
        since = _time(t) - _time(max(before)) if before else None
        found.append(
            {
                "user_id": user,
                "event_timestamp": t,
                "returns_30d": len(recent),
                "refunds_30d": sum(r["refund"] for r in recent),
                "broken_share_30d": sum(r["reason"] == "broken" for r in recent) / len(recent),
                "days_since_previous_return": since / timedelta(days=1) if since else None,
            }
        )
    return found


def _tickets(changes: list[Row]) -> list[tuple[str, Row | None, Row]]:
    """Time, row (None: deleted) and what is known of the ticket, of each change."""
    mine = [c for c in changes if c["table"] == "support_tickets"]
    return [(c["at"], None if c["op"] == "D" else c["row"], c["row"]) for c in mine]


def _ticket_states(changes: list[Row]) -> list[Row]:
    found = []
    for t, row, known in _tickets(changes):
        names = ("state", "about_order", "topics", "urgency", "is_over", "age_hours")
        features: Row = dict.fromkeys(names)
        if row:
            features = {
                "state": row["state"],
                "about_order": row["order"],
                "topics": json.loads(row["topics"]),
                "urgency": json.loads(row["details"])["urgency"],
                "is_over": row["end"] is not None,
                "age_hours": (_time(t) - _time(row["opened_at"])) / timedelta(hours=1),
            }
        found.append({"ticket_id": known["id"], "event_timestamp": t, **features})
    return found


def _user_tickets(changes: list[Row]) -> list[Row]:
    every = _tickets(changes)
    found = []
    for t, _, known in every:
        last = {k["id"]: (at, row) for at, row, k in every if at <= t}
        counted = [
            row
            for at, row in last.values()
            if row and row["user_id"] == known["user_id"] and _time(at) > _time(t) - MONTH
        ]
        user = {"user_id": known["user_id"], "event_timestamp": t}
        found.append({**user, "tickets_30d": len(counted)})
    return found


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def newest(rows: list[Row], key: str) -> dict[Any, Row]:
    """The newest row of each key."""
    return {row[key]: row for row in sorted(rows, key=lambda row: str(row["event_timestamp"]))}


def same(found: Iterable[Row], wanted: Iterable[Row], key: str) -> bool:
    """Whether they are the same rows, computed timestamps apart."""
    ours, theirs = (
        {(row[key], str(_time(row["event_timestamp"]))): row for row in rows}
        for rows in (found, wanted)
    )
    assert ours.keys() == theirs.keys()
    for which, row in theirs.items():
        for name, value in row.items():
            if name != "event_timestamp":
                assert ours[which][name] == (
                    pytest.approx(value) if isinstance(value, float) else value
                ), (which, name)
    return True


VIEWS: Final = {"user_returns": "user_id", "ticket_state": "ticket_id", "user_tickets": "user_id"}


@pytest.mark.parametrize(("view", "key"), VIEWS.items())
def test_batch_computes_all_of_history(shop: Row, view: str, key: str) -> None:
    """Every row of the group, and no other."""
    wanted = expected(shop["changes"])[view]
    assert len(wanted) > 20
    assert len(shop["offline"][view]) == len(wanted)
    assert same(shop["offline"][view], wanted, key)


@pytest.mark.parametrize(("view", "key"), VIEWS.items())
def test_the_streamer_serves_the_newest_rows(shop: Row, view: str, key: str) -> None:
    """After half of the changes, and after all; a batch cycle changes nothing of it."""
    half = expected(shop["changes"], len(shop["changes"]) // 2)[view]
    every = expected(shop["changes"])[view]
    assert same(shop["half"][view], newest(half, key).values(), key)
    assert same(shop["streamed"][view], newest(every, key).values(), key)
    assert same(shop["served"][view], newest(every, key).values(), key)


def test_a_group_whose_history_is_not_at_hand_is_left_to_the_batch_flow(shop: Row) -> None:
    """Wrong values are never served in between: the streamer says nothing, then batch does."""
    assert shop["half"]["user_lifetime"] == shop["streamed"]["user_lifetime"] == []
    wanted = newest(expected(shop["changes"])["user_tickets"], "user_id")
    served = {row["user_id"]: row for row in shop["served"]["user_lifetime"]}
    assert served.keys() == wanted.keys()
    for user, row in served.items():
        assert _time(row["event_timestamp"]) == _time(wanted[user]["event_timestamp"])
        assert row["orders_ever"] == 2  # long before all tickets


def test_feast_has_the_views_with_what_their_groups_say(shop: Row) -> None:
    """Keys that are entities already are those; another one becomes an entity of its own."""
    found = shop["views"]
    assert {name: view["entities"] for name, view in found.items()} == {
        "user_returns": ["user"],
        "ticket_state": ["ticket_id"],
        "user_tickets": ["user"],
        "user_lifetime": ["user"],
    }
    days = {name: view["ttl"] / 86_400 for name, view in found.items()}
    assert days == {"user_returns": 90, "ticket_state": 365, "user_tickets": 0, "user_lifetime": 0}
    assert found["user_returns"]["owner"] == "returns desk"
    assert all(view["described"] for view in found.values())


def test_feast_reads_them_online_and_as_of_a_time(shop: Row) -> None:
    """Beside one another, in one request."""
    at = datetime(2024, 5, 31, 12)
    rows = expected(shop["changes"])
    for row in shop["past"]:
        for view in ("user_returns", "user_tickets"):
            before = [r for r in rows[view] if _time(r["event_timestamp"]) <= at]
            last = newest(before, "user_id").get(row["user_id"], {})
            for name in set(last) - {"event_timestamp"}:
                assert row[name] == pytest.approx(last[name]), (view, name)
    tickets = newest(rows["user_tickets"], "user_id")
    wanted = [tickets[user]["tickets_30d"] if user in tickets else None for user in USERS]
    assert shop["online"]["tickets_30d"] == wanted  # without a time to live


def test_rules_and_references_of_the_tables_hold(shop: Row) -> None:
    """What breaks them lies in quarantine, counted; also of a log that no group reads."""
    of_returns = [c["row"] for c in shop["changes"] if c["table"] == "returns" and c["op"] != "D"]
    broken = [r for r in of_returns if r["user_id"] == 99 or r["reason"] == "no idea"]
    assert shop["rejected"] == {"returns": len(broken), "visits": 1}
    assert shop["visits"] == 4
