"""Layers that several models share: convolution, dropout, and norms and activations by name."""

import functools
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

from research.ops.convolution import convolve
from research.ops.dropout import dropout

Activation = Literal["relu", "gelu", "silu", "elu", "tanh"]
Norm = Literal["batch", "group", "layer"]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "elu": nn.elu,
    "tanh": nn.tanh,
}


def activate(name: Activation, inputs: Array) -> Array:
    """The activation of a name; "gelu" is the exact one, by erf."""
    return _ACTIVATIONS[name](inputs)


def initializer(activation: Activation) -> Callable:
    """Weights before an activation: He et al. (2015), or LeCun et al. (1998) where it does not halve the variance."""
    return nn.initializers.lecun_normal() if activation == "tanh" else nn.initializers.he_normal()


class Convolution(nn.Module):
    """`research.ops.convolution.convolve` with the parameters kernel (*window, in, features) and bias (features,).

    As in flax's layers, inputs (batch, *spatial, in) and parameters meet in the widest of their dtypes.
    """

    features: int
    kernel_size: int
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        window = (self.kernel_size,) * (inputs.ndim - 2)
        kernel = self.param("kernel", self.kernel_init, (*window, inputs.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)
        outputs = convolve(inputs, kernel)
        return outputs if bias is None else outputs + bias


class Dropout(nn.Module):
    """Dropout whose rate may be a traced number, which `nn.Dropout` does not take."""

    rate: float | Array

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        return dropout(inputs, self.rate, self.make_rng("dropout")) if train else inputs


def norm(kind: Norm, features: int, train: bool, name: str) -> nn.Module:
    """The normalising layer of a kind.

    batch: over examples and positions, by running averages (momentum 0.9) when not training (Ioffe and Szegedy, 2015);
    group: over positions and groups of features, 8 groups or as many as divide both (Wu and He, 2018);
    layer: over the features of each position (Ba et al., 2016).
    """
    match kind:
        case "batch":
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)
        case "group":
            return nn.GroupNorm(num_groups=math.gcd(8, features), name=name)
        case "layer":
            return nn.LayerNorm(name=name)
    raise ValueError(f"no norm {kind!r}")
