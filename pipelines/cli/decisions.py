"""The commands about decisions: serve them, make them, list and replay them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import AsJson, DataDir
from pipelines.errors import SynchroChainError, UsageError

if TYPE_CHECKING:
    from pipelines.serving.decision_log import DecisionLog
    from pipelines.settings import BatchConfig, DataConfig


def _whole_number(text: str) -> int:
    from pipelines.features.keys import key_number

    return key_number(text)


def _number(text: str) -> float:
    from pipelines.features.keys import decimal_number

    return decimal_number(text)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines ask: nobody is asked for a key.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Answer orders over HTTP until Ctrl-C; /docs describes the interface.

    There is no authentication: keep it on this machine, or put a gateway in front of it, whose
    name is set by SYNCHROCHAIN_ALLOWED_HOSTS.

    Example: `synchrochain serve --port 8000`
    """
    from pipelines.stopping import loading

    with loading(0):
        from pipelines.serving.server import serve_until_interrupted

        data, batch = _configured()
    serve_until_interrupted(data, batch, host, port, insecure=insecure)


def decide(
    user: Annotated[
        int | None, typer.Option(parser=_whole_number, metavar="INTEGER", help="Who orders.")
    ] = None,
    product: Annotated[str | None, typer.Option(help="What is ordered.")] = None,
    quantity: Annotated[
        int | None,
        typer.Option(parser=_whole_number, metavar="INTEGER", help="Units; default: 1."),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(parser=_number, metavar="NUMBER", help="$ a unit; default: the product's."),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(parser=_number, metavar="NUMBER", help="kg in all; default: the product's."),
    ] = None,
    region: Annotated[str | None, typer.Option(help="Where to; default: the user's.")] = None,
    method: Annotated[
        str, typer.Option(help="What the customer asks for: economy, standard, express, overnight.")
    ] = "standard",
    session: Annotated[str | None, typer.Option(help="The visit, for the intent model.")] = None,
    live: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Instead: the newest orders of the shop.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Decide from which warehouse and how an order goes, or the newest live orders.

    Example: `synchrochain decide --live 20`
    """
    from pipelines.cli.console import print_json
    from pipelines.cli.decisions_table import print_decision, print_decisions
    from pipelines.serving.live_orders import decide_live, decide_one

    if (live is None) == (user is None and product is None):
        raise UsageError("name --user and --product of an order, or --live with a number")
    data, batch = _configured()
    if live is not None:
        decided = [decision.as_dict() for decision in decide_live(data, batch, live)]
        if as_json:
            print_json(decided)
        else:
            print_decisions(decided)
        return
    given = {
        "user_id": user,
        "product_id": product,
        "quantity": 1 if quantity is None else quantity,
        "price": price,
        "weight_kg": weight,
        "region": region,
        "shipping_method": method,
        "session_id": session,
    }
    found = decide_one(data, batch, given).as_dict()
    if as_json:
        print_json(found)
    else:
        print_decision(found)


def decisions(
    decision: Annotated[str | None, typer.Argument(metavar="ID", help="Show this one.")] = None,
    replay: Annotated[
        str | None, typer.Option(help="Decide this one again from what was logged of it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest to list.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the newest decisions of the log, show one, or replay one.

    Replaying takes the logged inputs and the model versions of then; it exits 1 if the answer
    is another one.

    Example: `synchrochain decisions --limit 5`
    """
    from pipelines.cli.console import print_json
    from pipelines.cli.decisions_table import print_decision, print_decisions, print_replay

    if replay is not None and decision is not None:
        raise UsageError("name the decision to show, or the one to --replay, not both")
    data, batch = _configured()
    log = _log(data)
    if replay is not None:
        from pipelines.serving.loading import open_registry
        from pipelines.serving.replay import replay as replayed

        registry = open_registry(batch)
        found = replayed(log.get(replay), lambda name, v: registry.load(registry.get(name, v)))
        if as_json:
            print_json(vars(found))
        else:
            print_replay(found)
        if not found.identical:
            raise SynchroChainError(f"decision {found.id} comes out differently when replayed")
    elif decision is not None:
        logged = log.get(decision)
        if as_json:
            print_json(logged.content["decision"])
        else:
            print_decision(logged.content["decision"])
    else:
        newest = [content["decision"] for content in log.newest(limit)]
        if as_json:
            print_json(newest)
        else:
            print_decisions(newest)


def register(app: typer.Typer) -> None:
    """Put the commands where they are called."""
    app.command()(serve)
    app.command()(decide)
    app.command()(decisions)


def _configured() -> tuple[DataConfig, BatchConfig]:
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    return DataConfig(), BatchConfig()


def _log(data: DataConfig) -> DecisionLog:
    from pipelines.serving.config import ServingConfig
    from pipelines.serving.decision_log import FILE, DecisionLog

    return DecisionLog(data.data_dir / FILE, ServingConfig().keep_decisions, busy=5.0)
