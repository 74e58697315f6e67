"""Residual networks (He, Zhang, Ren and Sun, 2016), for small pictures and for large.

SmallResNet(depth=20)    section 4.2: 3x3 convolutions, three stages of n blocks of two, depth 6 n + 2
                         32x32x3, ten classes: 269,722 parameters; 272,474 with projections for shortcuts
ResNet(depth=50)         sections 3.3 and 4.1, as "v1.5": a bottleneck block's stride is that of its 3x3 convolution
                         224x224x3, 1000 classes, depth 18, 34, 50, 101, 152:
                         11,689,512   21,797,672   25,557,032   44,549,160   60,192,808

stem/convolution, stem/norm, stage_0/block_0/convolution_0, stage_0/block_0/norm_0, ..., stage_1/block_0/shortcut/
convolution, ..., head. Padding is symmetric, as in PyTorch, whose weights fit.
"""

from collections.abc import Iterator
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from research.config import config, structure
from research.models.base import Model
from research.models.layers import Activation, Convolution, Initializer, activate, check_positions, initializer
from research.models.layers import norm as norm_layer
from research.models.norms import Norm
from research.ops.once import computed_once
from research.ops.pooling import global_average_pool, max_pool
from research.spec import Spec

# Table 1 of the paper: blocks in each stage, and whether they are bottlenecks of three convolutions.
LARGE = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
EXPANSION = 4  # of a bottleneck: how much wider its last convolution is than the others

Shortcut = Literal["pad", "project"]


@config
class SmallResNet(Model):
    """The residual network of 6 n + 2 layers for small pictures; `shortcut=None` is the plain network beside it."""

    depth: int = structure(20, "6 n + 2, for n blocks in each of three stages", within="[8, inf)")
    width: int = structure(16, "features of the first stage; the others have 2 and 4 times as many", within="[1, inf)")
    shortcut: Shortcut | None = structure(
        "pad",
        "how an input is added where sizes differ: every other position and features of zero (no parameters; option A "
        "of the paper), or a 1x1 convolution (B); None adds nothing anywhere",
    )
    activation: Activation = structure("relu", "what follows each norm")
    norm: Norm | None = structure("batch", "normalisation after each convolution")
    initializer: Initializer | None = structure(None, "of the kernels; the one that suits the activation if None")
    remat: bool = structure(False, "recompute blocks in the backward pass, to save memory")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.depth % 6 != 2:
            near = max(8, (self.depth - 2 + 3) // 6 * 6 + 2)
            yield "depth", f"{self.depth} is not 6 n + 2, as {near} is"

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data has no positions."""
        check_positions("SmallResNet", spec.shape)
        blocks = (self.depth - 2) // 6
        return _ResNet(self, (blocks,) * 3, False, self.shortcut, _SmallStem, spec.classes)


@config
class ResNet(Model):
    """The residual network of 18 to 152 layers for large pictures, which its stem makes four times smaller."""

    depth: int = structure(50, "18, 34, 50, 101 or 152")
    width: int = structure(64, "features of the stem; the stages have 1, 2, 4 and 8 times as many", within="[1, inf)")
    activation: Activation = structure("relu", "what follows each norm")
    norm: Norm | None = structure("batch", "normalisation after each convolution")
    initializer: Initializer | None = structure(None, "of the kernels; the one that suits the activation if None")
    remat: bool = structure(False, "recompute blocks in the backward pass, to save memory")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.depth not in LARGE:
            yield "depth", f"{self.depth} is none of {', '.join(map(str, LARGE))}"

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data has no positions."""
        check_positions("ResNet", spec.shape)
        blocks, bottleneck = LARGE[self.depth]
        return _ResNet(self, blocks, bottleneck, "project", _LargeStem, spec.classes)


AnyResNet = SmallResNet | ResNet


class _ResNet(nn.Module):
    config: AnyResNet
    blocks: tuple[int, ...]
    bottleneck: bool
    shortcut: Shortcut | None
    stem: type[nn.Module]
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        outputs = self.stem(self.config, train, name="stem")(inputs)
        for index, blocks in enumerate(self.blocks):
            features, stride = self.config.width * 2**index, 1 if index == 0 else 2
            stage = _Stage(
                self.config, blocks, features, stride, self.bottleneck, self.shortcut, train, name=f"stage_{index}"
            )
            outputs = stage(outputs)
        return nn.Dense(self.classes, name="head")(global_average_pool(outputs))


class _SmallStem(nn.Module):
    """One 3x3 convolution at full size."""

    config: AnyResNet
    train: bool

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        outputs = _convolution(self.config, self.config.width, 3, 1, "convolution")(inputs)
        return activate(self.config.activation, _norm(self.config, outputs, self.train, "norm"))


class _LargeStem(nn.Module):
    """A 7x7 convolution and a maximum, both of stride 2."""

    config: AnyResNet
    train: bool

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        outputs = _convolution(self.config, self.config.width, 7, 2, "convolution")(inputs)
        outputs = activate(self.config.activation, _norm(self.config, outputs, self.train, "norm"))
        return max_pool(outputs, 3, stride=2, padding=((1, 1),) * (inputs.ndim - 2))


class _Stage(nn.Module):
    config: AnyResNet
    blocks: int
    features: int
    stride: int
    bottleneck: bool
    shortcut: Shortcut | None
    train: bool

    @nn.compact
    def __call__(self, outputs: Array) -> Array:
        block = nn.remat(_Block) if self.config.remat else _Block
        for index in range(self.blocks):
            stride = self.stride if index == 0 else 1
            outputs = block(
                self.config, self.features, stride, self.bottleneck, self.shortcut, self.train, name=f"block_{index}"
            )(outputs)
        return outputs


class _Block(nn.Module):
    """activation(inputs + norm(convolution(... activation(norm(convolution(inputs)))))): two convolutions or three."""

    config: AnyResNet
    features: int
    stride: int
    bottleneck: bool
    shortcut: Shortcut | None
    train: bool

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        config, features, outputs = self.config, self.features, inputs
        layers = ((features, 3, self.stride), (features, 3, 1))
        if self.bottleneck:
            layers = ((features, 1, 1), (features, 3, self.stride), (features * EXPANSION, 1, 1))
        for index, (width, kernel_size, stride) in enumerate(layers):
            if index > 0:
                outputs = activate(config.activation, outputs)
            outputs = _convolution(config, width, kernel_size, stride, f"convolution_{index}")(outputs)
            outputs = _norm(config, outputs, self.train, f"norm_{index}")
        if self.shortcut is not None:
            return computed_once(activate(config.activation, outputs + self._shortcut(inputs, outputs)))
        return activate(config.activation, outputs)

    def _shortcut(self, inputs: Array, outputs: Array) -> Array:
        if inputs.shape == outputs.shape:
            return inputs
        if self.shortcut == "project":
            return _Projection(self.config, outputs.shape[-1], self.stride, self.train, name="shortcut")(inputs)
        every_other = inputs[:, *((slice(None, None, self.stride),) * (inputs.ndim - 2))]
        more = outputs.shape[-1] - inputs.shape[-1]
        return jnp.pad(every_other, (*((0, 0),) * (inputs.ndim - 1), (0, more)))


class _Projection(nn.Module):
    config: AnyResNet
    features: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        outputs = _convolution(self.config, self.features, 1, self.stride, "convolution")(inputs)
        return _norm(self.config, outputs, self.train, "norm")


def _convolution(config: AnyResNet, features: int, kernel_size: int, stride: int, name: str) -> nn.Module:
    return Convolution(
        features,
        kernel_size,
        stride=stride,
        padding="SYMMETRIC",
        use_bias=config.norm is None,  # a norm has one of its own
        kernel_init=initializer(config.activation, config.initializer),
        name=name,
    )


def _norm(config: AnyResNet, inputs: Array, train: bool, name: str) -> Array:
    return inputs if config.norm is None else norm_layer(config.norm, inputs.shape[-1], train, name=name)(inputs)
