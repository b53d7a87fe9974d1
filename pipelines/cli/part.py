"""A command that another process of ours runs as a part of itself, and that ends with it.

python -m pipelines.cli.part batch --data-dir …
"""

from __future__ import annotations

from pipelines.cli.command import main
from pipelines.stopping import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    main()
