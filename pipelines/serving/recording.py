"""Logs decisions with all their inputs: the record of each, and what becomes of it if that fails.

The names in a record are persisted; `replay` reads those of older logs too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from pipelines.models.delay.features import ROUTE_FEATURES
from pipelines.registry.columns import Columns
from pipelines.serving.deciding import Evaluation, NetworkForecast
from pipelines.serving.decision_log import DecisionLog, DecisionLogError, Record
from pipelines.serving.decisions import Decision, Fallback

logger = logging.getLogger(__name__)

FEW: Final = 4
"""Orders whose fresh routes are logged with each of them; for more, the network is logged anew."""


class DecisionRecorder:
    """Writes decisions into the log; not to be shared between threads without a lock.

    Attributes:
        problem: why the last decisions could not be logged; None if they could.
    """

    def __init__(self, log: DecisionLog) -> None:
        self._log = log
        self._network: tuple[int, int] | None = None  # of a snapshot, and the log's for it
        self._not_logged = 0
        self.problem: str | None = None

    def record(self, evaluation: Evaluation, decisions: Sequence[Decision]) -> list[Decision]:
        """Log decisions; one that cannot be logged is returned with a note that says so."""
        logged = [replace(decision, logged=True) for decision in decisions]
        try:
            self._write(evaluation, logged)
        except DecisionLogError as error:
            self._note_failure(str(error), len(decisions))
            note = Fallback("decision log", f"it cannot be written: {error}")
            return [replace(one, fallbacks=[*one.fallbacks, note]) for one in decisions]
        self._note_success()
        return logged

    def _write(self, evaluation: Evaluation, decisions: Sequence[Decision]) -> None:
        network, number, fresh = evaluation.network, None, list[str]()
        if network is not None and len(decisions) > FEW:
            number = self._log.add_network(network.columns)
        elif network is not None:
            number, fresh = self._number_of(network), network.fresh
        contents = [_content(evaluation, n, one, fresh) for n, one in enumerate(decisions)]
        records = zip(decisions, contents, strict=True)
        self._log.add([Record(one.id, number, content) for one, content in records])

    def _number_of(self, network: NetworkForecast) -> int:
        snapshot = network.snapshot
        if self._network is None or self._network[0] != snapshot.number:
            self._network = snapshot.number, self._log.add_network(snapshot.columns)
        return self._network[1]

    def _note_failure(self, why: str, count: int) -> None:
        """Say it once, not with each decision: what is full may be the disk of the log, too."""
        if self.problem != why:
            logger.warning("decisions are not logged: %s", why)
        self.problem = why
        self._not_logged += count

    def _note_success(self) -> None:
        if self.problem is not None:
            logger.warning("decisions are logged again; %d were not", self._not_logged)
            self.problem, self._not_logged = None, 0


def pack(columns: Columns) -> dict[str, list[Any]]:
    """Columns as lists, one value where all are the same: most of an order's are."""
    packed = {}
    for name, column in columns.items():
        values = column.tolist()
        first = values[0]
        if first == first:
            alike = values.count(first) == len(values)
        else:  # NaN, which equals nothing
            alike = all(value != value for value in values)
        packed[name] = [first] if alike else values
    return packed


def unpack(packed: dict[str, list[Any]], rows: int) -> dict[str, list[Any]]:
    """The inverse of `pack`."""
    return {name: v * rows if len(v) == 1 else v for name, v in packed.items()}


def _content(
    evaluation: Evaluation, number: int, decision: Decision, fresh: Sequence[str]
) -> dict[str, Any]:
    """Everything that decided on one order, as it was given to the models.

    Args:
        evaluation: of the batch.
        number: the order's number in it.
        decision: its answer.
        fresh: the routes whose conditions are in the record, for the logged network is older.
    """
    batch, network = evaluation.batch, evaluation.network
    first, last = batch.first[number], batch.first[number + 1]
    delay = None
    if network is not None:
        at = [network.snapshot.network.position[route] for route in fresh]
        conditions = {name: network.columns[name][at].tolist() for name in ROUTE_FEATURES}
        delay = {"at": at, "fresh": conditions, "routes": network.route_of[first:last]}
    return {
        "decision": decision,
        "intent": {
            name: column[number : number + 1].tolist()
            for name, column in evaluation.intent_columns.items()
        },
        "delay": delay,
        "ways": [(c.warehouse_id, c.shipping_method) for c in batch.candidates[first:last]],
        "options": pack({name: column[first:last] for name, column in evaluation.columns.items()}),
        "weights": asdict(evaluation.config.weights),
    }
