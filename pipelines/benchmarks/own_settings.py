"""Settings of a benchmark's own, whatever the environment says: Feast's plug-ins read it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipelines.settings import ENV_PREFIX, foreign_environment

_DATA_DIR: Final = f"{ENV_PREFIX}DATA_DIR"


@contextlib.contextmanager
def own_settings(data_dir: Path) -> Iterator[None]:
    """Inside, the only setting in the environment is the data directory."""
    ours = {name: os.environ.pop(name) for name in os.environ.keys() - foreign_environment().keys()}
    os.environ[_DATA_DIR] = str(data_dir)
    try:
        yield
    finally:
        del os.environ[_DATA_DIR]
        os.environ.update(ours)
