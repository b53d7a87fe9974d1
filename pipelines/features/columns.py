"""Names of columns that every view has, and of the logs' commit times."""

from __future__ import annotations

from typing import Final

EVENT_TIMESTAMP: Final = "event_timestamp"
CREATED_TIMESTAMP: Final = "created_timestamp"
COMMITTED_AT: Final = "committed_at"
