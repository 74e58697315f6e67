"""Counts add up, with arrays and without."""

import jax
import jax.numpy as jnp

from research.parameters import Count, by_path, by_prefix, total

PARAMETERS = {
    "a/b/kernel": jnp.zeros((3, 4)),
    "a/b/bias": jnp.zeros((4,), jnp.bfloat16),
    "a/c/scale": jnp.zeros((), jnp.int8),
    "head/kernel": jnp.zeros((4, 2)),
}


def test_counts_by_path_and_prefix_add_up():
    assert by_path(PARAMETERS) == {
        "a/b/kernel": Count(12, 48),
        "a/b/bias": Count(4, 8),
        "a/c/scale": Count(1, 1),
        "head/kernel": Count(8, 32),
    }
    assert by_prefix(PARAMETERS) == {
        "a": Count(17, 57),
        "a/b": Count(16, 56),
        "a/c": Count(1, 1),
        "head": Count(8, 32),
    }
    assert total(PARAMETERS) == Count(25, 89)
    assert total({}) == Count(0, 0)


def test_shapes_count_as_arrays_do():
    assert by_prefix(jax.eval_shape(lambda: PARAMETERS)) == by_prefix(PARAMETERS)
