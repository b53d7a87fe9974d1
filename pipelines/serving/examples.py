"""What the documentation of the HTTP interface shows."""

from __future__ import annotations

from typing import Any, Final

_ORDER: Final = {
    "user_id": 42,
    "product_id": "P0007",
    "quantity": 2,
    "shipping_method": "express",
    "session_id": "00030-000076",
}
ORDERS: Final[dict[str, Any]] = {
    "one": {"summary": "One order; what is left out is looked up", "value": _ORDER},
    "several": {
        "summary": "Several orders, each decided by itself",
        "value": [_ORDER, {"user_id": 43, "product_id": "P0011", "region": "R02", "price": 12.5}],
    },
}
_OPTION: Final = {
    "warehouse_id": "W02",
    "shipping_method": "standard",
    "route_id": "W02-R02-road",
    "mode": "road",
    "ship_cost": 4.71,
    "promised_hours": 9.92,
    "expected_delay_hours": 1.78,
    "expected_hours": 11.7,
    "late_probability": 0.19,
    "carbon_kg": 0.02,
    "stock_level": 31,
    "score": -5.07,
    "feasible": True,
    "why_not": None,
}
DECISION: Final[dict[str, Any]] = {
    "id": "535f3dfd73cfe3d4",
    "status": "decided",
    "decided_at": "2026-01-31T12:00:00.123456Z",
    "order": {
        **_ORDER,
        "price": 15.39,
        "weight_kg": 1.9,
        "region": "R02",
        "order_id": None,
    },
    "choice": _OPTION,
    "alternatives": [
        _OPTION,
        {
            **_OPTION,
            "warehouse_id": "W08",
            "route_id": "W08-R02-road",
            "stock_level": 1,
            "score": -7.3,
            "feasible": False,
            "why_not": "only 1 in stock",
        },
    ],
    "intent": {"purchase_probability": 0.12, "urgency_class": "medium", "urgency": 0.31},
    "features": {
        "user_intent": {
            "state": "present",
            "event_timestamp": "2026-01-31T11:59:41Z",
            "age_seconds": 19.1,
            "oldest_age_seconds": 19.1,
            "values": {"intent_score": 0.27, "urgency_score": 0.4},
        }
    },
    "models": {
        "intent": {
            "name": "intent_transformer",
            "version": 3,
            "alias": "champion",
            "kind": "intent/transformer",
        },
        "delay": {
            "name": "supply_gnn",
            "version": 2,
            "alias": "champion",
            "kind": "delay/gnn",
        },
        "decision": {"name": "ppo_agent", "version": None, "alias": None, "kind": "rule"},
    },
    "fallbacks": [{"what": "ppo_agent", "why": "no version of ppo_agent is champion"}],
    "network_age_seconds": 1.2,
    "read_mode": "redis",
    "logged": True,
    "took_ms": 8.1,
}
FEATURES: Final[dict[str, Any]] = {
    "view": "user_intent",
    "keys": {"user_id": 42},
    "event_timestamp": "2026-01-31T11:59:41Z",
    "age_seconds": 19.1,
    "state": "present",
    "read_mode": "redis",
    "features": {"intent_score": 0.27, "urgency_score": 0.4, "sessions_7d": 2},
}
MODELS: Final[list[dict[str, Any]]] = [
    {
        "name": "intent_transformer",
        "version": 3,
        "kind": "intent/transformer",
        "alias": "champion",
        "problem": None,
    }
]
READY: Final[dict[str, Any]] = {"ready": True, "reasons": [], "warnings": []}
NOT_READY: Final[dict[str, Any]] = {
    "ready": False,
    "reasons": ["it is starting"],
    "warnings": ["ppo_agent: models are not loaded yet"],
}
