"""Paths as other programs read them: DuckDB expands patterns, a URL ends at its question mark."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

# DuckDB splits a pattern at a backslash before it looks for one: only a range can stand for it.
_LITERAL: Final = str.maketrans(
    {"[": "[[]", "*": "[*]", "?": "[?]"} | ({"\\": "[[-^]"} if os.sep == "/" else {})
)
_LINE: Final = 1 << 24
_LONGEST_LINE: Final = 1 << 27
"""Bytes; DuckDB takes a multiple of what it is to expect for its buffers."""
_ROOM: Final = 1 << 18
"""Bytes; more than SQLite asks for at once."""


def duckdb_pattern(path: Path | str) -> str:
    """A pattern that matches this path and no other, as DuckDB and Python's `glob` read it."""
    return str(path).translate(_LITERAL)


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_parquet(paths: Iterable[Path | str], *, folders_are_columns: bool = False) -> str:
    """SQL that reads exactly these Parquet files as one relation.

    Args:
        paths: nothing in them is a pattern.
        folders_are_columns: whether a folder called `name=value` is a column, as DuckDB has it.
            Also one above the data directory would be.
    """
    listed = ", ".join("'" + duckdb_pattern(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}]{'' if folders_are_columns else ', hive_partitioning = false'})"


def read_lines(paths: Iterable[Path], columns: Mapping[str, str]) -> str:
    """SQL that reads these files of JSON lines as one relation, but for lines that are no JSON.

    Args:
        columns: DuckDB type by name.
    """
    files = list(paths)
    listed = ", ".join("'" + duckdb_pattern(path).replace("'", "''") + "'" for path in files)
    longest = max(path.stat().st_size for path in files)  # a line is no longer than its file
    return (
        f"read_json([{listed}], format = 'newline_delimited', ignore_errors = true, "
        f"columns = {dict(columns)}, "
        f"maximum_object_size = {min(max(longest, _LINE), _LONGEST_LINE)})"
    )


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file. A question mark would begin the URL's query."""
    if "?" not in str(path):
        return f"sqlite:///{path}"
    # With the driver's name: of `sqlite:///` MLflow takes the rest for a path and makes folders.
    return f"sqlite+pysqlite:///file:{urllib.parse.quote(str(path))}?uri=true"


def sqlite_file(database: str, *, uri: bool) -> Path:
    """The file that the database part of a SQLite URL names; with `uri` it may be a `file:` URI."""
    if not uri or not database.startswith("file:"):
        return Path(database)
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(database).path))


def disk_is_full(folder: Path) -> bool:
    """Whether there is no room left to speak of where a folder lies.

    SQLite calls it an I/O error when it finds no room for its -shm file.
    """
    try:
        return shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False


def absolute(text: Path | str) -> Path:
    """The whole path, with the home directory in place of `~`.

    Raises:
        ValueError: no part of the platform can be given it; says what it must be.
    """
    if not str(text):  # it would mean the working directory of whoever started the process
        raise ValueError("a path")
    try:
        path = Path(os.path.abspath(Path(text).expanduser()))
    except RuntimeError:
        raise ValueError("a path whose ~ names the home directory of somebody here") from None
    whole = str(path)
    if not whole.isprintable() and any(ord(sign) < 32 or ord(sign) == 127 for sign in whole):
        raise ValueError("a path without control characters")
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a path in UTF-8") from None
    return path
