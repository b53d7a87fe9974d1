"""Declared tables, and modules from outside of the package: one line for what cannot be meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.errors import DeclarationError
from pipelines.features.declare import (
    Feature,
    as_of,
    changes,
    count,
    days,
    facts,
    group,
    last,
    reports,
)
from pipelines.features.groups import OWN, all_groups
from pipelines.features.language.group import FeatureGroup
from pipelines.features.language.rows import Rows
from pipelines.features.shop_rows import DELIVERIES, INVENTORY, ORDERS, ROUTES, USERS
from pipelines.live_databases import METADATA
from pipelines.settings import PROJECT_ROOT
from pipelines.tables import shop
from pipelines.tables.declare import Log, money, number, text, time, whole
from pipelines.tables.known import LOGS, all_logs
from pipelines.tables.shop import SHOP_LOGS


def returns(**other: Any) -> Log:
    """A table of one's own, sound but for what is given."""
    sound: dict[str, Any] = {
        "name": "returns",
        "database": "orders",
        "key": ("return_id",),
        "columns": (
            whole("return_id"),
            whole("user_id"),
            money("refund", at_least=0),
            time("returned_at"),
        ),
        "references": {"user_id": "users"},
        "event_time": "returned_at",
        "append_only": True,
    }
    return Log(**{**sound, **other})


CLASH = 'log returns: {0} is a name that the flows use: take another one, with path="{0}"'


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"name": "Returns"}, "log Returns: 'Returns' is no name: it must be of a–z, 0–9 and _,"),
        ({"table": "re turns"}, "log returns: 're turns' is no name"),
        ({"database": "shop"}, "log returns: there is no database shop: there are orders, users,"),
        ({"key": ()}, "log returns: it needs a key"),
        ({"key": ("id",)}, "log returns: it has no column id: it has return_id, user_id, refund,"),
        ({"key": ("refund",)}, "log returns: refund is an amount with at most 8 digits before the"),
        ({"references": {"order_id": "orders"}}, "log returns: it has no column order_id: it has"),
        ({"event_time": None}, "log returns: an append-only log needs the event_time of its rows"),
        (
            {"event_time": "refund"},
            "log returns: its event_time refund is no time stamp of its",
        ),
        ({"retention": "week"}, "log returns: retention 'week' is none of recent, newest, all"),
        (
            {"changed_at": "returned_at"},
            "log returns: the rows of an append-only log do not",
        ),
        (
            {"append_only": False, "changed_at": "refund"},
            "log returns: changed_at refund is neither committed_at nor its event_time",
        ),
        ({"key": ("return_id", "user_id")}, "log returns: the key of an append-only log is one"),
        ({"columns": (whole("return_id"),) * 2}, "log returns: it has two columns return_id"),
        ({"columns": (whole("return_id"), text("reason"))}, CLASH.format("reason")),
        ({"table": "change_log"}, "log returns: a table of this name is the change log's or"),
        ({"key": "return_id"}, "log returns: its key is 'return_id': it must be a list, such as"),
        ({"key": ("return_id", "return_id")}, "log returns: it needs a key, and each of its"),
        ({"references": {"user_id": shop.USERS}}, "log returns: references name logs: {"),
        (
            {"columns": (whole("return_id"), text("a", path='d"; x'))},
            'log returns: \'d"; x\' is no path: it is "column", or "column.field" of a JSON',
        ),
        (
            {"columns": (whole("return_id"), text("a", path="d.e"), text("b", path="d.e"))},
            "log returns: two columns are read from d.e",
        ),
        (
            {"columns": (whole("return_id", nullable=True), time("returned_at"))},
            "log returns: return_id is nullable: keys and the times of changes have values",
        ),
        (
            {"columns": (whole("return_id"), time("returned_at", nullable=True))},
            "log returns: returned_at is nullable: keys and the times of changes have values",
        ),
        (
            {"columns": (whole("return_id"), time("returned_at", not_before="sent_at"))},
            "log returns: returned_at must not lie before sent_at, which is no time of it",
        ),
        ({"columns": (whole("return_id"), text("kind"))}, CLASH.format("kind")),
        (
            {"columns": (whole("return_id"), time("at", path="d.at")), "event_time": "at"},
            CLASH.format("at"),
        ),
        (
            {
                "columns": (whole("return_id"), whole("user_id"), time("t", path="details.t")),
                "event_time": "t",
            },
            "log returns: t is a field inside a JSON column: keys and event times are columns",
        ),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_one_line(other: dict[str, Any], said: str) -> None:
    """At once, where it is declared: it names the log, the column, and what is allowed."""
    with pytest.raises(DeclarationError) as error:
        returns(**other)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_names_that_hide_a_column_are_refused() -> None:
    """`ROWS.kind == "x"` would be false of every row, and nobody would hear of it."""
    ours = {name for name in dir(Rows) if not name.startswith("_")} | {"at", "kind", "log", "of"}
    for name in sorted(ours):
        with pytest.raises(DeclarationError, match=f"{name} is a name that the flows use"):
            returns(columns=(whole("return_id"), text(name)))


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([{"name": "orders"}], "log orders: there is another log of this name"),
        ([{}, {}], "log returns: there is another log of this name"),
        (
            [{"table": "orders"}],
            "log returns: the table orders of orders is that of the log",
        ),
        (
            [{"references": {"user_id": "customers"}}],
            "log returns: user_id refers to customers, which is no log: there are users, sessions,",
        ),
        (
            [{"references": {"user_id": "returns"}}],
            "log returns: user_id refers to the log itself",
        ),
        (
            [{"references": {"user_id": "inventory"}}],
            "log returns: user_id refers to inventory, whose key has several columns",
        ),
        (
            [{"references": {"user_id": "products"}}],
            "log returns: user_id and product_id of products, which it refers to, are of different",
        ),
        (
            [
                {"name": "a", "references": {"user_id": "b"}},
                {"name": "b", "references": {"user_id": "a"}},
            ],
            "logs refer to one another in a circle, among a, b: leave out one way",
        ),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(
    others: list[dict[str, Any]], said: str
) -> None:
    """Names, tables and references are those of all logs, the package's among them."""
    with pytest.raises(DeclarationError) as error:
        all_logs(SHOP_LOGS, tuple(returns(**other) for other in others))
    assert str(error.value).startswith(said)


def test_live_tables_follow_from_the_declarations() -> None:
    """Columns in their order, JSON columns once, keys, and references within a database."""
    sessions = METADATA["users"].tables["user_sessions"]
    assert sessions.columns.keys()[-2:] == ["timestamp", "intent_signals"]
    assert [key.target_fullname for key in sessions.columns["user_id"].foreign_keys] == [
        "users.user_id"
    ]
    stock = METADATA["inventory"].tables["inventory"]
    assert stock.primary_key.columns.keys() == ["warehouse_id", "product_id"]
    orders = METADATA["orders"].tables["orders"]
    assert not orders.foreign_keys  # all that it refers to lies in other databases
    shipments = METADATA["supply_chain"].tables["shipments"]
    assert shipments.columns["delivered_at"].nullable
    assert not shipments.columns["promised_at"].nullable


@pytest.mark.parametrize(
    ("column", "check", "rule"),
    [
        (whole("n", at_least=3), '"n" >= 3', "must be at least 3"),
        (whole("n", at_most=3), '"n" <= 3', "must be at most 3"),
        (number("n", at_least=0), '"n" >= 0', "must not be negative"),
        (number("n", at_least=-1, at_most=1), '"n" BETWEEN -1 AND 1', "must lie in -1–1"),
        (text("n", one_of=("a", "b's")), "\"n\" IN ('a', 'b''s')", "must be one of a, b's"),
        (time("n", not_before="m"), '"n" >= "m"', "must not be before m"),
        (text("n"), None, ""),
    ],
)
def test_a_rule_is_said_in_sql_and_in_words(column: Any, check: str | None, rule: str) -> None:
    """Both from one declaration, so that they cannot differ."""
    assert (column.check, column.rule) == (check, rule)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: text("state", one_of="open"), "state: one_of is a list of texts, not 'open'"),
        (lambda: whole("n", at_least=5, at_most=1), "n: at_least 5 is above at_most 1"),
    ],
)
def test_a_column_that_accepts_nothing_is_refused(made: Callable[[], Any], said: str) -> None:
    """Letters of a text are no list of texts, and no number lies between 5 and 1."""
    with pytest.raises(DeclarationError) as error:
        made()
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"keys": "user_id"}, "mine: its keys are a list of names, as ('user_id',), not 'user_id'"),
        ({"entity": shop.USERS}, "mine: its entity is changes(…) of a log"),
        ({"rows": shop.ORDERS}, "mine: its rows are facts(…), changes(…) or reports(…) of a log"),
        ({"ttl": timedelta(days=1)}, "mine: its ttl is a width, as days(30), not datetime."),
        ({"tags": ["a"]}, "mine: its tags are a dict of texts"),
        ({"features": [Feature(cast("str", 3), count(ORDERS), "…")]}, "mine: its features are a"),
        ({"keys": ("event_timestamp",)}, "mine: the key event_timestamp is called as a column of"),
    ],
)
def test_a_group_of_the_wrong_parts_is_refused_by_its_name(other: Any, said: str) -> None:
    """Not in Python's own words, which name no group."""
    sound: dict[str, Any] = {
        "keys": ("user_id",),
        "rows": ORDERS,
        "entity": USERS,
        "features": [Feature("n", count(ORDERS), "…")],
    }
    with pytest.raises(DeclarationError) as error:
        group("mine", **{**sound, **other})
    assert str(error.value).startswith(said)


def of_orders(name: str = "mine", rows: Any = ORDERS, value: Any = None) -> FeatureGroup:
    feature = Feature("n", count(ORDERS, within=days(1)) if value is None else value, "…")
    return group(name, keys=("user_id",), rows=rows, entity=USERS, features=(feature,))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: of_orders("user_orders"), "user_orders: there is another group of this name"),
        (
            lambda: of_orders(rows=facts(returns()), value=count(facts(returns()))),
            "mine: the log returns is in no module that SYNCHROCHAIN_FEATURES names",
        ),
        (
            lambda: group(
                "mine",
                keys=("route_id",),
                rows=ROUTES,
                entity=ROUTES,
                features=(Feature("n", last(DELIVERIES.cost), "…"),),
            ),
            "mine: it looks back at reports of shipments without a limit: give each aggregation",
        ),
        (
            lambda: of_orders(value=last(changes(shop.ORDERS).status)),
            "mine: it reads orders in two ways, as facts at order_timestamp and as changes at",
        ),
        (
            lambda: of_orders(rows=changes(shop.SESSIONS, at="committed_at"), value=count(ORDERS)),
            "mine: it reads sessions at committed_at, and user_intent at timestamp: the flows know",
        ),
        (
            lambda: group(
                "mine",
                keys=("warehouse_id", "product_id"),
                rows=INVENTORY,
                entity=INVENTORY,
                features=(Feature("n", as_of(INVENTORY.current_stock), "…"),),
            ),
            "mine: it looks current_stock up in inventory, which it also reads by its keys",
        ),
    ],
)
def test_groups_that_the_flows_cannot_run_are_refused(
    made: Callable[[], FeatureGroup], said: str
) -> None:
    """Before anything runs: the group is named, and why."""
    with pytest.raises(DeclarationError) as error:
        all_groups(OWN, (made(),), LOGS)
    assert str(error.value).startswith(said)


def test_keys_of_one_name_have_one_type() -> None:
    """A user is a number in one table, and a text in the other: not the same user."""
    members = Log(name="members", database="users", key=("user_id",), columns=(text("user_id"),))
    with pytest.raises(DeclarationError, match=r"^mine: orders.user_id and members.user_id, which"):
        group(
            "mine",
            keys=("user_id",),
            rows=ORDERS,
            entity=changes(members),
            features=(Feature("n", count(ORDERS), "…"),),
        )


@pytest.mark.parametrize("name", ["My group", "group-1", "1st", ""])
def test_groups_and_features_have_names_that_every_store_takes(name: str) -> None:
    """They are names of folders, tables and columns."""
    with pytest.raises(DeclarationError, match="must be of a–z, 0–9 and _"):
        of_orders(name)
    feature = Feature(name, count(ORDERS), "…")
    with pytest.raises(DeclarationError, match="must be of a–z, 0–9 and _"):
        group("mine", keys=("user_id",), rows=ORDERS, entity=USERS, features=(feature,))


MODULE = """
from pipelines.features.declare import Feature, count, facts, group
from pipelines.features.shop_rows import USERS
from pipelines.tables.declare import Log, time, whole
"""


def command(folder: Path, setting: str, *, path: str = "") -> subprocess.CompletedProcess[str]:
    """`synchrochain triggers` in a directory, with modules named."""
    return subprocess.run(
        [sys.executable, "-c", "from pipelines.cli.command import main; main()", "triggers"],
        cwd=folder,
        env={
            "SYNCHROCHAIN_FEATURES": setting,
            "SYNCHROCHAIN_DATA_DIR": str(folder / "data"),
            "PYTHONPATH": f"{PROJECT_ROOT}:{path}",
            "PATH": "/usr/bin",
        },
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (None, 2, "SYNCHROCHAIN_FEATURES: there is no module 'mine': it must be installed, on"),
        ("import nothing_of_the_kind", 1, "mine, line 1: ModuleNotFoundError: No module named"),
        ("a = 1\nb = (", 1, "mine, line 2: '(' was never closed"),
        ("a = 1\nraise ValueError('no')", 1, "mine, line 2: ValueError: no"),
        (
            f"{MODULE}A = Log(name='a', database='b', key=('c',), columns=())",
            1,
            "mine, line 5: log a: there",
        ),
        ("from pipelines.features.views import VIEWS", 1, "mine imports what is made from its"),
        ("import sys\nsys.exit(3)", 1, "mine: it ended Python while it was imported"),
    ],
)
def test_a_module_that_does_not_work_is_one_line(
    tmp_path: Path, text: str | None, code: int, said: str
) -> None:
    """What, where, and what to do; never a traceback, and never without the module's tables."""
    if text is not None:
        (tmp_path / "mine.py").write_text(text, "utf-8")
    ran = command(tmp_path, "mine")
    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.startswith(f"error: {said}")
    assert ran.stderr.count("\n") == 1


def test_modules_are_found_where_the_command_was_started(tmp_path: Path) -> None:
    """Also several, and those of a package; a table is looked for in its database."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    table = "Log(name='{0}', database='orders', key=('id',), columns=(whole('id'),))"
    (tmp_path / "mine" / "first.py").write_text(f"{MODULE}A = {table.format('a')}", "utf-8")
    (tmp_path / "other.py").write_text(
        f"{MODULE}from mine.first import A\nB = {table.format('b')}", "utf-8"
    )
    code = "from pipelines.tables.known import LOGS; print([log.name for log in LOGS[10:]])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"SYNCHROCHAIN_FEATURES": "mine.first, other", "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "['a', 'b']"


def test_a_module_that_declares_nothing_is_refused(tmp_path: Path) -> None:
    """Mostly it is another one of the same name."""
    ran = subprocess.run(
        [sys.executable, "-c", "from pipelines.features.groups import GROUPS"],
        cwd=tmp_path,
        env={"SYNCHROCHAIN_FEATURES": "json", "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
    )
    last = ran.stderr.splitlines()[-1]
    assert "SYNCHROCHAIN_FEATURES: json (" in last
    assert "declares no table and no group" in last


def test_a_log_that_marks_moves_can_be_reported_on() -> None:
    """By a table of one's own as by shipments."""
    parcels = Log(
        name="parcels",
        database="supply_chain",
        key=("parcel_id",),
        columns=(whole("parcel_id"), time("arrived_at", nullable=True)),
        marks_moves=True,
    )
    assert reports(parcels, at="arrived_at").deletions == ()
