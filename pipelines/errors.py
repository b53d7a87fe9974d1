"""Every error that SynchroChain raises on purpose.

One line each, worded for the person who must act: what was wrong, the value, what to do. The
command line prints that line and exits with `exit_code`; a traceback means a defect of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


class SynchroChainError(Exception):
    """The base of all of them: an operation failed for a reason the message explains."""

    exit_code = 1


class UsageError(SynchroChainError):
    """The caller asked for something that does not exist or makes no sense."""

    exit_code = 2


class ConfigurationError(UsageError):
    """A setting has a value that is not allowed."""


class UnknownNameError(UsageError):
    """A feature view, key, table or run was named that is not there."""


class DeclarationError(SynchroChainError):
    """A declaration that cannot be meant: it names the group or log, what is wrong, what is
    allowed."""


class LiveDatabaseError(SynchroChainError):
    """A live database cannot be used: corrupt, not a database, or unreadable."""


class LiveDatabaseBusyError(LiveDatabaseError):
    """A live database stayed locked for longer than the busy time-out; trying again may work."""


class ContractError(LiveDatabaseError):
    """A live database lacks a table or a column that the pipelines need."""


class OlderLogError(ContractError):
    """A change log is of an older format, which the next batch cycle brings up to date."""


class TriggersError(ContractError):
    """Triggers or the change log are missing or altered, so changes may be missing too."""


class ChangeLogGapError(LiveDatabaseError):
    """The change log no longer follows on from where its reader stands."""


class OtherHistoryError(ChangeLogGapError):
    """The change log is not the one that was read before: other rows stand where those stood."""


class CorruptFileError(SynchroChainError):
    """A published file is missing, truncated or altered."""


class StorageFullError(SynchroChainError):
    """The disk has no room left for what had to be written."""


class MemoryFullError(SynchroChainError):
    """There is not enough memory for what is dealt with at once."""


class PipelineStateError(SynchroChainError):
    """data/pipeline_state.db cannot be read or written."""


class UnusablePathError(SynchroChainError):
    """A path of ours is a folder instead of a file, a pipe, a link to nothing, or not readable."""


class NotAcceptedError(SynchroChainError):
    """The gate refused a version of a model, or has never judged it."""


class NewerFormatError(SynchroChainError):
    """Something was written in a format that this version does not know yet.

    Args:
        what: the file, key or entry, as the user knows it.
        found: the number of its format.
        known: the newest one that this version knows.
    """

    def __init__(self, what: object, found: object, known: int) -> None:
        super().__init__(
            f"{what} was written by a newer version of SynchroChain (format {found}, this one "
            f"knows up to {known}): upgrade, or use another data directory"
        )


class DamagedStateError(PipelineStateError):
    """data/pipeline_state.db is no database, or not one of ours; waiting does not mend it."""


class RegistryFileError(SynchroChainError):
    """Feast's registry file is damaged."""


class CycleInProgressError(SynchroChainError):
    """Another batch cycle runs on the same data directory."""

    def __init__(self, pid: int | None) -> None:
        self.pid = pid
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"a batch cycle is already running in {who}: wait for it to end, or stop it first"
        )


class StreamerRunningError(SynchroChainError):
    """Another streamer runs on the same data directory."""

    def __init__(self, pid: int | None) -> None:
        self.pid = pid
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"a streamer is already running in {who}: stop it first")


class DeclaredAnewError(SynchroChainError):
    """What is published was computed from other declarations than those of this process.

    Args:
        views: whose declarations differ.
        when: "published", where this process was started with others than what is published has;
            "since", where another process has declared them anew while this one ran.
    """

    def __init__(self, views: Sequence[str], when: Literal["published", "since"]) -> None:
        self.views = tuple(views)
        names = ", ".join(views)
        super().__init__(
            f"{names}: another process has declared this anew since this one was started: start it "
            "again"
            if when == "since"
            else f"{names}: what is published was declared otherwise: run `synchrochain batch "
            "--once`, then start this again"
        )


class RedisUnavailableError(SynchroChainError):
    """The Redis server cannot be reached or does not answer in time."""


class RedisRefusedError(SynchroChainError):
    """The Redis server answered and refused: wrong password, out of memory, unsafe policy."""


class SimulationError(SynchroChainError):
    """A simulated world cannot be continued from what lies in the data directory."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type's name if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def said(error: BaseException) -> str:
    """The first line of an error; with its type's name, if it is not one of ours."""
    line, kind = first_line(error), type(error).__name__
    return line if isinstance(error, SynchroChainError) or line == kind else f"{kind}: {line}"
