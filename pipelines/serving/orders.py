"""An order to be decided, as it is asked for, and why one cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import SynchroChainError

MAX_QUANTITY: Final = 1_000_000

ShippingMethod = Literal["economy", "standard", "express", "overnight"]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class Order(BaseModel):
    """One line of a basket: who wants how much of what, where it goes and how fast.

    What is left out is looked up: the price and weight of the product, the region of the user.
    A value has its field's type: the text "4_2" and `true` are no numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    user_id: int = Field(ge=-(2**63), lt=2**63, description="Who orders")
    product_id: Name = Field(description="What is ordered")
    quantity: int = Field(default=1, ge=1, le=MAX_QUANTITY, description="Units")
    price: Amount | None = Field(default=None, description="$ a unit; the product's by default")
    weight_kg: Weight | None = Field(
        default=None, description="All units together; the product's weight × quantity by default"
    )
    region: Name | None = Field(default=None, description="Where to; the user's by default")
    shipping_method: ShippingMethod = Field(
        default="standard", description="What the customer asks for; the decision may differ"
    )
    session_id: Name | None = Field(
        default=None, description="The visit in which it is ordered, for the intent model"
    )
    order_id: Name | None = Field(default=None, description="The caller's own name for it")


class OrderError(SynchroChainError):
    """An order that cannot be decided, because of one of its fields.

    Attributes:
        position: which order of several, from 0.
        one_of_many: whether the caller has sent several.
    """

    exit_code = 2

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.position = 0
        self.one_of_many = False


class UnknownUserError(OrderError):
    """There is no such user."""

    def __init__(self, user_id: int) -> None:
        super().__init__("user_id", f"there is no user {user_id}")


class UnknownProductError(OrderError):
    """There is no such product."""

    def __init__(self, product_id: str) -> None:
        super().__init__("product_id", f"there is no product {product_id!r}")


class UnservedOrderError(OrderError):
    """No warehouse delivers to the region, or none of those that do carries the product."""


class NotReadyError(SynchroChainError):
    """Serving has not begun yet, or what it cannot do without is away."""


def order_from(given: Mapping[str, Any]) -> Order:
    """An order from values that somebody typed.

    Raises:
        OrderError: one of them is not allowed; the message names it.
    """
    try:
        return Order(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise OrderError(field, f"{field} = {given.get(field)!r}: {first['msg']}") from None
