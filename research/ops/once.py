"""An array that is computed once, however many read it.

    outputs = computed_once(jax.nn.relu(inputs + outputs))

On the CPU, XLA computes elementwise operations anew for each that reads them, whatever barrier there is. In a residual
network that goes on: an output is that of the layer before and something more, which again is, and so each layer adds
up all before it, each time anew. The time of a step then grows with the square of the depth: of 16 residual layers of 8
features it took 2.4 times as long as it does with what is here, of 8 layers 1.35 times, and of 4 layers 1.14.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.custom_jvp
def computed_once(array: Array) -> Array:
    """The array, which is put into memory where the platform is a CPU; its gradients are as if that were not so.

    What comes out of a loop has been computed. XLA leaves out loops that it knows to be run once, so this one's number
    is a value, though there is but one that it can have.
    """

    if not array.size:
        return array

    def on_cpu(array):
        first = lax.convert_element_type(lax.slice(array.ravel(), (0,), (1,)), jnp.int32)
        once = ((first | 1) & 1)[0]
        return lax.fori_loop(0, once, lambda _, __: array, jnp.zeros_like(array))

    return lax.platform_dependent(array, cpu=on_cpu, default=lambda array: array)


@computed_once.defjvp
def _(primals, tangents):
    return computed_once(*primals), tangents[0]
