"""The plain convolutional network, one for signals, images and volumes: the inputs' shape decides.

ConvNet(features=(16, 32), hidden=(64,))

stage_0/convolution_0, stage_1/convolution_0, dense_0, head       each stage ends with pooling, which halves sizes
"""

from collections.abc import Iterator
from typing import Literal

import flax.linen as nn
from jax import Array

from research.config import config, leaf, structure
from research.errors import UserError
from research.models.base import Model
from research.models.layers import (
    Activation,
    Dropout,
    Initializer,
    activate,
    check_positions,
    convolutions,
    initializer,
)
from research.models.norms import Norm
from research.ops.pooling import average_pool, global_average_pool, max_pool
from research.spec import Spec


@config
class ConvNet(Model):
    """Stages of convolutions and pooling, then dense layers, then the head."""

    features: tuple[int, ...] = structure((32, 64), "features of each stage, and so how many stages", within="[1, inf)")
    convolutions: int = structure(1, "convolutions in each stage", within="[1, inf)")
    kernel_size: int = structure(3, "positions a kernel covers in each dimension", within="[1, inf)")
    padding: Literal["SAME", "VALID"] = structure("SAME", "zeros around the inputs to keep their size, or none")
    residual: bool = structure(False, "add each convolution's input to its output, where their shapes agree")
    pooling: Literal["max", "average"] | None = structure("max", "what ends each stage: windows of 2, stride 2")
    head: Literal["flatten", "average"] = structure(
        "flatten",
        "how the last stage's positions become one vector: side by side, or averaged (global average pooling)",
    )
    hidden: tuple[int, ...] = structure((), "features of the dense layers before the last", within="[1, inf)")
    activation: Activation = structure("relu", "what follows each convolution and hidden dense layer")
    norm: Norm | None = structure(None, "normalisation between a convolution and its activation")
    initializer: Initializer | None = structure(None, "of the kernels; the one that suits the activation if None")
    dropout: float | None = leaf(None, "share of features dropped before each dense layer", within="[0, 1)")
    remat: bool = structure(False, "recompute stages in the backward pass, to save memory")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.features:
            yield "features", "at least one stage is needed"

    def counted(self) -> str | None:
        return "convolutions" if self.padding == "SAME" and not self.remat else None

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data has no positions, or pooling would leave none."""
        check_positions("ConvNet", spec.shape)
        sizes = spec.shape[:-1]
        lost = self.convolutions * (self.kernel_size - 1) if self.padding == "VALID" else 0
        for stage in range(len(self.features)):
            room = f"inputs of {spec.shape} have room for {stage} {'stage' if stage == 1 else 'stages'}"
            if min(sizes) <= lost:
                raise UserError(f"ConvNet: stage_{stage} would shrink {sizes} by {lost} to nothing; {room}")
            sizes = tuple(size - lost for size in sizes)
            if self.pooling and min(sizes) < 2:
                raise UserError(f"ConvNet: stage_{stage} would pool {sizes} to nothing; {room} with pooling")
            sizes = tuple(size // 2 for size in sizes) if self.pooling else sizes
        return _ConvNet(self, spec.classes)


class _ConvNet(nn.Module):
    config: ConvNet
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        config, outputs = self.config, inputs
        stage = nn.remat(_Stage) if config.remat else _Stage
        for index, features in enumerate(config.features):
            outputs = stage(config, features, train, name=f"stage_{index}")(outputs)
        outputs = global_average_pool(outputs) if config.head == "average" else outputs.reshape(outputs.shape[0], -1)
        initial = initializer(config.activation, config.initializer)
        for index, features in enumerate(config.hidden):
            outputs = self._drop(outputs, train, index)
            outputs = nn.Dense(features, kernel_init=initial, name=f"dense_{index}")(outputs)
            outputs = activate(config.activation, outputs)
        return nn.Dense(self.classes, name="head")(self._drop(outputs, train, len(config.hidden)))

    def _drop(self, outputs: Array, train: bool, index: int) -> Array:
        rate = self.config.dropout
        return outputs if rate is None else Dropout(rate, name=f"dropout_{index}")(outputs, train)


class _Stage(nn.Module):
    config: ConvNet
    features: int
    train: bool

    @nn.compact
    def __call__(self, outputs: Array) -> Array:
        config = self.config
        how = {"kernel_size": config.kernel_size, "padding": config.padding, "residual": config.residual}
        outputs = convolutions(self, config.convolutions, config, outputs, self.features, self.train, **how)
        match config.pooling:
            case "max":
                return max_pool(outputs, 2)
            case "average":
                return average_pool(outputs, 2)
        return outputs
