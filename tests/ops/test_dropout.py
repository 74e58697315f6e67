"""Dropout drops what it says, where the key says, and as independently as dice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.ops.dropout import _uniform, dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_the_rate_and_the_mean_stays(rate):
    n = 1 << 20
    outputs = dropout(jnp.ones((n,)), rate, jax.random.key(0))
    four_sigma = 4 * np.sqrt(rate * (1 - rate) / n)
    assert abs(float(jnp.mean(outputs == 0)) - rate) < four_sigma
    assert abs(float(jnp.mean(outputs)) - 1) < four_sigma / (1 - rate)
    np.testing.assert_allclose(outputs[outputs > 0], 1 / (1 - rate), rtol=1e-6)


def test_rate_zero_is_the_identity_and_rates_near_one_are_finite():
    inputs = jax.random.normal(jax.random.key(1), (64, 64))
    np.testing.assert_array_equal(dropout(inputs, 0.0, jax.random.key(0)), inputs)
    assert jnp.all(jnp.isfinite(dropout(inputs, 1 - 2**-24, jax.random.key(0))))


def test_the_gradient_passes_where_the_value_did():
    inputs, key = jax.random.normal(jax.random.key(1), (50, 7)), jax.random.key(2)
    gradient = jax.grad(lambda x: jnp.sum(dropout(x, 0.3, key)))(inputs)
    np.testing.assert_allclose(gradient * inputs, dropout(inputs, 0.3, key), rtol=1e-6)


def test_another_rate_does_not_trace_again_and_drops_more_of_the_same():
    traces = []

    @jax.jit
    def f(rate):
        traces.append(rate)
        return dropout(jnp.ones((1000,)), rate, jax.random.key(0)) == 0

    less, more = f(np.float32(0.2)), f(np.float32(0.6))
    assert len(traces) == 1
    assert jnp.all(more | ~less)


def test_loops_and_vmap_drop_what_each_alone_drops():
    keys, inputs = jax.random.split(jax.random.key(0), 4), jnp.ones((33, 5), jnp.bfloat16)
    alone = jnp.stack([dropout(inputs, 0.4, key) for key in keys])
    assert alone.dtype == jnp.bfloat16
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda key: dropout(inputs, 0.4, key)))(keys), alone)
    np.testing.assert_array_equal(jax.lax.map(lambda key: dropout(inputs, 0.4, key), keys), alone)


def test_the_hash_is_uniform_and_independent_between_neighbours_and_keys():
    """Chi-square of the high and low 8 bits; correlation over distances and keys. Bounds are five sigma."""
    n = 1 << 18
    bits = [np.asarray(_uniform(key, (n,))) for key in jax.random.split(jax.random.key(3), 6)]
    for words in bits:
        for byte in (words >> 16, words & 255):
            counts = np.bincount(byte, minlength=256)
            chi_square = ((counts - n / 256) ** 2 / (n / 256)).sum()
            assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)
    centred = [words / 2**24 - 0.5 for words in bits]
    five_sigma = 5 / 12 / np.sqrt(n)
    for distance in (1, 2, 3, 8, 28, 64, 128, 1024, 1 << 16):
        assert abs(np.mean(centred[0][distance:] * centred[0][:-distance])) < five_sigma * 1.2
    for other in centred[1:]:
        assert abs(np.mean(centred[0] * other)) < five_sigma


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_that_cannot_be_is_refused(rate):
    with pytest.raises(ValueError, match=f"the rate {rate} is not in"):
        dropout(jnp.ones(3), rate, jax.random.key(0))
