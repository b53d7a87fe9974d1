"""Training windows: every event of a session once, with all that followed it.

A row of the data set lists up to 32 events, and each of them is a prefix with a label of its own.
So few rows are read, those at whose end a window closes, and every position in them is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.models.intent.dataset import Events
from pipelines.models.intent.features import ACTIONS, event_inputs, read_sequences, user_context
from pipelines.models.intent.transformer import NEXT_ACTIONS, Targets
from pipelines.training.task import Dataset, take

_FULL: Final = 32
_STRIDE: Final = 16
_NEAR: Final = 8  # events within which something comes soon
EARLY_COUNTS_MORE: Final = 8.0
"""The weight of the k-th event is 1 / (1 + k / 8): long sessions would drown the short ones."""
_NEXT: Final = {**{action: code for code, action in enumerate(ACTIONS)}, "purchase": 6}
_END: Final = NEXT_ACTIONS - 1


@dataclass(frozen=True)
class Windows:
    """Rows as tensors, W windows of T positions, with their targets.

    `row` is (W, T), the data set's row that ends at a position, −1 if none does.
    """

    events: Tensor
    user: Tensor
    length: NDArray[np.int64]
    row: NDArray[np.int64]
    targets: Targets

    def __len__(self) -> int:
        return len(self.length)

    def batch(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Targets]:
        """(B, T, …) events, user, which positions there are, and targets, cut to the longest."""
        width = int(self.length[index].max())
        at = torch.from_numpy(index)
        there = torch.from_numpy(np.arange(width) < self.length[index][:, None])
        targets = Targets(*(part[at, :width] for part in vars(self.targets).values()))
        return self.events[at, :width], self.user[at, :width], there, targets


def make_windows(data: Dataset, chosen: NDArray[np.bool_]) -> Windows:
    """The windows of the chosen rows; sessions must be chosen whole."""
    events: Events = data.extra["events"]
    at = data.extra["at"]
    rows = np.flatnonzero(chosen)
    session, place = events.session[at[rows]], events.place[at[rows]]
    is_last = np.append(session[1:] != session[:-1], True)
    ends = is_last | ((place >= _FULL) & (place % _STRIDE == 0))
    end_rows, end_place = rows[ends], place[ends]
    same = np.append(False, session[ends][1:] == session[ends][:-1])
    covered = np.where(same, np.append(0, end_place[:-1]), 0)  # by the window before
    columns = take(data.columns, end_rows)
    sequences = read_sequences(columns)
    inputs = event_inputs(sequences)
    length = sequences.length
    width = inputs.shape[1]
    offset = np.arange(width)
    # (W, T) event of each position; padding points at the last one and weighs nothing.
    there = offset < length[:, None]
    start = at[end_rows] - length + 1
    event = start[:, None] + np.minimum(offset, length[:, None] - 1)
    mine = there & (events.place[event] > covered[:, None])
    row_of = np.full(len(events.session), -1)
    row_of[at[rows]] = rows
    row = np.where(mine, row_of[event], -1)
    context = user_context(take(data.columns, rows))
    position_of = np.full(len(data), -1)
    position_of[rows] = np.arange(len(rows))
    known = row >= 0
    user = np.zeros((*row.shape, context.shape[1]), dtype=np.float32)
    user[known] = context[position_of[row[known]]]
    importance = 1 / (1 + events.place[event] / EARLY_COUNTS_MORE)
    importance /= importance[mine].mean()
    return Windows(
        events=torch.from_numpy(np.ascontiguousarray(inputs)),
        user=torch.from_numpy(user),
        length=length,
        row=row,
        targets=_targets(events, event, importance * known, importance * mine, data, row),
    )


def _targets(
    events: Events,
    event: NDArray[np.int64],
    weight: NDArray[np.float64],
    auxiliary: NDArray[np.float64],
    data: Dataset,
    row: NDArray[np.int64],
) -> Targets:
    total = len(events.session)
    number = np.arange(total)
    end = (events.first + events.size)[events.session]  # index after the session's last event
    following = np.minimum(number + 1, end - 1)
    has_next = number + 1 < end
    codes = np.array([_NEXT.get(a, _NEXT["other"]) for a in events.action], dtype=np.int64)
    depth = np.clip(events.scroll, 1e-3, 1 - 1e-3)
    logit = np.log(depth / (1 - depth))

    def follows(action: str, within: int | None = None) -> NDArray[np.float32]:
        counted = np.concatenate([[0], np.cumsum(codes == _NEXT[action])])
        until = end if within is None else np.minimum(end, number + 1 + within)
        return np.asarray(counted[until] > counted[number + 1], dtype=np.float32)

    later = [follows("add_to_cart"), follows("checkout")]
    later += [follows(name, _NEAR) for name in ("add_to_cart", "checkout", "purchase")]

    def floats(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    return Targets(
        weight=floats(weight),
        auxiliary_weight=floats(auxiliary),
        purchase=floats(~np.isnat(events.bought_at[event])),
        soon=floats(np.where(row >= 0, data.labels["soon"][row], False)),
        next_action=torch.from_numpy(np.where(has_next, codes[following], _END)[event]),
        next_dwell=floats((events.log_dwell[following] - 3.0)[event]),
        next_scroll=floats(logit[following][event]),
        has_next=floats(has_next[event]),
        later=floats(np.stack(later, 1)[event]),
    )
