"""What can be seen of a network at work, and changed in it: calls of layers, attention's weights, edited outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models import MLP, ConvNet, ViT
from research.models.base import calls, network
from research.spec import Spec

SPEC = Spec((4, 4, 1), 3, ("a", "b", "c"))
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 1)), jnp.float32)


def started(model):
    net = network(model, SPEC)
    return net, net.init(jax.random.key(0))


def test_calls_come_in_the_order_of_the_computation():
    found = calls(ConvNet(features=(5,), convolutions=2, hidden=(6,)), SPEC)
    assert [call.path for call in found] == [
        "stage_0/convolution_0",
        "stage_0/convolution_1",
        "stage_0",
        "dense_0",
        "head",
    ]
    first, last = found[0], found[-1]
    assert (first.kind, first.inputs, first.outputs) == ("Convolution", (1, 4, 4, 1), (1, 4, 4, 5))
    assert (last.kind, last.inputs, last.outputs) == ("Dense", (1, 6), (1, 3))


def test_an_edit_stands_in_the_place_of_what_a_layer_gives():
    net, variables = started(MLP(depth=2, width=8))
    plain, _ = net.apply(variables, INPUTS, train=False)
    same, _ = net.apply(variables, INPUTS, train=False, edits={"head": lambda inputs, outputs: outputs})
    np.testing.assert_array_equal(same, plain)
    twice, changed = net.apply(
        variables, INPUTS, train=False, features=("head",), edits={"head": lambda inputs, outputs: 2 * outputs}
    )
    np.testing.assert_allclose(twice, 2 * plain)
    np.testing.assert_array_equal(changed["features"]["head"], twice)


def test_an_edit_can_take_a_residual_block_out():
    net, variables = started(ViT(depth=2, width=8, heads=2, patch=2))
    _, found = net.apply(
        variables,
        INPUTS,
        train=False,
        features=("block_00", "block_01"),
        edits={"block_01": lambda inputs, outputs: inputs},
    )
    np.testing.assert_array_equal(found["features"]["block_00"], found["features"]["block_01"])


@pytest.mark.parametrize("scan", [False, True])
def test_the_weights_of_attention_can_be_asked_for(scan):
    net, variables = started(ViT(depth=3, width=8, heads=2, patch=2, scan=scan))
    outputs, changed = net.apply(variables, INPUTS, train=False, features=("block_02/attention/weights",))
    weights = changed["features"]["block_02/attention/weights"]
    tokens = weights.shape[-1]
    assert weights.shape == (2, 2, tokens, tokens) and tokens >= 4
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(outputs, net.apply(variables, INPUTS, train=False)[0], rtol=1e-5, atol=1e-6)


def test_what_is_neither_a_layer_nor_sown_is_refused_with_the_nearest_name():
    net, variables = started(ViT(depth=1, width=8, heads=2, patch=2))
    with pytest.raises(UserError, match="no layer 'block_00/attention/weight'"):
        net.apply(variables, INPUTS, train=False, features=("block_00/attention/weight",))
