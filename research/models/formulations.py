"""Flax's own layers, as a user's module is made of, in the formulations of `research.ops`.

    with formulated():
        module.apply(variables, inputs)         # nn.Conv, nn.Dense, nn.LayerNorm ... with fast gradients on a CPU

No module is edited: Flax hands every call of a layer to an interceptor, which computes the same function of the same
parameters. A layer with a field that is not as Flax has it by default, `precision` say, and that is not understood
here, is left to Flax; so is one of a class derived from Flax's, and whatever makes parameters. Derivatives
are in reverse mode, as those of our own layers: `jax.jvp` raises.

On two x86 cores a step of plain Flax's networks takes so many milliseconds as it is, and so many like this:

    two 5x5 convolutions, pooling and two dense layers (W1 of experiments/benchmarks)     1287     88
    one 3x3 convolution, pooling and three dense layers (W2)                                14      8
    ResNet-20 with group norms (W4)                                                      20529    445
    GPT of six blocks (W5)                                                                 824    764

XLA has no fast gradient of a convolution within a loop, which a chunk of steps is. Pooling and attention are functions
in Flax, and stay as they are: `research.ops.max_pool` has the faster gradient, with which W1 takes 65 ms.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from research.ops.convolution import convolve
from research.ops.dense import add_bias, dense
from research.ops.normalisation import batch_norm, group_norm, layer_norm, rms_norm

WITHOUT_EFFECT = {"name", "parent", "features", "dtype", "param_dtype", "epsilon"} | {
    f"{name}_init" for name in ("kernel", "bias", "scale")
}
"""Fields that say nothing of how a layer computes, or what every form here heeds."""


def formulated() -> AbstractContextManager:
    """Within it, layers of Flax's are computed by `research.ops`, where there is a form for what they are told."""

    def intercept(call, args, kwargs, context):
        module, outputs = context.module, None
        form = FORMS.get(type(module)) if context.method_name == "__call__" else None
        if form is not None and not module.is_initializing() and len(args) == 1 and kwargs.keys() <= form.told:
            outputs = form.compute(module, args[0], **kwargs)
        return call(*args, **kwargs) if outputs is None else outputs

    return nn.intercept_methods(intercept)


def _is_usual(module: nn.Module, *heeded: str) -> bool:
    """Whether all fields are as Flax has them by default but for those that are heeded."""
    known = WITHOUT_EFFECT.union(heeded)
    told = ((getattr(module, f.name), f.default) for f in dataclasses.fields(module) if f.name not in known)
    return all(not hasattr(value, "shape") and value == default for value, default in told)  # a mask is an array


def _operands(module: nn.Module, inputs: Array) -> tuple[Array, Array, Array | None]:
    """Inputs, kernel and bias in the dtype that they meet in."""
    kernel = module.get_variable("params", "kernel")
    bias = module.get_variable("params", "bias") if module.use_bias else None
    return module.promote_dtype(inputs, kernel, bias, dtype=module.dtype)


def _convolution(module: nn.Conv, inputs: Array) -> Array | None:
    window = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)
    usual = _is_usual(module, "kernel_size", "strides", "padding", "kernel_dilation", "feature_group_count", "use_bias")
    padding = _padding(module.padding, len(window))
    if not usual or padding is None or inputs.ndim != len(window) + 2:
        return None
    inputs, kernel, bias = _operands(module, inputs)
    stride, dilation = (_by_dimension(each, len(window)) for each in (module.strides, module.kernel_dilation))
    outputs = convolve(
        inputs, kernel, stride=stride, padding=padding, dilation=dilation, groups=module.feature_group_count
    )
    return outputs if bias is None else add_bias(outputs, bias)


def _by_dimension(numbers: int | Sequence[int] | None, dimensions: int) -> tuple[int, ...]:
    return (numbers or 1,) * dimensions if numbers is None or isinstance(numbers, int) else tuple(numbers)


def _padding(padding: Any, dimensions: int) -> Any:
    """As `convolve` takes it; None for what it does not know."""
    if isinstance(padding, str):
        return padding if padding in ("SAME", "VALID") else None
    if isinstance(padding, int):
        return ((padding, padding),) * dimensions
    pairs = tuple((each, each) if isinstance(each, int) else tuple(each) for each in padding)
    return pairs if len(pairs) == dimensions and all(low >= 0 and high >= 0 for low, high in pairs) else None


def _dense(module: nn.Dense, inputs: Array) -> Array | None:
    return dense(*_operands(module, inputs)) if inputs.ndim and _is_usual(module, "use_bias") else None


def _scale_and_bias(module: nn.Module, inputs: Array) -> list[Array]:
    """Of a norm that may have none; in float32 at least, as its statistics."""
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)
    both = (("scale", module.use_scale, jnp.ones), ("bias", getattr(module, "use_bias", False), jnp.zeros))
    return [
        jnp.asarray(module.get_variable("params", name) if used else initial(inputs.shape[-1], dtype))
        for name, used, initial in both
    ]


def _as_told(module: nn.Module, inputs: Array, outputs: Array) -> Array:
    """In the dtype that Flax gives: as it is told, or that of inputs and parameters."""
    parameters = [
        module.get_variable("params", name) for name in ("scale", "bias") if module.has_variable("params", name)
    ]
    return outputs.astype(module.dtype or jnp.result_type(inputs, *parameters))


def _layer_norm(module: nn.LayerNorm, inputs: Array) -> Array | None:
    if not _is_usual(module, "use_scale", "use_bias"):
        return None
    return _as_told(module, inputs, layer_norm(inputs, *_scale_and_bias(module, inputs), module.epsilon))


def _rms_norm(module: nn.RMSNorm, inputs: Array) -> Array | None:
    if not _is_usual(module, "use_scale"):
        return None
    return _as_told(module, inputs, rms_norm(inputs, _scale_and_bias(module, inputs)[0], module.epsilon))


def _group_norm(module: nn.GroupNorm, inputs: Array) -> Array | None:
    features = inputs.shape[-1]
    if not _is_usual(module, "use_scale", "use_bias", "num_groups", "group_size") or inputs.ndim < 2:
        return None
    if (module.num_groups is None) == (module.group_size is None):
        return None
    groups = module.num_groups or features / module.group_size
    if groups < 1 or features % groups:
        return None
    outputs = group_norm(inputs, *_scale_and_bias(module, inputs), int(groups), module.epsilon)
    return _as_told(module, inputs, outputs)


def _batch_norm(module: nn.BatchNorm, inputs: Array, use_running_average: bool | None = None) -> Array | None:
    by_averages = module.use_running_average if use_running_average is None else use_running_average
    if by_averages is not False or inputs.ndim < 2:
        return None
    if not _is_usual(module, "use_scale", "use_bias", "momentum", "use_running_average"):
        return None
    outputs, *statistics = batch_norm(inputs, *_scale_and_bias(module, inputs), module.epsilon)
    for name, statistic in zip(("mean", "var"), statistics, strict=True):
        average = module.get_variable("batch_stats", name)
        module.put_variable("batch_stats", name, module.momentum * average + (1 - module.momentum) * statistic)
    return _as_told(module, inputs, outputs)


class Form(NamedTuple):
    """How a class of layers is computed."""

    compute: Callable[..., Array | None]
    """(module, inputs, **told) -> outputs, or None for what it does not understand."""
    told: frozenset[str] = frozenset()
    """What a call may say by name."""


FORMS: Mapping[type, Form] = {
    nn.Conv: Form(_convolution),
    nn.Dense: Form(_dense),
    nn.LayerNorm: Form(_layer_norm),
    nn.RMSNorm: Form(_rms_norm),
    nn.GroupNorm: Form(_group_norm),
    nn.BatchNorm: Form(_batch_norm, frozenset({"use_running_average"})),
}
