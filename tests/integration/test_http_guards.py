"""What the server of decisions does with strangers, slow clients and strange bodies."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from pipelines.errors import ConfigurationError, UsageError
from pipelines.live_databases import LiveDatabases
from pipelines.serving import connections
from pipelines.serving.bodies import MOST_PROBLEMS, orders_in
from pipelines.serving.http_api import create_app
from pipelines.serving.orchestrator import ModelOrchestrator
from pipelines.serving.orders import Order
from pipelines.serving.problems import BodyError, FieldProblem, Problem
from pipelines.serving.server import configuration, listen
from pipelines.settings import BatchConfig, DataConfig

GUARD_SECONDS = 60.0
JSON = {"Content-Type": "application/json"}
ORDER = {"user_id": 1, "product_id": "P1"}


def made(folder: Path) -> DataConfig:
    """A data directory with live databases, and nothing in them."""
    data = DataConfig(data_dir=folder)
    with LiveDatabases.open(data) as databases:
        databases.create()
    return data


@contextmanager
def served(folder: Path, *names: str) -> Iterator[int]:
    """The port of a server in a directory where nothing was processed: it is alive, never ready."""
    data = made(folder)
    app = create_app(ModelOrchestrator.open(data, BatchConfig(data_dir=folder)), names)
    server = uvicorn.Server(configuration(app))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(GUARD_SECONDS)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(tmp_path_factory.mktemp("unready"), "shop.example") as port:
        yield port


def asked(
    port: int,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] = JSON,
    method: str | None = None,
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and document of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


def answer_to(port: int, sent: bytes) -> tuple[bytes, Any]:
    """The head and the document that come back over a raw connection, until it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as client:
        client.sendall(sent)
        received = b""
        while part := client.recv(65_536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head, json.loads(body)


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8000", "localhost.", "Shop.Example:1"]
)
def test_a_name_of_ours_is_answered(port: int, name: str) -> None:
    """Loopback names and configured ones, whatever the port."""
    assert asked(port, "/healthz", headers={"Host": name})[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        *(
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "",
            "a b",
        ),
        *("127.0.0.1@evil.example", "192.168.0.7", "[::2]", "shop.example.evil", "localhost:"),
    ],
)
def test_any_other_name_is_refused(port: int, name: str) -> None:
    """A page whose name was pointed here learns nothing, and decides nothing."""
    for path, body in (("/healthz", None), ("/decisions", json.dumps(ORDER).encode())):
        status, headers, problem = asked(port, path, body, {**JSON, "Host": name})
        assert (status, headers["content-type"]) == (421, "application/problem+json")
        assert "SYNCHROCHAIN_ALLOWED_HOSTS" in problem["detail"]


def test_two_names_or_none_are_no_request(port: int) -> None:
    """As HTTP has it, in the form of every error."""
    for head in (b"GET /healthz HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"):
        answer, problem = answer_to(port, head)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request")
        assert problem["status"] == 400
    two = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert answer_to(port, two)[1]["status"] == 400


def test_names_are_configured_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by commas; a port or an address of a page is a mistake."""
    monkeypatch.setenv("SYNCHROCHAIN_ALLOWED_HOSTS", "Shop.example, 10.0.0.1")
    assert DataConfig().names_allowed == {"shop.example", "10.0.0.1"}
    for wrong in ("http://shop.example", "shop.example:80", "two words", "*"):
        with pytest.raises(ConfigurationError, match="host names without ports"):
            DataConfig(allowed_hosts=wrong)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"POST /decisions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{",
        b"POST /decisions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_a_client_that_does_not_come_to_an_end_is_cut_off(
    port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """In its head as in its body; others are answered meanwhile."""
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as client:
        client.sendall(sent)
        assert asked(port, "/healthz")[0] == 200
    monkeypatch.setattr(connections, "READ_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as client:
        client.sendall(sent)
        received = b""
        while part := client.recv(65_536):
            received += part
    assert received.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 200 "))


def alive(client: socket.socket) -> bool:
    """Whether one more request of this connection is answered; the answer is read to its end."""
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}") and (part := client.recv(65_536)):
        answer += part
    return answer.startswith(b"HTTP/1.1 200")


def test_a_connection_too_many_is_asked_to_come_back(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are open go on."""
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as first:
        assert alive(first)
        monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
        head, problem = answer_to(port, b"")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 3" in head.lower()
        assert problem["detail"] == "1 connections are open: try again in a moment"
        assert alive(first)


def test_a_request_for_another_protocol_is_a_request(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes past no guard, and nothing is left that would answer a connection which is closed."""
    monkeypatch.setattr(connections, "READ_SECONDS", 0.05)
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for host, status in ((b"evil.example", 421), (b"localhost", 200)):
        head, document = answer_to(
            port, b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n" + upgrade
        )
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert document.get("status") in (status, "alive")
    assert not [record for record in caplog.records if record.name in ("asyncio", "uvicorn.error")]


def test_a_client_that_has_gone_is_not_answered() -> None:
    """Writing to a connection that is closed raises in uvloop."""
    config = configuration(FastAPI())

    async def refused_too_late() -> bool:
        client, accepted = socket.socketpair()
        config.load()
        connection = connections.Connection(config, ServerState(), {})
        with client:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(lambda: connection, accepted)
            reader = asyncio.StreamReader()
            transport.set_protocol(asyncio.StreamReaderProtocol(reader))  # hears of the end instead
            transport.abort()
            await reader.read()
            connection.send_400_response("this comes too late")
            return transport.is_closing()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        assert runner.run(refused_too_late())


def test_every_503_says_when_to_come_back(port: int) -> None:
    """Also the one that says what is being waited for."""
    order = json.dumps(ORDER).encode()
    for path, body in (("/readyz", None), ("/decisions", order), ("/features/user_intent/1", None)):
        status, headers, _ = asked(port, path, body)
        assert (status, headers["retry-after"]) == (503, "3")


@pytest.mark.parametrize("many", [False, True])
def test_only_the_first_problems_of_a_body_are_reported(port: int, many: bool) -> None:
    """However many there are, so that a body of junk holds nobody up."""
    if many:
        body = [{**ORDER, "quantity": -1, f"x{n}": n} for n in range(1000)]
    else:
        body = ORDER | {f"x{n}": n for n in range(60_000)}
    status, _, problem = asked(port, "/decisions", json.dumps(body).encode())
    assert (status, len(problem["errors"])) == (422, MOST_PROBLEMS)
    assert problem["errors"][0]["field"].endswith("x0")
    assert "there is no such field; there are: user_id, product_id" in problem["detail"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b'{"a":' * 190_000 + b"1", 422),
        (b"[" * 500_000 + b"]" * 500_000, 422),
        (b"[" * 5_000 + b"]" * 5_000, 400),
        (b'{"user_id": ' + b"9" * 900_000 + b', "product_id": "P1"}', 400),
        (b'{"user_id": ' + b"9" * 4_000 + b', "product_id": "P1"}', 422),
        (b'{"' + b"k" * 900_000 + b'": 1}', 422),
        (b"[" + b"[]," * 300_000 + b"[]]", 422),
        (b'{"user_id": 1, "product_id": "' + b"P" * 900_000 + b'"}', 422),
        (b'{"user_id": 1, "product_id": "P1", "quantity": true}', 422),
        (b'{"user_id": true, "product_id": "P1"}', 422),
        (b'{"user_id": 42.0, "product_id": "P1"}', 422),
        (b'{"user_id": 1e3, "product_id": "P1"}', 422),
        (b'{"user_id": "42", "product_id": "P1"}', 422),
        (b'{"user_id": 1, "product_id": "P1", "price": NaN}', 400),
        (json.dumps(ORDER).encode("utf-16"), 400),
        (zlib.compress(json.dumps(ORDER).encode(), wbits=31), 400),  # gzip
        *(
            (b'{"user_id": 1, "product_id": "P1", "%s": %s}' % (field, value), 422)
            for field in (b"quantity", b"price", b"weight_kg")
            for value in (b'"4_2"', b'" 5 "', b'"1_000.5"', b'"5"', b"true", b"[5]", b"1" * 400)
        ),
    ],
)
def test_strange_bodies_are_refused_in_few_words(port: int, raw: bytes, status: int) -> None:
    """Deep ones, huge numbers, endless names, and what is only nearly a whole number."""
    found, _, problem = asked(port, "/decisions", raw)
    assert found == status
    assert len(json.dumps(problem)) < 10_000


@pytest.mark.parametrize(
    "raw",
    [
        b'{"user_id": 1, "product_id": "P1", "user_id": 2}',
        b'[{"user_id": 1, "product_id": "P1"}, {"user_id": 1, "product_id": "P1", "user_id": 2}]',
        b'{"user_id": 1, "product_id": "P1", "\\u0075ser_id": 2}',
    ],
)
def test_a_name_that_is_given_twice_is_refused(port: int, raw: bytes) -> None:
    """A gateway before this one may have read the first; here the last would count."""
    status, _, problem = asked(port, "/decisions", raw)
    assert (status, problem["detail"]) == (422, "user_id: it is given twice")


def test_colons_in_texts_are_no_names(port: int) -> None:
    """Such an order is looked at twice, and answered."""
    order = ORDER | {"session_id": 'a: "b": "c":'}
    assert asked(port, "/decisions", json.dumps([order, order]).encode())[0] != 422


def test_a_whole_url_is_its_path(port: int) -> None:
    """As HTTP has it: a client may ask as it asks a proxy. Its name has to be ours as well."""
    for url, host, status in (
        (b"http://localhost/healthz?a=1", b"localhost", 200),
        (b"HTTP://LOCALHOST:80/healthz", b"localhost", 200),
        (b"http://localhost/nothing", b"localhost", 404),
        (b"http://localhost", b"localhost", 404),
        (b"http://evil.example/healthz", b"localhost", 421),
        (b"http://localhost/healthz", b"evil.example", 421),
        (b"http://localhost@evil.example/healthz", b"localhost", 421),
        (b"healthz", b"localhost", 404),
    ):
        sent = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (url, host)
        assert answer_to(port, sent)[0].startswith(b"HTTP/1.1 %d " % status)


def test_an_order_is_json_and_says_so(port: int) -> None:
    """A form on anybody's page can send plain text, but not JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, _, problem = asked(
            port, "/decisions", json.dumps(ORDER).encode(), {"Content-Type": kind}
        )
        assert (status, problem["detail"]) == (
            415,
            "the content type of an order is application/json",
        )
    assert orders_in(json.dumps(ORDER).encode(), "application/json; charset=utf-8") == Order(
        **ORDER
    )


@pytest.mark.parametrize(
    "key", ["4_2", "%2B42", "%2042", "42%20", "٤٢", "1e3", "42.0", "true", "042"]
)
def test_only_a_whole_number_is_one(port: int, key: str) -> None:
    """Another way to write it would be another name of the same key."""
    from urllib.parse import quote

    status, _, problem = asked(port, f"/features/user_intent/{quote(key, safe='%')}")
    assert status == 404
    assert problem["detail"].startswith("user_id is a whole number, not ")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Order.model_fields, "x", "\x1b["]), inner, max_size=6)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(body=JUNK, kind=st.sampled_from(["application/json", "text/plain", None]))
def test_whatever_a_body_holds_it_is_orders_or_one_problem(body: Any, kind: str | None) -> None:
    """Nothing else is ever raised."""
    found: list[Any] = []
    statuses: list[int] = []
    try:
        parsed = orders_in(json.dumps(body).encode(), kind)
        found += parsed if isinstance(parsed, list) else [parsed]
    except BodyError as error:
        statuses.append(error.status)
        found += error.problems
    assert set(statuses) <= {400, 415, 422}
    assert len(found) <= MOST_PROBLEMS or not statuses
    assert all(isinstance(one, FieldProblem if statuses else Order) for one in found)


def test_the_document_is_made_once(tmp_path: Path) -> None:
    """Clients that ask for it again and again hold nobody up."""
    data = made(tmp_path)
    orchestrator = ModelOrchestrator.open(data, BatchConfig(data_dir=tmp_path))
    try:
        app = create_app(orchestrator)
        first, again = (app.openapi()["components"]["schemas"]["Order"] for _ in range(2))
    finally:
        orchestrator.stop()
    assert again is first


def test_every_answer_is_in_the_document(port: int) -> None:
    """Its status is listed for the path, and an error has the form that is described."""
    paths = asked(port, "/openapi.json")[2]["paths"]
    order = json.dumps(ORDER).encode()
    evil = {**JSON, "Host": "evil.example"}
    requests: list[tuple[str, str, bytes | None, dict[str, str]]] = [
        ("/decisions", "/decisions", body, headers)
        for body in (order, b"{", b"[]", b"3", b" " * 1_000_001, b'{"user_id": 1}')
        for headers in (JSON, {"Content-Type": "text/plain"}, evil)
    ]
    for path, example in (
        ("/decisions/{decision_id}", "/decisions/none"),
        ("/decisions/{decision_id}", "/decisions/" + "x" * 65),
        ("/features/{view}/{key}", "/features/user_intent/1"),
        ("/features/{view}/{key}", "/features/user_intent/x"),
        ("/features/{view}/{key}", "/features/nothing/1"),
        *((path, path) for path in ("/models", "/healthz", "/readyz")),
    ):
        requests += [(path, example, None, headers) for headers in (JSON, evil)]
    seen = set()
    for path, example, body, headers in requests:
        status, answered, document = asked(port, example, body, headers)
        described = paths[path]["get" if body is None else "post"]["responses"]
        kind = answered["content-type"]
        assert kind in described[str(status)]["content"] or (path, status) == ("/readyz", 503)
        if kind == "application/problem+json":
            assert Problem.model_validate(document).status == status
        seen.add(status)
    assert seen >= {200, 400, 404, 413, 415, 421, 422, 503}
    for methods in paths.values():
        for operation in methods.values():
            assert {"400", "408", "421", "500", "503"} <= operation["responses"].keys()


def test_other_machines_are_let_in_only_when_asked_to() -> None:
    """One line says why and what to do."""
    with pytest.raises(UsageError, match=r"lets other machines in.*say --insecure"):
        listen("0.0.0.0", 0)
    with listen("0.0.0.0", 0, insecure=True) as listening:
        assert listening.getsockname()[0] == "0.0.0.0"
    with listen("localhost", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
