"""The feature dictionary in Markdown, as `docs/features.md` shows it.

`python -m pipelines.features.dictionary` writes it into the page anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipelines.features.views import VIEWS, View
from pipelines.settings import PROJECT_ROOT

BEGIN: Final = "<!-- the dictionary: made by python -m pipelines.features.dictionary -->"
END: Final = "<!-- end of the dictionary -->"
TYPES: Final = {
    "whole": "Int64",
    "number": "Float64",
    "text": "String",
    "flag": "Bool",
    "texts": "Array(String)",
    "numbers": "Array(Float64)",
}
"""What Feast calls a feature's type."""


def dictionary() -> str:
    """Every declared group with its features, types and descriptions."""
    return "\n\n".join(_group(view) for view in VIEWS)


def with_dictionary(page: str) -> str:
    """A page of documentation with the dictionary between its marks.

    Raises:
        ValueError: the page has no such marks.
    """
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{dictionary()}\n{END}{after}"


def _group(view: View) -> str:
    lines = [f"**{view.name}** ({', '.join(view.keys)}): {view.group.about}.", ""]
    lines += ["| feature | type | definition |", "|---|---|---|"]
    for name, feature in view.group.features.items():
        lines.append(f"| {name} | {TYPES[feature.kind]} | {feature.description} |")
    return "\n".join(lines)


def main() -> None:
    """Write the dictionary into the documentation."""
    path = Path(PROJECT_ROOT, "docs", "features.md")
    path.write_text(with_dictionary(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
