"""What the published rows were declared from, and how the declarations differ from that by now.

The batch flow, the streamer, the server of decisions and the command line ask here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from pipelines import extensions
from pipelines.errors import ConfigurationError, DeclaredAnewError
from pipelines.features.groups import OUTSIDE
from pipelines.features.language.tree import signature
from pipelines.features.views import VIEWS, View
from pipelines.lake.state import DECLARED, PipelineState
from pipelines.lake.state_values import as_document
from pipelines.settings import FEATURES

UNCHANGED: Final = "unchanged"
NEW: Final = "new"
CHANGED: Final = "changed"
REMOVED: Final = "removed"
_GONE: Final = "not declared any more, in the package or by SYNCHROCHAIN_FEATURES"
Kind = Literal["unchanged", "new", "changed", "removed"]


@dataclass(frozen=True)
class ViewChange:
    """How the declaration of one view differs from the one that its published rows come from.

    Attributes:
        view: its name.
        kind: unchanged, new, changed or removed.
        added, removed, changed: names of features.
        rows_changed: whether rows are due at other times, or have other keys.
        order_changed: whether the features stand in another order, and nothing else differs.
        known: the features that its rows were stored with, as far as is recorded.
        module: the module that declared it, if that was one from outside of the package.
    """

    view: str
    kind: Kind
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    rows_changed: bool = False
    order_changed: bool = False
    known: tuple[str, ...] = ()
    module: str = ""

    @property
    def why(self) -> str:
        """The reason in words."""
        if self.kind != CHANGED:
            return {NEW: "a new group", REMOVED: _GONE}.get(self.kind, "")
        said = ["rows are due at other times, or have other keys"] if self.rows_changed else []
        said += ["the features have another order"] if self.order_changed else []
        for what in ("added", "removed", "changed"):
            said += [f"{what}: {', '.join(getattr(self, what))}"] if getattr(self, what) else []
        return "; ".join(said) or "what its rows were declared from is not recorded"


def declarations(views: Iterable[View] = VIEWS) -> dict[str, Any]:
    """What is declared, by view: hashes of all of it, of when rows are due, and of each feature.

    Descriptions do not count: they change no row.
    """
    return {view.name: _declared(view) for view in sorted(views, key=lambda view: view.name)}


def compare(state: PipelineState, views: Sequence[View] = VIEWS) -> list[ViewChange]:
    """How each declared view, and each that has published rows, differs from what is recorded.

    Args:
        state: the pipeline's state.
        views: what is declared, in whose order the answer is.
    """
    published = {file.name for file in state.files("view")}
    return _compared(state.document(DECLARED) or {}, published, views)


class DeclarationWatch:
    """Sees whether another process has recorded other declarations than this one has.

    Until then this process may record its own: it was started with them after the recorded ones.

    Args:
        state: the pipeline's state.

    Attributes:
        recorded: the recorded declarations that this process knows of, as they are stored.
    """

    def __init__(self, state: PipelineState) -> None:
        self._state = state
        self.recorded = state.metadata(DECLARED)

    def check(self) -> None:
        """Make sure that what is published was declared as in this process.

        Raises:
            DeclaredAnewError: it was not.
            ConfigurationError: a module declared some of it, and no module is named here.
        """
        self.recorded = self._state.metadata(DECLARED)
        check_setting(_compared(as_document(self.recorded) or {}, (), VIEWS))
        if self.recorded is not None and (other := _differing(self.recorded)):
            raise DeclaredAnewError(other, "published")

    def look(self) -> None:
        """Look whether the recorded declarations are still those that this process knows.

        Raises:
            DeclaredAnewError: another process has recorded others since.
        """
        recorded = self._state.metadata(DECLARED)
        if recorded is not None and recorded != self.recorded and (other := _differing(recorded)):
            raise DeclaredAnewError(other, "since")
        self.recorded = recorded


def check_setting(changes: Iterable[ViewChange]) -> None:
    """Make sure that groups are not given up because a setting was forgotten.

    Raises:
        ConfigurationError: a module declared some, and no module is named any more.
    """
    gone = {change.view: change.module for change in changes if change.module}
    if gone and not extensions.is_set():
        raise ConfigurationError(
            f"{', '.join(gone)}: declared by {', '.join(sorted({*gone.values()}))}, and {FEATURES}"
            f" is not set here: set it as before, or to nothing ({FEATURES}=) to give their rows up"
        )


def declared_otherwise(state: PipelineState) -> list[str]:
    """The views whose recorded declarations are not those of this process; none before the first
    cycle has recorded any."""
    recorded = state.metadata(DECLARED)
    return [] if recorded in (None, as_recorded()) else _differing(recorded or "")


def check_declared(state: PipelineState, views: Collection[str] | None = None) -> None:
    """Make sure that what is published of some views was declared as in this process.

    Args:
        state: the pipeline's state.
        views: their names; None for all.

    Raises:
        DeclaredAnewError: it was not.
    """
    other = [view for view in declared_otherwise(state) if views is None or view in views]
    if other:
        raise DeclaredAnewError(other, "published")


@cache
def as_recorded() -> str:
    """The declarations as they are stored."""
    return json.dumps(declarations())


def _compared(
    recorded: Mapping[str, Any], published: Collection[str], views: Sequence[View]
) -> list[ViewChange]:
    names = [view.name for view in views]
    changes = [
        _change(view.name, recorded.get(view.name), view.name in published, _declared(view))
        for view in views
    ]
    for name in sorted({*recorded, *published} - {*names}):
        known = recorded.get(name)
        changes.append(ViewChange(name, REMOVED, known=_features(known), module=_module(known)))
    return changes


def _differing(recorded: str) -> list[str]:
    changes = _compared(as_document(recorded) or {}, (), VIEWS)
    return [change.view for change in changes if change.kind != UNCHANGED]


def _change(name: str, known: Any, published: bool, now: Mapping[str, Any]) -> ViewChange:
    if not isinstance(known, Mapping):
        return ViewChange(name, CHANGED if published else NEW)
    before, after = known.get("features"), now["features"]
    if not isinstance(before, Mapping):  # recorded as one, by an earlier version
        return ViewChange(name, UNCHANGED if known.get("whole") == now["whole"] else CHANGED)
    rows_changed = known.get("rows") != now["rows"]
    if not rows_changed and list(before.items()) == list(after.items()):
        return ViewChange(name, UNCHANGED, known=tuple(before))
    return ViewChange(
        name,
        CHANGED,
        added=tuple(n for n in after if n not in before),
        removed=tuple(n for n in before if n not in after),
        changed=tuple(n for n in after if n in before and before[n] != after[n]),
        rows_changed=rows_changed,
        order_changed=not rows_changed and before == after,
        known=tuple(before),
    )


def _module(known: Any) -> str:
    return str(known.get("module", "")) if isinstance(known, Mapping) else ""


def _features(known: Any) -> tuple[str, ...]:
    features = known.get("features") if isinstance(known, Mapping) else None
    return tuple(features) if isinstance(features, Mapping) else ()


def _declared(view: View) -> dict[str, Any]:
    group = view.group
    due = [(signature(r), r is not d) for r, d in zip(group.triggers, group.rows, strict=True)]
    keys = [(key, str(view.schema.field(key).type)) for key in group.keys]
    module = OUTSIDE.get(group.name)
    return {
        **({"module": module} if module else {}),
        "whole": view.declaration,
        "rows": _hash((keys, due, signature(group.entity))),
        "features": {
            name: _hash((feature.kind, signature(feature.value)))
            for name, feature in group.features.items()
        },
    }


def _hash(part: Any) -> str:
    return hashlib.sha256(repr(part).encode()).hexdigest()[:16]
