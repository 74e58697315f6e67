"""Scaled dot-product attention (Vaswani et al., 2017): every position reads what it looks for from all it may see.

outputs[q] = sum over k of weights[q, k] * value[k]
weights[q] = softmax over k of query[q] . key[k] / sqrt(features)

The weights, by far the largest array here, are not kept for the gradients: of each query its largest score and the sum
of its exponentials are, from which they are computed again (Dao et al., "FlashAttention", 2022). Where queries see no
later keys they go in a few blocks, and each block computes the scores of those keys alone that it may see.

In 16 bits on an NVIDIA GPU it is cuDNN's kernel, which never writes the weights to memory. Derivatives are of any
order, in reverse mode: `jax.jvp` raises.
"""

import functools
import itertools
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
    _check_causal(query, key, causal)

    def in_one(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation="cudnn")

    def in_blocks(query, key, value):
        return _attention(query, key, value, visible, causal)  # by place, as custom_vjp wants them

    is_square = not causal or query.shape[1] == key.shape[1]
    if visible is None and is_square and value.shape == key.shape and _cudnn_takes(query):
        return lax.platform_dependent(query, key, value, cuda=in_one, default=in_blocks)
    return in_blocks(query, key, value)


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
    _check_causal(query, key, causal)
    query, key = (jnp.swapaxes(array, 1, 2) for array in (query, key))
    seen = _seen(slice(0, query.shape[2]), key.shape[2], visible, causal)
    return jax.nn.softmax(_scores(query, key, seen))


def attend(
    weights: Float[Array, "batch heads queries keys"], value: Float[Array, "batch keys heads outputs"]
) -> Float[Array, "batch queries heads outputs"]:
    """What is read of the values with some weights, in the dtype of the values."""
    by_head = jnp.swapaxes(value, 1, 2)
    return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), by_head), 1, 2)


def _check_causal(query: jax.Array, key: jax.Array, causal: bool) -> None:
    if causal and query.shape[1] > key.shape[1]:
        raise ValueError(
            f"attention: {query.shape[1]} queries {query.shape} for {key.shape[1]} keys {key.shape} cannot be causal"
        )


# ---------------------------------------------------------------------------------------------------------------------
# In blocks of queries. Arrays are (batch, heads, positions, features) here: each product is then one on contiguous
# memory.

MOST_BLOCKS, LEAST_QUERIES = 4, 32
"""Four leave 5 of 8 scores to compute, and each is a program of its own; small ones take longer than they save."""


def _blocks(queries: int, keys: int, visible: jax.Array | None, causal: bool) -> list[tuple[slice, slice]]:
    """The queries of each block, and the keys that any of them sees: all, where a query that sees none is to."""
    if not causal or visible is not None:
        return [(slice(0, queries), slice(0, keys))]
    count = min(MOST_BLOCKS, max(1, queries // LEAST_QUERIES))
    bounds = [queries * i // count for i in range(count + 1)]
    return [(slice(start, end), slice(0, keys - queries + end)) for start, end in itertools.pairwise(bounds)]


def _seen(block: slice, keys: int, visible: jax.Array | None, causal: bool) -> Bool[Array, "..."] | None:
    """Which of the first `keys` keys each query of a block sees, as a mask of its scores; None: all."""
    seen = None
    if causal:
        last = jnp.arange(block.start, block.stop) + (keys - block.stop)
        seen = jnp.arange(keys) <= last[:, None]
    if visible is not None:
        shown = visible[:, None, None, :keys]
        seen = shown if seen is None else seen & shown
    return seen


def _scores(query: jax.Array, key: jax.Array, seen: jax.Array | None) -> Float[Array, "batch heads queries keys"]:
    scores = jnp.einsum("bhqd,bhkd->bhqk", query / math.sqrt(query.shape[-1]), key)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return scores if seen is None else jnp.where(seen, scores, jnp.finfo(scores.dtype).min)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(query, key, value, visible, causal):
    return _forward(query, key, value, visible, causal)[0]


def _forward(query, key, value, visible, causal):
    """What is read, and what the gradients need."""
    heads_first = [jnp.swapaxes(array, 1, 2) for array in (query, key, value)]
    read, largest, total = [], [], []
    for block, seen_keys in _blocks(query.shape[1], key.shape[1], visible, causal):
        q, k, v = heads_first[0][:, :, block], *(array[:, :, seen_keys] for array in heads_first[1:])
        scores = _scores(q, k, _seen(block, k.shape[2], visible, causal))
        largest.append(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - largest[-1])
        total.append(weights.sum(-1, keepdims=True))
        read.append((jnp.einsum("bhqk,bhkd->bhqd", weights.astype(v.dtype), v) / total[-1]).astype(v.dtype))
    outputs = jnp.swapaxes(jnp.concatenate(read, 2), 1, 2)
    return outputs, (query, key, value, visible, outputs, jnp.concatenate(largest, 2), jnp.concatenate(total, 2))


def _backward(causal, kept, gradient):
    """Gradients of the query, the key and the value.

    With weights p and scores s: ds = p (dp - sum over k of p dp), and that sum is the gradient times what was read.
    """
    *operands, visible, outputs, largest, total = kept
    query, key, value, read, of_read = (jnp.swapaxes(array, 1, 2) for array in (*operands, outputs, gradient))
    of_query, of_key, of_value = [], None, None
    for block, seen_keys in reversed(_blocks(query.shape[2], key.shape[2], visible, causal)):  # the last sees all keys
        q, g, k, v = query[:, :, block], of_read[:, :, block], key[:, :, seen_keys], value[:, :, seen_keys]
        seen = _seen(block, k.shape[2], visible, causal)
        weights = jnp.exp(_scores(q, k, seen) - largest[:, :, block]) / total[:, :, block]
        of_weights = jnp.einsum("bhqd,bhkd->bhqk", g, v).astype(weights.dtype)
        through = (g * read[:, :, block]).astype(weights.dtype).sum(-1, keepdims=True)
        of_scores = weights * (of_weights - through)
        of_scores = of_scores if seen is None else jnp.where(seen, of_scores, 0)
        of_scores = (of_scores / math.sqrt(q.shape[-1])).astype(q.dtype)
        of_query.append(jnp.einsum("bhqk,bhkd->bhqd", of_scores, k))
        of_key = _add_to_first(of_key, _across(of_scores, q))
        of_value = _add_to_first(of_value, _across(weights.astype(g.dtype), g))
    of_query = jnp.concatenate(of_query[::-1], 2)
    return *(jnp.swapaxes(array, 1, 2) for array in (of_query, of_key, of_value)), None


def _across(weights, upon):
    """For each key the sum over queries of weights times what is upon them: (batch, heads, keys, features).

    The small array is turned and not the large one, which takes a processor half as long.
    """
    return jnp.swapaxes(jnp.einsum("bhqk,bhdq->bhdk", weights, jnp.swapaxes(upon, 2, 3)), 2, 3)


def _add_to_first(array, part):
    """The sum of both, the second at the first positions; the second where there is nothing yet."""
    if array is None:
        return part
    return jnp.concatenate([array[:, :, : part.shape[2]] + part, array[:, :, part.shape[2] :]], 2)


_attention.defvjp(_forward, _backward)
