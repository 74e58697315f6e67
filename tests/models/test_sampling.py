"""Writing on: what is remembered changes nothing, and what is drawn is what the definition says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.errors import UserError
from research.models import BERT, GPT, network
from research.models.sampling import _write_on, choose, restrict, sample, stream
from research.spec import Spec

TOKENS = 13
SPEC = Spec((12,), TOKENS, ("",) * TOKENS, TOKENS)
KEY = jax.random.key(3)


@functools.cache
def make(scan=False):
    model = GPT(depth=2, width=16, heads=2, context=12, scan=scan, dropout=0.1)
    net = network(model, SPEC)
    parameters = jax.jit(net.init)(jax.random.key(0))["params"]
    return model, jax.tree.map(lambda x: 5 * x, parameters), net


def prompts(batch, length):
    return np.random.default_rng(0).integers(0, TOKENS, (batch, length))


@pytest.mark.parametrize("scan", [False, True])
def test_remembering_gives_the_logits_of_reading_everything_again(scan):
    model, parameters, net = make(scan)
    tokens = jnp.asarray(prompts(2, 12))
    expected = jax.jit(lambda tokens: net.apply({"params": parameters}, tokens, train=False)[0])(tokens)
    module = model.module(SPEC)

    @jax.jit
    def read(tokens, cache, start):
        return module.apply({"params": parameters, **cache}, tokens, train=False, start=start, mutable=["cache"])

    for prompt in (1, 5):
        logits, cache = read(tokens[:, :prompt], {}, jnp.int32(0))
        found = [logits]
        for position in range(prompt, 12):
            logits, cache = read(tokens[:, position : position + 1], cache, jnp.int32(position))
            found.append(logits)
        np.testing.assert_allclose(jnp.concatenate(found, axis=1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_greedy_is_the_likeliest_token_of_each_full_pass(scan):
    model, parameters, net = make(scan)
    tokens = prompts(3, 4)
    ours = sample(model, SPEC, parameters, tokens, KEY, temperature=0)
    assert ours.shape == (3, 8) and ours.dtype == np.int32
    full = jax.jit(lambda tokens: net.apply({"params": parameters}, tokens, train=False)[0])
    for position in range(4, 12):
        logits = full(np.pad(tokens, ((0, 0), (0, 12 - position))))
        tokens = np.concatenate([tokens, np.argmax(logits[:, position - 1], axis=-1)[:, None]], axis=1)
    np.testing.assert_array_equal(ours, tokens[:, 4:])


def test_scanned_and_unrolled_write_the_same_and_more_tokens_begin_alike():
    (model, parameters, _), (scanned, stacked, _) = make(), make(scan=True)
    tokens = prompts(2, 3)
    few = sample(model, SPEC, parameters, tokens, KEY, count=4)
    many = sample(model, SPEC, parameters, tokens, KEY)
    np.testing.assert_array_equal(many[:, :4], few)
    np.testing.assert_array_equal(sample(scanned, SPEC, stacked, tokens, KEY), many)
    assert not np.array_equal(sample(model, SPEC, parameters, tokens, jax.random.key(4)), many)
    assert sample(model, SPEC, parameters, tokens, KEY, count=0).shape == (2, 0)


def test_one_program_serves_all_lengths_and_settings():
    model, parameters, _ = make()
    _write_on.clear_cache()
    for length, how in ((1, {}), (5, {"count": 2, "temperature": 0.5}), (7, {"top_k": 3}), (12, {"top_p": 0.5})):
        sample(model, SPEC, parameters, prompts(2, length), KEY, **how)
    assert _write_on._cache_size() == 1


@pytest.mark.parametrize("at_once", [1, 3])
def test_what_is_handed_out_as_it_is_written_is_the_same(at_once):
    model, parameters, _ = make()
    how = {"temperature": 0.9, "top_k": 7}
    whole = sample(model, SPEC, parameters, prompts(2, 4), KEY, count=7, **how)
    pieces = list(stream(model, SPEC, parameters, prompts(2, 4), KEY, count=7, at_once=at_once, **how))
    assert [piece.shape[1] for piece in pieces[:-1]] == [at_once] * (len(pieces) - 1)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


def allowed(logits, k, p):
    """Which tokens may be drawn, in NumPy: the k likeliest, of these the fewest with a probability of p together."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:k]
    weights = np.exp(logits[order].astype(np.float64) - logits.max())
    together, found = 0.0, set()
    for token, weight in zip(order, weights / weights.sum(), strict=True):
        if together >= p:
            break
        found.add(token)
        together += weight
    return found


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-20, 20), min_size=6, max_size=6), st.integers(1, 8), st.floats(0.01, 1.5), st.integers(0, 99)
)
def test_only_the_likeliest_are_drawn(logits, k, p, seed):
    # Distinct multiples of an odd fraction keep cumulative probabilities off p in both precisions.
    logits = (np.array(logits) * 0.37).astype(np.float32)
    restricted = np.asarray(restrict(jnp.asarray(logits)[None], jnp.int32(k), jnp.float32(p)))[0]
    kept = {token for token in range(6) if np.isfinite(restricted[token])}
    assert allowed(logits, k, p * (1 - 1e-5)) <= kept <= allowed(logits, k, p * (1 + 1e-5))
    np.testing.assert_array_equal(restricted[list(kept)], logits[list(kept)])
    drawn = choose(jax.random.key(seed), jnp.asarray(logits)[None], jnp.float32(1.0), jnp.int32(k), jnp.float32(p))
    assert int(drawn[0]) in kept


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    rows = jnp.broadcast_to(jnp.asarray(logits), (20_000, 4))
    how = jnp.float32(0.5), jnp.int32(3), jnp.float32(1.0)
    counts = np.bincount(np.asarray(choose(KEY, rows, *how)), minlength=4) / 20_000
    squares = np.array([0.5, 0.3, 0.15, 0]) ** 2  # a temperature of 1/2 squares probabilities
    np.testing.assert_allclose(counts, squares / squares.sum(), atol=0.015)


def test_what_cannot_be_is_refused():
    model, parameters, _ = make()

    def refused(message, prompt=None, **how):
        prompt = prompts(1, 4) if prompt is None else prompt
        with pytest.raises(UserError, match=message):
            sample(model, SPEC, parameters, prompt, KEY, **how)

    refused("4 tokens and 9 more are longer than the context of 12 positions by 1", count=9)
    refused("13 tokens are longer than the context of 12 positions by 1", prompts(1, 13))
    refused("it is empty", prompts(1, 0))
    refused("13 is no token; there are 13, from 0", np.array([[1, 13]]))
    refused(r"float64 \(1, 2\) is given, and tokens", np.zeros((1, 2)))
    refused("temperature: -1 is not in", temperature=-1)
    refused("top_k: 0 leaves no token", top_k=0)
    refused(r"top_p: 1.5 is not in \(0, 1\]", top_p=1.5)
    with pytest.raises(UserError, match="BERT does not write; GPT does"):
        sample(dataclasses.replace(BERT(), head="tokens"), SPEC, {}, prompts(1, 2), KEY)
