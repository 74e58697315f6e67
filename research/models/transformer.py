"""The block of transformers (Vaswani et al., 2017), which ViT, GPT and BERT have in common.

    inputs + attention(norm_0(inputs)), then + feed_forward(norm_1(...))         norm_first: ViT, GPT
    norm_0(inputs + attention(inputs)), then norm_1(... + feed_forward(...))     otherwise: BERT

block_03/norm_0, block_03/attention/query, .../key, .../value, .../output, block_03/norm_1, block_03/dense_0,
block_03/dense_1

Its config is whichever of the three it is in; the fields that it reads are those of `Blocks`.
"""

from collections.abc import Iterator
from typing import Protocol

import flax.linen as nn
from jax import Array

from research.errors import UserError
from research.models.layers import (
    DEVIATION,
    Activation,
    Dropout,
    Initializer,
    TokenNorm,
    activate,
    initializer,
    token_norm,
)
from research.models.stack import Keys, keys_of, stack
from research.ops.attention import attention
from research.spec import Spec


class Blocks(Protocol):
    """What a config says about its blocks."""

    depth: int
    width: int
    heads: int
    expansion: int
    activation: Activation
    norm: TokenNorm
    epsilon: float | Array
    initializer: Initializer
    dropout: float | Array | None
    scan: bool
    remat: bool


def head_problems(config: Blocks) -> Iterator[tuple[str, str]]:
    """What `problems()` of a config with attention finds."""
    if config.width % config.heads:
        yield "heads", f"{config.heads} heads do not divide the width of {config.width}"


def run_blocks(
    module: nn.Module,
    config: Blocks,
    tokens: Array,
    train: bool,
    *,
    norm_first: bool,
    causal: bool = False,
    visible: Array | None = None,
) -> Array:
    """All blocks of a config, within a module's `__call__`: (batch, positions, width) -> the same.

    visible: (batch, positions), which tokens there are; the others are padding.
    """
    keys = keys_of(module, dropout=train and config.dropout is not None)
    arguments = {"config": config, "train": train, "norm_first": norm_first, "causal": causal}
    indices, shared = range(config.depth), (visible,)
    how = {"depth": config.depth, "keys": keys, "shared": shared, "scan": config.scan, "remat": config.remat}
    return stack(Block, arguments, tokens, indices, **how)


def check_tokens(name: str, spec: Spec, context: int | None = None) -> None:
    """Raises UserError unless examples are sequences of tokens, and no longer than the context."""
    if spec.tokens is None or len(spec.shape) != 1:
        what = "numbers" if spec.tokens is None else "tokens"
        raise UserError(f"{name} needs inputs of tokens (positions,); these are {what} {spec.shape}")
    if context is not None and spec.shape[0] > context:
        raise UserError(f"{name}: inputs {spec.shape} are longer than the context of {context} positions")


def embedding(count: int, config: Blocks, name: str) -> nn.Embed:
    """Learned vectors of `count` tokens or positions."""
    return nn.Embed(count, config.width, embedding_init=nn.initializers.normal(DEVIATION), name=name)


class Block(nn.Module):
    """Attention and two dense layers, each with a norm and a shortcut."""

    config: Blocks
    train: bool
    norm_first: bool
    causal: bool

    @nn.compact
    def __call__(self, inputs: Array, keys: Keys, visible: Array | None) -> Array:
        config = self.config
        outputs = inputs
        for index in range(2):
            normed = token_norm(config.norm, config.epsilon, name=f"norm_{index}")
            seen = normed(outputs) if self.norm_first else outputs
            added = self._attention(seen, keys, visible) if index == 0 else self._feed_forward(seen, keys)
            if config.dropout is not None:
                layer = f"dropout_{index}"
                added = Dropout(config.dropout, name=layer)(added, self.train, keys.of_dropout(layer))
            outputs = outputs + added if self.norm_first else normed(outputs + added)
        return outputs

    def _attention(self, tokens: Array, keys: Keys, visible: Array | None) -> Array:
        return Attention(self.config, self.causal, name="attention")(tokens, keys, visible)

    def _feed_forward(self, tokens: Array, keys: Keys) -> Array:
        config = self.config
        hidden = _dense(config, config.width * config.expansion, "dense_0", keys)(tokens)
        return _dense(config, config.width, "dense_1", keys)(activate(config.activation, hidden))


class Attention(nn.Module):
    """Self-attention of several heads: (batch, positions, width) -> the same."""

    config: Blocks
    causal: bool

    @nn.compact
    def __call__(self, tokens: Array, keys: Keys, visible: Array | None) -> Array:
        config = self.config
        by_head = (*tokens.shape[:-1], config.heads, config.width // config.heads)
        query, key, value = (
            _dense(config, config.width, name, keys)(tokens).reshape(by_head) for name in ("query", "key", "value")
        )
        outputs = attention(query, key, value, causal=self.causal, visible=visible)
        return _dense(config, config.width, "output", keys)(outputs.reshape(tokens.shape))


def _dense(config: Blocks, features: int, name: str, keys: Keys) -> nn.Dense:
    initial = keys.initializer(initializer(config.activation, config.initializer), name)
    return nn.Dense(features, kernel_init=initial, name=name)
