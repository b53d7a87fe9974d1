"""What a cycle makes of declarations that differ from those of the published rows."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from conftest import Clock
from live_logs import append_changes, complete_log, offline_rows
from redeclared import (
    CHANGES,
    GONE,
    Recorded,
    not_at_all,
    of_another_meaning,
    publish_undeclared,
    record,
    recorded,
    started_again,
    state_of,
    unpublish,
)
from reference import VIEWS
from stream_helpers import ForKeys, StreamWorld
from stream_rows import session

from pipelines.batch import BatchProcessor
from pipelines.batch.online_removal import forget_stale_views
from pipelines.errors import DeclaredAnewError
from pipelines.lake.declarations import as_recorded, compare
from pipelines.lake.state import DECLARED, STALE_VIEWS, STREAM_READER
from pipelines.printable import counted
from pipelines.settings import DataConfig


@pytest.mark.parametrize(("change", "why"), CHANGES, ids=[c.__name__ for c, _ in CHANGES])
def test_only_a_view_that_is_declared_anew_is_computed_anew(
    processed: BatchProcessor,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Recorded], object],
    why: str,
) -> None:
    """For all of history, in one file in place of the others, although nothing else is new."""
    state = processed.state
    before = {view: offline_rows(processed, view) for view in VIEWS}
    files = {view: [file.path for file in state.files("view", view)] for view in VIEWS}
    record(state, change)
    found = {change.view: change for change in compare(state)}.pop("user_intent")
    assert (found.kind, found.why) == ("changed", why)
    again = started_again(processed)
    report = again.run_cycle(update=False)
    assert report.feature_rows == {"user_intent": len(before["user_intent"])}
    assert f"user_intent is computed for all of history: {why}" in caplog.text
    assert {view: offline_rows(processed, view) for view in VIEWS} == before
    (made,) = (file.path for file in state.files("view", "user_intent"))
    assert made not in files.pop("user_intent")
    assert {view: [f.path for f in state.files("view", view)] for view in files} == files
    assert state.metadata(DECLARED) == as_recorded()
    assert again.run_cycle(update=False).feature_rows == {}


def test_a_group_that_is_new_is_computed_for_all_of_history(processed: BatchProcessor) -> None:
    """What the logs hold already counts, not only what comes; no other group is computed."""
    before = {view: offline_rows(processed, view) for view in VIEWS}
    unpublish(processed, "user_intent")
    record(processed.state, not_at_all)
    assert not offline_rows(processed, "user_intent")
    again = started_again(processed)
    report = again.run_cycle(update=False)
    assert report.feature_rows == {"user_intent": len(before["user_intent"])}
    assert {view: offline_rows(processed, view) for view in VIEWS} == before
    assert "user_intent" in processed.state.pending_materializations()
    assert again.run_cycle(update=False).feature_rows == {}


def test_a_state_that_records_no_declarations_has_every_view_computed(
    processed: BatchProcessor,
) -> None:
    """Those of an earlier version, and those that came with this one; after that none."""
    before = {view: offline_rows(processed, view) for view in VIEWS}
    unpublish(processed, "user_orders")
    processed.state.forget_metadata(DECLARED)
    again = started_again(processed)
    report = again.run_cycle(update=False)
    assert report.feature_rows.keys() == before.keys()
    # A delivery that was reported again at another time has left its first event time behind.
    after = {view: offline_rows(processed, view) for view in VIEWS}
    assert all(row in before["route_conditions"] for row in after["route_conditions"])
    assert after | {"route_conditions": []} == before | {"route_conditions": []}
    assert again.run_cycle(update=False).feature_rows == {}


def test_declarations_that_were_recorded_as_one_are_recorded_by_feature(
    processed: BatchProcessor,
) -> None:
    """A state of an earlier version computes nothing anew if its declarations are the same."""
    before = state_of(processed)
    record(
        processed.state,
        lambda known: known.update({name: {"whole": of["whole"]} for name, of in known.items()}),
    )
    assert {change.kind for change in compare(processed.state)} == {"unchanged"}
    assert started_again(processed).run_cycle(update=False).feature_rows == {}
    assert state_of(processed) == before
    assert processed.state.metadata(DECLARED) == as_recorded()


def test_a_first_cycle_computes_nothing_anew(
    processor: BatchProcessor, data: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing that was declared otherwise, and no streamer has to begin anew."""
    append_changes(data, complete_log(2))
    processor.run_cycle(update=False)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert processor.state.metadata(DECLARED) == as_recorded()
    assert processor.state.metadata(STALE_VIEWS) is None


def test_a_group_that_is_gone_takes_its_rows_with_it_and_nothing_else(
    processed: BatchProcessor, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are published no more and removed in time; nothing of it is pending."""
    file = publish_undeclared(processed)
    state = processed.state
    record(state, lambda known: known.update({GONE: {**known["user_orders"]}}))
    before = state_of(processed)
    found = {change.view: change for change in compare(state)}[GONE]
    again = started_again(processed)
    assert again.run_cycle(update=False).feature_rows == {}
    assert f"{GONE} is {found.why}: {counted(file.rows, 'row')} removed" in caplog.text
    assert state.files("view", GONE) == []
    assert GONE not in state.pending_materializations()
    assert GONE not in recorded(state)
    assert GONE in (state.document(STALE_VIEWS) or {})
    assert state_of(processed) == before
    assert file.path.exists()  # somebody may be reading it
    caplog.clear()
    clock.advance(hours=1)
    again.run_cycle(update=False)
    assert not file.path.exists()
    assert GONE not in caplog.text
    assert state_of(processed) == before


def test_rows_that_nobody_recorded_a_declaration_of_are_removed_too(
    processed: BatchProcessor,
) -> None:
    """A group that an upgrade takes out has files, and no entry."""
    publish_undeclared(processed)
    processed.state.forget_metadata(DECLARED)
    started_again(processed).run_cycle(update=False)
    assert processed.state.files("view", GONE) == []
    assert GONE not in processed.state.pending_materializations()


def test_what_is_declared_anew_is_recorded_with_the_rows_or_not_at_all(
    processed: BatchProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cycle that fails leaves both as they were, and the next one begins anew."""
    state = processed.state
    record(state, of_another_meaning)
    before, known = state_of(processed), state.metadata(DECLARED)
    again = started_again(processed)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.lake.publishing.move_into_place", full)
        with pytest.raises(Exception, match="no room left"):
            again.run_cycle(update=False)
    assert state_of(processed) == before
    assert state.metadata(DECLARED) == known
    assert list(again.run_cycle(update=False).feature_rows) == ["user_intent"]


def test_what_a_streamer_has_written_is_written_anew_after_other_declarations(
    processed: BatchProcessor,
) -> None:
    """It starts where the published rows end, and not where a streamer has been meanwhile."""
    state = processed.state
    state.set_offsets(STREAM_READER, state.bound_offsets("batch"))
    started_again(processed).run_cycle(update=False)
    assert state.offsets(STREAM_READER)
    record(state, of_another_meaning)
    started_again(processed).run_cycle(update=False)
    assert state.offsets(STREAM_READER) == {}


def test_an_older_process_does_not_declare_back_what_a_newer_one_has_declared(
    processed: BatchProcessor,
) -> None:
    """It says so once and leaves all as it is; one that is started after that may."""
    record(processed.state, of_another_meaning)  # by a process that was started since
    before, known = state_of(processed), processed.state.metadata(DECLARED)
    for _ in range(2):
        with pytest.raises(DeclaredAnewError, match=r"user_intent.*start it again"):
            processed.run_cycle(update=False)
    assert (state_of(processed), processed.state.metadata(DECLARED)) == (before, known)
    assert started_again(processed).run_cycle(update=False).feature_rows


def test_a_loop_of_cycles_ends_where_others_are_declared(processed: BatchProcessor) -> None:
    """For the next cycle would fail as well."""
    outcomes: list[object] = []
    record(processed.state, of_another_meaning)
    with pytest.raises(DeclaredAnewError):
        processed.start_scheduled_processing(on_cycle=outcomes.append)
    assert outcomes == []


def test_what_a_streamer_writes_before_earlier_rows_are_removed_is_written_again(
    world: StreamWorld,
) -> None:
    """It may start between the cycle that publishes and the removal of what is online."""
    world.cycle(update=True)
    record(world.state, of_another_meaning)
    world.cycle()  # publishes, and leaves the online store to the next one
    assert list(world.state.document(STALE_VIEWS) or {}) == ["user_intent"]
    world.restart(save=False)
    assert world.flow.watch.look()
    world.commit("sessions", session("s2"))
    world.run("users")
    written = world.online("user_intent")
    assert written
    forget_stale_views(world.batch_config, world.config, world.state)
    assert world.online("user_intent") == {}
    assert world.flow.watch.look()
    world.run("users")
    again = world.online("user_intent")
    assert without_created(again) == without_created(written)


def without_created(rows: ForKeys) -> ForKeys:
    """The rows, whenever they were computed."""
    return {
        key: {name: value for name, value in row.items() if name != "created_timestamp"}
        for key, row in rows.items()
    }
