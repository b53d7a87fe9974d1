"""The load process seen from outside, and a prober that waits for its changes to be served."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipelines.benchmarks import steady_load
from pipelines.benchmarks.steady_load import Offer
from pipelines.errors import SynchroChainError
from pipelines.features.views import VIEWS

POLL_S: Final = 0.0015
"""Between two reads of one probe."""
REST_S: Final = 0.03
"""Between two probes: the prober shares its two cores with what it measures."""
SHARE: Final = 0.05
"""What each view gets of the probes at least, as far as it has changes."""
LISTEN_S: Final = 0.1
"""How long a rest lasts at most for the sake of a view that has less."""
LOST_S: Final = 10.0
FEATURES_READ: Final = 2
SEED: Final = 7


class LoadProcess:
    """`steady_load` as a process of its own; a thread reads its answers."""

    def __init__(self, load: Path, live_databases: Path) -> None:
        command = [sys.executable, steady_load.__file__, str(load), str(live_databases)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._changed = threading.Condition()
        self._wanted: Collection[str] = ()
        self._offers: list[Offer] = []
        self._answers: dict[str, Any] = {}
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def prepare(self, count: int) -> int:
        """Make changes ready; how many there are, which is fewer at the load's end."""
        return int(self._ask({"prepare": count}, "ready"))

    def play(self, rate: float) -> None:
        """Start committing what is ready, `rate` changes a second."""
        self._answers.clear()
        self._send({"play": rate})

    @property
    def report(self) -> dict[str, Any] | None:
        """What `steady_load.play` returned; None as long as it runs."""
        self._check()
        return self._answers.get("done")

    def next_offer(self, views: Collection[str], timeout: float) -> list[Offer]:
        """Offers of one commit, made from now on, that has one of these views; else none.

        An older commit would not do: the time it waited here would count as the streamer's.
        """
        with self._changed:
            self._offers, self._wanted = [], views
            self._changed.wait_for(
                lambda: self._offers or self._ended or "done" in self._answers, timeout
            )
            self._wanted = ()
            return [offer for offer in self._offers if offer.view in views]

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _ask(self, command: dict[str, Any], answer: str) -> Any:
        self._answers.clear()
        self._send(command)
        with self._changed:
            self._changed.wait_for(lambda: answer in self._answers or self._ended)
        self._check()
        return self._answers[answer]

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._reader.join()
            self._check()
            raise

    def _check(self) -> None:
        if self._ended:
            complaint = self._process.stderr.read() if self._process.stderr else ""
            last = complaint.strip().splitlines()[-1:] or ["it said nothing"]
            raise SynchroChainError(f"the load process ended: {last[0]}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"offers"'):
                if not self._wanted:
                    continue
                offers = [Offer(*offer) for offer in json.loads(line)["offers"]]
                with self._changed:
                    if any(offer.view in self._wanted for offer in offers) and not self._offers:
                        self._offers = offers
                        self._changed.notify_all()
            else:
                with self._changed:
                    self._answers.update(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass
class Probes:
    """What was measured, in milliseconds.

    A latency is from the commit to the end of the read that showed it, a pick-up from the commit
    to the beginning of the first read.
    """

    latencies: dict[str, list[float]] = field(default_factory=dict)
    picked_up: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    lost: int = 0

    @property
    def all(self) -> list[float]:
        """Latencies of all views."""
        return [value for values in self.latencies.values() for value in values]

    def figures(self) -> dict[str, Any]:
        """Quantiles of all and by view, null for a view of which no change was committed.

        No latency can be below pick-up and one read.
        """
        unseen: dict[str, list[float]] = {view.name: [] for view in VIEWS}
        return {
            "probes": len(self.all),
            "lost": self.lost,
            **_quantiles(self.all),
            "read_ms": _quantiles(self.reads)["p50_ms"],
            "pick_up_ms": _quantiles(self.picked_up)["p50_ms"],
            "by_view": {
                view: {"probes": len(values), **_quantiles(values)}
                for view, values in sorted((unseen | self.latencies).items())
            },
        }


class Prober:
    """Waits for one change after another to be served by a feature store.

    Args:
        store: a feature store.
        load: the process that commits changes.
    """

    def __init__(self, store: Any, load: LoadProcess) -> None:
        self._store = store
        self._load = load
        self._dice = random.Random(SEED)
        self._features = {
            view.name: [f"{view.name}:{name}" for name in view.features[:FEATURES_READ]]
            for view in VIEWS
        }

    def run(self, every: Callable[[], Any], rest: float = REST_S) -> Probes:
        """Probe until the load has been played; `every` is called after each probe."""
        probes = Probes()
        counts: Counter[str] = Counter()
        while self._load.report is None:
            every()
            offer = self._choose(counts, rest)
            if offer is None:
                continue
            counts[offer.view] += 1
            latency = self._wait_for(offer, probes)
            if latency is None:
                probes.lost += 1
            else:
                probes.latencies.setdefault(offer.view, []).append(latency)
        return probes

    def read(self, view: str, key: Mapping[str, Any]) -> int:
        """The event time that is served for a key, in microseconds since 1970; 0 for none."""
        response = self._store.get_online_features(
            features=self._features[view], entity_rows=[dict(key)]
        )
        stamps: list[int] = [
            stamp.seconds * 1_000_000 + stamp.nanos // 1000
            for result in response.proto.results
            for stamp in result.event_timestamps
        ]
        return max(stamps)

    def _choose(self, counts: Counter[str], rest: float) -> Offer | None:
        """The newest change of some view: in proportion to changes, but none is neglected."""
        least = SHARE * (counts.total() + 1)
        lacking = [view for view in self._features if counts[view] < least]
        offers: list[Offer] = []
        if lacking and len(lacking) < len(self._features):
            offers = self._load.next_offer(lacking, max(rest, LISTEN_S))
        else:
            time.sleep(rest)
        offers = offers or self._load.next_offer(self._features.keys(), 0.5)
        if not offers:
            return None
        return self._dice.choices(offers, [offer.changes for offer in offers])[0]

    def _wait_for(self, offer: Offer, probes: Probes) -> float | None:
        probes.picked_up.append((time.monotonic_ns() - offer.committed) / 1e6)
        while True:
            started = time.monotonic_ns()
            event = self.read(offer.view, offer.key)
            ended = time.monotonic_ns()
            probes.reads.append((ended - started) / 1e6)
            if event >= offer.event:
                return (ended - offer.committed) / 1e6
            if ended - offer.committed > LOST_S * 1e9:
                return None
            time.sleep(POLL_S)


def _quantiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"p50_ms": None, "p99_ms": None}
    ordered = sorted(values)
    at = {share: ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.99)}
    return {"p50_ms": round(at[0.5], 2), "p99_ms": round(at[0.99], 2)}
