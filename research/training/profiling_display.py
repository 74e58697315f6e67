"""How a profile of a step is shown: where its time goes, by part, by layer and by operation."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.training.display import grid, pairs

OPERATIONS, LAYERS = 12, 16
"""Rows that are shown, at most."""


def show_profile(console: Console, told: Mapping[str, Any]) -> None:
    """What a step takes, and on what."""
    busy, taken = told["busy_ms"], told["operations_ms"]
    table = pairs()
    for number, change in enumerate(told["changes"]):
        table.add_row("" if number else "changes", change)
    table.add_row("step", f"{_ms(told['ms'])} ms, in the mean of {told['steps']}, on {told['device']}")
    table.add_row("busy", f"{busy / told['ms']:.0%} of it")
    at_once = f", {taken / busy:.1f} at once" if taken > 1.05 * busy else ""
    table.add_row("operations", f"{_ms(taken)} ms{at_once}")
    parts = (f"{name} {ms / max(taken, 1e-9):.0%}" for name, ms in told["parts"].items() if ms)
    table.add_row("of that", ", ".join(parts))
    table.add_row("trace", f"{told['trace']}\nfor ui.perfetto.dev its perfetto_trace.json.gz, or for TensorBoard")
    console.print(table)
    console.print()
    console.print(_layers(told))
    console.print()
    console.print(_operations(told))


def _layers(told: Mapping[str, Any]) -> Table:
    table = grid("layer", ">forward, ms", ">backward", ">share", ">GFLOP/s")
    rows = told["layers"]
    for row in rows[:LAYERS]:
        both, rate = row["forward_ms"] + row["backward_ms"], row["flops_per_second"]
        table.add_row(
            row["layer"] or Text("outside of layers", style="dim"),
            _ms(row["forward_ms"]),
            _ms(row["backward_ms"]),
            _share(both, told),
            "" if rate is None else f"{rate / 1e9:,.1f}",
        )
    if left := rows[LAYERS:]:
        forward, backward = (sum(row[f"{part}_ms"] for row in left) for part in ("forward", "backward"))
        shares = (_ms(forward), _ms(backward), _share(forward + backward, told), "")
        table.add_row(Text(f"{len(left)} more", style="dim"), *shares)
    return table


def _operations(told: Mapping[str, Any]) -> Table:
    table = grid("longest", "part", "layer", ">ms", ">share")
    rows = told["operations"]
    for row in rows[:OPERATIONS]:
        table.add_row(row["origin"] or row["name"], row["part"], row["layer"], _ms(row["ms"]), _share(row["ms"], told))
    if left := rows[OPERATIONS:]:
        ms = sum(row["ms"] for row in left)
        table.add_row(Text(f"{len(left)} more", style="dim"), "", "", _ms(ms), _share(ms, told))
    return table


def _ms(ms: float) -> str:
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 100 else f"{ms:.0f}"


def _share(ms: float, told: Mapping[str, Any]) -> str:
    return f"{ms / max(told['operations_ms'], 1e-9):.1%}"
