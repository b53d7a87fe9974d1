"""What is published of the change logs, as one consistent snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.change_log.offsets import Offset
from pipelines.lake.rejected import KIND
from pipelines.lake.state import BATCH_READER, PipelineState, PublishedFile
from pipelines.tables.known import LOGS


@dataclass(frozen=True)
class Published:
    """The processed logs, and up to which change they go."""

    bound_offsets: Mapping[str, Offset]
    """By database."""
    files: Mapping[str, Sequence[PublishedFile]]
    """By log."""
    rejected: Mapping[str, Sequence[PublishedFile]]
    """By log of facts, the rows that were rejected."""
    resolved_cycle: int
    """The last cycle that accepted rows which were rejected before."""

    @property
    def offsets(self) -> dict[str, int]:
        """By database, the `seq` of the last change."""
        return {name: at.seq for name, at in self.bound_offsets.items()}


def published(state: PipelineState) -> Published:
    """Offsets and files that belong together, though a cycle may publish meanwhile."""
    while True:
        offsets, resolved = state.bound_offsets(BATCH_READER), state.last_resolved_cycle()
        files = {log.name: state.files("log", log.name) for log in LOGS}
        rejected = {log.name: state.files(KIND, log.name) for log in LOGS if log.append_only}
        if (offsets, resolved) == (state.bound_offsets(BATCH_READER), state.last_resolved_cycle()):
            return Published(offsets, files, rejected, resolved)
