"""The stand-in for a machine without any Redis server: fakeredis behind a TCP port.

Run as `python -m pipelines.redis_server.fake_server <configuration file>` by `server.py` beside it.
It keeps nothing over a restart, has no password (fakeredis cannot ask for one, so any user of
this machine may connect), no Lua unless `lupa` is installed, and is slow: a demo only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def serve(config_path: Path) -> None:
    """Serve until the process is ended, on the port that the JSON configuration file names."""
    import fakeredis

    port = json.loads(config_path.read_text("utf-8"))["port"]
    server: Any = fakeredis.TcpFakeServer(("127.0.0.1", port))
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
