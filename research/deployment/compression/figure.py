"""The picture of a compression: accuracy against size, cost and time, and where the budget ends."""

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from research.inspection.tables import si, size_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORIGINAL, KEPT, LOST, TEXT = "#33373d", "#1f6fb5", "#d1495b", "#33373d"
MARKERS = "osD^vPhX<>pd8H"
PANELS = (
    ("bytes", "file, gzipped", size_of),
    ("flops", "FLOPs of an example", si),
    ("milliseconds", "time of {batch} examples, ms", "{:.3g}".format),
)
"""What accuracy is drawn against: (column, title, how its values are written)."""


def draw(told: Mapping[str, Any]) -> "Figure":
    """Three panels that share their accuracy; a marker for each network, with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (column, title, written) in zip(panels, PANELS, strict=True):
        _draw_panel(axes, told, column, written)
        axes.set_xlabel(title.format(batch=told["batch"]), color=TEXT)
    panels[0].set_ylabel(f"% right, {told['split']} split", color=TEXT)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_panel(axes: "Axes", told: Mapping[str, Any], column: str, written: Callable[[float], str]) -> None:
    rows = told["rows"]
    least = 100 * (rows[0]["accuracy"] - told["budget"])
    axes.axhline(least, color=LOST, linewidth=1, linestyle="--", label="budget")
    for index, row in enumerate(rows):
        color = ORIGINAL if index == 0 else KEPT if row["within"] else LOST
        value = 100 * row["accuracy"]
        around = [[value - 100 * row["accuracy_low"]], [100 * row["accuracy_high"] - value]]
        axes.errorbar(
            row[column],
            value,
            yerr=around,
            color=color,
            marker=MARKERS[index % len(MARKERS)],
            markersize=7.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=0.8,
            linestyle="none",
            label=row["network"],
            zorder=3 + index,
        )
    axes.set_xscale("log")
    values = [row[column] for row in rows]
    low, high = min(values), max(values)
    axes.set_xlim(low / 1.4, high * 1.4)
    _plain_ticks(axes, low / 1.4, high * 1.4, written)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=TEXT)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _plain_ticks(axes: "Axes", low: float, high: float, written: Callable[[float], str]) -> None:
    """Ticks at round numbers, written out: 20 kB, 50 kB, 100 kB."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    powers = [10.0**power for power in range(-6, 16)]
    ticks = [times * power for power in powers for times in (1, 2, 5) if low <= times * power <= high]
    if len(ticks) > 5:
        ticks = [power for power in powers if low <= power <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))


def as_png(told: Mapping[str, Any]) -> bytes:
    """The picture as the content of a file."""
    content = io.BytesIO()
    draw(told).savefig(content, format="png", dpi=150)
    return content.getvalue()
