"""How many of equal layers are in use while a network is traced, and those that are, scanned; see `models.upto`."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

_count: contextvars.ContextVar[int | Array | None] = contextvars.ContextVar("layers that are in use", default=None)


@contextlib.contextmanager
def using(count: int | Array) -> Iterator[None]:
    """Within it, the first `count` of equal layers are in use."""
    token = _count.set(count)
    try:
        yield
    finally:
        _count.reset(token)


def count() -> int | Array | None:
    """How many of equal layers are in use, in a network that is traced; None where all are."""
    return _count.get()


def of(layers: int) -> int | Array:
    """How many of so many equal layers are in use."""
    return layers if count() is None else count()


class _Called(nn.Module):
    """Layers that are no part of a model, for their variables to be handed to them."""

    call: Callable[[Array], Array]

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        return self.call(inputs)


def scanned(
    module: nn.Module,
    names: Mapping[str, Callable[[int], str]],
    indices: range,
    call: Callable[[int | Array, Array], Array],
    inputs: Array,
) -> Array:
    """The outputs of `call(index, inputs)` for some indices, one after another, up to the last that is in use.

    In the compact `__call__` of `module`, whose layers they are. `call` makes layers of some names; under which name
    the module has that of an index, `names` tell. Model state is changed in the layers that are in use.
    """
    used, variables = count(), module.variables
    own = [
        {
            kind: {name: tree[stored(index)] for name, stored in names.items() if stored(index) in tree}
            for kind, tree in variables.items()
        }
        for index in indices
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
    mutable = [
        kind for kind, tree in stacked.items() if tree and kind != "params" and module.is_mutable_collection(kind)
    ]

    def layer(index: Array, outputs: Array, variables: dict) -> tuple[Array, dict]:
        one = _Called(functools.partial(call, index))
        return one.apply(variables, outputs, mutable=mutable) if mutable else (one.apply(variables, outputs), {})

    def nothing(index: Array, outputs: Array, variables: dict) -> tuple[Array, dict]:
        return outputs, {kind: variables[kind] for kind in mutable}

    def body(outputs: Array, numbered: tuple[Array, dict]) -> tuple[Array, dict]:
        index, variables = numbered
        return jax.lax.cond(index < used, layer, nothing, index, outputs, variables)

    outputs, changed = jax.lax.scan(body, inputs, (jnp.arange(indices.start, indices.stop), stacked))
    for kind, tree in changed.items():
        for name, values in tree.items():
            for i, index in enumerate(indices):
                module.put_variable(kind, names[name](index), jax.tree.map(lambda leaf, i=i: leaf[i], values))
    return outputs
