"""The files behind a source of ours: those that the batch flow has published, verified.

Any other source is its owner's and is read as it is.
"""

from __future__ import annotations

from pathlib import Path

from feast.infra.offline_stores.file_source import FileSource

from pipelines.errors import PipelineStateError, UsageError
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.state import PipelineState
from pipelines.lake.verification import verified
from pipelines.settings import BatchConfig


def published_files(source: FileSource) -> list[Path] | None:
    """The files of a view that the batch flow publishes, as its state lists them.

    Returns:
        The files, maybe none yet; None for a source that is not ours.

    Raises:
        CorruptFileError: a file is missing, altered or does not belong there.
        UsageError: the registry was applied when the data directory lay elsewhere, or knows a view
            that is not declared any more.
        PipelineStateError: there are files, but no state that lists them.
    """
    config = BatchConfig()
    if source.name not in VIEWS_BY_NAME:
        if source.path != config.offline_pattern(source.name):
            return None
        raise UsageError(
            f"no group {source.name} is declared any more: apply the feature repository without it "
            "with `synchrochain batch --once`"
        )
    if source.path != config.offline_pattern(source.name):
        if source.tags.get("published_by") == "batch":
            raise UsageError(
                f"the registry {config.registry_path} looks for {source.name} in {source.path}, "
                f"which is not in {config.offline_path}: apply it again with "
                "`synchrochain batch --once`"
            )
        return None
    folder = config.offline_path / source.name
    if not config.state_path.exists():
        if any(folder.glob("*.parquet")):
            raise PipelineStateError(
                f"{config.state_path} is missing, so nobody knows which files of {folder} count: "
                "restore it from a backup, or make all of it anew from the change logs with "
                "`synchrochain batch --rebuild --once`"
            )
        return []
    state = PipelineState(config.state_path)
    return [file.path for file in verified(state, "view", source.name, folder=folder)]
