"""A language model writes on: tokens drawn one after another, each from what the model makes of all before it.

    tokens = sample(model, spec, parameters, prompt, key, count=100, temperature=0.8, top_k=40)
    for some in stream(model, spec, parameters, prompt, key, count=100): ...          # the same, as it is written

Attention needs of earlier tokens only their keys and values. These are remembered, so that a further token costs the
work of one position: the prompt is read in one go, then follows a loop. Lengths are values and not shapes, and so one
compiled program serves every prompt and every number of tokens up to the context.

The token at position p is drawn with a key of (key, p): asking for more tokens does not change the first ones.
"""

import functools
import math
from collections.abc import Iterator, Mapping
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
    how = {"count": count, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    padded, length, end, chosen = _prepared(model, spec, prompt, **how)
    written = _write_on(spec, as_arrays(model), parameters, padded, np.int32(length), np.int32(end), key, *chosen)
    return np.asarray(written)[:, length:end]


def stream(
    model: GPT,
    spec: Spec,
    parameters: Mapping[str, Any],
    prompt: Any,
    key: Array,
    *,
    at_once: int = 4,
    **how: Any,
) -> Iterator[np.ndarray]:
    """What `sample` gives, to the token, in pieces (batch, at_once) as they are written; `how` and errors as there.

    What is remembered stays on the device from one piece to the next.
    """
    padded, length, end, chosen = _prepared(model, spec, prompt, **how)
    carry = _read(spec, as_arrays(model), parameters, padded, np.int32(length))
    for start in range(length, end, at_once):
        stop = min(start + at_once, end)
        carry = _write_some(spec, as_arrays(model), parameters, carry, np.int32(start), np.int32(stop), key, *chosen)
        yield np.asarray(carry[0][:, start:stop])


def _prepared(
    model: GPT,
    spec: Spec,
    prompt: Any,
    *,
    count: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> tuple[np.ndarray, int, int, tuple]:
    """The prompts (batch, context), where they end, where writing does, and how tokens are chosen. Raises UserError."""
    prompt = np.asarray(prompt)
    _check(model, spec, prompt, count, temperature, top_k, top_p)
    length = prompt.shape[1]
    end = model.context if count is None else length + count
    padded = np.zeros((len(prompt), model.context), np.int32)
    padded[:, :length] = prompt
    how = np.float32(temperature), np.int32(spec.tokens if top_k is None else top_k)
    return padded, length, end, (*how, np.float32(math.inf if top_p is None else top_p))


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
    carry = _read(spec, model, parameters, tokens, length)
    return _write_some(spec, model, parameters, carry, length, end, key, *how)[0]


@functools.partial(jax.jit, static_argnums=0)
def _read(spec: Spec, model: GPT, parameters, tokens: Array, length: Array) -> tuple[Array, Any, Array]:
    """The tokens, what is remembered of them, and the logits (batch, tokens) of what comes after the first `length`."""
    logits, cache = _logits_of(spec, model, parameters, tokens, {}, jnp.int32(0))
    # What is remembered past `length` is written over before use.
    return tokens, cache, jax.lax.dynamic_index_in_dim(logits, length - 1, axis=1, keepdims=False)


@functools.partial(jax.jit, static_argnums=0)
def _write_some(
    spec: Spec, model: GPT, parameters, carry: tuple[Array, Any, Array], start: Array, end: Array, key: Array, *how
) -> tuple[Array, Any, Array]:
    """What `_read` gives, with the tokens from `start` to `end` filled in."""

    def step(position, carry):
        tokens, cache, logits = carry
        new = choose(jax.random.fold_in(key, position), logits, *how)[:, None]
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, new, position, axis=1)
        logits, cache = _logits_of(spec, model, parameters, new, cache, position)
        return tokens, cache, logits[:, 0]

    return jax.lax.fori_loop(start, end, step, carry)


def _logits_of(spec: Spec, model: GPT, parameters, tokens: Array, cache: Any, start: Array) -> tuple[Array, Any]:
    """The logits of tokens that begin at `start`, and what is remembered."""
    variables = {"params": parameters, **cache}
    logits, changed = model.module(spec).apply(variables, tokens, train=False, start=start, mutable=["cache"])
    return logits, {"cache": changed["cache"]}


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
