"""The list of mutants' groups and explanations is about the sources as they are."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mutants import ROOT, SETTINGS, Survivor, paths_of, report

FOUND: dict[str, Any] = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))


def test_every_critical_module_is_in_one_group() -> None:
    """All of the change log, the Feast plug-ins and the gate."""
    groups = FOUND["groups"]
    by_group = {group["name"]: paths_of(ROOT, groups, group["name"]) for group in groups}
    assert all(by_group.values())
    grouped = Counter(str(path) for paths in by_group.values() for path in paths)
    wanted = {"pipelines/registry/gate.py"}
    for folder in ("change_log", "feast_plugins"):
        files = (ROOT / "pipelines" / folder).rglob("*.py")
        wanted |= {str(f.relative_to(ROOT)) for f in files if f.name != "__init__.py"}
    assert {path for path in grouped if not path.endswith("__init__.py")} == wanted
    assert set(grouped.values()) == {1}


@pytest.mark.parametrize("group", FOUND["groups"], ids=lambda group: group["name"])
def test_the_tests_of_a_group_are_there(group: dict[str, Any]) -> None:
    """A renamed file would leave mutants alive that were noticed before."""
    assert [name for name in group["tests"] if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("one", FOUND["explained"], ids=lambda one: one["path"])
def test_what_is_explained_is_still_in_the_source(one: dict[str, str]) -> None:
    """Else the explanation is of code that is gone."""
    lines = {line.strip() for line in (ROOT / one["path"]).read_text("utf-8").splitlines()}
    assert set(one["old"].splitlines()) <= lines
    assert one["old"] != one["new"]
    assert one["why"]


def test_survivors_are_explained_by_file_and_lines() -> None:
    """The same change elsewhere, or another one there, is reported."""
    explained = [{"path": "a.py", "old": "x < 1", "new": "x <= 1", "why": "…"}]
    mine = Survivor("m.1", "a.py", "x < 1", "x <= 1", "the diff")
    others = [
        Survivor("m.2", "b.py", "x < 1", "x <= 1", "of b"),
        Survivor("m.3", "a.py", "x < 1", "x < 2", "of a"),
    ]
    text, new = report(Counter(killed=5, survived=3), [mine, *others], explained)
    assert new == others
    assert "the diff" not in text
    assert "of b" in text
    assert text.endswith("8 mutants: 5 noticed, 1 explained, 2 survivors (5 killed, 3 survived)")
    assert report(Counter(killed=1), [], explained)[1] == []


def test_the_settings_lie_beside_the_tests() -> None:
    """Where `make mutants` looks for them."""
    assert SETTINGS.parent == Path(__file__).resolve().parents[1]
