"""Paths there and back, and views of stacked leaves."""

import jax
import numpy as np
import pytest

from research.parameters import View, flatten, read, unflatten, views, write

STACKED = {
    "embed/kernel": np.arange(6.0).reshape(2, 3),
    "encoder/block/dense/kernel": np.arange(24.0).reshape(3, 2, 4),
    "encoder/block/dense/bias": np.arange(12.0).reshape(3, 4),
}
STACKS = {"encoder/block": 3}


def test_flatten_and_unflatten_are_inverse_and_keep_the_order():
    nested = {"b": {"kernel": 1, "bias": 2}, "a": {"c": {"d": 3}}}
    assert list(flatten(nested).items()) == [("b/kernel", 1), ("b/bias", 2), ("a/c/d", 3)]
    assert unflatten(flatten(nested)) == nested


@pytest.mark.parametrize("flat", [{"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}, {"a/b/c": 1, "a/b": 2}])
def test_a_path_within_a_path_is_refused(flat):
    with pytest.raises(ValueError, match="lies within"):
        unflatten(flat)


def test_a_name_with_a_slash_is_refused():
    with pytest.raises(ValueError, match="'a/b' in x has a '/'"):
        flatten({"x": {"a/b": 1}})


def test_without_stacks_every_leaf_is_its_own_view():
    assert views(STACKED) == {path: View(path) for path in STACKED}


def test_a_stack_is_seen_as_its_blocks():
    seen = views(STACKED, STACKS)
    assert list(seen)[:2] == ["embed/kernel", "encoder/block_00/dense/kernel"]
    assert seen["encoder/block_02/dense/bias"] == View("encoder/block/dense/bias", 2)
    assert len(seen) == 1 + 3 + 3
    assert list(views({"b/w": np.zeros(101)}, {"b": 101}))[-1] == "b_100/w"
    assert list(views({"b/w": np.zeros(101)}, {"b": 101}))[7] == "b_007/w"


def test_a_stack_may_begin_after_the_first_blocks():
    parameters = {"block_00/w": np.zeros((3, 2)), "block/w": np.arange(4.0).reshape(2, 2)}
    stacks = {"block": range(1, 3)}
    assert list(views(parameters, stacks)) == ["block_00/w", "block_01/w", "block_02/w"]
    np.testing.assert_array_equal(read(parameters, "block_01/w", stacks), [0.0, 1.0])


@pytest.mark.parametrize("path", ["embed/kernel", "encoder/block_01/dense/kernel", "encoder/block_02/dense/bias"])
def test_what_is_written_through_a_view_is_read_again_and_nothing_else_changes(path):
    value = np.full_like(read(STACKED, path, STACKS), 7.0)
    written = write(STACKED, path, value, STACKS)
    for other in views(STACKED, STACKS):
        expected = value if other == path else read(STACKED, other, STACKS)
        np.testing.assert_array_equal(read(written, other, STACKS), expected)


def test_shapes_are_read_without_arrays():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, np.float16), STACKED)
    assert read(shapes, "encoder/block_00/dense/kernel", STACKS) == jax.ShapeDtypeStruct((2, 4), np.float16)


def test_mistakes_are_named():
    with pytest.raises(KeyError, match="encoder/block_03/dense/bias"):
        read(STACKED, "encoder/block_03/dense/bias", STACKS)
    with pytest.raises(ValueError, match=r"has the shape \(4,\), not \(3,\)"):
        write(STACKED, "encoder/block_00/dense/bias", np.zeros(3), STACKS)
    with pytest.raises(ValueError, match=r"of shape \(3, 2, 4\) is in the stack 'encoder/block' of depth 4"):
        views(STACKED, {"encoder/block": 4})
    with pytest.raises(ValueError, match="no parameter is in the stack 'blok'"):
        views(STACKED, {"blok": 3})
    with pytest.raises(ValueError, match="two parameters have the path 'b_00/w'"):
        views({"b/w": np.zeros(1), "b_00/w": np.zeros(1)}, {"b": 1})
