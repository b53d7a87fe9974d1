"""Every feature, declared once: one module per feature group, the language, and its compilers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.features.engineer import FeatureEngineer

__all__ = ["FeatureEngineer"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: it knows all groups, and modules that declare some import this one.
    if name != "FeatureEngineer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipelines.features.engineer import FeatureEngineer

    return FeatureEngineer
