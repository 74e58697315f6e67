"""BERT (Devlin et al., 2019): a transformer that reads a text in both directions.

BERT()                                           109,482,240 parameters with 30,522 tokens, pooler included, head not
BERT(depth=2, width=64, heads=4, context=128)    for bytes

tokens/embedding, positions/embedding, segments/embedding, norm, block_00/attention/query, ..., block_00/norm_0, ...,
then pooler and head, or with head="tokens" dense, head_norm and bias                              see `transformer`
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
from research.models.layers import Activation, Dense, Dropout, Initializer, activate, initializer
from research.models.norms import TokenNorm, token_norm
from research.models.transformer import check_tokens, embedding, head_problems, run_blocks
from research.ops.dense import add_bias
from research.spec import Spec

SEGMENTS = 2  # of a pair of sentences


@config
class BERT(Model):
    """An encoder of tokens (batch, positions) to the logits of a class, or of the token at each position."""

    depth: int = structure(12, "blocks", within="[1, inf)")
    width: int = structure(768, "features of a token", within="[1, inf)")
    heads: int = structure(12, "of attention in each block", within="[1, inf)")
    context: int = structure(512, "positions of the longest sequence", within="[1, inf)")
    expansion: int = structure(
        4, "width of a block's hidden dense layer, as a multiple of a token's", within="[1, inf)"
    )
    head: Literal["class", "tokens"] = structure(
        "class", "classes from the first token, pooled; or each position's token, for masked tokens (a tied head)"
    )
    padding: int | None = structure(
        None, "the token that fills up short sequences, which no other may see", within="[0, inf)"
    )
    separator: int | None = structure(
        None,
        "the token that ends a sentence: what is after the first one is of the second segment; nothing is if None",
        within="[0, inf)",
    )
    activation: Activation = structure("gelu", "between the two dense layers of a block")
    norm: TokenNorm = structure("layer", "after embedding, attention and the dense layers")
    epsilon: float = leaf(1e-12, "added to the variance in norms", within="[0, inf)")
    initializer: Initializer = structure("normal", "of the kernels")
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
        """Raises UserError where the data is no tokens or too long, or classes are no tokens though the head is."""
        check_tokens("BERT", spec, self.context)
        for name, token in (("padding", self.padding), ("separator", self.separator)):
            if token is not None and token >= spec.tokens:
                raise UserError(f"BERT: {name} {token} is no token; there are {spec.tokens}, from 0")
        if self.head == "tokens" and spec.classes != spec.tokens:
            raise UserError(f"BERT tells which of {spec.tokens} tokens it is; the data has {spec.classes} classes")
        return _BERT(self, spec.tokens, spec.classes)


class _BERT(nn.Module):
    config: BERT
    vocabulary: int
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        config = self.config
        initial = initializer(config.activation, config.initializer)
        tokens = embedding(self.vocabulary, config, "tokens")
        outputs = tokens(inputs)
        outputs += embedding(config.context, config, "positions")(jnp.arange(inputs.shape[1]))
        outputs += embedding(SEGMENTS, config, "segments")(self._segments(inputs))
        outputs = self._drop(token_norm(config.norm, config.epsilon, name="norm")(outputs), train)
        visible = None if config.padding is None else inputs != config.padding
        outputs = run_blocks(self, config, outputs, train, norm_first=False, visible=visible)
        if config.head == "class":
            pooled = jnp.tanh(nn.Dense(config.width, kernel_init=initial, name="pooler")(outputs[:, 0]))
            return nn.Dense(self.classes, kernel_init=initial, name="head")(pooled)
        outputs = activate(config.activation, Dense(config.width, kernel_init=initial, name="dense")(outputs))
        outputs = token_norm(config.norm, config.epsilon, name="head_norm")(outputs)
        bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        return add_bias(*promote_dtype(tokens.attend(outputs), bias))

    def _segments(self, inputs: Array) -> Array:
        """0 up to the first separator and on it, 1 after it; (1, positions) where it is 0 for all."""
        if self.config.separator is None:
            return jnp.zeros((1, inputs.shape[1]), jnp.int32)
        is_separator = (inputs == self.config.separator).astype(jnp.int32)
        return jnp.minimum(jnp.cumsum(is_separator, axis=1) - is_separator, 1)

    def _drop(self, outputs: Array, train: bool) -> Array:
        rate = self.config.dropout
        return outputs if rate is None else Dropout(rate, name="dropout")(outputs, train)
