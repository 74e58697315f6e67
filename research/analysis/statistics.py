"""How sure a figure is: intervals that know of few test examples and of few seeds, many comparisons, scaling curves.

A network's accuracy is uncertain twice over: another test split would have other examples, and another seed would have
made other weights. Ten seeds judged on 360 examples are no 3,600 examples: at 97 % those leave 1.8 points either way,
however many seeds there are. So both are drawn anew, many times:

    outcomes = [plain, residual]                   # (seeds, examples) each: 1 where an answer is right
    drawn = resample(outcomes)
    interval(drawn, 0)                             # of an accuracy
    difference(drawn, 0, 1)                        # paired: the same examples for both
    resample(outcomes, draws=[(0, 1, 2), (0, 1, 2)])     # and the same draws of labels for both

Examples are drawn with replacement, the same ones for all networks, so what makes an example hard for all cancels out
of a difference. Of seeds there are too few for that: drawing from five values gives intervals that hold in 80 % of
cases where they claim 95 %. Their mean is drawn from Student's t instead, with the spread that they have beyond what
chance in the examples explains (a parametric bootstrap). Where each seed of two networks goes with a draw that both
have, such as of the labels that are known, what counts for their difference is the spread of the differences.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2_000
CHUNK = 64
"""Resamples that are drawn at once."""
FEW = 10
"""Draws beyond zero that are too few to count: the tail of Student's t tells more."""
LEAST_POINTS = 5
"""Of a scaling curve, which has three unknowns."""


class Interval(NamedTuple):
    """A figure, and between which values it is."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """What one network has more than another, between which values that is, and how likely it is chance."""

    value: float
    low: float
    high: float
    p: float
    """Of no difference, two-sided."""


class Resampled(NamedTuple):
    """Means of networks, and what they would have been for other examples and seeds."""

    means: np.ndarray
    """(networks,)"""
    by_examples: np.ndarray
    """(resamples, networks), of other examples alone."""
    by_seeds: np.ndarray
    """(resamples, networks): how far other seeds are from these."""
    variances: np.ndarray
    """(networks,) of the means, by seeds alone."""
    freedom: np.ndarray
    """(networks,) degrees of freedom of these variances."""
    pseudo: np.ndarray
    """(2, resamples): the share of two examples more, where outcomes are right or wrong; 0 for others."""
    is_share: bool
    """Whether a mean is from 0 to 1."""
    paired: Mapping[tuple[int, int], tuple[float, float]]
    """Of two networks with the same draws: the variance of their difference by these, and its degrees of freedom."""

    @property
    def draws(self) -> np.ndarray:
        """(resamples, networks), of other examples and seeds."""
        return self.by_examples + self.by_seeds


# ---------------------------------------------------------------------------------------------------------------------
# Examples and seeds


def resample(
    outcomes: Sequence[np.ndarray],
    others: Sequence[Sequence[np.ndarray]] | None = None,
    *,
    draws: Sequence[Sequence[Hashable]] | None = None,
    right_or_wrong: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Resampled:
    """Draws the mean of each network's outcomes anew.

    `outcomes` has for each network an array (seeds, examples), of the same examples in the same order; the number of
    seeds may differ, and they are independent between networks. Where there is but one column, such as an accuracy
    whose examples are not known, all uncertainty is that of the seeds. `others` are, for each network, more such arrays
    of seeds that do not count for its mean, but tell how much its seeds differ. `draws` say for each network with what
    each of its seeds goes that other networks may have as well; empty where there is nothing of the kind.
    `right_or_wrong`: all outcomes are from 0 to 1.
    """
    columns = np.stack([np.asarray(values, np.float64).mean(0) for values in outcomes], axis=1)
    count = len(columns)
    generator = np.random.default_rng(seed)
    by_examples = np.concatenate(
        [_other_examples(generator, columns, min(CHUNK, resamples - i)) for i in range(0, resamples, CHUNK)]
    )
    seeds = np.array([len(values) for values in outcomes])
    groups = [[values, *more] for values, more in zip(outcomes, others or [()] * len(outcomes), strict=True)]
    variances = np.array([variance_of_seeds(*each) for each in groups]) / seeds
    freedom = np.array([max(1, sum(len(values) - 1 for values in each)) for each in groups])
    by_seeds = generator.standard_t(freedom, (resamples, len(seeds))) * np.sqrt(variances)
    pseudo = generator.poisson(1, (2, resamples)) / count * (right_or_wrong and count > 1)
    paired = _paired(outcomes, draws or [()] * len(outcomes))
    return Resampled(columns.mean(0), by_examples, by_seeds, variances, freedom, pseudo, right_or_wrong, paired)


def _paired(
    outcomes: Sequence[np.ndarray], draws: Sequence[Sequence[Hashable]]
) -> dict[tuple[int, int], tuple[float, float]]:
    found = {}
    for one, other in itertools.permutations(range(len(outcomes)), 2):
        place = {draw: i for i, draw in enumerate(draws[other])}
        if len(place) == len(outcomes[other]) > 1 and sorted(draws[one]) == sorted(place):
            gaps = np.asarray(outcomes[one], np.float64) - outcomes[other][[place[draw] for draw in draws[one]]]
            found[one, other] = variance_of_seeds(gaps) / len(gaps), len(gaps) - 1
    return found


def _other_examples(generator: np.random.Generator, columns: np.ndarray, resamples: int) -> np.ndarray:
    """(resamples, networks): means over as many examples, drawn with replacement, the same ones for each network."""
    count = len(columns)
    drawn = generator.integers(0, count, (resamples, count)) + count * np.arange(resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
    return times @ columns / count


def variance_of_seeds(*groups: np.ndarray) -> float:
    """The variance of a network's level from seed to seed, beyond what chance in examples explains.

    `groups` are arrays (seeds, examples), each with a level of its own. It is that of random effects: the variance of
    the seeds' means, less the part that what is left over once seeds and examples have had their share would give them
    anyway. Never below 0, and 0 where no group has two seeds, which tells nothing.
    """
    told = [(len(values) - 1, _excess(np.asarray(values, np.float64))) for values in groups if len(values) > 1]
    return max(0.0, sum(freedom * each for freedom, each in told) / max(1, sum(freedom for freedom, _ in told)))


def _excess(values: np.ndarray) -> float:
    """The variance of one group's seeds, which may by chance be below 0."""
    seeds, examples = values.shape
    levels = values.mean(1)
    if examples < 2:
        return float(levels.var(ddof=1))
    left = values - levels[:, None] - values.mean(0) + values.mean()
    chance = (left**2).sum() / ((seeds - 1) * (examples - 1))
    return float(levels.var(ddof=1) - chance / examples)


def interval(drawn: Resampled, network: int, level: float = 0.95) -> Interval:
    """Of a network's mean.

    Where outcomes are right or wrong, one example that is right and one that is wrong take part in the drawing, so that
    360 right answers of 360 are no certainty (Agresti and Coull, "Approximate is better than exact", 1998).
    """
    right, wrong = drawn.pseudo
    draws = (drawn.by_examples[:, network] + right) / (1 + right + wrong)
    low, high = _quantiles(draws + drawn.by_seeds[:, network], level)
    if drawn.is_share:
        low, high = max(low, 0.0), min(high, 1.0)
    value = float(drawn.means[network])
    return Interval(value, min(low, value), max(high, value))


def difference(drawn: Resampled, one: int, other: int, level: float = 0.95) -> Difference:
    """What `one` has more than `other`, paired over examples.

    Where outcomes are right or wrong, one example that speaks for `one` and one that speaks for `other` take part in
    the drawing (Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", 2012): five answers to none are p = 0.06, as McNemar's exact test has it, and not 0.01.
    """
    by_examples, (by_seeds, freedom) = _by_examples(drawn, one, other), _by_seeds(drawn, one, other)
    draws = by_examples + np.random.default_rng(2).standard_t(freedom, len(by_examples)) * math.sqrt(by_seeds)
    low, high = _quantiles(np.clip(draws, -1, 1) if drawn.is_share else draws, level)
    value = float(drawn.means[one] - drawn.means[other])
    return Difference(value, min(low, value), max(high, value), _p_value(drawn, draws, value, one, other))


def _quantiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _by_examples(drawn: Resampled, one: int, other: int) -> np.ndarray:
    """(resamples,): a difference, for other examples alone."""
    return drawn.by_examples[:, one] - drawn.by_examples[:, other] + drawn.pseudo[0] - drawn.pseudo[1]


def _by_seeds(drawn: Resampled, one: int, other: int) -> tuple[float, float]:
    """The variance of a difference by seeds alone, and its degrees of freedom."""
    if (one, other) in drawn.paired:
        return drawn.paired[one, other]
    variances = drawn.variances[[one, other]]
    return float(variances.sum()), _freedom(variances, drawn.freedom[[one, other]])


def _freedom(variances: np.ndarray, freedom: np.ndarray) -> float:
    """Degrees of freedom of a sum of variances that are known to so many each (Satterthwaite, 1946)."""
    known = (variances**2 / freedom).sum()
    return float(variances.sum() ** 2 / known) if known else 1e9


def _p_value(drawn: Resampled, draws: np.ndarray, value: float, one: int, other: int) -> float:
    """Twice the share of draws beyond zero; of Student's t where these are too few to count."""
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    if beyond >= FEW:
        return float(min(1.0, 2 * (beyond + 1) / (len(draws) + 1)))
    by_examples, (by_seeds, known) = float(_by_examples(drawn, one, other).var()), _by_seeds(drawn, one, other)
    total = by_seeds + by_examples
    if total == 0:
        return 1.0 if value == 0 else 0.0
    freedom = _freedom(np.array([by_seeds, by_examples]), np.array([known, np.inf]))
    return min(_tail(abs(value) / math.sqrt(total), freedom), 2 * (FEW + 1) / (len(draws) + 1))


def _tail(distance: float, freedom: float) -> float:
    """How likely Student's t is so far from 0, to either side."""
    from scipy import special

    return float(2 * special.stdtr(freedom, -distance))


def chances(drawn: Resampled, *, largest: bool = True) -> np.ndarray:
    """(networks,): in which share of the draws each is the best; even ones share it."""
    draws = drawn.draws if largest else -drawn.draws
    best = draws >= draws.max(1, keepdims=True) - 1e-12
    return (best / best.sum(1, keepdims=True)).mean(0)


# ---------------------------------------------------------------------------------------------------------------------
# Many comparisons


def holm(p_values: Sequence[float]) -> np.ndarray:
    """The p-values of a family of comparisons, adjusted so that it is rare for any of them to be chance (Holm, 1979).

    Of m, the smallest is taken m times, the next m - 1 times, and so on; none is below one before it.
    """
    given = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    scaled = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(given) else scaled
    return adjusted


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """The p-value, two-sided, of two samples having one mean (Welch, 1947); 1 where one of them has fewer than two."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if min(len(one), len(other)) < 2:
        return 1.0
    variances = np.array([one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)])
    gap, total = abs(one.mean() - other.mean()), variances.sum()
    if total == 0:
        return float(gap == 0)
    freedom = _freedom(variances, np.array([len(one) - 1, len(other) - 1]))
    return _tail(gap / math.sqrt(total), freedom)


class Enough(NamedTuple):
    """What would tell a difference from chance."""

    examples: int | None
    """In the test split, with as many seeds as there are; None if no number would do."""
    seeds: int | None
    """Of each network, on the examples that there are; None if no number would do."""


def enough(
    drawn: Resampled, one: int, other: int, gap: float, *, examples: int, seeds: int, level: float = 0.05
) -> Enough:
    """How many test examples, or else seeds, would tell a difference of `gap` from chance in four of five cases.

    `examples` and `seeds` are the numbers that there are, which were too few; `level` is that of the test.
    """
    from scipy import special

    by_examples = float(_by_examples(drawn, one, other).var())
    by_seeds, _ = _by_seeds(drawn, one, other)
    of_one_more = 1 if (one, other) in drawn.paired else 2

    def is_told(more_examples: float, seeds: int) -> bool:
        freedom = of_one_more * (seeds - 1) if by_seeds and seeds > 1 else 1e6
        wanted = special.stdtrit(freedom, 1 - level / 2) + special.stdtrit(freedom, 0.8)
        return gap >= wanted * math.sqrt(by_examples / more_examples + by_seeds * drawn_seeds / seeds)

    drawn_seeds = seeds
    grids = (np.geomspace(1.1, 1e4, 200), np.unique(np.geomspace(seeds + 1, 1000, 200).astype(int)))
    for_examples = next((times for times in grids[0] if examples > 1 and is_told(times, seeds)), None)
    for_seeds = next((int(count) for count in grids[1] if by_seeds and is_told(1, int(count))), None)
    return Enough(None if for_examples is None else math.ceil(examples * for_examples), for_seeds)


# ---------------------------------------------------------------------------------------------------------------------
# Scaling curves


class Scaling(NamedTuple):
    """loss = floor + factor * size ** -exponent, or why no such curve is told."""

    floor: Interval
    factor: Interval
    exponent: Interval
    explained: float
    """The share of the losses' variance that the curve explains."""
    curves: np.ndarray
    """(draws, 3): floor, factor and exponent of each draw."""
    problem: str | None = None

    def at(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The curve, and its 95 % band, at some sizes."""
        floor, factor, exponent = (column[:, None] for column in self.curves.T)
        drawn = floor + factor * np.asarray(sizes, np.float64) ** -exponent
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return self.floor.value + self.factor.value * np.asarray(sizes) ** -self.exponent.value, low, high


EXPONENTS = np.geomspace(0.02, 4, 240)
NOTHING = Interval(math.nan, math.nan, math.nan)


def fit_scaling(sizes: Sequence[float], losses: Sequence[float], draws: np.ndarray | None = None) -> Scaling:
    """The power law with a floor nearest to some losses, and how sure it is.

    `draws` (draws, points) holds the losses as other examples and seeds would have had them; each point then counts by
    how sure it is, and the curve's uncertainty is that of the curves of all draws. `problem` says why a curve tells
    nothing: there are too few points for its three unknowns, or they do not fall as a power of the size.
    """
    sizes, losses = np.asarray(sizes, np.float64), np.asarray(losses, np.float64)
    if len(set(sizes)) < LEAST_POINTS:
        told = f"{len(set(sizes))} sizes are too few for a curve of three unknowns; {LEAST_POINTS} would do"
        return Scaling(NOTHING, NOTHING, NOTHING, math.nan, np.empty((0, 3)), told)
    draws = np.empty((0, len(sizes))) if draws is None else np.asarray(draws, np.float64)
    spread = draws.std(0) if len(draws) else np.ones(len(sizes))
    weights = 1 / np.maximum(spread, max(1e-3 * losses.std(), 1e-12)) ** 2
    unit = np.exp(np.log(sizes).mean())  # sizes of about 1 keep the equations well conditioned
    best, explained = _fit(sizes / unit, losses[None], weights)
    curves, _ = _fit(sizes / unit, draws, weights) if len(draws) else (best.copy(), explained)
    best[:, 1] *= unit ** best[:, 2]
    curves[:, 1] *= unit ** curves[:, 2]
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    told = [Interval(*map(float, each)) for each in zip(best[0], low, high, strict=True)]
    share = float(explained[0])
    return Scaling(*told, share, curves, _problem(told, share))


def _problem(told: Sequence[Interval], share: float) -> str | None:
    """Why a curve tells nothing, if so."""
    _, factor, exponent = told
    if share < 0.8 or factor.value <= 0:
        return "losses do not fall as a power of the size"
    if exponent.low <= EXPONENTS[1] or exponent.high >= EXPONENTS[-2]:
        return f"points leave the exponent open, from {exponent.low:.2g} to {exponent.high:.2g} at least"
    return None


def _fit(sizes: np.ndarray, losses: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, 3): floor, factor and exponent for each row of losses (rows, points), and the share explained (rows,).

    For a given exponent the rest is linear least squares with both unknowns at least 0, so exponents are tried.
    """
    weights = weights / weights.sum()
    mean = losses @ weights
    total = ((losses - mean[:, None]) ** 2) @ weights
    best, least = np.zeros((len(losses), 3)), np.full(len(losses), np.inf)
    for exponent in EXPONENTS:
        power = sizes**-exponent
        level = power @ weights
        factor = ((losses - mean[:, None]) @ (weights * (power - level))) / (((power - level) ** 2) @ weights)
        through_zero = (losses @ (weights * power)) / ((power**2) @ weights)
        factor = np.maximum(np.where(mean - factor * level < 0, through_zero, factor), 0)
        floor = np.maximum(mean - factor * level, 0)
        left = ((losses - floor[:, None] - factor[:, None] * power) ** 2) @ weights
        better = left < least
        best[better] = np.stack([floor, factor, np.full_like(floor, exponent)], axis=1)[better]
        least = np.where(better, left, least)
    return best, 1 - least / np.where(total > 0, total, 1)
