"""The gate's decisions: which evidence is enough, and what is said of each check."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from pipelines.registry.gate import (
    GateEvidence,
    GatePolicy,
    Verdict,
    decide,
    loss_difference,
)

UNITS = 400
POLICY = GatePolicy()


def losses(seed: int, mean: float = 0.3) -> Any:
    return np.random.default_rng(seed).normal(mean, 0.1, UNITS)


GOOD = GateEvidence(
    challenger=losses(0) - 0.02,
    champion=losses(0),
    rival="champion 1",
    calibration_error=0.01,
    champion_calibration_error=0.01,
    ages={"user_intent": 60.0, "session_events": 30.0},
    agreement={"user_intent": 1.0, "session_events": 0.9995},
    drift={"intent_score": 0.02},
)


def reason(verdict: Verdict, name: str) -> str:
    """The line of one check."""
    return next(check.outcome for check in verdict.reasons if check.name == name)


def refused(**changes: Any) -> list[str]:
    """The checks that refuse the good evidence with these changes."""
    verdict = decide(replace(GOOD, **changes))
    assert verdict.accepted == all(check.ok for check in verdict.reasons)
    return [check.name for check in verdict.reasons if not check.ok]


# Better


def test_a_challenger_that_is_better_in_everything_is_accepted() -> None:
    """With a line for every check."""
    verdict = decide(GOOD)
    assert verdict.accepted
    assert verdict.word == "accepted"
    names = [check.name for check in verdict.reasons]
    assert names == ["better", "calibrated", "fresh", "consistent", "drift"]
    assert all(check.outcome.startswith("ok: ") for check in verdict.reasons)


def test_a_worse_challenger_is_refused() -> None:
    """However small the difference, if it is sure."""
    assert refused(challenger=losses(0) + 0.02) == ["better"]


def test_the_same_model_is_not_better_than_itself() -> None:
    """A difference of zero is none."""
    assert refused(challenger=losses(0)) == ["better"]


def test_an_improvement_within_noise_is_refused() -> None:
    """The mean is lower, and it could as well have been higher."""
    noisy = losses(0) - 0.002 + np.random.default_rng(9).normal(0, 0.1, UNITS)
    evidence = replace(GOOD, challenger=noisy)
    mean, low, high = loss_difference(noisy, losses(0), None, POLICY)
    assert low < 0 < high
    assert abs(mean) < high - low
    assert not decide(evidence).accepted


def test_pairing_finds_what_unpaired_means_hide() -> None:
    """A small steady gain is seen although the units differ by far more among themselves."""
    gain = 0.005
    assert np.std(losses(0)) / np.sqrt(UNITS) * 2 > gain * 1.5
    assert refused(challenger=losses(0) - gain) == []


def test_losses_of_one_unit_do_not_count_as_many() -> None:
    """Forty copies of each of ten differences prove no more than the ten do."""
    ten = np.random.default_rng(5).normal(-0.02, 0.05, 10)
    difference, units = np.repeat(ten, 40), np.repeat(np.arange(10), 40)
    champion = np.full(400, 0.5)
    alone = loss_difference(champion + difference, champion, None, POLICY)
    whole = loss_difference(champion + difference, champion, units, POLICY)
    single = loss_difference(champion[:10] + ten, champion[:10], None, POLICY)
    assert alone[0] == pytest.approx(whole[0])
    assert whole[2] - whole[1] == pytest.approx(single[2] - single[1])
    assert whole[2] - whole[1] > 5 * (alone[2] - alone[1])


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Over 200 draws of the data, 95 % give or take what so few draws allow."""
    policy = GatePolicy(resamples=400)
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        champion = random.normal(0.5, 0.2, 60)
        challenger = champion + random.normal(-0.05, 0.1, 60)
        _, low, high = loss_difference(challenger, champion, None, policy)
        hits += low < -0.05 < high
    assert 0.90 <= hits / 200 <= 0.98


def test_the_same_evidence_gets_the_same_verdict() -> None:
    """The draws are seeded; another seed moves the ends a little."""
    first, again = decide(GOOD), decide(GOOD)
    assert first == again
    other = GatePolicy(seed=1)
    here = loss_difference(GOOD.challenger + losses(3), losses(0), None, POLICY)
    there = loss_difference(GOOD.challenger + losses(3), losses(0), None, other)
    assert here != there
    assert here == pytest.approx(there, rel=0.05)


def test_units_may_have_different_numbers_of_losses() -> None:
    """The mean is over losses, not over units; names of units may be anything."""
    units = np.array(["a"] * 30 + ["b"] * 10 + [f"u{i}" for i in range(60)])
    champion = np.zeros(100)
    challenger = np.where(units == "a", -1.0, 0.5)
    mean, low, high = loss_difference(challenger, champion, units, POLICY)
    assert mean == pytest.approx(-0.3 + 0.35)
    assert low < mean < high


def test_too_few_units_prove_nothing() -> None:
    """However large the difference."""
    few = np.full(9, 0.1)
    verdict = decide(replace(GOOD, challenger=few, champion=few + 1))
    assert reason(verdict, "better") == (
        "refused: only 9 units in the hold-out; wanted: at least 10"
    )
    many = np.repeat(np.arange(9), 50)
    assert refused(challenger=np.full(450, 0.1), champion=np.full(450, 1.1), units=many) == [
        "better"
    ]


@pytest.mark.parametrize("bad", [np.array([]), np.full(UNITS, np.nan), np.full(UNITS, np.inf)])
def test_a_challenger_without_finite_losses_is_refused(bad: Any) -> None:
    """It has failed where it was tried."""
    assert refused(challenger=bad) == ["better"]


def test_losses_of_different_hold_outs_cannot_be_compared() -> None:
    """That would be a mistake in the caller, not a verdict."""
    with pytest.raises(ValueError, match="different hold-outs"):
        decide(replace(GOOD, champion=losses(0)[:-1]))


def test_where_there_is_nothing_to_beat_the_other_checks_remain() -> None:
    """A first model still has to be calibrated and to read fresh features."""
    assert refused(champion=None, champion_calibration_error=None) == []
    assert refused(champion=None, champion_calibration_error=None, calibration_error=0.2) == [
        "calibrated"
    ]


# Calibrated


@pytest.mark.parametrize(
    ("found", "before", "ok"),
    [
        (0.02, 0.01, True),
        (0.021, 0.01, False),
        (0.03, 0.05, True),
        (0.06, 0.05, False),
        (0.03, None, False),
        (None, None, True),
    ],
)
def test_calibration_has_a_bound_that_a_worse_champion_widens(
    found: float | None, before: float | None, ok: bool
) -> None:
    """What is better calibrated than the champion is not refused for it."""
    found_wrong = refused(calibration_error=found, champion_calibration_error=before)
    assert found_wrong == ([] if ok else ["calibrated"])


# Fresh and consistent


@pytest.mark.parametrize(
    "ages",
    [
        {"user_intent": 86_401.0, "session_events": 1.0},
        {"user_intent": None, "session_events": 1.0},
        {},
    ],
)
def test_stale_or_missing_features_are_refused(ages: dict[str, float | None]) -> None:
    """The oldest view decides; one without rows, or none at all, is not fresh."""
    assert refused(ages=ages) == ["fresh"]


def test_the_line_names_the_stale_view() -> None:
    """With its age, so that one knows where to look."""
    verdict = decide(replace(GOOD, ages={"user_intent": 2 * 86_400.0, "session_events": 1.0}))
    assert reason(verdict, "fresh") == (
        "refused: oldest is user_intent, 48 h; wanted: each view at most 24 h old"
    )


@pytest.mark.parametrize(
    "agreement",
    [
        {"user_intent": 0.998, "session_events": 1.0},
        {"user_intent": None, "session_events": 1.0},
        {},
    ],
)
def test_features_that_are_served_otherwise_are_refused(
    agreement: dict[str, float | None],
) -> None:
    """And so are those of which nothing is known."""
    assert refused(agreement=agreement) == ["consistent"]


def test_an_audit_that_was_not_possible_refuses_and_says_why() -> None:
    """Unknown is not the same as unequal."""
    verdict = decide(replace(GOOD, unknown="Redis does not answer"))
    assert not verdict.accepted
    assert reason(verdict, "consistent").startswith("refused: not known: Redis does not answer")


# Drift


def test_a_feature_of_another_population_is_refused() -> None:
    """With its name and index."""
    verdict = decide(replace(GOOD, drift={"gaps": 0.1, "carts_7d": 0.3, "intent_score": 0.26}))
    assert not verdict.accepted
    assert reason(verdict, "drift") == (
        "refused: index of 3 features; beyond: carts_7d 0.300, intent_score 0.260; "
        "wanted: each at most 0.25, or what its earlier weeks moved by"
    )


def test_a_feature_that_always_moves_may_move_as_far_as_ever() -> None:
    """Means over few routes differ from week to week; only more than that is told."""
    usual = {"mean_delay_hours_7d": 0.9, "intent_score": 0.1}
    verdict = decide(replace(GOOD, drift={"mean_delay_hours_7d": 0.8}, usual_drift=usual))
    assert verdict.accepted
    assert "largest: mean_delay_hours_7d 0.800 (up to 0.900 before)" in reason(verdict, "drift")
    assert refused(drift={"mean_delay_hours_7d": 0.91}, usual_drift=usual) == ["drift"]
    assert refused(drift={"intent_score": 0.24}, usual_drift=usual) == []
    assert refused(drift={"intent_score": 0.26}, usual_drift=usual) == ["drift"]


def test_features_with_too_few_rows_are_told_and_do_not_refuse() -> None:
    """Chance alone would make their index."""
    verdict = decide(replace(GOOD, drift={"gaps": float("nan")}, undrifted=("a", "b")))
    assert verdict.accepted
    assert "2 with too few rows" in reason(verdict, "drift")


SEVEN = {f"f{n}": 0.3 + n / 10 for n in range(7)}


@pytest.mark.parametrize(
    ("changes", "name", "line"),
    [
        (
            {"challenger": np.array([np.nan]), "champion": np.array([0.1])},
            "better",
            "refused: the challenger has no finite losses on the hold-out; "
            "wanted: its 95% interval below 0",
        ),
        (
            {"challenger": np.zeros(3), "champion": np.ones(3)},
            "better",
            "refused: only 3 units in the hold-out; wanted: at least 10",
        ),
        ({"champion": None}, "better", "ok: loss 0.27634, nothing to beat; wanted: nothing"),
        ({"calibration_error": None}, "calibrated", "ok: gives no probabilities; wanted: nothing"),
        ({}, "calibrated", "ok: calibration error 0.0100, champion 1 0.0100; wanted: at most 0.02"),
        ({"ages": {}}, "fresh", "refused: no rows in any view; wanted: each view at most 24 h old"),
        ({}, "fresh", "ok: oldest is user_intent, 0.017 h; wanted: each view at most 24 h old"),
        (
            {},
            "consistent",
            "ok: worst is session_events, 99.950%; "
            "wanted: each view at least 99.9% equal online and offline",
        ),
        (
            {"agreement": {"a": None, "b": 1.0}},
            "consistent",
            "refused: not known: no key was compared of a; "
            "wanted: each view at least 99.9% equal online and offline",
        ),
        (
            {"drift": {}},
            "drift",
            "ok: no features compared; "
            "wanted: each at most 0.25, or what its earlier weeks moved by",
        ),
        (
            {"drift": {"b": 0.1, "a": 0.2}},
            "drift",
            "ok: index of 2 features; largest: a 0.200, b 0.100; "
            "wanted: each at most 0.25, or what its earlier weeks moved by",
        ),
        (
            {"drift": SEVEN},
            "drift",
            "refused: index of 7 features; beyond: f6 0.900, f5 0.800, f4 0.700, f3 0.600, "
            "f2 0.500 and 2 more; wanted: each at most 0.25, or what its earlier weeks moved by",
        ),
        (
            {"drift": dict(list(SEVEN.items())[:6])},
            "drift",
            "refused: index of 6 features; beyond: f5 0.800, f4 0.700, f3 0.600, f2 0.500, "
            "f1 0.400 and 1 more; wanted: each at most 0.25, or what its earlier weeks moved by",
        ),
    ],
)
def test_every_check_has_its_whole_line(changes: dict[str, Any], name: str, line: str) -> None:
    """What was found, and what was wanted; and the outcome is yes or no, never neither."""
    verdict = decide(replace(GOOD, **changes))
    assert reason(verdict, name).startswith(line)
    assert all(check.ok in (True, False) for check in verdict.reasons)


# Tags


def test_the_verdict_becomes_tags() -> None:
    """A tag per check, the verdict, its moment and what it was judged against."""
    verdict = decide(replace(GOOD, calibration_error=0.5))
    tags = verdict.tags(datetime(2026, 1, 31, 12), against="3")
    assert tags["gate.verdict"] == "refused"
    assert tags["gate.at"] == "2026-01-31 12:00:00"
    assert tags["gate.against"] == "3"
    assert tags["gate.calibrated"].startswith("refused: calibration error 0.5000")
    assert tags["gate.better"].startswith("ok: loss -0.02 [-0.02, -0.02] against champion 1")
    assert {"gate.fresh", "gate.consistent", "gate.drift"} <= tags.keys()
    assert all("\n" not in text and len(text) < 1000 for text in tags.values())


def test_a_first_champion_is_called_so() -> None:
    """It was not judged."""
    first = Verdict(True, (), first=True)
    tags = first.tags(datetime(2026, 1, 31))
    assert tags["gate.verdict"] == "first"
    assert tags["gate.against"] == "nothing"
