"""What a compression came to, for people at a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.deployment.compression.base import Work
from research.deployment.compression.compression import Compression
from research.deployment.compression.sentences import in_points
from research.inspection.tables import si, size_of
from research.training.display import console

__all__ = ["console", "show_end", "show_method", "show_opening", "show_rows"]


def show_opening(to: Console, config: Compression, work: Work, changes: Sequence[str] = ()) -> None:
    """What is compressed, and what it may cost."""
    about = work.trained.about
    lines = {
        "network": f"{type(work.trained.model).__name__} of {about['path']}, step {about['step']}",
        "budget": f"{in_points(config.budget)} of accuracy, on the {config.split} split",
    }
    to.print(Text(config.name or "compression", style="bold"))
    for change in changes:
        to.print(Text.assemble(("changed  ", "dim"), change), soft_wrap=True)
    for name, line in lines.items():
        to.print(Text.assemble((f"{name:<9}", "dim"), line), soft_wrap=True)


def show_method(to: Console, title: str) -> None:
    """What is being done."""
    to.print(Text.assemble(("makes    ", "dim"), title), soft_wrap=True)


TITLES = (
    "network",
    "file",
    "smaller",
    "plain smaller",
    "parameters",
    "not 0",
    "multiply-adds",
    "FLOPs",
    "ms",
    "faster",
    "right",
    "95 %",
    "lost",
    "",
)
"""Of all that there is to tell of a network."""
WIDTHS = {
    150: TITLES,
    100: ("network", "file", "smaller", "plain smaller", "not 0", "FLOPs", "faster", "right", "lost", ""),
    0: ("network", "file", "smaller", "FLOPs", "right", "lost", ""),
}
"""Of what a terminal has room for that has so many columns."""


def cells(row: Mapping[str, Any], *, is_first: bool) -> dict[str, str]:
    """A row of the table as texts, by title."""
    values = (
        row["network"],
        size_of(row["bytes"]),
        f"{row['times_smaller']:.2f} ×",
        f"{row['times_smaller_plain']:.2f} ×",
        si(row["parameters"]),
        si(row["nonzeros"]),
        si(row["multiply_adds"]),
        si(row["flops"]),
        f"{row['milliseconds']:.3g}",
        f"{row['times_faster']:.2f} ×",
        f"{100 * row['accuracy']:.2f} %",
        f"{100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f}",
        "" if is_first else f"{100 * row['lost'] + 0.0:.2f}",
        "" if is_first else "kept" if row["within"] else "too much",
    )
    return dict(zip(TITLES, values, strict=True))


def show_rows(to: Console, told: Mapping[str, Any]) -> None:
    """A row for each network: what it takes and what it lost."""
    titles = next(titles for width, titles in WIDTHS.items() if to.width >= width)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for title in titles:
        is_text = title in ("network", "")
        table.add_column(title, justify="left" if is_text else "right", overflow="fold", no_wrap=title != "network")
    for index, row in enumerate(told["rows"]):
        texts = cells(row, is_first=index == 0)
        table.add_row(*(Text(texts[title]) for title in titles), style="" if index == 0 or row["within"] else "dim")
    to.print()
    to.print(table)
    to.print(Text(f"\n{note(told)}", style="dim"), width=min(to.width, 100))


def note(told: Mapping[str, Any]) -> str:
    """What the columns mean."""
    return (
        "Files are the arrays as safetensors, gzipped, the original's too; plain is if none is gzipped. Of an array "
        "that is mostly zeros both hold what is not 0, and a bit for each position. Multiply-adds and FLOPs are those "
        "of one example; times are medians for "
        f"{told['batch']} examples, all taking turns. What is lost is in points."
    )


def show_end(to: Console, path: Path) -> None:
    """Where it is kept."""
    to.print()
    to.print(Text.assemble(("kept in  ", "dim"), str(path)), soft_wrap=True)
    to.print(Text.assemble(("open     ", "dim"), str(path / "report.html")), soft_wrap=True)
