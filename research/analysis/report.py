"""A page about a sweep that needs nothing else: the verdict, the figures behind it, every network and every trial.

    Path("report.html").write_text(report("runs/depth_sweep"))

Figures are inline SVG in the page's own ink, so that they can be read in light and dark, on paper and on a phone. The
config that trials have in common is there once; a trial adds its own values to it when it is opened.
"""

import contextlib
import html
import importlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.analysis import page, sweep_figures
from research.analysis.answers import TOLERANCE, Answers, answers, importances, moves, scaling
from research.analysis.networks import Network, in_words, without_what_names_say
from research.analysis.shares import is_stretched
from research.analysis.statistics import RESAMPLES, Interval, Scaling
from research.analysis.sweeps import SweepFolder, is_seed, plain, read_sweep, short, si
from research.analysis.words import about, at_place, caveats, gap, movement, p_value, sentence
from research.jsonl import encode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"
"""What figures are drawn in, to be replaced by the page's own."""
SERIES_DRAWN = 4
"""Of figures that are drawn for each series."""
NEEDED = (
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "scipy.special",
    "optuna.importance",
    "sklearn.ensemble",
)
"""What a page is made with and takes seconds to import."""


def import_ahead() -> None:
    """Imports what a page is made with, for a thread that has time while others compile; what fails, fails later."""
    for name in NEEDED:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def report(sweep: Path | str | Answers) -> str:
    """The page of the newest sweep in a folder, or of what was found in one. Raises UserError where there is none."""
    found = sweep if isinstance(sweep, Answers) else answers(read_sweep(sweep))
    sweep = found.sweep
    parts = [
        f"<header><h1>{_text(sweep.name)}</h1><p class=quiet>{_text(_state(sweep))}</p></header>",
        _verdict(found),
        _figures(found),
        _costs(found),
        _networks(found),
        _trials(found),
        _method(found),
    ]
    return page.page(sweep.name, "\n".join(filter(None, parts)))


def _text(value: Any) -> str:
    return html.escape(str(value))


def _state(sweep: SweepFolder) -> str:
    """How far it is, in words."""
    searched = sum(row["stage"] == "search" for row in sweep.rows)
    judging = len(sweep.rows) - searched
    told = [f"{searched:,} of {sweep.planned:,} trials" if sweep.planned else f"{searched:,} trials"]
    if judging:
        judged = len({row["program"] for row in sweep.rows if row["stage"] == "judgement"})
        told.append(f"{judging:,} more on fresh seeds to judge {_count(judged, 'network')}")
    for status, words in (
        ("not finite", "not finite"),
        ("failed", "failed"),
        ("left early", "left early by successive halving"),
        ("stopped early", "stopped early"),
    ):
        count = sum(row["status"] == status for row in sweep.rows)
        told += [f"{count:,} {words}"] if count else []
    state = " (interrupted)" if sweep.reason == "interrupted" else ""
    return f"{'; '.join(told)}{state}. Best by {sweep.select.replace('/', ' ')}."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _verdict(found: Answers) -> str:
    """The sentence, its first part large, what is to be said against it, and the sentences on other series."""
    first, _, rest = sentence(found).partition("; " if found.axis is None else ". ")
    if found.axis is not None:
        told = f"<p class=answer>{_text(first)}.</p><p>{_text(rest)}</p>"
    elif not found.is_about_depth and found.compared:
        rest = f"<p>{_text(rest[0].upper() + rest[1:])}</p>" if rest else ""
        told = f"<p class=answer>{_text(first.removesuffix('.'))}.</p>{rest}"
    elif found.series and found.series[0].finding == "told":
        first, _, figures = first.partition(", at ")
        told = f"<p class=answer>{_text(first)}.</p><p>At {_text(figures)}; {_text(rest)}</p>"
    else:
        first, _, rest = sentence(found).partition(": ")
        told = f"<p class=answer>{_text(first)}{'.' if rest else ''}</p><p>{_text(rest[:1].upper() + rest[1:])}</p>"
    weak = "".join(f"<li>{_text(each)}</li>" for each in caveats(found))
    others = "".join(f"<li>{_text(each)}</li>" for each in _others(found))
    moved = movement(found)
    told += f"<p>{_text(moved)}</p>" if moved else ""
    if found.axis is None and others and found.smallest is not None:
        others = f"<li>{_text(_smallest(found))}</li>{others}"
    return (
        f"<section class=verdict>{told}"
        f"{f'<ul class=weak>{weak}</ul>' if weak else ''}{f'<ul>{others}</ul>' if others else ''}</section>"
    )


def _others(found: Answers) -> Iterator[str]:
    """Sentences on what the first one leaves out: the places of an axis, or other series."""
    if found.axis is not None:
        yield from (at_place(found, place) for place in found.axis.places)
    elif found.is_about_depth:
        yield from (about(found, series) for series in found.series[1:])


def _smallest(found: Answers) -> str:
    """The smallest network of all that cannot be told from the best of all."""
    small, best = found.smallest, found.best
    if small is best:
        return f"Of all networks the best, {_full(best)}, is the smallest that is as good."
    told = gap(found, found.compared[small.program])
    return (
        f"Of all networks the smallest that is as good as the best, {_full(best)}, is {_full(small)} with "
        f"{si(small.parameters)} parameters ({told})."
    )


def _full(network: Network) -> str:
    return f"{network.name}, {network.series}" if network.series else network.name


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def _figures(found: Answers) -> str:
    """All figures that there is something for, each with a sentence on what it shows."""
    if not found.networks:
        return ""
    without = _without_curves(found) if found.axis is None else ""
    return f"<section class=figures>{''.join(_each_figure(found))}</section>{without}"


def _without_curves(found: Answers) -> str:
    """Which series have no scaling curve, and why."""
    if not found.is_about_depth:
        return ""
    problems: dict[str, list[str]] = {}
    for series in found.series:
        problem = scaling(found, series)[1].problem
        if problem:
            problems.setdefault(problem, []).append(series.name)
    told = [f"{', '.join(names)}: {problem}" if any(names) else problem for problem, names in problems.items()]
    return f"<p class=quiet>Without a scaling curve: {_text('; '.join(told))}.</p>" if told else ""


def _each_figure(found: Answers) -> Iterator[str]:
    measure, drawn = found.sweep.judged_by, iter(range(100))

    def show(figure: "Figure | None", caption: str) -> str:
        return (
            ""
            if figure is None
            else f"<figure>{svg(figure, next(drawn))}<figcaption>{_text(caption)}</figcaption></figure>"
        )

    many = found.series[:SERIES_DRAWN] if found.is_about_depth else [None] if found.axis is None else []
    if found.axis is not None:
        yield show(sweep_figures.draw_choices(found), _caption_of_choices(found))
    elif found.is_about_depth:
        yield show(sweep_figures.draw_moves(found), _caption_of_moves(found))
        yield show(sweep_figures.draw_depth(found), _caption_of_depth(found))
        yield show(sweep_figures.draw_losses(found), _caption_of_losses(found))
    elif found.compared:
        yield show(sweep_figures.draw_variants(found), _caption_of_variants(found))
        dashed = "; dashed: none of them" if found.none is not None else ""
        yield show(sweep_figures.draw_strengths(found), f"Trials of the search, a dot a seed, and their mean{dashed}.")
    if found.axis is None and len({(network.parameters, network.multiply_adds) for network in found.networks}) > 1:
        yield show(
            sweep_figures.draw_cost(found),
            f"Each network by what it costs; the number is its depth. None off the grey front has a better test "
            f"{measure} for less: {', '.join(_full(network) for network in found.front[:6])}.",
        )
    for series in found.series[:SERIES_DRAWN] if found.is_about_depth else []:
        _, curve = scaling(found, series)
        if not curve.problem:
            yield show(sweep_figures.draw_scaling(found, series), _caption_of_scaling(found, curve))
    importance = importances(found.sweep)
    if importance:
        yield show(sweep_figures.draw_importance(found, importance), _caption_of_importance(found, importance))
    path = _leading_number(found, importance)
    if path:
        lost = "; a cross came to no figure" if _any_lost(found) else ""
        for series in many:
            caption = f"Trials of the search, a line a {'depth' if series else 'network'}, seeds averaged{lost}."
            yield show(sweep_figures.draw_values(found, path, series), caption)
    for series in many:
        caption = (
            "The trials that networks are judged by: the mean of the seeds, and from the worst to the best of them."
        )
        yield show(sweep_figures.draw_curves(found, series), caption)


def _any_lost(found: Answers) -> bool:
    return any(not row.get("validation") for row in found.sweep.rows if row["stage"] == "search")


def _caption_of_moves(found: Answers) -> str:
    told = moves(found)
    name = short(told[0], [told[0]]) if told else ""
    return f"The depth that validation chooses for each {name}; bars reach to the depths that are not told from it."


def _caption_of_variants(found: Answers) -> str:
    band = "; the band is the interval of none" if found.none is not None else ""
    return f"Each at its best values: the mean of the seeds (a dot each) with the 95 % interval{band}."


def _caption_of_choices(found: Answers) -> str:
    return f"{_caption_of_depth(found)} Choices at the same {found.axis.name} stand side by side."


def _caption_of_depth(found: Answers) -> str:
    scale = ""
    if found.measure == "accuracy" and is_stretched(found):
        scale = " The scale stretches towards 100 %: equal steps are equal ratios of errors."
    judged = max((each.examples for each in found.judged[found.measure].values()), default=1)
    by = f"{judged:,} test examples and of seeds" if judged > 1 else "seeds alone"
    return f"The mean of the seeds (a faint dot each) with the 95 % interval, of {by}.{scale}"


def _caption_of_losses(found: Answers) -> str:
    declines = {series.decline.cause for series in found.series if series.decline}
    if "degradation" in declines:
        return "Beyond the best depth the training loss rises too: degradation, not overfitting."
    if "overfitting" in declines:
        return "Beyond the best depth the training loss falls while the test figures get worse: overfitting."
    if not any("train.loss" in network.figures for network in found.networks):
        return "Of the test split; training losses were not kept."
    return "Both would rise with depth by degradation; overfitting would part them."


def _caption_of_scaling(found: Answers, curve: Scaling) -> str:
    exponent, floor = curve.exponent, Interval(*(found.sweep.in_unit(each) for each in curve.floor))
    return (
        f"The loss falls as size to the power −{exponent.value:.2g} (95 %: {exponent.low:.2g} to {exponent.high:.2g}), "
        f"down to {floor.value:.2g} ({floor.low:.2g} to {floor.high:.2g}) at any size."
    )


def _caption_of_importance(found: Answers, importance: dict[str, float]) -> str:
    field = next((path for path in importance if not is_seed(path)), None)
    seed = next((path for path in importance if is_seed(path)), None)
    causes = {} if field is None else {short(field, importance): importance[field]}
    causes |= {} if seed is None else {"chance in the seed": importance[seed]}
    shares = " and ".join(f"{cause} {100 * share:.0f} %" for cause, share in causes.items())
    return (
        f"What explains how trials differ in validation {found.sweep.judged_by}: {shares} (fANOVA over the trials of "
        "the search)."
    )


def _leading_number(found: Answers, importance: dict[str, float]) -> str | None:
    """The most important number that makes no other program of a trial, such as the learning rate."""
    structural = {path for program in found.sweep.programs for path in program["values"]}
    tried: dict[str, set] = {}
    for row in found.sweep.rows:
        for path, value in row["values"].items():
            tried.setdefault(path, set()).add(value if isinstance(value, int | float | str) else repr(value))
    numbers = [
        path
        for path, values in tried.items()
        if path not in structural and not is_seed(path) and len(values) > 1
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    ]  # fmt: skip
    return max(numbers, key=lambda path: importance.get(path, 0.0), default=None)


def svg(figure: "Figure", number: int) -> str:
    """A figure as SVG within a page: its ink the page's, its text text, its names its own."""
    import matplotlib

    _dye(figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fathom"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = text.replace(INK, "currentColor").replace("DejaVu Sans", "system-ui")
    text = re.sub(r'\bid="', f'id="f{number}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1f{number}-", text)
    title = html.escape(figure.axes[0].get_title(loc="left"))
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', text, count=1
    )


def _dye(figure: "Figure") -> None:
    """Gives what is drawn in black the ink of the page."""
    from matplotlib.axis import Axis
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    for artist in figure.findobj(lambda a: isinstance(a, Text) and a.get_color() in ("black", "k")):
        artist.set_color(INK)
    for artist in figure.findobj(Spine):
        artist.set_edgecolor(INK)
    for artist in figure.findobj(Axis):
        artist.set_tick_params(which="both", color=INK, labelcolor=INK)


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _costs(found: Answers) -> str:
    """What each choice takes at the last place of the axis."""
    if found.axis is None:
        return ""
    place, rows = found.axis.places[-1], []
    for choice in found.axis.choices:
        network = choice.networks.get(place.at)
        if network is None:
            continue
        sizes = (network.optimizer_bytes, network.activation_bytes)
        flops = network.training_flops
        cells = [
            page.cell(choice.name),
            page.cell(si(network.parameters), network.parameters),
            page.cell(si(network.trainable), network.trainable),
            *(page.cell("" if size is None else f"{si(size)}B", size or 0) for size in sizes),
            page.cell(si(flops) if flops else "", flops or 0),
            page.cell(f"{network.seconds:.3g}", network.seconds),
            page.cell(_value(found, found.interval(network).value), found.interval(network).value),
        ]
        rows.append(page.row(cells, "best" if network is place.enough else ""))
    titles = ["choice", "#parameters", "#trained", "#optimizer", "#kept activations", "#FLOP a trial"]
    titles += ["#seconds a trial", f"#test {found.measure}"]
    return (
        f"<section><h2>What each costs</h2><p class=quiet>At {_text(found.axis.name)} {place.at:,g}, in the order in "
        "which they were given. Optimizer state and what is kept for the backward pass of a batch are in bytes.</p>"
        f"{page.table('costs', titles, rows)}</section>"
    )


def _networks(found: Answers) -> str:
    if not found.networks:
        return ""
    has_series = found.is_about_depth and len(found.series) > 1
    has_budgets = found.is_about_depth and any(series.budget != "as it is" for series in found.series)
    judged, in_unit = found.judged[found.measure], found.sweep.in_unit
    loss_name = "bits" if found.sweep.token else "loss"
    titles = [
        *(["series"] if has_series else []), *(["budget"] if has_budgets else []),
        "#depth", "network", "best values", "#seeds", f"#test {found.sweep.judged_by}", "#95 %",
        "#from the best", "#p", "#best in", f"#train {loss_name}", f"#test {loss_name}", "#feature sees",
        "#parameters", "#multiply-adds", "#FLOP a trial",
    ]  # fmt: skip
    rows = []
    for network in found.networks:
        interval, told = found.interval(network), found.compared.get(network.program)
        loss = in_unit(found.intervals["loss"][network.program].value)
        train = network.mean("train.loss")
        train = None if train is None else in_unit(train)
        sees = "×".join(map(str, network.field[:-1] or network.field)) if network.field else ""
        best_in = found.chances.get(network.program)
        cells = [
            *([page.cell(_series_of(found, network))] if has_series else []),
            *([page.cell(found.budget(network))] if has_budgets else []),
            page.cell(network.depth),
            page.cell(network.label if found.is_about_depth else network.variant, extra=_marks(found, network)),
            page.cell(in_words(network.setting)),
            page.cell(
                f"{len(network.trials)}{f' (+{network.lost} lost)' if network.lost else ''}", len(network.trials)
            ),
            page.cell(_value(found, interval.value), interval.value),
            page.cell(_range(found, interval), interval.low),
            page.cell(
                re.sub("^loss | points| bits", "", gap(found, told)) if told else "",
                told.difference.value if told else 0,
            ),
            page.cell(p_value(told.p).removeprefix("p = ").removeprefix("p ") if told else "", told.p if told else 2),
            page.cell("" if best_in is None else f"{100 * best_in:.0f} %", best_in),
            page.cell("" if train is None else f"{train:.3g}", train),
            page.cell(f"{loss:.3g}", loss),
            page.cell(sees, network.field[0] if network.field else None),
            page.cell(si(network.parameters), network.parameters),
            page.cell(si(network.multiply_adds), network.multiply_adds),
            page.cell(si(network.training_flops) if network.training_flops else "", network.training_flops),
        ]
        kind = "best" if network is found.best else ""
        rows.append(page.row(cells, kind))
    examples = max(each.examples for each in judged.values())
    note = "From the best: the difference in points, with its 95 % interval" if found.measure == "accuracy" else ""
    unit = "in bits per " + found.sweep.token if found.sweep.token else "of losses"
    note = note or f"From the best: the difference {unit}, with its 95 % interval"
    note += f", paired over examples{' and draws of the data' if _is_paired(found) else ''}. "
    note += "p: of that being chance, corrected for all comparisons (Holm). "
    note += "Best in: the share of resamples in which it is the best. Feature sees: positions of the input, before "
    note += "anything is pooled over all of it."
    told = f"{_count(len(found.networks), 'network')}"
    told += f", judged on {examples:,} test examples" if examples > 1 else ""
    return (
        f"<section><h2>Networks</h2><p class=quiet>{told}. {note}</p>{page.table('networks', titles, rows)}</section>"
    )


def _series_of(found: Answers, network: Network) -> str:
    """What a network is compared as: its choice and place on an axis, or its series."""
    axis = found.axis
    if axis is None:
        return network.series
    return f"{axis.choice_of(network)}, {axis.name} {float(network.values[axis.path]):,g}"


def _marks(found: Answers, network: Network) -> str:
    marks = ["best"] if network is found.best else []
    is_told = found.is_about_depth and found.series[0].finding != "too thin"
    marks += ["smallest as good"] if network is found.smallest and network is not found.best and is_told else []
    marks += ["front"] if network in found.front and len(found.front) > 1 else []
    return "".join(f" <span class=mark>{mark}</span>" for mark in marks)


def _is_paired(found: Answers) -> bool:
    """Whether networks are compared draw by draw of the data."""
    return any(each.drawn.paired for each in found.judged[found.measure].values())


def _value(found: Answers, value: float) -> str:
    return f"{100 * value:.2f} %" if found.measure == "accuracy" else f"{found.sweep.in_unit(value):.4g}"


def _range(found: Answers, interval: Interval) -> str:
    if found.measure == "accuracy":
        return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return f"{found.sweep.in_unit(interval.low):.3g} to {found.sweep.in_unit(interval.high):.3g}"


def _trials(found: Answers) -> str:
    """Every trial, the best first."""
    sweep = found.sweep
    rows = sorted(sweep.rows, key=lambda row: _merit(sweep, row), reverse=True)
    searched = [row for row in rows if row["stage"] == "search"] or rows
    best = searched[0] if searched else None
    paths = list(dict.fromkeys(path for row in rows for path in row["values"]))
    differ = [path for path in paths if len({repr(row["values"].get(path)) for row in rows}) > 1]
    unsaid = without_what_names_say([{path: plain(row["values"].get(path)) for path in differ} for row in rows])
    differ = [path for path in differ if any(path in values for values in unsaid)]
    has_stages = len({row["stage"] for row in rows}) > 1
    depths = {i: program.get("depth") for i, program in enumerate(sweep.programs)}
    titles = ["trial", *(["stage"] if has_stages else []), *(["#depth"] if sweep.programs else [])]
    titles += [f"{'#' if _is_number(rows, path) else ''}{short(path, paths)}" for path in differ]
    titles += ["#validation accuracy", "#test accuracy", f"#validation {sweep.loss}", f"#test {sweep.loss}"]
    titles += ["#best step", "ended"]
    known = depths if sweep.programs else None
    told = [_trial(sweep, row, differ, has_stages, known, best, paths) for row in rows]
    table = page.table("trials", titles, told)
    values = {row["trial"]: [row["values"].get(path) for path in paths] for row in rows}
    embedded = json.dumps(encode({"base": sweep.base, "paths": paths, "values": values}), separators=(",", ":"))
    embedded = embedded.replace("<", "\\u003c")
    untested = any(row.get("ended") and row.get("validation") and not row.get("test") for row in rows)
    tested = " Test figures have those alone whose values validation chose." if untested else ""
    cut = f"<p class='quiet paper'>The first {page.PRINTED} of {len(rows):,} trials are on paper.</p>"
    return (
        f"<section><h2>Trials</h2><p class=quiet>The best first. A click on a trial's number shows its config and what "
        f"it has otherwise than the best; a click on a title sorts.{tested}</p>"
        f"<p><label>Show trials with <input id=filter type=search data-all={len(rows)}></label> "
        f"<span id=shown class=quiet>{_count(len(rows), 'trial')}</span></p>"
        f"{cut if len(rows) > page.PRINTED else ''}{table}"
        f"<script type=application/json id=configs>{embedded}</script></section>"
    )


def _merit(sweep: SweepFolder, row: dict[str, Any]) -> tuple[bool, float, float]:
    """By which trials are sorted: the metric they are selected by, then the loss."""
    figures = row.get("validation")
    if not figures:
        return False, 0.0, 0.0
    return True, sweep.sign * figures[sweep.measure], -figures["loss"]


def _trial(
    sweep: SweepFolder,
    row: dict[str, Any],
    differ: Sequence[str],
    has_stages: bool,
    depths: dict[int, int | None] | None,
    best: dict[str, Any],
    paths: Sequence[str],
) -> str:
    values, validation, test = row["values"], row.get("validation") or {}, row.get("test") or {}
    cells = [page.opener(row["trial"])]
    cells += [page.cell(row["stage"])] if has_stages else []
    cells += [page.cell(depths.get(row["program"]))] if depths is not None else []
    cells += [page.cell(plain(values[path]) if path in values else "", values.get(path)) for path in differ]
    for name in ("accuracy", "loss"):
        for figures in (validation, test):
            told = figures.get(name)
            told = sweep.in_unit(told) if name == "loss" and told is not None else told
            text = "" if told is None else f"{100 * told:.2f} %" if name == "accuracy" else f"{told:.4g}"
            cells.append(page.cell(text, told))
    cells += [page.cell(row["best_step"] if row["best_step"] is not None else ""), page.cell(row["status"])]
    about = f" data-trial={row['trial']}"
    return page.row(cells, "best" if row is best else "", _more(row, best, paths), about)


def _more(row: dict[str, Any], best: dict[str, Any], paths: Sequence[str]) -> str:
    """What a trial has otherwise than the best, and where its whole config will stand."""
    told = [f"<p>{_text(problem)}</p>" for problem in row.get("problems", ())]
    if row is best:
        told.append("<p>This is the best of the search.</p>")
    else:
        changes = [
            f"{short(path, paths)} {plain(mine)} instead of {plain(other)}"
            for path in paths
            if (mine := row["values"].get(path)) != (other := best["values"].get(path))
        ]
        told.append(f"<p>Against the best, trial {best['trial']}: {_text(', '.join(changes) or 'no difference')}.</p>")
    return f"{''.join(told)}<div class=config></div>"


def _is_number(rows: Sequence[dict[str, Any]], path: str) -> bool:
    values = [row["values"][path] for row in rows if path in row["values"]]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


# ---------------------------------------------------------------------------------------------------------------------
# Method


def _method(found: Answers) -> str:
    """How figures and intervals were made."""
    judged = (
        "judged by trials on fresh seeds with these values, which had no say in the choice"
        if any(network.is_fresh for network in found.networks)
        else "judged by the very trials that chose the values, for there are none on fresh seeds"
    )
    told = [
        f"Values were chosen by the validation split. Networks are {judged}, on the test split, which none saw.",
        f"Intervals hold in 95 of 100 cases. Test examples were drawn anew {RESAMPLES:,} times with replacement, the "
        "same ones for all networks, so that differences are paired; the mean of a network's seeds was drawn from "
        "Student's t with the spread that its seeds, and those of the search with the same values, have beyond chance "
        "in the examples"
        + (
            "; of two networks that learned from the same draws of the data, that of their differences draw by draw. "
            if _is_paired(found)
            else ". "
        )
        + "Two examples, one for and one against, are added, so that no interval is of no width.",
        "Comparisons are with the best network by validation. p-values are corrected for their number by Holm's "
        "method; below 0.05 a network is told from the best. As good is what is not told from it, and not worse by "
        f"more than {_tolerance(found)} at the end of its interval. Training losses are compared over seeds by "
        "Welch's test.",
        "Depth is the longest chain of layers with parameters, read off the program, as are parameters and "
        "multiply-adds (of one example, forward). FLOPs of a trial are those of its forward and backward passes.",
    ]
    return f"<section class=method><h2>Method</h2>{''.join(f'<p>{_text(each)}</p>' for each in told)}</section>"


def _tolerance(found: Answers) -> str:
    share = TOLERANCE[found.measure]
    return f"{100 * share:.0f} points" if found.measure == "accuracy" else f"{100 * share:.0f} %"
