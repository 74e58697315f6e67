"""The Vision Transformer (Dosovitskiy et al., 2021): a picture as a sequence of patches.

vit("B")                                    86,567,656 parameters at 224x224x3 with 1000 classes; vit("L") 304,326,632
ViT(depth=4, width=64, heads=4, patch=2)    for small pictures

embedding, class_token, positions, block_00/norm_0, block_00/attention/query, ..., norm, head      see `transformer`
"""

from collections.abc import Iterator
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array

from research.config import config, leaf, structure
from research.errors import UserError
from research.models.base import Model
from research.models.layers import (
    DEVIATION,
    Activation,
    Convolution,
    Dropout,
    Initializer,
    check_positions,
    initializer,
)
from research.models.norms import TokenNorm, token_norm
from research.models.transformer import head_problems, run_blocks
from research.spec import Spec


@config
class ViT(Model):
    """Patches, a class token and learned positions through transformer blocks; signals and volumes work as well."""

    depth: int = structure(12, "blocks", within="[1, inf)")
    width: int = structure(192, "features of a token", within="[1, inf)")
    heads: int = structure(3, "of attention in each block", within="[1, inf)")
    patch: int = structure(16, "positions of a patch in each dimension", within="[1, inf)")
    expansion: int = structure(
        4, "features of the hidden dense layer of a block, per feature of a token", within="[1, inf)"
    )
    pooling: Literal["class", "average"] = structure("class", "what the head sees: a token of its own, or the mean")
    activation: Activation = structure("gelu", "between the two dense layers of a block")
    norm: TokenNorm = structure("layer", "before attention, before the dense layers, and before the head")
    epsilon: float = leaf(1e-12, "added to the variance in norms; Google's own weights want 1e-6", within="[0, inf)")
    initializer: Initializer = structure("glorot_uniform", "of the kernels")
    dropout: float | None = leaf(None, "share of features dropped after embedding and each half block", within="[0, 1)")
    scan: bool = structure(False, "store and run the blocks stacked: compiled once for any depth")
    remat: bool = structure(False, "recompute blocks in the backward pass, to save memory")

    def problems(self) -> Iterator[tuple[str, str]]:
        return head_problems(self)

    def stacks(self) -> dict[str, int]:
        return {"block": self.depth} if self.scan else {}

    def counted(self) -> str | None:
        return None if self.scan or self.remat else "depth"

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data has no positions, or does not fall into patches."""
        check_positions("ViT", spec.shape)
        if any(size % self.patch for size in spec.shape[:-1]):
            raise UserError(f"ViT: inputs of {spec.shape} do not fall into patches of {self.patch} positions a side")
        return _ViT(self, spec.classes)


def vit(size: Literal["Ti", "S", "B", "L"], patch: int = 16) -> ViT:
    """The published sizes: Ti and S of Touvron et al. (2021), B and L of Dosovitskiy et al. (2021)."""
    depth, width = {"Ti": (12, 192), "S": (12, 384), "B": (12, 768), "L": (24, 1024)}[size]
    return ViT(depth=depth, width=width, heads=width // 64, patch=patch)


class _ViT(nn.Module):
    config: ViT
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        config, width = self.config, self.config.width
        initial = initializer(config.activation, config.initializer)
        patches = Convolution(
            width, config.patch, stride=config.patch, padding="VALID", kernel_init=initial, name="embedding"
        )(inputs)
        tokens = patches.reshape(patches.shape[0], -1, width)
        if config.pooling == "class":
            token = self.param("class_token", nn.initializers.zeros, (width,))
            tokens, token = promote_dtype(tokens, token)
            tokens = jnp.concatenate([jnp.broadcast_to(token, (tokens.shape[0], 1, width)), tokens], axis=1)
        positions = self.param("positions", nn.initializers.normal(DEVIATION), tokens.shape[1:])
        tokens = jnp.add(*promote_dtype(tokens, positions))
        if config.dropout is not None:
            tokens = Dropout(config.dropout, name="dropout")(tokens, train)
        tokens = run_blocks(self, config, tokens, train, norm_first=True)
        tokens = token_norm(config.norm, config.epsilon, name="norm")(tokens)
        pooled = tokens[:, 0] if config.pooling == "class" else tokens.mean(axis=1)
        return nn.Dense(self.classes, name="head")(pooled)
