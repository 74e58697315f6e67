"""Low-rank adapters among parameters: which kernels have one, what it begins as, and what the two come to together.

    LoRA("attention/(query|value)/kernel", rank=8, alpha=16.0)

An adapter is two parameters beside the kernel, block_03/attention/query/lora_a and .../lora_b, and trained, counted,
stored and saved as any other. The layer acts as if its kernel were

    kernel + alpha / rank * tensordot(lora_a, lora_b, 1)

lora_b begins as zero, and so the network as it was. A kernel (in, out) has factors (in, rank) and (rank, out); one of
attention heads (in, heads, features) has (in, rank) and (rank, heads, features); one of a convolution
(height, width, in, out) has (height, width, in, rank) and (rank, out). Stacked, each has the block for its first axis.
"""

import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike

from research.config import config, leaf, structure
from research.errors import UserError, did_you_mean
from research.models.adapters import A, B, Kernel, LowRank
from research.parameters.partition import listed
from research.parameters.paths import SEPARATOR, read, views

KERNEL = "kernel"


@config
class LoRA:
    """A low-rank adapter of each of some kernels (Hu et al., 2022); what has one is frozen, and the adapter trained."""

    pattern: str = structure("", "regular expression for the ends of the kernels' paths: attention/query/kernel")
    rank: int = structure(8, "features between the two factors", within="[1, inf)")
    alpha: float = leaf(16.0, "what the product of the factors is multiplied by, times the rank", within="(0, inf)")
    dropout: float | None = leaf(None, "share of the inputs of an adapter that is dropped in training", within="[0, 1)")

    def __init__(self, pattern: str = "", rank: int = 8, alpha: float | int = 16.0, dropout: float | None = None):
        for name, value in (("pattern", pattern), ("rank", rank), ("alpha", alpha), ("dropout", dropout)):
            object.__setattr__(self, name, value)
        self.__post_init__()

    def problems(self) -> Iterator[tuple[str, str]]:
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield "pattern", f"'{self.pattern}' is no regular expression: {error}"

    def __str__(self) -> str:
        return f"LoRA('{self.pattern}', rank={self.rank})"

    @property
    def low_rank(self) -> LowRank:
        """What a layer does with the factors; leaves may be traced."""
        return LowRank(self.alpha / self.rank, self.dropout)


def adapted(
    adapters: Sequence[LoRA],
    parameters: Mapping[str, Any],
    kernels: Mapping[str, Kernel],
    stacks: Mapping[str, int | range] | None = None,
) -> dict[str, int]:
    """Which of the adapters each layer has that has one: {path of the layer as it is stored: index}.

    parameters: arrays or shapes, as the model stores them; kernels: as `models.base.kernels` gives them.
    Raises UserError with a line for each adapter that is of nothing or of what can have none, for kernels of which
    there are two, and for a stack that has one for some of its blocks alone.
    """
    found, problems = views(parameters, stacks), []
    chosen: dict[str, list[int]] = {}
    for i, adapter in enumerate(adapters):
        if wrong := [text for _, text in adapter.problems()]:
            problems.append(f"adapters.{i}.pattern: {wrong[0]}")
            continue
        matching = [path for path in found if re.fullmatch(f"(?:.*/)?(?:{adapter.pattern})", path)]
        if not matching:
            known = [path for path, view in found.items() if _layer(view.leaf) in kernels and path.endswith(KERNEL)]
            ends = {path[slash.end() :] for path in known for slash in re.finditer(SEPARATOR, path)}
            problems.append(f"adapters: {adapter} matches no parameter{did_you_mean(adapter.pattern, {*known, *ends})}")
        problems += _unadaptable(adapter, {path: found[path].leaf for path in matching}, kernels)
        for path in matching:
            chosen.setdefault(path, []).append(i)
    if twice := [path for path, by in chosen.items() if len(by) > 1]:
        by = " and ".join(str(adapters[i]) for i in chosen[twice[0]])
        problems.append(f"adapters: {listed(twice)}: a kernel has one adapter, and {by} match")
    members: dict[str, list[list[int]]] = {}
    for path, view in found.items():
        members.setdefault(view.leaf, []).append(chosen.get(path, []))
    for leaf_path, by_block in members.items():
        if any(each != by_block[0] for each in by_block):
            problems.append(
                f"adapters: {leaf_path} holds {len(by_block)} blocks, of which only some match, or not the same "
                "adapter; match all of them, or store them apart with model.scan=False"
            )
    if problems:
        raise UserError(*problems)
    return {_layer(leaf_path): by_block[0][0] for leaf_path, by_block in members.items() if by_block[0]}


def _unadaptable(adapter: LoRA, matching: Mapping[str, str], kernels: Mapping[str, Kernel]) -> Iterator[str]:
    """A line for each reason why some of what an adapter matches can have none. matching: {path: where stored}."""
    reasons: dict[str, list[str]] = {}
    for path, leaf_path in matching.items():
        kernel = kernels.get(_layer(leaf_path))
        if kernel is None or not leaf_path.endswith(f"{SEPARATOR}{KERNEL}"):
            reasons.setdefault("is no kernel of a dense, attention or convolutional layer", []).append(path)
        elif kernel.problem:
            reasons.setdefault(kernel.problem, []).append(path)
    for reason, paths in reasons.items():
        yield f"adapters: {adapter} matches {listed(paths)}, which {reason}"


def _layer(path: str) -> str:
    return path.rpartition(SEPARATOR)[0]


# ---------------------------------------------------------------------------------------------------------------------
# Their parameters


def shapes(
    of: Mapping[str, int],
    adapters: Sequence[LoRA],
    parameters: Mapping[str, Any],
    kernels: Mapping[str, Kernel],
    stacks: Mapping[str, int | range] | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the factors, {path: shape and dtype}. of: as `adapted` gives it."""
    found = {}
    for layer, index in of.items():
        kernel = parameters[f"{layer}{SEPARATOR}{KERNEL}"]
        blocks = int(any(layer.startswith(f"{stack}{SEPARATOR}") for stack in stacks or ()))  # axes of them
        middle, rank = blocks + kernels[layer].inputs, adapters[index].rank
        found[f"{layer}{SEPARATOR}{A}"] = jax.ShapeDtypeStruct((*kernel.shape[:middle], rank), kernel.dtype)
        second = (*kernel.shape[:blocks], rank, *kernel.shape[middle:])
        found[f"{layer}{SEPARATOR}{B}"] = jax.ShapeDtypeStruct(second, kernel.dtype)
    return found


def initial(key: Array, forms: Mapping[str, Any], stacks: Mapping[str, int | range] | None = None) -> dict[str, Array]:
    """New factors of these shapes: the first uniform within 1 / sqrt(fan in) of zero, the second zero.

    A factor is a function of the key and of the path of its block, however it is stored.
    """

    def factor(path: str, shape: tuple[int, ...], dtype: Any) -> Array:
        if path.endswith(B):
            return jnp.zeros(shape, dtype)
        bound = 1 / math.sqrt(math.prod(shape[:-1]))
        return jax.random.uniform(jax.random.fold_in(key, zlib.crc32(path.encode())), shape, dtype, -bound, bound)

    inside = {name: blocks for name, blocks in (stacks or {}).items() if any(p.startswith(f"{name}/") for p in forms)}
    members: dict[str, list[Array]] = {}
    for path, view in views(forms, inside).items():
        form = read(forms, path, inside)
        members.setdefault(view.leaf, []).append(factor(path, form.shape, form.dtype))
    return {
        path: jnp.stack(arrays) if arrays[0].shape != forms[path].shape else arrays[0]
        for path, arrays in members.items()
    }


def merge(parameters: Mapping[str, Any], scales: Mapping[str, Any]) -> dict[str, Any]:
    """Plain parameters: kernels with their adapters added, and no adapters. scales: alpha / rank by layer."""
    found = {path: value for path, value in parameters.items() if path.rpartition(SEPARATOR)[2] not in (A, B)}
    for layer, scale in scales.items():
        kernel, a, b = (parameters[f"{layer}{SEPARATOR}{name}"] for name in (KERNEL, A, B))
        is_stacked = a.ndim + b.ndim - 2 > kernel.ndim
        product = jax.vmap(_product)(a, b) if is_stacked else _product(a, b)
        found[f"{layer}{SEPARATOR}{KERNEL}"] = kernel + scale * product
    return found


def _product(a: ArrayLike, b: ArrayLike) -> Array:
    return jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
