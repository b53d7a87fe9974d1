"""What I and U mean in a log of facts, by the rules of `pipelines.validation.operations`.

An insertion of a key that is there is an update; after a deletion the key is free. An update of a
key all of whose rows were rejected is its insertion, and the batch flow's to decide if it is older
than the hot window, as any insertion is. Of a key with a row that the batch flow has yet
to decide, or keeps waiting for its parent, nothing can be said here: it is deferred to the batch
flow; so is a key whose row came from another one by a change that was rejected or deferred.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.streaming.known_keys import KnownKeys

UNDECIDED = "an earlier row of its key is not decided yet"


@dataclass
class Decided:
    """What a micro-batch's operations mean, and what to remember once it is taken in."""

    operations: dict[int, str] = field(default_factory=dict)
    """By `seq`, where it differs from what was reported."""
    deferred: list[int] = field(default_factory=list)
    """`seq` of what the batch flow has to decide."""
    key_states: list[tuple[str, Any]] = field(default_factory=list)
    """In order: "rejected" or "deferred", or "gone" for a deletion, and the key."""


class Operations:
    """Decides for one log of facts; `commit` once the micro-batch is taken in."""

    def __init__(self, keys: KnownKeys) -> None:
        self._keys = keys

    def decide(
        self,
        rows: pa.Table,
        rejected: set[int],
        deferred: set[int],
        renames: Mapping[int, str],
        old: set[int],
    ) -> Decided:
        """The meaning of typed rows.

        Args:
            rows: with seq, op and the key.
            rejected: `seq` of rows that break a rule.
            deferred: `seq` of rows that are deferred to the batch flow anyway.
            renames: old key, a JSON array, by `seq` of the update that changed it.
            old: `seq` of rows from before the hot window.
        """
        keys, found = self._keys, Decided()
        key = keys.log.key[0]
        inserted = rows.filter(pc.equal(rows["op"], "I"))
        doubtful = _among(rows[key], keys.rejected) | _among(rows[key], keys.deferred)
        deletes = pc.any(pc.equal(rows["op"], "D")).as_py()
        doubted = rejected or deferred or renames or doubtful or deletes
        if not doubted and keys.are_new(inserted[key]) and not _updated_before(rows, inserted, key):
            return found
        ordered = rows.sort_by("seq")
        changes = list(
            zip(*(ordered[name].to_pylist() for name in ("seq", "op", key)), strict=True)
        )
        alive = keys.alive({k for _, op, k in changes if op != "U" or k in doubtful or renames})
        state = dict.fromkeys(_among(rows[key], keys.rejected), "rejected")
        state |= dict.fromkeys(alive, "alive")
        state |= dict.fromkeys(_among(rows[key], keys.deferred), "deferred")
        deleted: tuple[int, Any, str] | None = None
        for seq, op, k in changes:
            known = state.get(k, "")
            if seq in rejected or seq in deferred:
                if k is not None and op != "D" and (known != "alive" or seq in renames):
                    doubt = seq in deferred or known == "deferred" or seq in renames
                    state[k] = "deferred" if doubt else "rejected"
                    found.key_states.append((state[k], k))
            elif op == "D":
                deleted = (seq, k, known)
                if known != "deferred":  # else the row that waits may yet be a fact before this one
                    found.key_states.append(("gone", k))
                    state.pop(k, None)
            elif known == "deferred":
                found.deferred.append(seq)
            elif op == "I":
                if known == "alive":
                    found.operations[seq] = "U"
                state[k] = "alive"
            else:
                before = known
                if seq in renames:
                    before = _before(deleted, seq, renames[seq])
                if before == "deferred" or (before == "rejected" and seq in old):
                    found.deferred.append(seq)
                    found.key_states.append(("deferred", k))
                    state[k] = "deferred"
                    continue
                if before == "rejected":
                    found.operations[seq] = "I"
                state[k] = "alive"
        return found

    def commit(self, decided: Decided) -> None:
        """The micro-batch was taken in."""
        for kind, key in decided.key_states:
            self._keys.rejected.discard(key)
            self._keys.deferred.discard(key)
            if kind != "gone":
                (self._keys.deferred if kind == "deferred" else self._keys.rejected).add(key)


def _among(values: pa.ChunkedArray, wanted: set[Any]) -> set[Any]:
    return {value for value in values.to_pylist() if value in wanted} if wanted else set()


def _updated_before(rows: pa.Table, inserted: pa.Table, key: str) -> bool:
    """Whether an update of a key comes before its insertion: it was there before the triggers."""
    if inserted.num_rows in (0, rows.num_rows):
        return False
    others = rows.filter(pc.is_in(rows[key], inserted[key].combine_chunks()))
    if others.num_rows == inserted.num_rows:
        return False
    began = dict(zip(inserted[key].to_pylist(), inserted["seq"].to_pylist(), strict=True))
    pairs = zip(others[key].to_pylist(), others["seq"].to_pylist(), strict=True)
    return any(seq < began[k] for k, seq in pairs)


def _before(deleted: tuple[int, Any, str] | None, seq: int, old_key: str) -> str:
    """What was known of the key that an update changed; the deletion comes just before it."""
    try:
        (old,) = json.loads(old_key)
    except (ValueError, TypeError):
        return ""
    if deleted is None or deleted[0] != seq - 1 or str(deleted[1]) != str(old):
        return ""
    return deleted[2]
