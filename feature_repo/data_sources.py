"""Where features come from: the offline sources that the batch flow publishes, and the request."""

from feast import Field, FileSource, RequestSource
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

from pipelines.settings import BatchConfig

_CONFIG = BatchConfig()


def offline_source(view: str, description: str) -> FileSource:
    """What the batch flow publishes of a view."""
    return FileSource(
        name=view,
        path=_CONFIG.offline_pattern(view),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
        tags={"published_by": "batch"},
    )


user_intent_source = offline_source("user_intent", "One row per change of a user's session")
session_events_source = offline_source("session_events", "One row per clickstream event")
user_orders_source = offline_source("user_orders", "One row per time at which a user ordered")
inventory_levels_source = offline_source("inventory_levels", "One row per change of a stock row")
route_conditions_source = offline_source(
    "route_conditions", "One row per change of a route and per delivery on it"
)

order_request = RequestSource(
    name="order_request",
    schema=[
        Field(name="quantity", dtype=Int64),
        Field(name="price", dtype=Float64),
        Field(name="weight_kg", dtype=Float64),
    ],
    description="The order to decide on: units, price per unit, total weight",
)
