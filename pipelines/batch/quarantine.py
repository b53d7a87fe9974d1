"""The quarantine: for people, the rows that are rejected now, each as it was and with the reason.

There is one file per cycle and table, with a JSON object per line. When a later cycle accepts a
row, its line is removed; when a row stops waiting for its parent, its line gets that reason. The
file is then replaced by one that is named after both cycles.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import duckdb

from pipelines.lake.publishing import Lines
from pipelines.lake.rejected import GIVEN_UP
from pipelines.lake.state import PublishedFile
from pipelines.lake.workspace import ROWS_PER_BATCH
from pipelines.tables.declare import Log
from pipelines.validation.check import Checked

KIND: Final = "quarantine"


def quarantine_lines(connection: duckdb.DuckDBPyConnection, log: Log, cycle: int) -> Iterator[str]:
    """The rejected changes of a log, a JSON object each: the change as it was and the reason.

    Args:
        connection: the cycle's workspace.
        log: the log.
        cycle: the number of the cycle.
    """
    with connection.cursor() as cursor:
        found = cursor.execute(
            f"SELECT to_json({{'table': '{log.table}', 'seq': raw.seq, 'op': op, 'row': raw.row, "
            f"'committed_at': committed_at, 'cycle': {cycle}, 'reason': bad.reason}})::VARCHAR "
            f"FROM raw_{log.name} AS raw JOIN bad_{log.name} AS bad USING (seq) ORDER BY raw.seq"
        )
        for batch in found.to_arrow_reader(ROWS_PER_BATCH):
            yield from batch.column(0).to_pylist()


def brought_up_to_date(
    files: Sequence[PublishedFile], checked: Checked, cycle: int
) -> Iterator[Lines]:
    """What replaces those files of one table that have lines of rows decided now.

    Args:
        files: the table's quarantine files.
        checked: this cycle's result for the log.
        cycle: the number of this cycle.
    """
    passed, given_up = defaultdict[int, set[int]](set), defaultdict[int, dict[int, str]](dict)
    for at, seq in checked.resolved:
        passed[at].add(seq)
    for at, seq, why in checked.given_up:
        given_up[at][seq] = why
    for file in files:
        at = int(file.path.stem.split("_")[0])
        if at not in passed and at not in given_up:
            continue
        lines = []
        for line in _lines(file.path):
            try:
                entry = json.loads(line)
                seq = entry["seq"]
            except (ValueError, TypeError, KeyError):  # whoever wrote it, it is kept
                lines.append(line)
                continue
            if seq in passed[at]:
                continue
            if seq in given_up[at]:
                entry["reason"] += f"{GIVEN_UP} in cycle {cycle}: {given_up[at][seq]}"
                line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
            lines.append(line)
        target = file.path.with_name(f"{at:08d}_{cycle:08d}{file.path.suffix}")
        yield Lines(target, KIND, file.name, lines, [file.path])


def _lines(path: Path) -> list[str]:
    # By "\n" alone: JSON may hold other characters that Python takes for the end of a line.
    if not path.is_file():  # people may have put it away
        return []
    return [line for line in path.read_text("utf-8", "replace").split("\n") if line]
