"""The shop floor as SimPy processes: reserve, ship, deliver, reorder, count.

The default policy: the nearest warehouse with enough stock serves the order. When none has, a
seventh of shoppers leave and a third take another product of the category (Gruen and Corsten); the
others wait, and their order goes out when the nearest warehouse is restocked.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, Final

import simpy

from pipelines.live_databases import SHIPPING_METHODS
from simulators.checkpoint import WorldState
from simulators.draws import Kind, Uniforms
from simulators.line_haul import METHOD, consignments
from simulators.outbox import Outbox
from simulators.shoppers import Basket
from simulators.stockroom import (
    HANDLING_LOG_SD,
    SHORTAGE_CHANCE,
    SHORTAGE_FACTOR,
    Stockroom,
)
from simulators.transit import PROMISE_FACTOR, Transit
from simulators.world import DAY_US, HOUR_US, World

Process = Generator[simpy.Event, Any, None]

LEAVE_SHARE: Final = 1 / 7
SWITCH_SHARE: Final = 1 / 3
_NONE: Final = -1
_PACKING_HOURS: Final = (1.0, 8.0)
_COUNT_EVERY_US: Final = 7 * DAY_US
_SHRINKAGE: Final = 0.04  # chance that a count finds one unit missing
_FIXED_COST: Final = 1.5
_METHOD_COST: Final = {"overnight": 1.6, "express": 1.0, "standard": 1.0, "economy": 0.8}
_SUBSTITUTES: Final = 5  # products of the category that a shopper looks at instead
# First choice of mode by shipping method; a route without it falls back to the next.
_MODES: Final = {
    "overnight": ("air",),
    "express": ("air",),
    "standard": ("road",),
    "economy": ("rail", "road"),
}


class Fulfilment:
    """Stock and shipments of one world; `state` is changed in place, rows go to the outbox.

    Args:
        env: SimPy's.
        world: the world.
        state: what has happened in it; is changed in place.
        outbox: gets the rows.
    """

    def __init__(
        self, env: simpy.Environment, world: World, state: WorldState, outbox: Outbox
    ) -> None:
        self._env = env
        self._world = world
        self._state = state
        self._outbox = outbox
        self.stockroom = Stockroom(world)
        self.transit = Transit(world)
        seed = world.config.seed
        self._transit_draws = Uniforms(seed, Kind.TRANSIT, 2)
        self._handling_draws = Uniforms(seed, Kind.HANDLING, 1)
        self._supply_draws = Uniforms(seed, Kind.SUPPLY, 3)
        self._count_draws = Uniforms(seed, Kind.COUNTING, 1)
        self._substitutes = _by_category(world)

    @property
    def _now(self) -> int:
        return int(self._env.now)

    def open(self) -> None:
        """Stock the shelves of a new world; what is low is already on its way."""
        room, state = self.stockroom, self._state
        state.current = list(room.first_level)
        size = len(room)
        state.reserved, state.coming = [0] * size, [0] * size
        state.touched = [state.now - 1] * size
        for position in range(size):
            self._touch(position)
            wait = int(room.first_wait_days[position] * DAY_US)
            self._reorder(position, wait)

    def start(self) -> None:
        """Set everything in motion that is under way in the state."""
        for order in list(self._state.to_ship):
            self._env.process(self._ship_order(order))
        for shipment in list(self._state.in_transit):
            self._env.process(self._deliver(shipment))
        for replenishment in list(self._state.on_order):
            self._env.process(self._ship_replenishment(replenishment))
        self._env.process(self._count())
        self._env.process(self._haul())

    def place(self, basket: Basket) -> bool:
        """Turn a basket into orders, now; False when every line's shopper left empty-handed."""
        region = int(self._world.population.region[basket.user])
        lines = zip(basket.products, basket.quantities, basket.luck, strict=True)
        placed = [self._place_line(basket, region, *line) for line in lines]
        return any(placed)

    def _place_line(
        self, basket: Basket, region: int, product: int, units: int, luck: float
    ) -> bool:
        position = self._with_stock(region, product, units)
        if position is None:
            if luck < LEAVE_SHARE:
                return False
            if luck < LEAVE_SHARE + SWITCH_SHARE:
                for other in self._substitutes[product]:
                    position = self._with_stock(region, other, units)
                    if position is not None:
                        product = other
                        break
        status = "placed" if position is not None else "backordered"
        if position is None:
            position = self.stockroom.candidates(region, product)[0]
        state, order = self._state, self._state.next_order
        state.next_order += 1
        self._outbox.add(
            "orders",
            (
                order,
                basket.user + 1,
                self._world.catalogue.ids[product],
                units,
                self._world.catalogue.prices[product],
                self._world.network.warehouse_ids[self.stockroom.warehouse[position]],
                SHIPPING_METHODS[basket.method],
                basket.time,
                status,
            ),
        )
        details = [0, position, units, region, basket.method]
        if status == "placed":
            self._reserve(order, details)
            self._touch(position)
        else:
            state.waiting[order] = details
        self._reorder(position)
        return True

    def _with_stock(self, region: int, product: int, units: int) -> int | None:
        current, reserved = self._state.current, self._state.reserved
        for position in self.stockroom.candidates(region, product):
            if current[position] - reserved[position] >= units:
                return position
        return None

    def _reserve(self, order: int, details: list[int]) -> None:
        """Hold the units for an order and have it packed."""
        low, high = _PACKING_HOURS
        hours = low + (high - low) * self._handling_draws.row(order)[0]
        details[0] = self._now + int(hours * HOUR_US)
        self._state.reserved[details[1]] += details[2]
        self._state.to_ship[order] = details
        self._env.process(self._ship_order(order))

    def _ship_order(self, order: int) -> Process:
        ships_at, position, units, region, method_number = self._state.to_ship[order]
        yield self._env.timeout(ships_at - self._now)
        del self._state.to_ship[order]
        self._state.current[position] -= units
        self._state.reserved[position] -= units
        self._touch(position)
        method = SHIPPING_METHODS[method_number]
        ways = self._world.network.outbound[self.stockroom.warehouse[position], region]
        route = next(ways[mode] for mode in (*_MODES[method], "road") if mode in ways)
        self._outbox.add("order_status", (order, "shipped"))
        self._ship(route, method, position, units, order=order)

    def _ship_replenishment(self, replenishment: int) -> Process:
        ships_at, position, units = self._state.on_order[replenishment]
        yield self._env.timeout(ships_at - self._now)
        del self._state.on_order[replenishment]
        route = self.stockroom.route[position]
        mode = self._world.network.routes[route].mode
        self._ship(route, METHOD[mode], position, units)

    def _haul(self) -> Process:
        day = self._now // DAY_US
        while True:
            for load in consignments(self._world, day):
                if load.time >= self._now:
                    yield self._env.timeout(load.time - self._now)
                    mode = self._world.network.routes[load.route].mode
                    self._ship(load.route, METHOD[mode], weight_kg=load.weight_kg)
            day += 1
            yield self._env.timeout(day * DAY_US - self._now)

    def _ship(
        self,
        route_number: int,
        method: str,
        position: int = _NONE,
        units: int = 0,
        *,
        order: int = _NONE,
        weight_kg: float = 0.0,
    ) -> None:
        """Send one shipment off now and fix, unseen, when it will arrive."""
        world, state, now = self._world, self._state, self._now
        route = world.network.routes[route_number]
        shipment = state.next_shipment
        state.next_shipment += 1
        product_id = None
        if position != _NONE:
            product = self.stockroom.product[position]
            product_id = world.catalogue.ids[product]
            weight_kg = round(world.catalogue.weights_kg[product] * units, 3)
        outbound = route.origin_id in world.network.warehouse_ids
        promised = route.base_hours * PROMISE_FACTOR[method]
        hours = self.transit.hours(route_number, now, promised, self._transit_draws.row(shipment))
        cost = _FIXED_COST + weight_kg * route.base_cost * _METHOD_COST[method]
        self._outbox.add(
            "shipments",
            (
                shipment,
                None if order == _NONE else order,
                route.route_id,
                route.origin_id if outbound else route.destination_id,
                product_id,
                units or None,
                method,
                weight_kg,
                round(cost, 2),
                round(route.carbon_cost * weight_kg / 1000, 5),
                now,
                now + int(promised * HOUR_US),
                None,
                "in_transit",
            ),
        )
        arrives = now + int(hours * HOUR_US)
        state.in_transit[shipment] = [arrives, order, position, units]
        self._env.process(self._deliver(shipment))

    def _deliver(self, shipment: int) -> Process:
        arrives, order, position, units = self._state.in_transit[shipment]
        yield self._env.timeout(arrives - self._now)
        del self._state.in_transit[shipment]
        self._outbox.add("deliveries", (shipment, arrives))
        if order != _NONE:
            self._outbox.add("order_status", (order, "delivered"))
        elif position != _NONE:
            self._restock(position, units)

    def _restock(self, position: int, units: int) -> None:
        state = self._state
        state.current[position] += units
        state.coming[position] -= units
        for order, details in list(state.waiting.items()):
            free = state.current[position] - state.reserved[position]
            if details[1] == position and details[2] <= free:
                del state.waiting[order]
                self._reserve(order, details)
        self._touch(position)
        self._reorder(position)

    def _reorder(self, position: int, wait: int | None = None) -> None:
        """Order up to the target when what is free and coming has fallen to the reorder point.

        Args:
            position: index into the stockroom.
            wait: microseconds until the supplier ships; drawn when not given.
        """
        room, state = self.stockroom, self._state
        promised = sum(d[2] for d in state.waiting.values() if d[1] == position)
        free = state.current[position] - state.reserved[position] - promised
        inbound = free + state.coming[position]
        if inbound > room.reorder_point[position]:
            return
        number, units = state.next_replenishment, room.up_to[position] - inbound
        state.next_replenishment += 1
        if wait is None:
            first, second, short = self._supply_draws.row(number)
            normal = math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)
            days = room.lead_days[position] * math.exp(HANDLING_LOG_SD * normal)
            wait = int(days * (SHORTAGE_FACTOR if short < SHORTAGE_CHANCE else 1.0) * DAY_US)
        state.coming[position] += units
        state.on_order[number] = [self._now + wait, position, units]
        self._env.process(self._ship_replenishment(number))

    def _count(self) -> Process:
        """Count every position once a week, one after another, and book what is missing."""
        size = len(self.stockroom)
        slot = _COUNT_EVERY_US // size
        number = -(-self._now // slot)
        while True:
            yield self._env.timeout(number * slot - self._now)
            position = number % size
            free = self._state.current[position] - self._state.reserved[position]
            if free > 0 and self._count_draws.row(number)[0] < _SHRINKAGE:
                self._state.current[position] -= 1
                self._reorder(position)
            self._touch(position)
            number += 1

    def _touch(self, position: int) -> None:
        """Write the position's row; its times strictly increase, so that the newest is clear."""
        state, room = self._state, self.stockroom
        when = max(self._now, state.touched[position] + 1)
        state.touched[position] = when
        self._outbox.add(
            "inventory",
            (
                self._world.network.warehouse_ids[room.warehouse[position]],
                self._world.catalogue.ids[room.product[position]],
                state.current[position],
                state.reserved[position],
                room.reorder_point[position],
                round(state.current[position] * room.unit_carbon[position], 3),
                when,
            ),
        )


def _by_category(world: World) -> list[list[int]]:
    """For each product the best-selling others of its category."""
    categories = world.catalogue.category_of.tolist()
    best: dict[int, list[int]] = {}
    for product, category in enumerate(categories):
        best.setdefault(category, []).append(product)
    return [
        [other for other in best[category][: _SUBSTITUTES + 1] if other != product][:_SUBSTITUTES]
        for product, category in enumerate(categories)
    ]
