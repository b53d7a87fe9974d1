"""What must be true of the agent, and what chance means in a world without signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.models.fulfilment.evaluation import AGENT, GREEDY, PACED
from pipelines.training.task import Claim, Interval

TARGET = 0.3
FARTHEST, NEAREST = 0.15, 0.05
_STANDARD_ERRORS = 2.0
_CENTS = 0.02  # $ per order below which a forecast is worth nothing that matters

Metrics = Mapping[str, Mapping[str, Interval]]


def claims_of(metrics: Metrics, noise: Sequence[float]) -> list[Claim]:
    """The report's lines.

    Args:
        metrics: policy → metric → interval over seeds.
        noise: standard error of each seed's gap over its episodes.
    """
    gap = metrics[AGENT]["gap_fraction"]
    beyond = metrics[AGENT]["gap_fraction_of_paced"]
    paced = metrics[PACED]["gap_fraction"]
    below = metrics[GREEDY]["below_clairvoyant"]
    worst = min(
        value + _STANDARD_ERRORS * error for value, error in zip(gap.values, noise, strict=True)
    )
    return [
        Claim(
            "gap to the clairvoyant plan closed, against the tuned greedy rule",
            f"at least {TARGET}",
            gap,
            gap.mean >= TARGET,
            f"a rule with one more weight, for packing, closes {paced.mean:.2f} by itself; "
            f"of what that leaves the agent closes {beyond.mean:.2f} "
            f"({beyond.low:.2f} to {beyond.high:.2f})",
        ),
        Claim(
            "on no seed worse than the tuned greedy rule",
            "gap closed not below zero by more than two standard errors over episodes",
            Interval(min(gap.values), min(gap.values), min(gap.values), gap.values),
            worst >= 0,
        ),
        Claim(
            "the tuned greedy rule ends below the clairvoyant plan",
            f"by {NEAREST:.0%} to {FARTHEST:.0%}",
            below,
            NEAREST <= below.mean <= FARTHEST,
        ),
    ]


def chance_claim(metrics: Mapping[str, Interval]) -> Claim:
    """For a world without signal: what is seen of routes is worth nothing to the agent.

    Stock and packing stay scarce in such a world, so the agent may still beat the greedy rule; what
    must vanish is the worth of forecasts, compared with forecasts from another hour.

    Args:
        metrics: the agent's, over seeds.
    """
    gain = metrics["forecast_gain"]
    holds = gain.low <= 0 <= gain.high or abs(gain.mean) < _CENTS
    return Claim(
        "routes' features are worth nothing without signal",
        f"$ per order: interval holds 0, or less than {_CENTS}",
        gain,
        holds,
    )
