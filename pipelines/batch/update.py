"""Update: keep Feast's registry and online store in step with the published files.

Feast is imported here and only when there is something to do: its import takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.batch.state import PipelineState
from pipelines.settings import BatchConfig

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

logger = logging.getLogger(__name__)
APPLIED: Final = "applied_feature_repo"


def open_store(config: BatchConfig) -> FeatureStore:
    """The feature store of the repository that `config` names."""
    with _quiet():
        from feast import FeatureStore

        return FeatureStore(repo_path=str(config.feature_repo_path))


def apply(config: BatchConfig, state: PipelineState) -> bool:
    """Do what `feast apply` does, if the repository or the data directory has changed since.

    Returns:
        Whether there was anything to apply.
    """
    fingerprint = _fingerprint(config)
    if state.note(APPLIED) == fingerprint and config.registry_path.exists():
        return False
    with _quiet(), _unchanged_process(config.feature_repo_path):
        from feast.repo_config import load_repo_config
        from feast.repo_operations import apply_total

        repo = config.feature_repo_path
        apply_total(
            load_repo_config(repo, repo / "feature_store.yaml"), repo, skip_source_validation=True
        )
    state.set_note(APPLIED, fingerprint)
    return True


def materialize(store: FeatureStore, state: PipelineState) -> dict[str, tuple[datetime, datetime]]:
    """Bring the online store up to what is published, view by view.

    New rows later than everything materialized before go by `materialize-incremental`. A late row
    lies before the end that Feast remembers and would be passed over, so its stretch of time is
    materialized explicitly. A view is done when Feast returns; if it fails, it still waits.

    Returns:
        The stretch of event time that was materialized, by view.
    """
    done = {}
    for name, (oldest, newest) in state.waiting_views().items():
        view = store.get_feature_view(name)
        end = newest.replace(tzinfo=UTC)
        start = _start(view, oldest.replace(tzinfo=UTC))
        with _quiet():
            if start is None:
                store.materialize_incremental(end, feature_views=[name])
            else:
                store.materialize(min(start, end), end, feature_views=[name])
        state.view_is_materialized(name)
        done[name] = (oldest, newest)
    return done


def _start(view: FeatureView, oldest: datetime) -> datetime | None:
    """Where to start materializing explicitly; None if the increment holds all that is new."""
    until: datetime | None = view.most_recent_end_time
    if until is None:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    if oldest > until:
        return None
    return oldest


def _fingerprint(config: BatchConfig) -> str:
    digest = hashlib.sha256(str(config.offline_path).encode())
    sources = sorted(config.feature_repo_path.glob("*.py"))
    for path in (*sources, config.feature_repo_path / "feature_store.yaml"):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's prints out of standard output, which belongs to the caller's answer."""
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
        yield
    for line in (*printed.getvalue().splitlines(), *(str(w.message) for w in warned)):
        if line.strip():
            logger.debug("feast: %s", line)


@contextlib.contextmanager
def _unchanged_process(repo: Path) -> Iterator[None]:
    """Undo what Feast's apply does to the process: working directory, path and sibling modules."""
    before, path = Path.cwd(), list(sys.path)
    known = set(sys.modules)
    sys.path.insert(0, str(repo))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in _repo_modules(repo, set(sys.modules) - known):
            del sys.modules[name]


def _repo_modules(repo: Path, names: Sequence[str] | set[str]) -> list[str]:
    def home(name: str) -> Any:
        return getattr(sys.modules.get(name), "__file__", None)

    return [name for name in names if home(name) and Path(home(name)).parent == repo]
