"""Feast's registry file with a checksum at its end, so that damage is not read as another registry.

The checksum is a field that Feast's message does not have: whoever knows nothing of it passes over
it. A file without one was written by an earlier version, or by stock Feast.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from pipelines.errors import NewerFormatError, RegistryFileError
from pipelines.file_kinds import check_file

FORMAT: Final = 1
_FIELD: Final = b"\x82\xa6\x1d"  # number 60000, with a length
_DIGEST: Final = 32
_LENGTH: Final = len(_FIELD) + 2 + _DIGEST


def sealed(content: bytes) -> bytes:
    """A serialized registry with its checksum."""
    return content + _FIELD + bytes([1 + _DIGEST, FORMAT]) + hashlib.sha256(content).digest()


def unsealed(path: Path, content: bytes) -> bytes:
    """The serialized registry that a file holds.

    Raises:
        RegistryFileError: the file is empty, or its checksum does not fit.
        NewerFormatError: a newer version has written it.
    """
    if not content:
        raise damaged_registry(path, "it is empty")
    message, seal = content[:-_LENGTH], content[-_LENGTH:]
    if not seal.startswith(_FIELD + bytes([1 + _DIGEST])):
        return content
    if seal[-_DIGEST:] != hashlib.sha256(message).digest():
        raise damaged_registry(path, "its checksum differs")
    if seal[-_DIGEST - 1] > FORMAT:
        raise NewerFormatError(path, seal[-_DIGEST - 1], FORMAT)
    return message


def seal_of(path: Path) -> str | None:
    """The checksum of a registry that is there, has one, and fits it; else None.

    Raises:
        NewerFormatError: a newer version has written it.
        UnusablePathError: it is no file that can be read.
    """
    check_file(path)
    try:
        content = path.read_bytes()
        return None if unsealed(path, content) == content else content[-_DIGEST:].hex()
    except (OSError, RegistryFileError):
        return None


def damaged_registry(path: Path, why: str) -> RegistryFileError:
    """What to say of a damaged registry."""
    return RegistryFileError(
        f"the feature registry {path} is damaged ({why}): `synchrochain batch --once` makes it anew"
    )
