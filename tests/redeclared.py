"""A state whose published rows were declared otherwise than the rows of this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from reference import VIEWS

from pipelines.batch import BatchProcessor
from pipelines.lake.publishing import Staged, StagedFile, publish
from pipelines.lake.state import DECLARED, PipelineState, PublishedFile
from pipelines.lake.verification import identity_of
from pipelines.paths import sha256_of

GONE: Final = "user_searches"
"""A group that nobody declares."""
Recorded = dict[str, Any]


def started_again(processor: BatchProcessor) -> BatchProcessor:
    """A processor as a new process has it, on the same data directory."""
    return BatchProcessor(processor.config, processor.data, clock=processor._clock)


def recorded(state: PipelineState) -> Recorded:
    found: Recorded = json.loads(state.metadata(DECLARED) or "")
    return found


def record(state: PipelineState, change: Callable[[Recorded], object]) -> None:
    """Have the state say that the published rows were declared otherwise."""
    known = recorded(state)
    change(known)
    state.set_metadata(DECLARED, json.dumps(known))


def unpublish(processor: BatchProcessor, view: str) -> None:
    """Take a view's files back, as where it was never declared."""
    files = [file.path for file in processor.state.files("view", view)]
    publish(processor.state, 1, Staged(superseded=files), datetime(2024, 3, 1))


def publish_undeclared(processor: BatchProcessor, like: str = "user_intent") -> PublishedFile:
    """Publish a file of `GONE`, with the rows of another view, and have them wait for Redis."""
    view, copied = GONE, processor.state.files("view", like)[0]
    target = processor.config.offline_path / view / f"{view}_00000001.parquet"
    target.parent.mkdir()
    partial = target.with_name("partial")
    shutil.copy(copied.path, partial)
    file = PublishedFile(
        target,
        "view",
        view,
        copied.rows,
        copied.bytes,
        sha256_of(partial),
        copied.min_time,
        copied.max_time,
    )
    assert file.min_time
    assert file.max_time
    publish(
        processor.state,
        1,
        Staged([StagedFile(file, partial, identity_of(partial))]),
        datetime(2024, 3, 1),
        to_materialize={view: (file.min_time, file.max_time)},
    )
    return file


def state_of(processor: BatchProcessor) -> dict[str, Any]:
    """The published files by view, and the offsets of the batch flow."""
    state = processor.state
    files = {view: [file.path for file in state.files("view", view)] for view in VIEWS}
    return files | {"offsets": state.offsets("batch")}


def of_another_meaning(known: Recorded) -> None:
    known["user_intent"]["features"]["carts_7d"] = "another"
    known["user_intent"]["whole"] = "another"


def with_one_more(known: Recorded) -> None:
    known["user_intent"]["features"]["searches_7d"] = "gone"
    known["user_intent"]["whole"] = "another"


def with_one_less(known: Recorded) -> None:
    del known["user_intent"]["features"]["carts_7d"]
    known["user_intent"]["whole"] = "another"


def due_at_other_times(known: Recorded) -> None:
    known["user_intent"] |= {"rows": "another", "whole": "another"}


def in_another_order(known: Recorded) -> None:
    features = known["user_intent"]["features"]
    known["user_intent"] |= {"features": dict(reversed(features.items())), "whole": "another"}


def as_a_whole(known: Recorded) -> None:
    known["user_intent"] = {"whole": "of an earlier version"}


def not_at_all(known: Recorded) -> None:
    del known["user_intent"]


CHANGES = [
    (of_another_meaning, "changed: carts_7d"),
    (with_one_more, "removed: searches_7d"),
    (with_one_less, "added: carts_7d"),
    (due_at_other_times, "rows are due at other times, or have other keys"),
    (in_another_order, "the features have another order"),
    (as_a_whole, "what its rows were declared from is not recorded"),
    (not_at_all, "what its rows were declared from is not recorded"),
]
