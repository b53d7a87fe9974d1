"""The shop and its orders from the processed logs, as data frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd
import pyarrow as pa

from pipelines.models.delay.labels import ROUTES, probes_of
from pipelines.models.fulfilment.tariff import METHODS, MODES
from pipelines.training.source import TrainingDataError, TrainingSource

FEWEST_LINES: Final = 20

_NEWEST: Final = """
    SELECT {columns} FROM {table} WHERE op <> 'D'
    QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY seq DESC) = 1 ORDER BY {key}"""
_CARRIED: Final = """
    SELECT warehouse_id, product_id, current_stock::DOUBLE AS current_stock,
        carbon_footprint::DOUBLE AS carbon_footprint FROM inventory
    QUALIFY row_number() OVER (PARTITION BY warehouse_id, product_id ORDER BY seq DESC) = 1
        AND op <> 'D'"""
_ORDERS: Final = """
    SELECT o.id, o.user_id, u.region, o.product_id, o.quantity, o.price, o.warehouse_id,
        o.shipping_method, o.order_timestamp
    FROM orders o JOIN (SELECT user_id, arg_max(region, seq) AS region FROM users
        WHERE op <> 'D' GROUP BY user_id) u USING (user_id)
    WHERE o.op = 'I' ORDER BY o.order_timestamp, o.id"""
_SHIPPED: Final = """
    SELECT route_id, shipped_at, promised_at, delivered_at FROM shipments
    QUALIFY op NOT IN ('D', 'M')
        AND coalesce(lead(op) OVER (PARTITION BY shipment_id ORDER BY seq), 'D') = 'D'"""
# Who supplies a product is seen from what came in; else by all who deliver to the warehouse.
_LEADS: Final = """
    WITH inbound AS (SELECT DISTINCT route_id, destination_id, base_hours, lead_time_days
        FROM routes JOIN suppliers ON origin_id = supplier_id
        WHERE routes.op = 'I' AND suppliers.op = 'I')
    SELECT destination_id AS warehouse_id, product_id,
        avg(lead_time_days + base_hours / 24) AS days, grouping(product_id) = 1 AS of_all
    FROM inbound LEFT JOIN (SELECT DISTINCT route_id, product_id FROM shipments
        WHERE product_id IS NOT NULL) USING (route_id)
    GROUP BY GROUPING SETS ((destination_id, product_id), (destination_id))"""
# Just before the order: it is what serving knows when the order comes in.
_SESSIONS: Final = """
    SELECT o.id, coalesce(c.session_id, '') AS session_id, o.user_id,
        o.order_timestamp - INTERVAL 1 MICROSECOND AS event_timestamp
    FROM orders o ASOF LEFT JOIN (SELECT user_id, session_id, event_timestamp FROM clickstream
        WHERE op = 'I') c
        ON o.user_id = c.user_id AND o.order_timestamp > c.event_timestamp
    WHERE o.op = 'I' ORDER BY o.id"""


@dataclass(frozen=True)
class Tables:
    """The logs' tables: current reference data, all orders and shipments.

    `carried` stays an Arrow table: a shop may have millions of positions. `probes` are products by
    warehouse, whose stock the delay model looks at.
    """

    routes: pd.DataFrame
    warehouses: pd.DataFrame
    products: pd.DataFrame
    carried: pa.Table
    probes: dict[str, list[str]]
    orders: pd.DataFrame
    shipped: pd.DataFrame
    leads: pd.DataFrame
    sessions: pd.DataFrame

    @property
    def outbound(self) -> pd.DataFrame:
        """Routes from a warehouse by a mode that a shipping method goes by."""
        here = self.warehouses.warehouse_id
        leaves = self.routes.origin_id.isin(here) & ~self.routes.destination_id.isin(here)
        return self.routes[leaves & self.routes["mode"].isin(MODES)]


def read_tables(source: TrainingSource, *, with_sessions: bool) -> Tables:
    """From the processed logs.

    Raises:
        TrainingDataError: there is nothing to choose between: no warehouse, position or route.
    """
    names = ("routes", "warehouses", "products", "inventory", "orders", "users", "shipments")
    with source.logs(*names, "suppliers", "clickstream") as logs:

        def frame(query: str) -> pd.DataFrame:
            return logs.sql(query).df()

        warehouses = "warehouse_id, region, capacity::DOUBLE AS capacity"
        products = "product_id, unit_price::DOUBLE AS unit_price, weight_kg::DOUBLE AS weight_kg"
        tables = Tables(
            routes=frame(ROUTES),
            warehouses=frame(
                _NEWEST.format(columns=warehouses, table="warehouses", key="warehouse_id")
            ),
            products=frame(_NEWEST.format(columns=products, table="products", key="product_id")),
            carried=logs.sql(_CARRIED).to_arrow_table(),
            probes=probes_of(logs),
            orders=frame(_ORDERS),
            shipped=frame(_SHIPPED),
            leads=frame(_LEADS),
            sessions=frame(_SESSIONS) if with_sessions else pd.DataFrame(),
        )
    missing = {
        "no warehouses": tables.warehouses.empty,
        "no stock positions": not tables.carried.num_rows,
        "no routes by air, road or rail from a warehouse to a region": tables.outbound.empty,
    }
    for what, is_so in missing.items():
        if is_so:
            raise TrainingDataError(
                f"the shop has {what}, so there is nothing to decide on orders: fill it and run a "
                "batch cycle, e.g. `synchrochain run`"
            )
    return tables


def usable_orders(tables: Tables) -> tuple[pd.DataFrame, str]:
    """Orders that can be decided anew, and a line about the others, if there are any."""
    orders = tables.orders
    regions, carried = set(tables.outbound.destination_id), tables.carried["product_id"]
    known = set(tables.products.product_id) & set(carried.unique().to_pylist())
    checks = {
        "whose customer's region no route goes to": orders.region.isin(regions),
        "of a product that no warehouse carries": orders.product_id.isin(known),
        "with a shipping method that has no tariff": orders.shipping_method.isin(METHODS),
    }
    usable = pd.Series(True, index=orders.index)
    reasons = []
    for what, holds in checks.items():
        if failed := int((usable & ~holds).sum()):
            reasons.append(f"{failed:,} {what}")
        usable &= holds
    found = orders[usable].reset_index(drop=True)
    if not reasons:
        return found, ""
    left_out = len(orders) - len(found)
    return found, f"{left_out:,} of {len(orders):,} orders are left out: {', '.join(reasons)}"


def check_enough(orders: pd.DataFrame, left_out: str) -> None:
    """Refuse to draw episodes from a handful of orders.

    Raises:
        TrainingDataError: there are too few.
    """
    if len(orders) < FEWEST_LINES:
        why = f" ({left_out})" if left_out else ""
        raise TrainingDataError(
            f"{len(orders)} orders are too few to draw episodes from, {FEWEST_LINES} are needed"
            f"{why}: let the shop run for longer, e.g. `synchrochain run --days 30`"
        )
