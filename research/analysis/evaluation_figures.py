"""Pictures of a judgement: what was taken for what, whether the network knows how sure to be, and how far it bends.

    draw_reliability(judged).savefig("reliability.png")

Each takes a judgement as evaluation.json holds it.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from research.analysis.drawing import COLOURS, MARKERS, QUIET, SIZE, new_figure, plainly
from research.jsonl import explained, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES_DRAWN = 24
"""Of more classes, those that are told worst."""
NUMBERED = 14
"""Classes up to which the cells of a confusion matrix hold their numbers."""
BLUE, ORANGE = COLOURS[:2]


def draw_all(judged: Mapping[str, Any]) -> dict[str, "Figure"]:
    """Every figure that there is something for, by name."""
    if "confusion" not in judged:
        return {}
    each = {
        "reliability": draw_reliability,
        "confusion": draw_confusion,
        "classes": draw_classes,
        "robustness": draw_robustness,
    }
    drawn = {name: draw(judged) for name, draw in each.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save_figures(drawn: Mapping[str, "Figure"], folder: Path) -> list[Path]:
    """Writes figures as PNG files, NAME.png. Raises UserError where that cannot be."""
    with explained(f"make {folder}"):
        folder.mkdir(exist_ok=True)
    written = []
    for name, figure in drawn.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150, facecolor="white")
        write_atomically(folder / f"{name}.png", file.getvalue())
        written.append(folder / f"{name}.png")
    return written


def draw_reliability(judged: Mapping[str, Any]) -> "Figure":
    """How often the network is right, by how sure it is; a dot's size is the number of examples."""
    figure, axes = new_figure("Right, by how sure it is", "probability of what it says", "share that is right")
    filled = [each for each in judged["reliability"] if each["count"]]
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1, label="as sure as right")
    most = max(each["count"] for each in filled)
    for each in filled:
        axes.plot([each["confidence"]] * 2, [each["confidence"], each["accuracy"]], color=ORANGE, linewidth=1.6)
    sizes = [18 + 150 * math.sqrt(each["count"] / most) for each in filled]
    at = [[each[name] for each in filled] for name in ("confidence", "accuracy")]
    axes.scatter(*at, s=sizes, color=BLUE, alpha=0.9, linewidths=0, zorder=3, label="examples of a bin")
    axes.plot([], [], color=ORANGE, label="gap")
    low = min(min(at[0]), min(at[1]), 0.9)
    axes.set(xlim=(low - 0.04, 1.03), ylim=(low - 0.06, 1.05))
    axes.set_yticks([tick for tick in axes.get_yticks() if low - 0.06 <= tick <= 1.001])
    legend = figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3
    )
    legend.legend_handles[1].set_sizes([40])
    return figure


def draw_confusion(judged: Mapping[str, Any]) -> "Figure":
    """Of the examples of each class, a row, which were taken for what; mistakes alone have a colour."""
    from matplotlib.patches import Rectangle

    shown = _classes_drawn(judged)
    names = [judged["classes"][i]["name"] for i in shown]
    whole = np.asarray(judged["confusion"])
    found = whole[np.ix_(shown, shown)]
    figure, axes = new_figure("What was taken for what", "taken for", "is", size=(SIZE[0], SIZE[1] + 0.8))
    mistakes = np.where(np.eye(len(found), dtype=bool), 0, found)
    shares = mistakes / np.maximum(whole[shown].sum(1, keepdims=True), 1)
    axes.imshow(np.ma.masked_equal(shares, 0), cmap="Oranges", vmin=0, vmax=max(shares.max() * 1.3, 0.1), aspect="auto")
    for i, count in enumerate(np.diagonal(found)):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, color=BLUE, alpha=0.16 if count else 0, linewidth=0))
    if len(found) <= NUMBERED:
        for (i, j), count in np.ndenumerate(found):
            if count:
                weight, colour = ("normal", "black") if i == j else ("bold", "#3a1c00")
                axes.text(j, i, f"{count:,}", ha="center", va="center", fontsize=8, weight=weight, color=colour)
    places = np.arange(len(names))
    is_long = max(map(len, names)) > 3
    axes.set_xticks(places, names, rotation=60 if is_long else 0, ha="right" if is_long else "center", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure


def draw_classes(judged: Mapping[str, Any]) -> "Figure":
    """The share of each class that is right, with its interval, the worst on top."""
    rows = sorted((row for row in judged["classes"] if row["examples"]), key=lambda row: -row["recall"])
    rows = rows[-CLASSES_DRAWN:]
    figure, axes = new_figure("Right, by class", "share of the class that is right", "")
    places = np.arange(len(rows))
    values = np.array([row["recall"] for row in rows])
    ends = [values - [row["low"] for row in rows], [row["high"] for row in rows] - values]
    axes.errorbar(values, places, xerr=np.maximum(ends, 0), fmt="o", color=BLUE, capsize=2, linewidth=1.2, markersize=5)
    axes.axvline(judged["figures"]["accuracy"], color=QUIET, linestyle="--", linewidth=1, label="all examples")
    axes.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    axes.set_xlim(right=1.01)
    axes.plot([], [], "o-", color=BLUE, markersize=5, linewidth=1.2, label="a class, 95 % interval")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return figure


def draw_robustness(judged: Mapping[str, Any]) -> "Figure | None":
    """Accuracy by how hard the examples are made, with its interval, a panel for each way; None of none."""
    ways = judged["harder"]
    if not ways:
        return None
    from matplotlib.figure import Figure

    columns = min(len(ways), 3)
    rows = -(-len(ways) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 0.2), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    whole, intervals = judged["figures"]["accuracy"], judged["intervals"]
    lows = []
    for i, (axes, way) in enumerate(zip(panels, ways, strict=False)):
        names = [f"robustness/{way['name']}_{strength}/accuracy" for strength in way["strengths"]]
        values = np.array([whole, *(judged["figures"][name] for name in names)])
        bounds = np.array([intervals["accuracy"], *(intervals[name] for name in names)]).T
        at = [0, *way["strengths"]]
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        axes.plot(at, values, linewidth=1.5, **style)
        axes.fill_between(at, *bounds, color=style["color"], alpha=0.18, linewidth=0)
        axes.set_title(way["name"], loc="left", fontsize=10, weight="bold")
        axes.set_xlabel(way["per"], fontsize=8)
        axes.set_xticks(at)
        lows.append(bounds.min())
    for axes in panels:
        plainly(axes)
        axes.tick_params(labelsize=8)
        axes.set_ylim(max(0, min(lows) - 0.05), 1.02)
    for axes in panels[len(ways) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("accuracy", fontsize=9)
    return figure


def _classes_drawn(judged: Mapping[str, Any]) -> list[int]:
    """The places of the classes that a confusion matrix shows: all, or those that are told worst."""
    order = sorted(range(len(judged["classes"])), key=lambda i: judged["classes"][i]["f1"])
    return sorted(order[:CLASSES_DRAWN])
