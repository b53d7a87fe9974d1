"""How registered models are shown: `synchrochain models`, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipelines.cli.console import answers, print_table
from pipelines.printable import shown

if TYPE_CHECKING:
    from pipelines.registry.store import ModelVersion

MAIN_METRICS: Final = 3
_GATE: Final = "gate."
_SCORED: Final = "champion."
_TIMES: Final = ("at", "scored_at")
_ABOUT_THE_GATE: Final = ("verdict", "at", "against")


def models_as_dict(models: Mapping[str, Sequence[ModelVersion]]) -> dict[str, Any]:
    """Every model's versions, newest first, with metrics, aliases and the gate's checks."""
    return {
        model: {
            "champion": _holder(versions, "champion"),
            "challenger": _holder(versions, "challenger"),
            "versions": [_version(version) for version in versions],
        }
        for model, versions in models.items()
    }


def print_models(models: Mapping[str, Sequence[ModelVersion]], *, details: bool) -> None:
    """A table per model; with `details` also the gate's checks of its versions."""
    for model, versions in models.items():
        if not versions:
            answers.print(f"{model}: no version yet; `synchrochain train` makes one")
            continue
        services = ", ".join(sorted({version.service for version in versions}))
        rows: list[list[Any]] = [
            [
                version.version,
                version.kind,
                ", ".join(version.aliases),
                _main_metrics(version),
                version.created,
                version.tags.get("gate.verdict", "not judged"),
            ]
            for version in versions
        ]
        headings = ["version", "kind", "alias", "metrics", "created", "gate"]
        print_table(f"{model}, reads {services}", headings, rows)
        if details:
            for version in versions:
                _print_details(version)


def _version(version: ModelVersion) -> dict[str, Any]:
    gate = _iso(_part(version.tags, _GATE))
    return {
        "version": version.version,
        "kind": version.kind,
        "is_baseline": version.is_baseline,
        "aliases": list(version.aliases),
        "metrics": version.metrics,
        "feature_service": version.service,
        "created": version.created,
        "run_id": version.run_id,
        "gate": {name: gate.pop(name, None) for name in _ABOUT_THE_GATE} | {"checks": gate},
        "scored": _iso(_part(version.tags, _SCORED)),
    }


def _print_details(version: ModelVersion) -> None:
    lines = {**_part(version.tags, _GATE), **_part(version.tags, _SCORED)}
    if not lines:
        return
    baseline = ", a baseline" if version.is_baseline else ""
    answers.print(f"version {version.version}{baseline}, run {version.run_id}", style="bold")
    for name, text in sorted(lines.items()):
        answers.print(f"  {name}: {text}")


def _iso(part: dict[str, str]) -> dict[str, str]:
    """Its time stamps, which tags hold with a space, as all others in JSON."""
    return {n: v.replace(" ", "T") if n in _TIMES else v for n, v in part.items()}


def _part(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): text for name, text in tags.items() if name.startswith(prefix)
    }


def _holder(versions: Sequence[ModelVersion], alias: str) -> int | None:
    return next((version.version for version in versions if alias in version.aliases), None)


def _main_metrics(version: ModelVersion) -> str:
    # The ends of intervals are left to --json.
    names = [name for name in version.metrics if not name.endswith(("_low", "_high"))]
    return ", ".join(f"{name} {shown(version.metrics[name])}" for name in names[:MAIN_METRICS])


def moved(version: ModelVersion, before: int | None) -> str:
    """A sentence on who is champion now and who was before."""
    was = "" if before is None or before == version.version else f", version {before} was before"
    return f"{version.model}: version {version.version} ({version.kind}) is champion{was}"
