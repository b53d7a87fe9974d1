"""Python imports this when it starts: a child process of the tests goes by their clock."""

import os
import sys

if "TEST_CLOCK_SHIFT" in os.environ:
    before = list(sys.path)
    sys.path.append(os.path.dirname(os.path.dirname(__file__)))
    try:
        import pinned_clock
    except ModuleNotFoundError:  # another Python, without the pipelines
        pass
    else:
        pinned_clock.pin()
    finally:
        sys.path[:] = before
