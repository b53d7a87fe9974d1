"""The batch flow of a running layer, in a process of its own that ends with its parent.

python -m pipelines.data_layer.batch_child
"""

from __future__ import annotations

import logging
import sys
import threading

from pipelines.batch import BatchProcessor
from pipelines.data_layer.running import PATIENCE
from pipelines.errors import SynchroChainError
from pipelines.monitoring.after_update import champions_scorer
from pipelines.printable import set_up_output
from pipelines.settings import BatchConfig, DataConfig
from pipelines.stopping import end_with_parent

logger = logging.getLogger(__name__)


def main() -> None:
    """Run cycles on schedule, say when the first one is over, end with the parent."""
    set_up_output()
    stop, cycled = threading.Event(), threading.Event()

    def after_cycle(_outcome: object) -> None:
        if not cycled.is_set():
            cycled.set()
            print("cycled", flush=True)

    end_with_parent(stop.set, seconds=PATIENCE)
    config = BatchConfig()
    processor = BatchProcessor(config, DataConfig(), after_update=champions_scorer(config))
    try:
        processor.start_scheduled_processing(stop, sleep=stop.wait, on_cycle=after_cycle)
    except SynchroChainError as error:
        logger.error("the batch flow has ended: %s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
