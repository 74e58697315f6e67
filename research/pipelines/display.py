"""What a person sees of a pipeline: its stages before it, each attempt with its gate, and how it ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.commandline.console import console
from research.training.display import duration

__all__ = ["console", "show_attempt", "show_done", "show_judged", "show_plan", "show_summary"]


def show_plan(console: Console, stages: Sequence[Mapping[str, Any]], changes: Sequence[str] = ()) -> None:
    """The stages, each with its gate and what is changed where that does not hold."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("stage", "what", "gate", "otherwise"):
        table.add_column(title, overflow="fold")
    for stage in stages:
        otherwise = "\n".join(f"{number}. {each}" for number, each in enumerate(stage["otherwise"], start=1))
        table.add_row(
            Text(stage["name"], style="bold"), stage["what"], "\n".join(stage["gate"]) or "-", otherwise or "-"
        )
    for change in changes:
        console.print(Text.assemble(("changed  ", "dim"), change), soft_wrap=True)
    console.print(table)


def show_attempt(console: Console, stage: str, number: int, changes: Sequence[str]) -> None:
    """That a stage begins, or begins again with something changed."""
    console.print()
    told = f": {changes[-1]}" if changes else ""
    console.rule(Text.assemble((stage, "bold"), f", changed{told}" if number else ""), align="left", style="dim")


def show_done(console: Console, path: Path) -> None:
    """That nothing is to be run."""
    console.print(Text.assemble(("done before  ", "dim"), (str(path), "cyan")), soft_wrap=True)


def show_judged(console: Console, attempt: Mapping[str, Any]) -> None:
    """A line for each condition of a gate."""
    for each in attempt["judged"]:
        mark = ("holds    ", "green") if each["holds"] else ("fails    ", "red")
        console.print(Text.assemble(mark, f"{each['condition']}: {each['value']:.6g}"), soft_wrap=True)


def show_summary(console: Console, told: Mapping[str, Any]) -> None:
    """How it ended, and where to read about it."""
    console.print()
    last = told["stages"][-1] if told["stages"] else None
    style = {"finished": "green", "not good enough": "red"}.get(told["reason"], "yellow")
    where = f" at {last['name']}" if last and told["reason"] != "finished" else ""
    console.print(Text.assemble((told["reason"] + where, f"bold {style}"), f", after {duration(told['seconds'])}"))
    if told["reason"] == "interrupted":
        console.print(Text("the same command goes on from there", style="dim"))
    console.print(Text.assemble(("page  ", "dim"), (str(Path(told["folder"], "report.html")), "cyan")), soft_wrap=True)
