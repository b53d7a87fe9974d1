"""Text from data on its way to a terminal or a log."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import pytest

from pipelines.cli.console import answers, print_json, print_table
from pipelines.printable import PrintableFormatter, fitted, printable, set_up_output
from pipelines.settings import PROJECT_ROOT

STEERING = ("\x1b[31m", "\x9b31m", "\r", "\x07", "\x00", "\x7f", "\x85", "\u2028", "\u202e")
ODD = "P1\x1b[2J\n[red]ü\x9b"


@pytest.mark.parametrize("sign", STEERING)
def test_what_steers_a_terminal_is_spelled_out(sign: str) -> None:
    """Every other sign stays, in any language."""
    assert printable(f"a{sign}b") == f"a{sign[0].encode('unicode_escape').decode()}{sign[1:]}b"
    assert printable("Größe 東京 – €") == "Größe 東京 – €"


def test_one_line_stays_one_line() -> None:
    """Unless several are meant."""
    assert printable("a\nb\tc") == "a\\nb\\tc"
    assert printable("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"


LONG = "users.db of 2026-11-28 12:00:00 UTC does not exist: fill it with `synchrochain run` " * 3


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A terminal of 60 columns, to be written to."""
    monkeypatch.delenv("COLUMNS")
    screen, side = os.openpty()
    termios.tcsetwinsize(side, (24, 60))
    with open(side, "w") as stream:
        yield stream
    os.close(screen)


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: terminals")
def test_a_terminal_gets_lines_that_break_between_words(
    terminal: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time stamps are words; whoever sets a width is heard; a file gets the line whole."""
    lines = fitted(LONG, terminal).splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(line.strip() for line in lines) == LONG.strip()
    assert any("2026-11-28 12:00:00 UTC" in line for line in lines)
    assert fitted(LONG, io.StringIO()) == fitted(LONG, None) == LONG
    monkeypatch.setenv("COLUMNS", "200")
    assert max(map(len, fitted(LONG, terminal).splitlines())) > 60


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: terminals")
def test_warnings_break_between_words_and_tracebacks_stay(
    terminal: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the handler that every process of ours has."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", terminal)
    set_up_output()
    (handler,) = root.handlers
    record = logging.LogRecord("name", logging.WARNING, "path", 1, LONG, None, None)
    assert max(map(len, handler.format(record).splitlines())) <= 60
    record.exc_info = (ValueError, ValueError(LONG), None)
    assert LONG.strip() in handler.format(record)


@contextmanager
def logged() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger and what it has written."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logger = logging.Logger("of this test")
    logger.addHandler(handler)
    yield logger, written


def test_a_record_is_one_line_whatever_its_arguments_hold() -> None:
    """A product's name cannot forge a line of the log."""
    with logged() as (logger, written):
        logger.warning("product %s is refused", ODD)
        logger.warning("odd \x1b]0;title\x07 message")
    assert written.getvalue().splitlines() == [
        "product P1\\x1b[2J\\n[red]ü\\x9b is refused",
        "odd \\x1b]0;title\\x07 message",
    ]


def test_a_traceback_keeps_its_lines_but_nothing_that_steers() -> None:
    """The message of the record stays in one line there too."""
    with logged() as (logger, written):
        try:
            raise ValueError(f"no {ODD}")
        except ValueError:
            logger.exception("failed: %s", ODD)
    first, second, *others = written.getvalue().splitlines()
    assert first == "failed: P1\\x1b[2J\\n[red]ü\\x9b"
    assert second == "Traceback (most recent call last):"
    assert any("raise ValueError" in line for line in others)
    assert "\x1b" not in written.getvalue()
    assert "\x9b" not in written.getvalue()


def shown(print_it: Any) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        print_it()
    return out.getvalue()


def test_tables_and_lines_show_data_as_it_is() -> None:
    """Neither as markup nor as commands, in titles, cells and sentences."""
    table = shown(lambda: print_table(ODD, ["name", ODD], [[ODD, [ODD]]]))
    line = shown(lambda: answers.print(f"waiting: {ODD}"))
    for text in (table, line):
        assert "[red]ü" in text
        assert "\\x1b[2J" in text
        assert not set("\x1b\x9b") & set(text)


def test_json_is_the_same_document_without_control_characters() -> None:
    """JSON itself lets most of them through."""
    value = {"name": ODD + "\u2028\x7f"}
    text = shown(lambda: print_json(value))
    assert json.loads(text) == value
    assert not set("\x1b\x9b\u2028\x7f") & set(text)


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_any_encoding_of_the_terminal_will_do(variables: dict[str, str]) -> None:
    """What it cannot show becomes a question mark; JSON loses nothing; an error is still a line."""
    program = r"""
import logging
from pipelines.cli.console import print_json, print_table
from pipelines.printable import set_up_output
set_up_output()
city = "Gr\u00f6\u00dfe \u2013 \u6771\u4eac"
print_table(city, ["name", "value"], [[city, None]])
print_json({"name": city})
logging.getLogger("x").warning("refused: %s", city)
"""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("LC_", "LANG", "PYTHON"))}
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        env=inherited | variables,
        capture_output=True,
        check=True,
    )
    table, _, document = found.stdout.partition(b"\n{")
    assert b"Gr" in table
    assert json.loads(b"{" + document) == {"name": "Größe – 東京"}
    assert found.stderr.startswith(b"refused: ")
    assert len(found.stderr.splitlines()) == 1
