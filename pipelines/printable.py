"""Text that came from data, fit for a terminal and a log: one line stays one line."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final

from rich.cells import cell_len

from pipelines.errors import SynchroChainError

# C0, DEL and C1 steer terminals; the others end a line, or turn the direction of what follows.
_STEERING: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_A_LINE: Final = re.compile(f"[\t\n{_STEERING}]")
_IN_LINES: Final = re.compile(f"[{_STEERING}]")
WORD: Final = re.compile(
    r"\s*(?:[(\[]?\d{4}-\d\d-\d\d[ T]\d\d:\d\d\S*(?: UTC\S*)?"
    r"|[\d.,]+ (?:d|h|min|s|ms|MiB|%)(?![\w.])\S*|\S+)"
)
"""Where lines break: a time stamp, and a number with its unit, are words."""
_USUAL_WIDTH: Final = 80


def printable(text: str, *, lines: bool = False) -> str:
    """The text with its control characters spelled out, as Python would write them.

    Args:
        text: from anywhere.
        lines: whether it may have several lines, and tabs.
    """
    return (_IN_LINES if lines else _IN_A_LINE).sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def wrapped(text: str, width: int) -> str:
    """The text in lines no wider than `width`, but for a word that is wider by itself."""
    return "\n".join(line for given in text.split("\n") for line in _wrapped_line(given, width))


def _wrapped_line(text: str, width: int) -> list[str]:
    if cell_len(text) <= width:
        return [text]
    indent = " " * (len(text) - len(text.lstrip(" ")))
    lines: list[str] = []
    line = ""
    for word in WORD.findall(text):
        if line and cell_len(line + word) > width:
            lines.append(line)
            line = f"{indent}  {word.lstrip()}" if indent else word.lstrip()
        else:
            line += word
    return [*lines, line]


def fitted(text: str, stream: Any) -> str:
    """The text in lines that break between words where a terminal shows it, else as it is.

    Args:
        text: one line, or several.
        stream: where it goes.
    """
    try:
        if not stream.isatty():
            return text
        width = os.environ.get("COLUMNS", "")
        columns = int(width) if width.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, OSError, ValueError):  # closed, or no file
        return text
    return wrapped(text, columns or _USUAL_WIDTH)


def json_text(value: Any, *, default: Any = None) -> str:
    """A JSON document that no terminal takes for commands, in the encoding of standard output."""
    wide = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, default=default, indent=2, ensure_ascii=not wide)
    return _IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class PrintableFormatter(logging.Formatter):
    """Each record in one line, whatever its arguments hold; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return printable(super().format(record), lines=bool(record.exc_info or record.stack_info))

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """The message, in one line."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class _Handler(logging.StreamHandler[Any]):
    """Breaks long lines where a terminal would; tracebacks stay as they are."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        text = super().format(record)
        whole = record.exc_info or record.stack_info
        return text if whole else fitted(text, self.stream)


def set_up_output() -> None:
    """Make this process's output fit for its terminal: the root logger, and odd encodings."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    # As `basicConfig`: whoever has set up logging before keeps it.
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("stamina").setLevel(logging.ERROR)  # what is retried in vain is raised
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        if not encoding.startswith("utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextmanager
def whole_output() -> Iterator[None]:
    """Make sure that what was answered inside has left this process, before it ends with success.

    Raises:
        SynchroChainError: standard output is closed, or takes no more. A reader of a pipe that has
            seen enough is no error.
    """
    _open_standard_streams()
    before = sys.stdout
    if before is None:  # Python's, where it was closed before the process began
        raise SynchroChainError(
            "standard output is closed: let it go somewhere, such as > /dev/null"
        )
    if type(before) is io.TextIOWrapper:
        sys.stdout = _Output(
            before.buffer, before.encoding, before.errors, line_buffering=before.line_buffering
        )
    try:
        yield
    finally:
        with suppress(BrokenPipeError):
            sys.stdout.flush()


def _open_standard_streams() -> None:
    """Let no file that is opened later take the place of a standard stream that is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


class _Output(io.TextIOWrapper):
    """Standard output that says so when it takes no more."""

    def write(self, text: str, /) -> int:
        """Write, or raise a SynchroChainError."""
        with self._explained():
            return super().write(text)

    def flush(self) -> None:
        """Flush, or raise a SynchroChainError."""
        with self._explained():
            super().flush()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # the interpreter's end flushes once more
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if error.errno == errno.EPIPE:
                raise
            reason = error.strerror or str(error)
            raise SynchroChainError(
                f"standard output takes no more ({reason}), so the answer is not whole: let it go "
                "elsewhere"
            ) from None


def counted(count: int, noun: str) -> str:
    """A number with what it counts: 1 row, 1,234 rows.

    Args:
        count: how many.
        noun: in the singular, of the kind that takes an s.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def was(count: int) -> str:
    """The verb for so many: 1 row was, 2 rows were."""
    return "was" if count == 1 else "were"


def shown(value: Any) -> str:
    """A value as a person reads it."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.2f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case list():
            return "[" + ", ".join(shown(item) for item in value) + "]"
        case _:
            return str(value)
