"""The walls of the house: who may import whom, and that importing does nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from pipelines.features.groups import OWN
from pipelines.settings import DATABASE_NAMES, PROJECT_ROOT
from pipelines.tables.shop import SHOP_LOGS

# Data flows one way: a part imports from the rows above its own, or from its own row.
LAYERS = (
    {"settings", "errors", "paths", "file_kinds", "printable", "stopping", "extensions"},
    {"tables"},
    {"live_databases"},
    {"change_log"},
    {"features"},
    {"lake", "redis_server"},
    {"validation"},
    {"batch", "streaming", "cache", "feast_plugins"},
    {"registry"},
    {"training"},
    {"models"},
    {"serving", "monitoring"},
    {"data_layer"},
    {"benchmarks"},
    {"cli"},
)
LAYER_OF = {part: number for number, layer in enumerate(LAYERS) for part in layer}
LONGEST_MODULE = 500
MODULES = sorted(
    path for folder in ("pipelines", "simulators") for path in (PROJECT_ROOT / folder).rglob("*.py")
)
DECLARED = ("pipelines.settings.", "pipelines.feast_plugins.declared_schema.")
"""What the feature repository takes from the package: where data lie, and schemas."""
REPOSITORY = sorted((PROJECT_ROOT / "feature_repo").glob("*.py"))
NO_EFFECT = """
import importlib, json, os, sys, threading
for name in ("torch", "torch_geometric", "gymnasium", "sb3_contrib", "sklearn"):
    importlib.import_module(name)  # what these do on being imported is theirs
before = dict(os.environ)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({
    "environment": dict(os.environ) == before,
    "directory": os.listdir(),
    "threads": [t.name for t in threading.enumerate() if t is not threading.main_thread()],
}))
"""


def name_of(path: Path) -> str:
    """The module's dotted name."""
    parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in it: `from a import b` is a.b."""
    yield from imported_in(ast.parse(path.read_text("utf-8")), path)


def imported_in(tree: ast.AST, path: Path) -> Iterator[str]:
    """The same of a part of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    """The parts of `pipelines` that a file imports."""
    names = (name.split(".") for name in imports_of(path))
    return {name[1] for name in names if name[0] == "pipelines" and len(name) > 1}


def part_of(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT / "pipelines").with_suffix("").parts[0]


def ids(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT))


PIPELINES = [path for path in MODULES if name_of(path).startswith("pipelines.")]
SIMULATORS = [path for path in MODULES if name_of(path).startswith("simulators")]
MODELS = [path for path in PIPELINES if part_of(path) == "models"]
TORCH_FREE = ("features", "outputs", "baselines", "predictors", "tariff", "scoring", "world")


def test_every_part_has_its_place() -> None:
    """A new part of `pipelines` is placed in a layer, deliberately."""
    assert {part_of(path) for path in PIPELINES} <= LAYER_OF.keys()


@pytest.mark.parametrize("path", PIPELINES, ids=ids)
def test_imports_go_one_way(path: Path) -> None:
    """Stages meet in data, not by calling what comes after them."""
    part = part_of(path)
    wrong = {
        name
        for name in parts_imported(path) - {part}
        if LAYER_OF.get(name, len(LAYERS)) > LAYER_OF[part]
    }
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)}, which stand to its right"


def test_parts_do_not_need_one_another_in_turn() -> None:
    """Within a layer too: there is an order in which the parts can be read."""
    graph: dict[str, set[str]] = {}
    for path in PIPELINES:
        graph.setdefault(part_of(path), set()).update(parts_imported(path) - {part_of(path)})
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", [p for p in PIPELINES if part_of(p) == "redis_server"], ids=ids)
def test_redis_knows_only_settings_and_errors(path: Path) -> None:
    """Finding and starting a server has nothing to do with features."""
    assert parts_imported(path) <= {"redis_server", "settings", "errors", "file_kinds"}


APART = ("streaming", "training", "models", "serving", "monitoring")


@pytest.mark.parametrize("path", [p for p in PIPELINES if part_of(p) in APART], ids=ids)
def test_what_batch_publishes_is_read_from_the_lake(path: Path) -> None:
    """Stages meet in data; what they share about it is in `lake`, not in `batch`."""
    assert "batch" not in parts_imported(path)


DECLARING = [
    *(p for p in PIPELINES if "language" in p.parts),
    *(PROJECT_ROOT / "pipelines" / "features" / f"{n}.py" for n in ("declare", "shop_rows")),
    *(PROJECT_ROOT / "pipelines" / "tables" / f"{n}.py" for n in ("__init__", "declare", "shop")),
    PROJECT_ROOT / "pipelines" / "features" / "__init__.py",
]


@pytest.mark.parametrize("path", DECLARING, ids=ids)
def test_declarations_do_not_need_what_is_made_from_them(path: Path) -> None:
    """A module from outside of the package can be imported before anything that knows it."""
    made = ("pipelines.tables.known.", "pipelines.features.groups.", "pipelines.features.views.")
    tree = ast.parse(path.read_text("utf-8"))
    at_once = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    assert not {name for name in imported_in(at_once, path) if name.startswith(made)}


NAMED = {
    *(name for log in SHOP_LOGS for name in (log.name, log.table)),
    *(group.name for group in OWN),
} - set(DATABASE_NAMES)
FLOWS = ("batch", "streaming", "monitoring", "lake", "validation", "change_log")


@pytest.mark.parametrize("path", [p for p in PIPELINES if part_of(p) in FLOWS], ids=ids)
def test_flows_name_no_log_and_no_group(path: Path) -> None:
    """They go by the declarations, so that a new one needs no line of theirs."""
    texts = {
        node.value
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    quoted = {text for text in texts if text in NAMED}
    in_sql = {
        word
        for text in texts
        if re.search(r"\b(SELECT|FROM|JOIN|INTO)\b", text)
        for word in re.findall(r"(?:FROM|JOIN|INTO) \"?(?:new_|old_|hot_|raw_)?(\w+)", text)
    }
    assert not quoted | (in_sql & NAMED)


READ_ALONE = ("features", "outputs", "tariff", "transformer", "gru", "network", "scoring", "world")


@pytest.mark.parametrize("path", [p for p in MODELS if p.stem in READ_ALONE], ids=ids)
def test_networks_and_features_know_nothing_of_ours(path: Path) -> None:
    """They can be read, tested and copied alone; what columns are called and hold is shared."""
    allowed = ("pipelines.models.", "pipelines.features.views.", "pipelines.registry.columns.")
    ours = {name for name in imports_of(path) if name.startswith("pipelines.")}
    assert not {name for name in ours if not name.startswith(allowed)}


@pytest.mark.parametrize("model", ["intent", "delay", "fulfilment"])
def test_features_and_baselines_need_no_torch(model: str) -> None:
    """A baseline is served, and the agent decides, where none of these is imported."""
    heavy = ("torch", "torch_geometric", "sklearn", "gymnasium", "stable_baselines3")
    names = [name_of(p) for p in MODELS if p.parent.name == model and p.stem in TORCH_FREE]
    code = f"import {', '.join(names)}, sys; print(sorted({{*{heavy}}} & sys.modules.keys()))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert len(names) > 1
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SIMULATORS, ids=ids)
def test_simulators_know_only_the_contract(path: Path) -> None:
    """They write the live databases; whoever has a shop deletes them."""
    assert parts_imported(path) <= {"settings", "errors", "live_databases"}


@pytest.mark.parametrize("path", PIPELINES, ids=ids)
def test_only_the_main_job_knows_the_simulators(path: Path) -> None:
    """So that they can be deleted."""
    uses = any(name.split(".")[0] == "simulators" for name in imports_of(path))
    assert not uses or name_of(path) == "pipelines.cli.main_job" or part_of(path) == "benchmarks"


@pytest.mark.parametrize("path", REPOSITORY, ids=ids)
def test_the_feature_repository_only_declares(path: Path) -> None:
    """`feast apply` imports each file by itself: siblings, Feast, and where the data lie."""
    siblings = {file.stem for file in REPOSITORY}
    for name in imports_of(path):
        root = name.split(".")[0]
        allowed = root in siblings | {"feast"} or root in sys.stdlib_module_names
        assert allowed or name.startswith(DECLARED), name


@pytest.mark.parametrize("path", [*MODULES, *REPOSITORY], ids=ids)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """In a docstring, and does one job that fits in one sitting."""
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert len(text.splitlines()) <= LONGEST_MODULE


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No file, no thread, no word, no change of the environment, and no data directory."""
    # Feast takes seconds to import, and the plug-ins are imported by Feast alone.
    names = [name_of(path) for path in MODULES if "feast_plugins" not in path.parts]
    environment = {**os.environ, "SYNCHROCHAIN_DATA_DIR": str(tmp_path / "data")}
    (tmp_path / "empty").mkdir()
    found = subprocess.run(
        [sys.executable, "-c", NO_EFFECT, *names],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(found.stdout) == {"environment": True, "directory": [], "threads": []}
    assert found.stderr == ""
    assert not (tmp_path / "data").exists()
