"""Models of a stated size: quadratic formulas and exhaustive search are the oracles."""

import doctest
import math

import pytest

from research.config import config, structure
from research.data import Digits
from research.errors import UserError
from research.inspection import matching
from research.inspection.matching import Budget, forward_cost, match, match_config, parameter_count
from research.models import BERT, GPT, MLP, ConvNet, SmallResNet
from research.spec import Spec
from research.training import Experiment
from research.training.matching import match as match_experiment

DIGITS = Spec((28, 28, 1), 10, ())
BYTES = Spec((16,), 256, (), 256)


def nearest_root(a, b, c, amount):
    """The whole number at which a w^2 + b w + c comes nearest to an amount."""
    root = (-b + math.sqrt(b * b + 4 * a * (amount - c))) / (2 * a) if a else (amount - c) / b
    return min((math.floor(root), math.ceil(root)), key=lambda w: abs(a * w * w + b * w + c - amount))


@pytest.mark.parametrize("depth", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("amount", [30_000, 100_000, 1_234_567, 10**9])
def test_the_width_of_an_mlp_is_that_of_the_quadratic_formula(depth, amount):
    # (n + 1) w + (d - 1)(w + 1) w + (w + 1) c
    expected = nearest_root(depth - 1, 785 + depth - 1 + 10, 10, amount)
    assert match(MLP(depth=depth), DIGITS, parameters=amount).width == expected


@pytest.mark.parametrize("start", [1, 75, 20_000])
def test_where_the_search_begins_does_not_matter(start):
    assert match(MLP(depth=8, width=start), DIGITS, parameters=100_000) == match(
        MLP(depth=8), DIGITS, parameters=100_000
    )


@pytest.mark.parametrize("depth", [1, 4])
def test_a_budget_of_multiply_adds_is_solved_for_too(depth):
    expected = nearest_root(depth - 1, 784 + 10, 0, 2_000_000)
    assert match(MLP(depth=depth), DIGITS, multiply_adds=2e6).width == expected


def test_a_budget_of_flops_is_met_by_the_nearest():
    found = match(MLP(depth=3), DIGITS, flops=2e6)
    off = {
        w: abs(forward_cost(MLP(depth=3, width=w), DIGITS).flops - 2e6) for w in range(found.width - 3, found.width + 4)
    }
    assert min(off, key=off.get) == found.width


@pytest.mark.parametrize("heads", [1, 7, 12])
def test_heads_divide_the_width_that_is_found(heads):
    def count(w, depth=3):  # tokens, positions, blocks, last norm
        return 256 * w + 16 * w + depth * (12 * w * w + 13 * w) + 2 * w

    model = GPT(depth=3, width=heads, heads=heads, context=16)
    assert parameter_count(model, BYTES) == count(heads)
    found = match(model, BYTES, parameters=500_000, within=0.5)
    assert found.width == min(range(heads, 3000, heads), key=lambda w: abs(count(w) - 500_000))
    assert found == GPT(depth=3, width=found.width, heads=heads, context=16)


def test_it_may_be_the_depth_of_which_only_some_are_accepted():
    counts = {d: parameter_count(SmallResNet(depth=d), Spec((32, 32, 3), 10, ())) for d in (8, 14, 20, 26, 32, 38, 44)}
    found = match(SmallResNet(depth=8), Spec((32, 32, 3), 10, ()), parameters=400_000, field="depth", within=0.2)
    assert found.depth == min(counts, key=lambda d: abs(counts[d] - 400_000))


def test_a_tuple_keeps_its_proportions():
    found = match(ConvNet(features=(16, 32, 64)), DIGITS, parameters=50_000, field="features")
    first = found.features[0]
    assert found.features == (first, 2 * first, 4 * first)
    counts = {
        w: abs(parameter_count(ConvNet(features=(w, 2 * w, 4 * w)), DIGITS) - 50_000)
        for w in range(first - 2, first + 3)
    }
    assert min(counts, key=counts.get) == first
    one = match(ConvNet(features=(16, 32)), DIGITS, parameters=50_000, field="features.1")
    assert one.features[0] == 16
    assert abs(parameter_count(one, DIGITS) - 50_000) < 2_500


@config
class Toy:
    """Anything with a whole number."""

    size: int = structure(5, within="[1, 100]")


def toy(count, amount, within=1.0, start=5):
    return match_config(Toy(size=start), count, Budget("things", amount), field="size", within=within).size


def test_of_two_as_near_it_is_the_smaller():
    assert toy(lambda toy: 10 * toy.size, 35) == 3
    assert toy(lambda toy: 10 * toy.size, 36) == 4
    assert toy(lambda toy: 10 * toy.size, 40) == 4


@pytest.mark.parametrize("start", [1, 50, 100])
def test_any_growing_count_is_solved_with_few_looks(start):
    for power in (0.5, 1, 2, 5):
        for amount in (1.3, 17.2, 99.1):
            looks = []

            def count(toy, power=power, looks=looks):
                looks.append(toy.size)
                return toy.size**power

            assert toy(count, amount**power, start=start) == min(
                range(1, 101), key=lambda n: abs(n**power - amount**power)
            )
            assert len(looks) == len(set(looks)) <= 14


def test_a_count_with_steps_is_solved():
    assert toy(lambda toy: toy.size // 10, 7) in range(70, 80)


@config
class Tens:
    """A whole number that must be a multiple of ten."""

    size: int = structure(10)

    def problems(self):
        if self.size % 10 or self.size < 1:
            yield "size", "is no multiple of ten"


@pytest.mark.parametrize("start", [10, 40, 500])
def test_between_values_that_are_refused_it_is_the_nearest_accepted(start):
    for amount, nearest in ((1, 10), (14, 10), (15, 10), (16, 20), (36, 40), (44, 40), (99, 100)):
        wanted = Budget("things", amount)
        assert match_config(Tens(size=start), lambda it: it.size, wanted, field="size", within=10).size == nearest


def test_too_large_to_be_counted_is_too_large():
    def count(toy):
        if toy.size > 12:
            raise UserError("no room")
        return toy.size

    assert toy(count, 50) == 12
    with pytest.raises(UserError, match="no room"):
        toy(count, 50, start=20)


def problem(function, *arguments, **keywords):
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    (told,) = caught.value.problems
    return told


def test_out_of_reach_it_says_how_near_it_came():
    assert problem(match, MLP(), DIGITS, parameters=10) == (
        "width: no value gives 10 parameters to within 10 %; the nearest, 1, gives 807"
    )
    assert problem(toy, lambda toy: toy.size, 150, 0.1) == (
        "size: no value gives 150 things to within 10 %; the nearest, 100, gives 100"
    )
    told = problem(match, BERT(depth=1, heads=64, context=16), BYTES, parameters=120_000, within=0.01)
    assert told.startswith("width: no value gives 120,000 parameters to within 1 %; the nearest, 64, gives ")


def test_mistakes_are_told():
    assert problem(match, MLP(), DIGITS).endswith("and 0 are given")
    assert problem(match, MLP(), DIGITS, parameters=1e5, flops=1e5).endswith("and 2 are given")
    assert problem(match, MLP(), DIGITS, parameters=0) == "match: 0 parameters are too few"
    assert "did you mean 'width'?" in problem(match, MLP(), DIGITS, parameters=1e5, field="widht")
    assert problem(match, MLP(), DIGITS, parameters=1e5, field="activation") == (
        "activation: 'relu' is no whole number that can be solved for"
    )
    assert "fall as it grows" in problem(toy, lambda toy: 1000 // toy.size, 300)
    wrong = GPT(depth=3, width=8, heads=2, context=16, expansion=0)
    assert "expansion: 0 is not in [1, inf)" in problem(match, wrong, BYTES, parameters=1e5)


def test_an_experiment_is_matched_on_its_own_data():
    experiment = Experiment(data=Digits(), model=MLP(depth=4))
    found = match_experiment(experiment, parameters=50_000)
    assert found.model.width == nearest_root(3, 65 + 3 + 10, 10, 50_000)
    assert found == Experiment(data=Digits(), model=MLP(depth=4, width=found.model.width))
    shapeless = Spec((100,), 10, ())
    assert match_experiment(experiment, parameters=50_000, spec=shapeless).model.width < found.model.width
    assert "did you mean 'width'?" in problem(match_experiment, experiment, parameters=1e5, field="model.widht")


def test_the_example_of_the_docstring_is_true():
    assert doctest.testmod(matching).failed == 0
