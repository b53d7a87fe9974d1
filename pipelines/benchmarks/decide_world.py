"""A world with trained models to decide in, and orders that are like those of its shop."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from pipelines.benchmarks import Say
from pipelines.benchmarks.own_settings import own_settings
from pipelines.errors import UsageError
from pipelines.lake.clock import utc_now
from pipelines.live_databases import LiveDatabases, orders, user_sessions, users
from pipelines.serving.orders import Order
from pipelines.settings import BatchConfig, DataConfig

USERS: Final = 4000
DAYS: Final = 21
SEED: Final = 7


@contextlib.contextmanager
def world_at(data_dir: Path | None, say: Say) -> Iterator[tuple[DataConfig, BatchConfig]]:
    """The configuration of a filled data directory, or of a new one that is removed at the end.

    Raises:
        UsageError: the data directory has never been filled.
    """
    if data_dir is not None:
        data, batch = DataConfig(), BatchConfig()
        if not batch.registry_path.exists():
            raise UsageError(
                f"{data.data_dir} holds no processed shop: fill it with `synchrochain run`"
            )
        yield data, batch
        return
    with tempfile.TemporaryDirectory(prefix="sc-") as folder, own_settings(Path(folder, "data")):
        from pipelines.redis_server import stop_server

        data, batch = DataConfig(), BatchConfig()
        try:
            _fill(data, batch, say)
            yield data, batch
        finally:
            stop_server(data)


def sample_orders(databases: LiveDatabases, count: int) -> list[Order]:
    """Orders of shoppers who are in the shop now for what was ordered lately, drawn with a seed.

    Raises:
        UsageError: nobody has come yet, or nobody has ordered.
    """
    rng = random.Random(SEED)
    table = user_sessions.c
    with databases["users"].connect() as connection:
        visits = connection.execute(
            sa.select(table.user_id, table.session_id, users.c.region)
            .join_from(user_sessions, users)
            .order_by(table.timestamp.desc())
            .limit(max(count, 1000))
        ).all()
    with databases["orders"].connect() as connection:
        lines = connection.execute(
            sa.select(orders.c.product_id, orders.c.quantity, orders.c.shipping_method)
            .order_by(orders.c.id.desc())
            .limit(2000)
        ).all()
    if not visits or not lines:
        lacking = "visits" if not visits else "orders"
        raise UsageError(
            f"this shop has had no {lacking}, so there is nothing to draw orders from: "
            "let it run, e.g. `synchrochain run --days 30`"
        )
    drawn = []
    for _ in range(count):
        visit, line = rng.choice(visits), rng.choice(lines)
        drawn.append(
            Order(
                user_id=visit.user_id,
                session_id=visit.session_id,
                product_id=line.product_id,
                quantity=line.quantity,
                shipping_method=line.shipping_method,
            )
        )
    return drawn


def _fill(data: DataConfig, batch: BatchConfig, say: Say) -> None:
    from pipelines.batch import BatchProcessor
    from pipelines.models.tasks import TASKS
    from pipelines.monitoring.champions import gate
    from pipelines.training.run import train
    from simulators import WorldConfig, fill_history, load_or_create

    say(f"simulating {USERS:,} users, {DAYS} days")
    now = utc_now()
    with LiveDatabases.open(data) as databases:
        world = load_or_create(data.data_dir, WorldConfig(users=USERS, days=DAYS, seed=SEED), now)
        fill_history(databases, world, now)
    say("batch cycle")
    BatchProcessor(batch, data).run_cycle()
    say("training the three models, quickly")
    train(batch, tasks=TASKS, gate=gate, quick=True)
