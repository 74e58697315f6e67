"""Pooling and its gradients against the definition, window by window, in NumPy."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from research.ops import pooling
from research.ops.pooling import average_pool, global_average_pool, global_max_pool, max_pool


def windows(sizes, window, stride, padding):
    """Each output position with the input positions that its window covers, in row-major order."""
    if padding == "SAME":
        missing = [max(0, (-(-n // s) - 1) * s + w - n) for n, w, s in zip(sizes, window, stride, strict=True)]
        padding = [(m // 2, m - m // 2) for m in missing]
    elif padding == "VALID":
        padding = [(0, 0)] * len(sizes)
    elif padding == "CAUSAL":
        padding = [(w - 1, 0) for w in window]
    counts = [(n + sum(p) - w) // s + 1 for n, p, w, s in zip(sizes, padding, window, stride, strict=True)]
    for o in itertools.product(*map(range, counts)):
        first = [i * s - low for i, s, (low, _) in zip(o, stride, padding, strict=True)]
        covered = itertools.product(*(range(f, f + w) for f, w in zip(first, window, strict=True)))
        yield o, [p for p in covered if all(0 <= i < n for i, n in zip(p, sizes, strict=True))]


def definition(kind, inputs, gradient, window, stride, padding):
    """Outputs of the shape of `gradient`, and the gradient of the inputs."""
    outputs, back = np.zeros(gradient.shape), np.zeros(inputs.shape)
    for n, f in itertools.product(range(len(inputs)), range(inputs.shape[-1])):
        for o, covered in windows(inputs.shape[1:-1], window, stride, padding):
            values = [inputs[n, *p, f] for p in covered]
            if kind == "max":
                outputs[n, *o, f] = max(values)
                back[n, *covered[int(np.argmax(values))], f] += gradient[n, *o, f]  # argmax: the first of equals
            else:
                outputs[n, *o, f] = np.mean(values)
                for p in covered:
                    back[n, *p, f] += gradient[n, *o, f] / len(covered)
    return outputs, back


def assert_as_defined(kind, sizes, window, stride, padding, few_values=True):
    rng = np.random.default_rng(0)
    inputs = rng.integers(-2, 2, (2, *sizes, 2)).astype(float) if few_values else rng.normal(size=(2, *sizes, 2))
    pool = max_pool if kind == "max" else average_pool

    def function(inputs, gradient):
        outputs, back = jax.vjp(lambda x: pool(x, window, stride=stride, padding=padding), inputs)
        return outputs, back(gradient)[0]

    shape = jax.eval_shape(lambda x: pool(x, window, stride=stride, padding=padding), jnp.asarray(inputs, jnp.float32))
    gradient = rng.normal(size=shape.shape)
    actual = jax.jit(function)(jnp.asarray(inputs, jnp.float32), jnp.asarray(gradient, jnp.float32))
    for a, e in zip(actual, definition(kind, inputs, gradient, window, stride, padding), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(
    ("sizes", "window", "stride", "padding"),
    [
        ((6, 4), (2, 2), (2, 2), "VALID"),
        ((7, 5), (2, 2), (2, 2), "VALID"),  # the last row and column are in no window
        ((7, 5), (2, 2), (2, 2), "SAME"),
        ((7, 8), (3, 3), (2, 2), "SAME"),
        ((6, 7), (3, 2), (1, 3), "VALID"),
        ((9, 8), (2, 3), (4, 1), "VALID"),
        ((5, 5), (3, 3), (2, 2), ((1, 2), (0, 1))),
        ((9,), (4,), (3,), "SAME"),
        ((4, 5, 3), (2, 2, 2), (2, 1, 2), "SAME"),
        ((7, 6), (2, 3), (1, 2), "CAUSAL"),
        ((9, 10), (5, 6), (2, 3), ((4, 1), (0, 5))),  # windows of many positions
        ((6, 5, 4), (3, 3, 2), (1, 2, 2), "VALID"),
    ],
)
def test_value_and_gradient_are_those_of_the_definition(kind, sizes, window, stride, padding):
    assert_as_defined(kind, sizes, window, stride, padding)


@st.composite
def geometries(draw):
    n = draw(st.integers(1, 3))
    several = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(n))  # noqa: E731
    window, stride = several(1, 4), several(1, 4)
    sizes = tuple(w + extra for w, extra in zip(window, several(0, 3), strict=True))
    explicit = tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window)
    return sizes, window, stride, draw(st.sampled_from(["SAME", "VALID", "CAUSAL", explicit]))


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(kind=st.sampled_from(["max", "max", "average"]), geometry=geometries(), few_values=st.booleans())
def test_any_pooling_is_right(kind, geometry, few_values):
    assert_as_defined(kind, *geometry, few_values=few_values)


@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_no_examples_give_no_outputs_and_no_gradient(pool):
    outputs, back = jax.vjp(lambda x: pool(x, 3, stride=2, padding="SAME"), jnp.zeros((0, 5, 5, 2)))
    assert outputs.shape == (0, 3, 3, 2)
    assert back(outputs)[0].shape == (0, 5, 5, 2)


@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_bfloat16_stays_bfloat16(pool):
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 6, 2))
    halves = pool(inputs.astype(jnp.bfloat16), 2)
    assert halves.dtype == jnp.bfloat16
    np.testing.assert_allclose(halves.astype(jnp.float32), pool(inputs, 2), atol=0.02)


def test_equals_share_no_gradient_and_lose_none():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, 2))))(jnp.zeros((1, 4, 4, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))


def test_forward_mode_agrees_with_reverse_mode():
    inputs, tangent, weight = jax.random.normal(jax.random.key(0), (3, 2, 5, 5, 2))
    pool = lambda x: max_pool(x, 3, stride=2, padding="SAME")  # noqa: E731
    weight = weight[:, :3, :3]
    forward = jax.jit(lambda x, t, w: jnp.sum(w * jax.jvp(pool, (x,), (t,))[1]))
    reverse = jax.jit(lambda x, t, w: jnp.sum(t * jax.vjp(pool, x)[1](w)[0]))
    np.testing.assert_allclose(forward(inputs, tangent, weight), reverse(inputs, tangent, weight), rtol=1e-5)


def test_vmap_and_a_loop_change_nothing():
    inputs = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 2))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, 2) ** 2)))
    alone = jnp.stack([slope(x) for x in inputs])
    np.testing.assert_array_equal(jax.jit(jax.vmap(slope))(inputs), alone)
    np.testing.assert_array_equal(lax.map(slope, inputs), alone)


def test_what_is_padded_never_wins():
    assert jnp.all(max_pool(-jnp.ones((1, 3, 3, 1)), 2, padding="SAME") == -1)


def test_a_constant_has_itself_for_average_at_the_border_too():
    np.testing.assert_allclose(average_pool(jnp.full((1, 5, 5, 1), 3.0), 3, stride=2, padding="SAME"), 3.0, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 4, 3), (2, 5, 4, 2, 3)])
def test_global_average_is_the_mean_over_positions(shape):
    inputs = np.random.default_rng(0).normal(size=shape)
    expected = inputs.reshape(2, -1, 3).mean(axis=1)
    np.testing.assert_allclose(global_average_pool(jnp.asarray(inputs, jnp.float32)), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 4, 3), (2, 5, 4, 2, 3)])
def test_global_maximum_and_its_gradient_are_those_of_one_window_over_all(shape):
    inputs = jnp.asarray(np.random.default_rng(0).integers(0, 3, shape), jnp.float32)
    window = lambda x: max_pool(x, shape[1:-1]).reshape(shape[0], shape[-1])  # noqa: E731
    np.testing.assert_array_equal(global_max_pool(inputs), window(inputs))
    slopes = [jax.grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))(inputs) for pool in (global_max_pool, window)]
    np.testing.assert_array_equal(*slopes)


@pytest.mark.parametrize("pool", [global_average_pool, global_max_pool])
@pytest.mark.parametrize("shape", [(2, 3), (2, 0, 4, 3)])
def test_inputs_without_positions_are_refused(pool, shape):
    with pytest.raises(ValueError, match="must be \\(batch, \\*spatial, features\\), with positions"):
        pool(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((1, 3, 3, 1), {"window": 4}, r"inputs \(1, 3, 3, 1\) and window 4: the window does not fit into \(3, 3\)"),
        ((1, 3, 3, 1), {"window": (2, 2, 2)}, r"window \(2, 2, 2\) must be"),
        ((1, 3, 3, 1), {"window": 0}, "window 0 must be one positive number"),
        ((1, 3, 3, 1), {"window": 2, "stride": 0}, "stride 0 must be"),
        ((1, 3, 3, 1), {"window": 1, "padding": ((1, 0), (0, 0))}, "does not fit"),
        ((1, 3), {"window": 1}, r"inputs \(1, 3\)"),
    ],
)
@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_windows_that_do_not_fit_are_named(pool, shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        pool(jnp.zeros(shape), **arguments)


@pytest.mark.peers
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 0)])
def test_maximum_and_gradient_are_pytorchs_with_ties(window, stride, padding):
    import torch

    inputs = np.random.default_rng(0).integers(0, 3, (2, 7, 8, 3)).astype(np.float32)
    x = torch.tensor(np.moveaxis(inputs, -1, 1), requires_grad=True)
    y = torch.nn.functional.max_pool2d(x, window, stride, padding)
    y.square().sum().backward()
    pool = lambda x: max_pool(x, window, stride=stride, padding=((padding, padding),) * 2)  # noqa: E731
    np.testing.assert_array_equal(pool(jnp.asarray(inputs)), np.moveaxis(y.detach().numpy(), 1, -1))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(pool(x) ** 2)))(jnp.asarray(inputs))
    np.testing.assert_allclose(gradient, np.moveaxis(x.grad.numpy(), 1, -1), rtol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere XLA computes nothing anew")
def test_which_position_won_is_found_once_however_many_read_the_gradient(monkeypatch):
    inputs = jnp.ones((4, 8, 8, 8))

    def comparisons():
        def read_thrice(inputs):
            gradient = jax.grad(lambda inputs: jnp.sum(jnp.sin(max_pool(inputs, 2))))(inputs)
            rows = gradient.reshape(-1, 128)
            return jnp.concatenate([gradient[:, 1:], gradient[:, :-1]], -1), jnp.ones((2, len(rows))) @ rows

        return jax.jit(read_thrice).lower(inputs).compile().as_text().count("direction=GT")

    once = comparisons()
    monkeypatch.setattr(pooling, "computed_once", lambda array: array)
    assert once == 3 < comparisons()  # or else there is no need of it any more
