"""The feature repository: its description, its store, and Feast kept quiet.

Feast is imported when there is something to do with it: its import takes seconds.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pipelines.settings import BatchConfig

if TYPE_CHECKING:
    from feast import FeatureStore

logger = logging.getLogger(__name__)
TTLS: Final = "times_to_live"
"""Metadata of the state: seconds by view, as of the last `feast apply`."""
CHECKED: Final = "online_check"
"""Metadata of the state: the result of the last comparison of the online store."""


def open_store(config: BatchConfig) -> FeatureStore:
    """The feature store of the repository that `config` names."""
    with quiet():
        from feast import FeatureStore

        return FeatureStore(repo_path=str(config.feature_repo_path))


def is_ours(config: BatchConfig) -> bool:
    """Whether the online store is SynchroChain's."""
    return str(description(config)["online_store"]["type"]).startswith("pipelines.")


def description(config: BatchConfig) -> dict[str, Any]:
    """What feature_store.yaml says."""
    import yaml

    text = (config.feature_repo_path / "feature_store.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's prints and bars off the terminal, which belongs to the caller."""
    printed = io.StringIO()
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        yield
    for line in (*printed.getvalue().splitlines(), *(str(w.message) for w in warned)):
        if line.strip():
            logger.debug("feast: %s", line)
