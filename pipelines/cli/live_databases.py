"""The command line of the live databases: their triggers, and what the logs say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.options import AsJson, DataDir
from pipelines.errors import SynchroChainError

if TYPE_CHECKING:
    from pipelines.live_databases import ChangeLogState, Gap, UnknownRows


NO_TABLE = "there is no such table"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(triggers)


def triggers(
    install: Annotated[
        bool, typer.Option("--install", help="Make what is missing, mend what was altered.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show by table whether the triggers are there that record its changes; make or mend them.

    With --install each database is mended in one short transaction; then, without holding up its
    writers, it is noted which rows the change log does not know: batch, stream and status warn of
    them until it does. Exits 1 if anything is missing or altered.

    Example: `synchrochain triggers --install`
    """
    from pipelines.cli.console import answers, print_json, print_table
    from pipelines.settings import DataConfig, check_environment

    check_environment()
    found = {name: _database(*named, install=install) for name, named in _databases(DataConfig())}
    if as_json:
        print_json(found)
    else:
        rows = [
            [name, table, database.get("format"), state, database["unknown_rows"].get(table)]
            for name, database in found.items()
            for table, state in database["tables"].items()
        ]
        print_table("triggers", ["database", "table", "format", "state", "unknown rows"], rows)
        for name, database in found.items():
            for line in database["said"]:
                answers.print(f"{name}: {line}", markup=False)
    if lacking := [
        f"{name}.{table}"
        for name, database in found.items()
        for table, state in database["tables"].items()
        if state == NO_TABLE
    ]:
        raise SynchroChainError(
            f"tables are missing: {', '.join(lacking)}: create them with `synchrochain simulate`, "
            "or see docs/own-database.md"
        )
    if not all(database["sound"] for database in found.values()):
        raise SynchroChainError(
            "not every change is recorded: make the triggers with `synchrochain triggers --install`"
        )


def audit_live_tables(as_json: bool) -> None:
    """Compare the live tables with what their change logs say, and print what was found.

    Raises:
        SynchroChainError: they differ, without a reason that is known.
    """
    from pipelines.cli.audit_table import print_live_audit
    from pipelines.cli.console import print_json, progress_of_steps
    from pipelines.monitoring.live_tables import audit_live
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    with progress_of_steps("audit") as progress:
        report = audit_live(DataConfig(), BatchConfig(), progress=progress)
    if as_json:
        print_json(report.as_dict())
    else:
        print_live_audit(report)
    if report.unexplained:
        tables = ", ".join(name for name, table in report.tables.items() if table.unexplained)
        raise SynchroChainError(
            f"the change log does not say what the live tables hold, rows: {report.unexplained:,} "
            f"({tables}); record them with an UPDATE that changes nothing, and those that are gone "
            "as deleted in change_log, see docs/own-database.md"
        )


def _databases(data: Any) -> list[tuple[str, tuple[Any, Any]]]:
    """By name, the path of each live database and its engine."""
    from pipelines.live_databases import METADATA, LiveDatabases

    engines = LiveDatabases.existing(data).engines
    return [(name, (engine, METADATA[name])) for name, engine in engines.items()]


def _database(engine: Any, metadata: Any, *, install: bool) -> dict[str, Any]:
    from pipelines.live_databases import (
        FORMAT,
        change_log_state,
        install_triggers,
        other_unique_columns,
        transaction,
        unknown_rows,
    )

    try:
        gaps = install_triggers(engine, metadata) if install else []
        with transaction(engine) as connection:
            state = change_log_state(connection, metadata)
            replaced = [
                f"{table.name} holds ({columns}) once: a row that INSERT OR REPLACE removes for "
                "that is recorded only over a connection with PRAGMA recursive_triggers = ON; "
                "`synchrochain audit --live` finds what was not"
                for table in metadata.sorted_tables
                for columns in other_unique_columns(connection, table)
            ]
        unknown = unknown_rows(engine)
    finally:
        engine.dispose()
    return {
        "where": str(engine.url.database),
        "format": state.format,
        "sound": state.format in (1, FORMAT)
        and not (state.broken or state.unsound or state.not_compared or state.foreign),
        "tables": {table.name: _state(state, table.name) for table in metadata.sorted_tables},
        "unknown_rows": {one.table: one.rows for one in unknown},
        "gaps": [vars(gap) for gap in gaps],
        "said": [*_said(state, gaps, unknown), *replaced],
    }


def _state(state: ChangeLogState, table: str) -> str:
    found = state.triggers.get(table)
    if found is None:
        return NO_TABLE
    faults = {"missing": found.missing, "altered": found.altered}
    if state.format != 1:
        faults["of format 1"] = found.older
    return (
        "; ".join(f"{what}: {', '.join(which)}" for what, which in faults.items() if which) or "ok"
    )


def _said(state: ChangeLogState, gaps: list[Gap], unknown: list[UnknownRows]) -> list[str]:
    """Lines on what is not in the table."""
    lines = []
    if state.format is None:
        lines.append("there is no change log")
    if state.broken:
        lines.append(f"missing or altered of the change log itself: {', '.join(state.broken)}")
    if state.foreign:
        lines.append(f"triggers of others on the change log: {', '.join(state.foreign)}")
    if state.not_compared:
        lines.append(f"not compared to the end: {', '.join(state.not_compared)}")
    for gap in gaps:
        since = f"since {gap.since}" if gap.since else "until now"
        lines.append(
            f"{gap.table}: not every change was recorded {since}; rows that the change log does "
            f"not know: {gap.unknown_rows:,}, older ones that cannot be compared: "
            f"{gap.not_comparable:,}"
        )
    return [*lines, *map(str, unknown)]
