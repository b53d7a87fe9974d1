"""The data layer as one object: features online and as of a time, and how everything stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipelines.batch import BatchProcessor
from pipelines.batch.update import open_store
from pipelines.errors import SynchroChainError, UsageError
from pipelines.features.views import view_named
from pipelines.settings import BatchConfig, DataConfig

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

__all__ = ["DataConfig", "DataLayerOrchestrator", "FeatureRow"]


def _whole_number(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError
    return number


_KEY_TYPES: Final[Mapping[str, Callable[[str], Any]]] = {"user_id": _whole_number}


@dataclass(frozen=True)
class FeatureRow:
    """The features of one key.

    `at` is the moment asked for, None for now; `event_timestamp` the event time of the row that
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


class DataLayerOrchestrator:
    """Wires settings, batch flow and Feast together for a process that uses them all."""

    def __init__(self, data: DataConfig | None = None, batch: BatchConfig | None = None) -> None:
        self.data = data or DataConfig()
        self.batch_config = batch or BatchConfig(data_dir=self.data.data_dir)
        self.batch = BatchProcessor(self.batch_config, self.data)
        self._store: FeatureStore | None = None

    @property
    def store(self) -> FeatureStore:
        """Feast's store of the configured repository, opened at first use (seconds)."""
        if self._store is None:
            self._store = open_store(self.batch_config)
        return self._store

    def features(
        self, view: str, keys: Mapping[str, str], at: datetime | None = None
    ) -> FeatureRow:
        """The features of one key, online as of now, or offline as of a time.

        Args:
            view: a feature view's name.
            keys: the entity key columns with their values as text.
            at: naive UTC; None asks the online store.

        Raises:
            UnknownNameError: there is no such view.
            UsageError: the keys are not the view's, or have the wrong type.
            SynchroChainError: the feature repository was never applied here.
        """
        known = view_named(view)
        row = _typed_keys(view, known.keys, keys)
        references = [f"{view}:{name}" for name in known.features]
        with _explained():
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

    def training_set(
        self, entities: pd.DataFrame, features: list[str] | str, *, arrow: bool = False
    ) -> Any:
        """A point-in-time training set: each entity row with its features as of its time.

        Args:
            entities: key columns and `event_timestamp`.
            features: references such as "user_intent:intent_score", or a feature service's name.
            arrow: whether to return a pyarrow Table instead of a pandas frame.

        Returns:
            The entity rows, in their order, with one column per feature.
        """
        wanted = self.store.get_feature_service(features) if isinstance(features, str) else features
        job = self.store.get_historical_features(entity_df=entities, features=wanted)
        return job.to_arrow() if arrow else job.to_df()


@contextmanager
def _explained() -> Iterator[None]:
    from feast.errors import FeatureViewNotFoundException

    try:
        yield
    except FeatureViewNotFoundException as error:
        raise SynchroChainError(
            f"{error}: apply the feature repository with `synchrochain batch --once` first"
        ) from None


def _typed_keys(view: str, names: tuple[str, ...], given: Mapping[str, str]) -> dict[str, Any]:
    example = " ".join(f"{name}=…" for name in names)
    if set(given) != set(names):
        raise UsageError(f"{view} is asked for by {example}; got: {', '.join(given) or 'nothing'}")
    typed = {}
    for name, text in given.items():
        kind = _KEY_TYPES.get(name, str)
        try:
            typed[name] = kind(text)
        except ValueError:
            raise UsageError(f"{name} = {text!r} is not a whole number") from None
    return typed
