"""A data directory that an earlier version has written, kept in tests/fixtures."""

from __future__ import annotations

import base64
import json
import tarfile
from datetime import datetime
from pathlib import Path
from typing import Final

from pipelines.redis_server import connect, ensure_server
from pipelines.settings import DataConfig

FIXTURES: Final = Path(__file__).resolve().parent / "fixtures"
NOW: Final = datetime(2026, 3, 2, 12)
"""When the last change of format_1 was committed."""


def unpack(folder: Path, name: str = "format_1") -> None:
    """Put the directory into `folder`; what Redis held lies there as redis.jsonl."""
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")


def restore_redis(data: DataConfig) -> int:
    """Give the directory's private Redis what it held; the number of keys."""
    lines = (data.data_dir / "redis.jsonl").read_text("utf-8").splitlines()
    with connect(ensure_server(data)) as client, client.pipeline(transaction=False) as pipe:
        for key, value in map(json.loads, lines):
            if isinstance(value, str):
                pipe.set(base64.b64decode(key), base64.b64decode(value))
            else:
                fields = {base64.b64decode(k): base64.b64decode(v) for k, v in value.items()}
                pipe.hset(base64.b64decode(key), mapping=fields)
        pipe.execute()
    return len(lines)
