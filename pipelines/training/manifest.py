"""What a training set was made of, kept with its run, so that it can be made again and compared."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq

from pipelines.errors import CorruptFileError
from pipelines.paths import sha256_of
from pipelines.settings import PROJECT_ROOT, BatchConfig
from pipelines.training.source import TrainingSource, digests, retrieve

if TYPE_CHECKING:
    from feast import FeatureStore

MANIFEST: Final = "manifest.json"
_PACKAGES: Final = ("duckdb", "feast", "numpy", "pyarrow", "scikit-learn", "torch")


@dataclass(frozen=True)
class RetrievalReport:
    """One retrieval made again: `changed` names the columns whose values differ now or are gone."""

    name: str
    service: str
    rows: int
    identical: bool
    changed: list[str]


@dataclass(frozen=True)
class RebuildReport:
    """Whether an old run's data set is still what Feast answers, and what has changed since.

    Files are merged and cleaned up by every batch cycle, so `files_gone` alone means nothing;
    `definitions_changed` names feature services whose definition is not what it was.
    """

    run_id: str
    identical: bool
    retrievals: list[RetrievalReport]
    definitions_changed: list[str]
    files_gone: list[str]
    code_changed: bool


def write_manifest(source: TrainingSource, folder: Path, *, task: str, quick: bool) -> None:
    """Write manifest.json and the entity dataframes of every retrieval into a folder.

    It holds for each retrieval the feature service, the number of rows and a digest per column;
    the digest of each service's definition and of the registry file; the published files with
    their checksums; and the version of the code.

    Args:
        source: with the retrievals made so far.
        folder: where to write to.
        task: the task's name.
        quick: whether the data set is a smaller one.
    """
    (folder / "entities").mkdir(parents=True)
    retrievals = []
    for number, made in enumerate(source.retrievals):
        path = folder / "entities" / f"{number}.parquet"
        pq.write_table(made.entities, path)
        retrievals.append(
            {
                "name": made.name,
                "service": made.service,
                "entities": f"entities/{path.name}",
                "rows": made.entities.num_rows,
                "columns": made.digests,
            }
        )
    definition = source.config.registry_path
    services = sorted({made.service for made in source.retrievals})
    content = {
        "task": task,
        "quick": quick,
        "retrievals": retrievals,
        "definitions": definitions(source.store, services),
        "registry_sha256": sha256_of(definition) if definition.is_file() else None,
        "files": [
            {"kind": file.kind, "name": file.name, "file": file.path.name, "sha256": file.sha256}
            for kind in ("view", "log")
            for file in source.files(kind)
        ],
        "code": code_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")


def rebuild(config: BatchConfig, run_id: str, folder: Path) -> RebuildReport:
    """Retrieve an old run's data set anew from its manifest, and compare.

    Args:
        config: the data directory.
        run_id: the MLflow run.
        folder: with the manifest and entity dataframes.

    Raises:
        CorruptFileError: the manifest or an entity dataframe is missing or cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        frames = [pq.read_table(folder / made["entities"]) for made in manifest["retrievals"]]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptFileError(
            f"the manifest of run {run_id} is missing or damaged ({error}): train again"
        ) from None
    source = TrainingSource(config)
    retrievals = []
    for made, frame in zip(manifest["retrievals"], frames, strict=True):
        found = digests(retrieve(source.store, frame.to_pandas(), made["service"]))
        kept: dict[str, str] = made["columns"]
        changed = sorted(n for n in kept if kept[n] != found.get(n))
        retrievals.append(
            RetrievalReport(made["name"], made["service"], made["rows"], not changed, changed)
        )
    then, now = manifest["definitions"], definitions(source.store, list(manifest["definitions"]))
    live = {file.sha256 for kind in ("view", "log") for file in source.files(kind)}
    return RebuildReport(
        run_id,
        all(made.identical for made in retrievals),
        retrievals,
        definitions_changed=sorted(name for name in then if then[name] != now.get(name)),
        files_gone=sorted(file["file"] for file in manifest["files"] if file["sha256"] not in live),
        code_changed=manifest["code"]["sources_sha256"] != code_version()["sources_sha256"],
    )


def definitions(store: FeatureStore, services: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each feature service's definition with the features of its views.

    The registry file itself also holds when things were applied and materialized, which changes
    with every cycle.
    """
    return {name: _definition(store, name) for name in services}


def _definition(store: FeatureStore, name: str) -> str:
    from feast.errors import FeatureServiceNotFoundException

    try:
        service = store.get_feature_service(name)
    except FeatureServiceNotFoundException:
        return ""
    projections: Any = service.feature_view_projections
    views = [
        {
            "view": projection.name_to_use(),
            "keys": projection.join_key_map,
            "features": sorted((field.name, str(field.dtype)) for field in projection.features),
        }
        for projection in projections
    ]
    text = json.dumps(sorted(views, key=lambda view: str(view["view"])), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def code_version() -> dict[str, Any]:
    """The package's version, its commit where it is a checkout, and a digest of its sources."""
    digest = hashlib.sha256()
    for folder in ("pipelines", "feature_repo"):
        for path in sorted((PROJECT_ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(PROJECT_ROOT)).encode() + path.read_bytes())
    return {
        "version": importlib.metadata.version("synchrochain"),
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "sources_sha256": digest.hexdigest(),
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *words], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
