"""LeNet-5 as it is usually built and as published: counts layer by layer, and the table of connections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models import LeNet, LeNet1998, network
from research.models.lenet import CONNECTIONS, codes
from research.ops.convolution import convolve
from research.parameters import by_prefix, flatten, total
from research.spec import Spec


def spec(*shape):
    return Spec(shape, 10, tuple("0123456789"))


def shapes(model, *shape):
    return flatten(jax.eval_shape(network(model, spec(*shape)).init, jax.random.key(0))["params"])


@pytest.mark.parametrize("picture", [((28, 28, 1), "SAME"), ((32, 32, 1), "VALID")], ids=["28", "32"])
@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (LeNet, {"convolution_0": 156, "convolution_1": 2416, "dense_0": 48120, "dense_1": 10164, "head": 850}),
        (
            LeNet1998,
            {
                "convolution_0": 156,
                "pooling_0": 12,
                "convolution_1": 1516,
                "pooling_1": 32,
                "dense_0": 48120,
                "dense_1": 10164,
            },
        ),
    ],
)
def test_each_layer_has_the_published_number_of_parameters(model, layers, picture):
    shape, padding = picture
    found = shapes(model(padding=padding), *shape)
    assert {path: count.parameters for path, count in by_prefix(found).items()} == layers
    assert total(found).parameters == {LeNet: 61_706, LeNet1998: 60_000}[model]


def test_the_table_of_connections_is_the_papers():
    assert len(CONNECTIONS) == 16
    assert [len(sources) for sources in CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    assert len(set(CONNECTIONS)) == 16
    assert all(sum(i in sources for sources in CONNECTIONS) == 10 for i in range(6))  # each is seen equally often


def test_the_partial_convolution_sees_what_it_is_connected_to_and_nothing_else():
    net = network(LeNet1998(), spec(28, 28, 1))
    variables = net.init(jax.random.key(0))
    inputs = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)
    _, changed = net.apply(variables, inputs, train=False, features=("pooling_0", "convolution_1"))
    seen, given = changed["features"]["pooling_0"], changed["features"]["convolution_1"]
    kernel, bias = variables["params"]["convolution_1"]["kernel"], variables["params"]["convolution_1"]["bias"]
    start = 0
    for o, sources in enumerate(CONNECTIONS):
        part = kernel[:, :, start : start + len(sources), None]
        start += len(sources)
        expected = convolve(seen[..., np.array(sources)], part, padding="VALID")[..., 0] + bias[o]
        np.testing.assert_allclose(given[..., o], expected, rtol=1e-5, atol=1e-5)


def test_subsampling_is_a_sum_times_a_coefficient_plus_a_bias_squashed():
    net = network(LeNet1998(), spec(28, 28, 1))
    variables = net.init(jax.random.key(0))
    variables["params"]["pooling_0"] = {"coefficient": jnp.arange(6) / 6, "bias": jnp.arange(6) / 10}
    inputs = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype(np.float32)
    _, changed = net.apply(variables, inputs, train=False, features=("convolution_0", "pooling_0"))
    before, after = (np.asarray(x, np.float64) for x in changed["features"].values())
    before = 1.7159 * np.tanh(2 / 3 * before)
    sums = before.reshape(1, 14, 2, 14, 2, 6).sum((2, 4))
    expected = 1.7159 * np.tanh(2 / 3 * (sums * np.arange(6) / 6 + np.arange(6) / 10))
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


def test_the_logits_are_distances_to_fixed_codes():
    net = network(LeNet1998(), spec(28, 28, 1))
    variables = net.init(jax.random.key(0))
    logits, changed = net.apply(variables, jnp.ones((1, 28, 28, 1)), train=False, features=("dense_1",))
    features = 1.7159 * np.tanh(2 / 3 * np.asarray(changed["features"]["dense_1"], np.float64))
    expected = -((features.T - codes(10)) ** 2).sum(0, keepdims=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    np.testing.assert_array_equal(codes(10), codes(10))
    assert len(np.unique(codes(47), axis=1).T) == 47


@pytest.mark.parametrize("model", [LeNet(), LeNet1998(), LeNet(padding="VALID")], ids=str)
def test_what_is_too_small_or_no_picture_is_refused(model):
    least = 16 if model.padding == "VALID" else 12
    assert jax.eval_shape(network(model, spec(least, least, 1)).init, jax.random.key(0))
    for shape in ((least - 1, 28, 1), (64,), (28, 28, 28, 1)):
        with pytest.raises(UserError, match=rf"at least \({least}, {least}, features\); these have \({shape[0]},"):
            network(model, spec(*shape))
