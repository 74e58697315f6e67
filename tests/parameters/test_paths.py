"""Paths there and back, and views of stacked leaves."""

import jax
import numpy as np
import pytest

from research.parameters import View, cut, flatten, joined, read, unflatten, views, write

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


@pytest.mark.parametrize("kind", ["arrays", "shapes"])
def test_a_stack_is_cut_and_joined_bit_for_bit(kind):
    block = np.arange(12, dtype=np.float32).reshape(4, 3)
    block[1, 1:] = np.array([0x80000000, 0x7FC12345], np.uint32).view(np.float32)  # -0.0 and a NaN with a message
    parameters = {"block/kernel": block, "head": np.ones(2)}
    if kind == "shapes":
        parameters = jax.eval_shape(lambda: parameters)
    pieces = cut(parameters, {"block": range(1, 5)}, {"block": (2, 4)})
    assert {path: leaf.shape for path, leaf in pieces.items()} == {
        "block[01:02]/kernel": (1, 3),
        "block[02:04]/kernel": (2, 3),
        "block[04:05]/kernel": (1, 3),
        "head": (2,),
    }
    stacks = {"block[01:02]": range(1, 2), "block[02:04]": range(2, 4), "block[04:05]": range(4, 5)}
    assert list(views(pieces, stacks)) == list(views(parameters, {"block": range(1, 5)}))
    whole = joined(dict(reversed(pieces.items())))
    assert whole.keys() == parameters.keys()
    assert whole["block/kernel"].shape == (4, 3)
    if kind == "arrays":
        assert whole["block/kernel"].tobytes() == block.tobytes()
        np.testing.assert_array_equal(read(pieces, "block_03/kernel", stacks), block[2])


def test_nothing_to_cut_is_left_alone():
    parameters = {"block/kernel": np.ones((3, 2)), "block_00/kernel": np.ones(2)}
    assert cut(parameters, {"block": range(1, 4)}, {"block": ()}) == parameters
    assert joined(parameters) == parameters


def test_blocks_of_deep_stacks_keep_their_digits_in_pieces():
    parameters = {"block/kernel": np.zeros((120, 1))}
    pieces = cut(parameters, {"block": 120}, {"block": (7,)})
    assert list(pieces) == ["block[000:007]/kernel", "block[007:120]/kernel"]
    stacks = {"block[000:007]": range(7), "block[007:120]": range(7, 120)}
    assert list(views(pieces, stacks)) == list(views(parameters, {"block": 120}))
