"""Every feature group that there is: the package's, and those declared outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pipelines.errors import ConfigurationError, DeclarationError
from pipelines.extensions import declared, modules
from pipelines.features.inventory_levels import INVENTORY_LEVELS
from pipelines.features.language.group import FeatureGroup
from pipelines.features.language.rows import REPORTS, Rows
from pipelines.features.route_conditions import ROUTE_CONDITIONS
from pipelines.features.session_events import SESSION_EVENTS
from pipelines.features.user_intent import USER_INTENT
from pipelines.features.user_orders import USER_ORDERS
from pipelines.tables.declare import Log
from pipelines.tables.known import LOGS

OWN: Final = (USER_INTENT, SESSION_EVENTS, USER_ORDERS, INVENTORY_LEVELS, ROUTE_CONDITIONS)
"""Those of the package; `feature_repo` says the rest of each view."""


def all_groups(
    own: Sequence[FeatureGroup], others: Sequence[FeatureGroup], logs: Sequence[Log]
) -> tuple[FeatureGroup, ...]:
    """The package's groups and others beside them.

    Args:
        own: the package's.
        others: those declared outside.
        logs: all that are known.

    Raises:
        DeclarationError: two have one name, or the flows cannot run one; it names the group.
    """
    found = (*own, *others)
    times: dict[str, tuple[str, str]] = {}
    for number, group in enumerate(found):
        if group.name in {other.name for other in found[:number]}:
            raise DeclarationError(f"{group.name}: there is another group of this name")
        try:
            _check_rows(group, logs, times)
        except DeclarationError as error:
            raise DeclarationError(f"{group.name}: {error}") from None
    return found


def _check_rows(
    group: FeatureGroup, logs: Sequence[Log], times: dict[str, tuple[str, str]]
) -> None:
    """Each log is read in one way by a group, and at one time by all of them: `times`."""
    read: dict[str, Rows] = {}
    every = [*group.triggers, group.entity, *(a.rows for a in group.aggregations)]
    for rows in every:
        name = rows.log.name
        if rows.log not in logs:
            raise DeclarationError(
                f"the log {name} is in no module that SYNCHROCHAIN_FEATURES names"
            )
        before = read.setdefault(name, rows)
        if before != rows:
            raise DeclarationError(
                f"it reads {name} in two ways, as {_way(before)} and as {_way(rows)}: declare a"
                " group for each"
            )
        other, at = times.setdefault(name, (group.name, rows.at))
        if at != rows.at:
            raise DeclarationError(
                f"it reads {name} at {rows.at}, and {other} at {at}: the flows know one event time"
                " of a log"
            )
    for a in group.aggregations:
        if a.rows.kind == REPORTS and a.within is None:
            # Which report is the last one may have been corrected at any time since.
            raise DeclarationError(
                f"it looks back at reports of {a.rows.log.name} without a limit: give each"
                " aggregation over them a window, within=…"
            )
    for lookup in group.lookups:
        if lookup.column.rows.log.name in read:
            raise DeclarationError(
                f"it looks {lookup.column.name} up in {lookup.column.rows.log.name}, which it also"
                " reads by its keys: take last(…)"
            )


def _way(rows: Rows) -> str:
    return f"{rows.kind} at {rows.at}" + "".join(f" by {k}={c}" for k, c in rows.of.items())


def _check_modules() -> None:
    for module in modules():
        if not any(isinstance(value, Log | FeatureGroup) for value in vars(module).values()):
            raise ConfigurationError(
                f"SYNCHROCHAIN_FEATURES: {module.__name__} ({module.__file__}) declares no table"
                " and no group: name one that does, or unset it"
            )


_check_modules()
_outside: Final = declared(FeatureGroup, OWN)
OUTSIDE: Final[Mapping[str, str]] = {group.name: module for group, module in _outside.items()}
"""By name of a group that a module of `SYNCHROCHAIN_FEATURES` declares, that module."""
GROUPS: Final = all_groups(OWN, tuple(_outside), LOGS)
