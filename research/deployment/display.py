"""What the command line shows of predictions and exports."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_predictions(console: Console, predictions: Sequence[Mapping[str, Any]], most: int = 3) -> None:
    """Files, each with its likeliest classes and their probabilities."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for header, justify in (("file", "left"), ("class", "left"), ("probability", "right"), ("", "left")):
        table.add_column(header, justify=justify, overflow="fold")
    for prediction in predictions:
        for rank, (name, probability) in enumerate(prediction["classes"][:most]):
            first = rank == 0
            cells = (str(prediction["file"]) if first else "", str(name), f"{100 * probability:.2f} %")
            table.add_row(*cells, prediction.get("note") or "" if first else "", style="bold" if first else "dim")
    console.print(table)


def show_export(console: Console, told: Mapping[str, Any]) -> None:
    """What was written of a run, as `exporting.export` tells it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    table.add_row("run", told["folder"] + (f", step {told['step']:,}" if told["step"] is not None else ""))
    table.add_row("numbers", f"{told['parameters']:,}")
    for name, difference in told["largest difference"].items():
        agrees = f"in a process of its own, on {told['examples']:,} test examples: off by {difference:.1e} at most"
        table.add_row(name, agrees)
    for name, reason in told["left_out"].items():
        table.add_row(name, f"left out: {reason}")
    if told["accuracy"] is not None:
        table.add_row("accuracy", f"{told['accuracy']:.2%}")
    console.print(table)
    console.print(Text.assemble((f"{'saved':<12}", "dim"), (str(told["to"]), "cyan")), soft_wrap=True)
