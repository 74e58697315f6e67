"""Depthwise separable convolutions: MobileNet's count, and which feature sees which."""

import jax
import numpy as np
import pytest

from research.config import validate
from research.errors import UserError
from research.models import SeparableNet, network
from research.parameters import flatten, total
from research.spec import Spec


def spec(shape, classes):
    return Spec(shape, classes, ("",) * classes)


def shapes(model, shape, classes):
    return flatten(jax.eval_shape(network(model, spec(shape, classes)).init, jax.random.key(0))["params"])


@pytest.mark.parametrize(("width", "count"), [(8, 470_072), (16, 1_331_592), (32, 4_231_976)])  # Keras's, trainable
def test_counts_are_mobilenets(width, count):
    assert total(shapes(SeparableNet(width=width), (224, 224, 3), 1000)).parameters == count


@pytest.mark.parametrize("depth", [18, 20, 28])
def test_depth_counts_the_layers(depth):
    found = shapes(SeparableNet(depth=depth, width=2), (32, 32, 1), 3)
    assert sum("kernel" in path for path in found) == depth


def test_a_depthwise_kernel_sees_its_own_feature_alone_and_a_pointwise_one_all():
    net = network(SeparableNet(depth=18, width=4, norm=None, stem_stride=1), spec((8, 8, 1), 3))
    variables = jax.jit(net.init)(jax.random.key(0))
    paths = ("block_00/depthwise", "block_00/pointwise")

    @jax.jit
    def features(variables):
        inputs = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
        return net.apply(variables, inputs, train=False, features=paths)[1]["features"]

    before = features(variables)
    stem = variables["params"]["stem"]["convolution"]
    stem["bias"] = stem["bias"].at[2].add(1.0)  # changes the third feature
    after = features(variables)
    changed = [np.any(before[path] != after[path], axis=(0, 1, 2)).tolist() for path in paths]
    assert changed == [[False, False, True, False], [True] * 8]


def test_it_trains_a_step_and_keeps_statistics():
    net = network(SeparableNet(depth=18, width=2, stem_stride=1), spec((8, 8, 1), 3))
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    logits, changed = jax.jit(lambda key: net.apply(net.init(key), inputs, train=True))(jax.random.key(0))
    assert logits.shape == (4, 3)
    assert changed["batch_stats"]["block_00"]["norm_1"]["mean"].shape == (4,)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="depth: 19 is odd"):
        validate(SeparableNet(depth=19))
    with pytest.raises(UserError, match="depth: 16 is not in"):
        validate(SeparableNet(depth=16))
    with pytest.raises(UserError, match=r"these have \(64,\); use MLP"):
        shapes(SeparableNet(), (64,), 3)
