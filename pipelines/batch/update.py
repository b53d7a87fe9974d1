"""Update: keep Feast's registry and online store in step with the published files.

Feast is imported here and only when there is something to do: its import takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.batch.online_removal import MARK, connected
from pipelines.errors import (
    RedisRefusedError,
    RedisUnavailableError,
    RegistryFileError,
    UnknownNameError,
)
from pipelines.feast_plugins.registry_file import seal_of, unsealed
from pipelines.feast_plugins.repository import (
    CHECKED,
    TTLS,
    description,
    is_ours,
    open_store,
    quiet,
)
from pipelines.features.views import VIEWS
from pipelines.file_kinds import check_file
from pipelines.lake.state import PipelineState
from pipelines.lake.workspace import memory_limit
from pipelines.settings import BatchConfig, DataConfig

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView


logger = logging.getLogger(__name__)
APPLIED: Final = "applied_feature_repo"
SEAL: Final = "registry seal"
"""The checksum of the registry that was last known to make sense: reading it takes Feast."""


def apply(config: BatchConfig, state: PipelineState) -> bool:
    """Do what `feast apply` does, if the repository or the data directory has changed since, or the
    registry is damaged: it is made anew then, and all is materialized again.

    Returns:
        Whether there was anything to apply.
    """
    fingerprint = _fingerprint(config)
    known = state.metadata(APPLIED) == fingerprint and state.document(TTLS) is not None
    seal = seal_of(config.registry_path) if known else None
    if seal is not None and (seal == state.metadata(SEAL) or _makes_sense(config.registry_path)):
        state.set_metadata(SEAL, seal)
        return False
    with quiet(), _unchanged_process(config.feature_repo_path):
        from feast.repo_config import load_repo_config
        from feast.repo_operations import apply_total

        _remove_damaged_registry(config.registry_path, state)
        repo = config.feature_repo_path
        apply_total(
            load_repo_config(repo, repo / "feature_store.yaml"), repo, skip_source_validation=True
        )
    views = open_store(config).list_feature_views()
    ttls = {view.name: view.ttl.total_seconds() if view.ttl else None for view in views}
    state.set_metadata(TTLS, json.dumps(ttls))
    state.set_metadata(APPLIED, fingerprint)
    remember_registry(config, state)
    return True


def remember_registry(config: BatchConfig, state: PipelineState) -> None:
    """Note the registry as we have just written it: the next cycle need not read it with Feast."""
    seal = seal_of(config.registry_path)
    if seal is not None and seal != state.metadata(SEAL):
        state.set_metadata(SEAL, seal)


def _remove_damaged_registry(path: Path, state: PipelineState) -> None:
    check_file(path)
    if path.exists() and not _makes_sense(path):
        logger.warning("%s is damaged, it is made anew", path)
        state.rematerialize_all()  # how far each view was materialized is lost with it
        path.unlink()


def _makes_sense(path: Path) -> bool:
    with quiet():
        from feast.protos.feast.core.Registry_pb2 import Registry
    from google.protobuf.message import DecodeError

    try:
        Registry.FromString(unsealed(path, path.read_bytes()))
    except (RegistryFileError, DecodeError):
        return False
    return True


def fill_if_emptied(config: BatchConfig, data: DataConfig, state: PipelineState) -> bool:
    """Let every view wait for materialization if Redis does not hold what was written before.

    It may have been flushed, replaced by another engine, or restored from an old file. A random
    mark, kept in Redis and in the state, shows it.

    Args:
        config: the feature repository.
        data: which Redis; it is started where it is ours to start.
        state: the pipeline's state.

    Returns:
        Whether the mark was missing; it is set anew.

    Raises:
        RedisUnavailableError, RedisRefusedError: Redis cannot be asked.
        NewerFormatError: a newer version of SynchroChain writes it.
    """
    if not is_ours(config):
        return False
    from pipelines.redis_server.store_format import check_format, note_format

    with connected(data, decode_responses=True) as (client, endpoint):
        check_format(client, f"{endpoint.host}:{endpoint.port}")
        note_format(client)
        if state.metadata(MARK) is not None and client.get(MARK) == state.metadata(MARK):
            return False
        state.rematerialize_all()
        mark = uuid.uuid4().hex
        client.set(MARK, mark)
    state.set_metadata(MARK, mark)
    return True


def check_online(
    config: BatchConfig, data: DataConfig, state: PipelineState, now: datetime
) -> dict[str, Any]:
    """Compare what is online with what is published, mend it, and remember what was found.

    Args:
        config: the feature repository.
        data: which Redis.
        state: the pipeline's state.
        now: UTC, naive.

    Returns:
        See `check_server`; nothing for a store that is not ours.

    Raises:
        RedisUnavailableError, RedisRefusedError: Redis cannot be asked.
        CorruptFileError: a published file cannot be read.
    """
    if not is_ours(config):
        return {}
    from pipelines.feast_plugins.online_check import OnlineCheck, check_server

    with connected(data) as (client, endpoint):
        ttls = state.document(TTLS) or {}
        check = OnlineCheck(client, description(config)["project"], state, ttls)
        before = state.document(CHECKED) or {}
        found: dict[str, Any] = check_server(client, endpoint, check, now, before)
    state.set_metadata(CHECKED, json.dumps(found))
    return found


def open_bounded(config: BatchConfig) -> FeatureStore:
    """Feast's store, whose materialization spills too, unless the repository has a limit."""
    store = open_store(config)
    offline = store.config.offline_store
    if getattr(offline, "memory_limit", "") is None:
        offline.memory_limit = memory_limit(config.memory)
    return store


def materialize(
    store: FeatureStore, state: PipelineState, now: datetime, progress: Callable[[int], None]
) -> dict[str, tuple[datetime, datetime]]:
    """Bring the online store up to what is published, view by view.

    New rows later than everything materialized before go by `materialize-incremental`. A late row
    lies before the end that Feast remembers and would be passed over, so its stretch of time is
    materialized explicitly, as far as its time to live reaches back from `now`. A view is done when
    Feast returns; if it fails, its rows stay pending, and the other views go on.

    Args:
        store: Feast's feature store.
        state: the pipeline's state.
        now: UTC, naive.
        progress: callback with 1 for each view that is done.

    Returns:
        The stretch of event time that was materialized, by view.

    Raises:
        RedisUnavailableError: Redis is away.
        Exception: what the first view that failed has raised; an error of Redis in our words.
    """
    from feast.errors import FeatureViewNotFoundException
    from redis.exceptions import RedisError

    done = {}
    failure: Exception | None = None
    for name, (oldest, newest) in state.pending_materializations().items():
        try:
            view = store.get_feature_view(name)
        except FeatureViewNotFoundException:
            failure = failure or UnknownNameError(
                f"the group {name} is declared, and {store.repo_path} has no feature view of this "
                "name: declare one in feature_views.py, or take the group out"
            )
            continue
        end = newest.replace(tzinfo=UTC)
        start = _start(view, oldest.replace(tzinfo=UTC), now.replace(tzinfo=UTC))
        try:
            with quiet():
                if start is None:
                    store.materialize_incremental(end, feature_views=[name])
                else:
                    store.materialize(min(start, end), end, feature_views=[name])
        except RedisUnavailableError:
            raise
        except RedisError as error:
            said = " ".join(str(error).split())
            refused = RedisRefusedError(f"Redis did not take the rows of {name}: {said}")
            refused.__cause__ = error
            failure = failure or refused
            continue
        except Exception as error:  # raised below, when the other views have had their turn
            failure = failure or error
            continue
        state.view_is_materialized(name)
        progress(1)
        done[name] = (start.replace(tzinfo=None) if start else oldest, newest)
    if failure is not None:
        raise failure
    return done


def _start(view: FeatureView, oldest: datetime, now: datetime) -> datetime | None:
    """Where to start materializing explicitly; None if the increment holds all that is new.

    The first time it is explicit as well: Feast would count back from a clock of its own.
    """
    until: datetime | None = view.most_recent_end_time
    if until is not None and oldest > (until if until.tzinfo else until.replace(tzinfo=UTC)):
        return None
    return max(oldest, now - view.ttl) if view.ttl else oldest


def _fingerprint(config: BatchConfig) -> str:
    digest = hashlib.sha256(str(config.offline_path).encode())
    sources = sorted(config.feature_repo_path.glob("*.py"))
    for path in (*sources, config.feature_repo_path / "feature_store.yaml"):
        digest.update(path.name.encode() + path.read_bytes())
    for view in VIEWS:  # schemas and descriptions come from the declarations
        group = view.group
        described = [feature.description for feature in group.features.values()]
        said = (group.about, group.ttl, group.owner, sorted(group.tags.items()))
        digest.update(repr((view.name, str(view.schema), described, said)).encode())
    return digest.hexdigest()


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
