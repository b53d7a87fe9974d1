"""The commands that look: status, features of one key, the audits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.live_databases import audit_live_tables
from pipelines.cli.options import AsJson, DataDir, as_dict
from pipelines.errors import SynchroChainError, UsageError

if TYPE_CHECKING:
    from datetime import datetime


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (audit, features, status):
        app.command()(command)


def audit(
    sample: Annotated[int, typer.Option(min=0, help="Keys per view; 0 for all of them.")] = 1000,
    live: Annotated[
        bool, typer.Option("--live", help="Instead: the live tables with what the logs say.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare what is served online with what the offline side computes as of the same time.

    Keys that changes affect just then are looked at again, and counted as in flux if they never
    come to rest. With --live every live table is compared with what its change log says, so that a
    change that was never recorded shows. Exits 1 and lists the rows if anything differs.

    Example: `synchrochain audit --sample 200`
    """
    if live:
        audit_live_tables(as_json)
        return
    from pipelines.cli.audit_table import percent, print_audit
    from pipelines.cli.console import print_json, progress_of_steps
    from pipelines.monitoring.audit import audit as run_audit
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    with progress_of_steps("audit") as progress:
        report = run_audit(DataConfig(), BatchConfig(), sample=sample, progress=progress)
    if as_json:
        print_json(report.as_dict())
    else:
        print_audit(report)
    if report.consistency < 1.0:
        raise SynchroChainError(
            f"online and offline differ, rows: {report.unequal_rows:,}; "
            f"consistency {percent(report.consistency)}; make both anew with `synchrochain batch "
            "--rebuild --once`"
        )


def features(
    view: Annotated[str, typer.Argument(help="A feature view, such as user_intent.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="The entity key.")],
    at: Annotated[
        str | None, typer.Option(help="As of this time (UTC, ISO 8601) instead of now.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the features of one key: online as of now, or offline as of a time.

    Example: `synchrochain features user_intent user_id=42 --at 2026-01-31T12:00`
    """
    from pipelines.cli.console import print_json, print_table
    from pipelines.data_layer import DataLayerOrchestrator
    from pipelines.printable import shown
    from pipelines.settings import check_environment

    check_environment()
    row = DataLayerOrchestrator().features(view, _pairs(keys), _time(at))
    if as_json:
        print_json(as_dict(row) | {"found": row.found})
    elif row.found:
        when = f"as of {shown(row.at)}" if row.at else f"event of {shown(row.event_timestamp)}"
        title = f"{view} of {', '.join(keys)}, {when} UTC"
        print_table(title, ["feature", "value"], [list(i) for i in row.features.items()])
    if not row.found:
        raise SynchroChainError(
            f"nothing is known of {', '.join(keys)} in {view}"
            + (f" as of {shown(row.at)}" if row.at else "")
            + ", or it has expired"
        )


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show databases, offsets and lag, offline views, the online store and the last cycles.

    Exits 1 if changes of a live database may be missing for good, it lacks what is needed or is
    gone, or a published file or Feast's registry is damaged.

    Example: `synchrochain status --json`
    """
    from pipelines.cli.console import print_json
    from pipelines.cli.status_table import print_status
    from pipelines.monitoring.status import collect_status, first_alarm
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    found = collect_status(BatchConfig(), DataConfig())
    if as_json:
        print_json(found)
    else:
        print_status(found)
    alarm = first_alarm(found)
    if alarm:
        raise SynchroChainError(alarm)


def _pairs(keys: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in keys:
        name, sign, value = text.partition("=")
        if not sign or not value:
            raise UsageError(f"{text!r} is not KEY=VALUE, such as user_id=42")
        if name in pairs:
            raise UsageError(f"{name} is given twice: {pairs[name]!r} and {value!r}")
        pairs[name] = value
    return pairs


def _time(text: str | None) -> datetime | None:
    from pipelines.change_log.time_stamps import parse_time_stamp

    if text is None:
        return None
    try:
        return parse_time_stamp(text)
    except (ValueError, OverflowError):
        raise UsageError(f"--at {text!r} is not a time such as 2026-01-31T12:00") from None
