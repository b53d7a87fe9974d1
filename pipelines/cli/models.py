"""The commands on registered models: list them, make one champion, take that back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import AsJson, DataDir

if TYPE_CHECKING:
    from pipelines.registry.store import ModelRegistry, ModelVersion

Model = Annotated[
    str, typer.Argument(help="intent_transformer, supply_gnn or ppo_agent.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(models)
    app.command()(promote)
    app.command()(rollback)


def models(
    model: Annotated[
        str | None, typer.Argument(help="One model, with the gate's checks; all by default.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List registered models: versions, metrics, aliases and what the gate said.

    Example: `synchrochain models intent_transformer`
    """
    from pipelines.cli.console import print_json
    from pipelines.cli.models_table import models_as_dict, print_models

    registry = _registry()
    from pipelines.registry.signatures import MODELS, model_named

    names = [model_named(model)] if model else MODELS
    found = {name: registry.versions(name) for name in names}
    if as_json:
        print_json(models_as_dict(found))
    else:
        print_models(found, details=model is not None)


def promote(
    model: Model,
    version: Annotated[int, typer.Argument(help="The version's number.", min=1)],
    force: Annotated[
        bool, typer.Option("--force", help="Even if the gate refused it or never judged it.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a version champion: the one that decides from now on, without a restart.

    Versions that the gate has accepted are promoted; others only with --force.

    Example: `synchrochain promote intent_transformer 3`
    """
    from pipelines.registry.signatures import CHAMPION, model_named

    registry, model = _registry(), model_named(model)
    before = registry.with_alias(model, CHAMPION)
    promoted = registry.promote(model, version, {"promoted.by": "hand"}, force=force)
    _answer(promoted, before, as_json)


def rollback(model: Model, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make the champion before this one champion again; repeat it to go further back.

    Example: `synchrochain rollback intent_transformer`
    """
    from pipelines.registry.signatures import CHAMPION, model_named

    registry, model = _registry(), model_named(model)
    before = registry.with_alias(model, CHAMPION)
    _answer(registry.rollback(model), before, as_json)


def _registry() -> ModelRegistry:
    from pipelines.settings import BatchConfig, check_environment

    check_environment()
    from pipelines.registry.store import ModelRegistry

    return ModelRegistry(BatchConfig())


def _answer(version: ModelVersion, before: ModelVersion | None, as_json: bool) -> None:
    from pipelines.cli.console import answers, print_json
    from pipelines.cli.models_table import moved

    was = None if before is None else before.version
    if as_json:
        print_json(
            {
                "model": version.model,
                "champion": version.version,
                "kind": version.kind,
                "before": was,
            }
        )
    else:
        answers.print(moved(version, was))
