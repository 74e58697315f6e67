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
from research.models import GPT, MLP, ConvNet, ResNet, ViT, norms


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


X = shape(2, 4)


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


def chain(w, x):
    return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, w)[0]


@pytest.mark.parametrize(
    "apply",
    [
        lambda w, x: chain(w[4:], chain(w[:4], x)),
        lambda w, x: jax.lax.scan(lambda x, w: (chain(w, x), None), x, w.reshape(2, 3, 4, 4))[0],
        lambda w, x: chain(jnp.concatenate([w, w]), x),
        lambda w, x: chain(w[:2], x) @ w[5],
    ],
)
@pytest.mark.parametrize("stacks", [None, {"blocks": 6}])
def test_no_slice_of_a_stack_is_lost_however_it_is_cut(apply, stacks):
    inspection = inspect(lambda p, x: apply(p["blocks"]["w"], x), {"blocks": {"w": shape(6, 4, 4)}}, X, stacks=stacks)
    assert inspection.parameters == 96
    assert sum(layer.kind != "unused" for layer in inspection.layers if layer.parameters) == (6 if stacks else 1)


def test_blocks_stacked_along_another_axis_are_counted_whole():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.scan(Block, variable_axes={"params": 1}, split_rngs={"params": True}, length=3)
            return dense(name="blocks")(x)[0]

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            return nn.Dense(4, name="dense")(x), None

    assert inspect_module(Net(), X).parameters == 3 * (4 * 4 + 4)


def test_a_module_may_change_its_state_and_draw_numbers():
    class Drops(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dropout(0.5, deterministic=not train)(Net()(x, train))

    inspection = inspect_module(Drops(), shape(2, 5, 5, 1), train=True)
    assert inspection.parameters == inspect_module(Net(), shape(2, 5, 5, 1), train=False).parameters


def test_boxes_around_parameters_are_no_layers():
    initializer = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
    boxed = nn.Sequential([nn.Dense(4, kernel_init=initializer)])
    assert [layer.path for layer in inspect_module(boxed, X).layers if layer.parameters] == ["layers_0"]


def test_integers_among_the_parameters_are_not_trained():
    parameters = {"w": shape(4, 4), "i": shape(4, dtype=jnp.int32), "key": jax.random.key(0)}
    inspection = inspect(lambda p, x: x @ p["w"] + p["i"], parameters, X)
    assert (inspection.parameters, inspection.trainable, inspection.memory.gradients) == (21, 16, 64)


@pytest.mark.filterwarnings("error")
def test_outputs_may_be_complex():
    assert inspect(lambda p, x: x @ p, shape(4, 4, dtype=jnp.complex64), X).backward.multiply_adds == 32


def test_without_a_number_that_has_a_gradient_there_is_no_backward_pass_and_it_is_said():
    inspection = inspect(lambda p, x: jnp.argmax(x @ p, -1), shape(4, 4), X)
    assert (inspection.forward.multiply_adds, inspection.backward.flops) == (32, 0)
    assert any("no backward pass" in note for note in inspection.notes)


def test_what_cannot_be_differentiated_has_its_forward_pass_counted_and_it_is_said():
    endless = lambda w, x: jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ w, x)  # noqa: E731
    inspection = inspect(endless, shape(4, 4), X)
    assert (inspection.forward.multiply_adds, inspection.backward.flops) == (32, 0)
    assert any("no gradient" in note for note in inspection.notes)
    with pytest.raises(UserError, match="Reverse-mode"):
        inspect(endless, shape(4, 4), X, loss=lambda w, x: endless(w, x).sum())


def test_what_differentiation_moves_out_of_a_loop_is_said():
    def loop(w, x):
        return jax.lax.scan(lambda x, _: (x @ (w["f"] @ w["f"]) * w["g"], None), x, None, length=5)[0]

    inspection = inspect(loop, {"f": shape(4, 4), "g": shape()}, X, frozen=["f"])
    assert inspection.layer("f").backward.multiply_adds < 0
    assert any("loop" in note for note in inspection.notes)


def test_parameters_of_the_same_path_are_told():
    with pytest.raises(UserError, match="2 parameters are called 'a/b'"):
        inspect(lambda p, x: x @ p["a/b"] @ p["a"]["b"], {"a/b": shape(4, 4), "a": {"b": shape(4, 4)}}, X)


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


def test_layers_that_are_frozen_in_part_or_whole_say_so():
    apply = lambda p, x: jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"]) @ p["b"]["kernel"] @ p["c"]["kernel"]  # noqa: E731
    parameters = {
        "a": {"kernel": shape(4, 3), "bias": shape(3)},
        "b": {"kernel": shape(3, 3)},
        "c": {"kernel": shape(3, 2)},
    }
    lines = as_text(inspect(apply, parameters, X, frozen=("a/kernel", "b/kernel"))).splitlines()
    told = {
        line.split()[0]: line for line in lines if line.split()[:2] in (["a", "dense"], ["b", "dense"], ["c", "head"])
    }
    assert [" in part " in told["a"], " frozen " in told["b"]] == [True, True]
    assert not any(word in told["c"] for word in ("frozen", "in part"))


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


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_of_positions_are_told_with_what_they_read(look, kind, scan):
    told = look(ViT(depth=2, width=6, heads=2, patch=4, norm=kind, scan=scan), (8, 8, 1))
    shapes = {row.path: (row.input, row.output) for row in told.layers if row.kind == "norm"}
    assert len(shapes) == 5
    assert set(shapes.values()) == {((5, 6), (5, 6))}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda train: nn.BatchNorm(not train),
        lambda train: norms.BatchNorm(not train),
        lambda _: nn.GroupNorm(3),
        lambda _: norms.GroupNorm(3),
    ],
    ids=["flax's batch", "batch", "flax's group", "group"],
)
def test_norms_over_positions_are_told_with_what_they_read(make, train):
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, images):
            for features in (6, 12, 60):
                images = make(train)(nn.Conv(features, (3, 3), strides=2)(images))
            return images

    told = inspect_module(Normed(), shape(4, 16, 16, 1))
    shapes = [(row.input, row.output) for row in told.layers if row.kind == "norm"]
    assert shapes == [((size, size, features),) * 2 for size, features in ((8, 6), (4, 12), (2, 60))]
