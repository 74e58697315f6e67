"""Where parameters sit: the order in which a network meets them, the block of each, how far it is from the end.

    order = order_of_use(apply, parameters, inputs)        # positions, block_00/..., ..., norm, head
    blocks(order)                                          # block_00, block_01, ...; stage_0/block_0, ...
    heights(order)["block_10/dense/kernel"]                # 2 of 12 blocks: the last is 1, what comes after it is 0

A block is the innermost numbered layer around a layer, stage_0/block_1 of stage_0/block_1/norm/scale; where there is
none at all, as in LeNet, the numbered layers themselves are blocks, but for norms, which have scales and biases alone.
Paths are those of `views`, the same for a stack that is stored stacked as for one that is not.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

from research.parameters.paths import SEPARATOR, views

OF_NORMS = (f"{SEPARATOR}scale", f"{SEPARATOR}bias")


def order_of_use(
    function: Callable[..., Any],
    parameters: Mapping[str, Any],
    *arguments: Any,
    stacks: Mapping[str, int | range] | None = None,
) -> tuple[str, ...]:
    """The paths of parameters in the order in which `function(parameters, *arguments)` first uses them.

    Nothing is computed. Blocks of a stack follow one another; what is not used at all comes last.
    """
    parameters = dict(parameters)
    program = jax.make_jaxpr(function)(parameters, *arguments).jaxpr
    leaves = sorted(parameters)  # as jax takes them out of a dict
    names = dict(zip(program.invars, leaves, strict=False))
    first: dict[str, int] = {}
    for i, equation in enumerate(program.eqns):
        for operand in equation.invars:
            if not isinstance(operand, Literal) and operand in names:
                first.setdefault(names[operand], i)
    found = views(parameters, stacks)
    last = len(program.eqns)
    return tuple(sorted(found, key=lambda path: (first.get(found[path].leaf, last), found[path].index or 0)))


def block_of(path: str) -> str | None:
    """The innermost numbered layer around a parameter's layer, if there is one."""
    around = path.rpartition(SEPARATOR)[0].rpartition(SEPARATOR)[0]
    while around and not re.search(r"\d$", around):
        around = around.rpartition(SEPARATOR)[0]
    return around or None


def blocks(order: Sequence[str]) -> dict[str, list[str]]:
    """The parameters of each block, {block: paths}, in the order of use."""
    found: dict[str, list[str]] = {}
    for path in order:
        if (block := block_of(path)) is not None:
            found.setdefault(block, []).append(path)
    if found:
        return found
    layers = [path.rpartition(SEPARATOR)[0] for path in order]
    more_than_norms = {layer for path, layer in zip(order, layers, strict=True) if not path.endswith(OF_NORMS)}
    for path, layer in zip(order, layers, strict=True):
        if re.search(r"\d$", layer) and layer in more_than_norms:
            found.setdefault(layer, []).append(path)
    return found


def heights(order: Sequence[str]) -> dict[str, int]:
    """How many blocks a parameter is from the end: 0 after the last block, 1 in it, one more than there are before all.

    What is used between two blocks counts with the earlier one.
    """
    members = blocks(order)
    of_block = {path: len(members) - i for i, paths in enumerate(members.values()) for path in paths}
    found, reached = {}, len(members) + 1
    for path in order:
        reached = min(reached, of_block.get(path, reached))
        found[path] = of_block.get(path, reached)
    last = max((i for i, path in enumerate(order) if path in of_block), default=-1)
    return found | {path: 0 for path in order[last + 1 :]}
