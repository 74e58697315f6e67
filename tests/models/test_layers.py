"""Initial weights: the gain of each activation, from an integral, and what they do to a signal in deep networks."""

from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erf

from research.models.layers import GAINS, Activation, Initializer, activate, initializer

# Written out again, in float64.
FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x: x if x > 0 else np.expm1(x),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def mean_square(activation, deviation):
    """E[f(deviation z)^2] for a normal z."""
    integrand = lambda z: FORMULAS[activation](deviation * z) ** 2 * np.exp(-(z**2) / 2)  # noqa: E731
    return sum(quad(integrand, *half)[0] for half in ((-12, 0), (0, 12))) / np.sqrt(2 * np.pi)


def test_every_activation_has_a_gain():
    assert set(GAINS) == set(FORMULAS) == set(get_args(Activation))


@pytest.mark.parametrize("activation", sorted(set(GAINS) - {"tanh", "sigmoid"}))
def test_with_its_gain_an_activation_keeps_the_mean_square(activation):
    assert mean_square(activation, GAINS[activation]) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_no_gain_does_that_where_outputs_are_below_one(activation):
    assert max(mean_square(activation, gain) for gain in (1.0, 3.0, 10.0)) < 1


@pytest.mark.parametrize("activation", GAINS)
def test_without_a_name_weights_have_the_deviation_of_the_gain(activation):
    weights = initializer(activation)(jax.random.key(0), (3, 3, 50, 400))
    assert float(jnp.std(weights)) * np.sqrt(3 * 3 * 50) == pytest.approx(GAINS[activation], rel=0.01)


@pytest.mark.parametrize(("activation", "name"), [("relu", "he_normal"), ("tanh", "lecun_normal")])
def test_those_of_relu_and_tanh_are_he_s_and_lecun_s(activation, name):
    ours, theirs = (initializer(activation, which)(jax.random.key(1), (64, 32)) for which in (None, name))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(theirs, getattr(nn.initializers, name)()(jax.random.key(1), (64, 32)))


@pytest.mark.parametrize("name", get_args(Initializer))
def test_a_name_decides_whatever_the_activation(name):
    a, b = (initializer(activation, name)(jax.random.key(1), (16, 8)) for activation in ("silu", "tanh"))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("activation", sorted(set(GAINS) - {"sigmoid"}))  # whose gradients vanish, whatever the gain
def test_signal_and_gradient_keep_their_size_through_twenty_wide_layers(activation):
    width, depth = 512, 20
    keys = jax.random.split(jax.random.key(0), depth + 2)

    def layers(inputs):
        def layer(x, key):
            return activate(activation, x @ initializer(activation)(key, (width, width))), None

        return jax.lax.scan(layer, inputs, keys[2:])[0]

    @jax.jit
    def mean_squares(inputs, gradient):
        outputs, pull_back = jax.vjp(layers, inputs)
        return jnp.mean(outputs**2), jnp.mean(pull_back(gradient)[0] ** 2)

    for size in mean_squares(*(jax.random.normal(key, (32, width)) for key in keys[:2])):
        assert 0.02 < size < 10
