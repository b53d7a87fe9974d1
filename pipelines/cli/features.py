"""The commands on features: those of one key, what is declared, what a change will recompute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from pipelines.cli.options import AsJson, DataDir, as_dict
from pipelines.errors import SynchroChainError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

SHOW: Final = "show"


class FeatureCommands(TyperGroup):
    """What is no command is a view: `features user_intent …` is `features show user_intent …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front where it was left out."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [SHOW, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(
        cls=FeatureCommands,
        no_args_is_help=True,
        help="Features: those of one key, what is declared, what a change will recompute.\n\n"
        "Example: `synchrochain features user_intent user_id=42`",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command(SHOW)(show)
    group.command("list")(list_features)
    group.command("plan")(plan)
    app.add_typer(group, name="features")


def show(
    view: Annotated[str, typer.Argument(help="A feature view, such as user_intent.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="The entity key.")],
    at: Annotated[
        str | None, typer.Option(help="As of this time (UTC, ISO 8601) instead of now.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the features of one key: online as of now, or offline as of a time.

    The word show may be left out.

    Example: `synchrochain features show user_intent user_id=42 --at 2026-01-31T12:00`
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


def list_features(as_json: AsJson = False) -> None:
    """List the declared groups and their features: types, windows and definitions.

    Example: `synchrochain features list`
    """
    from pipelines.cli.console import print_json
    from pipelines.cli.features_table import declared, print_declared

    found = declared()
    if as_json:
        print_json({"groups": found})
    else:
        print_declared(found)


def plan(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show what the next batch cycle will compute anew because declarations have changed.

    Only the pipeline's state is read, and nothing is written.

    Example: `synchrochain features plan`
    """
    from pipelines.cli.console import print_json
    from pipelines.cli.features_table import print_plan
    from pipelines.lake.clock import utc_now
    from pipelines.monitoring.feature_plan import feature_plan
    from pipelines.settings import BatchConfig, check_environment

    check_environment()
    found = feature_plan(BatchConfig(), utc_now())
    if as_json:
        groups = [group.as_dict() for group in found.groups]
        print_json({"first_cycle": found.first_cycle, "groups": groups})
    else:
        print_plan(found)


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
