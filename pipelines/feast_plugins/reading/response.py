"""Feast's online answer, decoded from Redis' replies by column and only when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, Final, NamedTuple

from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp

from pipelines.feast_plugins.reading.connections import Reply
from pipelines.feast_plugins.reading.decoding import (
    Cells,
    EventTimes,
    event_time,
    event_times,
    value_message,
)
from pipelines.feast_plugins.reading.on_demand import Columns, Made
from pipelines.feast_plugins.reading.plan import ReadPlan, ViewRead
from pipelines.feast_plugins.reading.request import GroupRead, ReadRequest
from pipelines.feast_plugins.stale_fallback import ReadMode
from pipelines.lake.clock import EPOCH

FEW_ROWS: Final = 8
_NONE: Final[list[Any]] = []

_PRESENT: Final[int] = FieldStatus.PRESENT
_NULL_VALUE: Final[int] = FieldStatus.NULL_VALUE  # of a damaged value
_NOT_FOUND: Final[int] = FieldStatus.NOT_FOUND
_OUTSIDE_MAX_AGE: Final[int] = FieldStatus.OUTSIDE_MAX_AGE


class ViewRows(NamedTuple):
    """Of each row: the event time of a view's values (s since 1970, 0 for none) and its status.

    Statuses are Feast's: PRESENT, NOT_FOUND (also of a row whose event time is damaged), or
    OUTSIDE_MAX_AGE past the view's time to live.
    """

    event_times: list[float]
    statuses: list[int]


class ColumnarResponse(OnlineResponse):
    """An `OnlineResponse` whose protobuf message is made when it is first looked at.

    Args:
        plan: of the request's shape.
        request: the keys, grouped by entity.
        replies: Redis' answers, by group and key.
        now: the present time, for the time to live.
        read_mode: where the values come from, Redis or last known values.
        with_versions: whether the message names the views' versions.

    Attributes:
        read_mode: where the values come from, Redis or last known values.
    """

    def __init__(
        self,
        plan: ReadPlan,
        request: ReadRequest,
        replies: Sequence[Sequence[Reply]],
        now: datetime,
        read_mode: ReadMode,
        *,
        with_versions: bool = False,
    ) -> None:
        self._plan = plan
        self._request = request
        self._now = now
        self._with_versions = with_versions
        self._feature_types = plan.feature_types
        self._message: GetOnlineFeaturesResponse | None = None
        self.read_mode = read_mode
        self._replies = [
            _rows(found, read) for found, read in zip(replies, request.groups, strict=True)
        ]
        self._times = [
            event_times([reply[view.stamp] for reply in self._replies[view.group]])
            for view in plan.views
        ]
        self._gone = [
            self._without_value(view, times)
            for view, times in zip(plan.views, self._times, strict=True)
        ]
        self._columns: Columns = {}
        self._computed: dict[str, Made] = {}
        if plan.on_demand:
            self._columns = request.given | self._decoded()
            for transformation in plan.on_demand:
                self._computed |= transformation.run(self._copied(self._columns))

    @property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]  # Feast: an attribute
        """The answer as Feast's servers send it."""
        if self._message is None:
            self._message = self._as_message()
        return self._message

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Values by name, and with `include_event_timestamps` whole seconds by `<name>__ts`."""
        plan, request = self._plan, self._request
        answer: dict[str, Any] = {name: list(request.given[name]) for name in self._given()}
        if plan.on_demand:
            wanted = (name for name in plan.features if name not in plan.inputs)
            answer |= self._copied({name: self._columns[name] for name in wanted})
            answer |= {name: list(made.values) for name, made in self._computed.items()}
        else:
            answer |= self._decoded()
        return self._with_times(answer) if include_event_timestamps else answer

    def view_rows(self) -> dict[str, ViewRows]:
        """The event times and statuses of each view that was read, by its name."""
        return {
            view.name: ViewRows(_seconds(times.stamps), self._statuses(gone))
            for view, times, gone in zip(self._plan.views, self._times, self._gone, strict=True)
        }

    def damaged(self) -> dict[str, int]:
        """By view, the rows that are taken for missing because their event time is damaged."""
        times = zip(self._plan.views, self._times, strict=True)
        return {view.name: found.damaged for view, found in times if found.damaged}

    def _given(self) -> list[str]:
        plan = self._plan
        return [n for n in self._request.given if n in plan.join_keys or n in plan.returned]

    def _copied(self, columns: Columns) -> Columns:
        """Copies of the values, which the caller may change."""
        changeable = self._plan.changeable
        return {
            name: deepcopy(values) if name in changeable else list(values)
            for name, values in columns.items()
        }

    def _decoded(self) -> Columns:
        """Every feature that was read, in the answer's order."""
        found: Columns = dict.fromkeys(self._plan.features, _NONE)  # settles the order
        for group, replies in zip(self._plan.groups, self._replies, strict=True):
            if len(replies) == 1:
                for kind in group.features:
                    values = kind.decode(kind.pick(replies[0]))
                    found.update(zip(kind.names, [[value] for value in values], strict=True))
            elif len(replies) <= FEW_ROWS:  # a call per value type costs less than one per column
                for kind in group.features:
                    cells = [cell for reply in replies for cell in kind.pick(reply)]
                    values, width = kind.decode(cells), len(kind.names)
                    for place, name in enumerate(kind.names):
                        found[name] = values[place::width]
            else:
                columns = list(zip(*replies, strict=True))
                for kind in group.features:
                    for name, cell in zip(kind.names, kind.cells, strict=True):
                        found[name] = kind.decode(columns[cell])
        if any(self._gone):
            for view, gone in zip(self._plan.views, self._gone, strict=True):
                for row in gone:
                    for name in view.features:
                        found[name][row] = None
        return found

    def _with_times(self, answer: Columns) -> Columns:
        times = {
            name: found.seconds
            for view, found in zip(self._plan.views, self._times, strict=True)
            for name in view.features
        }
        none, interleaved = [0] * self._request.rows, {}
        for name, values in answer.items():
            interleaved[name] = values
            interleaved[name + TIMESTAMP_POSTFIX] = list(times.get(name, none))
        return interleaved

    def _without_value(self, view: ViewRead, times: EventTimes) -> dict[int, int]:
        """The rows that have no value in a view, with the status that says why."""
        gone = dict.fromkeys(times.absent, _NOT_FOUND)
        if view.ttl is None:
            return gone
        oldest = self._now - view.ttl - EPOCH
        limit = oldest.days * 86_400 + oldest.seconds
        seconds = times.seconds
        if min(seconds) > limit:
            return gone
        for row, second in enumerate(seconds):
            if second <= limit and row not in gone:
                nanos = event_time(times.stamps[row]).nanos
                if second < limit or nanos < oldest.microseconds * 1000:
                    gone[row] = _OUTSIDE_MAX_AGE
        return gone

    def _statuses(self, gone: Mapping[int, int]) -> list[int]:
        statuses = [_PRESENT] * self._request.rows
        for row, status in gone.items():
            statuses[row] = status
        return statuses

    def _as_message(self) -> GetOnlineFeaturesResponse:
        message = GetOnlineFeaturesResponse()
        present, never = [_PRESENT] * self._request.rows, [Timestamp()] * self._request.rows

        def put(name: str, values: Any, statuses: list[int], times: list[Timestamp]) -> None:
            message.metadata.feature_names.val.append(name)
            message.results.add(values=values, statuses=statuses, event_timestamps=times)

        for name in self._given():
            column, kind = self._request.given[name], self._request.kinds[name]
            put(name, python_values_to_proto_values(column, kind), present, never)
        cells = self._cells_by_name()
        for view, found, gone in zip(self._plan.views, self._times, self._gone, strict=True):
            times, statuses = [*map(event_time, found.stamps)], self._statuses(gone)
            for name in view.features:
                if name not in self._plan.inputs:
                    values = [value_message(cell) for cell in cells[name]]
                    own = list(statuses)
                    for row, value in enumerate(values):
                        if value is None:
                            own[row] = gone.get(row, _NULL_VALUE)
                    values = [Value() if value is None else value for value in values]
                    for row in gone:
                        values[row] = Value()
                    put(name, values, own, times)
        for name, made in self._computed.items():
            rows = len(made.values)
            put(name, made.as_messages(), [_PRESENT] * rows, [Timestamp()] * rows)
        if self._with_versions:
            for name, version in {v.metadata_name: v.version for v in self._plan.views}.items():
                message.metadata.feature_view_metadata.add(name=name, version=version)
        return message

    def _cells_by_name(self) -> dict[str, list[bytes | None]]:
        return {
            name: [reply[cell] for reply in replies]
            for group, replies in zip(self._plan.groups, self._replies, strict=True)
            for kind in group.features
            for name, cell in zip(kind.names, kind.cells, strict=True)
        }


def _rows(replies: Sequence[Reply], read: GroupRead) -> Sequence[Reply]:
    return replies if read.places is None else [replies[place] for place in read.places]


def _seconds(stamps: Cells) -> list[float]:
    known = {stamp: event_time(stamp) for stamp in {*stamps}}
    seconds = {stamp: time.seconds + time.nanos / 1e9 for stamp, time in known.items()}
    return [seconds[stamp] for stamp in stamps]
