"""The answer in a sentence, and what it leaves open: words for what `answers` found, and nothing that it did not.

verdict("runs/depth_sweep")
"Depth 5 (convolutions 4) is best: 98.4 % right (95 % interval 97.9 to 98.8), at 7,162 parameters and 451 k
 multiply-adds; shallower is worse (depth 3 by 9.6 points, p < 0.001), for only from depth 5 on does a feature see
 all of the 8 × 8 input; deeper cannot be told from it (depth 9: 0.1 points less, 0.4 less to 0.2 more)."
"""

from collections.abc import Sequence
from pathlib import Path

from research.analysis.answers import LEVEL, MARGIN, Answers, Compared, Line, Series, answers, moves
from research.analysis.choices import Place, runs_of
from research.analysis.networks import Network, in_words
from research.analysis.sweeps import read_sweep, short, si


def verdict(sweep: Path | str | Answers) -> str:
    """Which depth, how sure, at what cost and why, of the newest sweep in a folder, and what is to be said against it.

    Raises UserError where there is no sweep.
    """
    found = sweep if isinstance(sweep, Answers) else answers(read_sweep(sweep))
    return " ".join(filter(None, [sentence(found), movement(found), *caveats(found)]))


def sentence(found: Answers) -> str:
    """About the series of the best network; where depth is not what differs, about the choices along an axis or all."""
    if found.axis is not None:
        return choices(found)
    if not found.series:
        return "Nothing can be said of depth: no network has come to a figure whose depth is known."
    return about(found, found.series[0]) if found.is_about_depth or not found.compared else variants(found)


def about(found: Answers, series: Series) -> str:
    """The verdict on one series."""
    ways = {"one depth": _one_depth, "too thin": _too_thin, "no difference": _no_difference, "told": _told}
    named = [series.name] if series.name else []
    named += [series.budget] if series.budget not in ("as it is", *series.name.split(", ")) else []
    text = f"{', '.join(named)}{': ' if named else ''}{ways[series.finding](found, series)}."
    return text[0].upper() + text[1:]


def _told(found: Answers, series: Series) -> str:
    enough, best = series.enough, series.best
    known = f"{enough.name} is {'best' if enough is best else 'enough'}: {figure(found, enough)}, at {cost(enough)}"
    parts = [known, _shallower(found, series), _the_best(found, series), _deeper(found, series)]
    return "; ".join(filter(None, parts))


def _one_depth(found: Answers, series: Series) -> str:
    best = series.best
    told = f"{best.name} comes to {figure(found, best)}, at {cost(best)}"
    return f"nothing can be said of depth, for there is but one: {told}"


# ---------------------------------------------------------------------------------------------------------------------
# What speaks for a depth


def _shallower(found: Answers, series: Series) -> str:
    """Why no less depth would do."""
    below = [network for network in series.by_depth if network.depth < series.enough.depth]
    if not below:
        return "it is the shallowest that was tried"
    nearest = below[-1]
    told = series.compared[nearest.program]
    if not told.is_worse:
        text = f"whether depth {nearest.depth} would do is open ({gap(found, told)})"
        worse = [network for network in below if series.compared[network.program].is_worse]
        if not worse:
            return text
        told = series.compared[worse[-1].program]
        return f"{text}; depth {worse[-1].depth} is worse by {amount(found, told)} ({p_value(told.p)})"
    than = "" if series.enough is series.best else " than the best"
    text = f"shallower is worse{than} (depth {nearest.depth} by {amount(found, told)}, {p_value(told.p)})"
    if series.is_by_field:
        size = " × ".join(str(length) for length in found.sweep.shape[:-1] if length > 1)
        return f"{text}, for only from depth {series.covers} on does a feature see all of the {size} input"
    if series.underfits:
        losses = _losses(found, series.underfits[:2])
        return f"{text}, for it fits the training data less well (training loss {losses})"
    return text


def _the_best(found: Answers, series: Series) -> str:
    """What the best by validation has more, where less depth is enough."""
    if series.enough is series.best:
        return ""
    told = series.compared[series.enough.program]
    saving = series.best.multiply_adds / series.enough.multiply_adds
    at = f" at {saving:.2g} times the multiply-adds" if saving > 1.05 else ""
    return f"the best by validation, depth {series.best.depth}, cannot be told from it ({gap(found, told, -1)}){at}"


def _deeper(found: Answers, series: Series) -> str:
    """What more depth than the best's does."""
    deeper = [network for network in series.by_depth if network.depth > series.best.depth]
    if not deeper:
        return "no deeper one was tried, and it might be better still"
    decline = series.decline
    if decline is None:
        told = series.compared[deeper[-1].program]
        if not told.is_as_good:
            return f"what more depth does is open (depth {deeper[-1].depth}: {gap(found, told)})"
        return f"more depth gains nothing that can be told (depth {deeper[-1].depth}: {gap(found, told)})"
    told = series.compared[decline.network.program]
    text = f"depth {decline.network.depth} is worse by {amount(found, told)} ({p_value(told.p)})"
    if decline.cause == "unmeasured":
        return f"{text}, whether by degradation or by overfitting is not known without training figures"
    one, other = decline.train
    if decline.cause == "unexplained":
        losses = _losses(found, (other, one))
        return f"{text}, and its training loss tells no cause ({losses}, {p_value(decline.p)})"
    how = "higher as well" if decline.cause == "degradation" else "lower"
    return f"{text} by {decline.cause}, for its training loss is {how} ({_losses(found, (other, one))})"


# ---------------------------------------------------------------------------------------------------------------------
# Choices along a number


def choices(found: Answers) -> str:
    """What to choose at which values of the axis, and the figures there."""
    axis = found.axis
    chosen = runs_of([(place.at, axis.choice_of(place.enough)) for place in axis.places])
    told = "; ".join(f"{name} at {_listed([f'{at:,g}' for at in values])}" for name, values in chosen)
    figures = ", ".join(f"{place.at:,g}: {_value(found, place.enough)}" for place in axis.places)
    return f"What to choose by {axis.name}: {told}. Each is the cheapest that is as good as the best ({figures})."


def at_place(found: Answers, place: Place) -> str:
    """The best at a value of the axis, and how each other choice compares with it."""
    axis, kinds = found.axis, {"as good": [], "worse": [], "open": []}
    for choice in axis.choices:
        network = choice.networks.get(place.at)
        if network is not None and network is not place.best:
            told = place.compared[network.program]
            kind = "worse" if told.is_worse else "as good" if told.is_as_good else "open"
            kinds[kind].append((told.difference.value, f"{choice.name} ({_short_gap(found, told)})"))
    parts = []
    for kind, compared in kinds.items():
        ordered = sorted(compared, reverse=found.measure == "accuracy")
        parts += [f"{kind}: {', '.join(text for _, text in ordered)}"] if ordered else []
    best = f"{axis.choice_of(place.best)} is best, {figure(found, place.best)}"
    return f"{axis.name} {place.at:,g}: {'; '.join([best, *parts])}."


def _short_gap(found: Answers, told: Compared) -> str:
    value = told.difference.value
    size = f"{signed(100 * value)} points" if found.measure == "accuracy" else f"loss {signed(value, '.2g')}"
    return f"{size}, {p_value(told.p)}" if told.is_worse else size


def _value(found: Answers, network: Network) -> str:
    value = found.interval(network).value
    return f"{100 * value:.1f} % right" if found.measure == "accuracy" else f"a test loss of {value:.3g}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# ---------------------------------------------------------------------------------------------------------------------
# Where no depth stands out


def _too_thin(found: Answers, series: Series) -> str:
    best = series.best
    others = [network for network in series.by_depth if network is not best]
    rival = max(others, key=lambda n: abs(series.compared[n.program].difference.value))
    told = series.compared[rival.program]
    examples, seeds = series.missing
    ways = [f"about {_round(examples)} test examples"] if examples else []
    ways += [f"about {_round(seeds)} seeds of each network"] if seeds else []
    enough = f"{' or '.join(ways)} would" if ways else "only more test examples and more seeds together would"
    return (
        f"the evidence is too thin to name a depth: {best.name} is best by validation, with "
        f"{figure(found, best)}, but even depth {rival.depth} cannot be told from it ({gap(found, told)}, "
        f"{p_value(told.p)}); {enough} tell a difference of {_size(found, max(abs(told.difference.value), MARGIN))}"
    )


def _no_difference(found: Answers, series: Series) -> str:
    best, shallowest = series.best, series.by_depth[0]
    widest = max(max(-c.difference.low, c.difference.high) for c in series.compared.values())
    return (
        f"depth makes no difference worth having from {shallowest.depth} to {series.by_depth[-1].depth}: "
        f"no other differs from {best.name}, the best by validation, by more than {_size(found, widest)} (95 %), so "
        f"the shallowest will do, with {figure(found, shallowest)}, at {cost(shallowest)}"
    )


def _round(number: int) -> str:
    """To two digits, upwards."""
    step = 10 ** max(0, len(str(number)) - 2)
    return f"{-(-number // step) * step:,}"


# ---------------------------------------------------------------------------------------------------------------------
# Where depth is not what differs


def variants(found: Answers) -> str:
    """Which of the variants is best, and how the others compare: with none of them, or with the best."""
    best = found.best
    values = f" ({in_words(best.setting)})" if best.setting else ""
    if found.none is None:
        parts = _against_best(found)
    elif found.none is best:
        parts = [_from_none(found, "worse than it"), _alike(found, "it")]
        return f"Nothing that was tried helps: none is best, with {figure(found, best)}{_joined(parts)}."
    else:
        parts = [_from_none(found, "better than none"), _alike(found, "none"), _from_none(found, "worse than none")]
    text = f"{best.variant}{values} is best: {figure(found, best)}{_joined(parts)}."
    return text[0].upper() + text[1:]


def _joined(parts: Sequence[str]) -> str:
    return "".join(f"; {part}" for part in parts if part)


def _against_best(found: Answers) -> list[str]:
    """What cannot be told from the best, and what is worse."""
    others = [network for network in found.networks if network.program in found.compared]
    worse = [network for network in others if found.compared[network.program].is_worse]
    alike = [network for network in others if network not in worse]
    told = []
    if alike:
        rival = max(alike, key=lambda n: abs(found.compared[n.program].difference.value))
        names = "none of the others" if not worse and len(alike) > 1 else _listed([n.variant for n in alike])
        cannot = "can" if names == "none of the others" else "cannot"
        last = f"{rival.variant}: " if len(alike) > 1 else ""
        told.append(f"{names} {cannot} be told from it ({last}{gap(found, found.compared[rival.program])})")
    if worse:
        worse.sort(key=lambda n: abs(found.compared[n.program].difference.value))
        told.append(f"worse {'is' if len(worse) == 1 else 'are'} {_by_how_much(found, worse, found.compared)}")
    return told


def _from_none(found: Answers, what: str) -> str:
    """Those that are told from none, and are worse or better."""
    is_better = what.startswith("better")
    told = {p: c for p, c in found.from_none.items() if c.p < LEVEL and c.is_worse != is_better}
    chosen = [network for network in found.networks if network.program in told]
    chosen.sort(key=lambda n: -abs(told[n.program].difference.value))
    return f"{what} {'is' if len(chosen) == 1 else 'are'} {_by_how_much(found, chosen, told)}" if chosen else ""


def _alike(found: Answers, what: str) -> str:
    """Those that cannot be told from none."""
    names = [
        n.variant for n in found.networks if n.program in found.from_none and found.from_none[n.program].p >= LEVEL
    ]
    return f"{_listed(names)} cannot be told from {what}" if names else ""


def _by_how_much(found: Answers, networks: Sequence[Network], compared: dict[int, Compared]) -> str:
    """dropout (by 3.1 points, p < 0.001) and l2 (by 2 points, p = 0.01)."""
    told = [compared[network.program] for network in networks]
    return _listed(
        [f"{n.variant} (by {amount(found, c)}, {p_value(c.p)})" for n, c in zip(networks, told, strict=True)]
    )


def _listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


# ---------------------------------------------------------------------------------------------------------------------
# What moves the best depth


def movement(found: Answers) -> str:
    """How the best depth moves with how much data or training there is; "" where no such number differs."""
    told = moves(found)
    if told is None:
        return ""
    path, lines = told
    return f"Best depth by {short(path, [path])}: {'; '.join(_along(line) for line in lines)}."


def _along(line: Line) -> str:
    """with 100 steps 2 at 100, 3 at 1,000 (2 to 5 cannot be told apart)."""
    told = []
    for number, series in line.points:
        depths = [network.depth for network in series.open]
        others = f" ({depths[0]} to {depths[-1]} cannot be told from it)" if len(depths) > 1 else ""
        told.append(f"{series.best.depth} at {number:,.6g}{others}")
    return f"{f'with {line.name} ' if line.name else ''}{', '.join(told)}"


# ---------------------------------------------------------------------------------------------------------------------
# Against it


def caveats(found: Answers) -> list[str]:
    """What weakens all that is said, a sentence each."""
    told, sweep = [], found.sweep
    searched = sum(row["stage"] == "search" for row in sweep.rows)
    if sweep.planned and searched < sweep.planned:
        told.append(f"Only {searched:,} of {sweep.planned:,} trials are done.")
    if not found.networks:
        return told
    if not all(network.is_fresh for network in found.networks):
        told.append("Without trials on fresh seeds, figures are of the trials that chose the values, and flattered.")
    if all(judged.examples == 1 for judged in found.judged[found.measure].values()):
        told.append(
            "Answers to single test examples were not kept, so intervals know of seeds alone and are too narrow."
        )
    alone = sum(len(network.trials) == 1 for network in found.networks)
    if alone:
        which = f"{alone:,} of {len(found.networks):,} networks {'was' if alone == 1 else 'were'}"
        which = "Networks were" if alone == len(found.networks) else which
        told.append(f"{which} trained on one seed only, and how much seeds differ is not in the intervals.")
    lost = sum(network.lost for network in found.networks)
    if lost:
        told.append(f"{lost:,} of the trials that judge came to no figure and {'is' if lost == 1 else 'are'} left out.")
    return told


# ---------------------------------------------------------------------------------------------------------------------
# Figures in words


def figure(found: Answers, network: Network) -> str:
    """98.4 % right (95 % interval 97.9 to 98.8)."""
    each = found.interval(network)
    if found.measure == "accuracy":
        return f"{100 * each.value:.1f} % right (95 % interval {100 * each.low:.1f} to {100 * each.high:.1f})"
    value, low, high = (found.sweep.in_unit(number) for number in each)
    if found.sweep.token:
        return f"{value:.3f} {found.sweep.loss} of the test split (95 % interval {low:.3f} to {high:.3f})"
    return f"a test loss of {value:.3g} (95 % interval {low:.3g} to {high:.3g})"


def cost(network: Network) -> str:
    """7,162 parameters and 451 k multiply-adds."""
    return f"{si(network.parameters)} parameters and {si(network.multiply_adds)} multiply-adds"


def amount(found: Answers, told: Compared) -> str:
    """How much a difference is: 2.2 points."""
    return _size(found, abs(told.difference.value))


def _size(found: Answers, value: float) -> str:
    if found.measure == "accuracy":
        return f"{100 * value:.1f} points"
    return f"{found.sweep.in_unit(value):.2g} {'bits' if found.sweep.token else 'of loss'}"


def _losses(found: Answers, losses: Sequence[float]) -> str:
    """0.877, not 0.324."""
    one, other = (found.sweep.in_unit(loss) for loss in losses)
    return f"{one:.3g}, not {other:.3g}{' bits' if found.sweep.token else ''}"


def gap(found: Answers, told: Compared, sign: int = 1) -> str:
    """A difference with its interval: −0.3 points, −1.4 to +0.8."""
    value, low, high = (sign * each for each in told.difference[:3])
    low, high = min(low, high), max(low, high)
    if found.measure == "accuracy":
        return f"{signed(100 * value)} points, {signed(100 * low)} to {signed(100 * high)}"
    value, low, high = (signed(found.sweep.in_unit(number), ".2g") for number in (value, low, high))
    return f"{value} bits, {low} to {high}" if found.sweep.token else f"loss {value}, {low} to {high}"


def signed(value: float, form: str = ".1f") -> str:
    """With a plus, or a true minus sign."""
    text = f"{value:+{form}}"
    return text.replace("-", "−") if float(text) else text[1:]


def p_value(p: float) -> str:
    """p = 0.03, p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
