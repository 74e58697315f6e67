"""Receptive fields equal what a numerical derivative says the output hangs on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.inspection import inspect
from research.ops.convolution import convolve
from research.ops.pooling import max_pool

SIZE = 61


def field(function, size=SIZE):
    """That of a function of (1, size, 1)."""
    return inspect(lambda _, x: function(x), {}, jax.ShapeDtypeStruct((1, size, 1), jnp.float32)).field[0]


def seen(function, size=SIZE):
    """From the first to the last position that the output in the midst hangs on: the oracle."""
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(1, size, 1)), jnp.float32)
    middle = lambda x: function(x)[0, function(x).shape[1] // 2].sum()  # noqa: E731
    touched = np.flatnonzero(np.asarray(jax.grad(middle)(inputs))[0, :, 0])
    return touched[-1] - touched[0] + 1


window = st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2))  # size, stride, dilation


@given(st.lists(window, min_size=1, max_size=3))
@settings(max_examples=12)
def test_chains_of_convolutions_see_what_the_derivative_says(windows):
    def chain(x):
        for size, stride, dilation in windows:
            x = convolve(x, jnp.ones((size, 1, 1)), stride=stride, dilation=dilation, padding="VALID")
        return x

    assert field(chain) == seen(chain)


def test_pooling_slices_and_padding_are_windows_too():
    def mixed(x):
        x = convolve(x, jnp.ones((3, 1, 1)), padding="SAME")
        x = x[:, 1:-1:2] + x[:, 2::2]
        x = jnp.pad(x, ((0, 0), (3, 1), (0, 0)))
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 1), (1, 2, 1), "VALID")
        return x + 1

    assert field(mixed) == seen(mixed)


def test_max_pooling_sees_its_window():
    def pooled(x):
        return convolve(max_pool(x, 2), jnp.ones((3, 1, 1)), padding="VALID")

    assert field(pooled) == 6


def test_transposed_convolution_sees_less_than_one_position_for_each_output():
    up = lambda x: jax.lax.conv_general_dilated(  # noqa: E731
        x, jnp.ones((4, 1, 1)), (1,), [(2, 2)], lhs_dilation=(2,), dimension_numbers=("NHC", "HIO", "NHC")
    )
    assert field(up) == 2


@pytest.mark.parametrize(
    "everywhere",
    [
        lambda x: x + x.mean(1, keepdims=True),
        lambda x: jnp.cumsum(x, 1),
        lambda x: jnp.sort(x, 1),
        lambda x: x @ (x.swapaxes(1, 2) @ x),
        lambda x: x[:, ::-1],
        lambda x: x.reshape(1, -1) @ jnp.ones((SIZE, 2)),
    ],
)
def test_what_mixes_all_positions_sees_them_all(everywhere):
    assert field(everywhere) == SIZE


def test_axes_are_followed_through_layouts():
    def moved(x):
        x = x.swapaxes(0, 1)[:, :, 0]
        x = x.T.reshape(1, SIZE, 1)
        return convolve(x, jnp.ones((5, 1, 1)), padding="SAME")

    assert field(moved) == 5


def test_axes_have_fields_of_their_own():
    tall = lambda _, x: convolve(x, jnp.ones((5, 1, 2, 3)), padding="SAME")  # noqa: E731
    assert inspect(tall, {}, jax.ShapeDtypeStruct((1, 9, 9, 2), jnp.float32)).field == (5, 1, 2)


def test_parts_of_features_see_what_the_whole_did():
    def gated(x):
        a, b = jnp.split(convolve(x, jnp.ones((3, 1, 4)), padding="SAME"), 2, axis=-1)
        return a * jax.nn.sigmoid(b)

    assert field(gated) == seen(gated) == 3


def test_windows_of_ones_own_are_windows():
    own = lambda x: jax.lax.reduce_window(x, 0.0, lambda a, b: a + 2 * b, (1, 3, 1), (1, 1, 1), "VALID")  # noqa: E731
    assert field(own) == 3


@pytest.mark.parametrize(
    "unknown",
    [
        lambda x: jax.lax.top_k(x[..., 0], SIZE)[0][..., None],
        lambda x: x.at[:, jnp.array([3, 1])].multiply(x[:, :2]),
        lambda x: jax.pure_callback(np.sin, x, x),
    ],
)
def test_what_may_mix_positions_is_taken_to_see_them_all(unknown):
    assert inspect(lambda _, x: unknown(x), {}, jax.ShapeDtypeStruct((1, SIZE, 1), jnp.float32)).field[0] == SIZE
