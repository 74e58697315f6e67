"""Scaled dot-product attention (Vaswani et al., 2017): every position reads what it looks for from all it may see.

outputs[q] = sum over k of weights[q, k] * value[k]
weights[q] = softmax over k of query[q] . key[k] / sqrt(features)

In 16 bits on an NVIDIA GPU it is cuDNN's kernel, which never writes the weights to memory (Dao et al.,
"FlashAttention", 2022); elsewhere, and where the weights are asked for, three operations.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import backend
from jaxtyping import Array, Bool, Float


def attention(
    query: Float[Array, "batch queries heads features"],
    key: Float[Array, "batch keys heads features"],
    value: Float[Array, "batch keys heads outputs"],
    *,
    causal: bool = False,
    visible: Bool[Array, "batch keys"] | None = None,
) -> Float[Array, "batch queries heads outputs"]:
    """The values that each query reads, head by head; `causal` and `visible` are as in `attention_weights`."""

    def by_weights(query, key, value):
        return attend(attention_weights(query, key, causal=causal, visible=visible), value)

    def in_one(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation="cudnn")

    is_square = not causal or query.shape[1] == key.shape[1]
    if visible is None and is_square and value.shape == key.shape and _cudnn_takes(query):
        return lax.platform_dependent(query, key, value, cuda=in_one, default=by_weights)
    return by_weights(query, key, value)


def _cudnn_takes(query: jax.Array) -> bool:
    """Whether cuDNN is there and has a kernel for such heads: of 8 to 128 features, by eights, in 16 bits."""
    features = query.shape[-1]
    if query.dtype not in (jnp.bfloat16, jnp.float16) or features % 8 or features > 128:
        return False
    return jax.default_backend() == "gpu" and "cuda" in backend.get_backend().platform_version


def attention_weights(
    query: Float[Array, "batch queries heads features"],
    key: Float[Array, "batch keys heads features"],
    *,
    causal: bool = False,
    visible: Bool[Array, "batch keys"] | None = None,
) -> Float[Array, "batch heads queries keys"]:
    """How much each query reads of each key, head by head: every row sums to 1.

    causal: a query sees no key after its own position; where there are more keys than queries, as when earlier ones
        are kept, the queries are the last positions.
    visible: which keys there are; the others are padding. A query that sees none reads the mean of all.

    Weights are computed in float32 at least. Raises ValueError for a causal look with more queries than keys.
    """
    queries, keys = query.shape[1], key.shape[1]
    if causal and queries > keys:
        raise ValueError(f"attention: {queries} queries {query.shape} for {keys} keys {key.shape} cannot be causal")
    # Heads first: each is then one matrix product on contiguous memory.
    query, key = (jnp.swapaxes(array, 1, 2) for array in (query, key))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query / math.sqrt(query.shape[-1]), key)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    least = jnp.finfo(scores.dtype).min
    if causal:
        position = jnp.arange(keys)
        scores = jnp.where(position <= position[keys - queries :, None], scores, least)
    if visible is not None:
        scores = jnp.where(visible[:, None, None, :], scores, least)
    return jax.nn.softmax(scores)


def attend(
    weights: Float[Array, "batch heads queries keys"], value: Float[Array, "batch keys heads outputs"]
) -> Float[Array, "batch queries heads outputs"]:
    """What is read of the values with some weights, in the dtype of the values."""
    by_head = jnp.swapaxes(value, 1, 2)
    return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), by_head), 1, 2)
