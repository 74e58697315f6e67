"""Parameters are known by their path: "block_03/attention/query/kernel".

    flatten({"head": {"kernel": k, "bias": b}})     == {"head/kernel": k, "head/bias": b}
    unflatten({"head/kernel": k, "head/bias": b})   == {"head": {"kernel": k, "bias": b}}

Equal blocks may be stored stacked: one array "block/dense/kernel" whose first axis is the block. Its blocks keep their
paths all the same, as *views*:

    views(parameters, {"block": 12})["block_03/dense/kernel"]   == View("block/dense/kernel", 3)
    read(parameters, "block_03/dense/kernel", {"block": 12})    == parameters["block/dense/kernel"][3]

Where only the later blocks are equal, a range tells which they are: {"block": range(1, 12)} has block_01 to block_11.

A stack may be cut into pieces, so that its first blocks can be frozen and its last ones trained:

    cut(parameters, {"block": 12}, {"block": (10,)})        {"block[00:10]/dense/kernel": ..., "block[10:12]/...": ...}
    joined(cut(parameters, ...)) == parameters
    views(cut(parameters, ...), {"block[00:10]": range(0, 10), "block[10:12]": range(10, 12)})      the same paths

Leaves may be arrays or `jax.ShapeDtypeStruct`s, but for `write`, which takes arrays.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.stacks import PIECE, as_range, block_paths, pieces

SEPARATOR = "/"


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts -> {path: leaf}, in the same order; empty dicts leave no trace. ValueError for a name with "/"."""
    return dict(_leaves(nested, ()))


def _leaves(tree: Any, parts: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield SEPARATOR.join(parts), tree
        return
    for name, branch in tree.items():
        if SEPARATOR in name:
            raise ValueError(f"the name {name!r} in {SEPARATOR.join(parts) or 'the tree'} has a '{SEPARATOR}' in it")
        yield from _leaves(branch, (*parts, name))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} -> nested dicts. Raises ValueError if one path lies within another, as "a" and "a/b" do."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split(SEPARATOR)
        branch = nested
        for i, parent in enumerate(parents, 1):
            if SEPARATOR.join(parents[:i]) in flat:
                raise ValueError(f"{path!r} lies within {SEPARATOR.join(parents[:i])!r}, which is a leaf")
            branch = branch.setdefault(parent, {})
        branch[name] = leaf
    return nested


class View(NamedTuple):
    """Where a parameter is stored: the whole leaf, or the one of its stacked blocks at `index`."""

    leaf: str
    index: int | None = None


def views(parameters: Mapping[str, Any], stacks: Mapping[str, int | range] | None = None) -> dict[str, View]:
    """Every parameter's path -> where it is stored. `stacks` tells which layers are stacked, and how deep.

    A stack "encoder/block" of depth 12 has the views encoder/block_00 to encoder/block_11. Raises ValueError where a
    leaf has not the depth of its stack, a stack has no leaves, or a view's path is another's already.
    """
    stacks = {name: as_range(blocks) for name, blocks in (stacks or {}).items()}
    found: dict[str, View] = {}
    unused = set(stacks)
    for leaf, value in parameters.items():
        stack = next((name for name in stacks if leaf.startswith(name + SEPARATOR)), None)
        if stack is None:
            new = {leaf: View(leaf)}
        else:
            unused.discard(stack)
            blocks = stacks[stack]
            depth = len(blocks)
            if not value.shape or value.shape[0] != depth:
                raise ValueError(f"{leaf!r} of shape {value.shape} is in the stack {stack!r} of depth {depth}")
            rest = leaf.removeprefix(stack)
            new = {f"{block}{rest}": View(leaf, index) for index, block in enumerate(block_paths(stack, blocks))}
        if clash := found.keys() & new.keys():
            raise ValueError(f"two parameters have the path {min(clash)!r}")
        found.update(new)
    if unused:
        raise ValueError(f"no parameter is in the stack {min(unused)!r}")
    return found


def read(parameters: Mapping[str, Any], path: str, stacks: Mapping[str, int | range] | None = None) -> Any:
    """The parameter at a path, which may be a view. Raises KeyError if there is none."""
    leaf, index = views(parameters, stacks)[path]
    return _at(parameters[leaf], index)


def unstacked(parameters: Mapping[str, Any], stacks: Mapping[str, int | range] | None = None) -> dict[str, Any]:
    """Every parameter by its path, each block of a stack by its own."""
    return {path: _at(parameters[leaf], index) for path, (leaf, index) in views(parameters, stacks).items()}


def _at(value: Any, index: int | None) -> Any:
    if index is None:
        return value
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(value.shape[1:], value.dtype)
    return value[index]


def write(
    parameters: Mapping[str, Any], path: str, value: Any, stacks: Mapping[str, int | range] | None = None
) -> dict[str, Any]:
    """New parameters with `value` at a path, which may be a view. ValueError for a wrong shape, KeyError as `read`."""
    leaf, index = views(parameters, stacks)[path]
    stored = parameters[leaf]
    shape = stored.shape if index is None else stored.shape[1:]
    if jnp.shape(value) != shape:
        raise ValueError(f"{path!r} has the shape {shape}, not {jnp.shape(value)}")
    return {**parameters, leaf: value if index is None else jnp.asarray(stored).at[index].set(value)}


def cut(
    parameters: Mapping[str, Any], stacks: Mapping[str, int | range], points: Mapping[str, Iterable[int]]
) -> dict[str, Any]:
    """The parameters with stacks cut before each of some blocks: {stack: numbers of blocks}."""
    found: dict[str, Any] = {}
    for path, leaf in parameters.items():
        stack = next((name for name in stacks if path.startswith(name + SEPARATOR)), None)
        if stack is None or not points.get(stack):
            found[path] = leaf
            continue
        blocks = as_range(stacks[stack])
        for piece, members in pieces(stack, blocks, points[stack]).items():
            rows = slice(members.start - blocks.start, members.stop - blocks.start)
            found[piece + path.removeprefix(stack)] = _rows(leaf, rows)
    return found


def joined(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the pieces of each stack put together again, in the order of the blocks."""
    found: dict[str, Any] = {}
    parts: dict[str, list[tuple[int, Any]]] = {}
    for path, leaf in parameters.items():
        if (piece := next(_pieces_of(path), None)) is None:
            found[path] = leaf
        else:
            whole, start = piece
            found.setdefault(whole, None)  # in the place of its first piece
            parts.setdefault(whole, []).append((start, leaf))
    for path, pieces_of_it in parts.items():
        found[path] = _together([leaf for _, leaf in sorted(pieces_of_it, key=lambda part: part[0])])
    return found


def _pieces_of(path: str) -> Iterator[tuple[str, int]]:
    """The path of the whole stack's leaf, and the first block, if a path is that of a piece."""
    parts = path.split(SEPARATOR)
    for i, part in enumerate(parts):
        if piece := PIECE.fullmatch(part):
            yield SEPARATOR.join([*parts[:i], piece[1], *parts[i + 1 :]]), int(piece[2])


def _rows(leaf: Any, rows: slice) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((rows.stop - rows.start, *leaf.shape[1:]), leaf.dtype)
    return leaf[rows]


def _together(leaves: list[Any]) -> Any:
    if isinstance(leaves[0], jax.ShapeDtypeStruct):
        blocks = sum(leaf.shape[0] for leaf in leaves)
        return jax.ShapeDtypeStruct((blocks, *leaves[0].shape[1:]), leaves[0].dtype)
    if len(leaves) == 1:
        return leaves[0]
    return (np if isinstance(leaves[0], np.ndarray) else jnp).concatenate(leaves)
