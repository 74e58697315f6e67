"""Normalising layers by name, with a scale and a bias for each feature."""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from research.ops.normalisation import batch_norm, group_norm, layer_norm, rms_norm

Norm = Literal["batch", "group", "layer", "rms"]
TokenNorm = Literal["layer", "rms"]  # those that look at one position at a time


def norm(kind: Norm, features: int, train: bool, name: str) -> nn.Module:
    """The normalising layer of a kind.

    batch: over examples and positions, by running averages (momentum 0.9) when not training (Ioffe and Szegedy, 2015);
    group: over positions and groups of features, 8 groups or as many as divide both (Wu and He, 2018);
    layer: over the features of each position (Ba et al., 2016);
    rms: as layer, without the mean and the bias (Zhang and Sennrich, 2019).
    """
    match kind:
        case "batch":
            return BatchNorm(use_running_average=not train, momentum=0.9, name=name)
        case "group":
            return GroupNorm(math.gcd(8, features), name=name)
        case "layer" | "rms":
            return token_norm(kind, 1e-6, name)
    raise ValueError(f"no norm {kind!r}")


def token_norm(kind: TokenNorm, epsilon: float | Array, name: str) -> nn.Module:
    """The normalising layer of a kind that looks at one position alone, as in transformers."""
    return (LayerNorm if kind == "layer" else RMSNorm)(epsilon, name=name)


def _scale(module: nn.Module, features: int) -> Array:
    """The parameter of a norm."""
    return jnp.asarray(module.param("scale", nn.initializers.ones, (features,)))


def _bias(module: nn.Module, features: int) -> Array:
    """The parameter of a norm."""
    return jnp.asarray(module.param("bias", nn.initializers.zeros, (features,)))


class BatchNorm(nn.BatchNorm):
    """flax's, by `research.ops.normalisation.batch_norm`: its scale, bias and averages are (features,).

    Of flax's fields it is told by use_running_average, momentum and epsilon alone.
    """

    @nn.compact
    def __call__(self, inputs: Array, use_running_average: bool | None = None) -> Array:
        by_averages = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        shape = (inputs.shape[-1],)
        averages = [
            self.variable("batch_stats", name, initial, shape, jnp.float32)
            for name, initial in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        scale, bias = _scale(self, *shape), _bias(self, *shape)
        if by_averages:
            mean, variance = (average.value for average in averages)
            outputs = (inputs - mean) * (lax.rsqrt(variance + self.epsilon) * scale) + bias
            return outputs.astype(jnp.result_type(inputs, scale, bias))
        outputs, *statistics = batch_norm(inputs, scale, bias, self.epsilon)
        if not self.is_initializing():
            for average, statistic in zip(averages, statistics, strict=True):
                average.value = self.momentum * average.value + (1 - self.momentum) * statistic
        return outputs


class GroupNorm(nn.Module):
    """`research.ops.normalisation.group_norm` with a scale and a bias (features,)."""

    groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        features = inputs.shape[-1]
        return group_norm(inputs, _scale(self, features), _bias(self, features), self.groups, self.epsilon)


class LayerNorm(nn.Module):
    """`research.ops.normalisation.layer_norm` with a scale and a bias (features,)."""

    epsilon: float | Array = 1e-6

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        features = inputs.shape[-1]
        return layer_norm(inputs, _scale(self, features), _bias(self, features), self.epsilon)


class RMSNorm(nn.Module):
    """`research.ops.normalisation.rms_norm` with a scale (features,)."""

    epsilon: float | Array = 1e-6

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        return rms_norm(inputs, _scale(self, inputs.shape[-1]), self.epsilon)
