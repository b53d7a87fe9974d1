"""The intent task end to end on a small shop: from Feast to a package that can be served."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines.models.intent.dataset import FIXED_PREFIXES, events_of, read_events
from pipelines.models.intent.task import IntentTask
from pipelines.models.intent.transformer import IntentConfig
from pipelines.registry.packaging import read_package, write_package
from pipelines.settings import BatchConfig
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Dataset

TASK = IntentTask(IntentConfig(width=8, heads=2, members=1, epochs=1))


@pytest.fixture
def source(in_small_shop: Path) -> TrainingSource:
    return TrainingSource(BatchConfig(data_dir=in_small_shop))


@pytest.fixture
def data(source: TrainingSource) -> Dataset:
    return TASK.dataset(source, quick=True)


def test_a_model_is_trained_packaged_and_scores_as_it_did(data: Dataset, tmp_path: Path) -> None:
    """The registered form gives on the hold-out what training measured, and the claims are made."""
    told: list[float] = []
    trained = TASK.train(data, seeds=(0,), quick=True, progress=lambda _, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert {claim.name.split(":")[0] for claim in trained.claims} == {"intent"}
    for number, candidate in enumerate([trained.model, *trained.baselines]):
        if candidate.kind is None:
            continue
        folder = tmp_path / str(number)
        write_package(candidate.predictor, candidate.kind, folder)
        found = TASK.evaluate(read_package(folder), data)
        assert found.metrics["log_loss"] == pytest.approx(candidate.metrics["log_loss"].mean)
    for draw in trained.figures.values():
        assert draw().axes
    again = trained.model.predictor
    assert again is not None
    outcome = again.predict(trained.example)["purchase_probability"]
    assert np.array_equal(outcome, trained.outcome["purchase_probability"])


def test_newly_known_outcomes_alone_are_scored(source: TrainingSource, data: Dataset) -> None:
    """A data set since a moment holds fixed prefixes of sessions that ended later."""
    events = read_events(source)
    since = events.time.max().astype(object) - timedelta(days=2)
    recent = TASK.dataset(source, quick=False, since=since)
    held: np.ndarray = recent.extra["events"].place[recent.extra["at"]]
    assert set(held) <= set(FIXED_PREFIXES)
    known = events.known[events.session[recent.extra["at"]]]
    assert known.min() > np.datetime64(since)
    trained = TASK.train(data, seeds=(0,), quick=True, progress=lambda *_: None)
    assert trained.model.predictor is not None
    found = TASK.evaluate(trained.model.predictor, recent)
    sessions = len(np.unique(events.session[recent.extra["at"]]))
    assert len(found.losses) == sessions


def test_an_empty_log_says_what_to_do() -> None:
    """Nothing to learn from is one clear line."""
    import pandas as pd

    with pytest.raises(TrainingDataError, match="synchrochain run"):
        events_of(pd.DataFrame({"session_id": []}))
