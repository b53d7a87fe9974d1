"""Decisions as the command line shows them; each is a plain dictionary, as it is logged."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipelines.cli.console import age, answers, print_table

if TYPE_CHECKING:
    from pipelines.serving.replay import Replay

Plain = dict[str, Any]


def print_decisions(decisions: list[Plain]) -> None:
    """One line per decision."""
    if not decisions:
        answers.print("no decision was logged here yet")
        return
    headings = ["id", "order", "asked", "chosen", "$", "hours", "late"]
    print_table("decisions", headings, [_line(decision) for decision in decisions])
    for what, why, count in _fallbacks(decisions):
        answers.print(f"{count} of {len(decisions)}: {what}: {why}", style="bold")


def print_decision(decision: Plain) -> None:
    """A decision with its alternatives, the features it used and what stood in for what."""
    order, choice = decision["order"], decision["choice"]
    headings = ["from", "method", "mode", "$", "hours", "late", "CO2e", "stock", "score"]
    rows = [
        [
            *(o[name] for name in ("warehouse_id", "shipping_method", "mode")),
            round(o["ship_cost"], 2),
            round(o["expected_hours"], 1),
            round(o["late_probability"], 2),
            round(o["carbon_kg"], 2),
            "–"
            if o["stock_level"] is None
            else f"{o['stock_level']}{'' if o['feasible'] else ' ✗'}",
            round(o["score"], 3),
        ]
        for o in decision["alternatives"]
    ]
    decided_at = datetime.fromisoformat(decision["decided_at"])
    answers.print(
        f"{decision['id']}: {decision['status']}: {choice['shipping_method']} from "
        f"{choice['warehouse_id']} to {order['region']}, {order['quantity']} × "
        f"{order['product_id']} for user {order['user_id']}, {decided_at:%F %T} UTC",
    )
    print_table("options, best first", headings, rows)
    used = [
        [view, use["state"], age(use["age_seconds"]), age(use["oldest_age_seconds"])]
        for view, use in decision["features"].items()
    ]
    print_table("features", ["view", "state", "age", "oldest of all options"], used)
    versions = [
        [step, model["name"], model["version"], model["kind"]]
        for step, model in decision["models"].items()
    ]
    print_table("models", ["step", "model", "version", "kind"], versions)
    for note in decision["fallbacks"]:
        answers.print(f"{note['what']}: {note['why']}", style="bold")


def print_replay(replay: Replay) -> None:
    """Whether it came out as before, else what differs."""
    if replay.identical:
        answers.print(
            f"{replay.id}: the same choice, {' '.join(replay.choice)}, and the same scores; "
            f"largest difference {replay.largest:.2g}",
        )
    for line in replay.differences:
        answers.print(f"{replay.id}: {line}")


def _line(decision: Plain) -> list[Any]:
    order, choice = decision["order"], decision["choice"]
    chosen = f"{choice['warehouse_id']} {choice['shipping_method']}"
    if decision["status"] == "backorder":
        chosen += ", backorder"
    return [
        decision["id"],
        f"{order['quantity']} {order['product_id']} → {order['region']}",
        order["shipping_method"],
        chosen,
        round(choice["ship_cost"], 2),
        round(choice["expected_hours"], 1),
        round(choice["late_probability"], 2),
    ]


def _fallbacks(decisions: list[Plain]) -> list[tuple[str, str, int]]:
    counts: dict[tuple[str, str], int] = {}
    for decision in decisions:
        for note in decision["fallbacks"]:
            key = (note["what"], note["why"])
            counts[key] = counts.get(key, 0) + 1
    return [(*key, count) for key, count in counts.items()]
