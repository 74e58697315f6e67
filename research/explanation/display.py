"""An explanation in the terminal: answers with what they remind of, layers removed, and whether maps can be trusted."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.analysis.evaluation_page import percent
from research.explanation.page import verdict
from research.training.judging_display import table

ROWS = 20
"""Layers that are shown, those that matter most."""


def show_explanation(console: Console, told: Mapping[str, Any]) -> None:
    """What `explanation.explaining.explain_run` found."""
    first, rest = verdict(told)
    console.print(Text(first, style="bold"))
    console.print(rest)
    console.print()
    console.print(_examples(told))
    console.print()
    console.print(_removal(told))
    console.print()
    for line in told["left_out"]:
        console.print(Text(f"left out: {line}", style="dim"))
    page = next((file for file in told.get("files", ()) if file.endswith(".html")), None)
    if page:
        console.print(Text.assemble(("open    ", "bold"), page), soft_wrap=True)


def _examples(told: Mapping[str, Any]) -> Table:
    shown_table = table("example", "is", "says", ">probability", "nearest training examples")
    for row in told["examples"]:
        wrong = row["label"] is not None and row["label"] != row["says"]
        says = Text(row["says"], style="bold red" if wrong else "bold")
        near = ", ".join(each["label"] for each in row["nearest"])
        shown_table.add_row(row["example"], row["label"] or "", says, percent(row["probability"]), near)
    return shown_table


def _removal(told: Mapping[str, Any]) -> Table:
    whole, *rows = told["removal"]
    shown = sorted(rows, key=lambda row: row["difference"])[:ROWS]
    shown_table = table("without", ">right", ">points", "how")
    shown_table.add_row("nothing", percent(whole["accuracy"]), "", "")
    for row in (row for row in rows if row in shown):
        how = "skipped" if row["how"] == "identity" else "cuts all off" if row.get("cuts") else "gives its mean"
        shown_table.add_row(
            row["layer"], percent(row["accuracy"]), f"{100 * row['difference']:+.1f}", Text(how, style="dim")
        )
    return shown_table
