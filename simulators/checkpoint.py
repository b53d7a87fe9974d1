"""simulation.json: which world lies in a data directory, how far it got, and what is under way.

Written only after the live databases were committed. Should the process die in between, the same
stretch is simulated again and writes the same rows, which are already there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pipelines.errors import SimulationError, SynchroChainError
from simulators.world import World, WorldConfig

FILE_NAME: Final = "simulation.json"
FORMAT_VERSION: Final = 1


@dataclass
class WorldState:
    """Everything that moves; times are simulated microseconds, positions index the stockroom.

    Attributes:
        now: simulated up to here, this time excluded.
        to_ship: order → [ships at, position, units, region, method].
        waiting: backordered order → the same, without a time yet (0).
        in_transit: shipment → [delivered at, order or −1, position or −1, units].
        on_order: replenishment → [ships at, position, units], not yet shipped by the supplier.
        coming: units on order or in transit, by position.
    """

    now: int
    next_event: int = 1
    next_order: int = 1
    next_shipment: int = 1
    next_replenishment: int = 1
    populated: bool = False
    current: list[int] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    coming: list[int] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)
    to_ship: dict[int, list[int]] = field(default_factory=dict)
    waiting: dict[int, list[int]] = field(default_factory=dict)
    in_transit: dict[int, list[int]] = field(default_factory=dict)
    on_order: dict[int, list[int]] = field(default_factory=dict)


@dataclass
class Simulation:
    """A world, how far it got, and the file that says so."""

    world: World
    state: WorldState
    path: Path

    @property
    def simulated_until(self) -> datetime:
        """Naive UTC; rows of the world are earlier than this."""
        return self.world.time_of(self.state.now)

    def reload(self) -> None:
        """Go back to what simulation.json says; without one, to the very beginning."""
        if self.path.exists():
            self.state = _load(self.path).state
        else:
            self.state = WorldState(now=self.world.microseconds(self.world.start))

    def save(self) -> None:
        """Replace simulation.json as a whole; a reader never sees half of it.

        Raises:
            SimulationError: the file cannot be written.
        """
        content = {
            "format": FORMAT_VERSION,
            "config": dataclasses.asdict(self.world.config),
            "start": self.world.start.isoformat(timespec="microseconds"),
            "simulated_until": self.simulated_until.isoformat(timespec="microseconds"),
            "state": dataclasses.asdict(self.state),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".simulation-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file, separators=(",", ":"))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise SimulationError(
                f"{self.path} cannot be written: {error.strerror}; free room or mend its rights"
            ) from None


def load_or_create(data_dir: Path, config: WorldConfig | None, now: datetime) -> Simulation:
    """The world of a data directory; a new one starts `config.days` before `now`.

    Args:
        data_dir: holds simulation.json.
        config: None takes the existing world as it is, or the defaults for a new one.
        now: naive UTC.

    Raises:
        SimulationError: simulation.json is unreadable, or is of another world than `config`.
    """
    path = Path(data_dir) / FILE_NAME
    if path.exists():
        simulation = _load(path)
        if config is not None and config != simulation.world.config:
            other = ", ".join(config.differences(simulation.world.config))
            raise SimulationError(
                f"{path} is a world with {other}: ask for the same sizes and seed, "
                "or delete it together with the live databases to start another one"
            )
        return simulation
    config = config or WorldConfig()
    world = World(config, now - timedelta(days=config.days))
    return Simulation(world, WorldState(now=world.microseconds(world.start)), path)


def _load(path: Path) -> Simulation:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT_VERSION:
            raise SimulationError(
                f"{path} has format {content['format']!r}, this version reads {FORMAT_VERSION}: "
                "delete it together with the live databases and simulate again"
            )
        world = World(WorldConfig(**content["config"]), datetime.fromisoformat(content["start"]))
        return Simulation(world, _state(content["state"]), path)
    except SimulationError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SynchroChainError) as error:
        raise SimulationError(
            f"{path} cannot be read ({type(error).__name__}): restore it from a backup, or delete "
            "it together with the live databases to start another world"
        ) from None


def _state(content: dict[str, Any]) -> WorldState:
    for name in ("to_ship", "waiting", "in_transit", "on_order"):
        content[name] = {int(key): list(value) for key, value in content[name].items()}
    return WorldState(**content)
