"""The population stability index, on distributions whose index is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.registry.drift import psi


def normal(seed: int, size: int, mean: float = 0.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(mean, 1.0, size)


def test_a_sample_against_itself_has_not_moved() -> None:
    """Exactly."""
    values = normal(0, 5000)
    assert psi(values, values) == 0.0


def test_chance_alone_stays_near_what_is_expected() -> None:
    """About (bins − 1) · (1/n + 1/m), and far below the bounds."""
    found = [psi(normal(s, 2000), normal(s + 100, 2000)) for s in range(40)]
    assert np.mean(found) == pytest.approx(9 * (1 / 2000 + 1 / 2000), rel=0.25)
    assert max(found) < 0.05


def test_a_shift_is_the_formulas_value() -> None:
    """Shares of two halves, 0.5/0.5 against 0.25/0.75: 0.25·ln 0.5⁻¹ − 0.25·ln 1.5⁻¹."""
    reference = np.repeat([0.0, 1.0], [5000, 5000])
    current = np.repeat([0.0, 1.0], [2500, 7500])
    expected = -0.25 * math.log(0.5) + 0.25 * math.log(1.5)
    assert psi(reference, current, bins=2) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("mean", "low", "high"), [(0.1, 0.0, 0.05), (0.5, 0.2, 0.3), (1, 0.8, 1.2)]
)
def test_the_index_grows_with_the_shift(mean: float, low: float, high: float) -> None:
    """For two normal distributions it is near the square of the shift in standard deviations."""
    assert low < psi(normal(1, 20_000), normal(2, 20_000, mean)) < high


def test_nulls_are_a_bin_of_their_own() -> None:
    """A feature that went missing has moved, though its remaining values have not."""
    values = normal(3, 4000)
    half = np.where(np.arange(4000) % 2, values, np.nan)
    assert psi(values, half) > 1.0
    assert psi(half, half) == 0.0
    assert psi(half, np.where(np.isnan(half), -9.0, half)) > 1.0  # nor are they small values
    assert psi(np.full(500, np.nan), np.full(500, np.nan)) == 0.0


def test_a_constant_that_changes_has_moved() -> None:
    """Up or down; and one that does not has not."""
    zeros = np.zeros(1000)
    assert psi(zeros, zeros) == 0.0
    assert psi(zeros, zeros + 1) > 1.0
    assert psi(zeros, np.repeat([0.0, 1.0], [500, 500])) > 0.25


def test_values_beyond_the_reference_are_counted() -> None:
    """In the outermost bins, infinite ones too."""
    values = normal(4, 1000)
    assert math.isfinite(psi(values, np.full(1000, np.inf)))
    assert psi(values, np.full(1000, np.inf)) > 1.0


def test_without_rows_there_is_no_index() -> None:
    """On neither side."""
    assert math.isnan(psi([], [1.0]))
    assert math.isnan(psi([1.0], []))
