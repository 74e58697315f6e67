"""Attention: the definition in float64, position by position, and what may not be seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.ops.attention import attend, attention, attention_weights


def arrays(queries=4, keys=4, heads=2, features=3, outputs=5):
    random = np.random.default_rng(0)
    shapes = ((2, queries, heads, features), (2, keys, heads, features), (2, keys, heads, outputs))
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def definition(query, key, value, seen):
    """`seen(n, q, k)`: whether a query of an example sees a key."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    outputs = np.zeros((*query.shape[:-1], value.shape[-1]))
    for n, q, h in np.ndindex(query.shape[:-1]):
        visible = [k for k in range(key.shape[1]) if seen(n, q, k)]
        weights = np.exp([query[n, q, h] @ key[n, k, h] / np.sqrt(query.shape[-1]) for k in visible])
        outputs[n, q, h] = sum(w * value[n, k, h] for w, k in zip(weights / weights.sum(), visible, strict=True))
    return outputs


@pytest.mark.parametrize("queries", [4, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_definition(queries, causal):
    operands = arrays(queries=queries)
    expected = definition(*operands, lambda n, q, k: not causal or k <= q + 4 - queries)
    np.testing.assert_allclose(attention(*map(jnp.asarray, operands), causal=causal), expected, rtol=1e-5, atol=1e-6)


def test_padding_is_not_seen():
    operands, visible = arrays(), np.array([[True, True, False, True], [True, False, False, False]])
    expected = definition(*operands, lambda n, q, k: visible[n, k])
    ours = attention(*map(jnp.asarray, operands), visible=jnp.asarray(visible))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_later_key_gets_no_gradient_from_an_earlier_query():
    query, key, value = map(jnp.asarray, arrays())
    gradient = jax.grad(lambda v: attention(query, key, v, causal=True)[:, :2].sum())(value)
    assert np.all(gradient[:, 2:] == 0)
    assert np.all(np.abs(gradient[:, 0]) > 0)


def test_nothing_visible_is_finite():
    operands = map(jnp.asarray, arrays())
    assert np.all(np.isfinite(attention(*operands, visible=jnp.zeros((2, 4), bool))))


def test_bfloat16_in_is_bfloat16_out():
    operands = [jnp.asarray(array, jnp.bfloat16) for array in arrays()]
    assert attention(*operands, causal=True).dtype == jnp.bfloat16


def test_more_queries_than_keys_cannot_be_causal():
    with pytest.raises(ValueError, match=r"5 queries \(2, 5, 2, 3\) for 4 keys \(2, 4, 2, 3\) cannot be causal"):
        attention(*map(jnp.asarray, arrays(queries=5)), causal=True)


def test_weights_are_shares_and_reading_with_them_is_attention():
    query, key, value = map(jnp.asarray, arrays())
    weights = attention_weights(query, key, causal=True)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert not np.triu(np.asarray(weights), 1).any()
    np.testing.assert_allclose(attend(weights, value), attention(query, key, value, causal=True), rtol=1e-5, atol=1e-6)


PADDED = {"none": None, "some": [70, 41], "all of one": [70, 0]}
"""How many of 70 keys there are, by example."""


@pytest.mark.parametrize("there", PADDED.values(), ids=PADDED)
@pytest.mark.parametrize(("causal", "queries"), [(False, 50), (True, 70), (True, 65), (True, 1)])
def test_in_blocks_outputs_and_gradients_are_those_of_the_weights(causal, queries, there):
    with jax.enable_x64(True):
        operands = [jnp.asarray(array, jnp.float64) for array in arrays(queries=queries, keys=70)]
        visible = None if there is None else jnp.arange(70) < np.array(there)[:, None]
        upon = jnp.asarray(np.random.default_rng(1).normal(size=(2, queries, 2, 5)))

        def of_weights(query, key, value, **how):
            return attend(attention_weights(query, key, **how), value)

        def told(read):
            def loss(*operands):
                outputs = read(*operands, causal=causal, visible=visible)
                return (jnp.sin(outputs) * upon).sum(), outputs

            def steepness(*operands):  # of the second order
                return sum((jnp.cos(each) ** 2).sum() for each in jax.grad(loss, (0, 1, 2), has_aux=True)(*operands)[0])

            return *jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*operands), jax.grad(steepness, (0, 1, 2))(
                *operands
            )

        for ours, expected in zip(jax.tree.leaves(told(attention)), jax.tree.leaves(told(of_weights)), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("positions", "share"), [(16, 1), (64, 3 / 4), (128, 5 / 8), (130, 5 / 8)])
def test_scores_that_no_query_may_see_are_not_computed(positions, share):
    def exponentials(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "exp":
                yield equation.outvars[0].aval.size
            for inner in equation.params.values():
                inner = getattr(inner, "jaxpr", inner)
                yield from exponentials(inner) if hasattr(inner, "eqns") else ()

    def scores(causal):
        operand = jax.ShapeDtypeStruct((2, positions, 3, 4), jnp.float32)
        return sum(exponentials(jax.make_jaxpr(functools.partial(attention, causal=causal))(*[operand] * 3).jaxpr))

    assert abs(scores(True) / scores(False) - share) < 0.01


def test_weights_are_not_kept_for_the_gradients():
    operand = jax.ShapeDtypeStruct((2, 100, 3, 4), jnp.float32)
    kept = jax.eval_shape(lambda *operands: jax.vjp(attention, *operands)[1], operand, operand, operand)
    assert sum(array.size for array in jax.tree.leaves(kept)) == 2 * 100 * 3 * (4 * 4 + 2)


@pytest.mark.parametrize("causal", [False, True])
def test_in_16_bits_outputs_and_gradients_are_those_of_the_definition(causal):  # by cuDNN where there is one
    shape, random = (2, 64, 2, 16), np.random.default_rng(0)
    operands = [jnp.asarray(random.normal(size=shape), jnp.bfloat16) for _ in range(3)]
    upon = random.normal(size=shape).astype(np.float32)

    def loss(operands, dtype):
        query, key, value = (array.astype(dtype) for array in operands)
        return (attention(query, key, value, causal=causal).astype(jnp.float32) * upon).sum()

    expected = definition(*operands, lambda n, q, k: not causal or k <= q)
    ours = jax.jit(functools.partial(attention, causal=causal))(*operands)
    np.testing.assert_allclose(np.asarray(ours, np.float64), expected, atol=0.03)
    low, high = (jax.jit(jax.grad(loss), static_argnums=1)(operands, dtype) for dtype in (jnp.bfloat16, jnp.float32))
    for ours, exact in zip(low, high, strict=True):
        difference = np.linalg.norm(np.asarray(ours, np.float64) - np.asarray(exact, np.float64))
        assert difference < 0.02 * np.linalg.norm(np.asarray(exact, np.float64))
