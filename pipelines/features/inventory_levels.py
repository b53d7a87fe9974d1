"""inventory_levels: how much of a product a warehouse can still sell, and how long that lasts."""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import Feature, as_of, group, hours, last, ratio, total
from pipelines.features.shop_rows import INVENTORY, ORDERS, WAREHOUSES

LOW_STOCK: Final = 50
stock = last(INVENTORY.current_stock - INVENTORY.reserved_stock)
demand_24h = total(ORDERS.quantity, within=hours(24))

INVENTORY_LEVELS: Final = group(
    "inventory_levels",
    keys=("warehouse_id", "product_id"),
    rows=INVENTORY,
    entity=INVENTORY,
    about="a row per change of a row of `inventory`, at its `updated_at`",
    features=(
        Feature("stock_level", stock, "units not reserved"),
        Feature(
            "stock_ratio",
            ratio(stock, last(INVENTORY.reorder_point)),
            "stock_level / reorder_point, null at 0",
        ),
        Feature(
            "carbon_intensity",
            ratio(last(INVENTORY.carbon_footprint), last(INVENTORY.current_stock)),
            "carbon_footprint / current_stock, null at 0",
        ),
        Feature("is_low_stock", stock < LOW_STOCK, "stock_level < 50"),
        Feature("warehouse_region", as_of(WAREHOUSES.region), "where the warehouse stands"),
        Feature("demand_24h", demand_24h, "units ordered in 24 hours"),
        Feature("days_of_cover", ratio(stock, demand_24h), "stock_level / demand_24h, null at 0"),
    ),
)
