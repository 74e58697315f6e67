"""The multilayer perceptron: paths, counts, and the network written out in NumPy."""

import dataclasses
from typing import get_args

import jax
import numpy as np
import pytest

from research.config import validate
from research.models import MLP, network
from research.models.layers import Activation
from research.parameters import flatten, total
from research.spec import Spec

SPEC = Spec((4, 4, 1), 3, ("a", "b", "c"))
INPUTS = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)


def shapes(model):
    return flatten(jax.eval_shape(network(model, SPEC).init, jax.random.key(0))["params"])


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("norm", [None, "batch", "layer", "group"])
def test_the_number_of_parameters_is_the_closed_formula(depth, width, norm):
    n, c = 16, 3
    expected = (n + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * c
    expected += {None: 0, "batch": width, "layer": 2 * width, "group": 2 * width}[norm] * depth
    assert total(shapes(MLP(depth=depth, width=width, norm=norm))).parameters == expected


def test_paths_name_blocks_and_head():
    assert "block_10/dense/kernel" in shapes(MLP(depth=11, width=4))
    assert set(shapes(MLP(depth=1, width=4, norm="batch"))) == {
        "block_00/dense/kernel",
        "block_00/norm/bias",
        "block_00/norm/scale",
        "head/bias",
        "head/kernel",
    }


@pytest.mark.parametrize("residual", [False, True])
def test_outputs_are_those_of_the_formula(residual):
    net = network(MLP(depth=3, width=8, residual=residual), SPEC)
    variables = jax.tree.map(lambda p: p + 0.1, net.init(jax.random.key(0)))  # biases too
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(variables["params"]).items()}
    x = INPUTS.reshape(5, -1)
    for block in range(3):
        y = np.maximum(0, x @ p[f"block_{block:02d}/dense/kernel"] + p[f"block_{block:02d}/dense/bias"])
        x = x + y if residual and block > 0 else y
    expected = x @ p["head/kernel"] + p["head/bias"]
    np.testing.assert_allclose(net.apply(variables, INPUTS, train=True)[0], expected, rtol=1e-5, atol=1e-5)


def test_depth_zero_is_a_linear_model():
    assert set(shapes(MLP(depth=0))) == {"head/kernel", "head/bias"}
    assert shapes(MLP(depth=0))["head/kernel"].shape == (16, 3)


def test_remat_changes_neither_values_nor_gradients():
    model, key = MLP(depth=2, width=8, dropout=0.3, norm="layer", residual=True), jax.random.key(1)
    variables = network(model, SPEC).init(jax.random.key(0))
    results = []
    for remat in (False, True):
        net = network(dataclasses.replace(model, remat=remat), SPEC)
        jax.tree.map(np.testing.assert_array_equal, net.init(jax.random.key(0)), variables)
        loss = lambda v: (net.apply(v, INPUTS, train=True, key=key)[0] ** 2).sum()  # noqa: B023, E731
        results.append(jax.jit(jax.value_and_grad(loss))(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_the_signal_neither_dies_nor_explodes_with_depth(activation):
    net = network(MLP(depth=12, width=128, activation=activation), SPEC)
    outputs, changed = net.apply(net.init(jax.random.key(0)), INPUTS, train=False, features=("block_11",))
    assert 0.02 < float((changed["features"]["block_11"] ** 2).mean()) < 20
    assert outputs.shape == (5, 3)


def test_fields_out_of_range_are_refused():
    for wrong in ({"width": 0}, {"depth": -1}, {"dropout": 1.0}, {"norm": "bach"}, {"activation": "rellu"}):
        with pytest.raises(Exception, match=next(iter(wrong))):
            validate(MLP(**wrong))
