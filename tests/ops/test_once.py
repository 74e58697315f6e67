"""What is computed once is the same array, with the same gradients, and a compiled program has its operations once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import ConvNet, layers, network
from research.ops.once import computed_once
from research.spec import Spec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
def test_it_is_the_same_array_to_the_bit(dtype):
    given = np.array([[np.nan, -0.0, np.inf], [-np.inf, 1e-40, -7.5]], np.float32)
    given = jnp.asarray(given if dtype != "int32" else np.nan_to_num(given)).astype(dtype)
    for array in (given, given[1:], given[:, 1:], given[1, 2], given[:0]):
        assert np.asarray(jax.jit(computed_once)(array)).tobytes() == np.asarray(array).tobytes()
        assert np.asarray(computed_once(array)).tobytes() == np.asarray(array).tobytes()


def test_of_many_at_once_it_is_each():
    given = jnp.arange(24.0).reshape(4, 3, 2) - 7
    np.testing.assert_array_equal(jax.jit(jax.vmap(computed_once))(given), given)


def test_derivatives_of_any_kind_are_those_without():
    def through(once):
        return lambda x: jnp.sum(once(jnp.sin(x) * x) ** 3)

    x = jnp.linspace(-2.0, 2.0, 5)
    with_it, without = through(computed_once), through(lambda y: y)
    np.testing.assert_allclose(jax.grad(with_it)(x), jax.grad(without)(x), rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(with_it, (x,), (x,))[1], jax.jvp(without, (x,), (x,))[1], rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(with_it)(x), jax.hessian(without)(x), rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere it is left out")
def test_residual_layers_add_as_much_to_a_program_each_however_many_there_are(monkeypatch):
    spec, inputs = Spec((8, 8, 1), 10, tuple("0123456789")), jnp.ones((4, 8, 8, 1))

    def activations(depth):
        model = ConvNet(features=(8,), convolutions=depth, norm="batch", residual=True, pooling=None, head="average")
        net = network(model, spec)
        variables = jax.eval_shape(net.init, jax.random.key(0))
        program = jax.jit(lambda variables: net.apply(variables, inputs, train=False)[0]).lower(variables).compile()
        return program.as_text().count(" maximum(")

    def grows_evenly():
        first, second, third = map(activations, (3, 6, 9))
        return third - second == second - first

    assert grows_evenly()
    monkeypatch.setattr(layers, "computed_once", lambda array: array)
    assert not grows_evenly()  # or else there is no need of it any more
