"""The four live databases at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from pipelines.errors import ContractError, TriggersError
from pipelines.live_databases.contract import check_contract
from pipelines.live_databases.engines import open_engine, open_existing
from pipelines.live_databases.install import create_schema
from pipelines.live_databases.schema import METADATA
from pipelines.settings import DATABASE_NAMES, DataConfig


@dataclass(frozen=True)
class LiveDatabases:
    """Engines of the four live databases, by name."""

    engines: Mapping[str, sa.Engine]

    @classmethod
    def open(cls, config: DataConfig) -> LiveDatabases:
        """Open the databases of `config`; files are created where missing, nothing inside them."""
        return cls(
            {
                name: open_engine(config.database_url(name), config.busy_timeout)
                for name in DATABASE_NAMES
            }
        )

    @classmethod
    def existing(cls, config: DataConfig) -> LiveDatabases:
        """Open the databases of `config`, for what only reads: nothing is created.

        Raises:
            LiveDatabaseError: one of them does not exist.
        """
        return cls(
            {
                name: open_existing(name, config.database_url(name), config.busy_timeout)
                for name in DATABASE_NAMES
            }
        )

    def create(self) -> None:
        """Create the schema of all four where it is missing.

        Raises:
            ContractError: a table has lost triggers or columns.
        """
        for name, engine in self.engines.items():
            create_schema(engine, METADATA[name])
            check_contract(engine, METADATA[name])

    def check(self) -> None:
        """Check that all of the contract is there.

        Raises:
            LiveDatabaseError: something is missing, or a database cannot be read.
        """
        for name, engine in self.engines.items():
            check_contract(engine, METADATA[name])

    def check_triggers(self) -> None:
        """Check that no table has lost the triggers that record its changes.

        Raises:
            TriggersError: one has, so features may lack changes.
            LiveDatabaseError: a database cannot be read.
        """
        for name, engine in self.engines.items():
            try:
                check_contract(engine, METADATA[name])
            except TriggersError:
                raise
            except ContractError:  # reported by those that need the table
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
