"""How figures look, whatever they show: colours and markers, quiet axes, readable ticks, legends out of the way."""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2b7bc4", "#e07a26", "#2f9e72", "#9a63c8", "#d1485f", "#7f8a1e", "#a8673f", "#5d7f92")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
QUIET = "#8a8f98"
SIZE = (4.6, 3.5)
"""Inches."""
WIDEST = 46
"""Characters of a title in one line."""


def new_figure(title: str, x: str, y: str, size: tuple[float, float] = SIZE) -> tuple["Figure", "Axes"]:
    """A figure of one panel; a long title is broken at its first comma."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    title = title.replace(", ", ",\n", 1) if len(title) > WIDEST else title
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    plainly(axes)
    return figure, axes


def plainly(axes: "Axes") -> None:
    """Quiet lines, and no more than are needed."""
    axes.grid(color=QUIET, alpha=0.22, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def colour_of(index: int) -> str:
    """That of the series of an index."""
    return COLOURS[index % len(COLOURS)]


def line_style(index: int, bare: bool = False) -> dict[str, Any]:
    """How the line of the series of an index is drawn; with error bars unless `bare`."""
    about = {"color": colour_of(index), "marker": MARKERS[index % len(MARKERS)], "markersize": 5.5, "linewidth": 1.5}
    return about if bare else about | {"capsize": 2.5, "elinewidth": 1.1}


def legend(figure: "Figure", axes: "Axes", title: str = "") -> None:
    """Below the axes, where nothing is in its way."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles or (len(handles) < 2 and not title):
        return
    if title:
        labels = [f"{title}{labels[0]}", *labels[1:]]
    length = max(map(len, labels))
    columns = max(1, min(len(labels), 75 // (length + 5)))
    tight = {"handlelength": 1.4, "handletextpad": 0.5, "columnspacing": 1.2}
    figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize=8, ncols=columns, **tight)


def above_nothing(ends: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lengths of error bars (2, points) of losses: one that reaches 0 leaves a logarithmic axis at its lower end."""
    return np.stack([np.minimum(ends[0], (1 - 1e-6) * np.abs(values)), ends[1]])


def log_if_wide(axes: "Axes", losses: np.ndarray) -> None:
    """A logarithmic axis for losses that span much; what is far below all of them runs off it."""
    losses = losses[np.isfinite(losses) & (losses > 0)]
    if len(losses) and losses.max() / losses.min() > 8:
        axes.set_yscale("log")
        axes.set_ylim(losses.min() / 1.8, losses.max() * 1.8)
        plain_log(axes)
    elif not len(losses) or losses.max() > 1.5 * losses.min():  # else nothing could be told apart
        axes.set_ylim(bottom=0)


def plain_log(axes: "Axes") -> None:
    """Labels of a logarithmic axis as plain numbers."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_ylim()
    few = high / low < 60
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda *_: "")


def log_ticks(axes: "Axes", form: Callable[[float], str]) -> None:
    """Labels at 1, 2 and 5 of each decade where there are few decades."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high / low < 200 else (1,), numticks=12))
    axes.xaxis.set_major_formatter(lambda value, _: form(value))
    axes.xaxis.set_minor_formatter(lambda *_: "")


def label_points(figure: "Figure", axes: "Axes", points: Sequence[tuple[float, float, str, int]]) -> None:
    """Writes beside points what they are, where there is room."""
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    places = axes.transData.transform([(x, y) for x, y, _, _ in points])
    taken = [(x - 4 * unit, y - 4 * unit, x + 4 * unit, y + 4 * unit) for x, y in places]
    for (x, y), (at_x, at_y, text, index) in zip(places, points, strict=True):
        width, height = 5.2 * len(text) * unit, 8 * unit
        for dx, dy in itertools.chain(((8, 0), (-8, 0), (8, 7), (8, -7), (-8, 7), (-8, -7), (0, 11), (0, -11))):
            left = x + dx * unit + (0 if dx > 0 else -width if dx < 0 else -width / 2)
            box = (left, y + dy * unit - height / 2, left + width, y + dy * unit + height / 2)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                side = "left" if dx > 0 else "right" if dx < 0 else "center"
                axes.annotate(
                    text, (at_x, at_y), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=8,
                    color=colour_of(index),
                )  # fmt: skip
                break


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
