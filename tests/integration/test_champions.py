"""Versions before the gate, and champions scored on labels as they arrive."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from conftest import Clock
from tiny_model import ACCEPTED, new_run, register

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.errors import SynchroChainError, UsageError
from pipelines.lake.clock import utc_now
from pipelines.lake.state import PipelineState
from pipelines.live_databases import LiveDatabases
from pipelines.monitoring import champions
from pipelines.monitoring.champions import Health, collect, consider, score_champions
from pipelines.registry.gate import GatePolicy, Verdict
from pipelines.registry.signatures import CONTRACTS
from pipelines.registry.store import CHALLENGER, CHAMPION, ModelRegistry, ModelVersion
from pipelines.settings import DataConfig
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Dataset, Evaluation, Progress, Trained

NOW = datetime(2026, 1, 31, 12)
TRUTH = 0.3
MODEL = "supply_gnn"
HEALTHY = Health(
    ages=dict.fromkeys(CONTRACTS[MODEL].views, 60.0),
    agreement=dict.fromkeys(CONTRACTS[MODEL].views, 1.0),
)


class Guessing:
    """A task whose truth is one number: a level is the better the nearer it lies."""

    name, model, service = "gnn", MODEL, CONTRACTS[MODEL].service

    def __init__(self, rows: int = 500, drifted: bool = False) -> None:
        self.rows, self.drifted = rows, drifted
        self.asked: list[datetime | None] = []

    def dataset(
        self, source: TrainingSource, *, quick: bool, since: datetime | None = None
    ) -> Dataset:
        assert quick
        assert source.files("log", "shipments")
        self.asked.append(since)
        if not self.rows:
            raise TrainingDataError("no labels")
        return self.data()

    def data(self) -> Dataset:
        random = np.random.default_rng(1)
        moments = np.datetime64(NOW, "us") - np.arange(self.rows) * np.timedelta64(60, "s")
        delay_risk = random.normal(1.0 if self.drifted else 0.0, 1.0, self.rows)
        return Dataset({"delay_risk": delay_risk}, {}, moments, np.arange(self.rows))

    def train(
        self, data: Dataset, *, seeds: Sequence[int], quick: bool, progress: Progress
    ) -> Trained:
        raise NotImplementedError

    def evaluate(self, predictor: Any, data: Dataset) -> Evaluation:
        noise = np.random.default_rng(2).normal(0.0, 0.1, len(data))
        losses = np.abs(predictor.level - TRUTH) + np.abs(noise)
        return Evaluation({"r2": 1 - float(losses.mean()), "odd": float("nan")}, losses, 0.01)


REFERENCE = {"delay_risk": np.random.default_rng(3).normal(0.0, 1.0, 1000)}


@pytest.fixture(scope="module", autouse=True)
def kind() -> Iterator[None]:
    """The tiny model can be registered."""
    with tiny_model.known():
        yield


@pytest.fixture(scope="module")
def shop(small_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small shop with an MLflow store, without the online side."""
    folder = tmp_path_factory.mktemp("shop") / "data"
    shutil.copytree(small_shop, folder, ignore=shutil.ignore_patterns("redis", "mlflow"))
    new_run(ModelRegistry(BatchConfig(data_dir=folder)))
    return folder


@pytest.fixture
def registry(shop: Path, tmp_path: Path) -> ModelRegistry:
    """A registry of its own for each test, with the shop's logs beside it."""
    shutil.copytree(shop, tmp_path / "data")
    return ModelRegistry(BatchConfig(data_dir=tmp_path / "data"))


def judged(
    registry: ModelRegistry, version: ModelVersion, task: Guessing | None = None, **more: Any
) -> Verdict:
    """Put a version before the gate, with healthy features unless said otherwise."""
    task = task or Guessing()
    given: dict[str, Any] = {"reference": REFERENCE, "health": lambda: HEALTHY, "now": lambda: NOW}
    return consider(registry, task, task.data(), version, **(given | more))


def aliases(registry: ModelRegistry) -> dict[str, int]:
    """Which version each alias stands for."""
    return {alias: v.version for v in registry.versions(MODEL) for alias in v.aliases}


# The gate


def test_the_first_baseline_is_champion_unjudged(registry: ModelRegistry) -> None:
    """Something has to be there to be beaten; the tag says that it was the first."""
    baseline = register(registry, 0.9, is_baseline=True)
    verdict = judged(registry, baseline)
    assert (verdict.accepted, verdict.word) == (True, "first")
    assert aliases(registry) == {CHAMPION: 1}
    assert registry.get(MODEL, 1).tags["gate.verdict"] == "first"


def test_a_better_model_replaces_the_baseline(registry: ModelRegistry) -> None:
    """It is champion and challenger no more, and its tags say why."""
    judged(registry, register(registry, 0.9, is_baseline=True))
    verdict = judged(registry, register(registry, 0.35))
    assert verdict.accepted
    assert aliases(registry) == {CHAMPION: 2}
    tags = registry.get(MODEL, 2).tags
    assert tags["gate.verdict"] == "accepted"
    assert (tags["gate.against"], tags["gate.at"]) == ("1", "2026-01-31 12:00:00")
    assert tags["gate.better"].startswith("ok: loss -0.55 [-0.55, -0.55] against champion 1")
    assert tags["gate.drift"].startswith("ok: index of 1 features; largest: delay_risk 0.0")
    assert {"gate.calibrated", "gate.fresh", "gate.consistent"} <= tags.keys()
    assert registry.rollback(MODEL).version == 1


def test_a_baseline_that_beats_the_model_stays_champion(registry: ModelRegistry) -> None:
    """The model remains challenger, with the reason."""
    judged(registry, register(registry, 0.31, is_baseline=True))
    verdict = judged(registry, register(registry, 0.5))
    assert not verdict.accepted
    assert aliases(registry) == {CHAMPION: 1, CHALLENGER: 2}
    tags = registry.get(MODEL, 2).tags
    assert tags["gate.verdict"] == "refused"
    assert tags["gate.better"].startswith("refused: loss +0.19")


def test_a_later_challenger_takes_the_alias_over(registry: ModelRegistry) -> None:
    """There is one challenger: the newest."""
    for level in (0.31, 0.5, 0.6):
        judged(registry, register(registry, level, is_baseline=level == 0.31))
    assert aliases(registry) == {CHAMPION: 1, CHALLENGER: 3}


def test_a_model_without_any_baseline_still_has_to_pass(registry: ModelRegistry) -> None:
    """There is nothing to beat, but its features may be stale."""
    stale = Health({**HEALTHY.ages, "route_conditions": 1e6}, HEALTHY.agreement)
    first = register(registry, 0.5)
    assert not judged(registry, first, health=lambda: stale).accepted
    assert aliases(registry) == {CHALLENGER: 1}
    assert judged(registry, first).accepted
    assert registry.get(MODEL, 1).tags["gate.against"] == "nothing"
    assert aliases(registry) == {CHAMPION: 1}


def test_a_drifted_feature_keeps_a_better_model_out(registry: ModelRegistry) -> None:
    """The training set is not the world of today."""
    judged(registry, register(registry, 0.9, is_baseline=True))
    verdict = judged(registry, register(registry, 0.35), Guessing(drifted=True))
    assert [check.name for check in verdict.reasons if not check.ok] == ["drift"]
    assert aliases(registry) == {CHAMPION: 1, CHALLENGER: 2}


def test_a_feature_that_swings_every_week_keeps_nobody_out(registry: ModelRegistry) -> None:
    """What earlier weeks of the data set differ by is no drift; it is read from their moments."""

    class Swinging(Guessing):
        def data(self) -> Dataset:
            made = super().data()
            days = np.linspace(0.0, 27.9, self.rows)
            moments = np.datetime64(NOW, "us") - (days * 86_400e6).astype("timedelta64[us]")
            level = np.where(days // 7 % 2 == 0, 2.0, -2.0)
            risk = np.random.default_rng(5).normal(level, 1.0)
            return Dataset({"delay_risk": risk}, {}, moments, made.groups)

    judged(registry, register(registry, 0.9, is_baseline=True))
    verdict = judged(registry, register(registry, 0.35), Swinging(2000))
    assert verdict.accepted
    tag = registry.get(MODEL, 2).tags["gate.drift"]
    assert " before)" in tag


def test_only_the_views_that_the_model_reads_count(registry: ModelRegistry) -> None:
    """A shop without orders does not stale the routes."""
    other = {"user_orders": None, "session_events": 1e9}
    health = Health({**HEALTHY.ages, **other}, {**HEALTHY.agreement, "user_orders": None})
    assert judged(registry, register(registry, 0.35), health=lambda: health).accepted


def test_the_policy_can_be_another(registry: ModelRegistry) -> None:
    """Bounds are configuration."""
    judged(registry, register(registry, 0.9, is_baseline=True))
    policy = GatePolicy(max_calibration_error=0.0, min_units=1000)
    verdict = judged(registry, register(registry, 0.35), policy=policy)
    assert [check.name for check in verdict.reasons if not check.ok] == ["better"]


def test_a_champion_that_does_not_load_is_replaced(registry: ModelRegistry) -> None:
    """The challenger is compared with the best there is: the newest baseline."""
    judged(registry, register(registry, 0.9, is_baseline=True))
    judged(registry, register(registry, 0.35))
    for file in registry.get(MODEL, 2).folder.rglob("level.json"):
        file.write_text("")
    worse_than_baseline = judged(registry, register(registry, 0.95))
    assert not worse_than_baseline.accepted
    verdict = judged(registry, register(registry, 0.5))
    assert verdict.accepted
    tags = registry.get(MODEL, 4).tags
    assert "against baseline 1, for champion 2 does not load" in tags["gate.better"]
    assert aliases(registry)[CHAMPION] == 4


def test_a_baseline_is_champion_where_the_champion_does_not_load(registry: ModelRegistry) -> None:
    """Whatever the gate would say: without it, rules would decide."""
    judged(registry, register(registry, 0.9, is_baseline=True))
    for file in registry.get(MODEL, 1).folder.rglob("level.json"):
        file.write_text("")
    stale = Health(dict.fromkeys(HEALTHY.ages), HEALTHY.agreement)
    verdict = judged(registry, register(registry, 0.95, is_baseline=True), health=lambda: stale)
    assert verdict.word == "first"
    assert aliases(registry)[CHAMPION] == 2
    assert registry.rollback(MODEL).version == 1


def test_the_champion_is_not_judged_against_itself(registry: ModelRegistry) -> None:
    """Whoever asks for it has mistaken the version."""
    first = register(registry, 0.5, is_baseline=True)
    judged(registry, first)
    with pytest.raises(UsageError, match="supply_gnn 1 is the champion already"):
        judged(registry, first)


# The features' health


def test_health_is_read_from_published_files_and_an_audit(in_small_shop: Path) -> None:
    """Every view has an age and agrees online with offline."""
    health = collect(BatchConfig(), sample=20)
    assert health.unknown == ""
    assert all(0 <= (age or 0) < 7 * 86_400 for age in health.ages.values())
    assert health.agreement["route_conditions"] == 1.0
    assert health.ages.keys() == health.agreement.keys() >= set(CONTRACTS[MODEL].views)


def test_without_redis_the_agreement_is_not_known(
    in_small_shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ages are; the reason is the error's line."""
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_PORT", "1")
    health = collect(BatchConfig(), DataConfig(), sample=20)
    assert health.agreement == {}
    assert "127.0.0.1:1" in health.unknown
    assert health.ages["route_conditions"] is not None


def test_a_gate_that_cannot_ask_redis_refuses_and_says_so(registry: ModelRegistry) -> None:
    """Not known is no reason to change what serves."""
    judged(registry, register(registry, 0.9, is_baseline=True))
    away = Health(HEALTHY.ages, {}, "no Redis at 127.0.0.1:1")
    verdict = judged(registry, register(registry, 0.35), health=lambda: away)
    assert [check.name for check in verdict.reasons if not check.ok] == ["consistent"]
    tag = registry.get(MODEL, 2).tags["gate.consistent"]
    assert tag.startswith("refused: not known: no Redis at 127.0.0.1:1")


# Scoring champions


@pytest.fixture
def champion(registry: ModelRegistry) -> ModelVersion:
    """A champion whose loss is 0.2 and a little noise."""
    return registry.promote(MODEL, register(registry, 0.5, tags=ACCEPTED).version)


def history(registry: ModelRegistry, version: ModelVersion, name: str) -> list[tuple[int, float]]:
    """A metric's moments (ms) and values."""
    with registry.store.client() as client:
        found = client.get_metric_history(version.run_id, f"champion_{name}")
    return [(metric.timestamp, metric.value) for metric in found]


def touch_shipments(registry: ModelRegistry, clock: Clock | None = None) -> None:
    """Change every shipment in the live database and publish the changes."""
    config = registry.config
    path = config.data_dir / "live_databases" / "supply_chain.db"
    with closing(sqlite3.connect(path)) as live, live:
        live.execute("UPDATE shipments SET status = status")
    BatchProcessor(config, clock=clock or utc_now).run_cycle(update=False)


def test_a_champion_is_scored_on_what_became_known(
    registry: ModelRegistry, champion: ModelVersion
) -> None:
    """From its registration on; into its history and onto its tags."""
    task = Guessing()
    found = score_champions(registry.config, {MODEL: lambda _: task}, NOW)
    assert task.asked == [champion.created]
    scored = found[MODEL]
    assert (scored["version"], scored["labels"]) == (1, 500)
    assert scored["loss"] == pytest.approx(0.2 + 0.08, abs=0.01)
    assert scored["calibration_error"] == 0.01
    assert "odd" not in scored
    json.dumps(found)
    assert history(registry, champion, "loss") == [(1769860800000, scored["loss"])]
    tags = registry.get(MODEL, 1).tags
    assert tags["champion.scored_at"] == "2026-01-31 12:00:00"
    assert tags["champion.labels"] == "500"
    assert float(tags["champion.loss"]) == pytest.approx(scored["loss"], rel=1e-5)


def test_labels_are_scored_once(registry: ModelRegistry, champion: ModelVersion) -> None:
    """Then only those that have become known since; nobody is asked while there are none."""
    task = Guessing()
    score_champions(registry.config, {MODEL: lambda _: task}, NOW)
    assert score_champions(registry.config, {MODEL: lambda _: task}, NOW) == {}
    assert len(task.asked) == 1
    ends = PipelineState(registry.config.state_path).files("log", "shipments")
    upto = max(file.max_time for file in ends if file.max_time)
    touch_shipments(registry)
    later = NOW + timedelta(minutes=5)
    assert MODEL in score_champions(registry.config, {MODEL: lambda _: task}, later)
    assert task.asked[1] == max(upto, champion.created)
    assert [moment for moment, _ in history(registry, champion, "loss")] == [
        1769860800000,
        1769861100000,
    ]


def test_labels_of_what_had_not_ended_are_scored_later(
    registry: ModelRegistry, champion: ModelVersion
) -> None:
    """A session that the log cut off is no label yet: scoring goes on from the log's last event."""
    state = PipelineState(registry.config.state_path)
    upto = max(f.max_time for f in state.files("log", "shipments") if f.max_time)
    for until in (upto - timedelta(minutes=20), upto + timedelta(minutes=20)):

        class CutOff(Guessing):
            def data(self, until: datetime = until) -> Dataset:
                return replace(super().data(), extra={"until": np.datetime64(until, "us")})

        state.set_metadata(f"champion_scored:{MODEL}", "")
        assert MODEL in score_champions(registry.config, {MODEL: lambda _: CutOff()}, NOW)
        noted = json.loads(state.metadata(f"champion_scored:{MODEL}") or "")
        assert noted == {"scored": min(until, upto).isoformat(), "looked": upto.isoformat()}


@pytest.mark.parametrize("rows", [0, champions.MIN_NEW_LABELS - 1])
def test_too_few_labels_wait_for_more(
    registry: ModelRegistry, champion: ModelVersion, rows: int
) -> None:
    """They are not forgotten, and Feast is not asked again before more rows have come."""
    task = Guessing(rows)
    touch_shipments(registry)  # committed after the champion was registered
    assert score_champions(registry.config, {MODEL: lambda _: task}, NOW) == {}
    assert score_champions(registry.config, {MODEL: lambda _: task}, NOW) == {}
    assert len(task.asked) == 1
    touch_shipments(registry)
    task.rows = 500
    assert MODEL in score_champions(registry.config, {MODEL: lambda _: task}, NOW)
    assert task.asked == [champion.created, champion.created]


def test_a_new_champion_is_not_scored_on_labels_from_before_it(
    registry: ModelRegistry, champion: ModelVersion
) -> None:
    """It may have been trained on them."""
    task = Guessing()
    score_champions(registry.config, {MODEL: lambda _: task}, NOW)
    second = registry.promote(MODEL, register(registry, 0.35, tags=ACCEPTED).version)
    touch_shipments(registry)
    score_champions(registry.config, {MODEL: lambda _: task}, NOW)
    assert task.asked[1] is not None
    assert task.asked[1] >= second.created


def test_without_a_champion_nothing_is_scored(registry: ModelRegistry) -> None:
    """Nor without a store; and it is not looked for again until there are new rows."""
    task = Guessing()
    assert score_champions(registry.config, {MODEL: lambda _: task}, NOW) == {}
    assert task.asked == []
    shutil.rmtree(registry.config.mlflow_path)
    assert score_champions(registry.config, {MODEL: lambda _: task}, NOW) == {}


def test_a_broken_champion_is_told_and_tried_again(
    registry: ModelRegistry, champion: ModelVersion
) -> None:
    """In its place in the answer; the labels are not lost."""
    (path,) = champion.folder.rglob("level.json")
    good = path.read_text()
    path.write_text("")
    task = Guessing()
    found = score_champions(registry.config, {MODEL: lambda _: task}, NOW)
    assert "truncated or altered" in found[MODEL]["error"]
    path.write_text(good)
    assert score_champions(registry.config, {MODEL: lambda _: task}, NOW)[MODEL]["labels"] == 500


def test_a_damaged_note_starts_again(registry: ModelRegistry, champion: ModelVersion) -> None:
    """From the champion's registration."""
    PipelineState(registry.config.state_path).set_metadata(f"champion_scored:{MODEL}", "[")
    task = Guessing()
    assert MODEL in score_champions(registry.config, {MODEL: lambda _: task}, NOW)
    assert task.asked == [champion.created]


def test_nothing_new_costs_no_heavy_import(registry: ModelRegistry, champion: ModelVersion) -> None:
    """Neither MLflow nor Feast, every five minutes."""
    score_champions(registry.config, {MODEL: lambda _: Guessing()}, NOW)
    program = f"""
import sys
from pathlib import Path
from pipelines.lake.clock import utc_now
from pipelines.monitoring.champions import score_champions
from pipelines.settings import BatchConfig
tasks = {{{MODEL!r}: None}}
assert score_champions(BatchConfig(data_dir=Path(sys.argv[1])), tasks, utc_now()) == {{}}
print([name for name in ("mlflow", "feast", "torch", "sklearn") if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(registry.config.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("[]\n", "")


# The batch cycle


@pytest.fixture
def cycle(folder: Path, clock: Clock) -> Callable[..., BatchProcessor]:
    """Makes a processor of a shop that has no rows yet, with something hung onto its update."""
    data = DataConfig(data_dir=folder)
    with LiveDatabases.open(data) as databases:
        databases.create()

    def made(hook: Callable[[], dict[str, Any]] | None) -> BatchProcessor:
        config = BatchConfig(data_dir=folder)
        return BatchProcessor(config, data, clock=clock, after_update=hook)

    return made


def test_what_is_hung_onto_the_update_is_in_the_report(
    cycle: Callable[..., BatchProcessor],
) -> None:
    """After the step's own work, once a cycle that updates; remembered with the cycle."""
    told: list[int] = []

    def hook() -> dict[str, Any]:
        told.append(1)
        return {MODEL: {"loss": 0.5}}

    processor = cycle(hook)
    assert processor.run_cycle(update=False).after_update == {}
    assert processor.run_cycle().after_update == {MODEL: {"loss": 0.5}}
    assert len(told) == 1
    assert processor.state.last_cycles(1)[0].report["after_update"] == {MODEL: {"loss": 0.5}}
    assert cycle(None).run_cycle().after_update == {}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SynchroChainError("the registry is away"), "the registry is away"),
        (KeyError("loss"), "KeyError: 'loss'"),
    ],
)
def test_a_cycle_does_not_fail_with_what_is_hung_onto_it(
    cycle: Callable[..., BatchProcessor], error: Exception, line: str
) -> None:
    """The report has one line about it."""

    def hook() -> dict[str, Any]:
        raise error

    processor = cycle(hook)
    assert processor.run_cycle().after_update == {"error": line}
    assert processor.state.last_cycles(1)[0].status == "succeeded"
