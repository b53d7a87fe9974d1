"""`synchrochain status` for people."""

from __future__ import annotations

from typing import Any

from pipelines.console import age, answers, print_table, shown


def print_status(status: dict[str, Any]) -> None:
    """Print what `collect_status` found, a table per part."""
    answers.print(f"data directory: {status['data_dir']}")
    _databases(status["databases"])
    _views(status["offline_views"])
    if status["waiting_for_online_store"]:
        waiting = ", ".join(status["waiting_for_online_store"])
        answers.print(f"waiting to be materialized: {waiting}")
    if status["quarantined"]:
        refused = ", ".join(f"{n:,} of {table}" for table, n in status["quarantined"].items())
        answers.print(f"rows in quarantine: {refused}")
    answers.print(f"online store: {_online_store(status['online_store'])}")
    _cycles(status["last_cycles"])


def _databases(found: dict[str, Any]) -> None:
    rows = [
        [name, d.get("changes"), d.get("position"), d.get("lag"), d.get("error", "ok")]
        for name, d in found.items()
    ]
    print_table("live databases", ["database", "changes", "processed", "lag", "state"], rows)


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
        f"{shown(found['keys'])} keys{size}"
    )


def _cycles(cycles: list[dict[str, Any]]) -> None:
    rows = [
        [
            cycle["id"],
            cycle["started_at"],
            cycle["status"],
            cycle["report"].get("extracted"),
            sum(cycle["report"].get("feature_rows", {}).values()),
            sum(cycle["report"].get("quarantined", {}).values()),
            age(sum(cycle["report"].get("seconds", {}).values())),
            cycle["error"] or "",
        ]
        for cycle in cycles
    ]
    headings = ["cycle", "started", "status", "changes", "rows", "refused", "took", "error"]
    print_table("last cycles", headings, rows)
