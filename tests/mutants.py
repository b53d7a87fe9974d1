"""Mutation testing by mutmut: a sample of mutants, and which of them no test notices.

Works on a copy of the checkout, so nothing is left in it. Survivors that `mutants.toml` explains
are counted apart; any other is printed as a diff, and makes the exit status 1.

Run as `make mutants`, or with names of groups: `.venv/bin/python tests/mutants.py gate`. After a
test was added: `.venv/bin/python tests/mutants.py --mutant NAME`, as a survivor is named.
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
from collections.abc import Collection, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from mutants_order import FAILURES, FILES

ROOT: Final = Path(__file__).resolve().parents[1]
SETTINGS: Final = ROOT / "tests" / "mutants.toml"
SAMPLE: Final = ROOT / "tests" / "mutants_sample.txt"
COPIED: Final = (
    "feature_repo",
    "data",
    "README.md",
    "docs",
    "Makefile",
    ".ci",
    "requirements.lock",
)
DOUBTED: Final = "noticed by a test that fails anyway"
SURVIVED: Final = ("survived", "no tests", DOUBTED)
NONE: Final = "none"  # no mutant's name
UNTRIED: Final = "not checked"


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
    parser.add_argument("--seed", type=int, help="draw other mutants than those of the sample")
    parser.add_argument("--sample", type=int, default=300, help="how many to draw (300)")
    parser.add_argument(
        "--mutant", action="append", dest="mutants", metavar="NAME", help="this one; repeatable"
    )
    parser.add_argument("--processes", type=int, default=1, help="mutants at a time")
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
        wanted_groups = set(given.groups if given.seed is None else ()) or None
        known = all_mutants(folder, settings["groups"], wanted_groups)
        if missing := sorted(set(given.mutants or ()) - known.keys()):
            parser.error(f"there is no mutant called {', '.join(missing)}")
        drawn = given.mutants or sample(known, given.seed, given.sample)
        print(f"{len(drawn)} of {len(known)} mutants", flush=True)
        for group in settings["groups"]:
            if given.groups and group["name"] not in given.groups:
                continue
            wanted = sorted(name for name in drawn if known[name] == group["name"])
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


def all_mutants(
    folder: Path, groups: Sequence[dict[str, Any]], wanted: Set[str] | None = None
) -> dict[str, str]:
    """The names of all mutants, or of these groups, each with its group; always in one order."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    configure(folder, [], [])
    os.chdir(folder)  # where mutmut looks for its settings
    known: dict[str, str] = {}
    for group in [g for g in groups if wanted is None or g["name"] in wanted]:
        for path in paths_of(folder, groups, group["name"]):
            made = mutate_file_contents(str(path), (folder / path).read_text(encoding="utf-8"))
            known |= {get_mutant_name(path, name): group["name"] for name in made.mutant_names}
    return known


def sample(known: Collection[str], seed: int | None, size: int) -> list[str]:
    """So many by a seed, or the ones in `mutants_sample.txt`, which a change elsewhere leaves."""
    if seed is not None:
        return random.Random(seed).sample(list(known), min(size, len(known)))
    modules = {name.rpartition(".")[0] for name in known}
    kept = SAMPLE.read_text(encoding="utf-8").split()
    kept = [name for name in kept if name.rpartition(".")[0] in modules]
    if gone := sorted(set(kept).difference(known)):
        print(f"no longer there: {', '.join(gone)}", flush=True)
    return [name for name in kept if name not in gone]


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
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "mutants_order"],
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
    ours = [folder / "mutants", folder / "mutants" / "tests"]
    for one in ours:
        one.mkdir()  # Python remembers of a path that it is not there
    configure(folder, paths, tests)
    # Child processes of the tests import the mutated sources too, not those of the checkout.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, ours)),
        FILES: json.dumps(list(tests)),
        FAILURES: str(folder / "failures"),
    }
    (folder / "failures").write_text("")
    mutmut = str(folder / "tests" / "mutants_order.py")
    command = [sys.executable, mutmut, "run", "--max-children", str(processes), *mutants]
    said = folder / "mutmut.log"
    with said.open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        found: dict[str, str] = {}
        while not found or process.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            found = merged(results(folder, mutants), found, folder)
    if all(how == UNTRIED for how in found.values()):
        lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line for line in lines if not line.endswith((" stats", " mutants"))]
        lines += ["\n".join(failure) for failure in failures(folder)]
        sys.exit("mutmut did not run:\n" + "\n".join(lines)[-6000:])
    return doubted(folder, environment, found)


def failures(folder: Path) -> list[list[str]]:
    """The mutant, the test and what it said, of each failure up to now."""
    found = []
    for line in (folder / "failures").read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # it is being written
            found.append(json.loads(line))
    return found


def doubted(folder: Path, environment: dict[str, str], found: dict[str, str]) -> dict[str, str]:
    """What was found, with doubt where a test has noticed a mutant that fails without one too."""
    by = {mutant: test for mutant, test, _ in failures(folder) if mutant in found}
    if not by:
        return found
    plugins = ["-p", "no:cacheprovider", "-p", "mutants_order"]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *sorted(set(by.values()))],
        cwd=folder / "mutants",
        env={**environment, "MUTANT_UNDER_TEST": NONE},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    failed = {test for mutant, test, _ in failures(folder) if mutant == NONE}
    return {name: DOUBTED if by.get(name) in failed else how for name, how in found.items()}


def merged(found: dict[str, str], before: dict[str, str], folder: Path) -> dict[str, str]:
    """All that was found up to now, when what is new of it has been printed."""
    known = {name: how for name, how in before.items() if how != UNTRIED}
    by = {mutant: test for mutant, test, _ in failures(folder)}
    for name, how in found.items():
        if how != UNTRIED and name not in known:
            known[name] = how
            test = f" by {by[name]}" if name in by else ""
            print(f"  {len(known)} of {len(found)}: {name} {how}{test}", flush=True)
    return found | known


def results(folder: Path, mutants: Sequence[str]) -> dict[str, str]:
    """What mutmut wrote down of each mutant."""
    from mutmut.stats import status_by_exit_code

    codes: dict[str, int | None] = {}
    for path in folder.glob("mutants/**/*.meta"):
        with suppress(json.JSONDecodeError):  # it is being written
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
