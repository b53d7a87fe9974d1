"""The language of declarations, in one place: what a page of features imports.

A feature group has entity keys, rows of logs at whose times a feature row is due, and features. A
feature is an expression over aggregations (`count`, `total`, `last`, …) of a log's rows, as-of
lookups of other records, and the time of the row. Values can be used again: the features of a
group share what they have in common, and it is computed once.
"""

from pipelines.errors import DeclarationError
from pipelines.features.language.aggregations import (
    AT_ONCE,
    RowTime,
    as_of,
    count,
    count_distinct,
    days,
    hours,
    in_days,
    in_hours,
    in_seconds,
    largest,
    last,
    last_k,
    mean,
    most_frequent,
    seconds,
    share,
    smallest,
    time_since_previous,
    total,
)
from pipelines.features.language.expressions import (
    cases,
    coalesce,
    day_of_week,
    distinct,
    greatest,
    hour_of_day,
    is_in,
    is_null,
    least,
    ratio,
)
from pipelines.features.language.group import Feature, FeatureGroup, WhileKnown, group
from pipelines.features.language.rows import changes, facts, reports, since_previous

event_time = RowTime()
"""The event time of the feature row."""

__all__ = [
    "AT_ONCE",
    "DeclarationError",
    "Feature",
    "FeatureGroup",
    "WhileKnown",
    "as_of",
    "cases",
    "changes",
    "coalesce",
    "count",
    "count_distinct",
    "day_of_week",
    "days",
    "distinct",
    "event_time",
    "facts",
    "greatest",
    "group",
    "hour_of_day",
    "hours",
    "in_days",
    "in_hours",
    "in_seconds",
    "is_in",
    "is_null",
    "largest",
    "last",
    "last_k",
    "least",
    "mean",
    "most_frequent",
    "ratio",
    "reports",
    "seconds",
    "share",
    "since_previous",
    "smallest",
    "time_since_previous",
    "total",
]
