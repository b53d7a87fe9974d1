"""The commands that look: status and the audits."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.live_databases import audit_live_tables
from pipelines.cli.options import AsJson, DataDir
from pipelines.errors import SynchroChainError


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (audit, status):
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
