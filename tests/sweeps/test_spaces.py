import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from research.config import ConfigError, from_json, override, to_json
from research.errors import UserError
from research.sweeps import (
    Space,
    chain,
    choice,
    derived,
    grid,
    integers,
    log_uniform,
    matched,
    prefix,
    product,
    repeat,
    sobol,
    subsample,
    uniform,
    where,
    zipped,
)
from research.training import SGD, AdamW, epochs

names = st.sampled_from(["a", "b.c", "d", "e.f.g"])


@st.composite
def grids(draw):
    return grid(draw(names), *range(draw(st.integers(1, 4))))


@st.composite
def distributions(draw, path, **options):
    """A random space over a field, of any kind."""
    low, width = draw(st.floats(0.01, 10)), draw(st.floats(0.0, 10))
    return draw(
        st.sampled_from(
            [
                uniform(path, -low, -low + width, **options),
                log_uniform(path, low, low + width, **options),
                integers(path, -3, 3 + int(width), **options),
                choice(path, "x", None, (1, 2), **options),
            ]
        )
    )


def even(assignment):
    return assignment["a"] % 2 == 0


def double(experiment):
    return 2 * experiment.batch_size


# ---------------------------------------------------------------------------------------------------------------------
# What a space holds


def test_a_grid_has_its_values_in_their_order():
    assert list(grid("model.depth", 4, 1, 2)) == [{"model.depth": 4}, {"model.depth": 1}, {"model.depth": 2}]


def test_a_repeat_counts_from_zero():
    assert list(repeat("seed", 3)) == list(grid("seed", 0, 1, 2))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_product_has_every_combination_once_and_the_last_changes_fastest(sizes):
    space = product(*(grid(f"f{i}", *range(size)) for i, size in enumerate(sizes)))
    assert len(space) == math.prod(sizes)
    expected = [tuple(map(int, index)) for index in np.ndindex(*sizes)]
    assert [tuple(assignment.values()) for assignment in space] == expected


@given(st.lists(grids(), min_size=1, max_size=4))
def test_a_chain_is_its_spaces_one_after_another(spaces):
    assert list(chain(*spaces)) == [assignment for space in spaces for assignment in space]
    assert len(chain(*spaces)) == sum(map(len, spaces))


@given(st.integers(1, 5), st.integers(1, 4))
def test_a_zip_goes_side_by_side(length, width):
    space = zipped(*(grid(f"f{i}", *(10 * i + j for j in range(length))) for i in range(width)))
    assert list(space) == [{f"f{i}": 10 * i + j for i in range(width)} for j in range(length)]


@given(st.data())
def test_a_prefix_goes_before_every_path(data):
    inner = product(data.draw(distributions("a", trials=3)), grid("c", 1, 2))
    assert [set(assignment) for assignment in prefix("p.q", inner)] == [{"p.q.a", "p.q.c"}] * 6
    assert [assignment["p.q.c"] for assignment in prefix("p.q", inner)] == [1, 2] * 3
    assert list(prefix("p", prefix("q", inner))) == list(prefix("p.q", inner))


def test_a_prefixed_space_is_the_space_of_whole_paths():
    assert list(prefix("m", uniform("x", 0, 1, trials=4))) == list(uniform("m.x", 0, 1, trials=4))
    assert list(prefix("m", prefix("n", grid("x", 1)))) == [{"m.n.x": 1}]


def test_a_constraint_sees_the_paths_that_it_was_written_for():
    inside = prefix("m", where(grid("a", 1, 2, 3, 4), even))
    assert list(inside) == [{"m.a": 2}, {"m.a": 4}]
    assert len(inside) == 2


@given(st.integers(1, 30), st.data())
def test_a_subsample_is_of_the_space_without_repeats_and_grows_at_its_end(size, data):
    space = grid("a", *range(size))
    count = data.draw(st.integers(1, size))
    seed = data.draw(st.integers(0, 5))
    drawn = [assignment["a"] for assignment in subsample(space, count, seed)]
    assert len(drawn) == len(set(drawn)) == count
    assert set(drawn) <= set(range(size))
    whole = [assignment["a"] for assignment in subsample(space, size, seed)]
    assert whole[:count] == drawn
    assert sorted(whole) == list(range(size))


def test_a_subsample_of_a_huge_space_does_not_make_it():
    space = product(*(grid(f"f{i}", *range(1000)) for i in range(5)))
    assert len(space) == 10**15
    assert len({tuple(assignment.values()) for assignment in subsample(space, 50)}) == 50


def test_subsamples_draw_each_as_often():
    counts = np.zeros(6)
    for seed in range(600):
        for assignment in subsample(grid("a", *range(6)), 2, seed):
            counts[assignment["a"]] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_points_can_be_asked_for_one_by_one_and_from_behind():
    points = product(grid("a", 1, 2), grid("b", 3, 4)).points()
    assert points[1] == {"a": 1, "b": 4}
    assert points[-1] == {"a": 2, "b": 4}
    assert points[1:3] == [{"a": 1, "b": 4}, {"a": 2, "b": 3}]
    with pytest.raises(IndexError):
        points[4]


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn


@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
def test_more_trials_keep_the_earlier_ones(data, few, more, seed):
    short = data.draw(distributions("a", trials=few, seed=seed))
    long = override(short, "trials", few + more)
    assert list(short) == list(long)[:few] == list(short)
    assert len(long) == few + more


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_more_points_of_a_sobol_sequence_keep_the_earlier_ones(few, more, seed):
    def space(trials):
        return list(sobol(uniform("a", 0, 1), integers("b", 1, 9), trials=trials, seed=seed))

    assert space(few) == space(few + more)[:few]


def test_fields_with_the_same_seed_are_drawn_apart():
    space = zipped(uniform("a", 0, 1, trials=200), uniform("b", 0, 1, trials=200))
    a, b = np.array([list(assignment.values()) for assignment in space]).T
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2
    assert list(uniform("a", 0, 1, trials=3, seed=1)) != list(uniform("a", 0, 1, trials=3))


def test_draws_follow_their_distributions():
    def values(space):
        return np.array([value for assignment in space for value in assignment.values()])

    assert stats.kstest(values(uniform("a", -2, 3, trials=500)), stats.uniform(-2, 5).cdf).pvalue > 1e-3
    assert (
        stats.kstest(values(log_uniform("a", 1e-4, 1e-1, trials=500)), stats.loguniform(1e-4, 1e-1).cdf).pvalue > 1e-3
    )
    counts = np.unique(values(integers("a", 3, 6, trials=500)), return_counts=True)
    assert counts[0].tolist() == [3, 4, 5, 6]
    assert stats.chisquare(counts[1]).pvalue > 1e-3
    assert stats.chisquare(np.unique(values(choice("a", 1, 2, 5, trials=300)), return_counts=True)[1]).pvalue > 1e-3


@given(st.floats(1e-6, 1e3), st.floats(1.0, 1e6), st.integers(0, 100))
def test_draws_stay_in_their_interval(low, factor, seed):
    for space in (log_uniform("a", low, low * factor, trials=5, seed=seed), uniform("a", low, low * factor, trials=5)):
        assert all(low <= assignment["a"] <= low * factor for assignment in space)


def test_a_sobol_sequence_fills_every_cell_evenly():
    points = [tuple(p.values()) for p in sobol(uniform("a", 0, 1), uniform("b", 0, 1), trials=64, seed=3)]
    cells = np.histogram2d(*np.array(points).T, bins=8, range=[[0, 1], [0, 1]])[0]
    assert (cells == 1).all()  # a (0, 6, 2)-net in base 2: one point in each elementary interval
    assert list(sobol(uniform("a", 0, 1), trials=4, seed=0)) != list(sobol(uniform("a", 0, 1), trials=4, seed=1))


# ---------------------------------------------------------------------------------------------------------------------
# As configs


def an_example_of_each() -> list[Space]:
    return [
        grid("optimizer", AdamW(weight_decay=None), SGD(), "lion"),
        grid("model.features", (8, 16), (32,)),
        grid("schedule.warmup", None, epochs(2)),
        repeat("seed", 3),
        uniform("a", 0, 1, trials=2),
        log_uniform("a", 1e-3, 1, trials=2, seed=4),
        integers("a", 1, 5, trials=3),
        choice("a", True, None, 1.5, "x", trials=2),
        sobol(uniform("a", 0, 1), choice("b", 1, 2), trials=4),
        product(grid("a", 1), chain(grid("b", 1), prefix("c", zipped(grid("d", 1), grid("e", 2))))),
        where(subsample(grid("a", 1, 2, 3, 4), 3), even),
        derived("model.width", double),
        matched("model.width", parameters=1000),
    ]


@pytest.mark.parametrize("space", an_example_of_each(), ids=lambda space: type(space).__name__)
def test_every_space_comes_back_from_json(space):
    back = from_json(json.loads(json.dumps(to_json(space))), Space)
    assert back == space
    assert list(back) == list(space)
    assert list(back.lines()) == list(space.lines())


def test_a_function_without_a_name_cannot_be_kept_but_used():
    space = where(grid("a", 1, 2), lambda assignment: assignment["a"] > 1)
    assert list(space) == [{"a": 2}]
    with pytest.raises(ConfigError, match="constraint: <function .* cannot be written to JSON; use a named function"):
        to_json(space)


def test_lists_and_numbers_of_numpy_become_plain_values():
    assert grid("a", [1, [2]], np.float64(0.5), np.int64(3)).values == ((1, (2,)), 0.5, 3)
    assert [type(value) for value in grid("a", *np.logspace(-3, -1, 3)).values] == [float] * 3


def test_a_space_is_told_in_a_few_lines():
    space = product(grid("a", *range(20)), prefix("m", log_uniform("lr", 1e-4, 0.1, trials=8)), repeat("seed", 5))
    assert list(space.lines()) == [
        (0, "", "every combination of"),
        (1, "a", "0, 1, 2, 3, 4, 5, 6, ..., 19"),
        (1, "m.lr", "8 drawn between 0.0001 and 0.1, log-uniformly"),
        (1, "seed", "0 to 4"),
    ]


def test_configs_of_one_kind_are_told_apart_by_the_fields_in_which_they_differ():
    (line,) = grid("optimizer", AdamW(), AdamW(weight_decay=None), SGD()).lines()
    assert line == (0, "optimizer", "AdamW(weight_decay 0.01), AdamW(weight_decay none), SGD")


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be


def test_what_cannot_be_is_told_where_it_is_written():
    a = grid("a", 1, 2)
    mistakes = {
        "there is none to try for a": lambda: grid("a"),
        "there is none to choose from for a": lambda: choice("a", trials=2),
        "times: 0 is not in": lambda: repeat("a", 0),
        "trials: 0 is not in": lambda: uniform("a", 0, 1, trials=0),
        "high: 0 is not above 1, the least": lambda: uniform("a", 1, 0, trials=2),
        "low: 0.0 is not in": lambda: log_uniform("a", 0, 1, trials=2),
        "low: 0.5 is no whole number": lambda: integers("a", 0.5, 1, trials=2),
        "is no interval": lambda: uniform("a", math.nan, 1, trials=2),
        "spaces: there is none": product,
        "spaces: a is in 2 of them": lambda: product(a, grid("b", 1), a),
        "spaces: m.a is in 2 of them": lambda: zipped(prefix("m", a), grid("m.a", 1, 2)),
        "as many values each: a 2, b and c 3": lambda: zipped(a, zipped(grid("b", 1, 2, 3), grid("c", 1, 2, 3))),
        "count: 3 cannot be drawn of 2": lambda: subsample(a, 3),
        "none admits none of the 2 assignments": lambda: where(a, none),
        "the space assigns nothing to 'aa'; did you mean 'a'": lambda: where(a, lambda assignment: assignment["aa"]),
        "fails: ZeroDivisionError": lambda: where(a, lambda assignment: 1 / 0),
        "computed from the trial's experiment": lambda: where(derived("a", double), even),
        "their own trials have no meaning": lambda: sobol(uniform("a", 0, 1, trials=3), trials=4),
        "distributions: a is in 2 of them": lambda: sobol(uniform("a", 0, 1), uniform("a", 0, 2), trials=4),
        "a: say how many values are to be drawn": lambda: len(uniform("a", 0, 1)),
        "one of parameters, multiply_adds and flops": lambda: matched("a"),
        "distributions.0: Grid": lambda: sobol(a, trials=4),
    }
    for message, make in mistakes.items():
        with pytest.raises(UserError) as raised:
            make()
        assert message in str(raised.value), (message, str(raised.value))


def none(assignment):
    return False
