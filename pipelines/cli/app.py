"""The command line: a thin translation into calls. Whatever is heavy is imported by its command."""

from __future__ import annotations

import sys

import typer

from pipelines.cli import (
    bench,
    decisions,
    features,
    flows,
    inspection,
    live_databases,
    models,
    training,
)
from pipelines.errors import SynchroChainError
from pipelines.printable import fitted, printable, set_up_output, whole_output
from pipelines.stopping import INTERRUPTED, interruptible, on_stop

app = typer.Typer(
    name="synchrochain",
    help="A feature platform for an e-commerce supply chain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (flows, features, inspection, training, live_databases, models, decisions, bench):
    group.register(app)


def main() -> None:
    """Run the command line; our own errors become one line and an exit status."""
    set_up_output()
    try:
        with on_stop(last=True), interruptible(), whole_output():
            app()  # ends the process itself: 2 for wrong usage, 130 for Ctrl-C and its like
    except KeyboardInterrupt:  # while it was looking for its command, or in a query
        sys.exit(INTERRUPTED)
    except SynchroChainError as error:
        _complain(printable(str(error)))
        sys.exit(error.exit_code)
    except OSError as error:  # of the file system: what it says is all there is to say
        where = f"{error.filename}: " if error.filename else ""
        said = printable(f"{where}{error.strerror or error}")
        _complain(f"{said}: mend that and run the command again")
        sys.exit(1)


def _complain(said: str) -> None:
    typer.secho(fitted(f"error: {said}", sys.stderr), fg="red", err=True)
