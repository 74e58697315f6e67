"""Low-rank adapters (Hu et al., 2022): a layer gives W x + scale * (x A) B, and A and B alone are trained.

    with adapting({"block/attention/query": LowRank(scale=2.0, dropout=None)}):
        module.apply(variables, inputs)         # where params/block/attention/query has lora_a and lora_b beside kernel

No model is edited: Flax hands every call of a layer to an interceptor, which adds the product where the layer has A and
B among its parameters. Under a scan they are stacked as the kernel is, and arrive sliced as it does. The gradient of W
is never formed, and x A has but `rank` features.

A is the same layer with `rank` features for its own, a convolution of its window and stride for a convolution; B is a
product of each position's features. So W + scale * A B is what the layer does, as one kernel.
"""

import zlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from research.models.layers import Convolution
from research.ops.dropout import dropout
from research.stacks import PIECE, block_paths

A, B, KEY = "lora_a", "lora_b", "lora_key"


class LowRank(NamedTuple):
    """What is done with A and B of a layer."""

    scale: float | Array
    dropout: float | Array | None = None
    """Share of the inputs of A that is dropped in training."""


class Kernel(NamedTuple):
    """How a layer uses its kernel."""

    inputs: int
    """How many of its first axes are summed over."""
    problem: str = ""
    """Why it can have no adapter."""


def recording(found: dict[str, Kernel]) -> AbstractContextManager:
    """Within it, `found` gets the kernel of each dense and convolutional layer that is called, by the layer's path."""

    def intercept(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        if context.method_name == "__call__" and (kernel := _kernel_of(context.module)) is not None:
            found["/".join(context.module.path)] = kernel
        return outputs

    return nn.intercept_methods(intercept)


def _kernel_of(module: nn.Module) -> Kernel | None:
    match module:
        case nn.Dense():
            return Kernel(1)
        case nn.DenseGeneral():
            problem = "multiplies every example of a batch by a kernel of its own" if module.batch_dims else ""
            return Kernel(len(module.axis) if isinstance(module.axis, tuple | list) else 1, problem)
        case nn.Conv() | Convolution():
            groups = module.feature_group_count if isinstance(module, nn.Conv) else module.groups
            problem = f"is a convolution in {groups} groups, each with its own inputs" if groups > 1 else ""
            return Kernel(module.get_variable("params", "kernel").ndim - 1, problem)
    return None


def adapting(adapters: Mapping[str, LowRank]) -> AbstractContextManager:
    """Within it, layers that have A and B add their product; `adapters` by the path of a layer, its stack uncut."""

    def intercept(call, args, kwargs, context):
        outputs, module = call(*args, **kwargs), context.module
        if context.method_name != "__call__" or not module.has_variable("params", A):
            return outputs
        inputs = args[0] if args else next(iter(kwargs.values()))
        return outputs + _product(module, adapters[_uncut(module.path)], inputs).astype(outputs.dtype)

    return nn.intercept_methods(intercept)


def _product(module: nn.Module, adapter: LowRank, inputs: Array) -> Array:
    """scale * (inputs A) B."""
    a, b = module.get_variable("params", A), module.get_variable("params", B)
    if module.has_variable("params", KEY):
        inputs = dropout(inputs, adapter.dropout, jax.random.wrap_key_data(module.get_variable("params", KEY)))
    first = module.clone(features=a.shape[-1], use_bias=False, parent=None, name=A)
    low = first.apply({"params": {"kernel": a}}, inputs)
    return jnp.tensordot(low * jnp.asarray(adapter.scale, low.dtype), b.astype(low.dtype), 1)


def with_keys(
    variables: Mapping[str, Any], adapters: Mapping[str, LowRank], key: Array | None, stacks: Mapping[str, range]
) -> dict[str, Any]:
    """The variables with a key beside each A whose inputs are dropped, which is that of its block's path.

    stacks: as they are stored, cut or not. A key among the parameters arrives in a scanned block as they do.
    """

    def keys_of(path: tuple[str, ...]) -> Array:
        layer = "/".join(path)
        stack = next((stack for stack in stacks if layer.startswith(f"{stack}/")), None)
        if stack is None:
            return _key_data(key, layer)
        rest = layer.removeprefix(stack)
        return jnp.stack([_key_data(key, f"{block}{rest}") for block in block_paths(stack, stacks[stack])])

    def walk(tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        found = {name: walk(part, (*path, name)) if isinstance(part, Mapping) else part for name, part in tree.items()}
        drops = A in tree and adapters[_uncut(path)].dropout is not None
        return {**found, KEY: keys_of(path)} if drops else found

    return {**variables, "params": walk(variables["params"], ())}


def _key_data(key: Array, path: str) -> Array:
    return jax.random.key_data(jax.random.fold_in(key, zlib.crc32(path.encode())))


def _uncut(path: Iterable[str]) -> str:
    """The path of a layer as it is where no stack is cut: block/dense of block[00:10]/dense."""
    return "/".join(piece[1] if (piece := PIECE.fullmatch(part)) else part for part in path)
