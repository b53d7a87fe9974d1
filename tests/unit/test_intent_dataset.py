"""Labels, splits, the leak guard and the scores of the intent task, on a log made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.models.intent.dataset import (
    Events,
    check_split,
    events_of,
    is_sampled,
    split,
    thinned,
)
from pipelines.models.intent.evaluation import (
    chance_claim,
    expected_calibration_error,
    hold_out,
    score,
)
from pipelines.models.intent.features import USER_FEATURES, WINDOW
from pipelines.models.intent.leaks import LeakError, check_for_leaks
from pipelines.models.intent.training import calibrate
from pipelines.models.intent.windows import make_windows
from pipelines.training.source import TrainingDataError
from pipelines.training.task import Dataset

START = np.datetime64("2026-01-05T08:00:00", "us")


def log(sessions: int = 400, seed: int = 0) -> pd.DataFrame:
    """Clickstream rows: a tenth of the sessions ends in a purchase, whatever came before."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(sessions):
        length = int(rng.integers(1, 50))
        actions = rng.choice(["view", "search", "add_to_cart"], length, p=[0.7, 0.25, 0.05])
        for place, action in enumerate([*actions, *(["purchase"] * (rng.random() < 0.1))]):
            minutes = number * 120 + place * 0.5
            rows.append(
                {
                    "session_id": f"s{number:05d}",
                    "user_id": number % 90,
                    "action": action,
                    "event_timestamp": START + np.timedelta64(int(minutes * 60e6), "us"),
                    "log_dwell": 3.0,
                    "scroll": 0.5,
                }
            )
    return pd.DataFrame(rows)


def dataset_of(frame: pd.DataFrame) -> Dataset:
    """What the feature views hold of this log, at the sampled prefixes."""
    events = events_of(frame)
    at = np.flatnonzero(events.usable & is_sampled(events.place))
    starts = np.maximum(at - events.place[at] + 1, at - WINDOW + 1)

    def listed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        found = np.empty(len(at), dtype=object)
        found[:] = [values[a : b + 1] for a, b in zip(starts, at, strict=True)]
        return found

    columns: dict[str, Any] = {
        "actions": listed(events.action),
        "product_ids": listed(np.full(len(events.action), "P1", dtype=object)),
        "times_on_page": listed(np.exp(events.log_dwell)),
        "scroll_depths": listed(events.scroll),
        "gaps": listed(np.full(len(events.action), 30.0)),
        "event_count": events.place[at].astype(np.float64),
    }
    columns |= {name: np.ones(len(at)) for name in USER_FEATURES}
    left = (events.bought_at[at] - events.time[at]) / np.timedelta64(1, "s")
    return Dataset(
        columns,
        {"purchase": ~np.isnat(events.bought_at[at]), "soon": np.nan_to_num(left, nan=9e9) <= 600},
        events.time[at],
        events.user[at],
        {"events": events, "at": at, "since": None},
    )


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset_of(log())


def altered(data: Dataset, **columns: Any) -> Dataset:
    return replace(data, columns=data.columns | columns)


def test_an_honest_data_set_passes(data: Dataset) -> None:
    """What the log holds up to each row's moment raises nothing."""
    check_for_leaks(data)


def test_features_of_one_event_later_are_caught(data: Dataset) -> None:
    """A planted leak: each row is given the features of the next event of its session."""
    later = altered(data, event_count=data.columns["event_count"] + 1)
    with pytest.raises(LeakError, match="count other events than the log"):
        check_for_leaks(later)


def test_a_window_shifted_by_one_event_is_caught_though_its_length_is_right(data: Dataset) -> None:
    """A planted leak that keeps count and lengths: the window slides to the next event."""
    events: Events = data.extra["events"]
    at = data.extra["at"]
    follows = np.minimum(at + 1, len(events.action) - 1)
    slid = np.empty(len(at), dtype=object)
    slid[:] = [
        np.append(a[1:], "view" if events.action[n] == "purchase" else events.action[n])
        for a, n in zip(data.columns["actions"], follows, strict=True)
    ]
    with pytest.raises(LeakError, match="list other actions"):
        check_for_leaks(altered(data, actions=slid))


def test_a_prefix_that_holds_its_own_purchase_is_caught(data: Dataset) -> None:
    """A planted leak: the label's own event stands in the prefix."""
    actions = data.columns["actions"].copy()
    row = int(np.flatnonzero(data.labels["purchase"])[0])
    actions[row] = np.append(actions[row][:-1], "purchase")
    with pytest.raises(LeakError, match="hold a purchase"):
        check_for_leaks(altered(data, actions=actions))


def test_a_feature_that_gives_the_label_away_is_caught(data: Dataset) -> None:
    """A planted leak: the user's purchases are counted with this session's own."""
    told = altered(data, purchases_7d=data.labels["purchase"].astype(float))
    with pytest.raises(LeakError, match="purchases_7d alone"):
        check_for_leaks(told)


def test_a_moment_other_than_the_last_events_is_caught(data: Dataset) -> None:
    """Rows asked for a second later than their last event are refused."""
    with pytest.raises(LeakError, match="another event time"):
        check_for_leaks(replace(data, timestamps=data.timestamps + np.timedelta64(1, "s")))


def test_no_prefix_ends_at_or_after_a_purchase_or_within_a_shared_moment() -> None:
    """Of two events at one moment only the second ends a prefix; purchases end none."""
    frame = log(3).iloc[:6].copy()
    frame["session_id"] = "s"
    frame["action"] = ["view", "view", "view", "purchase", "view", "view"]
    seconds = np.array([0, 5, 5, 9, 12, 15])
    frame["event_timestamp"] = START + seconds.astype("timedelta64[s]")
    assert events_of(frame).usable.tolist() == [True, False, True, False, False, False]


def test_an_outcome_is_known_after_half_an_hour_of_silence_bought_or_not() -> None:
    """Were buyers taken sooner, the newest rows would be of buyers alone."""
    events = events_of(log(30))
    last = events.time[events.first + events.size - 1]
    assert len(set(events.action[events.first + events.size - 1])) > 1
    assert (events.known == last + np.timedelta64(30, "m")).all()


def test_a_sample_of_sessions_covers_the_whole_time_evenly() -> None:
    """The first and the last session are in it, and none of those that were not to be taken."""
    events = events_of(log(300))
    taken = np.arange(300) < 290
    found = thinned(events.known, taken, 30)
    assert found.sum() == 30
    assert not (found & ~taken).any()
    assert found[0]
    assert found[289]
    gaps = np.diff(np.flatnonzero(found))
    assert gaps.max() - gaps.min() <= 1
    assert thinned(events.known, taken, 290) is taken
    assert thinned(events.known, taken, None) is taken


def test_the_newest_sessions_of_a_busy_hour_leave_no_part_of_the_split_empty() -> None:
    """Parts follow the sessions, not the calendar: one old event does not make all of it new."""
    frame = log(400)
    late = START + np.timedelta64(900, "D")
    frame.loc[frame.session_id != "s00000", "event_timestamp"] += late - START
    for seed in range(5):
        parts = check_split(dataset_of(frame), seed)
        rows = [int(part.sum()) for part in vars(parts).values()]
        assert min(rows) > 50


@pytest.mark.parametrize("users", [3, 4, 7])
@pytest.mark.parametrize("seed", range(6))
def test_few_users_are_split_all_the_same(users: int, seed: int) -> None:
    """Every part has somebody, nobody is in two of them, and the hold-out is later."""
    frame = log(120)
    frame["user_id"] = frame.user_id % users
    data = dataset_of(frame)
    parts = check_split(data, seed)
    groups = [set(data.groups[part]) for part in vars(parts).values()]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert data.timestamps[parts.train].max() < data.timestamps[parts.hold_out].min()


@pytest.mark.parametrize(
    ("users", "sessions", "line"),
    [(1, 120, "120 sessions of 1 users"), (2, 120, "120 sessions of 2 users"), (90, 2, "2 sess")],
)
def test_what_cannot_be_split_is_said_with_its_size(users: int, sessions: int, line: str) -> None:
    """One line that names sessions, users and hours."""
    frame = log(sessions)
    frame["user_id"] = frame.user_id % users
    with pytest.raises(TrainingDataError, match=f"{line}.* hours cannot be split by time and"):
        check_split(dataset_of(frame), 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_hold_out_is_later_and_of_other_users(data: Dataset, seed: int) -> None:
    """No user is on both sides, and no training outcome is from the hold-out's time."""
    parts = split(data, seed)
    for earlier in (parts.train, parts.validation):
        assert earlier.any()
        assert not set(data.groups[earlier]) & set(data.groups[parts.hold_out])
        assert data.timestamps[earlier].max() < data.timestamps[parts.hold_out].min()
    assert not set(data.groups[parts.train]) & set(data.groups[parts.validation])


def test_another_seed_draws_other_users(data: Dataset) -> None:
    """Seeds differ by who is held out."""
    assert set(data.groups[split(data, 0).hold_out]) != set(data.groups[split(data, 1).hold_out])


def test_every_sampled_event_is_trained_on_once(data: Dataset) -> None:
    """Windows cover each row at one position, with the row's own label."""
    parts = split(data, 0)
    windows = make_windows(data, parts.train)
    covered = windows.row[windows.row >= 0]
    assert sorted(covered) == np.flatnonzero(parts.train).tolist()
    labels = windows.targets.purchase.numpy()[windows.row >= 0]
    assert (labels == data.labels["purchase"][covered]).all()


def test_losses_are_one_a_session_and_metrics_are_pooled(data: Dataset) -> None:
    """A forecast of a half costs log 2 everywhere and ranks nothing."""
    rows = hold_out(data, 0)
    found = score(np.full(len(rows.prefix), 0.5), rows)
    assert len(found.losses) == len(np.unique(rows.session))
    assert found.losses == pytest.approx(np.log(2))
    assert found.metrics["roc_auc"] == 0.5


def test_calibration_error_is_the_distance_of_forecast_and_frequency() -> None:
    """Forecasting 0.3 where a tenth happens is off by 0.2; the frequency itself is off by 0."""
    truth = np.tile(np.arange(10) == 0, 100)
    assert expected_calibration_error(np.full(1000, 0.3), truth) == pytest.approx(0.2)
    assert expected_calibration_error(np.full(1000, 0.1), truth) == pytest.approx(0.0, abs=1e-9)


def test_calibration_recovers_a_distorted_logit() -> None:
    """Logits doubled and moved by one are brought back."""
    rng = np.random.default_rng(0)
    honest = rng.normal(-2, 1, 20_000)
    label = (rng.random(20_000) < 1 / (1 + np.exp(-honest))).astype(float)
    found = calibrate(2 * honest + 1, label, np.ones(20_000))
    assert found.slope == pytest.approx(0.5, abs=0.05)
    assert found.offset == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize(
    ("areas", "buying", "holds"),
    [
        ([0.52], 1000, True),
        ([0.56], 1000, False),
        ([0.56], 40, True),
        ([0.62], 40, False),
        ([0.48, 0.60, 0.51], 40, True),
        ([0.57, 0.58, 0.57], 1000, False),
    ],
)
def test_chance_is_a_half_but_for_the_noise_of_so_few(
    areas: list[float], buying: int, holds: bool
) -> None:
    """Within 0.03 of a half; further off only as far as few buyers scatter by themselves."""
    assert chance_claim("x", areas, buying, 50 * buying).holds is holds
