"""Examples made harder in ways that leave their meaning as it is, each at several strengths.

    for corruption in corruptions(loaded):                    # of pictures: rotation, shift, noise, blur, contrast
        for strength in corruption.strengths:
            harder = corrupt(corruption, strength, loaded, raw, labels, first=0)

Pictures are turned, shifted, blurred, made noisy and pale (after Hendrycks and Dietterich, 2019); other numbers are
made noisy or go missing; of tokens some are exchanged. Strength 0 is the identity. Every random choice is a function of
the corruption and the example's place in its split, so that all networks are judged on the same examples.

Strengths are in per cent, of what stands in `per`, or in degrees; so they mean the same for pictures of any size.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.data.augmentation import affine_source, sample
from research.data.base import Loaded, Normalisation, of_examples


class Ground(NamedTuple):
    """What a corruption needs to know of the data, in the units of its raw inputs."""

    fill: Any
    """What lies outside of a picture, and what stands for a missing number: one number, or one for each feature."""
    spread: Any
    """What noise is measured in: the range of a picture, the deviation of other numbers."""
    low: float
    high: float


class Corruption(NamedTuple):
    """One way to make examples harder."""

    name: str
    strengths: tuple[int, ...]
    per: str
    """What a strength is, in words: "degrees either way", "% of the side"."""
    change: Callable[[Array, float, Array, Ground], Array]
    """(inputs, strength, keys, ground) -> inputs, a key for each example."""


def corruptions(loaded: Loaded) -> tuple[Corruption, ...]:
    """Those that make sense for the data."""
    if loaded.spec.tokens is not None:
        return OF_TOKENS
    if loaded.kind == "image" and len(loaded.spec.shape) == 3:
        return OF_PICTURES
    return OF_NUMBERS


def corrupt(
    corruption: Corruption, strength: float, loaded: Loaded, raw: np.ndarray, labels: np.ndarray, first: int = 0
) -> np.ndarray:
    """Raw inputs (batch, *shape), made harder, of floats or tokens; `first` is where in the split they begin."""
    inputs = np.asarray(raw, np.float32 if loaded.spec.tokens is None else np.int32)
    indices, ground = np.arange(first, first + len(raw)), ground_of(loaded, labels)
    return np.asarray(_change(corruption, inputs, np.float32(strength), indices, ground))


@functools.partial(jax.jit, static_argnums=0)
def _change(corruption: Corruption, inputs: Array, strength: Array, indices: Array, ground: Ground) -> Array:
    """One program for all strengths."""
    key = jax.random.fold_in(jax.random.key(0), NAMES.index(corruption.name))
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
    return corruption.change(inputs, strength, keys, ground)


def ground_of(loaded: Loaded, labels: np.ndarray) -> Ground:
    """The ground of some examples; tasks may have each its own."""
    if loaded.normalisation is None:
        return Ground(*np.float32((0, 1, 0, loaded.spec.tokens)))
    own: Normalisation = of_examples(loaded.normalisation, loaded.spec, np.asarray(labels))
    mean, deviation = (np.asarray(value) / np.float32(own.scale) for value in (own.mean, own.deviation))
    if loaded.maximum is None:
        return Ground(mean, deviation, *np.float32((-np.inf, np.inf)))
    white = np.float32(loaded.maximum)
    fill = {"dark": np.float32(0), "light": white}.get(loaded.background, mean)
    return Ground(fill, white, np.float32(0), white)


# ---------------------------------------------------------------------------------------------------------------------
# Of pictures (batch, height, width, features)

Pictures = Float[Array, "batch height width features"]


def rotate(pictures: Pictures, degrees: float, keys: Array, ground: Ground) -> Pictures:
    """Turned about the centre, one half of the examples either way."""
    still = jnp.zeros(len(pictures))
    return _moved(pictures, _sign(keys) * degrees, still, still, ground)


def shift(pictures: Pictures, percent: float, keys: Array, ground: Ground) -> Pictures:
    """Moved by a share of the side, in a direction that each example has of its own."""
    height, width = pictures.shape[1:3]
    angle = jax.vmap(jax.random.uniform)(keys) * 2 * np.pi
    down, right = (percent / 100 * size * f(angle) for size, f in ((height, jnp.sin), (width, jnp.cos)))
    return _moved(pictures, jnp.zeros(len(pictures)), down, right, ground)


def _moved(pictures, angle, down, right, ground):
    fill = jnp.asarray(ground.fill, jnp.float32)
    source = affine_source(angle, jnp.ones(len(pictures)), down, right, *pictures.shape[1:3])
    if fill.ndim < 2:
        return sample(pictures, *source, fill)
    return sample(pictures - fill, *source) + fill  # of tasks that have each its own


def blur(pictures: Pictures, percent: float, keys: Array, ground: Ground) -> Pictures:
    """Under a Gaussian whose deviation is a share of the side; the picture goes on beyond its edges as it ends."""
    outputs = pictures
    for axis in (1, 2):
        weights = _gaussian(pictures.shape[axis], percent / 100 * pictures.shape[axis])
        outputs = jnp.moveaxis(jnp.tensordot(outputs, weights, axes=(axis, 1)), -1, axis)
    return outputs


def _gaussian(size: int, deviation: Array) -> Float[Array, "size size"]:
    """How much of each pixel goes into each; rows sum to 1. Pixels outside are those at the edge."""
    offsets = np.arange(-size, size + 1)
    kernel = jnp.where(deviation > 0, jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(deviation, 1e-6))), offsets == 0)
    places = np.clip(np.arange(size)[:, None] + offsets, 0, size - 1)
    return jnp.einsum("o,iop->ip", kernel / kernel.sum(), jax.nn.one_hot(places, size))


def fade(pictures: Pictures, percent: float, keys: Array, ground: Ground) -> Pictures:
    """With a share of the contrast gone: every pixel nearer to the picture's mean."""
    mean = pictures.mean(axis=(1, 2), keepdims=True)
    return pictures + percent / 100 * (mean - pictures)


# ---------------------------------------------------------------------------------------------------------------------
# Of any numbers, and of tokens


def add_noise(inputs: Float[Array, "batch *shape"], percent: float, keys: Array, ground: Ground) -> Array:
    """With normal noise, clipped to what the inputs can be."""
    noise = jax.vmap(lambda key: jax.random.normal(key, inputs.shape[1:]))(keys)
    noisy = inputs + percent / 100 * jnp.asarray(ground.spread, jnp.float32) * noise
    return jnp.clip(noisy, jnp.minimum(ground.low, inputs), jnp.maximum(ground.high, inputs))


def lose(inputs: Float[Array, "batch *shape"], percent: float, keys: Array, ground: Ground) -> Array:
    """With a share of the numbers missing: the training mean stands in their place."""
    is_lost = jax.vmap(lambda key: jax.random.uniform(key, inputs.shape[1:]))(keys) < percent / 100
    return jnp.where(is_lost, jnp.asarray(ground.fill, jnp.float32), inputs)


def exchange(tokens: Int[Array, "batch positions"], percent: float, keys: Array, ground: Ground) -> Array:
    """With a share of the tokens replaced by one from another place of the same example."""

    def one(key, tokens):
        which, where = jax.random.split(key)
        others = tokens[jax.random.randint(where, tokens.shape, 0, len(tokens))]
        return jnp.where(jax.random.uniform(which, tokens.shape) < percent / 100, others, tokens)

    return jax.vmap(one)(keys, tokens)


def _sign(keys: Array) -> Array:
    """(batch,) of 1 and -1."""
    return jnp.where(jax.vmap(jax.random.bernoulli)(keys), 1.0, -1.0)


OF_PICTURES = (
    Corruption("rotation", (5, 15, 30, 45), "degrees either way", rotate),
    Corruption("shift", (5, 10, 20, 30), "% of the side, in any direction", shift),
    Corruption("noise", (5, 10, 20, 40), "% of the range, normal", add_noise),
    Corruption("blur", (2, 5, 10, 15), "% of the side, Gaussian", blur),
    Corruption("contrast", (25, 50, 75, 90), "% of the contrast lost", fade),
)
OF_NUMBERS = (
    Corruption("noise", (5, 10, 20, 50, 100), "% of a feature's deviation, normal", add_noise),
    Corruption("missing", (5, 10, 20, 40), "% of the numbers replaced by their mean", lose),
)
OF_TOKENS = (Corruption("exchange", (1, 5, 10, 20, 40), "% of the tokens replaced by others of the example", exchange),)
NAMES = ("rotation", "shift", "noise", "blur", "contrast", "missing", "exchange")
"""Every kind has a place here, from which its random numbers follow: add new ones at the end."""
