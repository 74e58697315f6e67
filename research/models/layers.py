"""Layers that several models share: dense, convolution and dropout, and activations by name."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array

from research.errors import UserError
from research.models import in_use
from research.models.norms import norm
from research.ops.convolution import convolve
from research.ops.dense import add_bias, dense
from research.ops.dropout import dropout
from research.ops.once import computed_once

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "elu", "tanh", "sigmoid"]
Initializer = Literal[
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "glorot_normal",
    "glorot_uniform",
    "orthogonal",
    "normal",
]

DEVIATION = 0.02  # of the initialiser "normal", as in GPT-2 and BERT

GAINS: dict[Activation, float] = {
    "relu": math.sqrt(2),
    "gelu": 1.4680,
    "gelu_tanh": 1.4680,
    "silu": 1.5588,
    "elu": 1.2780,
    "tanh": 1.0,
    "sigmoid": 1.0,
}
"""How much wider than 1 / sqrt(fan in) initial weights are, so that a signal keeps its size through the layers.

The gain g of an activation f solves E[f(g z)^2] = 1, z being normal: inputs whose mean square is 1 are followed by
outputs whose mean square is 1. For relu that is the square root of 2 (He et al., 2015). With it gelu and silu die away
with depth, since small numbers they halve: of silu 0.3 % is left after 12 layers. The more usual 1 / sqrt(E[f(z)^2]),
which is 1.53 and 1.68 for those two, is the same for relu, and for them explodes in a first layer that no activation
comes before: by 25 in those 12 layers.

No g does it for tanh and sigmoid, whose outputs are below 1. Theirs is LeCun's (1998); for tanh it is where gradients
neither vanish nor explode with depth (Schoenholz et al., 2017).
"""

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "silu": nn.silu,
    "elu": nn.elu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
}


def activate(name: Activation, inputs: Array) -> Array:
    """The activation of a name; "gelu" is the exact one, by erf, and "gelu_tanh" the approximation of GPT-2."""
    return _ACTIVATIONS[name](inputs)


def initializer(activation: Activation, name: Initializer | None = None) -> Callable:
    """Initial weights of a layer: the initialiser of a name, or the one that suits the activation (see `GAINS`).

    For relu that is "he_normal", for tanh and sigmoid "lecun_normal".
    """
    if name is None:
        return nn.initializers.variance_scaling(GAINS[activation] ** 2, "fan_in", "truncated_normal")
    return nn.initializers.normal(DEVIATION) if name == "normal" else getattr(nn.initializers, name)()


class Dense(nn.Dense):
    """flax's, by `research.ops.dense`, whatever its fields precision and dot_general: for (batch, *positions, in)."""

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return dense(inputs, kernel, bias)


class Convolution(nn.Module):
    """`research.ops.convolution.convolve` with a kernel (*window, in / groups, features) and a bias (features,).

    Padding "SYMMETRIC" is kernel_size // 2 zeros on either side, as weights trained in PyTorch want it: at stride 2 it
    differs from "SAME", which puts the odd zero at the end.

    As in flax's layers, inputs (batch, *spatial, in) and parameters meet in the widest of their dtypes.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: Literal["SAME", "VALID", "SYMMETRIC"] = "SAME"
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        dimensions = inputs.ndim - 2
        window = (self.kernel_size,) * dimensions
        padding = ((self.kernel_size // 2,) * 2,) * dimensions if self.padding == "SYMMETRIC" else self.padding
        kernel = self.param("kernel", self.kernel_init, (*window, inputs.shape[-1] // self.groups, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)
        outputs = convolve(inputs, kernel, stride=self.stride, padding=padding, groups=self.groups)
        return outputs if bias is None else add_bias(outputs, bias)


def convolutions(
    module: nn.Module,
    count: int,
    config: Any,
    outputs: Array,
    features: int,
    train: bool,
    *,
    kernel_size: int,
    padding: str = "SAME",
    residual: bool = False,
) -> Array:
    """Convolutions one after another in a module's `__call__`, with the norm and activation that a config names.

    They are convolution_0, norm_0, convolution_1, ...: inputs (batch, *spatial, in) to (batch, *spatial, features).
    Residual ones are added to their inputs before the activation, where the shapes agree (He et al., 2016). Their
    kernels begin smaller, by the square root of their number, so that the sum does not grow with it. Within an `UpTo`
    the first alone are in use.
    """
    initial = initializer(config.activation, config.initializer)
    depth = in_use.of(count)

    def layer(number: str, inputs: Array) -> Array:
        adds = residual and inputs.shape[-1] == features and padding == "SAME"
        outputs = Convolution(
            features,
            kernel_size,
            padding=padding,
            use_bias=config.norm != "batch",  # batch norm would subtract it
            kernel_init=_smaller(initial, depth) if adds else initial,
            name=f"convolution{number}",
        )(inputs)
        if config.norm is not None:
            outputs = norm(config.norm, features, train, name=f"norm{number}")(outputs)
        if adds:
            return computed_once(activate(config.activation, inputs + outputs))
        return activate(config.activation, outputs)

    if in_use.count() is None or module.is_initializing():
        for index in range(count):
            outputs = layer(f"_{index}", outputs)
        return outputs
    names = {name: functools.partial("{}_{}".format, name) for name in ("convolution", "norm")}
    return in_use.scanned(module, names, range(1, count), lambda _, inputs: layer("", inputs), layer("_0", outputs))


def _smaller(initial: Callable[..., Array], count: int | Array) -> Callable[..., Array]:
    """An initializer whose values are divided by the square root of a number."""
    root = math.sqrt(count) if isinstance(count, int) else jnp.sqrt(count)
    return lambda *arguments, **options: initial(*arguments, **options) / root


def check_positions(name: str, shape: tuple[int, ...]) -> None:
    """Raises UserError unless examples of a shape have positions and features, as images and signals do."""
    if len(shape) < 2:
        raise UserError(f"{name} needs inputs with positions and features, as (28, 28, 1); these have {shape}; use MLP")


class Dropout(nn.Module):
    """Dropout whose rate may be a traced number, which `nn.Dropout` does not take."""

    rate: float | Array

    @nn.compact
    def __call__(self, inputs: Array, train: bool, key: Array | None = None) -> Array:
        """Drawn from the layer's own key unless one is given."""
        if not train:
            return inputs
        return dropout(inputs, self.rate, self.make_rng("dropout") if key is None else key)
