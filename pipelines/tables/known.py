"""Every log that there is: the shop's, and those declared outside of the package."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

from pipelines.errors import DeclarationError
from pipelines.extensions import declared
from pipelines.settings import DATABASE_NAMES
from pipelines.tables.declare import Log
from pipelines.tables.shop import SHOP_LOGS

READING_ORDER: Final = ("supply_chain", "orders", "users", "inventory")
"""Databases that refer to others come first: the row referred to was committed before, so a
database read later contains it. A reference the other way finds its row a cycle later."""


def all_logs(shop: tuple[Log, ...], others: tuple[Log, ...]) -> tuple[Log, ...]:
    """The shop's logs and others beside them.

    Args:
        shop: the package's own.
        others: those declared outside.

    Raises:
        DeclarationError: two have one name or one table, or a reference leads nowhere.
    """
    found = (*shop, *others)
    for log in others:
        for other in found:
            if other is log:
                continue
            if other.name == log.name:
                raise DeclarationError(f"log {log.name}: there is another log of this name")
            if (other.database, other.table) == (log.database, log.table):
                raise DeclarationError(
                    f"log {log.name}: the table {log.table} of {log.database} is that of the log"
                    f" {other.name}: declare groups over that one"
                )
    by_name = {log.name: log for log in found}
    for log in others:
        for column, parent in log.references.items():
            if parent not in by_name:
                raise DeclarationError(
                    f"log {log.name}: {column} refers to {parent}, which is no log: there are"
                    f" {', '.join(by_name)}"
                )
            if parent == log.name:
                raise DeclarationError(f"log {log.name}: {column} refers to the log itself")
            _check_reference(log, column, by_name[parent])
    _refuse_circles(found)
    return found


def logs_of(database: str) -> tuple[Log, ...]:
    """The logs fed by one live database."""
    return tuple(log for log in LOGS if log.database == database)


def parents_first() -> tuple[Log, ...]:
    """All logs, each after the logs that it refers to."""
    ordered: list[Log] = []

    def place(log: Log) -> None:
        for parent in log.references.values():
            place(BY_NAME[parent])
        if log not in ordered:
            ordered.append(log)

    for log in LOGS:
        place(log)
    return tuple(ordered)


def _check_reference(log: Log, column: str, parent: Log) -> None:
    if len(parent.key) != 1:
        raise DeclarationError(
            f"log {log.name}: {column} refers to {parent.name}, whose key has several columns"
        )
    if log.types[column] != parent.types[parent.key[0]]:
        raise DeclarationError(
            f"log {log.name}: {column} and {parent.key[0]} of {parent.name}, which it refers to,"
            " are of different types"
        )


def _refuse_circles(logs: tuple[Log, ...]) -> None:
    try:
        TopologicalSorter({log.name: set(log.references.values()) for log in logs}).prepare()
    except CycleError as error:
        named = ", ".join(sorted(set(error.args[1])))
        raise DeclarationError(
            f"logs refer to one another in a circle, among {named}: leave out one way"
        ) from None


LOGS: Final = all_logs(SHOP_LOGS, tuple(declared(Log, SHOP_LOGS)))
BY_NAME: Final[Mapping[str, Log]] = {log.name: log for log in LOGS}

if set(READING_ORDER) != set(DATABASE_NAMES):
    raise AssertionError("READING_ORDER names each live database once")
