"""Errors over HTTP: one JSON document each, as RFC 9457 has it."""

from __future__ import annotations

import logging
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from pipelines.errors import SynchroChainError, UnknownNameError, UsageError
from pipelines.serving.orders import (
    OrderError,
    UnknownProductError,
    UnknownUserError,
)

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = {"Retry-After": "3"}
"""Of every 503: whatever it is that is away is looked for every few seconds."""


class FieldProblem(BaseModel):
    """What is wrong with one field; of several orders, `[2].quantity` is the third one's."""

    field: str = Field(examples=["quantity"])
    problem: str = Field(examples=["Input should be greater than or equal to 1"])


class BodyError(UsageError):
    """A body that is not what was asked for.

    Attributes:
        status: of the answer.
        problems: what is wrong with which field, the first ones.

    Args:
        status: of the answer, 4xx.
        detail: the message.
        problems: by field, if fields are to blame.
    """

    def __init__(
        self, status: int, detail: str, problems: list[FieldProblem] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.problems = problems or []


class Problem(BaseModel):
    """An error, after RFC 9457."""

    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no user 99999999"])
    errors: list[FieldProblem] = Field(default_factory=list)


TITLES: Final = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def problem(status: int, detail: str, errors: list[FieldProblem] | None = None) -> JSONResponse:
    """The response for an error.

    Args:
        status: the HTTP status.
        detail: one line.
        errors: of fields, if there are any.
    """
    title = TITLES.get(status, "Error")
    body = Problem(title=title, status=status, detail=detail, errors=errors or [])
    headers = RETRY_AFTER if status == 503 else None
    return JSONResponse(body.model_dump(), status, headers, media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the errors of an endpoint."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": TITLES[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def handle_problems(app: FastAPI) -> None:
    """Let every error of an application be answered by a problem, never by a traceback."""

    @app.exception_handler(OrderError)
    def _order(_: Request, error: OrderError) -> JSONResponse:
        status = 404 if isinstance(error, UnknownUserError | UnknownProductError) else 422
        field = f"[{error.position}].{error.field}" if error.one_of_many else error.field
        return problem(status, str(error), [FieldProblem(field=field, problem=str(error))])

    @app.exception_handler(BodyError)
    def _body(_: Request, error: BodyError) -> JSONResponse:
        return problem(error.status, str(error), error.problems)

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        errors = [FieldProblem(field=_field(e["loc"]), problem=e["msg"]) for e in found]
        first = errors[0]
        return problem(422, f"{first.field}: {first.problem}", errors)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        detail = str(error.detail)
        if error.status_code in (404, 405) and detail == TITLES[error.status_code]:
            detail = f"there is no {request.method} {request.url.path}; see /docs"
        answer = problem(error.status_code, detail)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(SynchroChainError)
    def _ours(_: Request, error: SynchroChainError) -> JSONResponse:
        if isinstance(error, UnknownNameError):
            return problem(404, str(error))
        return problem(422 if isinstance(error, UsageError) else 503, str(error))

    @app.exception_handler(Exception)
    def _defect(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, "this is a defect of the server; its log has the details")


def _field(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if part in ("query", "path") and not text:
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "body"
