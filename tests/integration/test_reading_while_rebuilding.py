"""Readers in a process of their own while another one publishes, and makes everything anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Final

from test_live_audit import Shop, shop

from pipelines.settings import PROJECT_ROOT

__all__ = ["shop"]
ROUNDS: Final = 6
READER: Final = """
import json, select, sys
from datetime import datetime
from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.errors import SynchroChainError
from pipelines.lake.summary import check_published
from pipelines.monitoring.live_tables import audit_live
from pipelines.settings import DataConfig

now = datetime.fromisoformat(sys.argv[1])
processor = BatchProcessor(BatchConfig(retention_days=5), DataConfig(), clock=lambda: now)
readers = {
    "check": lambda: check_published(processor.state, processor.config),
    "summary": processor.get_feature_summary,
    "live audit": lambda: audit_live(DataConfig(), BatchConfig(retention_days=5), now=lambda: now),
}
print("ready", flush=True)
said, rounds = {}, 0
while True:
    for name, read in readers.items():
        try:
            read()
        except SynchroChainError as error:
            said[f"{name}: {type(error).__name__}: {error}"] = 1
        except Exception as error:
            said[f"{name}: not ours: {type(error).__name__}: {error}"] = 1
    rounds += 1
    if select.select([sys.stdin], [], [], 0)[0]:
        break
print(json.dumps({"said": sorted(said), "rounds": rounds}))
"""


def test_what_is_published_or_made_anew_meanwhile_is_no_damage(shop: Shop) -> None:
    """No reader calls a file missing, altered or strange, nor ends in an error that is not ours."""
    shop.cycle()
    with subprocess.Popen(
        [sys.executable, "-c", READER, shop.now.isoformat()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    ) as reader:
        assert reader.stdout
        assert reader.stdin
        assert reader.stdout.readline() == "ready\n"
        for number in range(ROUNDS):
            shop.execute("inventory", f"UPDATE inventory SET current_stock = {number}")
            shop.cycle()
            shop.processor.rebuild()
            shop.cycle()
        reader.stdin.write("end\n")
        reader.stdin.flush()
        found = json.loads(reader.stdout.readline())
    assert found["said"] == []
    assert found["rounds"] > 1
