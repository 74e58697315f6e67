"""The networks of `training_subjects` in Flax, as its documentation would write them.

network(workload)    (batch, height, width, features) or tokens to logits
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from training_subjects import Workload


def network(workload: Workload) -> nn.Module:
    """The network of a workload."""
    families = {"convnet": ConvNet, "mlp": MLP, "resnet": ResNet, "gpt": GPT, "vit": ViT}
    return families[workload.family](classes=workload.classes, dtype=jnp.dtype(workload.precision), **workload.sizes)


class MLP(nn.Module):
    """Dense layers of one width, each with ReLU, and the head."""

    depth: int
    width: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype)(x))
        return nn.Dense(self.classes, dtype=self.dtype)(x)


class ConvNet(nn.Module):
    """Convolutions, each with ReLU and pooling; dense layers with ReLU; and the head."""

    features: tuple[int, ...]
    kernel_size: int
    hidden: tuple[int, ...]
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        for features in self.features:
            x = nn.relu(nn.Conv(features, (self.kernel_size,) * 2, dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        for features in self.hidden:
            x = nn.relu(nn.Dense(features, dtype=self.dtype)(x))
        return nn.Dense(self.classes, dtype=self.dtype)(x)


class ResNet(nn.Module):
    """Of 6 n + 2 layers for small pictures, with group norms and shortcuts without parameters."""

    depth: int
    norm: str
    classes: int
    dtype: Any
    width: int = 16

    @nn.compact
    def __call__(self, x):
        convolution = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1, use_bias=False, dtype=self.dtype)

        def normed(x):
            return nn.GroupNorm(math.gcd(8, x.shape[-1]), dtype=self.dtype)(x)

        x = nn.relu(normed(convolution(self.width)(x)))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                features, stride = self.width << stage, 2 if stage and not block else 1
                y = nn.relu(normed(convolution(features, strides=stride)(x)))
                y = normed(convolution(features)(y))
                if x.shape != y.shape:
                    more = features - x.shape[-1]
                    x = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, more)))
                x = nn.relu(x + y)
        return nn.Dense(self.classes, dtype=self.dtype)(x.mean((1, 2)))


class Block(nn.Module):
    """Attention and two dense layers, each after a norm and beside a shortcut."""

    heads: int
    exact: bool
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x, mask=None):
        width, normed = x.shape[-1], functools.partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads, dtype=self.dtype)(normed()(x), mask=mask)
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype)(normed()(x)), approximate=not self.exact)
        return x + nn.Dense(width, dtype=self.dtype)(y)


class GPT(nn.Module):
    """GPT-2, its head tied to the embedding of tokens."""

    depth: int
    width: int
    heads: int
    context: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, tokens):
        embedding = nn.Embed(self.classes, self.width, dtype=self.dtype)
        x = embedding(tokens) + nn.Embed(self.context, self.width, dtype=self.dtype)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.depth):
            x = Block(self.heads, exact=False, epsilon=1e-5, dtype=self.dtype)(x, mask)
        return embedding.attend(nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)(x))


class ViT(nn.Module):
    """The Vision Transformer, with a class token."""

    depth: int
    width: int
    heads: int
    patch: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        patch = (self.patch, self.patch)
        x = nn.Conv(self.width, patch, strides=patch, padding="VALID", dtype=self.dtype)(x)
        x = x.reshape(len(x), -1, self.width)
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        for _ in range(self.depth):
            x = Block(self.heads, exact=True, epsilon=1e-12, dtype=self.dtype)(x)
        return nn.Dense(self.classes, dtype=self.dtype)(nn.LayerNorm(epsilon=1e-12, dtype=self.dtype)(x)[:, 0])
