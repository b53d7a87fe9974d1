"""Tables and feature groups of your own: the modules that `SYNCHROCHAIN_FEATURES` names.

A module declares logs (`pipelines.tables.declare`) and groups (`pipelines.features.declare`) as
names of its own; they stand beside the package's. It is looked for as Python looks for modules, and
in the directory that the command was started in.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Collection
from functools import cache
from types import ModuleType
from typing import Final, TypeVar

from pipelines.errors import ConfigurationError, DeclarationError
from pipelines.settings import FEATURES


def _started_in() -> str:
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return os.sep


STARTED_IN: Final = _started_in()
_CIRCLE: Final = (
    "imports what is made from its declarations: import from pipelines.features.declare,"
    " pipelines.features.shop_rows, pipelines.tables.declare and pipelines.tables.shop only"
)

T = TypeVar("T")


def declared(kind: type[T], known: Collection[T]) -> dict[T, str]:
    """What the modules declare of one kind, in their order, each with the first module's name.

    Args:
        kind: `Log` or `FeatureGroup`.
        known: the package's own, which modules may have imported.

    Raises:
        ConfigurationError: there is no such module.
        DeclarationError: a module cannot be imported.
    """
    found: dict[T, str] = {}
    for module in modules():
        for value in vars(module).values():
            if isinstance(value, kind) and value not in known:
                found.setdefault(value, module.__name__)
    return found


def is_set() -> bool:
    """Whether the setting is there, be it empty."""
    return FEATURES in os.environ


@cache
def modules() -> tuple[ModuleType, ...]:
    """The modules that the setting names, imported.

    Raises:
        ConfigurationError: there is no such module.
        DeclarationError: a module cannot be imported.
    """
    names = os.environ.get(FEATURES, "").split(",")
    return tuple(_imported(name.strip()) for name in names if name.strip())


def _imported(name: str) -> ModuleType:
    found = sys.modules.get(name)
    if found is not None and getattr(found.__spec__, "_initializing", False):
        raise DeclarationError(f"{name} {_CIRCLE}")
    added = STARTED_IN not in sys.path
    if added:
        sys.path.append(STARTED_IN)
    try:
        return importlib.import_module(name)
    except DeclarationError as error:
        raise DeclarationError(f"{_where(name, error)}: {error}") from None
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"{FEATURES}: there is no module {name!r}: it must be installed, on PYTHONPATH, or"
                f" in the directory of the command, {STARTED_IN}"
            ) from None
        raise DeclarationError(_one_line(name, error)) from None
    except ImportError as error:
        if "partially initialized module 'pipelines." in str(error):
            raise DeclarationError(f"{name} {_CIRCLE}") from None
        raise DeclarationError(_one_line(name, error)) from None
    except SystemExit:
        raise DeclarationError(f"{name}: it ended Python while it was imported") from None
    except Exception as error:
        raise DeclarationError(_one_line(name, error)) from None
    finally:
        if added:
            sys.path.remove(STARTED_IN)


def _one_line(name: str, error: Exception) -> str:
    """Where in the module it failed, and why."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{name}, line {error.lineno}: {error.msg}"
    return f"{_where(name, error)}: {type(error).__name__}: {said}"


def _where(name: str, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    file = name.replace(".", "/")
    own = [f for f in frames if f.filename.endswith((f"{file}.py", f"{file}/__init__.py"))]
    return f"{name}, line {own[-1].lineno}" if own else name
