"""The entry point: loads the command line, and ends without complaint if asked to meanwhile."""

from __future__ import annotations

from pipelines.stopping import ending, loading


def main() -> None:
    """Run the command line."""
    with loading():
        from pipelines.cli.app import main as run
    try:
        run()
    finally:
        ending()
