"""inventory_levels: one row per warehouse, product and time at which the stock row changed."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.tombstones import unless
from pipelines.features.windows import DAY, Sliding, last_per_instant, ratio, totals_at

KEYS: Final = ("warehouse_id", "product_id")
LOW_STOCK: Final = 50


def inventory_levels(
    inventory: ir.Table, orders: ir.Table, warehouses: ir.Table, *, newest: bool = False
) -> ir.Table:
    """Stock of a product in a warehouse, and how many days of demand it covers.

    Args:
        inventory, orders, warehouses: the change logs of the tables of those names.
        newest: only the newest row of each warehouse and product.

    Returns:
        warehouse_id, product_id, event_timestamp and the view's features; units of the product.
        All features are null where the stock row was deleted.
    """
    changes = inventory.rename(event_timestamp="updated_at")
    current = last_per_instant(changes, KEYS, "event_timestamp", "seq", newest=newest)
    placed = orders.filter(orders["op"] == "I")
    counted = totals_at(
        current,
        KEYS,
        "event_timestamp",
        [Sliding(placed, "order_timestamp", DAY, {"demand_24h": placed.quantity})],
        times=changes,
        newest=newest,
    )
    regions = _latest_regions(warehouses)
    placed_there = counted.left_join(regions, "warehouse_id")
    stock = placed_there.current_stock - placed_there.reserved_stock
    features = {
        "stock_level": stock.cast("int64"),
        "stock_ratio": ratio(stock, placed_there.reorder_point),
        "carbon_intensity": ratio(placed_there.carbon_footprint, placed_there.current_stock),
        "is_low_stock": stock < LOW_STOCK,
        "warehouse_region": placed_there.warehouse_region,
        "demand_24h": placed_there.demand_24h,
        "days_of_cover": ratio(stock, placed_there.demand_24h),
    }
    deleted = placed_there["op"] == "D"
    return placed_there.select(
        "warehouse_id",
        "product_id",
        "event_timestamp",
        **{name: unless(deleted, value) for name, value in features.items()},
    )


def _latest_regions(warehouses: ir.Table) -> ir.Table:
    """The latest region of each warehouse; null where it was deleted."""
    region = ibis.ifelse(warehouses["op"] == "D", ibis.null("string"), warehouses.region)
    last = ibis.struct({"region": region}).argmax(warehouses.seq)
    return (
        warehouses.group_by("warehouse_id")
        .agg(last=last)
        .select("warehouse_id", warehouse_region=ibis._.last.region)
    )
