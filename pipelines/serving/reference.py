"""Reference data: routes, warehouses, products, and the regions of users.

Read from the live databases. The network is held whole; users, products and who carries them are
looked up by primary key when an order first names them, and remembered until the change log says
that they have changed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from pipelines.live_databases import (
    LiveDatabases,
    inventory,
    products,
    routes,
    translate_errors,
    users,
    warehouses,
)
from pipelines.models.delay.features import CONSTANTS, by_warehouse, probes_query
from pipelines.models.fulfilment.tariff import distance
from pipelines.serving.orders import (
    UnknownProductError,
    UnknownUserError,
    UnservedOrderError,
)

AT_A_TIME: Final = 500
REMEMBERED: Final = 200_000
"""Users, and products; when there are more, all are forgotten and looked up again."""
_CHANGE_LOG: Final = sa.table(
    "change_log", sa.column("seq"), sa.column("table_name"), sa.column("op"), sa.column("key")
)


@dataclass(frozen=True)
class Route:
    """A connection by one mode; `base_cost` is $ per kg, `carbon_cost` kgCO2e per tonne."""

    route_id: str
    origin_id: str
    destination_id: str
    mode: str
    distance_km: float
    base_hours: float
    base_cost: float
    carbon_cost: float


@dataclass(frozen=True)
class Product:
    """A product: $ and kg per unit, and the warehouses that carry it."""

    product_id: str
    price: float
    weight_kg: float
    carriers: frozenset[str]


ServingWarehouse = tuple[str, Mapping[str, Route]]
"""A warehouse, and its routes to a region by mode."""


@dataclass(frozen=True)
class Network:
    """A snapshot of the routes and warehouses.

    `serving` maps a region to the warehouses that deliver there, nearest first; `constants` are the
    columns of the delay model that a route's features do not hold.
    """

    routes: tuple[Route, ...]
    warehouses: frozenset[str]
    serving: Mapping[str, tuple[ServingWarehouse, ...]]
    constants: Mapping[str, Sequence[Any]]
    position: Mapping[str, int]

    @classmethod
    def of(cls, routes: Sequence[Route], warehouses: Collection[str]) -> Network:
        """Build it; `tariff.distance` says which warehouse is near."""
        by_region: dict[str, dict[str, dict[str, Route]]] = {}
        for route in routes:
            if route.origin_id in warehouses and route.destination_id not in warehouses:
                origins = by_region.setdefault(route.destination_id, {})
                origins.setdefault(route.origin_id, {})[route.mode] = route
        serving = {
            region: tuple(sorted(origins.items(), key=lambda one: (_nearest(one[1]), one[0])))
            for region, origins in by_region.items()
        }
        constants = {name: [getattr(route, name) for route in routes] for name in CONSTANTS}
        position = {route.route_id: number for number, route in enumerate(routes)}
        return cls(tuple(routes), frozenset(warehouses), serving, constants, position)


class Reference:
    """Looks things up in the live databases; safe to share between threads.

    Raises:
        LiveDatabaseError: a live database cannot be read; what is known already still answers.
    """

    def __init__(self, databases: LiveDatabases) -> None:
        self._databases = databases
        self._network: Network | None = None
        self._probes: dict[str, list[str]] | None = None
        self._users: dict[int, str] = {}
        self._products: dict[str, Product] = {}
        self._seen: dict[str, int] = {}
        self._loading = threading.Lock()

    @property
    def network(self) -> Network:
        """The network; read at first use."""
        if self._network is None:
            self.refresh()
        assert self._network is not None
        return self._network

    def refresh(self) -> None:
        """Read again or forget what the change logs say has changed since the last time."""
        with self._loading:
            users_changed = self._changes("users", {"users": "UD"})
            stock_changed = self._changes(
                "inventory", {"products": "IUD", "inventory": "ID", "warehouses": "IUD"}
            )
            routes_changed = self._changes("supply_chain", {"routes": "IUD"})
            for _, key in users_changed:
                self._users.pop(key[0], None)
            for table, key in stock_changed:
                if table != "warehouses":
                    self._products.pop(key[-1], None)
            if any(table == "inventory" for table, _ in stock_changed):
                self._probes = None
            moved = routes_changed or any(table == "warehouses" for table, _ in stock_changed)
            if self._network is None or moved:
                network = self._read_network()
                if network != self._network:  # routes are mostly touched for their congestion
                    self._network = network

    def look_up(self, user_ids: Collection[int], product_ids: Collection[str]) -> None:
        """Look up at once whoever and whatever is not known yet."""
        new_users = [user for user in set(user_ids) if user not in self._users]
        if new_users:
            if len(self._users) > REMEMBERED:
                self._users.clear()
            query = sa.select(users.c.user_id, users.c.region)
            for row in self._rows("users", query, users.c.user_id, new_users):
                self._users[row.user_id] = row.region
        new_products = [product for product in set(product_ids) if product not in self._products]
        if new_products:
            if len(self._products) > REMEMBERED:
                self._products.clear()
            self._look_up_products(new_products)

    def region_of(self, user_id: int) -> str:
        """Where a user lives.

        Raises:
            UnknownUserError: there is no such user.
        """
        if user_id not in self._users:
            self.look_up([user_id], [])
        try:
            return self._users[user_id]
        except KeyError:
            raise UnknownUserError(user_id) from None

    def product(self, product_id: str) -> Product:
        """A product.

        Raises:
            UnknownProductError: there is no such product.
        """
        if product_id not in self._products:
            self.look_up([], [product_id])
        try:
            return self._products[product_id]
        except KeyError:
            raise UnknownProductError(product_id) from None

    def warehouses_for(self, region: str, product: Product, at_most: int) -> list[ServingWarehouse]:
        """The nearest warehouses that deliver to a region and carry a product.

        Args:
            region: the destination.
            product: the product.
            at_most: the most warehouses.

        Raises:
            UnservedOrderError: there are none.
        """
        serving = self.network.serving.get(region)
        if not serving:
            known = ", ".join(sorted(self.network.serving)) or "none"
            raise UnservedOrderError(
                "region", f"no warehouse delivers to region {region!r}; regions served: {known}"
            )
        carrying = (one for one in serving if one[0] in product.carriers)
        if found := list(islice(carrying, at_most)):
            return found
        raise UnservedOrderError(
            "product_id", f"no warehouse that delivers to {region} carries {product.product_id!r}"
        )

    def stock(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Units not reserved by (warehouse, product), from the live database itself."""
        columns = (inventory.c.warehouse_id, inventory.c.product_id)
        free = (inventory.c.current_stock - inventory.c.reserved_stock).label("free")
        query = sa.select(*columns, free)
        found = self._rows("inventory", query, sa.tuple_(*columns), sorted(pairs))
        return {(row.warehouse_id, row.product_id): int(row.free) for row in found}

    def probes(self) -> Mapping[str, Sequence[str]]:
        """By warehouse the products whose mean stands for its stock."""
        found = self._probes
        if found is None:
            with self._connection("inventory") as connection:
                rows = connection.execute(sa.text(probes_query("inventory"))).all()
            found = self._probes = by_warehouse((row[0], row[1]) for row in rows)
        return found

    def _look_up_products(self, product_ids: Sequence[str]) -> None:
        carriers: dict[str, set[str]] = {}
        held = sorted(self.network.warehouses)
        query = sa.select(inventory.c.warehouse_id, inventory.c.product_id).where(
            inventory.c.warehouse_id.in_(held)  # the primary key begins with it
        )
        for row in self._rows("inventory", query, inventory.c.product_id, product_ids):
            carriers.setdefault(row.product_id, set()).add(row.warehouse_id)
        query = sa.select(products.c.product_id, products.c.unit_price, products.c.weight_kg)
        for row in self._rows("inventory", query, products.c.product_id, product_ids):
            self._products[row.product_id] = Product(
                row.product_id,
                float(row.unit_price),
                float(row.weight_kg),
                frozenset(carriers.get(row.product_id, ())),
            )

    def _read_network(self) -> Network:
        with self._connection("inventory") as connection:
            held = frozenset(connection.scalars(sa.select(warehouses.c.warehouse_id)))
        columns = [routes.c[name] for name in Route.__dataclass_fields__]
        with self._connection("supply_chain") as connection:
            found = connection.execute(sa.select(*columns).order_by(routes.c.route_id)).all()
        return Network.of([Route(*row) for row in found], held)

    def _changes(self, database: str, wanted: Mapping[str, str]) -> list[tuple[str, list[Any]]]:
        """(table, key) of what was changed since the last look; nothing at the first."""
        log = _CHANGE_LOG.c
        with self._connection(database) as connection:
            last = int(connection.scalar(sa.select(sa.func.max(log.seq))) or 0)
            before, self._seen[database] = self._seen.get(database, last), last
            if last == before:
                return []
            query = (
                sa.select(log.table_name, log.op, log.key)
                .where(log.seq > before, log.seq <= last)
                .where(log.table_name.in_(list(wanted)))
            )
            found = connection.execute(query).all()
        return [(row.table_name, json.loads(row.key)) for row in found if row.op in wanted[row[0]]]

    def _rows(
        self, database: str, query: Any, column: Any, values: Sequence[Any]
    ) -> Iterator[sa.Row[Any]]:
        with self._connection(database) as connection:
            for first in range(0, len(values), AT_A_TIME):
                some = values[first : first + AT_A_TIME]
                yield from connection.execute(query.where(column.in_(some)))

    @contextmanager
    def _connection(self, database: str) -> Iterator[sa.Connection]:
        engine = self._databases[database]
        with translate_errors(str(engine.url.database)), engine.connect() as connection:
            yield connection


def _nearest(routes_by_mode: Mapping[str, Route]) -> float:
    return distance({mode: route.distance_km for mode, route in routes_by_mode.items()})
