"""Models and layers side by side: closed forms are the oracle for what is counted, a clock of our own for time."""

import math
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from research.commandline.loading import load_config
from research.comparisons import Comparison
from research.errors import UserError
from research.inspection import comparison, inspect, inspect_module
from research.inspection.comparison import Subject, Time, compare, times
from research.models import MLP, SmallResNet
from research.models.norms import norm

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "layer_parameters.py"

C, P = 64, 256  # features and positions
N = C * P
TABLE = {
    # name: parameters, multiply-adds of an example, depth, receptive field
    "3x3 convolution": (36_928, 9 * C * C * P, 1, (3, 3)),
    "separable 3x3": (4_800, 9 * C * P + C * C * P, 2, (3, 3)),
    "depthwise 3x3": (9 * C + C, 9 * C * P, 1, (3, 3)),
    "3x3 in 4 groups": (9 * C // 4 * C + C, 9 * C // 4 * C * P, 1, (3, 3)),
    "3x3 dilated by 2": (36_928, 9 * C * C * P, 1, (5, 5)),
    "3x3 transposed": (36_928, 9 * C * C * P, 1, (3, 3)),
    "5x5 convolution": (25 * C * C + C, 25 * C * C * P, 1, (5, 5)),
    "1x1 convolution": (C * C + C, C * C * P, 1, (1, 1)),
    "dense": (C * C + C, C * C * P, 1, (1, 1)),
    "dense, rank 8": (2 * 8 * C + C, 2 * 8 * C * P, 2, (1, 1)),
    "dense, all to all": (N * N + N, N * N, 1, (16, 16)),
    "all to all, rank 8": (2 * 8 * N + N, 2 * 8 * N, 2, (16, 16)),
    "attention, 4 heads": (4 * (C * C + C), 4 * C * C * P + 2 * P * P * C, 2, (P,)),
    "recurrent": (2 * C * C + C, 2 * C * C * P, P, (P,)),
    "GRU": (3 * (2 * C * C + C) + C, 6 * C * C * P, P, (P,)),
    "LSTM": (4 * (2 * C * C + C), 8 * C * C * P, P, (P,)),
    "embedding, 256": (256 * C, 0, 0, (1,)),
    "layer norm": (2 * C, 0, 0, (1, 1)),
    "batch norm": (2 * C, 0, 0, (1, 1)),
}


@pytest.fixture(scope="module")
def layers():
    config = load_config(str(EXPERIMENT), (Comparison,)).config
    return {one.name: one for one in compare(config.subjects, config.inputs)}


def test_the_experiment_leads_with_a_convolution_and_its_separable_form(layers):
    first, second = list(layers.values())[:2]
    assert (first.inspection.parameters, first.formula) == (36_928, "3*3*64*64 + 64")
    assert (second.inspection.parameters, second.formula) == (4_800, "3*3*1*64 + 64 + 1*1*64*64 + 64")


@pytest.mark.parametrize("name", TABLE)
def test_parameters_cost_depth_and_field_of_a_layer_follow_its_closed_form(layers, name):
    found, (parameters, products, depth, field) = layers[name].inspection, TABLE[name]
    assert (found.parameters, found.forward.multiply_adds, found.depth.longest) == (parameters, products, depth)
    assert found.field[: len(field)] == field
    assert found.memory.parameters == 4 * parameters


def test_every_layer_of_the_experiment_is_in_the_table(layers):
    assert list(layers) == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_formula_comes_to_the_number_of_parameters(layers, name):
    formula = layers[name].formula.replace("(", "*(")
    assert eval(formula) == TABLE[name][0]


def test_a_model_a_module_and_a_function_of_one_network_have_the_same_figures():
    def function(parameters, inputs):
        return inputs.reshape(len(inputs), -1) @ parameters["kernel"] + parameters["bias"]

    class Module(nn.Module):
        classes: int | None = None

        @nn.compact
        def __call__(self, inputs, train):
            return nn.Dense(self.classes, name="head")(inputs.reshape(len(inputs), -1))

    subjects = (
        Subject(layer=MLP(depth=0)),
        Subject(layer=Module(), classes=10),
        Subject(layer=function, parameters=(("kernel", (12, 10)), ("bias", (10,)))),
    )
    found = compare(subjects, (2, 2, 3), classes=10)
    assert [one.name for one in found] == ["MLP", "Module", "function"]
    figures = [one.figures() | {"name": ""} for one in found]
    assert figures[0] == figures[1] == figures[2]
    assert (figures[0]["parameters"], figures[0]["multiply_adds"], figures[0]["formula"]) == (130, 120, "12*10 + 10")


def test_figures_are_those_of_one_example_and_state_is_no_parameter():
    resnet, deeper = compare(
        [Subject(layer=SmallResNet(depth=20)), Subject(layer=SmallResNet(depth=32))], (32, 32, 3), classes=10
    )
    assert resnet.inspection.parameters == 269_722  # Table 6 of He et al. has 0.27 M, and 0.46 M
    assert deeper.inspection.parameters == 464_154
    assert resnet.inspection.batch == 1
    assert resnet.inspection.depth.longest == 20


def test_what_is_missing_or_does_not_fit_is_told_with_the_name_of_the_subject():
    def problem(subject, inputs=(8, 8, 3)):
        with pytest.raises(UserError) as caught:
            compare([subject], inputs)
        return caught.value.problems[0]

    assert problem(Subject(name="it", layer=nn.Dense(3)), ()).startswith("it: which shape has an example?")
    assert problem(Subject(layer=MLP())).startswith("MLP: how many classes")
    assert problem(Subject(name="it", layer=nn.Dense)) == "it: Dense is a class; give an instance, Dense(...)"
    assert "no model's config" in problem(Subject(name="it", layer=3))
    assert problem(Subject(name="it", layer=nn.Embed(4, 4))).startswith("it cannot be")
    wrong = Subject(name="it", layer=lambda p, x: x @ p["kernel"], parameters=(("kernel", (4, 4)),))
    assert problem(wrong).startswith("it cannot be traced on inputs (1, 8, 8, 3)")


# --- time


def test_calls_take_turns_and_the_first_of_each_is_not_counted(monkeypatch):
    order, clock = [], [0.0]
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: clock[0])

    def call(name, seconds):
        taken = iter(seconds)

        def run():
            order.append(name)
            clock[0] += next(taken)

        return run

    found = times([call("a", [100, 3, 1, 2, 5, 4]), call("b", [100, 7, 7, 7, 7, 7])], 5)
    assert order == ["a", "b"] * 6
    assert found == [Time(3, 2, 4), Time(7, 7, 7)]


def test_what_is_timed_is_run_on_a_batch_and_what_is_not_never():
    seen = []

    def spied(parameters, inputs):
        jax.debug.callback(lambda x: seen.append(x.shape), inputs)
        return inputs * 2

    huge = Subject(name="huge", layer=nn.Dense(1 << 30), timed=False)  # of 2^50 parameters
    found = compare([Subject(layer=spied), huge], (1 << 20,), batch=3, rounds=2)
    jax.effects_barrier()
    assert seen == [(3, 1 << 20)] * 3
    assert found[0].time.low <= found[0].time.median <= found[0].time.high
    assert found[1].time is None
    assert found[1].inspection.parameters == (1 << 50) + (1 << 30)


# --- what comparing layers brought to light


def test_a_long_recurrence_with_shortcuts_is_followed_in_no_time():
    def apply(weights, inputs):
        return jax.lax.scan(lambda state, _: (state + state @ weights, None), inputs, length=400)[0]

    began = time.monotonic()
    found = inspect(apply, jnp.zeros((4, 4)), jnp.zeros((1, 4)))
    assert time.monotonic() - began < 20
    assert found.depth.paths == {length: math.comb(400, length) for length in range(401)}


def test_a_gated_recurrence_of_a_thousand_steps_is_followed_in_no_time():
    began = time.monotonic()
    found = inspect_module(nn.RNN(nn.GRUCell(4)), jax.ShapeDtypeStruct((1, 1024, 4), jnp.float32))
    assert time.monotonic() - began < 30
    assert found.depth.longest == 1024


@pytest.mark.parametrize("layer", [nn.LayerNorm(), norm("layer", 8, False, "norm"), norm("rms", 8, False, "norm")])
def test_a_layer_norm_sees_no_other_position(layer):
    assert inspect_module(layer, jnp.zeros((2, 5, 6, 8))).field == (1, 1, 8)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_what_is_stacked_and_taken_apart_again_sees_what_it_did(axis):
    class Stacked(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            seen = nn.Conv(8, (3, 5), name="conv")(inputs)
            return sum(jnp.unstack(jnp.stack([seen, 2 * seen, inputs], axis), axis=axis))

    assert inspect_module(Stacked(), jnp.zeros((2, 5, 6, 8))).field == (3, 5, 8)


def test_a_group_norm_sees_all_positions():
    assert inspect_module(norm("group", 8, False, "norm"), jnp.zeros((2, 5, 6, 8))).field == (5, 6, 8)
    assert inspect_module(nn.GroupNorm(num_groups=2), jnp.zeros((2, 5, 6, 8))).field == (5, 6, 8)
