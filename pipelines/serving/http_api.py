"""Decisions and features over HTTP.

The work is Python's and one decision is made at a time, so it is done by one thread beside the
event loop, which stays free to answer /healthz.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial
from typing import Annotated, Any, Final, TypeVar

import pyarrow as pa
from fastapi import FastAPI, Path, Request, Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from pipelines.errors import SynchroChainError, UnknownNameError
from pipelines.features.keys import whole_number
from pipelines.features.views import view_named
from pipelines.registry.signatures import MODELS
from pipelines.serving import examples
from pipelines.serving.bodies import MOST_ORDERS, orders_in
from pipelines.serving.candidates import CompletedOrder
from pipelines.serving.decisions import Decision
from pipelines.serving.forecasts import RULE
from pipelines.serving.guards import AllowedHosts, LimitedBody
from pipelines.serving.loading import Absent
from pipelines.serving.orchestrator import BATCH_ORDERS, ModelOrchestrator
from pipelines.serving.orders import Order, OrderError
from pipelines.serving.problems import RETRY_AFTER, Problem, documented, handle_problems

MOST_BYTES: Final = 1_000_000
MOST_WAITING: Final = 256
"""The most requests that wait; more are answered with 503."""

Result = TypeVar("Result")
_ORDER: Final = {"$ref": "#/components/schemas/Order"}
_ORDERS: Final = {"type": "array", "items": _ORDER, "minItems": 1, "maxItems": MOST_ORDERS}
_REQUEST_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"title": "Orders", "oneOf": [_ORDER, _ORDERS]},
            "examples": examples.ORDERS,
        }
    },
}


class Features(BaseModel):
    """The online features of one key."""

    view: str
    keys: dict[str, Any]
    event_timestamp: datetime | None
    age_seconds: float | None
    state: str = Field(description="present, or stale: older than the view's time to live")
    read_mode: str = Field(description="redis, or stale_fallback while Redis is away")
    features: dict[str, Any]


class ModelState(BaseModel):
    """A registered model and what of it is in service."""

    name: str
    version: int | None = Field(description="In service; null if a rule stands in")
    kind: str
    alias: str | None
    problem: str | None = Field(description="Why it is not the champion that answers")


class Health(BaseModel):
    """Whether the process lives."""

    status: str = "alive"


class Ready(BaseModel):
    """Whether decisions can be made, and what is not as it should be."""

    ready: bool
    reasons: list[str]
    warnings: list[str]


def create_app(orchestrator: ModelOrchestrator, allowed_hosts: Collection[str] = ()) -> FastAPI:
    """The application; it starts the orchestrator beside itself and stops it at its end.

    Until then `/readyz` says what is being waited for.

    Args:
        orchestrator: decides.
        allowed_hosts: names beside the loopback ones that requests may ask for.
    """
    worker = _Worker()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        orchestrator.start_beside()
        try:
            yield
        finally:
            await worker.close()
            await asyncio.to_thread(orchestrator.stop)

    app = FastAPI(
        title="SynchroChain",
        summary="Which warehouse and which shipping method for an order.",
        version="1",
        lifespan=lifespan,
        responses=documented(400, 408, 421, 422, 500, 503),
    )
    app.add_middleware(LimitedBody, most=MOST_BYTES)
    app.add_middleware(AllowedHosts, names=allowed_hosts)
    handle_problems(app)

    @app.post(
        "/decisions",
        summary="Decide on an order, or on up to 1000",
        response_model=None,
        responses={
            200: _shown(
                examples.DECISION,
                description="A decision, or a list of them in the orders' order",
                model=Decision | list[Decision],
            ),
            **documented(404, 413, 415),
        },
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def decide(request: Request) -> Response:
        orders = orders_in(await request.body(), request.headers.get("content-type"))
        orchestrator.require_start()
        if isinstance(orders, Order):
            return _json(await worker.run(partial(orchestrator.decide, orders)))
        decided: list[Decision] = []
        completed = await worker.run(partial(_completed, orchestrator, orders))  # all or none
        for first in range(0, len(orders), BATCH_ORDERS):  # others have their turn in between
            some = completed[first : first + BATCH_ORDERS]
            decided += await worker.run(partial(orchestrator.decide_completed, some))
        return _json(decided)

    @app.get(
        "/decisions/{decision_id}",
        summary="A decision from the log",
        response_model=None,
        responses={
            200: _shown(examples.DECISION, description="As it was answered", model=Decision),
            **documented(404),
        },
    )
    async def decision(
        decision_id: Annotated[str, Path(max_length=64, examples=[examples.DECISION["id"]])],
    ) -> Response:
        logged = await asyncio.to_thread(orchestrator.log.get, decision_id)
        return _json(logged.content["decision"])

    @app.get(
        "/features/{view}/{key}",
        summary="The online features of one key",
        responses={200: _shown(examples.FEATURES), **documented(404)},
    )
    async def features(
        view: Annotated[str, Path(max_length=200, examples=["user_intent"])],
        key: Annotated[
            str,
            Path(max_length=500, examples=["42"], description="Parts of a key with , in between"),
        ],
    ) -> Features:
        keys = _keys(view, key)
        orchestrator.require_start()
        read = await worker.run(partial(orchestrator.features_of, view, keys))
        known = read.views[view]
        stamp = known.stamps[0]
        if not stamp:
            raise UnknownNameError(f"nothing is known of {key} in {view}, or it has expired")
        names = view_named(view).features
        return Features(
            view=view,
            keys=keys,
            event_timestamp=datetime.fromtimestamp(stamp, UTC),
            age_seconds=read.read_at - stamp,
            state=known.states[0],
            read_mode=read.read_mode,
            features={name: read.columns[name][0] for name in names},
        )

    @app.get(
        "/models",
        summary="What is in service of each model",
        responses={200: _shown(examples.MODELS)},
    )
    async def models() -> list[ModelState]:
        return [_state(orchestrator, name) for name in MODELS]

    @app.get(
        "/healthz",
        summary="Whether the process lives",
        responses={200: _shown({"status": "alive"})},
    )
    async def healthz() -> Health:
        return Health()

    @app.get(
        "/readyz",
        summary="Whether decisions can be made",
        responses={
            200: _shown(examples.READY),
            503: _shown(examples.NOT_READY, description="Not yet, or not any more", model=Ready),
        },
    )
    async def readyz() -> Response:
        found = orchestrator.readiness()
        return _json(found, status=200 if found.ready else 503)

    _with_schemas(app)
    return app


def _shown(example: Any, **described: Any) -> dict[str, Any]:
    """What OpenAPI says of an answer, with an example."""
    return {"content": {"application/json": {"example": example}}, **described}


class _Busy(SynchroChainError):
    """More requests wait than can be served."""


class _Worker:
    """One thread that runs blocking work off the event loop, in order of arrival."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decisions")
        self._waiting = 0

    async def run(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= MOST_WAITING:
            raise _Busy(f"{self._waiting} requests wait already: try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Wait for running work; drop queued work."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)


def _completed(orchestrator: ModelOrchestrator, orders: list[Order]) -> list[CompletedOrder]:
    try:
        return orchestrator.complete(orders)
    except OrderError as error:
        error.one_of_many = True
        raise


def _keys(view: str, key: str) -> dict[str, Any]:
    names, schema = view_named(view).keys, view_named(view).schema
    parts = key.split(",")
    if len(parts) != len(names) or not all(parts):
        raise UnknownNameError(f"a key of {view} is {','.join(names)}, not {key!r}")
    keys: dict[str, Any] = dict(zip(names, parts, strict=True))
    for name in (n for n in names if pa.types.is_integer(schema.field(n).type)):
        try:
            keys[name] = whole_number(keys[name])
        except ValueError:
            raise UnknownNameError(f"{name} is a whole number, not {keys[name]!r}") from None
        if not -(2**63) <= keys[name] < 2**63:
            raise UnknownNameError(f"there is no {name} {keys[name]}")
    return keys


def _state(orchestrator: ModelOrchestrator, name: str) -> ModelState:
    found = orchestrator.models.get(name)
    if isinstance(found, Absent):
        return ModelState(name=name, version=None, kind=RULE, alias=None, problem=found.why)
    return ModelState(
        name=name,
        version=found.version,
        kind=found.kind,
        alias=found.alias,
        problem=found.problem,
    )


def _json(value: Any, status: int = 200) -> Response:
    body = to_json(value, inf_nan_mode="null")
    headers = RETRY_AFTER if status == 503 else None
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def _with_schemas(app: FastAPI) -> None:
    """Put schemas into OpenAPI that no endpoint names: of problems, and of what is checked here."""
    describe = app.openapi

    @cache  # made at each request it would keep others waiting
    def described() -> dict[str, Any]:
        schema = describe()
        for model in (Problem, Order):
            found = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schema["components"]["schemas"] |= {**found.pop("$defs", {}), model.__name__: found}
        return schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's own way to change it
