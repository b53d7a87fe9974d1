"""The live databases: their schema, and the change log that every reader follows.

This is the contract with the world. Four databases; in each, triggers on every table append the
new row to `change_log` inside the transaction that changed it (a transactional outbox), so that a
change and its record are committed together or not at all.

SQLite files, in WAL mode with `synchronous=FULL`: a commit that was acknowledged survives a power
cut, so a reader can never be ahead of the database it reads.
"""

from pipelines.live_databases.contract import (
    UnknownRows,
    check_connection,
    check_contract,
    other_unique_columns,
    unknown_rows,
)
from pipelines.live_databases.databases import LiveDatabases
from pipelines.live_databases.engines import (
    live_database_error,
    open_engine,
    open_existing,
    sqlite_path,
    transaction,
    translate_errors,
)
from pipelines.live_databases.gaps import Gap
from pipelines.live_databases.install import (
    create_schema,
    install_triggers,
    upgrade_change_log,
)
from pipelines.live_databases.schema import (
    CHANGED_AT,
    METADATA,
    clickstream,
    inventory,
    inventory_db,
    orders,
    orders_db,
    products,
    routes,
    shipments,
    suppliers,
    supply_chain_db,
    user_sessions,
    users,
    users_db,
    warehouses,
)
from pipelines.live_databases.triggers import (
    BLOBS,
    CHANGE_LOG_COLUMNS,
    FORMAT,
    LONG,
    LONGEST,
    ChangeLogState,
    TableTriggers,
    change_log_state,
    row_of,
    trigger_statements,
)
from pipelines.tables.shop import (
    ACTIONS,
    MODES,
    ORDER_STATUSES,
    SHIPMENT_STATUSES,
    SHIPPING_METHODS,
)

__all__ = [
    "ACTIONS",
    "BLOBS",
    "CHANGED_AT",
    "CHANGE_LOG_COLUMNS",
    "FORMAT",
    "LONG",
    "LONGEST",
    "METADATA",
    "MODES",
    "ORDER_STATUSES",
    "SHIPMENT_STATUSES",
    "SHIPPING_METHODS",
    "ChangeLogState",
    "Gap",
    "LiveDatabases",
    "TableTriggers",
    "UnknownRows",
    "change_log_state",
    "check_connection",
    "check_contract",
    "clickstream",
    "create_schema",
    "install_triggers",
    "inventory",
    "inventory_db",
    "live_database_error",
    "open_engine",
    "open_existing",
    "orders",
    "orders_db",
    "other_unique_columns",
    "products",
    "routes",
    "row_of",
    "shipments",
    "sqlite_path",
    "suppliers",
    "supply_chain_db",
    "transaction",
    "translate_errors",
    "trigger_statements",
    "unknown_rows",
    "upgrade_change_log",
    "user_sessions",
    "users",
    "users_db",
    "warehouses",
]
