"""The multilayer perceptron: dense layers of one width, plain or residual.

MLP(depth=4, width=256)    block_00/dense, ..., block_03/dense, head
"""

import flax.linen as nn
from jax import Array

from research.config import config, leaf, structure
from research.models.base import Model
from research.models.layers import Activation, Dropout, Norm, activate, initializer, norm
from research.spec import Spec


@config
class MLP(Model):
    """Dense blocks of one width, then the head. Inputs of any shape are flattened.

    With inputs of n numbers, width w, depth d > 0 and c classes: (n + 1) w + (d - 1)(w + 1) w + (w + 1) c parameters
    (a norm adds 2 w to each block; batch norm takes the place of the bias).
    """

    depth: int = structure(2, "hidden blocks; 0 is a linear model", within="[0, inf)")
    width: int = structure(128, "features of each hidden block", within="[1, inf)")
    activation: Activation = structure("relu", "what follows each dense layer")
    residual: bool = structure(False, "add each block's input to its output, but for the first, which sets the width")
    norm: Norm | None = structure(None, "normalisation between a dense layer and its activation")
    dropout: float | None = leaf(None, "share of features dropped at the end of each block", within="[0, 1)")
    remat: bool = structure(False, "recompute blocks in the backward pass, to save memory")

    def module(self, spec: Spec) -> nn.Module:
        return _MLP(self, spec.classes)


class _MLP(nn.Module):
    config: MLP
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        outputs = inputs.reshape(inputs.shape[0], -1)
        block = nn.remat(_Block) if self.config.remat else _Block
        for index in range(self.config.depth):
            skip = self.config.residual and index > 0
            outputs = block(self.config, skip, train, name=f"block_{index:02d}")(outputs)
        return nn.Dense(self.classes, name="head")(outputs)


class _Block(nn.Module):
    config: MLP
    skip: bool
    train: bool

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        config = self.config
        use_bias = config.norm != "batch"  # batch norm would subtract it
        dense = nn.Dense(config.width, use_bias=use_bias, kernel_init=initializer(config.activation), name="dense")
        outputs = dense(inputs)
        if config.norm is not None:
            outputs = norm(config.norm, config.width, self.train, name="norm")(outputs)
        outputs = activate(config.activation, outputs)
        if config.dropout is not None:
            outputs = Dropout(config.dropout, name="dropout")(outputs, self.train)
        return inputs + outputs if self.skip else outputs
