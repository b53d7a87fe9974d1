"""Checks for leaks from the future in a data set of prefixes, before anything is trained.

A row must list exactly the events that the log holds up to the row's event time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import SynchroChainError
from pipelines.models.intent.features import AGGREGATES, PURCHASE, WINDOW, aggregates
from pipelines.training.task import Dataset, take

if TYPE_CHECKING:
    from pipelines.models.intent.dataset import Events

SUSPICIOUS_AUC: Final = 0.95
"""In the simulated shop the hidden intent itself reaches an AUC of 0.80 to 0.88 for a purchase, so
a single feature above this bound is a leak."""
_SAMPLE: Final = 5000
_LEAST_POSITIVES: Final = 20


class LeakError(SynchroChainError):
    """The input of a training row contains data from after its event time."""


def check_for_leaks(data: Dataset) -> None:
    """Reject a data set whose rows contain data from the future.

    Raises:
        LeakError: a prefix is longer than the log up to its event time, holds other events or a
            purchase, or a single feature nearly determines the label.
    """
    events: Events = data.extra["events"]
    at = data.extra["at"]
    _refuse(
        data.timestamps != events.time[at],
        "have another event time than the event they end with",
        data,
    )
    _refuse(
        data.columns["event_count"] != events.place[at],
        "count other events than the log has up to their event time",
        data,
    )
    length = np.minimum(events.place[at], WINDOW)
    actions = data.columns["actions"]
    sizes = np.fromiter((0 if a is None else len(a) for a in actions), np.int64, len(actions))
    _refuse(sizes != length, "list more or fewer events than the log has", data)
    listed = np.concatenate([np.asarray(a, dtype=object) for a in actions])
    row = np.repeat(np.arange(len(at)), length)
    back = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    bought = np.zeros(len(at), dtype=bool)
    bought[row[listed == PURCHASE]] = True
    _refuse(bought, "hold a purchase, which is what is to be predicted", data)
    source = (at - length + 1)[row] + back
    wrong = np.zeros(len(at), dtype=bool)
    wrong[row[listed != events.action[source]]] = True
    _refuse(wrong, "list other actions than the log has up to their event time", data)
    _refuse(
        data.labels["purchase"] & (events.bought_at[at] <= data.timestamps),
        "end at or after their purchase",
        data,
    )
    _check_single_features(data)


def _refuse(wrong: NDArray[np.bool_], what: str, data: Dataset) -> None:
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise LeakError(
            f"{int(wrong.sum())} of {len(data)} training rows {what}, first at "
            f"{data.timestamps[first]}: the features are not as of the rows' event times, so "
            "nothing is trained; repair the offline files with `synchrochain audit`"
        )


def _check_single_features(data: Dataset) -> None:
    from sklearn.metrics import roc_auc_score

    rows = np.arange(len(data))
    if len(rows) > _SAMPLE:
        rows = np.random.default_rng(0).choice(rows, _SAMPLE, replace=False)
    truth = data.labels["purchase"][rows]
    if min(truth.sum(), (~truth).sum()) < _LEAST_POSITIVES:
        return
    values = aggregates(take(data.columns, rows))
    for name, column in zip(AGGREGATES, values.T, strict=True):
        area = roc_auc_score(truth, np.nan_to_num(column, nan=-1.0))
        if max(area, 1 - area) > SUSPICIOUS_AUC:
            raise LeakError(
                f"the feature {name} alone predicts a purchase with AUC {max(area, 1 - area):.3f}, "
                f"above {SUSPICIOUS_AUC}: it knows what came later, so nothing is trained"
            )
