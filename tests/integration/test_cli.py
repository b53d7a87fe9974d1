"""The command line as its users meet it: help, answers, errors and exit statuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import duckdb
import pytest
import typer
from pinned_clock import stopped_clock

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.cli.app import app, main
from pipelines.data_layer import DataLayerOrchestrator
from pipelines.errors import UnknownNameError, UsageError
from pipelines.lake.process_lock import only_one
from pipelines.lake.workspace import read_files
from pipelines.redis_server import find_server, stop_server
from pipelines.settings import DATABASE_NAMES, PROJECT_ROOT, DataConfig

# Signs that mean something to SQLite's URLs, to DuckDB, Redis, MLflow, SQL or a shell.
DIRECTORY = "a [b]*c?d#e%f 'g\" ü=1"
HEAVY = ("feast", "mlflow", "pandas", "duckdb", "ibis", "pyarrow", "numpy", "sqlalchemy", "redis")


@dataclass(frozen=True)
class Answer:
    """What one command line came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.strip().splitlines()
        assert "Traceback" not in self.err
        return line


Run = Callable[..., Answer]


def synchrochain(*arguments: str) -> Answer:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["synchrochain", *arguments]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        sys.argv = before
    return Answer(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A data directory of its own, its Redis stopped and the environment put back at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        for name in ("MLFLOW_TRACKING_URI", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
            patch.setenv(name, "")  # so that what Feast's plug-in sets is undone
            patch.delenv(name)
        for name in [n for n in os.environ if n.startswith("SYNCHROCHAIN_")]:
            patch.delenv(name)
        patch.setenv("SYNCHROCHAIN_DATA_DIR", str(folder / DIRECTORY))
        try:
            yield folder / DIRECTORY
        finally:
            stop_server(DataConfig(data_dir=folder / DIRECTORY))
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty() -> Iterator[Path]:
    """A data directory in which nothing has happened yet."""
    with private_directory() as folder:
        yield folder


@dataclass(frozen=True)
class Processed:
    """A small world, simulated and processed by two commands, and what they answered."""

    data_dir: Path
    simulated: Answer
    cycle: Answer
    user: int


@pytest.fixture(scope="module")
def processed() -> Iterator[Processed]:
    with private_directory() as folder:
        sizes = ("--users", "50", "--products", "20", "--warehouses", "2", "--days", "3")
        with stopped_clock():
            simulated = synchrochain("simulate", *sizes, "--json")
        cycle = synchrochain("batch", "--once", "--json")
        files = BatchProcessor(BatchConfig(), DataConfig()).state.files("view", "user_intent")
        newest = duckdb.sql(
            f"SELECT user_id FROM {read_files(files)} ORDER BY event_timestamp DESC, 1 LIMIT 1"
        ).fetchone()
        assert newest is not None
        yield Processed(folder, simulated, cycle, newest[0])


def commands() -> dict[str, click.Command]:
    """Every command by how it is called."""
    found: dict[str, click.Command] = {}

    def collect(group: Any, before: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                collect(command, f"{before}{name} ")
            else:
                found[f"{before}{name}"] = command

    collect(typer.main.get_command(app), "")
    return found


COMMANDS = commands()


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    """A sentence, an example that can be copied, and a word on every option."""
    command = COMMANDS[name]
    assert command.help
    assert f"Example: `synchrochain {name}" in command.help
    silent = [p.name for p in command.params if not getattr(p, "help", "") and p.name != "help"]
    assert silent == []
    shown = synchrochain(*name.split(), "--help")
    assert (shown.status, shown.err) == (0, "")
    assert f"synchrochain {name}" in shown.out


def test_help_comes_at_once() -> None:
    """Nothing heavy is imported before a command needs it."""
    program = (
        "import sys; sys.argv = ['synchrochain', '--help']\n"
        "from pipelines.cli.app import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stderr.strip() == "[]"
    assert all(name.split()[0] in found.stdout for name in COMMANDS)


# Answers


def test_the_status_of_an_empty_directory(empty: Path) -> None:
    """Nothing there yet is a state, not an error; looking starts nothing."""
    answer = synchrochain("status", "--json")
    assert answer.status == 0
    found = answer.document
    assert found["data_dir"] == str(empty)
    assert {d["error"] for d in found["databases"].values()} == {"does not exist yet"}
    assert {view["rows"] for view in found["offline_views"].values()} == {0}
    assert found["online_store"]["engine"] is None
    assert (found["last_cycles"], found["pending_materializations"]) == ([], [])
    assert not (empty / "live_databases").exists()


def test_the_status_is_readable_too(empty: Path) -> None:
    """The same in words, fit for a terminal."""
    answer = synchrochain("status")
    assert answer.status == 0
    assert str(empty) in answer.out.replace("\n", "")
    assert "does not exist yet" in answer.out
    assert "not running; it starts by itself when it is needed" in answer.out


def test_simulating_answers_with_one_document(processed: Processed) -> None:
    """How many rows of which table, and from when to when."""
    answer = processed.simulated
    assert answer.status == 0
    found = answer.document
    assert found["total_rows"] == sum(found["rows"].values()) > 0
    assert found["rows"]["users"] == 50
    assert found["from"] < found["until"]


def test_a_cycle_answers_with_one_document(processed: Processed) -> None:
    """What was read, refused, computed and materialized."""
    answer = processed.cycle
    assert answer.status == 0
    found = answer.document
    assert found["changes"] == sum(found["accepted"].values())
    assert found["quarantined"] == {}
    assert found["applied"]
    assert set(found["materialized"]) == set(found["feature_rows"])
    assert {"user_intent", "session_events", "inventory_levels"} <= set(found["feature_rows"])
    assert set(found["offsets"]) == set(DATABASE_NAMES)


def test_a_world_in_which_nobody_came_runs_too(empty: Path) -> None:
    """What is read back is of a view that has rows; what cannot be trained is said."""
    sizes = ("--users", "1", "--products", "1", "--warehouses", "1", "--days", "1")
    with stopped_clock(datetime(2026, 6, 17, 4)):
        answer = synchrochain("run", *sizes, "--json")
    assert answer.status == 0
    found = answer.document
    assert set(found["cycle"]["feature_rows"]) == {"inventory_levels", "route_conditions"}
    assert found["online"]["view"] == "inventory_levels"
    assert found["online"]["features"]["warehouse_region"]
    assert found["training_set"]["filled"] == 1
    assert "clickstream log is empty" in found["trained"]["skipped"]
    assert found["decisions"] == []


def test_features_answer_with_one_document(processed: Processed) -> None:
    """Online as of now; offline as of the time of the same event, it is the same."""
    online = synchrochain("features", "user_intent", f"user_id={processed.user}", "--json")
    assert (online.status, online.err) == (0, "")
    found = online.document
    assert found["found"]
    assert found["keys"] == {"user_id": processed.user}
    at = found["event_timestamp"]
    offline = synchrochain(
        "features", "user_intent", f"user_id={processed.user}", "--at", at, "--json"
    )
    assert offline.status == 0
    assert offline.document["features"] == found["features"]


def test_features_are_readable_too(processed: Processed) -> None:
    """A table with every feature."""
    answer = synchrochain("features", "user_intent", f"user_id={processed.user}")
    assert answer.status == 0
    assert all(name in answer.out for name in ("intent_score", "conversion_rate_7d"))


def test_the_status_after_a_cycle(processed: Processed) -> None:
    """No lag, rows in the views, a server with keys, and the cycle."""
    found = synchrochain("status", "--json").document
    assert {d["lag"] for d in found["databases"].values()} == {0}
    computed = processed.cycle.document["feature_rows"]
    assert {n: v["rows"] for n, v in found["offline_views"].items() if v["rows"]} == computed
    assert found["online_store"]["keys"] > 0
    assert [cycle["status"] for cycle in found["last_cycles"]] == ["succeeded"]
    assert synchrochain("status").status == 0


def test_a_damaged_database_does_not_hide_the_rest(empty: Path) -> None:
    """Each part of the status stands alone; the exit status is 1 all the same."""
    (empty / "live_databases").mkdir(parents=True)
    (empty / "live_databases" / "orders.db").write_bytes(b"\xff" * 4096)
    answer = synchrochain("status", "--json")
    assert (answer.status, "orders.db is corrupt" in answer.complaint) == (1, True)
    databases = answer.document["databases"]
    assert "corrupt or not a database" in databases["orders"]["error"]
    assert databases["users"]["error"] == "does not exist yet"
    assert "corrupt" in synchrochain("status").out


def test_a_data_directory_may_be_named_on_the_command_line(empty: Path) -> None:
    """It outranks the environment."""
    elsewhere = empty.parent / "elsewhere"
    answer = synchrochain("status", "--data-dir", str(elsewhere), "--json")
    assert answer.document["data_dir"] == str(elsewhere)
    assert not empty.exists()


def test_stopping_twice_is_no_error(processed: Processed) -> None:
    """The second time there is nothing to stop; features are served again when asked for."""
    first, second = synchrochain("down"), synchrochain("down")
    assert (first.status, second.status) == (0, 0)
    assert first.out == "the private Redis server was stopped\n"
    assert second.out == "no server was running\n"
    assert find_server(DataConfig()) is None
    again = synchrochain("features", "user_intent", f"user_id={processed.user}", "--json")
    assert again.document["found"]


# Errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nosuch", "user_id=1"], "there is no feature view 'nosuch'; there are: user_intent"),
        (["user_intent", "session_id=1"], "user_intent is asked for by user_id=…; got: session_id"),
        (["user_intent", "user_id=1", "x=2"], "user_intent is asked for by user_id=…; got: user_i"),
        (["inventory_levels", "product_id=1"], "asked for by warehouse_id=… product_id=…"),
        (["user_intent", "user_id=me"], "user_id = 'me' is not a whole number"),
        (["user_intent", "user_id=4_2"], "user_id = '4_2' is not a whole number"),
        (["user_intent", "user_id= 42"], "user_id = ' 42' is not a whole number"),
        (["user_intent", "user_id=٤٢"], "user_id = '٤٢' is not a whole number"),
        (["user_intent", f"user_id={2**63}"], f"user_id = '{2**63}' is not a whole number"),
        (["user_intent", "42"], "'42' is not KEY=VALUE, such as user_id=42"),
        (["user_intent", "user_id=1", "user_id=2"], "user_id is given twice: '1' and '2'"),
        (["user_intent", "user_id="], "'user_id=' is not KEY=VALUE"),
        (["user_intent", "user_id=1", "--at", "noon"], "--at 'noon' is not a time such as"),
        (["user_intent", "user_id=1", "--at", "0001-01-01"], "0001-01-01 00:00:00 is out of range"),
        (["user_intent", "user_id=1", "--at", "0001-01-01T00:00+09:00"], "is not a time such as"),
        (["user_intent", "user_id=1", "--at", "9999-12-31"], "lies in the future: leave the time"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    processed: Processed, arguments: list[str], complaint: str
) -> None:
    """With exit status 2, nothing on standard output, and no traceback."""
    answer = synchrochain("features", *arguments)
    assert (answer.status, answer.out) == (2, "")
    assert answer.complaint.startswith("error: ")
    assert complaint in answer.complaint


@pytest.mark.parametrize("at", [[], ["--at", "2026-01-31T12:00"]])
def test_an_unknown_key_is_exit_status_1(processed: Processed, at: list[str]) -> None:
    """The question was right; there is no answer. A document says so too."""
    plain = synchrochain("features", "user_intent", "user_id=404404", *at)
    assert (plain.status, plain.out) == (1, "")
    assert "nothing is known of user_id=404404 in user_intent" in plain.complaint
    answer = synchrochain("features", "user_intent", "user_id=404404", *at, "--json")
    assert answer.status == 1
    assert not answer.document["found"]


@pytest.mark.parametrize(
    ("features", "complaint"),
    [
        ("nosuch", "ervice nosuch does not exist in project synchrochain; there are: intent_tran"),
        (["nosuch:x"], "iew nosuch does not exist in project synchrochain; there are: inventory_l"),
        (["user_intent:x"], "Feature x not found in projection user_intent"),
    ],
    ids=["service", "view", "feature"],
)
def test_a_training_set_of_unknown_names_says_which_there_are(
    processed: Processed, features: str | list[str], complaint: str
) -> None:
    """Applying the repository once more would not help."""
    entities = {"user_id": [processed.user], "event_timestamp": ["2026-01-31T12:00:00Z"]}
    with pytest.raises(UnknownNameError, match=complaint):
        DataLayerOrchestrator().training_set(entities, features)


@pytest.mark.parametrize(
    ("entities", "complaint"),
    [
        ({"user_id": [1], "event_timestamp": [1769860800]}, "has to be a time stamp such as"),
        ({"user_id": [1], "event_timestamp": ["today"]}, "has to be a time stamp such as"),
        ({"user_id": [[1]], "event_timestamp": ["2026-01-31"]}, "the join key 'user_id' is"),
        ({"user_id": [1], "event_timestamp": ["2026-01-31"], "": [1]}, "an empty name"),
        (
            "SELECT CAST(t AS INT) AS user_id, TIMESTAMP '2026-01-31' AS event_timestamp "
            "FROM (VALUES ('x')) v(t)",
            "the entities cannot be joined with the features: Conversion Error: ",
        ),
    ],
    ids=["number", "word", "list", "no name", "query"],
)
def test_a_fault_of_the_entities_is_not_one_of_the_sources(
    processed: Processed, entities: Any, complaint: str
) -> None:
    """Nobody is sent to restore or rebuild them."""
    with pytest.raises(UsageError, match=complaint) as error:
        DataLayerOrchestrator().training_set(entities, ["user_intent:intent_score"])
    assert "--rebuild" not in str(error.value)
    assert "\n" not in str(error.value)


def test_features_before_the_first_cycle_are_one_line(empty: Path) -> None:
    """The repository was never applied here: the line says how."""
    answer = synchrochain("features", "user_intent", "user_id=1")
    assert (answer.status, answer.out) == (1, "")
    assert "`synchrochain batch --once` first" in answer.complaint


def test_a_cycle_without_databases_is_one_line(empty: Path) -> None:
    """With what to do: exit status 1, for the question was right."""
    answer = synchrochain("batch", "--once", "--json")
    assert (answer.status, answer.out) == (1, "")
    assert "does not exist: fill it with `synchrochain simulate`" in answer.complaint


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["batch", "--once"],
        ["simulate", "--days", "1"],
        ["run"],
        ["stream"],
        ["up"],
        ["audit"],
        ["down"],
        ["features", "user_intent", "user_id=1"],
    ],
    ids=" ".join,
)
def test_a_misspelt_setting_stops_every_command(
    empty: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """Before it does anything with a default that nobody wanted."""
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_HOTS", "redis.example")
    answer = synchrochain(*arguments)
    assert answer.status == 2
    assert "did you mean SYNCHROCHAIN_REDIS_HOST?" in answer.complaint
    assert not empty.exists()


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("", "--data-dir '' is not allowed: it must be a path"),
        ("~nobody-here/x", "it must be a path whose ~ names the home directory of somebody here"),
        ("a\nb", "it must be a path without control characters"),
    ],
    ids=["empty", "home of nobody", "newline"],
)
@pytest.mark.parametrize("command", ["status", "simulate", "down"])
def test_a_data_directory_that_cannot_be_is_one_line(
    empty: Path, monkeypatch: pytest.MonkeyPatch, command: str, path: str, complaint: str
) -> None:
    """In the working directory nothing is written instead."""
    empty.mkdir()
    monkeypatch.chdir(empty)
    answer = synchrochain(command, "--data-dir", path)
    assert (answer.status, answer.out) == (2, "")
    assert complaint in answer.complaint
    assert not [*empty.iterdir()]


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: /dev/null")
@pytest.mark.parametrize("path", ["/dev/null", "/dev/null/x", "x" * 300, "/proc/1/x"])
@pytest.mark.parametrize("command", ["status", "simulate"])
def test_a_data_directory_that_cannot_be_made_is_one_line(
    empty: Path, monkeypatch: pytest.MonkeyPatch, command: str, path: str
) -> None:
    """It is a file, lies in one, has too long a name, or lies where nobody may make anything."""
    empty.mkdir()
    monkeypatch.chdir(empty)
    answer = synchrochain(command, "--data-dir", path)
    assert (answer.status, answer.out) == (1, "")
    assert path.removesuffix("/x") in answer.complaint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Linux: /dev/full")
@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("> /dev/full", "error: standard output takes no more (No space left on device)"),
        (">&-", "error: standard output is closed: let it go somewhere, such as > /dev/null"),
    ],
    ids=["full", "closed"],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_answer_that_nobody_gets_is_no_success(
    empty: Path, output: str, complaint: str, unbuffered: str
) -> None:
    """One line on standard error, exit status 1, whether the answer waits in a buffer or not."""
    # libfaketime, if it is there, opens a file of its own in the place of the closed one.
    command = f'unset LD_PRELOAD; "$0" -m pipelines.cli down {output}'
    ended = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=PROJECT_ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(complaint)


def test_a_second_simulator_is_refused(empty: Path) -> None:
    """Two worlds must not write the same databases; the line names the process of the first."""
    with only_one(empty / "simulation.lock", ValueError):
        answer = synchrochain("simulate", "--days", "1")
    assert (answer.status, answer.out) == (2, "")
    assert f"process {os.getpid()} simulates into {empty}" in answer.complaint


def test_a_wrong_setting_is_one_line(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for its value."""
    monkeypatch.setenv("SYNCHROCHAIN_BATCH_RETENTION_DAYS", "soon")
    answer = synchrochain("status")
    assert answer.status == 2
    assert "BatchConfig.retention_days = 'soon' is not allowed" in answer.complaint


def test_a_state_file_that_is_none_is_one_line(empty: Path) -> None:
    """It is not overwritten."""
    empty.mkdir()
    (empty / "pipeline_state.db").write_bytes(b"\xff" * 4096)
    answer = synchrochain("status")
    assert (answer.status, answer.out) == (1, "")
    assert "pipeline_state.db" in answer.complaint
    assert (empty / "pipeline_state.db").read_bytes() == b"\xff" * 4096


@pytest.mark.parametrize("arguments", [["nosuch"], ["status", "--nosuch"], ["features"]])
def test_a_command_that_does_not_exist_is_exit_status_2(arguments: list[str]) -> None:
    """With the usage, and no traceback."""
    answer = synchrochain(*arguments)
    assert answer.status == 2
    assert "Traceback" not in answer.err
