"""The multilayer perceptron: dense layers of one width, plain or residual.

MLP(depth=4, width=256)    block_00/dense, ..., block_03/dense, head
"""

import flax.linen as nn
from jax import Array

from research.config import config, leaf, structure
from research.models.base import Model
from research.models.layers import Activation, Dropout, Initializer, activate, initializer
from research.models.norms import Norm, norm
from research.models.stack import Keys, keys_of, stack
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
    initializer: Initializer | None = structure(None, "of the kernels; the one that suits the activation if None")
    dropout: float | None = leaf(None, "share of features dropped at the end of each block", within="[0, 1)")
    remat: bool = structure(False, "recompute blocks in the backward pass, to save memory")
    scan: bool = structure(False, "store and run the blocks but the first stacked: compiled once for any depth")

    def stacks(self) -> dict[str, range]:
        return {"block": range(1, self.depth)} if self.scan and self.depth > 1 else {}

    def counted(self) -> str | None:
        return None if self.scan or self.remat else "depth"

    def module(self, spec: Spec) -> nn.Module:
        return _MLP(self, spec.classes)


class _MLP(nn.Module):
    config: MLP
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        config = self.config
        outputs = inputs.reshape(inputs.shape[0], -1)
        keys = keys_of(self, dropout=train and config.dropout is not None)
        blocks = range(config.depth)
        for indices, skip, scan in ((blocks[:1], False, False), (blocks[1:], config.residual, config.scan)):
            arguments = {"config": config, "skip": skip, "train": train}
            how = {"depth": config.depth, "keys": keys, "scan": scan, "remat": config.remat}
            outputs = stack(self, _Block, arguments, outputs, indices, **how)
        return nn.Dense(self.classes, name="head")(outputs)


class _Block(nn.Module):
    config: MLP
    skip: bool
    train: bool

    @nn.compact
    def __call__(self, inputs: Array, keys: Keys) -> Array:
        config = self.config
        initial = keys.initializer(initializer(config.activation, config.initializer), "dense")
        use_bias = config.norm != "batch"  # batch norm would subtract it
        outputs = nn.Dense(config.width, use_bias=use_bias, kernel_init=initial, name="dense")(inputs)
        if config.norm is not None:
            outputs = norm(config.norm, config.width, self.train, name="norm")(outputs)
        outputs = activate(config.activation, outputs)
        if config.dropout is not None:
            outputs = Dropout(config.dropout, name="dropout")(outputs, self.train, keys.of_dropout("dropout"))
        return inputs + outputs if self.skip else outputs
