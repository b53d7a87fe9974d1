"""The files of a served model that its folder has whatever its kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

WEIGHTS: Final = "weights.pt"
_SETTINGS: Final = "settings.json"


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what a model was made with, beside its weights."""
    (folder / _SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what `write_settings` wrote.

    Raises:
        OSError, ValueError: there is none, or it is damaged.
    """
    settings: dict[str, Any] = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    return settings
