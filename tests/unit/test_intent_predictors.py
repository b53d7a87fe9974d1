"""The served forms of the intent model: saved and loaded alike, coherent, hard to upset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.models.intent.baselines import BaseRate, GradientBoosting, LogisticRegression
from pipelines.models.intent.features import AGGREGATES, LIST_FEATURES, USER_FEATURES
from pipelines.models.intent.fit_baselines import Rows, gradient_boosting, logistic_regression
from pipelines.models.intent.outputs import Calibration, outputs
from pipelines.models.intent.predictor import Transformer
from pipelines.models.intent.transformer import IntentConfig, IntentTransformer
from pipelines.registry.packaging import BrokenModelError, read_package, write_package


@pytest.fixture(scope="module")
def rows() -> Rows:
    """300 rows whose label follows the first aggregate."""
    rng = np.random.default_rng(0)
    features = rng.random((300, len(AGGREGATES))) * 10
    purchase = features[:, 0] + rng.normal(0, 1, 300) > 7
    return Rows(features, purchase, purchase & (rng.random(300) < 0.5), np.ones(300))


@pytest.fixture(scope="module")
def models(rows: Rows) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "intent/transformer": Transformer(
            IntentTransformer(IntentConfig(width=8, heads=2, members=2)).eval(),
            Calibration(1.1, -0.2),
        ),
        "intent/gradient_boosting": gradient_boosting(rows, rows, 0),
        "intent/logistic_regression": logistic_regression(rows, rows),
        "intent/base_rate": BaseRate(0.05, 0.4),
    }


KINDS = ("transformer", "gradient_boosting", "logistic_regression", "base_rate")


def request() -> dict[str, Any]:
    """A full row, a row with a purchase in it, and an unknown session of an unknown user."""
    columns: dict[str, Any] = {
        "actions": [["view", "add_to_cart"], ["view", "purchase"], None],
        "product_ids": [["P1", "P1"], ["P2", "P2"], None],
        "times_on_page": [[20.0, None], [5.0, 1.0], []],
        "scroll_depths": [[0.5, float("nan")], [0.2, 0.1], None],
        "gaps": [[0.0, 21.0], [0.0, 6.0], None],
        "event_count": [2, 2, None],
    }
    return columns | {name: [1.0, float("nan"), None] for name in USER_FEATURES}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_answers_as_before(kind: str, models: dict[str, Any], tmp_path: Path) -> None:
    """Written, checked and read back, it gives the very same numbers."""
    model = models[f"intent/{kind}"]
    write_package(model, f"intent/{kind}", tmp_path / "package")
    before = model.predict(request())
    after = read_package(tmp_path / "package").predict(request())
    for name, values in before.items():
        assert np.array_equal(values, after[name])


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_missing_there_is_a_coherent_answer(kind: str, models: dict[str, Any]) -> None:
    """Probabilities are in 0 to 1, urgency lies between half the purchase's and all of it."""
    found = models[f"intent/{kind}"].predict(request())
    purchase, urgency = found["purchase_probability"], found["urgency"]
    assert purchase.dtype == np.float64
    assert ((purchase >= 0) & (purchase <= 1)).all()
    assert (urgency <= purchase + 1e-9).all()
    assert (urgency >= purchase / 2 - 1e-9).all()
    assert set(found["urgency_class"]) <= {"low", "medium", "high"}


def test_a_row_is_answered_alike_alone_and_among_others(models: dict[str, Any]) -> None:
    """Serving one order and scoring many give the same probability."""
    together = models["intent/transformer"].predict(request())["purchase_probability"]
    for row in range(3):
        alone = {name: [values[row]] for name, values in request().items()}
        one = models["intent/transformer"].predict(alone)["purchase_probability"]
        assert one == pytest.approx(together[[row]], abs=1e-6)


def test_no_event_is_needed_from_feast_beyond_what_it_serves(models: dict[str, Any]) -> None:
    """Arrays as Feast and pandas return them do as well as lists."""
    columns = {name: [values[0]] for name, values in request().items()}
    arrays = columns | {name: [np.array(columns[name][0], dtype=object)] for name in LIST_FEATURES}
    model = models["intent/transformer"]
    assert model.predict(arrays)["urgency"] == pytest.approx(model.predict(columns)["urgency"])


def test_the_urgency_class_is_the_likeliest() -> None:
    """Low, medium and high share the probability."""
    found = outputs(np.array([0.3, 0.9, 0.9]), np.array([0.9, 0.1, 0.9]))
    assert found["urgency_class"].tolist() == ["low", "medium", "high"]
    assert found["urgency"] == pytest.approx([0.285, 0.495, 0.855])


def test_weights_of_another_size_are_a_broken_model(models: dict[str, Any], tmp_path: Path) -> None:
    """Weights that do not fit the settings are refused in one line."""
    torch.manual_seed(0)
    model = Transformer(IntentTransformer(IntentConfig(width=8, heads=2)), Calibration())
    model.network.config = IntentConfig(width=16, heads=2)
    write_package(model, "intent/transformer", tmp_path / "package")
    with pytest.raises(BrokenModelError, match="does not load"):
        read_package(tmp_path / "package")


def test_boosted_trees_of_other_types_are_refused(models: dict[str, Any], tmp_path: Path) -> None:
    """A skops file that names a type beyond boosted trees is not loaded."""
    import skops.io

    write_package(models["intent/gradient_boosting"], "intent/gradient_boosting", tmp_path / "p")
    skops.io.dump(Path("elsewhere"), tmp_path / "p" / "buys.skops")
    with pytest.raises(Exception, match=r"[Uu]ntrusted"):
        GradientBoosting.load(tmp_path / "p")


def test_logistic_regression_needs_no_pickle(models: dict[str, Any], tmp_path: Path) -> None:
    """Its only file is JSON."""
    models["intent/logistic_regression"].save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    assert isinstance(LogisticRegression.load(tmp_path), LogisticRegression)
