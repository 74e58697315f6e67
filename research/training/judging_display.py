"""A judgement of a run in the terminal: the verdict, the figures with their intervals, and how far it bends."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.analysis.evaluation_page import percent, sentence

SHOWN = ("accuracy", "worst_class_accuracy", "macro_f1", "loss", "nll", "brier", "ece", "perplexity")
"""Figures that are shown; evaluation.json has all."""
SHARES = ("accuracy", "worst_class_accuracy", "macro_f1", "ece")
CLASSES_SHOWN = 5


def show_judgement(console: Console, judged: Mapping[str, Any]) -> None:
    """What `training.judging.judge_run` found."""
    first, rest = sentence(judged)
    console.print(Text(first, style="bold"))
    console.print(rest)
    if "against" in judged:
        console.print(judged["against"]["sentence"])
    console.print()
    console.print(_figures(judged))
    if "classes" in judged:
        console.print()
        console.print(_classes(judged))
    if judged.get("harder"):
        console.print()
        console.print(_harder(judged))
    console.print()
    for line in judged["left_out"]:
        console.print(Text(f"left out: {line}", style="dim"))
    for name, file in zip(("kept in", "open"), judged.get("files", ()), strict=False):
        console.print(Text.assemble((f"{name:<8}", "bold"), file), soft_wrap=True)


def _figures(judged: Mapping[str, Any]) -> Table:
    shown = table(judged["split"], ">value", ">95 % interval")
    for name in (name for name in SHOWN if name in judged["figures"]):
        low, high = judged["intervals"].get(name, (None, None))
        between = "" if low is None else f"{_told(name, low)} to {_told(name, high)}"
        shown.add_row(name, _told(name, judged["figures"][name]), between)
    return shown


def _told(name: str, value: float) -> str:
    return percent(value) if name in SHARES else f"{value:.4g}"


def _classes(judged: Mapping[str, Any]) -> Table:
    rows = sorted((row for row in judged["classes"] if row["examples"]), key=lambda row: row["recall"])
    shown = table("worst classes" if len(rows) > CLASSES_SHOWN else "class", ">right", ">95 % interval", ">examples")
    for row in rows[:CLASSES_SHOWN]:
        between = f"{percent(row['low'])} to {percent(row['high'])}"
        shown.add_row(row["name"], percent(row["recall"]), between, f"{row['examples']:,}")
    return shown


def _harder(judged: Mapping[str, Any]) -> Table:
    """A row for each way of making examples harder: its strengths, and what accuracy is left."""
    most = max(len(way["strengths"]) for way in judged["harder"])
    shown = table("made harder", *([">"] * most), "")
    for way in judged["harder"]:
        names = [f"robustness/{way['name']}_{strength}/accuracy" for strength in way["strengths"]]
        blank = [""] * (most - len(names))
        shown.add_row(way["name"], *(str(each) for each in way["strengths"]), *blank, Text(way["per"], style="dim"))
        shown.add_row("", *(Text(percent(judged["figures"][name]), style="bold") for name in names), *blank, "")
    return shown


def table(*headers: str) -> Table:
    """A table with a line of headers and no rules; ">" before a header puts its column to the right."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        is_right = header.startswith(">")
        justify = "right" if is_right else "left"
        made.add_column(header.removeprefix(">"), justify=justify, no_wrap=is_right, overflow="fold")
    return made
