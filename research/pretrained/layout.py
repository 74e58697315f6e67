"""A foreign layout: a table of which of its names goes to which of our paths, that is read in both directions.

    Row("vit.layernorm.weight", ("norm/scale",))                                             as it is
    Row("classifier.weight", ("head/kernel",), TRANSPOSED)                                   (out, in) to (in, out)
    Row("blocks.0.attn.qkv.bias", ("block_00/attention/query/bias", ...key..., ...value...), THIRDS)

The third of a row is a pair of functions, one the inverse of the other bit for bit: loading goes by `here`, saving by
`back`, so that no table is written twice. Most rows come in layers, whose names a layout lists with their kind:

    layers({"layernorm_before": ("norm_0", NORM), "mlp.fc1": ("dense_0", DENSE)}, "vit.encoder.layer.0.", "block_00/")

Our paths are those of an unrolled model; running statistics are at "batch_stats/...", as in a run's model state.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from research.models import Model
from research.models.stack import block_name
from research.pretrained.about import About
from research.spec import Spec

STATE = "batch_stats/"
Arrays = tuple[np.ndarray, ...]


# ---------------------------------------------------------------------------------------------------------------------
# Pairs


class Pair(NamedTuple):
    """What makes ours of theirs, and theirs of ours.

    here(array, model): their tensor to our arrays, as many as the row has paths.
    back(arrays, model): our arrays to their tensor. Neither changes a bit; both are views where they can be.
    """

    here: Callable[[np.ndarray, Model], Arrays]
    back: Callable[[Arrays, Model], np.ndarray]


def permuted(*axes: int) -> Pair:
    """Our axes are these of theirs."""
    inverse = tuple(np.argsort(axes))
    return Pair(lambda array, _: (array.transpose(axes),), lambda arrays, _: arrays[0].transpose(inverse))


def without_ones(count: int) -> Pair:
    """Theirs has `count` axes of one before ours."""
    return Pair(
        lambda array, _: (array.reshape(array.shape[count:]),),
        lambda arrays, _: arrays[0].reshape((1,) * count + arrays[0].shape),
    )


def in_thirds(axis: int, then: Pair | None = None) -> Pair:
    """Theirs holds three of ours one after another along an axis, each being `then`, as queries, keys and values do."""
    then = then or SAME
    return Pair(
        lambda array, model: tuple(then.here(part, model)[0] for part in np.split(array, 3, axis)),
        lambda arrays, model: np.concatenate([then.back((part,), model) for part in arrays], axis),
    )


SAME = Pair(lambda array, _: (array,), lambda arrays, _: arrays[0])
TRANSPOSED = permuted(1, 0)
TO_CHANNELS_LAST = permuted(2, 3, 1, 0)  # OIHW to HWIO
COUNTER = Pair(lambda array, _: (), lambda arrays, _: np.zeros((), np.int64))
"""Of no use to us, as the number of batches that a norm has seen, which torch only reads where it has no momentum."""


# ---------------------------------------------------------------------------------------------------------------------
# Rows


class Row(NamedTuple):
    """One tensor of theirs and the paths of ours that it goes to; none where we have no use for it."""

    theirs: str
    ours: tuple[str, ...]
    pair: Pair = SAME


class Leaf(NamedTuple):
    """One parameter of a kind of layer: its name there and here; here None where we have no use for it."""

    theirs: str
    ours: str | None
    pair: Pair = SAME


Kind = tuple[Leaf, ...]

_BIAS = Leaf("bias", "bias")
DENSE: Kind = (Leaf("weight", "kernel", TRANSPOSED), _BIAS)
CONVOLUTION: Kind = (Leaf("weight", "kernel", TO_CHANNELS_LAST), _BIAS)
CONVOLUTION_WITHOUT_BIAS: Kind = CONVOLUTION[:1]
EMBEDDING: Kind = (Leaf("weight", "embedding"),)
NORM: Kind = (Leaf("weight", "scale"), _BIAS)
BATCH_NORM: Kind = (
    *NORM,
    Leaf("running_mean", f"{STATE}mean"),
    Leaf("running_var", f"{STATE}var"),
    Leaf("num_batches_tracked", None, COUNTER),
)


def layers(table: Mapping[str, tuple[str, Kind]], theirs: str = "", ours: str = "", dot: str = ".") -> Iterator[Row]:
    """The rows of layers {their name: (our path, kind)}; `theirs` and `ours` come before each name and path."""
    for name, (path, kind) in table.items():
        for leaf in kind:
            yield Row(f"{theirs}{name}{dot}{leaf.theirs}", _paths(f"{ours}{path}", leaf.ours), leaf.pair)


def blocks(depth: int) -> Iterator[tuple[int, str]]:
    """(index, our path) of the equal blocks of a model: (0, "block_00"), (1, "block_01"), ..."""
    return ((index, block_name(index, depth)) for index in range(depth))


def _paths(layer: str, leaf: str | None) -> tuple[str, ...]:
    if leaf is None:
        return ()
    return (f"{STATE}{layer}/{leaf.removeprefix(STATE)}",) if leaf.startswith(STATE) else (f"{layer}/{leaf}",)


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


class Layout(NamedTuple):
    """A foreign layout.

    name: what we call it, "transformers-vit".
    rows(model): the table for a model of ours.
    read(about): the model and spec that a file holds, from its config.json and the shapes of its tensors.
    samples: models that between them have every name of the layout, indices apart, by which it is recognised.
    write(model, spec): the config.json that says so; None where the layout has none.
    model_types: what "model_type" may be in its config.json.
    root: what names begin with, but not in a file that holds the trunk alone.
    renamed: (pattern, new) of names that other versions write otherwise.
    unused: patterns of names that have no part in our outputs: heads of other kinds, masks, counters.
    tied: {a name: the other one} of a tensor that may be there twice; it must be the same.
    head: pattern of our paths that a source may lack, and a model without them not miss.
    first: our path of the first convolution, which can be fitted to another number of channels.
    positions: our path of the position embeddings, which can be fitted to another size.
    suffix: of its files.
    """

    name: str
    rows: Callable[[Any], Iterable[Row]]
    read: Callable[[About], tuple[Model, Spec]]
    samples: tuple[Model, ...]
    write: Callable[[Any, Spec], dict] | None = None
    model_types: tuple[str, ...] = ()
    root: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()
    tied: Mapping[str, str] = MappingProxyType({})
    head: str = "head/.*"
    first: str | None = None
    positions: str | None = None
    suffix: str = ".safetensors"

    def is_unused(self, name: str) -> bool:
        """Whether a name of theirs has no part in our outputs."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def is_head(self, paths: tuple[str, ...]) -> bool:
        """Whether parameters of ours belong to the head, so that a source may lack them."""
        return all(re.fullmatch(self.head, path) for path in paths)

    def canonical(self, names: Iterable[str]) -> dict[str, str]:
        """{the name as the table has it: the name in the file}."""
        renamed = {_replaced(name, self.renamed): name for name in names}
        if not self.root or any(name.startswith(self.root) for name in renamed):
            return renamed
        known = self.patterns()
        return {name if plain(name) in known else f"{self.root}{name}": actual for name, actual in renamed.items()}

    def patterns(self) -> set[str]:
        """Every name of the layout, with indices left open."""
        return {plain(row.theirs) for sample in self.samples for row in self.rows(sample)}


def plain(name: str) -> str:
    """A name with its indices left open: "layer.#.weight"."""
    return re.sub(r"\d+", "#", name)


def _replaced(name: str, renamed: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in renamed:
        name = re.sub(pattern, new, name)
    return name
