"""Dropout (Srivastava et al., 2014) whose rate may be a traced number, with random bits that cost next to nothing.

A bit of dropout needs no cryptographic generator: `jax.random.bernoulli` took ten times as long as the layer around it
(128 x 1024 features on a CPU). Here two words drawn from the key seed a hash of each element's index, which is a few
integer operations, fused into the multiplication, and as well defined under `vmap`, `scan` and sharding as the index.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Key, UInt32

RESOLUTION = 1 << 24  # rates are rounded to multiples of 2**-24, as exact as float32


def dropout(
    inputs: Float[Array, "*shape"], rate: float | Float[ArrayLike, ""], key: Key[Array, ""] | UInt32[Array, "2"]
) -> Float[Array, "*shape"]:
    """`inputs` with a share `rate` in [0, 1) of its elements at zero, and the others scaled up to keep the mean.

    Which elements go is a function of `key` and of their index. The rate may be traced; where it is 0, nothing happens
    to the values, but the time is spent: absence is better said by not calling.
    """
    if isinstance(rate, int | float) and not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate {rate} is not in [0, 1)")
    dropped = jnp.round(jnp.asarray(rate, jnp.float32) * RESOLUTION).astype(jnp.uint32)
    scale = RESOLUTION / (RESOLUTION - dropped).astype(jnp.float32)
    return jnp.where(_uniform(key, inputs.shape) >= dropped, inputs * scale.astype(inputs.dtype), 0)


def _uniform(key, shape):
    """Whole numbers below RESOLUTION, one for each index."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return _hash(_hash(index + first) ^ second) >> 8


def _hash(x):
    """A bijection of 32-bit words that mixes well: C. Wellons's "lowbias32" (2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
