"""What the tests of inspection share."""

import jax
import jax.numpy as jnp
import pytest

from research.inspection import inspect
from research.models.base import network
from research.parameters import flatten
from research.spec import Spec


@pytest.fixture
def look():
    """The inspection of a model of ours: on pictures (sizes, features), or on so many tokens of so many.

    With `backward=False` everything is frozen, which saves the time to trace it.
    """

    def look(model, sizes, classes=1000, tokens=None, batch=1, backward=True, **options):
        spec = Spec(tuple(sizes), classes, tuple(map(str, range(classes))), tokens)
        net = network(model, spec)
        variables = dict(jax.eval_shape(net.init, jax.random.key(0)))
        parameters = variables.pop("params")
        if not backward:
            options["frozen"] = flatten(parameters).keys()
        inputs = jax.ShapeDtypeStruct((batch, *sizes), jnp.float32 if tokens is None else jnp.int32)
        apply = lambda p, x, state: net.apply({"params": p, **state}, x, train=False)[0]  # noqa: E731
        return inspect(apply, parameters, inputs, constants=(variables,), stacks=net.stacks, **options)

    return look
