"""VGG (Simonyan and Zisserman, 2015): 3x3 convolutions, one after another, in stages that halve the picture.

VGG(depth=16)    138,357,544 parameters at 224x224x3 with 1000 classes

stage_0/convolution_0, stage_0/convolution_1, stage_1/convolution_0, ..., dense_0, dense_1, head

For small pictures: VGG(depth=11, width=16, hidden=(64,)). Five stages halve 32x32 down to one position.
"""

from collections.abc import Iterator

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
from research.ops.pooling import max_pool
from research.spec import Spec

# Table 1 of the paper: convolutions in each stage; its three dense layers make up the depth.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDER = (1, 2, 4, 8, 8)


@config
class VGG(Model):
    """A plain convolutional network: five stages of 3x3 convolutions, each ended by pooling, and dense layers."""

    depth: int = structure(16, "11, 13, 16 or 19: convolutions, and the three dense layers of the paper")
    width: int = structure(
        64, "features of the first stage; the others have 2, 4, 8 and 8 times as many", within="[1, inf)"
    )
    hidden: tuple[int, ...] = structure((4096, 4096), "features of the dense layers before the last", within="[1, inf)")
    activation: Activation = structure("relu", "what follows each convolution and hidden dense layer")
    norm: Norm | None = structure(None, "normalisation between a convolution and its activation")
    initializer: Initializer | None = structure(None, "of the kernels; the one that suits the activation if None")
    dropout: float | None = leaf(None, "share of features dropped after each hidden dense layer", within="[0, 1)")
    remat: bool = structure(False, "recompute stages in the backward pass, to save memory")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.depth not in STAGES:
            yield "depth", f"{self.depth} is none of {', '.join(map(str, STAGES))}"

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where five times pooling would leave nothing."""
        check_positions("VGG", spec.shape)
        least = 2 ** len(WIDER)
        if min(spec.shape[:-1]) < least:
            raise UserError(
                f"VGG halves inputs {len(WIDER)} times and needs at least {least} positions in each "
                f"dimension; these have {spec.shape}"
            )
        return _VGG(self, spec.classes)


class _VGG(nn.Module):
    config: VGG
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        config, outputs = self.config, inputs
        stage = nn.remat(_Stage) if config.remat else _Stage
        for index, (count, wider) in enumerate(zip(STAGES[config.depth], WIDER, strict=True)):
            outputs = stage(config, count, config.width * wider, train, name=f"stage_{index}")(outputs)
        outputs = outputs.reshape(outputs.shape[0], -1)
        initial = initializer(config.activation, config.initializer)
        for index, features in enumerate(config.hidden):
            outputs = activate(
                config.activation, nn.Dense(features, kernel_init=initial, name=f"dense_{index}")(outputs)
            )
            if config.dropout is not None:
                outputs = Dropout(config.dropout, name=f"dropout_{index}")(outputs, train)
        return nn.Dense(self.classes, name="head")(outputs)


class _Stage(nn.Module):
    config: VGG
    count: int
    features: int
    train: bool

    @nn.compact
    def __call__(self, outputs: Array) -> Array:
        outputs = convolutions(self, self.count, self.config, outputs, self.features, self.train, kernel_size=3)
        return max_pool(outputs, 2)
