"""What the command line prints, at the width of a terminal: nothing breaks within a word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from pipelines.batch.report import CycleReport
from pipelines.cli.audit_table import print_audit, print_live_audit
from pipelines.cli.console import answers, print_table
from pipelines.cli.cycle_table import print_cycle
from pipelines.cli.decisions_table import print_decision, print_decisions
from pipelines.cli.layout import laid_out
from pipelines.cli.models_table import print_models
from pipelines.cli.options import print_answer
from pipelines.cli.status_table import print_status
from pipelines.cli.training_table import print_report
from pipelines.monitoring.audit import AuditReport, ViewAudit
from pipelines.monitoring.comparison import FeatureAudit, UnequalRow
from pipelines.monitoring.live_tables import LiveAudit, TableAudit
from pipelines.printable import shown, wrapped
from pipelines.registry.store import ModelVersion

NOW = datetime(2026, 11, 27, 23, 28, 17)
ERROR = (
    "/srv/somebody/a_shop/data/feature_store/offline/user_intent/part_00000001.parquet was "
    "altered after it was published (its SHA-256 differs): restore it from a backup, or make all "
    "of it anew from the change logs with `synchrochain batch --rebuild --once`"
)
CHECK: dict[str, Any] = {
    "at": "2026-11-27 23:28:17",
    "turn": 3,
    "server": {"run_id": "26cd6f9df1afb3cfa3ad2ae8d4316163bde87d8b", "keys": 5620, "evicts": None},
    "signs": ["it was started again"],
    "views": {
        "user_intent": {"keys": 2686, "values": 404, "missing": 17},
        "inventory_levels": {"keys": 1800, "values": 440},
    },
}
CYCLE: dict[str, Any] = {
    "cycle": 412,
    "started_at": "2026-11-27 23:28:17.273209",
    "changes": 503_590,
    "accepted": {"users": 8000, "sessions": 48_885, "clickstream": 294_673, "routes": 103_103},
    "materialized": {"user_intent": ["2026-10-29 09:49:38.137049", "2026-11-27 09:47:48.384211"]},
    "online_check": CHECK,
    "unknown_rows": {},
    "seconds": {"read": 0.285, "validate": 1.299, "publish": 0.001, "update": 2.219},
    "offsets": {"inventory": 11_857, "orders": 2480, "supply_chain": 137_695, "users": 351_558},
}
SCORED = {
    "intent_transformer": {"version": 12, "labels": 1, "loss": 0.25},
    "supply_gnn": {"error": ERROR},
}
SIMULATED = {"rows": CYCLE["accepted"], "total_rows": 503_590, "from": NOW, "until": NOW}
DATABASE = {
    "changes": 12_351_558,
    "offset": 12_351_558,
    "lag": 1234,
    "stream_offset": 12_351_558,
    "stream_lag": 5678,
    "unknown_rows": {},
}
STREAM = {"changes": 12_345, "rejected": 3, "deferred": 22, "late": 1, "errors": 7}
STATUS: dict[str, Any] = {
    "data_dir": "/srv/somebody/a_shop/data",
    "declared_otherwise": ["user_intent", "route_conditions"],
    "databases": {
        "orders": DATABASE | {"unknown_rows": {"orders": "3 rows of orders changed"}},
        "supply_chain": DATABASE,
        "users": {"error": "/srv/somebody/users.db does not exist: fill it with `simulate`"},
    },
    "streamer": {
        "state": "running",
        "pid": 31_135,
        "started_at": "2026-11-27 23:28:17.000001",
        "saved_at": "2026-11-27 23:28:18.000001",
        "streams": {"users": STREAM, "supply_chain": STREAM | {"last_error": ERROR}},
        "deferred": {"users": 2},
        "rows_written": {"user_intent": 48_885, "session_events": 294_673},
        "online_store": {"mode": "redis", "outages": 0},
        "cache": {"mode": "redis", "outages": 0, "hit_rate": 0.5, "size": 1234},
        "clock_steps_back": 0,
        "hot_rows": 123_456,
    },
    "offline_views": {
        view: {
            "rows": 12_294_673,
            "keys": 28_213,
            "files": 12,
            "newest_event": NOW,
            "age_seconds": 4287.7,
            "null_share": {"days_of_cover": 0.848},
        }
        for view in ("user_intent", "session_events", "inventory_levels")
    },
    "registry": {},
    "pending_materializations": [],
    "quarantined": {},
    "online_store": {"engine": None},
    "last_cycles": [
        {"id": 412, "started_at": NOW, "status": "failed", "report": {}, "error": ERROR},
        {"id": 411, "started_at": NOW, "status": "succeeded", "report": CYCLE, "error": None},
    ],
}
GATE = "refused: loss +0.0011876 [-0.0029066, +0.0050123]; wanted: its 95% interval below 0"
VERSION = ModelVersion(
    model="intent_transformer",
    version=12,
    kind="intent/gradient_boosting",
    run_id="488134a4d8d5497382547c39f987b711",
    aliases=("champion", "challenger"),
    service="intent_transformer_v1",
    metrics={"log_loss": 0.1822, "ece": 0.01031, "average_precision": 0.2353},
    tags={"gate.verdict": "refused", "gate.better": GATE},
    created=NOW,
    is_baseline=False,
    folder=Path("artifacts"),
)
DECISION: dict[str, Any] = {
    "id": "4f3059ab523f1b5a",
    "status": "backorder",
    "decided_at": "2026-11-27T23:28:17+00:00",
    "order": {
        "quantity": 4,
        "product_id": "P0098",
        "region": "R05",
        "user_id": 484,
        "shipping_method": "overnight",
    },
    "choice": {
        "warehouse_id": "W05",
        "shipping_method": "overnight",
        "ship_cost": 137.37,
        "expected_hours": 114.62,
        "late_probability": 0.14,
    },
    "alternatives": [
        {
            "warehouse_id": "W05",
            "shipping_method": "overnight",
            "mode": "air",
            "ship_cost": 137.37,
            "expected_hours": 114.62,
            "late_probability": 0.14,
            "carbon_kg": 12.34,
            "stock_level": 1234,
            "feasible": False,
            "score": -134.37,
        }
    ],
    "features": {
        "session_events": {"state": "present", "age_seconds": 3600, "oldest_age_seconds": 7200}
    },
    "models": {
        "intent": {"name": "intent_transformer", "version": 12, "kind": "intent/gradient_boosting"}
    },
    "fallbacks": [{"what": "stock", "why": "no warehouse in reach has enough: W05 must restock"}],
}
FEATURE = FeatureAudit(12_000, 1000, 10, 10, 1234, 0.1234, 12.5)
ACTIONS = ["view", "view", "search", "add_to_cart", "view", "purchase"]
AUDIT = AuditReport(
    consistency=0.98765,
    views={
        "user_orders": ViewAudit(
            12_000, 10_000, 12, 0.9, {"preferred_shipping_method": FEATURE, "spend_30d": FEATURE}
        )
    },
    rows=[
        UnequalRow("user_orders", {"user_id": 4588}, {"spend_30d": 13.02}, {"spend_30d": 14.02}),
        UnequalRow(
            "session_events",
            {"session_id": "00030-000170"},
            {"actions": ACTIONS, "event_timestamp": NOW},
            {"actions": ACTIONS[:-1], "event_timestamp": NOW},
        ),
    ],
    unequal_rows=1234,
    as_of=NOW,
    online={},
    last={},
    rounds=1,
)
TABLE = TableAudit("users", 28_213, 28_214, "a", "b", 12, 34, 56, 78, 1234, ("user_id=2",))
LIVE_AUDIT = LiveAudit({"user_sessions": TABLE, "clickstream": TABLE}, {})
FEATURES: list[list[Any]] = [["actions", ACTIONS * 9], ["event_count", 1234]]
REPORT: dict[str, Any] = {
    "claims": [
        {
            "task": "intent",
            "claim": "better than the best baseline",
            "target": "interval above 0",
            "mean": 0.5,
            "low": 0.4,
            "high": 0.6,
            "holds": True,
            "note": "",
        }
    ],
    "control": [],
}
PRINTED: dict[str, Callable[[], None]] = {
    "status": lambda: print_status(STATUS),
    "batch": lambda: print_cycle(
        CycleReport(**CYCLE, quarantined={"users": 1}, after_update=SCORED)
    ),
    "simulate": lambda: print_answer(SIMULATED, False),
    "models": lambda: print_models({"intent_transformer": [VERSION]}, details=True),
    "decisions": lambda: print_decisions([DECISION]),
    "decision": lambda: print_decision(DECISION),
    "audit": lambda: print_audit(AUDIT),
    "audit --live": lambda: print_live_audit(LIVE_AUDIT),
    "train --report": lambda: print_report(REPORT),
    "features": lambda: print_table("of a session", ["feature", "value"], FEATURES),
}
DATA: dict[str, Any] = {
    "batch": [
        *("412", CYCLE["started_at"][:19], CYCLE["changes"], CYCLE["accepted"], *CYCLE["seconds"]),
        *("user_intent", CYCLE["materialized"]["user_intent"][1][:19], "1", "rejected"),
        *(
            "4,486 keys compared",
            "missing 17",
            "intent_transformer 12 has loss 0.25 on 1 new label",
        ),
        f"supply_gnn is not scored: {ERROR}",
    ],
    "simulate": SIMULATED,
    "models": [VERSION.kind, *VERSION.aliases, VERSION.created, VERSION.metrics, GATE],
    "decisions": [DECISION["id"], *DECISION["choice"].values(), DECISION["fallbacks"][0]["why"]],
    "audit --live": [*LIVE_AUDIT.tables, TABLE.rows, TABLE.logged, TABLE.differing],
    "features": FEATURES,
}


@pytest.fixture(params=[80, 120])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal's."""
    columns: int = request.param
    monkeypatch.setattr(answers, "width", columns)
    return columns


def leaves(value: Any) -> Iterator[str]:
    """Every value within a value, as a person reads it; names of parts too."""
    match value:
        case dict():
            for name, part in value.items():
                if part not in ({}, None):
                    yield str(name)
                    yield from leaves(part)
        case list() | tuple():
            for part in value:
                yield from leaves(part)
        case datetime():
            yield shown(value)
        case _:
            yield from shown(value).split()


def on_a_line(text: str, printed: str) -> bool:
    """Whether it stands there unbroken; a time stamp perhaps without year and seconds."""
    stamp = re.fullmatch(r"\d{4}-(\d\d-\d\d \d\d:\d\d):\d\d", text)
    return text in printed or bool(stamp and stamp[1] in printed)


@pytest.mark.parametrize("command", DATA)
def test_every_word_and_number_of_the_data_is_unbroken(
    command: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands in a report stands on some line as a whole."""
    PRINTED[command]()
    printed = capsys.readouterr().out
    assert [text for text in leaves(DATA[command]) if not on_a_line(text, printed)] == []


@pytest.mark.parametrize("command", PRINTED)
def test_no_line_is_wider_than_the_terminal(
    command: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for a path that is wider by itself, which stands alone."""
    PRINTED[command]()
    lines = capsys.readouterr().out.splitlines()
    path = ERROR.split()[0]
    assert [line for line in lines if cell_len(line) > width and line.strip() != path] == []


@pytest.mark.parametrize("command", PRINTED)
def test_a_narrow_terminal_is_shown_the_words_of_a_wide_one(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is lost and nothing broken: only the places differ, and the time stamps' length."""
    said = {}
    for columns in (400, 80):
        monkeypatch.setattr(answers, "width", columns)
        PRINTED[command]()
        said[columns] = capsys.readouterr().out
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?"
    texts = [*re.findall(stamp, said[400]), *re.sub(stamp, "", said[400]).split()]
    narrow = {word.strip(",;:") for word in said[80].split()}
    assert [
        text
        for text in texts
        if any(map(str.isalnum, text))
        and text.strip(",;:") not in narrow
        and not (re.fullmatch(stamp, text) and on_a_line(text, said[80]))
    ] == []


def test_people_read_of_a_cycle_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    """Identities, turns and microseconds are in the JSON."""
    PRINTED["batch"]()
    printed = capsys.readouterr().out
    internal = (CHECK["server"]["run_id"], "turn", "signs", "offsets", "273209", "137049", "[")
    assert [text for text in internal if text in printed] == []


def test_figures_are_to_the_right_and_long_texts_below() -> None:
    """The error of a failed cycle is a line with its cycle."""
    rows = [[12, NOW, "failed", 9, ERROR], [1, NOW, "succeeded", 1234, ""]]
    layout = laid_out(["cycle", "started", "status", "rows", "error"], rows, 60)
    (columns,) = layout.parts
    assert [column.heading for column in columns] == ["cycle", "started", "status", "rows"]
    assert [column.to_the_right for column in columns] == [True, False, False, True]
    assert layout.below == [f"cycle 12, error: {ERROR}"]


def test_time_stamps_of_two_years_keep_them() -> None:
    """Without the year one could not tell them apart."""
    stamps = [NOW, NOW.replace(year=2025)]
    both = laid_out(["view", "newest event"], [["a", stamp] for stamp in stamps], 18)
    one = laid_out(["view", "newest event"], [["a", stamp] for stamp in stamps[:1]], 18)
    assert both.below[0].endswith("newest event: 2026-11-27 23:28:17")
    assert one.parts[0][1].cells == ["11-27 23:28"]


def test_columns_that_do_not_fit_are_a_second_table() -> None:
    """With the names repeated, as many as tell the rows apart."""
    rows = [["users", "user_sessions", 12_345_678], ["users", "users", 1]]
    headings = ["database", "table", *(f"figure_{n}" for n in range(6))]
    layout = laid_out(headings, [[*row, *[row[-1]] * 5] for row in rows], 50)
    assert layout.below == []
    assert all([c.heading for c in part][:2] == headings[:2] for part in layout.parts)
    assert [c.heading for part in layout.parts for c in part[2:]] == headings[2:]


@pytest.mark.parametrize("columns", range(8, 60))
def test_a_sentence_breaks_between_words_only(columns: int) -> None:
    """A time stamp, and a number with its unit, are words."""
    words = ["mended", "at", "2026-11-27 23:28:17 UTC,", "in", "1.2 s", "(24 h", "later)"]
    lines = wrapped(" ".join(words), columns).splitlines()
    assert " ".join(lines) == " ".join(words)
    assert all(any(word in line for line in lines) for word in words[2:5])
    assert all(len(line) <= columns or line in words for line in lines)
