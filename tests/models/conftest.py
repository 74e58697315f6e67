"""For tests that copy the weights of another framework's model."""

import jax
import jax.numpy as jnp
import pytest

from research.parameters import flatten, read, unflatten, views, write


@pytest.fixture
def copied_parameters():
    """copied(net, array_of) -> {"params": ...} of a network, each parameter being `array_of(path)`, scanned or not."""

    def copied(net, array_of):
        shapes = flatten(jax.eval_shape(net.init, jax.random.key(0))["params"])
        parameters = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}
        for path in views(shapes, net.stacks):
            array = jnp.asarray(array_of(path))
            assert array.shape == read(shapes, path, net.stacks).shape, path
            parameters = write(parameters, path, array, net.stacks)
        return {"params": unflatten(parameters)}

    return copied
