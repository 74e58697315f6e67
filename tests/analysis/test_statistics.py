"""Intervals hold as often as they say, tests agree with exact ones, and curves find the law that made the points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from research.analysis.statistics import (
    chances,
    difference,
    enough,
    fit_scaling,
    holm,
    interval,
    resample,
    variance_of_seeds,
    welch,
)


def rights(wrong, examples=360, seeds=1):
    """Outcomes of seeds that agree: the first `wrong` examples are wrong."""
    values = np.ones((seeds, examples), np.uint8)
    values[:, :wrong] = 0
    return values


def half_width(found):
    return (found.high - found.low) / 2


# ---------------------------------------------------------------------------------------------------------------------
# One network


@pytest.mark.parametrize("seeds", [1, 3, 50])
def test_360_examples_at_97_percent_leave_1_8_points_however_many_seeds_agree(seeds):
    found = interval(resample([rights(11, seeds=seeds)]), 0)
    assert found.value == pytest.approx(349 / 360)
    assert half_width(found) == pytest.approx(0.018, abs=0.0015)


@pytest.mark.parametrize(("right", "examples"), [(349, 360), (300, 360), (180, 360), (9_700, 10_000)])
def test_an_interval_of_one_seed_is_nearly_that_of_wilson(right, examples):
    found = interval(resample([rights(examples - right, examples)]), 0)
    exact = stats.binomtest(right, examples).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.25 * (exact.high - exact.low) / 2)


def test_all_right_is_no_certainty():
    found = interval(resample([rights(0)]), 0)
    assert found.high == 1
    assert 0.985 < found.low < 0.995  # the rule of three says 0.9917


def test_where_examples_are_not_known_the_interval_is_students():
    accuracies = np.array([0.95, 0.96, 0.97, 0.955])
    found = interval(resample([accuracies[:, None]], resamples=20_000), 0)
    exact = stats.t.interval(0.95, 3, accuracies.mean(), stats.sem(accuracies))
    assert (found.low, found.high) == pytest.approx(exact, abs=0.0008)


def simulated(generator, levels, seeds, examples, spread):
    """Outcomes of networks whose seeds differ in level, on examples that are hard for all or for none."""
    hardness = generator.normal(size=examples)
    tables = []
    for level in levels:
        own = np.clip(level + spread * generator.normal(size=(seeds, 1)), 1e-3, 1 - 1e-3)
        ability = np.sqrt(0.7) * hardness + np.sqrt(0.3) * generator.normal(size=(seeds, examples))
        tables.append((ability < stats.norm.ppf(own)).astype(np.uint8))
    return tables


@pytest.mark.parametrize("spread", [0.0, 0.012])
def test_intervals_hold_in_95_of_100_cases_and_those_that_pool_examples_do_not(spread):
    generator, cases = np.random.default_rng(0), 200
    holds = {"accuracy": 0, "difference": 0, "pooled": 0}
    false_alarms = 0
    for case in range(cases):
        tables = simulated(generator, (0.96, 0.94, 0.96), seeds=4, examples=500, spread=spread)
        drawn = resample(tables, resamples=500, seed=case)
        accuracy, gap = interval(drawn, 0), difference(drawn, 0, 1)
        holds["accuracy"] += accuracy.low <= 0.96 <= accuracy.high
        holds["difference"] += gap.low <= 0.02 <= gap.high
        holds["pooled"] += abs(tables[0].mean() - 0.96) <= 1.96 * np.sqrt(0.96 * 0.04 / tables[0].size)
        false_alarms += difference(drawn, 0, 2).p < 0.05
    assert holds["accuracy"] / cases >= 0.92
    assert holds["difference"] / cases >= 0.92
    assert holds["pooled"] / cases < 0.85
    assert false_alarms / cases <= 0.06


def test_the_variance_of_seeds_is_what_chance_in_examples_leaves():
    generator = np.random.default_rng(0)
    levels = 0.9 + 0.02 * generator.normal(size=(2_000, 5, 1))
    tables = (generator.random((2_000, 5, 200)) < levels).astype(float)
    found = np.mean([variance_of_seeds(table) for table in tables])
    assert 1 < found / 0.02**2 < 1.25  # a little more, for none is below 0
    assert np.mean([table.mean(1).var(ddof=1) for table in tables]) > 2 * 0.02**2  # what is seen without care
    assert variance_of_seeds(rights(10, seeds=4).astype(float)) == 0
    assert variance_of_seeds(rights(10).astype(float)) == 0


# ---------------------------------------------------------------------------------------------------------------------
# Two networks


def disagreeing(for_one, for_other, examples=360):
    """Outcomes of two networks that disagree on a few examples."""
    one, other = rights(0, examples), rights(0, examples)
    other[0, :for_one] = 0
    one[0, for_one : for_one + for_other] = 0
    return one, other


@pytest.mark.parametrize(("for_one", "for_other"), [(5, 0), (8, 0), (8, 2), (12, 3), (10, 10), (30, 10), (1, 0)])
def test_a_p_value_is_nearly_that_of_mcnemars_exact_test(for_one, for_other):
    found = difference(resample(disagreeing(for_one, for_other), resamples=20_000), 0, 1)
    exact = stats.binomtest(for_one, for_one + for_other).pvalue
    assert found.p == pytest.approx(exact, rel=0.5, abs=0.003)
    assert (found.p < 0.05) == (exact < 0.05)


def test_what_is_hard_for_both_does_not_blur_their_difference():
    one, other = disagreeing(8, 0)
    one[0, 100:150] = other[0, 100:150] = 0
    drawn = resample([one, other])
    assert half_width(difference(drawn, 0, 1)) < 0.5 * half_width(interval(drawn, 0))


def test_what_a_draw_is_worth_to_both_does_not_blur_their_difference_and_its_interval_holds():
    generator, cases = np.random.default_rng(0), 200
    holds, narrower, false_alarms = 0, 0, 0
    for case in range(cases):
        luck = 0.03 * generator.normal(size=8)  # of each draw, for whichever network learns from it
        skill = luck + np.array([[0.92], [0.90], [0.90]]) + 0.005 * generator.normal(size=(3, 8))
        tables = [generator.random((8, 500)) < each[:, None] for each in skill]
        shuffled = [generator.permutation(8) for _ in tables]
        tables = [table[order].astype(np.uint8) for table, order in zip(tables, shuffled, strict=True)]
        paired = resample(tables, draws=[[int(i) for i in order] for order in shuffled], resamples=500, seed=case)
        gap = difference(paired, 0, 1)
        holds += gap.low <= 0.02 <= gap.high
        false_alarms += difference(paired, 1, 2).p < 0.05
        narrower += half_width(gap) < 0.8 * half_width(difference(resample(tables, resamples=500, seed=case), 0, 1))
    assert holds / cases >= 0.92
    assert false_alarms / cases <= 0.08
    assert narrower / cases >= 0.9


def test_a_difference_over_draws_alone_is_the_paired_t_test():
    generator = np.random.default_rng(1)
    luck = generator.normal(0, 0.05, 6)
    one, other = luck + generator.normal(0.01, 0.01, 6), luck + generator.normal(0, 0.01, 6)
    drawn = resample([one[:, None], other[::-1, None]], draws=[range(6), range(5, -1, -1)], resamples=20_000)
    found, exact = difference(drawn, 0, 1), stats.ttest_rel(one, other)
    assert found.p == pytest.approx(exact.pvalue, rel=0.2)
    assert (found.low, found.high) == pytest.approx(tuple(exact.confidence_interval()), abs=0.001)


@pytest.mark.parametrize("draws", [[(), ()], [(0, 1, 2), (0, 1, 3)], [(0, 0, 1), (0, 0, 1)], [(0, 1, 2), ()]])
def test_networks_without_the_same_draws_are_not_paired(draws):
    tables = [rights(3, seeds=3), rights(9, seeds=3)]
    assert not resample(tables, draws=draws).paired


def test_a_difference_of_seeds_alone_is_nearly_that_of_welch():
    one, other = np.array([0.95, 0.96, 0.955, 0.965]), np.array([0.93, 0.94, 0.935, 0.925])
    found = difference(resample([one[:, None], other[:, None]], resamples=20_000), 0, 1)
    exact = stats.ttest_ind(one, other, equal_var=False)
    assert found.value == pytest.approx(0.025)
    assert found.p == pytest.approx(exact.pvalue, rel=0.5)
    assert (found.low, found.high) == pytest.approx(tuple(exact.confidence_interval()), abs=0.002)


def test_a_p_value_far_out_is_not_bounded_by_the_number_of_draws():
    one, other = rights(10, 2_000, seeds=3), rights(400, 2_000, seeds=3)
    assert difference(resample([one, other]), 0, 1).p < 1e-10
    assert difference(resample([one, one]), 0, 1).p == 1


def test_the_best_in_most_draws_is_the_likely_best():
    drawn = resample([rights(10), rights(10), rights(40)])
    share = chances(drawn)
    assert share.sum() == pytest.approx(1)
    assert share[:2] == pytest.approx([0.5, 0.5], abs=0.01)  # even ones share it
    assert chances(drawn, largest=False)[2] > 0.99


def test_losses_are_drawn_as_accuracies_are_without_pseudo_examples():
    generator = np.random.default_rng(0)
    losses = generator.exponential(0.2, (1, 1_000))
    found = interval(resample([losses], right_or_wrong=False), 0)
    assert half_width(found) == pytest.approx(1.96 * losses.std() / np.sqrt(1_000), rel=0.08)


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_enough_is_where_four_of_five_cases_are_told(spread):
    generator = np.random.default_rng(1)
    levels = [0.93, 0.95]
    drawn = resample(simulated(generator, levels, seeds=5, examples=200, spread=spread))
    told = enough(drawn, 1, 0, 0.02, examples=200, seeds=5)
    if spread:
        assert told.examples is None
        assert told.seeds is None or told.seeds > 5
        return
    power = np.mean(
        [
            difference(resample(simulated(generator, levels, 5, told.examples, spread), resamples=400), 1, 0).p < 0.05
            for _ in range(60)
        ]
    )
    assert 0.6 < power <= 1


# ---------------------------------------------------------------------------------------------------------------------
# Many comparisons


def test_holms_method_on_the_example_of_every_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holms_method_rejects_what_its_definition_does(p_values, level):
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if not p_values[index] * (len(p_values) - step) <= level:
            break
        rejected.add(index)
    assert set(np.flatnonzero(holm(p_values) <= level)) == rejected


def test_welch_is_that_of_scipy():
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, 5), generator.normal(1, 3, 9)
    assert welch(one, other) == pytest.approx(stats.ttest_ind(one, other, equal_var=False).pvalue)
    assert welch([1.0], [2.0, 3.0]) == 1
    assert (welch([1.0, 1.0], [1.0, 1.0]), welch([1.0, 1.0], [2.0, 2.0])) == (1, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Scaling curves

SIZES = np.geomspace(1e3, 1e6, 7)


@pytest.mark.parametrize(("floor", "factor", "exponent"), [(0.1, 30, 0.6), (0.0, 8, 0.3), (1.5, 2, 0.1)])
def test_a_curve_finds_the_law_that_made_the_points(floor, factor, exponent):
    found = fit_scaling(SIZES, floor + factor * SIZES**-exponent)
    assert found.problem is None
    assert found.exponent.value == pytest.approx(exponent, rel=0.03)
    assert found.floor.value == pytest.approx(floor, abs=0.1 * factor * SIZES[-1] ** -exponent + 0.05 * floor)
    assert found.at(SIZES)[0] == pytest.approx(floor + factor * SIZES**-exponent, rel=0.01)


def test_its_uncertainty_holds_the_truth():
    generator, holds, within = np.random.default_rng(0), 0, 0.0
    truth = 0.1 + 30 * SIZES**-0.6
    for _ in range(60):
        seen = truth * (1 + 0.03 * generator.normal(size=7))
        draws = seen + 0.03 * truth * generator.normal(size=(200, 7))
        found = fit_scaling(SIZES, seen, draws)
        holds += found.exponent.low <= 0.6 <= found.exponent.high
        _, low, high = found.at(SIZES)
        within += ((low <= truth) & (truth <= high)).mean()
    assert holds >= 53
    assert within >= 53


def test_no_floor_is_below_nothing():
    found = fit_scaling(SIZES, 8 * SIZES**-0.3 - 0.1)
    assert found.floor.value == 0


def test_a_curve_is_not_told_where_there_is_none():
    assert "too few" in fit_scaling([1, 10, 100, 1_000], [4, 3, 2, 1]).problem
    assert "too few" in fit_scaling([1, 1, 10, 10, 100], [4, 4, 3, 3, 2]).problem  # sizes, not points
    assert "do not fall" in fit_scaling(SIZES, SIZES**0.3).problem
    assert "do not fall" in fit_scaling(SIZES, [1, 2, 1, 2, 1, 2, 1.5]).problem
