"""The shop and its supply chain as a discrete-event simulation (SimPy).

A stand-in for a real shop: it writes the live databases and nothing else, and nobody imports it
but the command line. Delete it when you have a shop of your own.

Events carry the simulated clock, which never runs ahead of the wall clock. Nothing is deleted; who
deletes a row of a simulated shop by hand does so at the wall clock's time, which the database
writes into `committed_at`.

    simulation = load_or_create(data_dir, WorldConfig(), now)
    fill_history(databases, simulation, until=now)
    run_live(databases, simulation, speed=1.0, stop=stop)
"""

from simulators.checkpoint import Simulation, load_or_create
from simulators.simulation import SimulationReport, fill_history, run_live
from simulators.world import World, WorldConfig

__all__ = [
    "Simulation",
    "SimulationReport",
    "World",
    "WorldConfig",
    "fill_history",
    "load_or_create",
    "run_live",
]
