"""Depthwise separable convolutions: MobileNet (Howard et al., 2017) and any smaller.

SeparableNet()                                        4,231,976 parameters at 224x224x3 with 1000 classes
SeparableNet(depth=18, width=16, stem_stride=1)       for small pictures

A k x k convolution of C to F features is taken apart into one k x k window for each feature, which sees its own
feature alone, and a 1x1 convolution that mixes features: k^2 C + C F weights in place of k^2 C F.

stem/convolution, stem/norm, block_00/depthwise, block_00/norm_0, block_00/pointwise, block_00/norm_1, ..., head
"""

from collections.abc import Iterator

import flax.linen as nn
from jax import Array

from research.config import config, structure
from research.models.base import Model
from research.models.layers import Activation, Convolution, Initializer, activate, check_positions, initializer
from research.models.layers import norm as norm_layer
from research.models.norms import Norm
from research.ops.pooling import global_average_pool
from research.spec import Spec

# Table 1 of the paper: (width as a multiple of the stem's, stride) of each block, but for the repeated ones between.
FIRST = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2))
REPEATED = (16, 1)
LAST = ((32, 2), (32, 1))
LEAST_DEPTH = 2 + 2 * (len(FIRST) + len(LAST))


@config
class SeparableNet(Model):
    """Blocks of a depthwise and a pointwise convolution, four of which halve the picture: MobileNet-v1."""

    depth: int = structure(28, "stem, two for each block, and head: even, 18 or more", within=f"[{LEAST_DEPTH}, inf)")
    width: int = structure(32, "features of the stem; the last blocks have 32 times as many", within="[1, inf)")
    kernel_size: int = structure(3, "positions a depthwise kernel covers in each dimension", within="[1, inf)")
    stem_stride: int = structure(2, "stride of the first convolution; 1 for small pictures", within="[1, inf)")
    activation: Activation = structure("relu", "what follows each norm")
    norm: Norm | None = structure("batch", "normalisation after each convolution")
    initializer: Initializer | None = structure(None, "of the kernels; the one that suits the activation if None")
    remat: bool = structure(False, "recompute blocks in the backward pass, to save memory")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.depth % 2:
            yield "depth", f"{self.depth} is odd; a block has two layers, and stem and head are two more"

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data has no positions."""
        check_positions("SeparableNet", spec.shape)
        return _SeparableNet(self, spec.classes)


class _SeparableNet(nn.Module):
    config: SeparableNet
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        config = self.config
        repeated = (config.depth - LEAST_DEPTH) // 2
        block = nn.remat(_Block) if config.remat else _Block
        outputs = _Stem(config, train, name="stem")(inputs)
        for index, (wider, stride) in enumerate((*FIRST, *(REPEATED,) * repeated, *LAST)):
            outputs = block(config, config.width * wider, stride, train, name=f"block_{index:02d}")(outputs)
        return nn.Dense(self.classes, name="head")(global_average_pool(outputs))


class _Stem(nn.Module):
    config: SeparableNet
    train: bool

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        config = self.config
        outputs = _convolution(config, config.width, 3, "convolution", stride=config.stem_stride)(inputs)
        return _norm_and_activation(config, outputs, self.train, "norm")


class _Block(nn.Module):
    config: SeparableNet
    features: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        config, seen = self.config, inputs.shape[-1]
        outputs = _convolution(config, seen, config.kernel_size, "depthwise", stride=self.stride, groups=seen)(inputs)
        outputs = _norm_and_activation(config, outputs, self.train, "norm_0")
        outputs = _convolution(config, self.features, 1, "pointwise")(outputs)
        return _norm_and_activation(config, outputs, self.train, "norm_1")


def _convolution(config: SeparableNet, features: int, kernel_size: int, name: str, *, stride=1, groups=1) -> nn.Module:
    return Convolution(
        features,
        kernel_size,
        stride=stride,
        groups=groups,
        use_bias=config.norm is None,  # a norm has one of its own
        kernel_init=initializer(config.activation, config.initializer),
        name=name,
    )


def _norm_and_activation(config: SeparableNet, outputs: Array, train: bool, name: str) -> Array:
    if config.norm is not None:
        outputs = norm_layer(config.norm, outputs.shape[-1], train, name=name)(outputs)
    return activate(config.activation, outputs)
