"""Everything that shows a comparison: statistics, table, plots and one HTML page, as pure functions of its results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokjax.core.errors import SourceError
from tokjax.core.files import write_bytes, write_text
from tokjax.measure.statistics import Estimate, Verdict, interval, summary, verdict
from tokjax.report.images_table import terminal_table as terminal_images_table
from tokjax.report.sentences import headline
from tokjax.report.table import markdown_table, terminal_table

FORMAT = 1

__all__ = [
    "FORMAT",
    "Estimate",
    "Verdict",
    "headline",
    "interval",
    "markdown_table",
    "summary",
    "terminal_images_table",
    "terminal_table",
    "verdict",
    "write",
]


def write(results: Mapping[str, Any], directory: Path) -> Path:
    """Writes `report.html` and the plots of `results` as PNG files into `directory`, each whole or not at all.

    Args:
      results: what `tokjax compare` stores in results.json, format 1.
      directory: made if absent.

    Returns:
      The path of `report.html`, which needs none of the other files.

    Raises:
      SourceError: `results` has another format or no rows.
      OutputError: `directory` cannot be written.
    """
    from tokjax.report import images, images_plots, page, plots

    if results.get("format") != FORMAT:
        raise SourceError(f"results: format {results.get('format')!r}, expected {FORMAT}. Run `tokjax compare` again.")
    if not results["rows"]:
        raise SourceError("results: no rows, nothing to report. Run `tokjax compare` to its end.")
    of_images = results.get("kind") == "images"
    drawn = images_plots.figures(results) if of_images else plots.figures(results)
    for name, figure in drawn.items():
        write_bytes(directory / f"{name}.png", plots.render(figure, "png"))
    path = directory / "report.html"
    write_text(path, images.page(results) if of_images else page.page(results))
    return path
