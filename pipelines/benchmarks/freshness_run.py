"""Stretches of load: how fresh, how far behind, how much memory; and the highest rate held."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipelines.benchmarks import Say
from pipelines.benchmarks.freshness_probe import REST_S, LoadProcess, Prober, Probes
from pipelines.benchmarks.freshness_streamer import Streamer, Watch, is_growing
from pipelines.errors import SynchroChainError

WARM_UP_S: Final = 5.0
LONG_S: Final = 600.0
DRAIN_S: Final = 2.0
"""A rate is held only if the lag is gone this soon after the last commit."""
PATIENCE_S: Final = 300.0
REST_AT_MAX_S: Final = 0.2


@dataclass
class Run:
    """What one stretch of load showed."""

    rate: float
    report: dict[str, Any]
    probes: Probes
    watch: Watch
    drained: float | None
    cores: dict[str, float]

    @property
    def load_held(self) -> bool:
        """Whether the shop committed as fast as it was asked to."""
        wanted: float = self.report["changes"] / self.rate
        return bool(self.report["seconds"] <= wanted * 1.01 + 0.2)

    @property
    def held(self) -> bool:
        """Whether the streamer kept up."""
        gone = self.drained is not None and self.drained <= DRAIN_S
        return self.load_held and gone and not is_growing(self.watch.lags, self.rate)

    def words(self) -> str:
        """One line for a person."""
        drained = "never" if self.drained is None else f"{self.drained:.1f} s later"
        kept = "held" if self.held else "not held" if self.load_held else "not reached by the load"
        return (
            f"{self.rate:,.0f}/s for {self.report['seconds']:.0f} s: {kept}; lag at most "
            f"{max(lag for _, lag in self.watch.lags):,}, gone {drained}; busy cores: "
            + ", ".join(f"{name} {share:.2f}" for name, share in self.cores.items())
        )


@dataclass
class Bench:
    """Everything that runs, warm."""

    streamer: Streamer
    load: LoadProcess
    prober: Prober
    redis: int | None
    say: Say
    rss_mb_start: float
    left: int
    """Changes of the load that were not played yet."""

    def run(self, rate: float, seconds: float, rest: float | None = None) -> Run:
        """Play a stretch of the load and wait until the streamer is through.

        Args:
            rate: changes a second.
            seconds: for how long.
            rest: seconds between probes; None probes not.
        """
        wanted = int(rate * seconds)
        if self.load.prepare(wanted) < wanted:
            raise SynchroChainError(f"the load has no {wanted:,} changes left")
        self.left -= wanted
        others = {"load": self.load.pid} | ({"redis": self.redis} if self.redis else {})
        watch = Watch(self.streamer, others)
        self.load.play(rate)
        probes = Probes()
        if rest is not None:
            probes = self.prober.run(watch, rest)
        while self.load.report is None:
            watch()
            time.sleep(0.05)
        cores = watch.cores()
        drained = self.streamer.catch_up(PATIENCE_S)
        run = Run(rate, self.load.report, probes, watch, drained, cores)
        self.say(run.words())
        return run

    def measured(self, rate: float, seconds: float) -> dict[str, Any]:
        """Latencies at a rate, after a short warm-up."""
        self.run(rate, WARM_UP_S, rest=REST_S)
        run = self.run(rate, seconds, rest=REST_S)
        return {
            **run.probes.figures(),
            "seconds": round(run.report["seconds"], 1),
            "clicks_per_s": round(run.report["clicks"] / run.report["seconds"], 1),
            "held": run.held,
            "load_late_p99_ms": run.report["late_p99_ms"],
            "lag_max": max(lag for _, lag in run.watch.lags),
            "busy_cores": run.cores,
            "rss_mb_start": round(self.rss_mb_start, 1),
        }

    def long(self, rate: float) -> dict[str, Any]:
        """Ten minutes at a rate: does the memory stay what it was?"""
        run = self.run(rate, LONG_S, rest=REST_S)
        second = [mb for at, mb in run.watch.rss_mb if 60 <= at < 120]
        last = [mb for at, mb in run.watch.rss_mb if at >= LONG_S - 60]
        figures = run.probes.figures()
        return {
            "rss_growth": round(statistics.median(last) / statistics.median(second), 4),
            "rss_mb_by_minute": [
                round(statistics.median(mb for at, mb in run.watch.rss_mb if at // 60 == minute), 1)
                for minute in range(int(LONG_S // 60))
            ],
            "long": {name: figures[name] for name in ("probes", "lost", "p50_ms", "p99_ms")},
        }

    def highest(self, steps: Sequence[int], trial: float, hold: float) -> dict[str, Any]:
        """The highest of these rates that is held, and what set the limit (None: the last step).

        Args:
            steps: rates to try, changes a second.
            trial: seconds for which each is tried.
            hold: seconds for which the highest must be held.
        """
        candidates: list[int] = []
        limited_by = None
        for step in sorted(steps):
            run = self.run(step, trial)
            if not run.held:
                limited_by = "streamer" if run.load_held else "load"
                break
            candidates.append(step)
        for step in reversed(candidates):
            if step * hold > self.left:
                limited_by = "load"
                break
            run = self.run(step, hold, rest=REST_AT_MAX_S)
            if run.held:
                figures = run.probes.figures()
                at_max = {name: figures[name] for name in ("probes", "lost", "p50_ms", "p99_ms")}
                return {
                    "max_rate_per_s": step,
                    "limited_by": limited_by,
                    "at_max": {**at_max, "busy_cores": run.cores},
                }
            limited_by = "streamer" if run.load_held else "load"
        return {"max_rate_per_s": 0, "limited_by": limited_by}
