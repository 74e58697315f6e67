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
import jax
import jax.numpy as jnp
from jax import Array

from research.errors import UserError
from research.models.layers import DEVIATION, Activation, Dense, Dropout, Initializer, activate, initializer
from research.models.norms import TokenNorm, token_norm
from research.models.stack import Keys, keys_of, stack
from research.ops.attention import attend, attention, attention_weights
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
    start: Array | None = None,
    shortcut_scale: float | Array = 1.0,
) -> Array:
    """All blocks of a config, within a module's `__call__`: (batch, positions, width) -> the same.

    visible: (batch, positions), which tokens there are; the others are padding.
    start: where the first of the tokens stands, if those before it are remembered; see `Attention`.
    shortcut_scale: of the initial kernels of the two layers in each block whose outputs are added to the shortcut.
    """
    keys = keys_of(module, dropout=train and config.dropout is not None)
    arguments = {
        "config": config,
        "train": train,
        "norm_first": norm_first,
        "causal": causal,
        "shortcut_scale": shortcut_scale,
    }
    indices, shared = range(config.depth), (visible, start)
    how = {"depth": config.depth, "keys": keys, "shared": shared, "scan": config.scan, "remat": config.remat}
    return stack(module, Block, arguments, tokens, indices, **how)


def check_tokens(name: str, spec: Spec, context: int | None = None) -> None:
    """Raises UserError unless examples are sequences of tokens, and no longer than the context."""
    if spec.tokens is None or len(spec.shape) != 1:
        what = "numbers" if spec.tokens is None else "tokens"
        raise UserError(f"{name} needs inputs of tokens (positions,); these are {what} {spec.shape}")
    if context is not None and spec.shape[0] > context:
        raise UserError(f"{name}: inputs {spec.shape} are longer than the context of {context} positions")


def embedding(count: int, config: Blocks, name: str, deviation: float = DEVIATION) -> nn.Embed:
    """Learned vectors of `count` tokens or positions."""
    return nn.Embed(count, config.width, embedding_init=nn.initializers.normal(deviation), name=name)


class Block(nn.Module):
    """Attention and two dense layers, each with a norm and a shortcut."""

    config: Blocks
    train: bool
    norm_first: bool
    causal: bool
    shortcut_scale: float | Array

    @nn.compact
    def __call__(self, inputs: Array, keys: Keys, visible: Array | None, start: Array | None) -> Array:
        config = self.config
        outputs = inputs
        for index in range(2):
            normed = token_norm(config.norm, config.epsilon, name=f"norm_{index}")
            seen = normed(outputs) if self.norm_first else outputs
            added = self._attention(seen, keys, visible, start) if index == 0 else self._feed_forward(seen, keys)
            if config.dropout is not None:
                layer = f"dropout_{index}"
                added = Dropout(config.dropout, name=layer)(added, self.train, keys.of_dropout(layer))
            outputs = outputs + added if self.norm_first else normed(outputs + added)
        return outputs

    def _attention(self, tokens: Array, keys: Keys, visible: Array | None, start: Array | None) -> Array:
        layer = Attention(self.config, self.causal, self.shortcut_scale, name="attention")
        return layer(tokens, keys, visible, start)

    def _feed_forward(self, tokens: Array, keys: Keys) -> Array:
        config = self.config
        hidden = _dense(config, config.width * config.expansion, "dense_0", keys)(tokens)
        return _dense(config, config.width, "dense_1", keys, self.shortcut_scale)(activate(config.activation, hidden))


class Attention(nn.Module):
    """Self-attention of several heads: (batch, positions, width) -> the same.

    With `start`, the keys and values of the tokens, the first of which stands at this position, are written to the
    collection "cache", (batch, config.context, heads, features) each. A single token then sees all that is remembered
    up to itself. Several tokens see each other alone, so they must be the first.

    Its weights (batch, heads, queries, keys) can be asked for as the features block_03/attention/weights.
    """

    config: Blocks
    causal: bool
    shortcut_scale: float | Array

    @nn.compact
    def __call__(self, tokens: Array, keys: Keys, visible: Array | None, start: Array | None) -> Array:
        config = self.config
        by_head = (*tokens.shape[:-1], config.heads, config.width // config.heads)
        query, key, value = (
            _dense(config, config.width, name, keys)(tokens).reshape(by_head) for name in ("query", "key", "value")
        )
        causal = self.causal
        if start is not None:
            remembered = [self._remember(name, new, start) for name, new in (("keys", key), ("values", value))]
            if tokens.shape[1] == 1:
                key, value = remembered
                causal, visible = False, jnp.broadcast_to(jnp.arange(key.shape[1]) <= start, key.shape[:2])
        if self.is_mutable_collection("intermediates"):  # where features are asked for
            weights = attention_weights(query, key, causal=causal, visible=visible)
            self.sow("intermediates", "weights", weights)
            outputs = attend(weights, value)
        else:
            outputs = attention(query, key, value, causal=causal, visible=visible)
        return _dense(config, config.width, "output", keys, self.shortcut_scale)(outputs.reshape(tokens.shape))

    def _remember(self, name: str, new: Array, start: Array) -> Array:
        """The keys or values (batch, context, heads, features) so far, with those of the new tokens."""
        shape = (new.shape[0], self.config.context, *new.shape[2:])
        cache = self.variable("cache", name, jnp.zeros, shape, new.dtype)
        cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, new, start, axis=1)
        return cache.value


def _dense(config: Blocks, features: int, name: str, keys: Keys, scale: float | Array = 1.0) -> Dense:
    """A layer of a block; `scale` is of its initial kernel."""
    initial = initializer(config.activation, config.initializer)
    is_plain = isinstance(scale, float) and scale == 1.0
    scaled = initial if is_plain else lambda *arguments: scale * initial(*arguments)
    return Dense(features, kernel_init=keys.initializer(scaled, name), name=name)
