"""What a sweep says: how deep, how sure, why, at what cost, and what mattered.

    found = answers(read_sweep("runs/depth_sweep"))
    found.best.depth, found.intervals["accuracy"][found.best.program]
    for series in found.series:
        series.budget, series.enough.depth, series.finding, series.decline

Validation chooses, test figures judge: of networks the best is the one that validation says, and all others are
compared with it on the test split, paired over examples, with intervals and p-values of `research.analysis.statistics`
and Holm's correction for the number of comparisons.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from research.analysis import statistics
from research.analysis.choices import Axis, Place, find_axis
from research.analysis.networks import NONE, Network, networks_of
from research.analysis.statistics import Difference, Enough, Interval, Resampled, Scaling
from research.analysis.sweeps import SweepFolder, is_seed, outcomes

LEVEL = 0.05
"""A difference is told from chance below this p-value, adjusted."""
MATCHED = 1.1
"""Budgets are matched where the largest is not more than so many times the smallest."""
MARGIN = 0.01
"""A difference that nobody minds: of accuracies, and of losses as a share of the best."""
TOLERANCE = {"accuracy": 0.03, "loss": 0.1}
"""A network that cannot be told from the best may still be much worse, by chance in few seeds. What may be worse by
more than this is not as good: of accuracies, and of losses as a share of the best."""
ABSENT = "absent"
LEAST_TRIALS = 8
"""For importances."""
TREES = (8, 64, 4_000)
"""Of the forest that tells importances, at least and at most, and what trials share: with many, few trees do."""


class Compared(NamedTuple):
    """A network against the best one."""

    difference: Difference
    """What it has more; of losses, too, so that more is worse there."""
    p: float
    """Adjusted for all comparisons made with the best one."""
    is_worse: bool
    """Told from the best, and worse."""
    is_as_good: bool
    """Not told from it, and sure not to be much worse. What is neither is open."""


class Decline(NamedTuple):
    """Networks deeper than the best are told from it, and worse."""

    network: Network
    """The deepest that is."""
    cause: Literal["degradation", "overfitting", "unexplained", "unmeasured"]
    """Training loss worse as well; training loss better; neither is told; there is no training loss."""
    train: tuple[float, float] | None
    """Training losses of the best and of it."""
    p: float
    """Of their being the same."""


class Series(NamedTuple):
    """Networks that differ in numbers of the model, and so in depth."""

    name: str
    budget: str
    """"as it is", or at what it is matched: "at 5,000 parameters" by the plan, "at matched FLOPs" by the figures."""
    networks: list[Network]
    by_depth: list[Network]
    """At each depth the one that validation says is best, shallowest first."""
    best: Network
    """Of these, by validation."""
    compared: dict[int, Compared]
    """The others of `by_depth` with the best, by program."""
    enough: Network
    """The shallowest that is as good as the best."""
    finding: Literal["one depth", "told", "no difference", "too thin"]
    """Some depth is told from the best; none is, and none can differ much; none is, but they may well differ."""
    covers: int | None
    """The smallest depth from which on a feature sees as much as the input is large; None if unknown or never."""
    is_by_field: bool
    """Whether that is where depth stops to help: that depth is enough, and the one below is told to be worse."""
    underfits: tuple[float, float, float] | None
    """Training losses of the deepest network that is too shallow and of the one that is enough, and their p-value,
    where the first is told to be higher."""
    decline: Decline | None
    missing: Enough | None
    """What would tell the largest difference between depths from chance, where the evidence is too thin."""

    @property
    def open(self) -> list[Network]:
        """Of `by_depth`, the best and those that are not told from it."""
        return [n for n in self.by_depth if n is self.best or not self.compared[n.program].is_worse]


class Judged(NamedTuple):
    """Networks judged on the same examples."""

    drawn: Resampled
    columns: dict[int, int]
    """By program."""
    examples: int
    """Of the test split; 1 where they are not known."""


class Answers(NamedTuple):
    """What a sweep says."""

    sweep: SweepFolder
    networks: list[Network]
    judged: dict[str, dict[str, Judged]]
    """By figure, "accuracy" or "loss", and by the data that is judged on."""
    intervals: dict[str, dict[int, Interval]]
    """Of test figures, by figure and program."""
    best: Network | None
    compared: dict[int, Compared]
    """The networks judged on the same data with the best one, by program."""
    chances: dict[int, float]
    """In how many of the draws each is the best of these, by program."""
    smallest: Network | None
    """That with the fewest parameters that is as good as the best."""
    front: list[Network]
    """Those that no other beats in both the test figure and `cost`, cheapest first."""
    cost: str
    """"multiply_adds" or "parameters": what the front weighs."""
    series: list[Series]
    """That of the best network first."""
    none: Network | None
    """That which has nothing of what the others are told apart by, where there is one."""
    from_none: dict[int, Compared]
    """The others with it, by program; `is_worse` is told from it, and worse."""

    axis: Axis | None = None
    """Where the question is not how deep, but which of some choices at which value of a number."""

    @property
    def is_about_depth(self) -> bool:
        """Whether any series has several depths; if not, networks are compared as they are."""
        return any(len(series.by_depth) > 1 for series in self.series)

    @property
    def measure(self) -> str:
        """What networks are judged by: "accuracy" or "loss"."""
        return self.sweep.measure

    def budget(self, network: Network) -> str:
        """That of its series, or those of several."""
        return ", ".join(dict.fromkeys(series.budget for series in self.series if network in series.networks))

    def interval(self, network: Network) -> Interval:
        """Of the test figure that networks are judged by."""
        return self.intervals[self.measure][network.program]


def answers(sweep: SweepFolder) -> Answers:
    """All that follows from a folder alone; a folder without a plan has no networks, and so no answers."""
    networks = networks_of(sweep)
    judged = {measure: _judge(sweep, networks, measure) for measure in ("accuracy", "loss")}
    intervals = {
        measure: {
            program: statistics.interval(each.drawn, column)
            for each in groups.values()
            for program, column in each.columns.items()
        }
        for measure, groups in judged.items()
    }
    if not networks:
        return Answers(sweep, [], judged, intervals, None, {}, {}, None, [], "parameters", [], None, {})
    best = _best(sweep, networks)
    groups = judged[sweep.measure]
    own = groups[best.data]
    rivals = [network for network in networks if network.data == best.data]
    compared = _compare(sweep, own, best, rivals)
    chances = statistics.chances(own.drawn, largest=sweep.sign > 0)
    series = [
        _series(sweep, members, groups[members[0].data], name, budget) for name, budget, members in _by_series(networks)
    ]
    none = next((network for network in rivals if network.variant == NONE), None)
    cost = "multiply_adds" if len({network.multiply_adds for network in networks}) > 1 else "parameters"
    return Answers(
        sweep=sweep,
        networks=networks,
        judged=judged,
        intervals=intervals,
        best=best,
        compared=compared,
        chances={program: float(chances[column]) for program, column in own.columns.items()},
        smallest=_smallest(rivals, compared, next(each for each in series if best in each.networks)),
        front=pareto(rivals, cost, lambda n: sweep.sign * intervals[sweep.measure][n.program].value),
        cost=cost,
        series=sorted(series, key=lambda each: best not in each.networks),
        none=none,
        from_none={} if none is None else _compare(sweep, own, none, rivals),
        axis=_axis(sweep, rivals, own) if all(each.finding == "one depth" for each in series) else None,
    )


def _judge(sweep: SweepFolder, networks: Sequence[Network], measure: str) -> dict[str, Judged]:
    """The networks' test figures drawn anew, by the data that they are judged on."""
    found = {}
    what = "correct" if measure == "accuracy" else "losses"
    kept = outcomes(sweep, [trial for n in networks for trial in (*n.trials, *n.others)], what)
    known = {row["trial"]: [row["test"][measure]] for row in sweep.rows if row.get("test")}
    for data in dict.fromkeys(network.data for network in networks):
        members = [n for n in networks if n.data == data]
        trials = [trial for n in members for trial in (*n.trials, *n.others)]
        # Not kept, or not of the same split: figures alone are left
        has_examples = kept.keys() >= set(trials) and len({kept[trial].shape for trial in trials}) == 1
        source = kept if has_examples else known
        tables = [np.array([source[trial] for trial in n.trials], np.float64) for n in members]
        others = [[np.array([source[trial] for trial in n.others], np.float64)] if n.others else [] for n in members]
        draws = [_draws(sweep, n.trials) for n in members]
        drawn = statistics.resample(tables, others, draws=draws, right_or_wrong=measure == "accuracy")
        found[data] = Judged(drawn, {n.program: i for i, n in enumerate(members)}, tables[0].shape[1])
    return found


def _draws(sweep: SweepFolder, trials: Sequence[int]) -> list[tuple[Any, ...]]:
    """What each of some trials shares with trials of other networks: its seeds, but for that of the network itself.

    Empty where no such seed is swept, and where the trials do not tell.
    """
    values = {row["trial"]: row["values"] for row in sweep.rows}
    found = [tuple(v for path, v in values[trial].items() if is_seed(path) and path != "seed") for trial in trials]
    return found if all(found) else []


def _best(sweep: SweepFolder, networks: Sequence[Network]) -> Network:
    """By the mean of the validation figure, then by validation loss."""
    return max(networks, key=lambda n: (sweep.sign * n.mean(f"validation.{sweep.measure}"), -n.mean("validation.loss")))


def _compare(sweep: SweepFolder, judged: Judged, best: Network, networks: Sequence[Network]) -> dict[int, Compared]:
    others = [network for network in networks if network is not best]
    columns = judged.columns
    found = [statistics.difference(judged.drawn, columns[n.program], columns[best.program]) for n in others]
    adjusted = statistics.holm([each.p for each in found])
    most = TOLERANCE[sweep.measure] * _level(judged, best)
    told = {}
    for network, each, p in zip(others, found, adjusted, strict=True):
        is_worse = bool(p < LEVEL and sweep.sign * each.value < 0)
        worst = each.low if sweep.sign > 0 else -each.high
        told[network.program] = Compared(each, float(p), is_worse, not is_worse and worst >= -most)
    return told


def _level(judged: Judged, best: Network) -> float:
    """What margins are shares of: 1 for accuracies, and the loss of the best for losses."""
    return 1.0 if judged.drawn.is_share else float(judged.drawn.means[judged.columns[best.program]])


def _as_good(networks: Sequence[Network], compared: dict[int, Compared]) -> list[Network]:
    """Those that are as good as the best as far as can be told, the best itself among them."""
    return [n for n in networks if n.program not in compared or compared[n.program].is_as_good]


def _smallest(networks: Sequence[Network], compared: dict[int, Compared], series: Series) -> Network:
    """The smallest that is as good as the best, and is not told to be worse among the fewer of that one's series."""
    worse = {program for program, told in series.compared.items() if told.is_worse}
    left = [network for network in _as_good(networks, compared) if network.program not in worse]
    return min(left, key=lambda network: (network.parameters, network.multiply_adds))


def pareto(networks: Sequence[Network], cost: str, merit: Callable[[Network], float]) -> list[Network]:
    """The networks that no other beats in both cost and merit, cheapest first."""
    front: list[Network] = []
    for network in sorted(networks, key=lambda n: (getattr(n, cost), -merit(n))):
        if not front or merit(network) > merit(front[-1]):
            front.append(network)
    return front


# ---------------------------------------------------------------------------------------------------------------------
# Choices along a number


def _axis(sweep: SweepFolder, networks: Sequence[Network], judged: Judged) -> Axis | None:
    """The axis, and what is best at each place of it."""
    axis = find_axis(networks)
    if axis is None:
        return None
    places = []
    for at in sorted({at for choice in axis.choices for at in choice.networks}):
        here = [choice.networks[at] for choice in axis.choices if at in choice.networks]
        best = _best(sweep, here)
        compared = _compare(sweep, judged, best, here)
        enough = min(_as_good(here, compared), key=lambda n: (n.training_flops or n.multiply_adds, n is not best))
        places.append(Place(at, best, compared, enough))
    return axis._replace(places=places)


# ---------------------------------------------------------------------------------------------------------------------
# Depth


def _by_series(networks: Sequence[Network]) -> list[tuple[str, str, list[Network]]]:
    """The name, the budget and the networks of each series; a network that meets several budgets is in several."""
    kinds = dict.fromkeys((n.series, n.data, budget) for n in networks for budget in n.budgets)
    several = len({budget for _, _, budget in kinds}) > 1
    found = []
    for series, data, budget in kinds:
        name = ", ".join(filter(None, (series, _at(budget) if several else "")))
        members = [n for n in networks if (n.series, n.data) == (series, data) and budget in n.budgets]
        found.append((name, budget, members))
    return found


def _at(budget: str) -> str:
    return f"at {budget}" if budget else "as it is"


def _series(sweep: SweepFolder, networks: list[Network], judged: Judged, name: str, budget: str) -> Series:
    depths = sorted({network.depth for network in networks})
    by_depth = [_best(sweep, [n for n in networks if n.depth == depth]) for depth in depths]
    best = _best(sweep, by_depth)
    compared = _compare(sweep, judged, best, by_depth)
    enough = _as_good(by_depth, compared)[0]
    finding = _finding(judged, best, compared)
    covers = _covers(sweep, by_depth)
    below = [n for n in by_depth if n.depth < enough.depth]
    is_by_field = bool(below) and enough.depth == covers and compared[below[-1].program].is_worse
    return Series(
        name=name,
        budget=_at(budget) if budget else _budget(by_depth),
        networks=networks,
        by_depth=by_depth,
        best=best,
        compared=compared,
        enough=enough,
        finding=finding,
        covers=covers,
        is_by_field=is_by_field,
        underfits=_underfits(below[-1], enough) if below else None,
        decline=_decline(best, by_depth, compared),
        missing=_missing(judged, best, by_depth, compared) if finding == "too thin" else None,
    )


def _budget(networks: Sequence[Network]) -> str:
    """At what networks of different depths are matched."""
    if len(networks) < 2:
        return "as it is"
    matched = [
        name
        for name, attribute in (("parameters", "parameters"), ("FLOPs", "multiply_adds"))
        if max(getattr(n, attribute) for n in networks) <= MATCHED * min(getattr(n, attribute) for n in networks)
    ]
    return f"at matched {' and '.join(matched)}" if matched else "as it is"


def _finding(judged: Judged, best: Network, compared: dict[int, Compared]) -> str:
    if not compared:
        return "one depth"
    if any(each.is_worse for each in compared.values()):
        return "told"
    widest = max(max(abs(each.difference.low), abs(each.difference.high)) for each in compared.values())
    return "no difference" if widest <= MARGIN * _level(judged, best) else "too thin"


def _covers(sweep: SweepFolder, networks: Sequence[Network]) -> int | None:
    """The smallest depth from which on the receptive field is as large as the input, along each axis of it."""
    if sweep.shape is None or any(network.field is None for network in networks):
        return None
    axes = [i for i, size in enumerate(sweep.shape[:-1]) if size > 1]
    covering = [all(n.field[i] >= sweep.shape[i] for i in axes if i < len(n.field)) for n in networks]
    if not axes or not covering[-1] or all(covering):  # never, or always: it explains nothing
        return None
    return networks[len(covering) - 1 - covering[::-1].index(False) + 1].depth


def _underfits(shallow: Network, enough: Network) -> tuple[float, float, float] | None:
    losses = [n.figures.get("train.loss") for n in (shallow, enough)]
    if any(each is None for each in losses):
        return None
    p = statistics.welch(*losses)
    one, other = (float(each.mean()) for each in losses)
    return (one, other, p) if p < LEVEL and one > other else None


def _decline(best: Network, by_depth: Sequence[Network], compared: dict[int, Compared]) -> Decline | None:
    """Whether depth beyond the best does harm, and whether the training loss tells why."""
    worse = [n for n in by_depth if n.depth > best.depth and compared[n.program].is_worse]
    if not worse:
        return None
    deepest = worse[-1]
    losses = [n.figures.get("train.loss") for n in (best, deepest)]
    if any(each is None for each in losses):
        return Decline(deepest, "unmeasured", None, 1.0)
    p = statistics.welch(*losses)
    one, other = (float(each.mean()) for each in losses)
    cause = "unexplained" if p >= LEVEL else "degradation" if other > one else "overfitting"
    return Decline(deepest, cause, (one, other), p)


def _missing(judged: Judged, best: Network, by_depth: Sequence[Network], compared: dict[int, Compared]) -> Enough:
    """What would tell the largest difference, of at least the margin, from chance."""
    rival = max((n for n in by_depth if n is not best), key=lambda n: abs(compared[n.program].difference.value))
    gap = max(abs(compared[rival.program].difference.value), MARGIN * _level(judged, best))
    columns = judged.columns
    seeds = min(len(best.trials), len(rival.trials))
    return statistics.enough(
        judged.drawn,
        columns[rival.program],
        columns[best.program],
        gap,
        examples=judged.examples,
        seeds=seeds,
        level=LEVEL / len(compared),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What moves the best depth


class Line(NamedTuple):
    """Series that differ in one number, such as how much data there is."""

    name: str
    """What they share that others of the sweep do not."""
    points: list[tuple[float, Series]]
    """By that number, the least first."""


def moves(found: Answers) -> tuple[str, list[Line]] | None:
    """The number outside of the model in which series differ most often, its path and a line for all else they share.

    None where no two series differ in one.
    """
    deep = [series for series in found.series if len(series.by_depth) > 1]
    told = [{p: v for p, v in s.networks[0].values.items() if not p.startswith("model")} for s in deep]
    numbers = {
        path: [_number(values.get(path, "")) for values in told]
        for path in dict.fromkeys(path for values in told for path in values)
    }
    numbers = {path: of for path, of in numbers.items() if None not in of and len(set(of)) > 1}
    if not numbers:
        return None
    path = max(numbers, key=lambda path: len(set(numbers[path])))
    lines: dict[str, list[tuple[float, Series]]] = {}
    for number, values, series in zip(numbers[path], told, deep, strict=True):
        lines.setdefault(_without(series.name, path, values[path]), []).append((number, series))
    found_lines = [Line(name, sorted(points, key=lambda p: p[0])) for name, points in lines.items() if len(points) > 1]
    return (path, found_lines) if found_lines else None


def _number(value: str) -> float | None:
    """The number in a value as typed: 100, "100 steps"."""
    told = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)( \w+)?", value)
    return float(told[1]) if told else None


def _without(name: str, path: str, value: str) -> str:
    """The name of a series without the words for one field."""
    words = {value, f"{path.rpartition('.')[2]} {value}"}
    return ", ".join(word for word in name.split(", ") if word not in words and not word.endswith(f" {value}"))


# ---------------------------------------------------------------------------------------------------------------------
# Scaling


def scaling(found: Answers, series: Series) -> tuple[str, Scaling]:
    """The test loss of a series' networks against their size: what size is meant, and the curve.

    Size is parameters, or FLOPs of training where parameters are matched.
    """
    size = "training_flops" if "parameters" in series.budget else "parameters"
    networks = [network for network in series.networks if getattr(network, size)]
    judged = found.judged["loss"][series.networks[0].data]
    columns = [judged.columns[network.program] for network in networks]
    sizes = [getattr(network, size) for network in networks]
    return size, statistics.fit_scaling(sizes, judged.drawn.means[columns], judged.drawn.draws[:200, columns])


# ---------------------------------------------------------------------------------------------------------------------
# Importance


def importances(sweep: SweepFolder) -> dict[str, float]:
    """How much of the variance of the validation figure each swept field explains, the largest first; they sum to 1.

    Optuna's fANOVA over the trials of the search (Hutter et al., "An efficient approach for assessing hyperparameter
    importance", 2014). Of fields that go together, such as a width that is computed from a depth, the first is taken.
    Empty where there are too few trials, where no field explains anything, and where two fields are never set together,
    for then nothing is known of what they would do together, and all shares rest on that.
    """
    rows = [row for row in sweep.rows if row["stage"] == "search" and row.get("validation")]
    rows = [row for row in rows if np.isfinite(row["validation"][sweep.measure])]
    columns = _independent(rows)
    figures = [row["validation"][sweep.measure] for row in rows]
    if len(rows) < LEAST_TRIALS or not columns or np.ptp(figures) == 0 or _exclude_each_other(columns):
        return {}
    if len(columns) == 1:
        return {next(iter(columns)): 1.0}
    return _fanova(columns, figures)


def _independent(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Path to a value for each trial, of the fields that differ and do not follow from one before them."""
    columns: dict[str, list[Any]] = {}
    for path in dict.fromkeys(path for row in rows for path in row["values"]):
        values = [row["values"].get(path, ABSENT) for row in rows]
        if len(set(map(repr, values))) > 1 and not any(_follows(values, others) for others in columns.values()):
            columns[path] = values
    return columns


def _exclude_each_other(columns: dict[str, list[Any]]) -> bool:
    """Whether no trial has both of some two fields."""
    has = [np.array([value != ABSENT for value in values]) for values in columns.values()]
    return any(not (one & other).any() for one, other in itertools.combinations(has, 2))


def _follows(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether one column says what is in another; where hardly a value comes twice, that says nothing."""
    known: dict[str, str] = {}
    follows = all(known.setdefault(repr(a), repr(b)) == repr(b) for a, b in zip(others, values, strict=True))
    return follows and len(known) <= len(values) / 2


def _fanova(columns: dict[str, list[Any]], figures: Sequence[float]) -> dict[str, float]:
    with warnings.catch_warnings():  # tqdm misses ipywidgets in a notebook, for bars that nobody asked for
        warnings.filterwarnings("ignore", "IProgress not found")
        import optuna

    spaces = {path: _distribution(values) for path, values in columns.items()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize")
        for i, figure in enumerate(figures):
            params = {path: _parameter(values[i], spaces[path]) for path, values in columns.items()}
            study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=figure))
        trees = min(max(TREES[2] // len(figures), TREES[0]), TREES[1])
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=trees, seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distribution(values: Sequence[Any]):
    """The distribution that Optuna takes values to be from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return CategoricalDistribution(list(dict.fromkeys(map(str, values))))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0 and high / low >= 8)


def _parameter(value: Any, distribution: Any) -> Any:
    return str(value) if hasattr(distribution, "choices") else float(value)
