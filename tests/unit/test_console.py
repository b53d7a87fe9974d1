"""Tables on the terminal."""

from __future__ import annotations

import pytest

from pipelines.cli.console import print_table


def test_a_list_of_words_is_shown_and_not_taken_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`[view, search]` would be a style that nobody knows, and vanish."""
    print_table("[events]", ["feature", "value"], [["actions", ["view", "search"]]])
    printed = capsys.readouterr().out
    assert "[view, search]" in printed
    assert "[events]" in printed
