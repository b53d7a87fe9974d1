"""Mutation testing by mutmut: a seeded sample of mutants, and which of them no test notices.

Works on a copy of the checkout, so nothing is left in it. Survivors that `mutants.toml` explains
are counted apart; any other is printed as a diff, and makes the exit status 1.

Run as `make mutants`, or with names of groups: `.venv/bin/python tests/mutants.py gate`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SETTINGS: Final = ROOT / "tests" / "mutants.toml"
COPIED: Final = ("feature_repo", "data", "README.md", "Makefile", ".ci", "requirements.lock")
SURVIVED: Final = ("survived", "no tests")


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test noticed; `old` and `new` are the lines that differ."""

    name: str
    path: str
    old: str
    new: str
    diff: str

    def is_explained(self, explained: Sequence[dict[str, str]]) -> bool:
        """Whether the list has this very change, in this file."""
        mine = (self.path, self.old, self.new)
        return any(mine == (one["path"], one["old"], one["new"]) for one in explained)


def main() -> int:
    """Mutate, test, report."""
    settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help="of mutants.toml; all by default")
    parser.add_argument("--sample", type=int, default=settings["sample"], help="mutants in all")
    parser.add_argument("--seed", type=int, default=settings["seed"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--report", type=Path, help="a file for the report, beside the terminal")
    given = parser.parse_args()
    unknown = set(given.groups) - {group["name"] for group in settings["groups"]}
    if unknown:
        parser.error(f"there is no group called {', '.join(sorted(unknown))}")
    os.nice(15)
    counts: Counter[str] = Counter()
    survivors: list[Survivor] = []
    with tempfile.TemporaryDirectory(prefix="sc-mutants-") as name:
        folder = Path(name)
        copy_checkout(folder)
        chosen = sampled(folder, settings["groups"], given.sample, given.seed)
        for group in settings["groups"]:
            if given.groups and group["name"] not in given.groups:
                continue
            wanted = chosen[group["name"]]
            print(f"{group['name']}: {len(wanted)} mutants", flush=True)
            paths = paths_of(folder, settings["groups"], group["name"])
            found = run(folder, paths, group["tests"], wanted, given.processes)
            counts.update(found.values())
            survivors += [
                survivor(folder, mutant) for mutant, how in found.items() if how in SURVIVED
            ]
    text, new = report(counts, survivors, settings.get("explained", []))
    print(text)
    if given.report:
        given.report.write_text(text, encoding="utf-8")
    return 1 if new else 0


def copy_checkout(folder: Path) -> None:
    """The files of the checkout as they are now, not as they were committed."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def sampled(
    folder: Path, groups: Sequence[dict[str, Any]], size: int, seed: int
) -> dict[str, list[str]]:
    """By group the names of the mutants that are run; the same seed chooses the same."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    configure(folder, [], [])
    os.chdir(folder)  # where mutmut looks for its settings
    known: list[tuple[str, str]] = []
    for group in groups:
        for path in paths_of(folder, groups, group["name"]):
            made = mutate_file_contents(str(path), (folder / path).read_text(encoding="utf-8"))
            known += [(group["name"], get_mutant_name(path, name)) for name in made.mutant_names]
    drawn = random.Random(seed).sample(known, min(size, len(known)))
    print(f"{len(drawn)} of {len(known)} mutants, seed {seed}", flush=True)
    return {group["name"]: sorted(n for g, n in drawn if g == group["name"]) for group in groups}


def paths_of(folder: Path, groups: Sequence[dict[str, Any]], name: str) -> list[Path]:
    """A group's modules, relative to the checkout; a module is in the first group that fits."""
    files = sorted(path.relative_to(folder) for path in folder.glob("pipelines/**/*.py"))
    return [path for path in files if _group_of(path, groups) == name]


def _group_of(path: Path, groups: Sequence[dict[str, Any]]) -> str | None:
    fits = (g["name"] for g in groups if any(fnmatch(str(path), p) for p in g["paths"]))
    return next(fits, None)


def configure(folder: Path, paths: Sequence[Path], tests: Sequence[str]) -> None:
    """Write mutmut's settings into the copy's pyproject.toml."""
    configuration = {
        "source_paths": ["pipelines", "simulators"],
        "only_mutate": [str(path) for path in paths],
        "pytest_add_cli_args_test_selection": list(tests),
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "also_copy": list(COPIED),
        "process_isolation": "forkserver",
        "use_git_change_detection": False,
        "track_dependencies": False,
        "timeout_constant": 20.0,
        "timeout_multiplier": 4.0,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in configuration.items()]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = project + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def run(
    folder: Path,
    paths: Sequence[Path],
    tests: Sequence[str],
    mutants: Sequence[str],
    processes: int,
) -> dict[str, str]:
    """How each mutant fared by these tests."""
    if not mutants:
        return {}
    shutil.rmtree(folder / "mutants", ignore_errors=True)
    (folder / "mutants").mkdir()  # Python remembers of a path that it is not there
    configure(folder, paths, tests)
    # Child processes of the tests import the mutated sources too, not those of the checkout.
    environment = {**os.environ, "PYTHONPATH": str(folder / "mutants")}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *mutants]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    found = results(folder, mutants)
    if not found or all(how == "not checked" for how in found.values()):
        sys.exit(f"mutmut did not run:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return found


def results(folder: Path, mutants: Sequence[str]) -> dict[str, str]:
    """What mutmut wrote down of each mutant."""
    from mutmut.stats import status_by_exit_code

    codes: dict[str, int | None] = {}
    for path in folder.glob("mutants/**/*.meta"):
        codes |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return {name: status_by_exit_code[codes.get(name)] for name in mutants}


def survivor(folder: Path, name: str) -> Survivor:
    """A survivor with the lines that differ."""
    shown = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = shown.splitlines()
    path = next((line[4:].split("\t")[0] for line in lines if line.startswith("--- ")), "")

    def those(sign: str) -> str:
        mine = (s[1:].strip() for s in lines if s.startswith(sign) and not s.startswith(sign * 3))
        return "\n".join(mine)

    return Survivor(name, path, those("-"), those("+"), shown)


def report(
    counts: Counter[str], survivors: Sequence[Survivor], explained: Sequence[dict[str, str]]
) -> tuple[str, list[Survivor]]:
    """The report, and the survivors that nobody has explained."""
    new = [one for one in survivors if not one.is_explained(explained)]
    total = sum(counts.values())
    survived = len(survivors)
    parts = [f"# {one.name}\n{one.diff}" for one in new]
    summary = ", ".join(f"{number} {how}" for how, number in sorted(counts.items()))
    parts.append(
        f"{total} mutants: {total - survived} noticed, {survived - len(new)} explained, "
        f"{len(new)} survivors ({summary})"
    )
    return "\n".join(parts), new


if __name__ == "__main__":
    sys.exit(main())
