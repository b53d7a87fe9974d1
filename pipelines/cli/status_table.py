"""`synchrochain status` for people."""

from __future__ import annotations

from typing import Any

from pipelines.cli.console import age, answers, print_table
from pipelines.printable import counted, shown


def print_status(status: dict[str, Any]) -> None:
    """Print what `collect_status` found, a table per part."""
    answers.print(f"data directory: {status['data_dir']}")
    _databases(status["databases"])
    _streamer(status["streamer"])
    _views(status["offline_views"])
    if "error" in status["registry"]:
        answers.print(f"feature registry: {status['registry']['error']}")
    if status["declared_otherwise"]:
        views = ", ".join(status["declared_otherwise"])
        answers.print(
            f"declared otherwise than published: {views}; see `synchrochain features plan`"
        )
    if status["pending_materializations"]:
        pending = ", ".join(status["pending_materializations"])
        answers.print(f"pending materializations: {pending}")
    if status["quarantined"]:
        refused = ", ".join(f"{n:,} of {table}" for table, n in status["quarantined"].items())
        answers.print(f"rows in quarantine: {refused}")
    answers.print(f"online store: {_online_store(status['online_store'])}")
    _cycles(status["last_cycles"])


def _databases(found: dict[str, Any]) -> None:
    figures = ("changes", "offset", "lag", "stream_offset", "stream_lag")
    rows = [
        [name, *(d.get(figure) for figure in figures), _database_state(d)]
        for name, d in found.items()
    ]
    headings = ["database", "changes", "processed", "lag", "streamed", "lag", "state"]
    print_table("live databases", headings, rows)
    for name, database in found.items():
        for warning in database.get("unknown_rows", {}).values():
            answers.print(f"{name}: {warning}")


def _database_state(found: dict[str, Any]) -> str:
    if "error" in found:
        return str(found["error"])
    return "rows unknown" if found["unknown_rows"] else "ok"


def _streamer(found: dict[str, Any]) -> None:
    if "error" in found:
        answers.print(f"streamer: {found['error']}")
        return
    answers.print(f"streamer: {_streamer_state(found)}")
    if "streams" not in found:
        return
    figures = ("changes", "rejected", "deferred", "late", "errors")
    rows = [
        [
            name,
            *(stream.get(figure) for figure in figures),
            found["deferred"].get(name),
            stream.get("last_error") or "ok",
        ]
        for name, stream in found["streams"].items()
    ]
    headings = ["stream", "changes", "rejected", "deferred", "late", "errors", "undecided", "state"]
    print_table("streams", headings, rows)
    written = ", ".join(f"{n:,} of {view}" for view, n in found["rows_written"].items())
    answers.print(f"feature rows written: {written}")
    if found.get("pending_writes"):
        answers.print(f"pending writes to the online store: {', '.join(found['pending_writes'])}")
    for view, number in found.get("set_apart", {}).items():
        answers.print(f"deferred to the batch flow: {counted(number, 'key')} of {view}")
    for view, error in found.get("view_errors", {}).items():
        answers.print(f"rows of {view} are not written: {error}")
    looked = found.get("online_check", {})
    mended = f", rows mended: {looked['mended']:,}" if looked.get("mended") else ""
    answers.print(f"the stream's online store: {_mode(found['online_store'])}{mended}")
    cache = found["cache"]
    hits = "" if cache["hit_rate"] is None else f", hit rate {100 * cache['hit_rate']:.1f} %"
    answers.print(f"cache: {_mode(cache)}, {_counted(cache['size'], 'value')}{hits}")
    steps = found["clock_steps_back"]
    stepped = f"; the clock stepped back {_counted(steps, 'time')}" if steps else ""
    answers.print(f"rows in memory: {shown(found['hot_rows'])}{stepped}")


def _counted(count: int | None, noun: str) -> str:
    return f"{shown(count)} {noun}s" if count is None else counted(count, noun)


def _streamer_state(found: dict[str, Any]) -> str:
    match found["state"]:
        case "running":
            return f"running in process {found['pid']} since {found['started_at'][:19]}"
        case "starting":
            return f"starting in process {found['pid']}"
        case "stopped":
            return f"not running; this is how it stood at {found['saved_at'][:19]}"
        case _:
            return "never ran; `synchrochain stream` starts it"


def _mode(found: dict[str, Any]) -> str:
    outages, error = found["outages"], found.get("last_error")
    said = f", the last one: {error}" if outages and error else ""
    return f"{found['mode']}, outages: {shown(outages)}{said}" if outages else str(found["mode"])


def _views(found: dict[str, Any]) -> None:
    if "error" in found:
        answers.print(f"offline views: {found['error']}")
        return
    rows = [
        [
            name,
            view["rows"],
            view["keys"],
            view["files"],
            view["newest_event"],
            age(view["age_seconds"]),
            f"{100 * max(view['null_share'].values(), default=0.0):.1f} %",
        ]
        for name, view in found.items()
    ]
    headings = ["view", "rows", "keys", "files", "newest event", "age", "most nulls"]
    print_table("offline views", headings, rows)


def _online_store(found: dict[str, Any]) -> str:
    if "error" in found:
        return str(found["error"])
    if found["engine"] is None:
        return "not running; it starts by itself when it is needed"
    memory = found["memory_bytes"]
    size = f", {memory / 2**20:.1f} MiB" if memory else ""
    return (
        f"{found['engine']} {found['version']} at {found['where']}, "
        f"{_counted(found['keys'], 'key')}{size}{_checked(found)}"
    )


def _checked(found: dict[str, Any]) -> str:
    """What the batch flow's last comparison of online and published rows found."""
    said = ""
    if found["evicts"]:
        said = f"; it may evict rows (maxmemory-policy {found['evicts']}): set noeviction"
    last = found["last_check"]
    if not last:
        return said
    wrong = [
        f"{number:,} {kind} of {view}"
        for view, counts in last["views"].items()
        for kind, number in counts.items()
        if kind not in ("keys", "values")
    ]
    if wrong or last["warning"]:
        mended = [f"mended {', '.join(wrong)}"] if wrong else []
        said += f"; at {last['at']}: {'; '.join([*mended, *filter(None, [last['warning']])])}"
    return said


def _cycles(cycles: list[dict[str, Any]]) -> None:
    rows = [
        [
            cycle["id"],
            cycle["started_at"],
            cycle["status"],
            cycle["report"].get("changes"),
            sum(cycle["report"].get("feature_rows", {}).values()),
            sum(cycle["report"].get("quarantined", {}).values()),
            age(sum(cycle["report"].get("seconds", {}).values())),
            cycle["error"] or "",
        ]
        for cycle in cycles
    ]
    headings = ["cycle", "started", "status", "changes", "rows", "rejected", "took", "error"]
    print_table("last cycles", headings, rows)
