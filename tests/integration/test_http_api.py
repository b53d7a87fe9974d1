"""The HTTP interface as its callers meet it: a server on a loopback port, asked by urllib."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from serving_shop import Models, open_shop, put_everything

from pipelines.errors import UsageError
from pipelines.feast_plugins.repository import open_store
from pipelines.live_databases import LiveDatabases
from pipelines.serving import http_api
from pipelines.serving.decision_log import DecisionLog
from pipelines.serving.http_api import create_app
from pipelines.serving.online import OnlineFeatures
from pipelines.serving.orchestrator import ModelOrchestrator
from pipelines.serving.server import configuration, listen
from pipelines.settings import PROJECT_ROOT, BatchConfig, DataConfig

GUARD_SECONDS = 60.0
ORDER = {"user_id": 1, "product_id": "P1", "session_id": "s1"}


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    type: str
    body: Any


@dataclass(frozen=True)
class Server:
    """A server and how it is asked."""

    port: int
    orchestrator: ModelOrchestrator

    def ask(self, path: str, body: Any = None, raw: bytes | None = None) -> Answer:
        """GET, or POST if there is a body."""
        data = raw if raw is not None or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=GUARD_SECONDS) as answer:
                return Answer(answer.status, answer.headers["Content-Type"], json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers["Content-Type"], json.load(error))

    def until_ready(self) -> None:
        """Ask now and then: without a pause it would have no time to get ready."""
        while self.ask("/readyz").status != 200:
            time.sleep(0.1)

    def problem(self, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, Any]:
        """The status and the document of an error."""
        answer = self.ask(path, body, raw)
        assert answer.type == "application/problem+json"
        assert answer.body["status"] == answer.status
        assert "Traceback" not in json.dumps(answer.body)
        return answer.status, answer.body


@contextmanager
def served(orchestrator: ModelOrchestrator) -> Iterator[Server]:
    """Serves in a thread."""
    server = uvicorn.Server(configuration(create_app(orchestrator)))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Server(listening.getsockname()[1], orchestrator)
        finally:
            server.should_exit = True
            thread.join(GUARD_SECONDS)


@pytest.fixture(scope="module")
def store(folder: Path) -> Any:
    opened = open_store(BatchConfig(data_dir=folder))
    put_everything(opened)
    return opened


@pytest.fixture(scope="module")
def server(folder: Path, store: Any) -> Iterator[Server]:
    """Ready to decide, with three small models."""
    with open_shop(folder):
        orchestrator = orchestrator_of(folder, lambda: store)
        with served(orchestrator) as running:
            running.until_ready()
            yield running


def orchestrator_of(folder: Path, open_it: Any) -> ModelOrchestrator:
    return ModelOrchestrator(
        LiveDatabases.open(DataConfig(data_dir=folder)),
        OnlineFeatures(open_it),
        Models.all(),
        DecisionLog(folder / "decisions.db", 1000, 0.05),
    )


def test_an_order_is_decided(server: Server) -> None:
    """With everything that led to it."""
    answer = server.ask("/decisions", ORDER)
    assert (answer.status, answer.type) == (200, "application/json")
    decision = answer.body
    assert (decision["status"], decision["fallbacks"], decision["logged"]) == ("decided", [], True)
    assert decision["choice"] == decision["alternatives"][0]
    assert decision["models"]["decision"]["version"] == 7
    assert decision["features"]["user_intent"]["values"]["urgency_score"] == 0.5


def test_several_orders_are_decided_in_their_order(server: Server) -> None:
    """More than are decided in one go."""
    orders = [{**ORDER, "quantity": n + 1, "order_id": f"o{n}"} for n in range(120)]
    answer = server.ask("/decisions", orders)
    assert answer.status == 200
    assert [d["order"]["order_id"] for d in answer.body] == [f"o{n}" for n in range(120)]


def test_each_of_several_orders_is_completed_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To see whether all can be decided is to look up what deciding needs."""
    reference, asked = server.orchestrator.reference, []
    product = reference.product
    monkeypatch.setattr(reference, "product", lambda name: (asked.append(name), product(name))[1])
    answer = server.ask("/decisions", [ORDER] * 120)
    assert (answer.status, len(answer.body), len(asked)) == (200, 120, 120)


def test_a_decision_is_found_again_in_the_log(server: Server) -> None:
    """As it was answered."""
    decision = server.ask("/decisions", ORDER).body
    assert server.ask(f"/decisions/{decision['id']}").body == decision


def test_no_stock_anywhere_is_a_flagged_decision(server: Server) -> None:
    """Not an error."""
    answer = server.ask("/decisions", {**ORDER, "quantity": 100_000})
    assert (answer.status, answer.body["status"]) == (200, "backorder")
    assert [note["what"] for note in answer.body["fallbacks"]] == ["stock"]


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"quantity": -1}, 422, "quantity"),
        ({"quantity": 0}, 422, "quantity"),
        ({"quantity": "2"}, 422, "quantity"),
        ({"price": -1.0}, 422, "price"),
        ({"weight_kg": 0}, 422, "weight_kg"),
        ({"shipping_method": "drone"}, 422, "shipping_method"),
        ({"colour": "red"}, 422, "colour"),
        ({"user_id": None}, 422, "user_id"),
        ({"user_id": 99}, 404, "user_id"),
        ({"product_id": "P99"}, 404, "product_id"),
        ({"region": "nowhere"}, 422, "region"),
        ({"user_id": 3}, 422, "region"),
        ({"user_id": 4}, 422, "region"),
        ({"product_id": "P3"}, 422, "product_id"),
    ],
)
def test_an_order_that_is_wrong_is_reported_by_field(
    server: Server, changed: dict[str, Any], status: int, field: str
) -> None:
    """By itself, and by its place among several."""
    wrong = {**ORDER, **changed}
    found, body = server.problem("/decisions", wrong)
    assert (found, body["errors"][0]["field"]) == (status, field)
    found, body = server.problem("/decisions", [ORDER, wrong])
    assert (found, body["errors"][0]["field"]) == (status, f"[1].{field}")


def test_a_wrong_order_far_down_keeps_all_from_being_decided(server: Server) -> None:
    """All or none, and its place is named."""
    before = server.orchestrator.log.newest(1)
    orders = [ORDER] * 100 + [{**ORDER, "user_id": 99}]
    status, body = server.problem("/decisions", orders)
    assert (status, body["errors"][0]["field"]) == (404, "[100].user_id")
    assert server.orchestrator.log.newest(1) == before


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"3", b"null", b'"order"', b'{"user_id": 1e400}', b"\xff\xfe"),
        b"[" * 100_000,
        b'{"user_id": 1, "product_id": "P1", "price": NaN}',
        json.dumps([ORDER] * 1001).encode(),
    ],
)
def test_what_is_no_order_is_refused(server: Server, raw: bytes) -> None:
    """With a problem, whatever it is."""
    status, _ = server.problem("/decisions", raw=raw)
    assert status in (400, 422)


def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    """Before anybody reads its JSON."""
    status, body = server.problem("/decisions", raw=b" " * (http_api.MOST_BYTES + 1))
    assert (status, body["detail"]) == (413, "the body has more than 1,000,000 bytes")


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/decisions/nothing", "the log has no decision 'nothing'"),
        ("/features/no_view/1", "there is no feature view 'no_view'"),
        ("/features/user_intent/99", "nothing is known of 99 in user_intent"),
        ("/features/user_intent/x", "user_id is a whole number, not 'x'"),
        ("/features/user_intent/99999999999999999999", "there is no user_id 9999"),
        ("/features/user_intent/1,2", "a key of user_intent is user_id, not '1,2'"),
        ("/features/inventory_levels/W1", "a key of inventory_levels is warehouse_id,product_id"),
        ("/elsewhere", "there is no GET /elsewhere"),
    ],
)
def test_what_is_not_there_is_a_404_that_says_so(server: Server, path: str, detail: str) -> None:
    """One sentence each."""
    status, body = server.problem(path)
    assert status == 404
    assert body["detail"].startswith(detail)


def test_features_are_shown_with_their_age(server: Server) -> None:
    """Of a key with one part and of one with two."""
    user = server.ask("/features/user_intent/1").body
    assert (user["keys"], user["state"], user["read_mode"]) == ({"user_id": 1}, "present", "redis")
    assert user["features"]["urgency_score"] == 0.5
    assert user["age_seconds"] >= 60
    shelf = server.ask("/features/inventory_levels/W1,P1").body
    assert shelf["keys"] == {"warehouse_id": "W1", "product_id": "P1"}
    assert shelf["features"]["stock_level"] == 40


def test_models_say_what_is_in_service(server: Server) -> None:
    """Version, kind and alias."""
    models = {model["name"]: model for model in server.ask("/models").body}
    assert set(models) == {"intent_transformer", "supply_gnn", "ppo_agent"}
    assert models["supply_gnn"]["version"] == 7
    assert models["supply_gnn"]["problem"] is None


def test_health_and_readiness(server: Server) -> None:
    """Alive and ready."""
    assert server.ask("/healthz").body == {"status": "alive"}
    assert server.ask("/readyz").body == {"ready": True, "reasons": [], "warnings": []}


def test_the_interface_describes_itself_with_examples(server: Server) -> None:
    """Every endpoint says what it answers, and shows it."""
    document = server.ask("/openapi.json").body
    assert set(document["paths"]) == {
        *("/decisions", "/decisions/{decision_id}", "/features/{view}/{key}"),
        *("/models", "/healthz", "/readyz"),
    }
    assert {"Order", "Decision", "Option", "Problem"} <= set(document["components"]["schemas"])
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            good = described["responses"]["200"]["content"]["application/json"]
            assert described["summary"], path
            assert "example" in good, path
            for status, response in described["responses"].items():
                if status not in ("200", "503") or path != "/readyz":
                    continue
                assert response["content"], path
            if method == "post":
                examples = described["requestBody"]["content"]["application/json"]["examples"]
                assert set(examples) == {"one", "several"}


def test_the_examples_of_orders_are_orders(server: Server) -> None:
    """What the documentation shows is taken as it stands, up to who and what there is here."""
    document = server.ask("/openapi.json").body
    body = document["paths"]["/decisions"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        status, problem = server.problem("/decisions", example["value"])
        assert (status, problem["errors"][0]["field"][-7:]) == (404, "user_id")


def test_a_defect_is_a_problem_without_a_traceback(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on."""

    def broken(_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(server.orchestrator, "decide", broken)
    status, body = server.problem("/decisions", ORDER)
    assert (status, body["detail"]) == (
        500,
        "this is a defect of the server; its log has the details",
    )
    monkeypatch.undo()
    assert server.ask("/decisions", ORDER).status == 200


def test_too_many_requests_at_once_are_asked_to_come_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than waiting for longer than anybody does."""
    monkeypatch.setattr(http_api, "MOST_WAITING", 0)
    status, body = server.problem("/decisions", ORDER)
    assert (status, body["detail"]) == (503, "0 requests wait already: try again in a moment")


def test_until_it_is_ready_it_says_what_it_waits_for(folder: Path, server: Server) -> None:
    """Alive all the while; it becomes ready by itself."""
    may_open = threading.Event()

    def open_late() -> Any:
        may_open.wait(GUARD_SECONDS)
        return server.orchestrator.features._store

    with served(orchestrator_of(folder, open_late)) as waiting:
        assert waiting.ask("/healthz").status == 200
        readiness = waiting.ask("/readyz")
        assert (readiness.status, readiness.body["reasons"]) == (503, ["it is starting"])
        for path, body in (("/decisions", ORDER), ("/features/user_intent/1", None)):
            status, problem = waiting.problem(path, body)
            assert status == 503
            assert "it is starting" in problem["detail"]
        may_open.set()
        waiting.until_ready()
        assert waiting.ask("/decisions", ORDER).status == 200


def test_a_port_that_is_taken_is_one_line() -> None:
    """And so is an address that is none of ours."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on 127\.0\.0\.1 port {port} \("):
            listen("127.0.0.1", port)
    with pytest.raises(UsageError, match="cannot listen on nowhere"):
        listen("nowhere.invalid", 8000)


def test_the_server_ends_cleanly_on_interrupt(folder: Path, server: Server) -> None:
    """Exit status 0, no traceback; it tells its address first."""
    program = (
        "from pipelines.settings import BatchConfig, DataConfig;"
        "from pipelines.serving.server import serve_until_interrupted;"
        "serve_until_interrupted(DataConfig(), BatchConfig(), '127.0.0.1', 0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        env=os.environ | {"SYNCHROCHAIN_DATA_DIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().partition("127.0.0.1:")[2].partition("/")[0])
        other = Server(port, server.orchestrator)
        other.until_ready()
        assert {model["version"] for model in other.ask("/models").body} == {None}
        assert other.ask("/decisions", ORDER).body["models"]["decision"]["kind"] == "rule"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=GUARD_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in said
