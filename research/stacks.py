"""Names of the blocks that are stored stacked, and of the pieces that a stack may be cut into.

    block_paths("block", range(12))              block_00, ..., block_11
    pieces("block", range(12), [10])             {"block[00:10]": range(0, 10), "block[10:12]": range(10, 12)}
    block_paths("block[10:12]", range(10, 12))   block_10, block_11

A stack is one array a parameter, whose first axis is the block. Cut, it is several, each of which runs as a scan of its
own: so the first ten of twelve blocks can be frozen and cost what frozen blocks cost. A block has the same path
whatever it is stored in.
"""

import re
from collections.abc import Iterable, Mapping

PIECE = re.compile(r"(.*)\[(\d+):(\d+)\]")


def as_range(blocks: int | range) -> range:
    """The blocks of a stack, of which a number says how many there are from 0."""
    return blocks if isinstance(blocks, range) else range(blocks)


def block_paths(stack: str, blocks: range) -> list[str]:
    """The path of each block of a stack, or of a piece of one; the last block of the whole tells how many digits."""
    piece = PIECE.fullmatch(stack)
    name, digits = (piece[1], len(piece[2])) if piece else (stack, _digits(blocks))
    return [f"{name}_{block:0{digits}d}" for block in blocks]


def pieces(stack: str, blocks: range, points: Iterable[int]) -> dict[str, range]:
    """A stack cut before each of some blocks: {name: blocks}; whole, and under its own name, if there are none."""
    points = sorted(set(points))
    if not points:
        return {stack: blocks}
    ends, digits = [*points, blocks.stop], _digits(blocks)
    return {
        f"{stack}[{start:0{digits}d}:{stop:0{digits}d}]": range(start, stop)
        for start, stop in zip([blocks.start, *points], ends, strict=True)
    }


def pieces_among(names: Iterable[str], stack: str, blocks: range) -> dict[str, range]:
    """The pieces of a stack that are among some names, in order; the whole stack if none is."""
    found = [(piece, name) for name in names if (piece := PIECE.fullmatch(name)) and piece[1] == stack]
    ranges = {name: range(int(piece[2]), int(piece[3])) for piece, name in found}
    return dict(sorted(ranges.items(), key=lambda item: item[1].start)) or {stack: blocks}


def pieces_in(parameters: Mapping, stacks: Mapping[str, int | range]) -> dict[str, range]:
    """How the stacks of a model are stored in its nested parameters: {path of a stack or a piece: blocks}."""
    found: dict[str, range] = {}
    for stack, blocks in stacks.items():
        parent, slash, name = stack.rpartition("/")
        branch = parameters
        for part in filter(None, parent.split("/")):
            branch = branch.get(part, {})
        among = pieces_among(branch, name, as_range(blocks))
        found |= {f"{parent}{slash}{piece}": piece_blocks for piece, piece_blocks in among.items()}
    return found


def _digits(blocks: range) -> int:
    return max(2, len(str(blocks.stop - 1)))
