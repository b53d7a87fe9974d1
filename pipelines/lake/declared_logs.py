"""Which logs the batch flow has read, and up to where those that it has not.

A change log also holds changes of tables that nobody has declared yet, or for a while not: the
offset of its database passes them. Once the log is declared, a cycle reads them after all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pipelines.errors import DeclarationError
from pipelines.lake.state import BATCH_READER, PipelineState
from pipelines.tables.declare import Log
from pipelines.tables.known import BY_NAME, LOGS
from pipelines.tables.shop import SHOP_LOGS

LOGS_KEY: Final = "logs"
"""By log that was ever read: its columns, and at which offset it stopped being declared, if so."""


def unread(state: PipelineState) -> dict[str, int]:
    """By declared log of which the database's offset has passed changes: up to where it is read.

    Raises:
        DeclarationError: a log has other columns now than those in which it is published.
    """
    noted, offsets = _noted(state), state.offsets(BATCH_READER)
    found = {}
    for log in LOGS:
        known = noted.get(log.name)
        if known is not None and _differs(log, known) and state.files("log", log.name):
            raise DeclarationError(
                f"log {log.name}: it has other columns, columns of other types, or fewer texts that"
                " are allowed, than what is published: `synchrochain batch --rebuild --once` reads"
                " it anew"
            )
        upto = 0 if known is None else known["left"]
        if upto is not None and upto < offsets.get(log.database, 0):
            found[log.name] = upto
    return found


def check_read(state: PipelineState) -> None:
    """Make sure that of every declared log the batch flow has read all up to its offset.

    Raises:
        DeclarationError: of one it has not, or a log has other columns than those published.
    """
    missing = unread(state)
    if missing:
        raise DeclarationError(
            f"no batch cycle has read {', '.join(missing)} since it was declared: run"
            " `synchrochain batch --once`, then start again"
        )


def entry_of(state: PipelineState, offsets: Mapping[str, int]) -> str:
    """What to note when a cycle has read every declared log.

    Args:
        state: with the note of the cycle before.
        offsets: the batch flow's before this cycle, by database.
    """
    noted = _noted(state)
    found: dict[str, Any] = {
        name: {**known, "left": _left(known, offsets)}
        for name, known in noted.items()
        if name not in BY_NAME
    }
    for log in LOGS:
        found[log.name] = _noted_of(log)
    return json.dumps(found, sort_keys=True)


def _left(known: Mapping[str, Any], offsets: Mapping[str, int]) -> int:
    at = known["left"]
    return offsets.get(known["database"], 0) if at is None else int(at)


def _noted(state: PipelineState) -> dict[str, Any]:
    noted = state.document(LOGS_KEY)
    if noted is not None:
        return noted
    # Before this note there were the shop's logs, and they were read from the beginning.
    return {log.name: _noted_of(log) for log in SHOP_LOGS}


def _differs(log: Log, known: Mapping[str, Any]) -> bool:
    """Whether rows may be published that could not be read now. Plans rely on allowed texts."""
    if known["columns"] != _columns(log):
        return True
    before = known.get("allowed")
    if before is None:  # noted by an earlier version
        return False
    return any(
        column.allowed and not {*before.get(column.name, ("",))} <= {*column.allowed}
        for column in log.columns
    )


def _noted_of(log: Log) -> dict[str, Any]:
    """What is noted of a log that is read."""
    allowed = {column.name: [*column.allowed] for column in log.columns if column.allowed}
    return {
        "columns": _columns(log),
        "allowed": allowed,
        "database": log.database,
        "left": None,
    }


def _columns(log: Log) -> dict[str, str]:
    return {column.name: column.type for column in log.columns} | {"key": ", ".join(log.key)}
