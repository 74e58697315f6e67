"""What a compression came to, for people at a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.deployment.compression.base import Work
from research.deployment.compression.compression import Compression
from research.inspection.tables import si, size_of
from research.training.display import console

__all__ = ["console", "show_end", "show_method", "show_opening", "show_rows"]


def show_opening(to: Console, config: Compression, work: Work, changes: Sequence[str] = ()) -> None:
    """What is compressed, and what it may cost."""
    about = work.trained.about
    lines = {
        "network": f"{type(work.trained.model).__name__} of {about['path']}, step {about['step']}",
        "budget": f"{100 * config.budget:.3g} points of accuracy, on the {config.split} split",
    }
    to.print(Text(config.name or "compression", style="bold"))
    for change in changes:
        to.print(Text.assemble(("changed  ", "dim"), change), soft_wrap=True)
    for name, line in lines.items():
        to.print(Text.assemble((f"{name:<9}", "dim"), line), soft_wrap=True)


def show_method(to: Console, title: str) -> None:
    """What is being done."""
    to.print(Text.assemble(("makes    ", "dim"), title), soft_wrap=True)


def cells(row: Mapping[str, Any], *, is_first: bool) -> list[str]:
    """A row of the table as texts, in the order of `TITLES`."""
    lost = "" if is_first else f"{100 * row['lost']:+.2f}".replace("+0.00", "0.00").replace("-0.00", "0.00")
    return [
        row["network"],
        size_of(row["bytes"]),
        f"{row['times_smaller']:.2f}×",
        si(row["parameters"]),
        si(row["nonzeros"]),
        si(row["multiply_adds"]),
        si(row["flops"]),
        f"{row['milliseconds']:.3g}",
        f"{row['times_faster']:.2f}×",
        f"{100 * row['accuracy']:.2f} %",
        f"{100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f}",
        lost,
        "" if is_first else "kept" if row["within"] else "loses too much",
    ]


TITLES = (
    "network",
    "file",
    "smaller",
    "parameters",
    "not 0",
    "multiply-adds",
    "FLOPs",
    "ms",
    "faster",
    "accuracy",
    "95 %",
    "points lost",
    "",
)


def show_rows(to: Console, told: Mapping[str, Any]) -> None:
    """A row for each network: what it takes and what it lost."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, title in enumerate(TITLES):
        is_text = index in (0, len(TITLES) - 1)
        table.add_column(title, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for index, row in enumerate(told["rows"]):
        style = "" if index == 0 or row["within"] else "dim"
        table.add_row(*map(Text, cells(row, is_first=index == 0)), style=style)
    to.print()
    to.print(table)
    to.print(Text(f"\n{note(told)}", style="dim"))


def note(told: Mapping[str, Any]) -> str:
    """What the columns mean."""
    return (
        "Files are the arrays as safetensors, gzipped but for the original; multiply-adds and FLOPs are those of one "
        f"example; times are medians for {told['batch']} examples, the networks taking turns."
    )


def show_end(to: Console, path: Path) -> None:
    """Where it is kept."""
    to.print()
    to.print(Text.assemble(("kept in  ", "dim"), str(path)), soft_wrap=True)
    to.print(Text.assemble(("open     ", "dim"), str(path / "report.html")), soft_wrap=True)
