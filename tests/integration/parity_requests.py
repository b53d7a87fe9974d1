"""Requests for online features: every way of asking, and every way of asking wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from feast import FeatureService
from feast.protos.feast.types.Value_pb2 import RepeatedValue
from feast.protos.feast.types.Value_pb2 import Value as Message
from parity_repositories import Key, Repository


@dataclass(frozen=True)
class Request:
    """Arguments of `get_online_features`; `features` may be a service or name one."""

    features: list[str] | str | FeatureService
    rows: list[Any] | dict[str, Any]
    full_feature_names: bool = False

    def send(self, store: Any) -> Any:
        """The answer of a feature store."""
        features: Any = self.features
        if isinstance(features, str):
            features = store.get_feature_service(features)
        return store.get_online_features(features, self.rows, self.full_feature_names)

    def served(self, repository: Repository) -> dict[str, tuple[str, timedelta | None]]:
        """The features of ordinary views by name in the answer: their view and its time to live."""
        service: Any = self.features
        if isinstance(service, str):
            service = repository.services[service]
        if isinstance(service, FeatureService):
            parts: list[Any] = service.feature_view_projections
            found = [(p.name, p.name_to_use(), f.name) for p in parts for f in p.features]
        else:
            split = [reference.partition(":") for reference in service]
            found = [(view, view, feature) for view, _, feature in split]
        full, views = self.full_feature_names, repository.views
        return {
            f"{shown}__{feature}" if full else feature: (shown, views[view].ttl)
            for view, shown, feature in found
            if view in views
        }


def columnar(rows: list[Key]) -> dict[str, list[Any]]:
    """The same rows as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def references(repository: Repository, *views: str) -> list[str]:
    """All features of these views."""
    return [f"{v}:{field.name}" for v in views for field in repository.views[v].features]


def with_order(rows: list[Key]) -> list[Key]:
    """Rows with the request data of the on-demand views."""
    return [
        row | {"amount": number * 3 - 4, "note": f"n{number}"} for number, row in enumerate(rows)
    ]


def with_aliases(rows: list[Key]) -> list[Key]:
    """Rows with the join keys that service aliased asks for; of each row other ones."""
    turned = [*rows[1:], rows[0]]
    return [
        row
        | {"origin_text": other["text_id"], "origin_whole": other["whole_id"]}
        | {"target_text": row["text_id"], "target_whole": row["whole_id"]}
        for row, other in zip(rows, turned, strict=True)
    ]


def _messages(rows: list[Key]) -> list[Key]:
    fields = {"whole_id": "int64_val", "text_id": "string_val", "small_id": "int32_val"}
    return [{name: Message(**{fields[name]: row[name]}) for name in row} for row in rows]


def _in_message(rows: list[Key]) -> dict[str, RepeatedValue]:
    return {name: RepeatedValue(val=column) for name, column in columnar(_messages(rows)).items()}


def _as_text(rows: list[Key]) -> list[Key]:
    return [{name: str(value) for name, value in row.items()} for row in rows]


def _in_numpy(rows: list[Key]) -> list[Key]:
    kinds = {"whole_id": np.int64, "text_id": np.str_, "small_id": np.int32}
    return [{name: kinds[name](value) for name, value in row.items()} for row in rows]


def _by_entity(rows: list[Key]) -> list[Key]:
    return [{name.removesuffix("_id"): value for name, value in row.items()} for row in rows]


def _only(rows: list[Key], *names: str) -> list[Key]:
    return [{name: row[name] for name in names} for row in rows]


_VIEWS: Final = ("wide", "triple", "pair", "direct", "alone")

Make = Callable[[Repository], Request]


def _of_all(change: Callable[[list[Key]], Any], full: bool = False) -> Make:
    return lambda r: Request(references(r, *_VIEWS), change(r.request_keys()), full)


def _exactly(features: list[str], rows: Any) -> Make:
    return lambda _: Request(features, rows)


def _of(features: list[str] | str, change: Callable[[list[Key]], Any], full: bool = False) -> Make:
    return lambda r: Request(features, change(r.request_keys()), full)


GOOD: Final[dict[str, Make]] = {
    "rows": _of_all(lambda rows: rows),
    "one row": _of_all(lambda rows: rows[:1]),
    "a few rows": _of_all(lambda rows: rows[3:9]),
    "rows, full names": _of_all(lambda rows: rows, full=True),
    "columns": _of_all(columnar),
    "columns as tuples": _of_all(lambda rows: {k: tuple(v) for k, v in columnar(rows).items()}),
    "messages": _of_all(_messages),
    "a message per column": _of_all(_in_message),
    "numbers as text": _of_all(_as_text),
    "numpy's numbers": _of_all(_in_numpy),
    "entities by name": _of_all(_by_entity),
    "columns that nobody asked for": _of_all(lambda rows: with_aliases(with_order(rows))),
    "one key again and again": _of_all(lambda rows: rows[:1] * 5),
    "unknown keys only": _of_all(
        lambda rows: [row | {"whole_id": -5, "small_id": -5, "text_id": "-"} for row in rows]
    ),
    "one feature": _of(["pair:label"], lambda rows: rows),
    "keys of one view": _of(["pair:label"], lambda rows: _only(rows, "whole_id", "text_id")),
    "keys in another order": _of(["pair:ratio", "triple:number"], lambda rows: _turned(rows)),
    "views by turns": _of(["pair:ratio", "triple:seen_at", "pair:label"], lambda rows: rows),
    "a part of a view's key": _of(["pair:label"], lambda rows: _only(rows, "text_id")),
    "only the view without entity": _of(["alone:level", "alone:title"], lambda rows: rows),
    "service": _of("plain", lambda rows: rows),
    "service as an object": lambda r: Request(r.services["plain"], r.request_keys()),
    "service, full names": _of("plain", lambda rows: rows, full=True),
    "service with join key aliases": _of("aliased", with_aliases, full=True),
    "service with an alias of one of two keys": _of("partly_aliased", with_aliases),
    "service with a renamed view": _of("renamed", lambda rows: rows),
    "service with a renamed view, full names": _of("renamed", lambda rows: rows, full=True),
    "on-demand": _of("demanded", with_order),
    "on-demand, full names": _of("demanded", with_order, full=True),
    "on-demand, renamed": _of("demanded_by_another_name", with_order),
    "on-demand, renamed, full names": _of("demanded_by_another_name", with_order, full=True),
    "on-demand by references": lambda r: Request(
        ["in_python:tag", "in_pandas:whole", "in_python:seen_by_python", references(r, "wide")[0]],
        with_order(r.request_keys()),
    ),
    "on-demand in python": _of(["in_python:twice", "in_python:seen_by_python"], with_order),
    "on-demand in pandas": _of(["in_pandas:total", "in_pandas:seen_by_pandas"], with_order),
    "on-demand beside its input": _of(["pair:ratio", "in_pandas:total"], with_order),
    "on-demand of one row": _of("demanded", lambda rows: with_order(rows[:1])),
    "on-demand of a few rows": _of("demanded", lambda rows: with_order(rows[5:8])),
    "on-demand in columns": _of("demanded", lambda rows: columnar(with_order(rows))),
}


def _turned(rows: list[Key]) -> list[Key]:
    return [dict(reversed(row.items())) for row in rows]


BAD: Final[dict[str, Make]] = {
    "unknown view": _of(["nothing:label"], lambda rows: rows),
    "unknown feature": _of(["pair:nothing"], lambda rows: rows),
    "unknown feature of an on-demand view": _of(["in_python:nothing"], with_order),
    "unknown service": _of("nothing", lambda rows: rows),
    "no features": _of([], lambda rows: rows),
    "a reference without a feature": _of(["pair"], lambda rows: rows),
    "one name twice": _of(["pair:label", "pair:label"], lambda rows: rows),
    "one name of two views": _of("aliased", with_aliases),
    "no key of the view": _of(["pair:label"], lambda rows: _only(rows, "small_id")),
    "no known column": _of(["pair:label"], lambda rows: [{"nothing": 1} for _ in rows]),
    "aliases missing": _of("aliased", lambda rows: rows, full=True),
    "request data missing": _of("demanded", lambda rows: rows),
    "half of the request data": _of("demanded", lambda rows: [r | {"amount": 1} for r in rows]),
    "empty rows": _exactly(["alone:level"], [{}]),
    "empty columns": _exactly(["pair:label"], {"whole_id": [], "text_id": []}),
    "one value as a column": _exactly(["pair:label"], {"text_id": ["a"], "whole_id": 1}),
    "a text as a column": _exactly(["pair:label"], {"text_id": "ab", "whole_id": [0, 1]}),
    "a row with more columns": _of(["pair:label"], lambda rows: [*rows, rows[0] | {"more": 1}]),
    "a row with fewer columns": _of(["pair:label"], lambda rows: [*rows, {"whole_id": 1}]),
    "columns of unequal length": _of(
        ["pair:label"], lambda rows: columnar(rows) | {"whole_id": [1]}
    ),
    "bytes as a text key": _of(["pair:label"], lambda rows: [rows[0] | {"text_id": b"a"}]),
    "an empty message as a key": _of(
        ["pair:label"], lambda rows: [rows[0] | {"text_id": Message()}]
    ),
    "a message of another type as a key": _of(
        ["pair:label"], lambda rows: [rows[0] | {"whole_id": Message(int32_val=1)}]
    ),
}

ARRAYS: dict[str, Callable[[Repository], Request]] = {
    "columns as arrays": _of(
        ["pair:label"], lambda rows: {k: np.array(v) for k, v in columnar(rows).items()}
    ),
    "columns as series": _of(
        ["pair:label"], lambda rows: {k: pd.Series(v) for k, v in columnar(rows).items()}
    ),
}
"""Stock reads neither."""

WRONG_KEYS: dict[str, Callable[[Repository], Request]] = {
    "null as a key": _of(["pair:label"], lambda rows: [*rows, rows[0] | {"text_id": None}]),
    "only null as a key": _of(["pair:label"], lambda rows: [rows[0] | {"text_id": None}]),
    "text for a number": _of(["pair:label"], lambda rows: [rows[0] | {"whole_id": "one"}]),
    "too large a number": _of(["triple:number"], lambda rows: [rows[0] | {"small_id": 2**31}]),
    "a list as a key": _of(["pair:label"], lambda rows: [rows[0] | {"text_id": ["a"]}]),
    "a number as text key": _of(["pair:label"], lambda rows: [rows[0] | {"text_id": 5}]),
    "a fraction as a key": _of(["pair:label"], lambda rows: [rows[0] | {"whole_id": 1.5}]),
    "half of a sign as a key": _of(["pair:label"], lambda rows: [rows[0] | {"text_id": "\ud800"}]),
    "truth as a key": _of(["pair:label"], lambda rows: [rows[0] | {"whole_id": True}]),
}
"""Stock raises what its conversion raises, or takes True and 1.5 for 1."""
