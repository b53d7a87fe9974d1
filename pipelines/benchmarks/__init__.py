"""What `synchrochain bench` runs."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Callback with a line on what is going on."""
