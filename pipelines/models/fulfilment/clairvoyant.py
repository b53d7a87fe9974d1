"""The upper bound: a linear programme that knows all demand, lead times and delays beforehand.

Everything a warehouse ships is ordered again at the next midnight, so arrivals are linear in the
decisions and the programme is exact but for fractions: no policy can do better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.world import NONE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """The value of a plan in $, and what one more unit or slot would have been worth.

    `stock` is (D, S) of the episode's shelves, `packing` (D, W); both at least 0.
    """

    value: float
    stock: Floats
    packing: Floats


def best_plan(game: FulfilmentGame, episode: int) -> Plan:
    """Solve one episode of the game for its whole length, as it was drawn."""
    e, shop, days = game.episodes, game.shop, game.config.days
    warehouses = len(shop.demand)
    # Methods take the same stock and slot, so only the best one of each warehouse matters.
    costs = np.where(game.has_route[episode], game.cost[episode], np.inf)
    costs = costs.reshape(game.length, -1, len(shop.methods)).min(axis=2)
    order, column = np.nonzero((game.candidates[episode] != NONE) & np.isfinite(costs))
    place = game.candidates[episode][order, column]
    day, shelf = e.day[episode][order], e.shelf[episode][order, column]
    units = game.quantity[episode][order]
    gain = game.loss[episode][order] - costs[order, column]
    size = len(order)

    rows = [order]
    columns = [np.arange(size)]
    values = [np.ones(size)]
    limits = [np.ones(game.length)]
    slot = day * warehouses + place
    rows.append(game.length + slot)
    columns.append(np.arange(size))
    values.append(np.ones(size))
    limits.append(np.tile(e.capacity, days).astype(float))
    # Until the end of day k: used up to k − arrived again up to k ≤ first stock + arrivals by k.
    wanted, shelf_number = np.unique(shelf, return_inverse=True)
    arrived = np.cumsum(e.arriving[episode][:, wanted], axis=0)  # (D, shelves wanted)
    supply = e.stock[episode][wanted] + arrived
    back = day + 1 + e.leads[episode][np.minimum(day + 1, days - 1), shelf]
    back = np.where(day + 1 < days, back, days)
    k = np.arange(days)[:, None]
    held = ((k >= day) & (k < back)).nonzero()  # (day, variable) in which its units are away
    first = game.length + days * warehouses
    rows.append(first + held[0] * len(wanted) + shelf_number[held[1]])
    columns.append(held[1])
    values.append(units[held[1]].astype(float))
    limits.append(supply.ravel().astype(float))
    matrix = csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(first + supply.size, size),
    )
    # The stubs know no sparse matrices.
    solved = linprog(  # type: ignore[call-overload]
        -gain, A_ub=matrix, b_ub=np.concatenate(limits), bounds=(0, 1), method="highs"
    )
    if not solved.success:
        raise RuntimeError(f"the clairvoyant programme was not solved: {solved.message}")
    prices = -solved.ineqlin.marginals
    stock = np.zeros((days, e.stock.shape[1]))
    stock[:, wanted] = prices[first:].reshape(days, -1)
    packing = prices[game.length : first].reshape(days, warehouses)
    return Plan(float(-solved.fun - game.loss[episode].sum()), stock, packing)
