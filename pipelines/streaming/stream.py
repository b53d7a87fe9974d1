"""One stream: the changes of one live database, a micro-batch at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipelines.change_log.offsets import Offset
from pipelines.change_log.seq_ranges import SeqRanges
from pipelines.change_log.time_stamps import parse_time_stamp
from pipelines.errors import said
from pipelines.features.views import VIEWS
from pipelines.lake.published_snapshot import Published
from pipelines.live_databases import UnknownRows
from pipelines.printable import counted
from pipelines.settings import DataConfig
from pipelines.streaming.change_capture import ChangeCapture
from pipelines.streaming.hot_window import HotWindow, WindowWriter
from pipelines.streaming.intake import Intake, ValidationResult
from pipelines.tables.known import BY_NAME

logger = logging.getLogger(__name__)


@dataclass
class StreamCounters:
    """What a stream has done since it started; `offset` is what is written, `absorbed` what is
    in the hot window."""

    offset: int = 0
    absorbed: int = 0
    changes: int = 0
    micro_batches: int = 0
    rejected: int = 0
    deferred: int = 0
    late: int = 0
    """Changes older than the hot window: the batch flow computes their rows."""
    errors: int = 0
    last_error: str | None = None


@dataclass(frozen=True)
class MicroBatch:
    """What was taken in: how many changes, by view the hashes of the keys that they affect, and
    which databases must catch up before it can be tried again."""

    changes: int = 0
    affected: Mapping[str, set[int]] = field(default_factory=dict)
    waits_for: frozenset[str] = frozenset()


class Stream:
    """Reads, checks and absorbs the changes of one database, in one transaction per micro-batch.

    Args:
        name: the live database.
        config: where it is, and how many changes a micro-batch has at most.
        window: shared with the other streams.
        offset: up to which `seq` the window holds the database's changes.
        written: up to which `seq` they are written online already.
        trimmed: up to which `seq` changes may be missing from the change log.
        read: what binds `offset` and `written` to the change log that was read.
    """

    def __init__(
        self,
        name: str,
        config: DataConfig,
        window: HotWindow,
        offset: int,
        written: int,
        trimmed: int = 0,
        read: Sequence[Offset] = (),
    ) -> None:
        self.name = name
        self.counters = StreamCounters(offset=written, absorbed=offset)
        self.deferred: dict[str, list[int]] = {}
        """By log, the changes that the batch flow has to decide."""
        self.resolved: dict[str, list[int]] = {}
        """By log, changes that it has accepted since, after it had rejected them."""
        self.lags_at: datetime | None = None
        """When the last change taken in was committed, while there are more; None when not."""
        self.undecided = SeqRanges()
        """All changes whose effect is the batch flow's to bring about, as far as is known."""
        self.lock = threading.RLock()
        """Held while changes are taken in."""
        self._silent_until = written
        self._limit = config.batch_size
        self._window = window
        self._capture = ChangeCapture(name, config, trimmed, read)
        self._warned: list[UnknownRows] = []
        self._cursor = window.cursor()
        self._intake = Intake(window, name)
        self._window_writer = WindowWriter(window, self._cursor, self._intake.logs)

    def check(self) -> int:
        """The log's last `seq`, once the database is known to be the one that was read before.

        Raises:
            LiveDatabaseError, OtherHistoryError, ChangeLogGapError: see `ChangeCapture.check`.
        """
        last = self._capture.check(self.counters.absorbed)
        unknown = self._capture.unknown_rows()
        if unknown != self._warned:
            self._warned = unknown
            for found in unknown:
                logger.warning("stream %s: %s", self.name, found)
        return last

    @property
    def seen(self) -> Offset:
        """Up to which change anything may be written, bound to its change log."""
        return self._capture.offset(self.counters.absorbed)

    @property
    def written(self) -> Offset:
        """Up to which change everything is written, bound to its change log."""
        return self._capture.offset(self.counters.offset)

    def last(self) -> int:
        """The log's last `seq`."""
        return self._capture.last()

    def next_batch(self, *, final: bool) -> MicroBatch:
        """Take in the next micro-batch.

        Args:
            final: whether a change that refers to something unknown is deferred to the batch flow;
                otherwise the databases that it may be in have to catch up first.

        Raises:
            LiveDatabaseError, ChangeLogGapError: nothing was taken in.
        """
        with self.lock:
            after = self.counters.absorbed
            silent = after < self._silent_until
            limit = min(self._limit, self._silent_until - after) if silent else self._limit
            changes = self._capture.read(after, limit)
            self.lags_at = _committed(changes) if self._capture.more else None
            if changes.num_rows == 0:
                return MicroBatch()
            watermarks = {view.name: self._window.watermarks.of(view) for view in VIEWS}
            results = self._intake.check(changes, self._window.watermarks.horizons(), watermarks)
            waits_for = {
                BY_NAME[log].database for found in results.values() for log in found.missing
            }
            waits_for.discard(self.name)
            if waits_for and not final:
                return MicroBatch(waits_for=frozenset(waits_for))
            affected, cold = self._absorb(results, watermarks)
            self._intake.commit(results)
            self.counters.absorbed = changes["seq"][-1].as_py()
            self._capture.forget_but(
                {self.counters.absorbed, self.counters.offset, self._silent_until}
            )
            self._count(changes.num_rows, results, cold, silent)
            return MicroBatch(changes.num_rows, {} if silent else affected)

    def apply_batch(self, known: Published) -> MicroBatch:
        """Take in what was deferred to the batch flow, as far as it has decided since."""
        with self.lock:
            decided = known.offsets.get(self.name, 0)
            watermarks = {view.name: self._window.watermarks.of(view) for view in VIEWS}
            taken, affected = 0, dict[str, set[int]]()
            for log in {**self.deferred, **self.resolved}:
                resolved = self.resolved.pop(log, [])
                accepted = set(resolved)
                seqs = [seq for seq in self.deferred.get(log, []) if seq not in accepted]
                ready = [seq for seq in seqs if seq <= decided]
                if not ready and not resolved:
                    continue
                found = self._intake.accept(
                    BY_NAME[log], known.files.get(log, ()), [*ready, *resolved]
                )
                views, _ = self._absorb({log: found}, watermarks)
                for view, hashes in views.items():
                    affected.setdefault(view, set()).update(hashes)
                taken += found.good.num_rows if found.good else 0
                rest = [seq for seq in seqs if seq > decided]
                if rest:
                    self.deferred[log] = rest
                else:
                    self.deferred.pop(log, None)
            return MicroBatch(taken, affected)

    def confirm(self, upto: int) -> None:
        """The batch flow has brought about the effect of every change up to a `seq`."""
        with self.lock:
            self.undecided.forget(upto)

    def failed(self, error: Exception) -> None:
        """Count an error; say it unless it was said just before."""
        text = said(error)
        self.counters.errors += 1
        if self.counters.last_error != text:
            logger.error("stream %s goes on trying: %s", self.name, text)
        self.counters.last_error = text

    def recovered(self) -> None:
        """The last step succeeded."""
        if self.counters.last_error is not None:
            logger.warning("stream %s has recovered", self.name)
            self.counters.last_error = None

    def report(self) -> dict[str, Any]:
        """The counters, for the status."""
        return asdict(self.counters)

    def close(self) -> None:
        """Let go of the database."""
        self._capture.close()
        self._intake.close()
        self._cursor.close()

    def _absorb(
        self, results: Mapping[str, ValidationResult], watermarks: Mapping[str, datetime]
    ) -> tuple[dict[str, set[int]], list[int]]:
        good = {log: v.good for log, v in results.items() if v.good is not None and v.good}
        for log, rows in good.items():
            if not BY_NAME[log].append_only:  # a session's first click comes with the session
                self._intake.remember(log, rows)
        self._cursor.begin()
        try:
            affected, cold = self._window_writer.absorb(good, watermarks)
            self._cursor.commit()
        except BaseException:
            self._cursor.rollback()
            raise
        for log, rows in good.items():
            if BY_NAME[log].append_only:  # only now: what is taken in again was not here before
                self._intake.remember(log, rows)
            self._window.watermarks.see(log, results[log].newest)
        return affected, cold

    def _count(
        self, changes: int, results: Mapping[str, ValidationResult], cold: list[int], silent: bool
    ) -> None:
        undecided = set(cold)
        for log, found in results.items():
            undecided.update(found.late, (seq for seq, _ in found.deferred))
            if found.deferred:
                self.deferred.setdefault(log, []).extend(seq for seq, _ in found.deferred)
        self.undecided.add(undecided)
        if silent:
            return
        counters = self.counters
        counters.changes += changes
        counters.micro_batches += 1
        counters.deferred += len(cold)
        for log, found in results.items():
            counters.late += len(found.late)
            counters.rejected += len(found.rejected)
            counters.deferred += len(found.deferred)
            _log(log, "rejected; the batch flow puts them into quarantine", found.rejected)
            _log(log, "deferred to the batch flow", found.deferred)


def _committed(changes: pa.Table) -> datetime | None:
    try:
        return parse_time_stamp(changes["committed_at"][-1].as_py())
    except (TypeError, ValueError):  # the checks will say so
        return None


def _log(log: str, what: str, rows: list[tuple[int, str]]) -> None:
    if rows:
        seq, reason = rows[0]
        found = counted(len(rows), "change")
        logger.warning("%s of %s %s: change %d: %s", found, log, what, seq, reason)
