"""Python imports this when it starts: a child process of the tests goes by their clock."""

import os
from datetime import UTC, datetime, timedelta

if "TEST_CLOCK_SHIFT" in os.environ:
    try:
        from pipelines import clock
    except ModuleNotFoundError:  # some other Python
        pass
    else:
        shift = timedelta(seconds=float(os.environ["TEST_CLOCK_SHIFT"]))
        clock.source = lambda: datetime.now(UTC) + shift
