"""Equal blocks one after another: unrolled, or scanned over stacked parameters, with the same values either way.

    outputs = stack(self, Block, {"config": config}, outputs, range(12), depth=12, keys=keys_of(self, dropout=train))

Unrolled, a stack has the layers block_00, block_01, ...; scanned, it has one layer "block" whose parameters have the
block for their first axis, and `parameters.paths.views` gives them the unrolled paths. A scan is traced and compiled
once for any depth. Where the parameters come cut into pieces, "block[00:10]" and "block[10:12]", each piece is a scan.

So that both draw the same initial weights and the same dropout, blocks take their keys as an argument, and a block's
keys are a function of its index and of the layer's name within it, whatever Flax would make of the paths.
"""

import contextlib
import contextvars
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from research.models import in_use
from research.stacks import pieces_among


class Keys(NamedTuple):
    """What a block may draw from: `weights` while parameters are made, `dropout` while there is dropout."""

    weights: Array | None
    dropout: Array | None

    def of_block(self, index: int | Array) -> "Keys":
        """The keys of one block of a stack."""
        return jax.tree.map(lambda key: jax.random.fold_in(key, index), self)

    def initializer(self, initial: Callable, layer: str) -> Callable:
        """An initialiser that draws what `initial` would from the block's key and the layer's name."""
        if self.weights is None:
            return initial
        return lambda _, *shape_and_dtype: initial(_fold_name(self.weights, layer), *shape_and_dtype)

    def of_dropout(self, layer: str) -> Array | None:
        """The key of a dropout layer of the block; None where there is none."""
        return None if self.dropout is None else _fold_name(self.dropout, layer)


def keys_of(module: nn.Module, *, dropout: bool) -> Keys:
    """The keys that a module at work may hand to the blocks within it."""
    return Keys(
        weights=module.make_rng("params") if module.is_initializing() else None,
        dropout=module.make_rng("dropout") if dropout else None,
    )


def _fold_name(key: Array, name: str) -> Array:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


Look = Callable[[str, Array], Array]
_look: contextvars.ContextVar[Look] = contextvars.ContextVar("who sees what comes to blocks")


@contextlib.contextmanager
def entering(look: Look) -> Iterator[None]:
    """Within it, blocks are given `look(path, outputs)` in the place of the outputs that come to them.

    Of scanned ones the path is that of their stack, or of a piece of it. Flax knows of no call of theirs from the
    outside, nor where blocks are computed again in the backward pass (`remat`).
    """
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


def stack(
    module: nn.Module,
    block: type[nn.Module],
    arguments: Mapping[str, Any],
    outputs: Array,
    indices: range,
    *,
    depth: int,
    keys: Keys,
    shared: tuple[Any, ...] = (),
    scan: bool = False,
    remat: bool = False,
) -> Array:
    """The outputs of the blocks of `indices`, each `block(**arguments)(outputs, keys, *shared)`, one after another.

    `depth` is that of the whole network, which has other blocks too where `indices` are not all of its blocks.
    To be called in the compact `__call__` of `module`. `remat` computes each block again in the backward pass. Within
    an `UpTo` the first blocks alone are in use.
    """
    if remat:
        block = nn.remat(block, prevent_cse=not scan)  # a scan's body is not merged with what is outside anyway

    def of(name: str, index: int | Array, outputs: Array) -> Array:
        return block(**arguments, name=name)(outputs, keys.of_block(index), *shared)

    def entered(name: str, outputs: Array) -> Array:
        look = _look.get(None)
        return outputs if look is None else look("/".join((*module.path, name)), outputs)

    if in_use.count() is not None and any(indices) and not module.is_initializing():  # the block 0 always is
        names = {"block": functools.partial(block_name, depth=depth)}
        return in_use.scanned(module, names, indices, functools.partial(of, "block"), outputs)
    if not scan or not indices:
        for index in indices:
            name = block_name(index, depth)
            outputs = of(name, index, entered(name, outputs))
        return outputs

    def body(block, outputs, keys, *shared):
        return block(outputs, keys, *shared), None

    for name, piece in pieces_among(module.variables.get("params", {}), "block", indices).items():
        scanned = nn.scan(
            body,
            variable_axes={"params": 0, "batch_stats": 0, "cache": 0, "intermediates": 0},
            split_rngs={"params": False},
            in_axes=(0, *(nn.broadcast for _ in shared)),
            length=len(piece),
        )
        of_blocks = jax.vmap(keys.of_block)(jnp.arange(piece.start, piece.stop))
        outputs, _ = scanned(block(**arguments, name=name), entered(name, outputs), of_blocks, *shared)
    return outputs


def block_name(index: int, depth: int) -> str:
    """block_00, or with as many digits as the last index of a stack of a depth has."""
    return f"block_{index:0{max(2, len(str(depth - 1)))}d}"
