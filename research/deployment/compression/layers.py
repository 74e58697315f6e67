"""Which layers of a trained network a method can be about, and what comes to them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from research.deployment.trained import Trained, logits
from research.models.altering import Kind, Layer, altering


class Found(NamedTuple):
    """A dense layer or convolution."""

    kind: Kind
    shape: tuple[int, ...]
    """Of its kernel."""


def with_kernels(trained: Trained) -> dict[str, Found]:
    """The dense layers and convolutions of a network by path, in the order in which it uses them; none is computed."""
    found: dict[str, Found] = {}

    def see(layer: Layer, inputs: Array) -> Array:
        if layer.kind != "other" and "kernel" in layer.parameters:
            found[layer.path] = Found(layer.kind, layer.parameters["kernel"].shape)
        return layer.call(inputs)

    with altering(see):
        arrays = (dict(trained.parameters), dict(trained.model_state))
        jax.eval_shape(lambda arrays, inputs: logits(trained, *arrays, inputs), arrays, example(trained))
    return found


def example(trained: Trained, batch: int = 1) -> jax.ShapeDtypeStruct:
    """The shape and dtype of so many inputs as the network sees them."""
    spec = trained.data.spec
    return jax.ShapeDtypeStruct((batch, *spec.shape), jnp.float32 if spec.tokens is None else jnp.int32)


def input_ranges(trained: Trained, inputs: Any, percentile: float = 100.0) -> dict[str, float]:
    """The largest absolute input of each dense layer and convolution over some examples, as the network sees them.

    percentile: which percentile of the absolute inputs stands for the largest; those beyond are cut off.
    """

    def ranges(arrays, inputs):
        found = {}

        def see(layer: Layer, inputs: Array) -> Array:
            if layer.kind != "other":
                amounts = jnp.abs(inputs)
                most = jnp.max(amounts) if percentile == 100 else jnp.percentile(amounts, percentile)
                found[layer.path] = jnp.maximum(most, found.get(layer.path, 0.0))
            return layer.call(inputs)

        with altering(see):
            logits(trained, *arrays, inputs)
        return found

    found = jax.jit(ranges)((dict(trained.parameters), dict(trained.model_state)), inputs)
    return {layer: float(most) or 1.0 for layer, most in found.items()}
