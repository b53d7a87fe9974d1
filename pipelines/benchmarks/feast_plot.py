"""The chart of the Feast benchmarks: stock, ours and the limit, a panel per measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipelines.benchmarks.feast_figures import rounded
from pipelines.errors import UsageError
from pipelines.printable import shown

SIDES: Final = ("stock", "ours", "limit")
LABELS: Final = ("stock Feast", "SynchroChain", "limit")
COLOURS: Final = ("#b8bfc8", "#2563eb", "#e5e7eb")
INK, FAINT = "#111827", "#6b7280"
DOTS_PER_INCH: Final = 160


@dataclass(frozen=True)
class Panel:
    """A measurement: where its figures stand in the JSON, and what is written about it."""

    part: str
    figure: str
    title: str
    unit: str
    limit: str
    size: str
    more_is_better: bool = False

    def figures(self, found: Mapping[str, Any]) -> list[float | None]:
        """Of stock, ours and the limit."""
        return [found[self.part][self.figure.format(side)] for side in SIDES]


PANELS: Final = (
    Panel(
        "materialize",
        "{}_rows_per_s",
        "materialize",
        "rows/s, more is better",
        "raw HSETs, pipelined",
        "{keys:,} keys × {features} features",
        more_is_better=True,
    ),
    Panel(
        "online_1",
        "{}_p50_ms",
        "get_online_features, 1 key",
        "ms, less is better",
        "redis-py alone, one HMGET",
        "{features} features",
    ),
    Panel(
        "online_100",
        "{}_p50_ms",
        "get_online_features, 100 keys",
        "ms, less is better",
        "redis-py alone, pipelined HMGET",
        "{features} features",
    ),
    Panel(
        "history",
        "{}_s",
        "get_historical_features",
        "s, less is better",
        "one DuckDB ASOF statement",
        "{rows:,} rows × {views} views of {view_rows:,}",
    ),
)


def check_plotting(path: Path) -> None:
    """Refuse before anything is measured.

    Raises:
        UsageError: matplotlib is missing, the file is no PNG, or its folder is not there.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--plot draws with matplotlib: install it with `pip install matplotlib`, or the extra "
            "`models`"
        ) from None
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {str(path)!r} is not the name of a PNG file, such as feast.png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {str(path)!r}: there is no folder {path.absolute().parent}")


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw what was measured into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if panel.part in found]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 2.15 * rows + 0.75), facecolor="white")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, start=1):
        _draw(figure.add_subplot(rows, columns, place), panel, found)
    machine = found["machine"]
    figure.text(
        0.01,
        0.012,
        f"medians of one run, in turns · Feast {machine['feast']}, {machine['server']}, "
        f"DuckDB {machine['duckdb']} · {machine['cores']} cores",
        color=FAINT,
        fontsize=7.5,
    )
    figure.tight_layout(rect=(0, 0.045, 1, 1), h_pad=2.0, w_pad=2.5)
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png")


def _draw(axes: Any, panel: Panel, found: Mapping[str, Any]) -> None:
    figures = panel.figures(found)
    widths = [figure or 0.0 for figure in figures]
    places = range(len(SIDES))
    bars = axes.barh(places, widths, color=COLOURS, height=0.68)
    bars[2].set(edgecolor=FAINT, hatch="////", linewidth=0.8)
    axes.set_yticks(places, [*LABELS[:2], f"limit:\n{panel.limit}"], fontsize=8.5, color=INK)
    axes.get_yticklabels()[1].set_fontweight("bold")
    axes.get_yticklabels()[2].set(color=FAINT, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, max(widths) * 1.45 or 1)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, figure in zip(places, figures, strict=True):
        text = "not measured" if figure is None else shown(rounded(figure))
        if place == 1 and (times := found[panel.part]["ratio_to_stock"]):
            text += f"   {shown(times)}× as fast"
        axes.text(
            widths[place] + max(widths) * 0.015,
            place,
            text,
            va="center",
            fontsize=9,
            color=INK if place < 2 else FAINT,
            fontweight="bold" if place == 1 else "normal",
        )
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=16)
    below = f"{panel.unit} · {panel.size.format(**found[panel.part])}"
    axes.text(0, 1.04, below, transform=axes.transAxes, fontsize=7.5, color=FAINT)
