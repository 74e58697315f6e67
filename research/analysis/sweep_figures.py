"""Pictures of a sweep: accuracy and losses by depth, accuracy against cost, what mattered, and how trials learned.

Where no depths are compared, they are of the variants that are.

    draw_depth("runs/depth_sweep").savefig("depth.png")

Each takes a sweep's folder, or what `answers` found in it. A series has one colour in all of them; where lines are
depths, the deeper the warmer.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from research.analysis.answers import Answers, Series, answers, importances, moves, scaling
from research.analysis.drawing import (
    COLOURS,
    QUIET,
    SIZE,
    above_nothing,
    colour_of,
    label_points,
    legend,
    line_style,
    log_if_wide,
    log_ticks,
    new_figure,
    plain_log,
    plainly,
)
from research.analysis.networks import SWEPT, Network
from research.analysis.shares import Shares
from research.analysis.sweeps import is_seed, metrics_of, plain, read_sweep, short, si, swept_paths, trials_of
from research.errors import UserError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTHS = ("#3f83d6", "#8a66c9", "#d0587a", "#e0852c")
"""From shallow to deep."""
TRIAL, BEST = "#9db8cf", "#0b6fb8"
WIDE = (5.4, 4.4)
"""Of a figure with many lines."""
PANELS = 6
"""Fields that are drawn, at most."""
LABELS = 40
"""Networks that are all labelled; of more, those on the front are."""
Found = Answers | Path | str


def draw_depth(folder: Found) -> "Figure":
    """The test figure by depth with its 95 % interval, a line a series and a dot a seed.

    Shaded where a feature sees less than the whole input. Raises UserError where no network has come to a figure.
    """
    found = _answers(folder)
    figure, axes = _figure(f"Test {found.sweep.judged_by} by depth", "depth", f"test {found.sweep.judged_by}")
    shares = Shares(axes, found)
    handles = []
    for i, series in enumerate(found.series):
        aside = 1.025 ** (i - (len(found.series) - 1) / 2)  # so that intervals do not hide each other
        depths = np.array([network.depth for network in series.by_depth]) * aside
        intervals = [found.interval(network) for network in series.by_depth]
        for depth, network in zip(depths, series.by_depth, strict=True):
            seeds = network.figures[f"test.{found.measure}"]
            shares.scatter([depth] * len(seeds), seeds, s=7, color=colour_of(i), alpha=0.45, linewidths=0)
        handles.append(shares.intervals(depths, intervals, i, label=series.name or "95 % interval"))
        if series.finding != "too thin":
            _ring(axes, depths[series.by_depth.index(series.enough)], shares.at(found.interval(series.enough).value), i)
    _depth_axis(axes, found)
    covers = {series.covers for series in found.series} - {None}
    if len(covers) == 1:
        _shade_uncovered(axes, found, covers.pop())
    shares.finish()
    if any(series.finding != "too thin" for series in found.series):
        ring = {"markerfacecolor": "none", "markeredgecolor": QUIET, "linestyle": "none", "markersize": 10}
        axes.plot([], [], "o", **ring, label="least depth as good as best")
    legend(figure, axes)
    return figure


def draw_variants(folder: Found) -> "Figure":
    """The test figure of each network with its 95 % interval, the best by it on top, and a dot a seed.

    The band is the interval of what has nothing of what the others differ in, where there is such a one.
    """
    found = _answers(folder)
    sign, intervals = found.sweep.sign, found.intervals[found.measure]
    networks = sorted(found.compared.keys() | {found.best.program}, key=lambda p: sign * intervals[p].value)
    members = {network.program: network for network in found.networks}
    figure, axes = _figure(f"Test {found.sweep.judged_by} by variant", f"test {found.sweep.judged_by}", "")
    figure.set_figheight(max(SIZE[1], 1.1 + 0.3 * len(networks)))
    for place, program in enumerate(networks):
        value, low, high = _plainly_told(found, intervals[program])
        seeds = _plainly_told(found, members[program].figures[f"test.{found.measure}"])
        colour = COLOURS[0] if program == found.best.program else QUIET
        axes.scatter(seeds, [place] * len(seeds), s=7, color=colour, alpha=0.45, linewidths=0)
        ends = [[value - low], [high - value]]
        axes.errorbar([value], [place], xerr=ends, fmt="o", color=colour, markersize=5.5, capsize=2.5, elinewidth=1.3)
    if found.none is not None:
        _, low, high = _plainly_told(found, intervals[found.none.program])
        axes.axvspan(low, high, color=QUIET, alpha=0.15, linewidth=0, zorder=0)
    axes.set_yticks(range(len(networks)), [_cut(members[program].variant, 30) for program in networks])
    axes.set_ylim(-0.6, len(networks) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    if found.measure == "accuracy":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.4g} %")
    return figure


def draw_strengths(folder: Found) -> "Figure | None":
    """The validation figure by the values of what is swept in some networks alone: a panel a field, a dot a trial.

    The dashed line is what has nothing of it. None where each network has but one value of what tells it from others.
    """
    found = _answers(folder)
    swept = [(path, n) for n in found.networks for path, value in n.values.items() if value == SWEPT][:PANELS]
    if not swept:
        return None
    from matplotlib.figure import Figure

    none = _of_none(found)
    columns = min(2, len(swept))
    lines = -(-len(swept) // columns)
    figure = Figure(figsize=(SIZE[0], 0.6 + 1.55 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    figure.suptitle(_title(found, "by strength"), x=0.02, ha="left", fontsize=10.5, fontweight="bold")
    for axes in panels[len(swept) :]:
        axes.set_visible(False)
    for axes, (path, network) in zip(panels, swept, strict=False):
        tried = [(name, _plainly_told(found, values)) for name, values in _by_value(found, network, path)]
        for place, (_, values) in enumerate(tried):
            axes.scatter([place] * len(values), values, s=9, color=TRIAL, linewidths=0)
        good = [(place, values.mean()) for place, (_, values) in enumerate(tried) if len(values)]
        axes.plot(*zip(*good, strict=True), "o-", color=BEST, markersize=4, linewidth=1.4)
        if none is not None:
            axes.axhline(none, color=QUIET, linewidth=1.2, linestyle="--")
        axes.set_xticks(range(len(tried)), [_numbers(name) for name, _ in tried])
        axes.set_xlim(-0.4, len(tried) - 0.6)
        axes.set_xlabel(short(path, [each for each, _ in swept]), fontsize=9)
        plainly(axes)
        axes.tick_params(labelsize=8)
        if found.measure == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g} %")
    return figure


def _of_none(found: Answers) -> float | None:
    """The validation figure, in the mean of the search's seeds, of what has nothing of what the others differ in."""
    if found.none is None:
        return None
    rows = [row for row in found.sweep.rows if row["stage"] == "search" and row["program"] == found.none.program]
    values = [row["validation"][found.measure] for row in rows if row.get("validation")]
    return float(_plainly_told(found, values).mean()) if values else None


def _plainly_told(found: Answers, values: Sequence[float]) -> np.ndarray:
    """Accuracies in percent, losses in their unit."""
    return found.sweep.in_unit(np.array(values)) if found.measure == "loss" else 100 * np.array(values)


def _by_value(found: Answers, network: Network, path: str) -> list[tuple[str, list[float]]]:
    """The values of a field that trials of the search of a network had, and the validation figures of each."""
    tried: dict[str, list[float]] = {}
    for row in found.sweep.rows:
        if row["stage"] == "search" and row["program"] == network.program and path in row["values"]:
            figures = tried.setdefault(plain(row["values"][path]), [])
            figures += [row["validation"][found.measure]] if row.get("validation") else []
    return list(tried.items())


def _numbers(text: str) -> str:
    """A value for a tick: of a part only its numbers, one a line."""
    told = re.findall(r"(\w+) ([-\d.e+]+)", text)
    return "\n".join(f"{name} {number}" for name, number in told) if told else text


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def draw_moves(folder: Found) -> "Figure | None":
    """The best depth by how much data or training there is, with the depths that are not told from it.

    None where series differ in no such number.
    """
    found = _answers(folder)
    told = moves(found)
    if told is None:
        return None
    path, lines = told
    name = short(path, [path])
    figure, axes = _figure(f"Best depth by {name}", name, "depth")
    for i, line in enumerate(lines):
        aside = 1.05 ** (i - (len(lines) - 1) / 2)
        numbers = np.array([number for number, _ in line.points])
        best = np.array([series.best.depth for _, series in line.points])
        ends = [(b - s.open[0].depth, s.open[-1].depth - b) for b, (_, s) in zip(best, line.points, strict=True)]
        label = line.name or "best by validation"
        axes.errorbar(numbers * aside, best, np.array(ends).T, **line_style(i), label=label)
    values = sorted({number for line in lines for number, _ in line.points})
    if values[0] > 0 and values[-1] >= 4 * values[0]:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:,.6g}" for value in values])
    axes.set_xticks([], minor=True)
    depths = sorted({network.depth for series in found.series for network in series.by_depth})
    if depths[-1] >= 4 * depths[0]:
        axes.set_yscale("log")
    axes.set_yticks(depths, [str(depth) for depth in depths])
    axes.set_yticks([], minor=True)
    axes.margins(0.12)
    legend(figure, axes)
    return figure


def draw_choices(folder: Found) -> "Figure":
    """The test figure along the axis of a sweep with its 95 % interval, a line a choice and a dot a seed.

    Raises UserError where the sweep has no axis, a number outside the model that choices are compared along.
    """
    found = _answers(folder)
    axis = found.axis
    if axis is None:
        raise UserError(f"{found.sweep.path}: no number outside the model that choices could be compared along")
    title = f"Test {found.measure} by {axis.name}"
    figure, axes = _figure(title, axis.path, f"test {found.measure}")
    figure.set_size_inches(*WIDE)
    shares, ratio = Shares(axes, found), max(place.at for place in axis.places) / axis.places[0].at
    aside = ratio ** (0.12 / (len(axis.places) * len(axis.choices)))  # so that intervals do not hide each other
    for i, choice in enumerate(axis.choices):
        at = np.array([*choice.networks]) * aside ** (2 * i - (len(axis.choices) - 1))
        for x, network in zip(at, choice.networks.values(), strict=True):
            seeds = network.figures[f"test.{found.measure}"]
            shares.scatter([x] * len(seeds), seeds, s=6, color=colour_of(i), alpha=0.3, linewidths=0)
        intervals = [found.interval(network) for network in choice.networks.values()]
        shares.intervals(at, intervals, i, label=choice.name)
    values = [place.at for place in axis.places]
    if values[0] > 0 and ratio >= 4:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:,g}" for value in values])
    axes.set_xticks([], minor=True)
    shares.finish()
    legend(figure, axes)
    return figure


def draw_losses(folder: Found) -> "Figure":
    """Training and test loss by depth: both rising is degradation, training falling and test rising overfitting."""
    found = _answers(folder)
    figure, axes = _figure(f"Training and test {_short_loss(found)} by depth", "depth", found.sweep.loss)
    in_unit = found.sweep.in_unit
    has_training, drawn = False, []
    for i, series in enumerate(found.series):
        depths = [network.depth for network in series.by_depth]
        tested = [found.intervals["loss"][network.program] for network in series.by_depth]
        ends = in_unit(np.array([[each.value - each.low, each.high - each.value] for each in tested]).T)
        values = in_unit(np.array([each.value for each in tested]))
        axes.errorbar(depths, values, above_nothing(ends, values), **line_style(i), label=series.name or "test")
        drawn.append(values)
        training = [(network.depth, network.mean("train.loss")) for network in series.by_depth]
        training = [(depth, in_unit(loss)) for depth, loss in training if loss is not None]
        if training:
            has_training = True
            drawn.append(np.array(training)[:, 1])
            name = None if series.name else "training"
            axes.plot(*zip(*training, strict=True), **line_style(i, bare=True), linestyle="--", label=name)
    if any(series.name for series in found.series):
        axes.plot([], [], color=QUIET, label="test")
        if has_training:
            axes.plot([], [], color=QUIET, linestyle="--", label="training")
    log_if_wide(axes, np.concatenate(drawn))
    _depth_axis(axes, found)
    legend(figure, axes)
    return figure


def draw_cost(folder: Found) -> "Figure":
    """The test figure against multiply-adds (or parameters, where those are equal), with the front no other beats."""
    found = _answers(folder)
    words = {"multiply_adds": "multiply-adds of an example", "parameters": "parameters"}
    judged_by = found.sweep.judged_by
    figure, axes = _figure(f"Test {judged_by} against cost", words[found.cost], f"test {judged_by}")
    shares = Shares(axes, found)
    front = [(getattr(network, found.cost), found.interval(network).value) for network in found.front]
    if len(front) > 1:
        axes.step(*_at(shares, front), where="post", color=QUIET, linewidth=5, alpha=0.3, label="front", zorder=0)
    points = []
    for i, series in enumerate(found.series):
        costs = [getattr(network, found.cost) for network in series.networks]
        intervals = [found.interval(network) for network in series.networks]
        shares.intervals(costs, intervals, i, label=series.name or "a network", bare=True)
        points += [
            (cost, shares.at(each.value), f"{network.depth}", i)
            for cost, each, network in zip(costs, intervals, series.networks, strict=True)
            if len(found.networks) <= LABELS or network in found.front
        ]
    axes.set_xscale("log")
    shares.finish()
    axes.margins(x=0.1)
    log_ticks(axes, si)
    legend(figure, axes)
    label_points(figure, axes, points)
    return figure


def draw_importance(folder: Found, importance: dict[str, float] | None = None) -> "Figure | None":
    """How much of the variance of trials each swept field explains; None where nothing can be said."""
    found = _answers(folder)
    told = list((importances(found.sweep) if importance is None else importance).items())[:8][::-1]
    if not told:
        return None
    figure, axes = _figure("What mattered", f"share of the variance of validation {found.sweep.judged_by}, %", "")
    names = [short(path, [name for name, _ in told]) for path, _ in told]
    shares = [100 * share for _, share in told]
    colours = [QUIET if is_seed(path) else COLOURS[0] for path, _ in told]
    axes.barh(names, shares, color=colours, height=0.55)
    for i, share in enumerate(shares):
        axes.annotate(
            f"{share:.0f}" if share >= 1 else "<1", (share, i), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_xlim(0, max(shares) * 1.12)
    axes.set_ylim(-0.6, max(len(told), 3) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return figure


def draw_values(folder: Found, path: str, series: Series | None = None) -> "Figure":
    """The validation figure by the values of a swept number, a line a network; seeds are averaged.

    Of a series by depth; of all networks where no depths are compared.
    """
    found = _answers(folder)
    series = _leading(found, series)
    title = _title(found, f"by {short(path, [path])}")
    figure, axes = _figure(title, path, f"validation {found.sweep.judged_by}", series)
    shares, rows = Shares(axes, found), {}
    for row in found.sweep.rows:
        if row["stage"] == "search" and path in row["values"]:
            rows.setdefault(row["program"], {}).setdefault(row["values"][path], []).append(row["validation"])
    for i, (network, colour, name) in enumerate(_lines(found, series)):
        tried = sorted(rows.get(network.program, {}).items())
        good = [(value, [each[found.measure] for each in told if each]) for value, told in tried]
        points = [(value, float(np.mean(told))) for value, told in good if told]
        if points:
            style = {"color": colour, "linestyle": _line(i, series), "label": name}
            axes.plot(*_at(shares, points), marker="o", markersize=3.5, linewidth=1.3, **style)
        lost = [value for value, told in good if not told]
        axes.plot(lost, [0.03] * len(lost), "x", color=colour, markersize=5, transform=axes.get_xaxis_transform())
    values = [value for each in rows.values() for value in each]
    if values and min(values) > 0 and max(values) / min(values) >= 8:
        axes.set_xscale("log")
        log_ticks(axes, "{:g}".format)
    else:
        axes.locator_params(axis="x", nbins=5)
    shares.finish()
    legend(figure, axes, "depth " if series else "")
    return figure


def draw_curves(folder: Found, series: Series | None = None) -> "Figure | None":
    """The validation figure by step of the trials that networks are judged by: the mean of seeds, and their range.

    Of a series by depth; of all networks where no depths are compared. None where no metrics are kept.
    """
    found = _answers(folder)
    series = _leading(found, series)
    lines = _lines(found, series)
    trials = [trial for network, _, _ in lines for trial in network.trials]
    points = metrics_of(found.sweep, trials, "validation", found.measure)
    if not any(len(each) > 1 for each in points.values()):
        return None
    judged_by = found.sweep.judged_by
    figure, axes = _figure(f"Validation {judged_by} by step", "step", f"validation {judged_by}", series)
    shares = Shares(axes, found)
    for i, (network, colour, name) in enumerate(lines):
        steps: dict[int, list[float]] = {}
        for trial in network.trials:
            for step, value in points.get(trial, ()):
                steps.setdefault(step, []).append(value)
        if not steps:
            continue
        values = [np.array(steps[step]) for step in sorted(steps)]
        style = {"color": colour, "linestyle": _line(i, series), "label": name}
        axes.plot(sorted(steps), [shares.at(v.mean()) for v in values], linewidth=1.4, **style)
        ends = [shares.at(v.min()) for v in values], [shares.at(v.max()) for v in values]
        axes.fill_between(sorted(steps), *ends, color=colour, alpha=0.18, linewidth=0)
    shares.finish()
    legend(figure, axes, "depth " if series else "")
    return figure


def draw_scaling(folder: Found, series: Series | None = None) -> "Figure | None":
    """The test loss by size with the power law that is nearest and its 95 % band; None where there is none."""
    found = _answers(folder)
    series = series or found.series[0]
    size, curve = scaling(found, series)
    if curve.problem:
        return None
    words = size.replace("_", " ").replace("flops", "FLOPs")
    in_unit = found.sweep.in_unit
    figure, axes = _figure(f"Test {found.sweep.loss} by {words}", words, f"test {found.sweep.loss}", series)
    networks = [network for network in series.networks if getattr(network, size)]
    sizes = np.array([getattr(network, size) for network in networks])
    intervals = [found.intervals["loss"][network.program] for network in networks]
    values = in_unit(np.array([each.value for each in intervals]))
    ends = in_unit(np.array([[each.value - each.low, each.high - each.value] for each in intervals]).T)
    index = found.series.index(series)
    axes.errorbar(
        sizes, values, above_nothing(ends, values), **line_style(index, bare=True), linestyle="none", label="a network"
    )
    along = np.geomspace(sizes.min(), sizes.max(), 60)
    line, low, high = (in_unit(each) for each in curve.at(along))
    axes.plot(along, line, color=QUIET, linewidth=1.4, label="power law with a floor")
    axes.fill_between(along, low, high, color=QUIET, alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="log", ylim=(values.min() / 1.8, values.max() * 1.8))
    log_ticks(axes, si)
    plain_log(axes)
    legend(figure, axes)
    return figure


def draw_sweep(folder: Found, metric: str = "validation.accuracy") -> "Figure":
    """A panel for each swept field: every trial of the search at its value, and the best at each.

    Raises UserError as `load_trials` does, and where no trial has such a metric.
    """
    from matplotlib.figure import Figure

    sweep = folder.sweep if isinstance(folder, Answers) else read_sweep(folder)
    trials = trials_of(sweep)
    trials = trials[trials["stage"] == "search"]
    if metric not in trials or not trials[metric].notna().any():
        raise UserError(f"{sweep.path}: no trial has {metric}")
    paths = swept_paths(trials)[:PANELS] or ["trial"]
    columns = min(3, len(paths))
    lines = -(-len(paths) // columns)
    figure = Figure(figsize=(1.2 + 3.4 * columns, 0.6 + 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, path in zip(panels, paths, strict=False):
        _draw_field(axes, trials, path, metric)
    for axes in panels[len(paths) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(metric.replace(".", " "))
    return figure


def _draw_field(axes: "Axes", trials: "pandas.DataFrame", path: str, metric: str) -> None:
    known = trials[trials[metric].notna()]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known[path])
    names = list(dict.fromkeys(known[path].astype(str)))
    places = known[path].astype(float) if numeric else known[path].astype(str).map(names.index)
    axes.scatter(places, known[metric], s=14, color=TRIAL, linewidths=0, label="a trial")
    best = known[metric].groupby(places).agg("min" if metric.endswith("loss") else "max").sort_index()
    axes.plot(best.index, best.to_numpy(), "o-", color=BEST, markersize=4, linewidth=1.4, label="the best")
    if numeric:
        values = sorted(set(places))
        is_log = values[0] > 0 and values[-1] / values[0] >= 8
        axes.set_xscale("log" if is_log else "linear")
        if len(values) > 6 or any(value % 1 for value in values):  # they might stand too close for their labels
            low, high = values[0], values[-1]
            values = [low * (high / low) ** i if is_log else low + (high - low) * i for i in (0, 1 / 3, 2 / 3, 1)]
        axes.set_xticks(values, [f"{value:.2g}" if value % 1 else f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
    if not numeric:
        axes.set_xticks(range(len(names)), [name if len(name) <= 14 else f"{name[:13]}…" for name in names])
    axes.set_xlabel(path)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="best")


# ---------------------------------------------------------------------------------------------------------------------
# Parts of figures


def _answers(folder: Found) -> Answers:
    found = folder if isinstance(folder, Answers) else answers(read_sweep(folder))
    if not found.networks:
        raise UserError(f"{found.sweep.path}: no network in it whose depth is known has come to a figure")
    return found


def _figure(title: str, x: str, y: str, series: Series | None = None) -> tuple["Figure", "Axes"]:
    return new_figure(f"{title}, {series.name}" if series is not None and series.name else title, x, y)


def _title(found: Answers, rest: str) -> str:
    """Accuracy by learning_rate."""
    judged_by = found.sweep.judged_by
    return f"{judged_by[0].upper()}{judged_by[1:]} {rest}"


def _short_loss(found: Answers) -> str:
    return "bits" if found.sweep.token else "loss"


def _at(shares: Shares, points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [shares.at(y) for _, y in points]


def _leading(found: Answers, series: Series | None) -> Series | None:
    """The series that is drawn if none is told: the first; none where no depths are compared."""
    return series or (found.series[0] if found.is_about_depth else None)


def _lines(found: Answers, series: Series | None) -> list[tuple[Network, Any, str]]:
    """Networks with their colours and names: those of a series by depth, or all of them."""
    if series is None:
        return [(network, colour_of(i), _cut(network.variant, 34)) for i, network in enumerate(found.networks)]
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    colours = LinearSegmentedColormap.from_list("depths", DEPTHS)
    last = max(1, len(series.by_depth) - 1)
    return [(network, to_hex(colours(i / last)), f"{network.depth}") for i, network in enumerate(series.by_depth)]


def _line(index: int, series: Series | None) -> str:
    """Solid, but for networks for which there is no colour left."""
    return "-" if series is not None or index < len(COLOURS) else "--"


def _ring(axes: "Axes", x: float, y: float, index: int) -> None:
    axes.plot(
        [x], [y], "o", markersize=12, markerfacecolor="none", markeredgecolor=colour_of(index), markeredgewidth=1.4
    )


def _depth_axis(axes: "Axes", found: Answers) -> None:
    """Depths as ticks, on a logarithmic scale if they span much, as many as have room."""
    depths = sorted({network.depth for series in found.series for network in series.by_depth})
    if depths[-1] >= 4 * depths[0]:
        axes.set_xscale("log")
        while len(depths) > 2:
            close = [i for i in range(1, len(depths)) if depths[i] / depths[i - 1] < 1.12]
            if not close:
                break
            del depths[close[0] if close[0] < len(depths) - 1 else close[0] - 1]
        axes.margins(x=0.08)
    axes.set_xticks(depths[:: -(-len(depths) // 12)], [str(d) for d in depths[:: -(-len(depths) // 12)]])
    axes.set_xticks([], minor=True)


def _shade_uncovered(axes: "Axes", found: Answers, covers: int) -> None:
    """The depths at which a feature sees less than the input."""
    depths = sorted({network.depth for series in found.series for network in series.by_depth})
    below = max(depth for depth in depths if depth < covers)
    left = axes.get_xlim()[0]
    axes.axvspan(left, np.sqrt(below * covers), color=QUIET, alpha=0.13, linewidth=0, zorder=0)
    axes.set_xlim(left=left)
    axes.fill_between([], [], [], color=QUIET, alpha=0.2, linewidth=0, label="sees a part of the input")
