"""The gate: decides from evidence alone whether a challenger becomes champion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.printable import counted

Floats = NDArray[np.float64]
_DRAWN_AT_ONCE: Final = 4_000_000


@dataclass(frozen=True)
class GatePolicy:
    """The bounds, each with its reason.

    Attributes:
        confidence: of the interval of the loss difference that has to lie below zero.
        resamples: bootstrap draws; another seed moves an end by about 2 % of the interval's width.
        seed: of the draws, so that the same evidence gets the same result.
        min_units: below this many independent units the bootstrap's interval is too narrow.
        max_calibration_error: of probabilities on the hold-out; at 0.02 a shown 10 % is 8 to 12 %.
            A worse calibrated champion sets the bound instead, lest the gate keep it by refusing a
            better calibrated challenger.
        max_age_seconds: of the newest row of each view that the model reads. A day is the shortest
            time to live of a view (session_events): beyond it nothing of the view is served.
        min_agreement: online with offline values, by view; one in a thousand may be in flight.
        max_drift: population stability index of a feature; above 0.25 it is another population.
            A feature that moves further from week to week by itself, such as a mean over seven days
            of a few dozen routes, has that as its bound.
        min_drift_rows: with fewer rows on a side, chance alone makes an index near that bound.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    min_units: int = 10
    max_calibration_error: float = 0.02
    max_age_seconds: float = 86_400.0
    min_agreement: float = 0.999
    max_drift: float = 0.25
    min_drift_rows: int = 200


@dataclass(frozen=True)
class GateEvidence:
    """The evidence on a challenger and the version that it would replace.

    Attributes:
        challenger: its loss per unit of the hold-out.
        champion: the losses of the version to beat, in the same order; None if there is none.
        units: what each loss belongs to; losses of one unit are drawn together. None: each its own.
        rival: the version to beat, in words.
        calibration_error: the challenger's; None if it gives no probabilities.
        champion_calibration_error: that of the version to beat.
        ages: seconds since the newest row by view; None where there is none.
        agreement: share of equal values online and offline, by view; None if no key was compared.
        unknown: why the agreement is not known, if so.
        drift: population stability index by feature.
        usual_drift: the largest index that an earlier week had against the others, by feature.
        undrifted: features with too few rows to compare.
    """

    challenger: Floats
    champion: Floats | None
    units: NDArray[Any] | None = None
    rival: str = "the champion"
    calibration_error: float | None = None
    champion_calibration_error: float | None = None
    ages: Mapping[str, float | None] = field(default_factory=dict)
    agreement: Mapping[str, float | None] = field(default_factory=dict)
    unknown: str = ""
    drift: Mapping[str, float] = field(default_factory=dict)
    usual_drift: Mapping[str, float] = field(default_factory=dict)
    undrifted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One check of the gate: its name, result and bound."""

    name: str
    ok: bool
    value: str
    bound: str

    @property
    def outcome(self) -> str:
        """As it is tagged under its name."""
        return f"{'ok' if self.ok else 'refused'}: {self.value}; wanted: {self.bound}"

    def __str__(self) -> str:
        """As it is printed."""
        return f"{self.name}: {self.outcome}"


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger is accepted, and every check that led to it."""

    accepted: bool
    reasons: tuple[Check, ...]
    first: bool = False
    """There was no champion and no version to beat."""

    @property
    def word(self) -> str:
        """accepted, refused, or first."""
        if self.first:
            return "first"
        return "accepted" if self.accepted else "refused"

    def tags(self, at: datetime, against: str = "") -> dict[str, str]:
        """The tags of the evaluated version; `at` is UTC and naive."""
        return {
            **{f"gate.{check.name}": check.outcome for check in self.reasons},
            "gate.against": against or "nothing",
            "gate.at": at.strftime("%Y-%m-%d %H:%M:%S"),
            "gate.verdict": self.word,
        }


def decide(evidence: GateEvidence, policy: GatePolicy | None = None) -> Verdict:
    """Decide on a challenger. It is accepted if every check holds."""
    policy = policy or GatePolicy()
    checks = (
        _better(evidence, policy),
        _calibrated(evidence, policy),
        _fresh(evidence, policy),
        _consistent(evidence, policy),
        _undrifted(evidence, policy),
    )
    return Verdict(all(check.ok for check in checks), checks)


def loss_difference(
    challenger: Floats, champion: Floats, units: NDArray[Any] | None, policy: GatePolicy
) -> tuple[float, float, float]:
    """Mean difference in loss, challenger − champion, with its paired cluster bootstrap interval.

    Whole units are drawn with replacement and keep all their losses, of both models; the interval
    is that of the percentiles (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    ch. 13; clusters: Cameron, Gelbach and Miller, 2008).

    Args:
        challenger: (losses,).
        champion: (losses,) of the same rows in the same order.
        units: (losses,) the unit of each loss; None if each is its own.
        policy: confidence, number of draws and their seed.

    Returns:
        The mean and the interval's ends.
    """
    difference = np.asarray(challenger, np.float64) - np.asarray(champion, np.float64)
    sums, counts = _by_unit(difference, units)
    random = np.random.default_rng(policy.seed)
    size = len(sums)
    step = max(1, _DRAWN_AT_ONCE // size)
    means = []
    for start in range(0, policy.resamples, step):
        drawn = random.integers(size, size=(min(step, policy.resamples - start), size))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (1 - policy.confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(difference.mean()), float(low), float(high)


def _by_unit(values: Floats, units: NDArray[Any] | None) -> tuple[Floats, Floats]:
    if units is None:
        return values, np.ones_like(values)
    _, index = np.unique(np.asarray(units), return_inverse=True)
    sums: Floats = np.bincount(index, weights=values).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)


def _better(evidence: GateEvidence, policy: GatePolicy) -> Check:
    name = "better"
    losses = np.asarray(evidence.challenger, np.float64)
    bound = f"its {policy.confidence:.0%} interval below 0"
    if not losses.size or not np.isfinite(losses).all():
        return Check(name, False, "the challenger has no finite losses on the hold-out", bound)
    if evidence.champion is None:
        return Check(name, True, f"loss {losses.mean():.5g}, nothing to beat", "nothing")
    champion = np.asarray(evidence.champion, np.float64)
    if champion.shape != losses.shape:
        raise ValueError(f"losses of different hold-outs: {losses.shape} against {champion.shape}")
    independent = losses if evidence.units is None else np.unique(evidence.units)
    if len(independent) < policy.min_units:
        return Check(
            name,
            False,
            f"only {counted(len(independent), 'unit')} in the hold-out",
            f"at least {policy.min_units}",
        )
    mean, low, high = loss_difference(losses, champion, evidence.units, policy)
    value = f"loss {mean:+.5g} [{low:+.5g}, {high:+.5g}] against {evidence.rival}"
    return Check(name, high < 0, value, bound)


def _calibrated(evidence: GateEvidence, policy: GatePolicy) -> Check:
    found, before = evidence.calibration_error, evidence.champion_calibration_error
    if found is None:
        return Check("calibrated", True, "gives no probabilities", "nothing")
    limit = max(policy.max_calibration_error, before or 0.0)
    value = f"calibration error {found:.4f}"
    if before is not None:
        value += f", {evidence.rival} {before:.4f}"
    return Check("calibrated", found <= limit, value, f"at most {limit:.4f}")


def _fresh(evidence: GateEvidence, policy: GatePolicy) -> Check:
    bound = f"each view at most {policy.max_age_seconds / 3600:g} h old"
    missing = sorted(view for view, age in evidence.ages.items() if age is None)
    if missing or not evidence.ages:
        return Check("fresh", False, f"no rows in {', '.join(missing) or 'any view'}", bound)
    ages = {view: age for view, age in evidence.ages.items() if age is not None}
    oldest = max(ages, key=lambda view: ages[view])
    value = f"oldest is {oldest}, {ages[oldest] / 3600:.2g} h"
    return Check("fresh", ages[oldest] <= policy.max_age_seconds, value, bound)


def _consistent(evidence: GateEvidence, policy: GatePolicy) -> Check:
    bound = f"each view at least {policy.min_agreement:.1%} equal online and offline"
    known = {view: share for view, share in evidence.agreement.items() if share is not None}
    silent = sorted(evidence.agreement.keys() - known.keys())
    if evidence.unknown or silent or not known:
        why = evidence.unknown or f"no key was compared of {', '.join(silent) or 'any view'}"
        return Check("consistent", False, f"not known: {why}", bound)
    worst = min(known, key=lambda view: known[view])
    value = f"worst is {worst}, {known[worst]:.3%}"
    return Check("consistent", known[worst] >= policy.min_agreement, value, bound)


def _undrifted(evidence: GateEvidence, policy: GatePolicy) -> Check:
    bound = f"each at most {policy.max_drift:g}, or what its earlier weeks moved by"
    left = f", {len(evidence.undrifted)} with too few rows" if evidence.undrifted else ""
    known = {name: value for name, value in evidence.drift.items() if not math.isnan(value)}
    if not known:
        return Check("drift", True, f"no features compared{left}", bound)
    limits = {name: max(policy.max_drift, evidence.usual_drift.get(name, 0.0)) for name in known}
    worst = sorted(known, key=lambda name: -known[name] / limits[name])
    over = [name for name in worst if known[name] > limits[name]]
    shown = ", ".join(
        f"{name} {known[name]:.3f}"
        + (f" (up to {limits[name]:.3f} before)" if limits[name] > policy.max_drift else "")
        for name in (over or worst)[:5]
    )
    more = f" and {len(over) - 5} more" if len(over) > 5 else ""
    value = (
        f"index of {len(known)} features{left}; {'beyond' if over else 'largest'}: {shown}{more}"
    )
    return Check("drift", not over, value, bound)
