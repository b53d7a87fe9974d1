"""The four live databases at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from pipelines.errors import ContractError, TriggersError
from pipelines.live_databases.contract import check_contract
from pipelines.live_databases.engines import open_engine
from pipelines.live_databases.install import create_schema
from pipelines.live_databases.schema import METADATA
from pipelines.settings import DATABASE_NAMES, DataConfig


@dataclass(frozen=True)
class LiveDatabases:
    """Engines of the four live databases, by name."""

    engines: Mapping[str, sa.Engine]

    @classmethod
    def open(cls, config: DataConfig) -> LiveDatabases:
        """Open what `config` names; nothing is created inside the databases."""
        return cls(
            {
                name: open_engine(config.database_url(name), config.busy_timeout)
                for name in DATABASE_NAMES
            }
        )

    def create(self) -> None:
        """Make the schema of all four where it is not there yet.

        Raises:
            ContractError: a table has lost triggers or columns.
        """
        for name, engine in self.engines.items():
            create_schema(engine, METADATA[name])
            check_contract(engine, METADATA[name])

    def check_triggers(self) -> None:
        """Make sure that no table has lost the triggers that record its changes.

        Raises:
            TriggersError: one has, so changes may be missing from all that is derived.
            LiveDatabaseError: a database cannot be read.
        """
        for name, engine in self.engines.items():
            try:
                check_contract(engine, METADATA[name])
            except TriggersError:
                raise
            except ContractError:  # whoever needs what is missing says so
                continue

    def __getitem__(self, name: str) -> sa.Engine:
        return self.engines[name]

    def dispose(self) -> None:
        """Close every pooled connection."""
        for engine in self.engines.values():
            engine.dispose()

    def __enter__(self) -> LiveDatabases:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()
