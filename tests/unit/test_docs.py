"""Documentation that cannot rot: links, commands, settings, code blocks."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from documented import python_blocks

from pipelines.cli.app import app
from pipelines.features.dictionary import with_dictionary
from pipelines.settings import ENV_PREFIX, FEATURES, PROJECT_ROOT, BatchConfig, DataConfig

DOCS = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
OPERATIONS = (PROJECT_ROOT / "docs" / "operations.md").read_text("utf-8")


COMMAND_LINE: Any = typer.main.get_command(app)


def commands(group: Any, before: str = "") -> list[str]:
    """The names of all commands, those of groups included."""
    found = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += commands(command, f"{before}{name} ")
        else:
            found.append(before + name)
    return found


def settings() -> list[str]:
    """The variables of all settings."""
    own = BatchConfig.model_fields.keys() - {"data_dir"}
    names = [*DataConfig.model_fields, *(f"batch_{name}" for name in own)]
    return sorted([*(f"{ENV_PREFIX}{name}".upper() for name in names), FEATURES])


def short(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


@pytest.mark.parametrize("name", commands(COMMAND_LINE))
def test_every_command_is_documented(name: str) -> None:
    """Whoever adds a command adds it there."""
    assert f"`synchrochain {name}" in OPERATIONS, f"`synchrochain {name}` is not in operations.md"


@pytest.mark.parametrize("name", settings())
def test_every_setting_is_documented(name: str) -> None:
    """In the table, by its variable."""
    assert f"`{name}`" in OPERATIONS, f"{name} is not in docs/operations.md"


def test_no_setting_is_documented_that_is_not_there() -> None:
    """A removed one goes from the documentation too."""
    named = set(re.findall(rf"`({ENV_PREFIX}[A-Z_]+)`", "\n".join(p.read_text() for p in DOCS)))
    assert named <= set(settings())


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_every_command_that_is_written_down_exists(path: Path) -> None:
    """Its words are commands, its options options of theirs."""
    for line in re.findall(r"(?:`|^)synchrochain ([^`\n#]+)", path.read_text("utf-8"), flags=re.M):
        command = COMMAND_LINE
        words = line.split()
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"`synchrochain {line}`"
            command = command.commands[words.pop(0)]
        options = {option for given in command.params for option in given.opts}
        options |= {o for given in command.params for o in given.secondary_opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_links_lead_somewhere(path: Path) -> None:
    """Within the repository."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_paths_that_are_named_are_there(path: Path) -> None:
    """Modules and folders of the project."""
    text = path.read_text("utf-8")
    for name in re.findall(r"`((?:pipelines|tests|simulators|feature_repo)/[\w/.]*)`", text):
        assert (PROJECT_ROOT / name).exists() or name.endswith("user_searches.py"), name


@pytest.mark.parametrize("path", DOCS, ids=short)
def test_python_blocks_are_python_and_import_what_there_is(path: Path) -> None:
    """Every name that they import from the project is there."""
    for code in python_blocks(short(path)):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pipelines"):
                module = __import__(str(node.module), fromlist=["_"])
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{node.module} has no {missing}"


def test_the_readme_is_read_in_five_minutes() -> None:
    """120 to 150 lines; the rest is in docs/."""
    assert 120 <= len(DOCS[0].read_text("utf-8").splitlines()) <= 150


def test_the_dictionary_is_that_of_the_declarations() -> None:
    """`python -m pipelines.features.dictionary` writes it."""
    page = (PROJECT_ROOT / "docs" / "features.md").read_text("utf-8")
    assert with_dictionary(page) == page
