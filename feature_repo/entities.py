"""What features are about."""

from feast import Entity, ValueType

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="A customer of the shop",
    tags={"database": "users", "table": "users"},
)
session = Entity(
    name="session",
    join_keys=["session_id"],
    value_type=ValueType.STRING,
    description="One visit of a customer; half an hour of silence ends it",
    tags={"database": "users", "table": "user_sessions"},
)
warehouse = Entity(
    name="warehouse",
    join_keys=["warehouse_id"],
    value_type=ValueType.STRING,
    description="A place that holds stock and ships orders",
    tags={"database": "inventory", "table": "warehouses"},
)
product = Entity(
    name="product",
    join_keys=["product_id"],
    value_type=ValueType.STRING,
    description="Something the shop sells",
    tags={"database": "inventory", "table": "products"},
)
route = Entity(
    name="route",
    join_keys=["route_id"],
    value_type=ValueType.STRING,
    description="A way for goods from one place to another by one mode of transport",
    tags={"database": "supply_chain", "table": "routes"},
)
