"""Text and tables laid out for a width: lines break between words, and nowhere else.

A number, a time stamp and a number with its unit are words here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from rich.cells import cell_len

from pipelines.printable import WORD, printable, shown, wrapped

GAPS: Final = (3, 2, 1)
"""Spaces between columns: where there is room, and where there is less."""
LONG: Final = 24
"""A cell of more is a text, which may be folded; the others are figures, names and states."""
MIN_TEXT: Final = 30
"""Columns within which a longer text is still readable."""

_TIME: Final = re.compile(r"(\d{4})-(\d\d-\d\d)[ T](\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)?")
_FIGURE: Final = re.compile(r"[-+<≤≥]? ?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?: (?:d|h|min|s|%))?")
_NOTHING: Final = ("", "–")
_BELOW: Final = "see below"


@dataclass(frozen=True)
class Column:
    """A column as it is printed."""

    heading: str
    cells: list[str]
    to_the_right: bool
    width: int

    def padded(self, line: str) -> str:
        """A line of a cell, as wide as the column."""
        space = " " * (self.width - cell_len(line))
        return space + line if self.to_the_right else line + space


@dataclass(frozen=True)
class Layout:
    """A table in parts that fit, and what is said below it.

    Args:
        parts: tables of columns; each begins with the first column of the whole.
        gap: spaces between columns.
        below: lines on what has no place in a column.
    """

    parts: list[list[Column]]
    gap: int
    below: list[str]


def laid_out(headings: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> Layout:
    """The table so that no cell breaks within a word, and no line is wider than `width`.

    In turn, until it fits: headings in several lines, the widest text in several lines, time stamps
    without year and seconds, long texts below the table, and the columns in several tables.

    Args:
        headings: one per column.
        rows: values, the first of each its name.
        width: of the terminal, in its columns.
    """
    columns = [_column(name, [row[i] for row in rows]) for i, name in enumerate(headings)]
    if _total(columns, GAPS[0]) <= width:
        return Layout([columns], GAPS[0], [])
    columns = [_narrow(column) for column in columns]
    others = columns[_names(columns) :]
    texts = [column for column in others if column.width > LONG and not _is_time(column)]
    texts.sort(key=lambda column: column.width, reverse=True)
    for gap in GAPS[1:]:
        for folded in range(len(texts) + 1):
            kept = _without(columns, texts[:folded])
            for tried in (kept, [_short_times(column) for column in kept]):
                fitting = _wrapping_one(tried, width, gap)
                if fitting:
                    return Layout([fitting], gap, _below(columns, texts[:folded]))
    short = [_short_times(column) for column in _without(columns, texts)]
    parts = _parts(short, width, GAPS[1])
    if parts is None:
        return Layout([], GAPS[1], _below(columns, columns[1:], longer_than=0))
    return Layout(parts, GAPS[1], _below(columns, texts))


def lines_of(columns: Sequence[Column], cells: Sequence[str], gap: int) -> list[str]:
    """A row, or the headings, as it is printed.

    Args:
        columns: of one part of a table.
        cells: one of each; they may have several lines.
        gap: spaces between columns.
    """
    lines = zip_longest(*(cell.split("\n") for cell in cells), fillvalue="")
    between = " " * gap
    return [
        between.join(
            column.padded(text) for column, text in zip(columns, line, strict=True)
        ).rstrip()
        for line in lines
    ]


def answer_rows(report: dict[str, Any], depth: int = 0) -> list[list[Any]]:
    """Rows of name and value of a report; what has parts that have parts gets a row for each."""
    rows: list[list[Any]] = []
    for name, value in report.items():
        indented = "  " * depth + str(name)
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            rows += [[indented, ""], *answer_rows(value, depth + 1)]
        else:
            rows.append([indented, flat(value) if isinstance(value, dict | list) else value])
    return rows


def flat(value: Any) -> str:
    """A value in one line, with its parts named."""
    match value:
        case dict() if not value:
            return "–"
        case dict():
            return ", ".join(f"{name} {_inner(part)}" for name, part in value.items())
        case list() | tuple():
            return "[" + ", ".join(map(_inner, value)) + "]"
        case _:
            return shown(value)


def _inner(value: Any) -> str:
    return f"({flat(value)})" if isinstance(value, dict) else flat(value)


def _words_width(text: str) -> int:
    return max((cell_len(word.strip()) for word in WORD.findall(text)), default=0)


def _column(heading: str, values: Sequence[Any]) -> Column:
    # An indentation is part of a name.
    cells = [printable(shown(value)) for value in values]
    said = [cell for cell in cells if cell not in _NOTHING]
    numbers = all(isinstance(value, int | float | None) for value in values)
    figures = bool(said) and all(map(_FIGURE.fullmatch, said))
    heading = printable(heading)
    return Column(heading, cells, bool(cells) and (numbers or figures), _width(heading, cells))


def _width(heading: str, cells: Sequence[str]) -> int:
    lines = (line for text in (heading, *cells) for line in text.split("\n"))
    return max(map(cell_len, lines))


def _total(columns: Sequence[Column], gap: int) -> int:
    return sum(column.width for column in columns) + gap * (len(columns) - 1)


def _with(column: Column, heading: str, cells: list[str]) -> Column:
    return Column(heading, cells, column.to_the_right, _width(heading, cells))


def _narrow(column: Column) -> Column:
    """With the heading in several lines, if it is wider than what is below it."""
    room = max(_width("", column.cells), _words_width(column.heading))
    return _with(column, wrapped(column.heading, room), column.cells)


def _is_time(column: Column) -> bool:
    said = [cell for cell in column.cells if cell not in _NOTHING]
    return bool(said) and all(map(_TIME.fullmatch, said))


def _short_times(column: Column) -> Column:
    """Time stamps of one and the same year without it and without their seconds."""
    years = {cell[:4] for cell in column.cells if cell not in _NOTHING}
    if not _is_time(column) or len(years) > 1:
        return column
    cells = [f"{m[2]} {m[3]}" if (m := _TIME.fullmatch(cell)) else cell for cell in column.cells]
    return _narrow(_with(column, column.heading.replace("\n", " "), cells))


def _wrapping_one(columns: list[Column], width: int, gap: int) -> list[Column] | None:
    """The columns if they fit, if need be with the widest text of them in several lines."""
    too_wide = _total(columns, gap) - width
    if too_wide <= 0:
        return columns
    if len(columns) < 2:
        return None
    widest = max(columns[1:], key=lambda column: column.width)
    room = widest.width - too_wide
    words = max(_words_width(text) for text in (widest.heading, *widest.cells))
    if room < max(words, MIN_TEXT):
        return None
    cells = [wrapped(cell, room) for cell in widest.cells]
    made = _with(widest, widest.heading, cells)
    return [made if column is widest else column for column in columns]


def _names(columns: Sequence[Column]) -> int:
    """How many of the first columns it takes to tell every row from the others."""
    for count in range(1, len(columns)):
        rows = list(zip(*(column.cells for column in columns[:count]), strict=True))
        if len(set(rows)) == len(rows):
            return count
    return 1


def _parts(columns: list[Column], width: int, gap: int) -> list[list[Column]] | None:
    """The columns in tables that each begin with the names, or None where two do not fit."""
    count = _names(columns)
    names, others = columns[:count], columns[count:]
    parts = [names.copy()]
    for column in others:
        if _total([*names, column], gap) > width:
            return None
        if _total([*parts[-1], column], gap) > width:
            parts.append(names.copy())
        parts[-1].append(column)
    return parts if _total(names, gap) <= width else None


def _without(columns: Sequence[Column], texts: Sequence[Column]) -> list[Column]:
    """The columns without the long cells of some of them, which go below."""
    kept = []
    for column in columns:
        if not any(column is text for text in texts):
            kept.append(column)
        elif any(cell not in _NOTHING and cell_len(cell) <= LONG for cell in column.cells):
            cells = [cell if cell_len(cell) <= LONG else _BELOW for cell in column.cells]
            kept.append(_with(column, column.heading, cells))
    return kept


def _below(
    columns: Sequence[Column], texts: Sequence[Column], longer_than: int = LONG
) -> list[str]:
    """A line per row: its names, and what its long cells say."""
    names = columns[: _names(columns)]
    folded = [column for column in columns[len(names) :] if any(column is text for text in texts)]
    lines = []
    for index in range(len(columns[0].cells)):
        said = [
            _pair(column, index, ": ")
            for column in folded
            if column.cells[index] not in _NOTHING and cell_len(column.cells[index]) > longer_than
        ]
        if said:
            named = ", ".join(_pair(column, index, " ") for column in names)
            lines.append(f"{named}{', ' if folded[0].heading else ': '}{'; '.join(said)}")
    return lines


def _pair(column: Column, index: int, between: str) -> str:
    heading = column.heading.replace("\n", " ")
    return between.join(filter(None, [heading, column.cells[index].strip()]))
