"""The code in README and docs, block by block."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipelines.settings import PROJECT_ROOT

FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)


def pages() -> list[str]:
    """README and the pages of docs, as paths within the repository."""
    return ["README.md", *sorted(f"docs/{p.name}" for p in (PROJECT_ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    """The code of a page in a language ("" where none is named)."""
    found = FENCE.findall((PROJECT_ROOT / page).read_text("utf-8"))
    return [_dedented(code) for named, code in found if named == language]


def python_blocks(page: str) -> list[str]:
    """The Python of a page."""
    return blocks(page, "python")


def _dedented(code: str) -> str:
    lines = code.split("\n")
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines)


@contextmanager
def declarations_forgotten() -> Iterator[None]:
    """The modules of the feature repository are imported anew inside, and forgotten after."""
    _forget_declarations()
    try:
        yield
    finally:
        _forget_declarations()


def _forget_declarations() -> None:
    for path in (PROJECT_ROOT / "feature_repo").glob("*.py"):
        sys.modules.pop(path.stem, None)
