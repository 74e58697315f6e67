"""Pictures of an explanation: maps of every method, kernels and feature maps, layers removed, shuffled weights."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from research.analysis.drawing import COLOURS, MARKERS, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNED, POSITIVE = "RdBu_r", "magma"
UNSIGNED = ("Grad-CAM", "attention rollout")
SHOWN = 8
"""Kernels and feature maps of a layer."""
LAYERS = 6
"""Layers whose kernels and feature maps are shown, at most."""


def draw_all(told: Mapping[str, Any], found: Any, *, kind: str, maximum: float | None) -> dict[str, "Figure"]:
    """Every figure that there is something for, by name."""
    drawn = {}
    pictures = found.chosen.raw.ndim == 4 and kind == "image"
    if pictures:
        drawn["attribution"] = draw_maps(told, found.chosen.raw, found.maps, maximum)
    elif kind != "bytes":
        drawn["attribution"] = draw_bars(told, found.maps)
    if found.kernels:
        drawn["kernels"] = draw_layers(found.kernels, found.features)
    drawn["removal"] = draw_removal(told["removal"])
    drawn["sanity"] = draw_sanity(told["sanity"])
    return drawn


def draw_maps(
    told: Mapping[str, Any], raw: np.ndarray, maps: Mapping[str, np.ndarray], maximum: float | None
) -> "Figure":
    """A row for each example: the picture, and what each method finds in it. Red speaks for the answer, blue not."""
    from matplotlib.figure import Figure

    rows, columns = len(raw), 1 + len(maps)
    figure = Figure(figsize=(1.55 * columns + 0.9, 1.6 * rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, row in enumerate(told["examples"]):
        picture, *others = grid[i]
        _show_picture(picture, raw[i], maximum)
        label = f"is {row['label']}\n" if row["label"] is not None else ""
        wrong = row["label"] is not None and row["label"] != row["says"]
        picture.set_ylabel(
            f"{label}says {row['says']}\n{100 * row['probability']:.1f} %",
            rotation=0,
            ha="right",
            va="center",
            fontsize=9,
            weight="bold" if wrong else "normal",
        )
        for axes, (name, found) in zip(others, maps.items(), strict=True):
            _show_map(axes, found[i], name)
    for axes, name in zip(grid[0], ["input", *maps], strict=True):
        axes.set_title(name, fontsize=9, weight="bold")
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure


def _show_picture(axes: Any, raw: np.ndarray, maximum: float | None) -> None:
    pixels = raw.astype(np.float64) / (maximum or raw.max() or 1)
    axes.imshow(np.clip(pixels if raw.shape[-1] == 3 else pixels[..., 0], 0, 1), cmap="gray", vmin=0, vmax=1)


def _show_map(axes: Any, found: np.ndarray, name: str) -> None:
    if name in UNSIGNED:
        axes.imshow(found, cmap=POSITIVE, vmin=min(0, found.min()), vmax=found.max() or 1)
        return
    most = np.quantile(np.abs(found), 0.995) or 1
    axes.imshow(found, cmap=SIGNED, vmin=-most, vmax=most)


def draw_bars(told: Mapping[str, Any], maps: Mapping[str, np.ndarray]) -> "Figure":
    """A row for each example and a column for each method: what each number, or place of a signal, speaks for."""
    from matplotlib.figure import Figure

    rows = len(told["examples"])
    figure = Figure(figsize=(2.4 * len(maps) + 0.6, 1.25 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, len(maps), squeeze=False)
    for i, row in enumerate(told["examples"]):
        label = f"is {row['label']}\n" if row["label"] is not None else ""
        grid[i][0].set_ylabel(f"{label}says {row['says']}", rotation=0, ha="right", va="center", fontsize=8)
        for axes, (name, found) in zip(grid[i], maps.items(), strict=True):
            values = found[i].reshape(len(found[i]), -1).sum(1)
            colours = np.where(values >= 0, "#b2332f", "#2b6cb0")
            if len(values) <= 64:
                axes.bar(np.arange(len(values)), values, color=colours, width=0.8)
            else:
                axes.vlines(np.arange(len(values)), 0, values, color=colours, linewidth=0.6)
            axes.axhline(0, color=QUIET, linewidth=0.6)
            axes.tick_params(labelsize=6)
            axes.spines[["top", "right"]].set_visible(False)
            if i == 0:
                axes.set_title(name, fontsize=9, weight="bold")
    return figure


def draw_layers(kernels: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray]) -> "Figure":
    """For each layer with a window, its kernels above what they give of the first example.

    Of a kernel that reads many features the slice of the one that it reads most of is shown.
    """
    from matplotlib.figure import Figure

    layers = _spread(list(kernels), LAYERS)
    figure = Figure(figsize=(0.68 * SHOWN + 1.5, 1.42 * len(layers) + 0.2), layout="constrained")
    grid = figure.subplots(2 * len(layers), SHOWN, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for i, layer in enumerate(layers):
        kernel, found = kernels[layer], features[layer]
        strongest = np.argsort(-np.abs(found).reshape(-1, found.shape[-1]).max(0), kind="stable")[:SHOWN]
        for j, feature in enumerate(strongest):
            of = kernel[..., feature % kernel.shape[-1]]
            if of.shape[-1] == 3:
                most = np.abs(of).max() or 1
                grid[2 * i][j].imshow((of / most + 1) / 2)
            else:
                of = of[..., np.argmax(np.square(of).reshape(-1, of.shape[-1]).sum(0))]
                most = np.abs(of).max() or 1
                grid[2 * i][j].imshow(of, cmap=SIGNED, vmin=-most, vmax=most)
            grid[2 * i + 1][j].imshow(found[..., feature], cmap="viridis")
        for row, what in ((2 * i, layer), (2 * i + 1, "gives")):
            kind = {"fontsize": 8, "ha": "right", "va": "center", "weight": "bold" if what == layer else "normal"}
            text = what.replace("/", "/\n") if what == layer else what
            grid[row][0].text(-0.25, 0.5, text, transform=grid[row][0].transAxes, **kind)
    return figure


def _spread(names: Sequence[str], most: int) -> list[str]:
    """At most so many names, the first and the last among them."""
    places = sorted({round(share * (len(names) - 1)) for share in np.linspace(0, 1, min(most, len(names)))})
    return [names[i] for i in places]


def draw_removal(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """The accuracy that is left without each layer, in the order of the computation, with its interval."""
    from matplotlib.figure import Figure

    whole, *others = rows
    figure = Figure(figsize=(5.6, 0.27 * max(4, len(others)) + 1.3), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Accuracy without a layer", loc="left", fontsize=11, weight="bold")
    places = np.arange(len(others))
    for how, colour, marker in (("identity", COLOURS[0], "o"), ("mean", COLOURS[1], "s")):
        own = [i for i, row in enumerate(others) if row["how"] == how]
        if own:
            values = np.array([others[i]["accuracy"] for i in own])
            low, high = (np.array([others[i][end] + whole["accuracy"] for i in own]) for end in ("low", "high"))
            ends = np.maximum([values - np.maximum(low, 0), np.minimum(high, 1) - values], 0)
            name = "skipped: hands on its input" if how == "identity" else "gives its mean"
            axes.errorbar(
                100 * values,
                places[own],
                xerr=100 * ends,
                fmt=marker,
                color=colour,
                capsize=2,
                markersize=5,
                label=name,
            )
    axes.axvline(100 * whole["accuracy"], color=QUIET, linestyle="--", linewidth=1, label="whole network")
    axes.set_yticks(places, [row["layer"] for row in others], fontsize=8)
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_xlabel("right, %")
    axes.set_xlim(-2, 103)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def draw_sanity(checked: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    """How like the map of the trained network each map is, the more of its layers are shuffled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Maps with shuffled weights against its own", loc="left", fontsize=11, weight="bold")
    names = ["none", *(row["layer"] for row in next(iter(checked.values())))]
    for i, (method, rows) in enumerate(checked.items()):
        values = [1.0, *(np.nan if row["correlation"] is None else row["correlation"] for row in rows)]
        style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4}
        axes.plot(np.arange(len(values)), values, linewidth=1.4, label=method, **style)
        sizes = [1.0, *(np.nan if (size := row["correlation_without_signs"]) is None else size for row in rows)]
        if not np.allclose(sizes, values, equal_nan=True):
            axes.plot(np.arange(len(sizes)), sizes, linewidth=0.8, linestyle="--", color=COLOURS[i], alpha=0.7)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.set_xticks(np.arange(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_xlabel("weights shuffled from the last layer back to")
    axes.set_ylabel("rank correlation of maps")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure
