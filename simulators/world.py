"""A world: its sizes, and everything about it that never changes, made from the seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final

from pipelines.errors import ConfigurationError
from simulators.catalogue import Catalogue
from simulators.congestion import Congestion
from simulators.network import Network
from simulators.population import Population

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US

_LIMITS: Final = {
    "users": (1, 10_000_000),
    "products": (1, 100_000),
    "warehouses": (1, 99),
    "days": (1, 3650),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class WorldConfig:
    """Sizes and seed of a world; `days` is how much history the first fill makes.

    `no_signal` keeps the shape and takes the meaning: purchases, lateness, congestion and demand
    become independent draws, so that an honest model scores chance.

    Raises:
        ConfigurationError: a value is out of range.
    """

    users: int = 8000
    products: int = 300
    warehouses: int = 8
    days: int = 30
    seed: int = 7
    no_signal: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigurationError(
                    f"WorldConfig.{name} = {value!r} is not allowed: "
                    f"it must be a whole number from {low} to {high}"
                )
        if not isinstance(self.no_signal, bool):
            raise ConfigurationError(
                f"WorldConfig.no_signal = {self.no_signal!r} is not allowed: "
                "it must be true or false"
            )

    def differences(self, other: WorldConfig) -> list[str]:
        """`name=theirs` for each field in which `other` differs."""
        return [
            f"{field.name}={getattr(other, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


@dataclass(frozen=True)
class World:
    """What a configuration and a start make of a world: places, goods, people, congestion.

    Simulated time is whole microseconds since `origin`, the midnight (UTC) before `start`.
    """

    config: WorldConfig
    start: datetime

    @property
    def origin(self) -> datetime:
        """Midnight of the day on which the world starts, naive UTC."""
        return self.start.replace(hour=0, minute=0, second=0, microsecond=0)

    def microseconds(self, time: datetime) -> int:
        """Simulated time of a naive UTC time."""
        return (time - self.origin) // timedelta(microseconds=1)

    def time_of(self, microseconds: int) -> datetime:
        """The naive UTC time of a simulated time."""
        return self.origin + timedelta(microseconds=microseconds)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Products and how their popularity drifts."""
        return Catalogue(self.config.seed, self.config.products, self.config.no_signal)

    @cached_property
    def network(self) -> Network:
        """Regions, warehouses, suppliers and routes."""
        return Network(self.config.seed, self.config.warehouses)

    @cached_property
    def population(self) -> Population:
        """Users, their regions, activity and habits."""
        return Population(self.config.seed, self.config.users, self.network.region_shares)

    @cached_property
    def congestion(self) -> Congestion:
        """The hidden congestion path of every hub."""
        return Congestion(self.config.seed, self.network.places_km, self.config.no_signal)
