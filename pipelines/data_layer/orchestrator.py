"""The data layer as one object: features online and as of a time, and how everything stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from pipelines.batch import BatchProcessor
from pipelines.cache import DATA_TYPES, RealtimeCache
from pipelines.data_layer.running import RunningLayer
from pipelines.errors import (
    DeclaredAnewError,
    SynchroChainError,
    UnknownNameError,
    UsageError,
    first_line,
)
from pipelines.feast_plugins.repository import open_store
from pipelines.features.views import VIEWS_BY_NAME, view_named
from pipelines.lake.clock import utc_now
from pipelines.lake.declarations import check_declared
from pipelines.settings import BatchConfig, DataConfig
from pipelines.streaming import DataStreamer

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

VIEW: Final = "view"
"""The column of a cached batch that names each row's view."""


_WHOLE_NUMBERS: Final = frozenset({"user_id"})


@dataclass(frozen=True)
class FeatureRow:
    """The features of one key.

    `at` is the time asked for, None for now; `event_timestamp` the event time of the row that
    answers, None if nothing is known or it has expired.
    """

    view: str
    keys: dict[str, Any]
    at: datetime | None
    event_timestamp: datetime | None
    features: dict[str, Any] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether anything is known of the key."""
        return any(value is not None for value in self.features.values())


@dataclass(frozen=True)
class LatestFeatures:
    """The features of one data type that were computed last, those of one micro-batch.

    `timestamp` is when, UTC and naive; `age_seconds` its age at the time of the read. `views` holds
    by view its rows: keys, `event_timestamp`, features and `created_timestamp`.
    """

    data_type: str
    timestamp: datetime
    age_seconds: float
    views: dict[str, list[dict[str, Any]]]


class DataLayerOrchestrator:
    """Wires settings, batch flow, streamer, cache and Feast together for a process of one's own.

    Used in a `with` statement it runs the whole layer inside of it.
    """

    def __init__(self, data: DataConfig | None = None, batch: BatchConfig | None = None) -> None:
        self.data = data or DataConfig()
        self.batch_config = batch or BatchConfig(data_dir=self.data.data_dir)
        self.batch = BatchProcessor(self.batch_config, self.data)
        self._store: FeatureStore | None = None
        self._cache: RealtimeCache | None = None
        self._running: RunningLayer | None = None

    @property
    def cache(self) -> RealtimeCache:
        """The real-time cache, opened at first use, which may start the private Redis."""
        if self._cache is None:
            self._cache = RealtimeCache(self.data)
        return self._cache

    def start_data_pipeline(self) -> None:
        """Run the whole layer until `stop`: a streamer in a thread, batch cycles on schedule in a
        child process. Where nothing was processed yet, the first cycle comes first.

        Returns when the streamer is warm: what is committed from then on shows in milliseconds.

        Raises:
            UsageError: it runs already.
            StreamerRunningError: another streamer runs on this data directory.
            SynchroChainError: the streamer cannot start.
        """
        if self._running is not None:
            raise UsageError("this data layer runs already: call stop() before starting it again")
        streamer = DataStreamer(config=self.data, batch=self.batch_config)
        self._running = RunningLayer(self.batch, streamer, self.cache)
        try:
            self._running.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End what `start_data_pipeline` began, and close the cache; if nothing runs, no more."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def __enter__(self) -> Self:
        self.start_data_pipeline()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get_latest_features(self) -> dict[str, LatestFeatures | None]:
        """The newest features of each data type with their age, from the cache.

        A type is None if nothing of it was computed within the cache's time to live. While Redis
        is away, what this process saw last answers.

        Raises:
            DeclaredAnewError: a streamer with other declarations than this process has written it.
        """
        now = utc_now()
        return {data_type: self._latest(data_type, now) for data_type in DATA_TYPES}

    def _latest(self, data_type: str, now: datetime) -> LatestFeatures | None:
        batch = self.cache.latest(data_type)
        if batch is None:
            return None
        views: dict[str, list[dict[str, Any]]] = {}
        for row in batch.rows:
            view = VIEWS_BY_NAME.get(row[VIEW])
            if view is None or not row.keys() >= set(view.schema.names):
                raise DeclaredAnewError([row[VIEW]], "since")
            views.setdefault(view.name, []).append({n: row[n] for n in view.schema.names})
        age = (now - batch.timestamp).total_seconds()
        return LatestFeatures(data_type, batch.timestamp, max(0.0, age), views)

    @property
    def store(self) -> FeatureStore:
        """Feast's store of the configured repository, opened at first use (seconds)."""
        if self._store is None:
            self._store = open_store(self.batch_config)
        return self._store

    def features(
        self, view: str, keys: Mapping[str, Any], at: datetime | None = None
    ) -> FeatureRow:
        """The features of one key, online as of now, or offline as of a time.

        Args:
            view: a feature view's name.
            keys: the entity key columns with their values, also as text.
            at: UTC, or aware; None asks the online store.

        Raises:
            UnknownNameError: there is no such view.
            UsageError: the keys are not the view's, or have the wrong type; the time is before
                1970 or in the future.
            DeclaredAnewError: what is published of it was declared otherwise.
            SynchroChainError: the feature repository was never applied here.
        """
        known = view_named(view)
        row = _typed_keys(view, known.keys, keys)
        at = None if at is None else _past(at)
        check_declared(self.batch.state, [view])
        references = [f"{view}:{name}" for name in known.features]
        with self._explained():
            if at is None:
                return self._online(view, row, references)
            return self._as_of(view, row, references, at)

    def _online(self, view: str, row: dict[str, Any], references: list[str]) -> FeatureRow:
        response = self.store.get_online_features(features=references, entity_rows=[row])
        found = response.to_dict()
        values = {name: found[name][0] for name in (r.partition(":")[2] for r in references)}
        stamps = [
            stamp.ToDatetime()
            for result in response.proto.results
            for stamp in result.event_timestamps
            if stamp.seconds > 0
        ]
        return FeatureRow(view, row, None, max(stamps, default=None), values)

    def _as_of(
        self, view: str, row: dict[str, Any], references: list[str], at: datetime
    ) -> FeatureRow:
        import pandas as pd

        frame = pd.DataFrame([{**row, "event_timestamp": at.replace(tzinfo=UTC)}])
        table = self.training_set(frame, references, arrow=True)
        (values,) = table.to_pylist()
        features = {name: values[name] for name in (r.partition(":")[2] for r in references)}
        return FeatureRow(view, row, at, None, features)

    def training_set(self, entities: Any, features: list[str] | str, *, arrow: bool = False) -> Any:
        """A point-in-time training set: each entity row with its features as of its time.

        Args:
            entities: key columns and `event_timestamp`, as a data frame, an Arrow table, a dict of
                columns or a list of dicts; or a SQL query that DuckDB can run.
            features: references such as "user_intent:intent_score", or a feature service's name.
            arrow: whether to return a pyarrow Table instead of a pandas frame.

        Returns:
            The entity rows, in their order, with one column per feature.

        Raises:
            UsageError: the entities are none of these, or cannot be read.
            UnknownNameError: there is no such view, feature or service.
            DeclaredAnewError: what is published was declared otherwise.
            SynchroChainError: the repository was never applied here, or a source cannot be read.
        """
        with self._explained():
            store = self.store
            wanted: FeatureService | list[str]
            if isinstance(features, str):
                wanted = service = store.get_feature_service(features)
                views = [projection.name for projection in service.feature_view_projections]
            else:
                wanted, views = features, [name.partition(":")[0] for name in features]
            check_declared(self.batch.state, views)
            job = store.get_historical_features(entity_df=entities, features=wanted)
            return job.to_arrow() if arrow else job.to_df()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import duckdb
        from feast.errors import FeastObjectNotFoundException

        try:
            yield
        except FeastObjectNotFoundException as error:
            raise self._unknown(error) from None
        except KeyError as error:  # that is how Feast says that a view has no such feature
            if "not found in projection" not in str(error):
                raise
            raise UnknownNameError(str(error.args[0])) from None
        except (
            *(duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException),
            *(duckdb.ParserException, duckdb.NotImplementedException, duckdb.TypeMismatchException),
        ) as error:  # of what was asked, not of the files
            raise UsageError(
                f"the entities cannot be joined with the features: {first_line(error)}"
            ) from error
        except duckdb.Error as error:
            raise SynchroChainError(
                f"the offline sources cannot be read: {first_line(error)}: restore them "
                "from a backup, or make them anew with `synchrochain batch --rebuild --once`"
            ) from error

    def _unknown(self, error: Exception) -> SynchroChainError:
        """A name that the feature repository lacks, or no repository at all."""
        from feast.errors import FeatureServiceNotFoundException

        if isinstance(error, FeatureServiceNotFoundException):
            names = [service.name for service in self.store.list_feature_services()]
        else:
            names = [view.name for view in self.store.list_feature_views()]
        if names:
            return UnknownNameError(f"{error}; there are: {', '.join(sorted(names))}")
        return SynchroChainError(
            f"{error}: apply the feature repository with `synchrochain batch --once` first"
        )


def _past(at: datetime) -> datetime:
    """A time as naive UTC, which must be one that features are known of."""
    try:
        time = at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at
    except OverflowError:
        raise UsageError(f"{at} is out of range: features are known from 1970 on") from None
    if time.year < 1970:
        raise UsageError(f"{at} is out of range: features are known from 1970 on")
    if time > utc_now():
        raise UsageError(f"{at} lies in the future: leave the time out for the features of now")
    return time


def _typed_keys(view: str, names: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    from feast.value_type import ValueType

    from pipelines.feast_plugins.reading.key_values import plain_keys

    example = " ".join(f"{name}=…" for name in names)
    if set(given) != set(names):
        raise UsageError(f"{view} is asked for by {example}; got: {', '.join(given) or 'nothing'}")
    typed = {}
    for name, value in given.items():
        kind = ValueType.INT64 if name in _WHOLE_NUMBERS else ValueType.STRING
        plain = plain_keys(name, [value], kind)
        if plain is None:
            raise UsageError(f"{name} = {value!r} is not a text")
        (typed[name],) = plain
    return typed
