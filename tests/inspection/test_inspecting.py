"""Any function of parameters and inputs can be inspected, and what cannot says why."""

import csv
import dataclasses
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.inspection import inspect, inspect_module
from research.inspection.tables import as_csv, as_html, as_json, as_text, by_depth, by_kind, folds
from research.models import GPT, MLP, ConvNet, ResNet


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_a_pure_function_takes_one_call_on_arrays_or_shapes():
    apply = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"])  # noqa: E731
    on_arrays = inspect(apply, {"w": np.ones((3, 5), np.float32), "b": np.zeros(5, np.float32)}, jnp.ones((2, 3)))
    on_shapes = inspect(apply, {"w": shape(3, 5), "b": shape(5)}, shape(2, 3))
    assert on_arrays == on_shapes
    assert (on_shapes.parameters, on_shapes.depth.longest) == (20, 1)


def test_parameters_may_be_any_tree():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Layer:
        w: jax.Array

    inspection = inspect(lambda p, x: x @ p[0].w @ p[1]["w"], [Layer(shape(3, 4)), {"w": shape(4, 2)}], shape(2, 3))
    assert [(layer.path, layer.parameters) for layer in inspection.layers if layer.parameters] == [("0", 12), ("1", 8)]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(6, (3, 3), name="convolution")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.relu(x).reshape(len(x), -1)
        return nn.Dense(4, use_bias=False, name="head")(x)


def test_a_module_of_the_users_takes_one_call():
    inspection = inspect_module(Net(), shape(2, 5, 5, 1), train=False)
    rows = {layer.path: layer for layer in inspection.layers if layer.parameters}
    assert {path: row.formula for path, row in rows.items()} == {
        "convolution": "3*3*1*6 + 6",
        "norm": "6 + 6",
        "head": "150*4",
    }
    assert (rows["convolution"].input, rows["convolution"].output) == ((5, 5, 1), (5, 5, 6))
    assert (rows["convolution"].weights, rows["convolution"].biases) == (54, 6)
    assert (rows["head"].input, rows["head"].output) == ((150,), (4,))
    assert rows["convolution"].field == (3, 3, 1)


@pytest.mark.parametrize("model", [MLP(depth=3, width=8), ConvNet(features=(4, 8)), ResNet(depth=18)])
def test_every_formula_gives_the_count(look, model):
    inspection = look(model, (32, 32, 1), classes=3, backward=False)
    for layer in inspection.layers:
        assert not layer.parameters or eval(layer.formula) == layer.parameters
    assert sum(layer.parameters for layer in inspection.layers) == inspection.parameters


def test_the_input_has_no_parameters(look):
    rows = look(MLP(depth=1, width=7), (3, 3, 1), classes=2).layers
    first = next(row for row in rows if row.parameters)
    assert (first.path, first.formula) == ("block_00/dense", "9*7 + 7")


def test_stacks_of_the_users_own_have_a_row_for_each_slice():
    def blocks(p, x):
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, p["blocks"]["w"])[0]

    inspection = inspect(blocks, {"blocks": {"w": shape(3, 4, 4)}}, shape(2, 4))
    rows = [(layer.path, layer.parameters, layer.depth) for layer in inspection.layers if layer.parameters]
    assert rows == [("blocks[0]", 16, 1), ("blocks[1]", 16, 2), ("blocks[2]", 16, 3)]
    assert {layer.forward.multiply_adds for layer in inspection.layers if layer.parameters} == {32}


@pytest.mark.parametrize(
    ("function", "inputs", "part"),
    [
        (lambda p, x: x @ p, shape(2, 5), "(2, 5)"),
        (lambda p, x: x @ p if x.sum() > 0 else x, shape(2, 3), "TracerBool"),
        (lambda p, x: np.asarray(x) @ p, shape(2, 3), "TracerArray"),
        (lambda p: p, shape(2, 3), "argument"),
    ],
)
def test_what_cannot_be_traced_is_told_in_one_line(function, inputs, part):
    with pytest.raises(UserError) as caught:
        inspect(function, shape(3, 3), inputs, name="mine")
    (line,) = caught.value.problems
    assert line.startswith("mine cannot be traced on inputs (2, ")
    assert part in line
    assert "\n" not in line


def test_a_module_that_does_not_fit_is_told_in_one_line():
    with pytest.raises(UserError, match=r"Net cannot be traced on inputs \(2, 5\)"):
        inspect_module(Net(), shape(2, 5), train=False)


def test_what_is_frozen_must_be_there():
    with pytest.raises(UserError, match=r"no parameter 'bb'.*b"):
        inspect(lambda p, x: x * p["b"], {"b": shape()}, shape(2), frozen=["bb"])


# ---------------------------------------------------------------------------------------------------------------------
# Tables


@pytest.fixture
def gpt(look):
    return look(GPT(depth=12, width=16, heads=2, context=8), (8,), classes=11, tokens=11, batch=2)


def test_equal_blocks_are_folded_and_unfolded(gpt):
    text = as_text(gpt, width=80)
    assert text.count("block_00..11 x12") == 1
    assert text.count("dense_0 ") == 1
    assert as_text(gpt, width=80, unfold=True).count("dense_0 ") == 12
    assert max(map(len, text.splitlines())) <= 80


def test_blocks_that_differ_are_not_folded(look):
    names = [fold.name for fold in folds(look(ResNet(depth=34), (32, 32, 3), backward=False).layers) if fold.name]
    assert names == [
        "stage_0/block_0..2",
        "stage_1/block_0",
        "stage_1/block_1..3",
        "stage_2/block_0",
        "stage_2/block_1..5",
        "stage_3/block_0",
        "stage_3/block_1..2",
    ]


def test_no_number_is_cut_short_however_narrow(look):
    inspection = look(ResNet(depth=18), (32, 32, 3), backward=False)
    for width in (60, 80, 100, 130, 160):
        lines = [line for line in as_text(inspection, width).splitlines() if "..." not in line]
        assert max(map(len, lines)) <= width
        assert "2,359,296" in "".join(lines)


def test_groups_add_up(gpt):
    for rows in (by_kind(gpt), by_depth(gpt)):
        assert sum(row["parameters"] for row in rows) == gpt.parameters
        assert sum(row["multiply_adds"] for row in rows) == gpt.forward.multiply_adds
        assert sum(row["backward_flops"] for row in rows) == gpt.backward.flops


def test_csv_and_json_hold_every_layer(gpt):
    rows = list(csv.DictReader(as_csv(gpt).splitlines()))
    assert sum(int(row["parameters"]) for row in rows) == gpt.parameters
    told = json.loads(json.dumps(as_json(gpt)))
    assert told["parameters"] == gpt.parameters
    assert told["depth"]["longest"] == 49
    assert [row["layer"] for row in told["layers"]] == [row["layer"] for row in rows]


def test_a_page_needs_nothing_else_and_escapes_names():
    page = as_html(inspect(lambda p, x: x @ p["<w>"], {"<w>": shape(3, 3)}, shape(1, 3), name="a<b"))
    assert "a&lt;b" in page and "&lt;w&gt;" in page
    assert not re.search(r"<w>|(src|href)=", page)


def test_units_are_said(gpt):
    text = as_text(gpt)
    assert "multiply-adds an example" in text
    assert "FLOP in all" in text
