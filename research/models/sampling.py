"""A language model writes on: tokens drawn one after another, each from what the model makes of all before it.

    tokens = sample(model, spec, parameters, prompt, key, count=100, temperature=0.8, top_k=40)

Attention needs of earlier tokens only their keys and values. These are remembered, so that a further token costs the
work of one position: the prompt is read in one go, then follows a loop. Lengths are values and not shapes, and so one
compiled program serves every prompt and every number of tokens up to the context.

The token at position p is drawn with a key of (key, p): asking for more tokens does not change the first ones.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from research.config import as_arrays
from research.errors import UserError
from research.models.gpt import GPT
from research.spec import Spec


def sample(
    model: GPT,
    spec: Spec,
    parameters: Mapping[str, Any],
    prompt: Any,
    key: Array,
    *,
    count: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """The continuation (batch, count) int32 of prompts (batch, length) of whole numbers.

    parameters: nested, as the network's "params".
    count: as many as the context has room for if None.
    temperature: logits are divided by it; at 0 the likeliest token is taken, and of equals the first.
    top_k: only the k likeliest tokens are drawn from.
    top_p: only the likeliest tokens, as few as are p likely together, after `top_k` (Holtzman et al., 2020).

    Raises UserError for prompts that are empty or no tokens, for more than fits into the context, and for a
    temperature, k or p that cannot be.
    """
    prompt = np.asarray(prompt)
    _check(model, spec, prompt, count, temperature, top_k, top_p)
    length = prompt.shape[1]
    end = model.context if count is None else length + count
    padded = np.zeros((len(prompt), model.context), np.int32)
    padded[:, :length] = prompt
    written = _write_on(
        spec,
        as_arrays(model),
        parameters,
        padded,
        np.int32(length),
        np.int32(end),
        key,
        np.float32(temperature),
        np.int32(spec.tokens if top_k is None else top_k),
        np.float32(math.inf if top_p is None else top_p),
    )
    return np.asarray(written)[:, length:end]


def _check(model, spec, prompt, count, temperature, top_k, top_p):
    problems = []
    if not isinstance(model, GPT):
        raise UserError(f"sample: {type(model).__name__} does not write; GPT does")
    if prompt.ndim != 2 or not np.issubdtype(prompt.dtype, np.integer):
        problems.append(f"prompt: {prompt.dtype} {prompt.shape} is given, and tokens (batch, length) are needed")
    elif prompt.size == 0:
        problems.append("prompt: it is empty; give the first token at least")
    elif prompt.min() < 0 or prompt.max() >= spec.tokens:
        wrong = prompt.min() if prompt.min() < 0 else prompt.max()
        problems.append(f"prompt: {wrong} is no token; there are {spec.tokens}, from 0")
    elif (over := prompt.shape[1] + (count or 0) - model.context) > 0:
        what = f"{prompt.shape[1]} tokens" + (f" and {count} more" if count else "")
        problems.append(f"prompt: {what} are longer than the context of {model.context} positions by {over}")
    if count is not None and count < 0:
        problems.append(f"tokens: {count} is less than none")
    if not (temperature >= 0 and math.isfinite(temperature)):
        problems.append(f"temperature: {temperature} is not in [0, inf)")
    if top_k is not None and top_k < 1:
        problems.append(f"top_k: {top_k} leaves no token; 1 is the least")
    if top_p is not None and not 0 < top_p <= 1:
        problems.append(f"top_p: {top_p} is not in (0, 1]")
    if problems:
        raise UserError(*problems)


@functools.partial(jax.jit, static_argnums=0)
def _write_on(
    spec: Spec, model: GPT, parameters, tokens: Array, length: Array, end: Array, key: Array, *how: Array
) -> Array:
    """The tokens (batch, context) with those from `length` to `end` filled in."""
    module = model.module(spec)

    def logits_of(tokens, cache, start):
        logits, changed = module.apply(
            {"params": parameters, **cache}, tokens, train=False, start=start, mutable=["cache"]
        )
        return logits, {"cache": changed["cache"]}

    def step(position, carry):
        tokens, cache, logits = carry
        new = choose(jax.random.fold_in(key, position), logits, *how)[:, None]
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, new, position, axis=1)
        logits, cache = logits_of(new, cache, position)
        return tokens, cache, logits[:, 0]

    logits, cache = logits_of(tokens, {}, jnp.int32(0))  # what is remembered past `length` is written over before use
    last = jax.lax.dynamic_index_in_dim(logits, length - 1, axis=1, keepdims=False)
    tokens, _, _ = jax.lax.fori_loop(length, end, step, (tokens, cache, last))
    return tokens


def choose(key: Array, logits: Array, temperature: Array, top_k: Array, top_p: Array) -> Array:
    """A token (batch,) int32 for each row of logits (batch, tokens)."""
    logits = logits.astype(jnp.float32)
    is_greedy = temperature == 0
    restricted = restrict(logits / jnp.where(is_greedy, 1, temperature), top_k, top_p)
    drawn = jax.random.categorical(key, restricted)
    return jnp.where(is_greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def restrict(logits: Array, top_k: Array, top_p: Array) -> Array:
    """The logits (batch, tokens) with -inf for all but the k likeliest, and of these the fewest that make up p.

    Of equals the first count as likelier.
    """
    order = jnp.argsort(-logits, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    ranked = jnp.where(jnp.arange(logits.shape[-1]) < top_k, ranked, -jnp.inf)
    likely = jax.nn.softmax(ranked)
    is_kept = jnp.cumsum(likely, axis=-1) - likely < top_p
    return jnp.take_along_axis(jnp.where(is_kept, ranked, -jnp.inf), rank, axis=-1)
