"""Damage in the online store: counted, and said once of each kind."""

from __future__ import annotations

import logging
import threading

logger = logging.getLogger(__name__)


class Damage:
    """What was found damaged so far. Safe to share between threads."""

    def __init__(self) -> None:
        self.count = 0
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def found(self, number: int, what: str) -> None:
        """Count damage; say it if it is the first of its kind.

        Args:
            what: the kind, as in "3 <what>".
        """
        if not number:
            return
        with self._lock:
            self.count += number
            first = what not in self._said
            self._said.add(what)
        if first:
            logger.warning(
                "damage in the online store, for the batch flow to mend: %d %s", number, what
            )
