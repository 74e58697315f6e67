"""Dense products, biases and sums against NumPy, and what is kept for their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from research.ops.dense import add_bias, dense
from research.ops.sums import over_columns, over_rows, side_by_side, sum_of_squares

SHAPES = [((3, 5), 4), ((2, 3, 5), 4), ((2, 3, 4), 9), ((2, 2, 3, 7), 7), ((1, 1), 1)]


def operands(shape, features):
    generator = np.random.default_rng(features)
    return [
        generator.normal(size=size) for size in (shape, (shape[-1], features), (features,), (*shape[:-1], features))
    ]


@pytest.mark.parametrize(("shape", "features"), SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_dense_and_its_gradients_are_numpy_s(shape, features, has_bias):
    inputs, kernel, bias, gradient = operands(shape, features)
    bias = bias if has_bias else None
    with jax.enable_x64(True):
        outputs, pull_back = jax.vjp(jax.jit(dense), inputs, kernel, bias)
        of_inputs, of_kernel, of_bias = pull_back(gradient)
    np.testing.assert_allclose(outputs, inputs @ kernel + (bias if has_bias else 0), rtol=1e-12)
    np.testing.assert_allclose(of_inputs, gradient @ kernel.T, rtol=1e-12)
    np.testing.assert_allclose(of_kernel, np.tensordot(inputs, gradient, (range(inputs.ndim - 1),) * 2), rtol=1e-12)
    if has_bias:
        np.testing.assert_allclose(of_bias, gradient.sum(tuple(range(gradient.ndim - 1))), rtol=1e-12)
    else:
        assert of_bias is None


def test_a_bias_added_alone_has_the_same_gradients():
    outputs, _, bias, gradient = operands((2, 3, 4), 4)
    with jax.enable_x64(True):
        added, pull_back = jax.vjp(jax.jit(add_bias), outputs, bias)
        of_outputs, of_bias = pull_back(gradient)
    np.testing.assert_allclose(added, outputs + bias, rtol=1e-12)
    np.testing.assert_array_equal(of_outputs, gradient)
    np.testing.assert_allclose(of_bias, gradient.sum((0, 1)), rtol=1e-12)


def test_gradients_of_gradients_are_those_of_the_plain_formula():
    inputs, kernel, bias, gradient = operands((2, 3, 4), 9)

    def second(function):
        def first(*arrays):
            return jax.grad(lambda *arrays: (jnp.sin(function(*arrays)) * gradient).sum(), (0, 1, 2))(*arrays)

        def summed(*arrays):
            return sum((part**2).sum() for part in first(*arrays))

        return jax.jit(jax.grad(summed, (0, 1, 2)))(inputs, kernel, bias)

    with jax.enable_x64(True):
        for ours, plain in zip(second(dense), second(lambda x, k, b: x @ k + b), strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-10)


@pytest.mark.parametrize(("trained", "inputs", "kernel"), [("kernel", 1, 0), ("inputs", 0, 1), ("bias", 0, 0)])
def test_only_what_the_gradients_need_is_kept(trained, inputs, kernel, capsys):
    """A frozen kernel's inputs are the largest that a layer would keep; in a scan XLA cannot leave them out."""
    given = {"inputs": jnp.ones((2, 3, 5)), "kernel": jnp.ones((5, 7)), "bias": jnp.ones(7)}

    def function(array):
        halved = {name: value / 2 for name, value in given.items()} | {trained: array}
        return dense(halved["inputs"] * 1.0, halved["kernel"] * 1.0, halved["bias"]).sum()

    print_saved_residuals(function, given[trained])
    kept = capsys.readouterr().out
    assert (kept.count("f32[2,3,5]"), kept.count("f32[5,7]")) == (inputs, kernel)


def test_under_scan_remat_and_vmap_gradients_are_the_same():
    generator = np.random.default_rng(0)
    inputs, kernels, biases = (generator.normal(size=s).astype("float32") for s in ((2, 3, 4), (5, 4, 4), (5, 4)))

    def through(layer, remat):
        def step(carry, parameters):
            return jnp.tanh(layer(carry, *parameters)), None

        step = jax.checkpoint(step) if remat else step
        return lambda kernels, biases: (jax.lax.scan(step, inputs, (kernels, biases))[0] ** 2).sum()

    plain = jax.jit(jax.grad(through(lambda x, k, b: x @ k + b, False), (0, 1)))(kernels, biases)
    for remat in (False, True):
        ours = jax.jit(jax.grad(through(dense, remat), (0, 1)))(kernels, biases)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, plain)
    many = jax.jit(jax.vmap(jax.grad(through(dense, False), (0, 1))))(
        jnp.stack([kernels, 2 * kernels]), biases[None].repeat(2, 0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6), many, plain)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (6, 5), (37, 3), (64, 16), (2, 300), (5, 128)])
def test_sums_are_numpy_s(rows, columns):
    generator = np.random.default_rng(rows)
    matrix, weights = generator.normal(size=(rows, columns)), generator.normal(size=columns)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(over_rows)(matrix), matrix.sum(0), rtol=1e-12)
        np.testing.assert_allclose(jax.jit(over_columns)(matrix), matrix.sum(1), rtol=1e-12)
        np.testing.assert_allclose(jax.jit(over_columns)(matrix, weights), matrix @ weights, rtol=1e-12)
        weights = jnp.asarray(weights)
        second = jax.grad(lambda matrix: (over_rows(matrix) ** 2).sum() + (over_columns(matrix, weights) ** 2).sum())
        expected = 2 * matrix.sum(0) + 2 * (matrix @ weights)[:, None] * weights
        np.testing.assert_allclose(jax.jit(second)(matrix), expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (64, 8), (3, 3, 16, 16), (2, 1024)])
def test_sums_of_squares_are_numpy_s(shape):
    array = np.random.default_rng(0).normal(size=shape)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(sum_of_squares)(jnp.asarray(array)), (array**2).sum(), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_sum_of_squares_is_not_finite_where_an_element_s_is_not(bad):
    """By it a step knows that it is to be left out."""
    for shape in ((5,), (64, 64)):
        array = np.full(shape, 0.5, "float32")
        array.ravel()[3] = bad
        assert not np.isfinite(jax.jit(sum_of_squares)(jnp.asarray(array)))


@pytest.mark.parametrize(
    ("rows", "columns", "expected"), [(1024, 16, 8), (49, 16, 7), (37, 16, 1), (8, 200, 1), (4, 1, 4)]
)
def test_rows_side_by_side_are_few_and_divide_all(rows, columns, expected):
    assert side_by_side(rows, columns) == expected
